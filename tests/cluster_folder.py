"""The test cluster as the tests use it: started once, with an image built for it and clones for its user."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder, draw_picture, make_clip, wait_for

from talkies import media
from talkies.files import file_digest

sys.path.insert(0, str(REPOSITORY / "scripts/testcluster"))
import cluster as testcluster

VENV = "/home/ada/venv"
"""The user's installation without PyTorch, as docs/cluster.md describes it."""
UID = testcluster.USERS["ada"]
SECONDS = "slurm-init-seconds-before-status-checks: "
"""Profile key: how soon Snakemake checks its jobs. Clones check sooner than a real cluster should."""


class Cluster:
    """A cluster of this test session in its own folder; `source` is a clone of the repository's last commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.source = self.home / "source"

    def up(self, *, accounting: bool = False) -> None:
        """Start the cluster, which can see the sources and the cache of images."""
        if testcluster.is_up(self.folder):  # a developer started it before and keeps it running
            shutil.rmtree(self.source, ignore_errors=True)
        else:
            testcluster.bring_up(self.folder, [testcluster.CACHE], accounting=accounting)
        clone(REPOSITORY, self.source)

    def run(self, *words: str, user: str = "ada", ok: bool = True, cwd: str | None = None) -> str:
        """Run a command on the login node; return what it printed, both streams."""
        done = subprocess.run(
            testcluster.entering(self.folder, *words, user=user, cwd=cwd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert (done.returncode == 0) == ok, f"{words}: exit {done.returncode}\n{done.stdout[-6000:]}"
        return done.stdout

    def root(self, command: str, **options) -> str:
        """Run a shell command on the login node as root."""
        return self.run("sh", "-c", command, user="root", **options)

    def on_nodes(self, command: str) -> None:
        """Run a shell command as root on both nodes, in their own namespaces."""
        self.run("srun", "--nodes=2", "--ntasks=2", "--mem=100", "sh", "-c", command, user="root")

    def node(self, name: str, action: str) -> None:
        """Cut a node off as if unplugged (down), or connect it again (up)."""
        subprocess.run([*entering_root(self.folder), "/etc/testcluster/node.sh", action, name], check=True)

    def jobs(self) -> list[dict[str, str]]:
        """Return SLURM's queue: id, name (rule and shard), state, node and requested resources of each job."""
        asked = "JobID:|,Comment:|,StateCompact:|,NodeList:|,tres-per-job:|,tres-per-node:|,UserName:|"
        lines = self.run("squeue", "--noheader", "--states=all", "-O", asked).splitlines()
        keys = ("id", "name", "state", "node", "tres", "tres_node", "user")
        return [dict(zip(keys, (part.strip() for part in line.split("|")), strict=False)) for line in lines]

    def idle(self) -> bool:
        """Return whether no job waits or runs."""
        return not self.run("squeue", "--noheader", "--states=PD,R,CG", "-o", "%i").split()

    def install(self) -> None:
        """Install the package for the user as docs/cluster.md says: without PyTorch, in a venv. Packages are cached."""
        # The locked versions, so that the tests use the same packages every day.
        lock = (self.source / "requirements/dev.lock").read_text()
        pins = "\n".join(re.findall(r"(?m)^[\w.-]+==[^\\\n]+", lock)) + "\n"
        (self.home / "pins.txt").write_text(pins)
        key = digest([self.source / "pyproject.toml", self.home / "pins.txt"])
        kept = testcluster.CACHE / f"login-{key}.tar"
        if not (self.home / "ada/venv").exists():
            if kept.exists():
                subprocess.run(["tar", "-xpf", kept, "-C", self.home / "ada"], check=True)
            else:
                self.run("python3", "-m", "venv", VENV)
        words = "install --quiet --no-compile --constraint /home/pins.txt /home/source"
        self.run(f"{VENV}/bin/pip", *words.split())
        if not kept.exists():
            for old in testcluster.CACHE.glob("login-*.tar"):
                old.unlink()
            part = kept.with_suffix(f".{os.getpid()}")
            subprocess.run(["tar", "-cpf", part, "-C", self.home / "ada", "venv"], check=True)
            part.rename(kept)

    def image(self) -> str:
        """Return the image's path in the cluster; rebuild the image if its sources changed."""
        parts = [self.source / name for name in ("containers", "src", "workflow", "profiles", "pyproject.toml")]
        parts += [self.source / "scripts/build_container.py"]
        image = testcluster.CACHE / f"talkies-{digest(parts)}.sif"
        if not image.exists():
            for old in testcluster.CACHE.glob("talkies-*.sif"):
                old.unlink()
            self.build("-o", "/home/new.sif")
            shutil.move(self.home / "new.sif", image)
        if not (self.home / image.name).exists():
            shutil.copyfile(image, self.home / image.name)
        return f"/home/{image.name}"

    def build(self, *options: str) -> str:
        """Run scripts/build_container.py as root on the local base image, with this machine's pip settings."""
        base = testcluster.image_base()
        mirrors = [f"--bind={path}" for path in sorted(testcluster.local_folders(testcluster.pip_settings()))]
        options = ("--base", str(base), "--torch-index", "''", "--compression", "lz4", *mirrors, *options)
        python = "/root/venv/bin/python"
        self.root(f"test -d /root/venv || python3 -m venv /root/venv; {python} -m pip install --quiet spython==0.3.14")
        return self.root(f"{python} /home/source/scripts/build_container.py {' '.join(options)}")


def both(*steps: Callable[[], object]) -> None:
    """Run steps in parallel, since each waits for the network and unpacks on one core; print how long each took."""

    def timed(step: Callable[[], object]) -> None:
        began = time.monotonic()
        step()
        print(f"{step.__name__}: {time.monotonic() - began:.0f} s", flush=True)

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(timed, step) for step in steps]:
            done.result()


def entering_root(folder: Path) -> list[str]:
    """Return the start of a command line that runs something on the login node as root."""
    return testcluster.entering(folder, user="root")


def digest(paths: Iterable[Path]) -> str:
    """Return a short digest of files and folders, of both names and contents."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(f"{file.name}\0{file_digest(file)}".encode())
    return found.hexdigest()[:12]


def clone(source: Path, target: Path) -> None:
    """Clone a repository's last commit."""
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{source}", target], check=True)


def ended(process: subprocess.Popen) -> str:
    """Wait for a run, which must succeed; return what it printed."""
    output = process.communicate(timeout=1500)[0]
    assert process.returncode == 0, output[-9000:]
    return output


def own(path: Path, uid: int = UID) -> None:
    """Make the cluster's user the owner of a folder and everything in it."""
    subprocess.run(["chown", "-R", f"{uid}:{uid}", path], check=True)


class SameSource(RunFolder):
    """A run folder on this machine, run with the same commit as the cluster's image and clones."""

    source = REPOSITORY

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(self.source / "src")}


class ClusterRun(RunFolder):
    """A clone with its own pictures and clips in the cluster user's home, to run on the cluster or inspect."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        super().__init__(path)
        self.cluster = cluster
        self.inside = f"/home/{path.relative_to(cluster.home)}"

    @classmethod
    def clone(cls, cluster: Cluster, name: str, pictures: int, clips: int, frames: int = 8, **settings) -> ClusterRun:
        """Make a clone with some pictures and clips, configured to run on the cluster's CPUs."""
        path = cluster.home / "ada" / name
        shutil.rmtree(path, ignore_errors=True)
        clone(cluster.source, path)
        draw_inputs(path, pictures, clips, frames)
        run = cls(path, cluster)
        (path / "talkies.sif").symlink_to(cluster.image())
        profile = path / "profiles/slurm/config.v8+.yaml"
        profile.write_text(re.sub(rf"{SECONDS}\d+", f"{SECONDS}2", profile.read_text()))
        run.configure(**settings)
        own(path)
        return run

    def configure(self, **settings) -> None:
        """Write config.yaml as for any run, but compute on processors and ask for GPUs: this cluster's are fake."""
        slurm = settings.pop("slurm", {})
        gpu = {"gpu": 1} | slurm.get("gpu", {})
        super().configure(**({"model": {"device": "cpu"}, "slurm": slurm | {"gpu": gpu}} | settings))

    def start(self, *command: str, **options) -> subprocess.Popen:
        """Start a program on the login node, as the user, in the run folder."""
        path = f"PATH={VENV}/bin:/usr/local/bin:/usr/bin:/bin"
        words = testcluster.entering(self.cluster.folder, "env", path, *command, cwd=self.inside)
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a program as `start` does, and wait for its end."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=1500)
        return subprocess.CompletedProcess(command, process.returncode, output, "")

    def snakemake(self, *arguments: str, ok: bool = True) -> str:
        """Run exactly `snakemake --profile slurm`, plus the test's arguments; return what it printed."""
        result = self.run("snakemake", "--profile", "slurm", *arguments)
        assert (result.returncode == 0) == ok, f"exit {result.returncode}\n{result.stdout[-9000:]}"
        return result.stdout

    def while_animating(self, *options: str) -> subprocess.Popen:
        """Start `snakemake --profile slurm`; return when the workers have animated a film."""
        process = self.start("snakemake", "--profile", "slurm", *options)
        wait_for(lambda: process.poll() is not None or self.events("animate"), 600)
        assert process.poll() is None, process.communicate()[0][-6000:]
        return process

    def kill_worker(self, shard: str) -> None:
        """Kill the worker that animates a shard, on whatever node it runs.

        The killed worker leaves its lock, which counts as stale when it has not been renewed for two minutes. The lock
        is made to look old, so that nothing waits for that.
        """
        self.cluster.root(f"pkill -KILL -f 'talkies shard [a]nimate {shard}[.]'")
        with suppress(FileNotFoundError):
            os.utime(self.path / f".talkies/locks/{shard}.lock", (0, 0))

    def pairs(self) -> list[str]:
        """Return the names of all pairs."""
        clips = sorted(path.stem for path in (self.path / "driving").iterdir())
        return [f"{clip}/{picture.stem}" for clip in clips for picture in sorted((self.path / "images").iterdir())]

    def verified(self) -> None:
        """Assert that every pair's film is there and whole, by our check and by `talkies verify`, and nothing else."""
        self.whole(self.pairs())
        self.talkies("verify")
        # Only talkies' own folders count: killed jobs of Snakemake may leave others in /tmp.
        self.cluster.on_nodes('test -z "$(ls -d /tmp/talkies-*-*-* /scratch/talkies-*-* 2>/dev/null)"')

    def computed(self) -> Counter[str]:
        """Return how often each pair's frames were computed."""
        return Counter(self.events("animate"))


def draw_inputs(path: Path, pictures: int, clips: int, frames: int) -> None:
    """Write a run's pictures and clips: all different, and the same ones each time."""
    (path / "images").mkdir(parents=True)
    (path / "driving").mkdir()
    for number in range(pictures):
        colour = (20 + 17 * number % 230, 60 + 41 * number % 190, 90 + 29 * number % 160)
        draw_picture(path / "images" / f"picture-{number:02d}.png", colour)
    for number in range(clips):
        make_clip(path / "driving" / f"clip-{number}.mp4", tone=300 + 100 * number, frames=frames + number)


def decoded(film: Path) -> str:
    """Return the digests of a film's decoded frames and sound samples."""
    told = [media.ffmpeg_path(), "-v", "error", "-nostdin", "-i", str(film), "-map", "0", "-f", "streamhash", "-"]
    return subprocess.run(told, capture_output=True, text=True, check=True).stdout


def temporary_folder() -> Path:
    """Return a new folder for a cluster, on a real disk."""
    return Path(tempfile.mkdtemp(prefix="talkies-cluster-", dir="/var/tmp"))


def remove(folder: Path) -> None:
    """Remove a folder in which a cluster may have had mounts."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def brought_up(*, accounting: bool = False) -> Iterator[Cluster]:
    """Start a cluster and remove it afterwards, or use and keep the one in the folder $TALKIES_TESTCLUSTER."""
    try:
        testcluster.check()
        both(testcluster.base_root, testcluster.image_base)
    except testcluster.Unfit as error:
        pytest.skip(f"SLURM, Apptainer and the image ({error})")
    kept = os.environ.get("TALKIES_TESTCLUSTER")
    folder = Path(kept) if kept else temporary_folder()
    made = Cluster(folder)
    try:
        made.up(accounting=accounting)
        both(made.install, made.image)
        yield made
    finally:
        if not kept:
            testcluster.bring_down(folder)
            remove(folder)
    if not kept:
        assert not folder.exists(), "the cluster left its folder behind"
        assert str(folder) not in Path("/proc/mounts").read_text()
