"""The SLURM profile without a cluster: what jobs request, what their image sees, and what is checked before.

apptainer is a stand-in that logs its arguments and runs the given command without an image. Tests with the real SLURM
and Apptainer are in test_cluster.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder, draw_picture, make_clip, program, write_weights
from sif import IMAGE, NO_GPUS, OTHER, sif

from talkies import __version__
from talkies.errors import TalkiesError
from talkies.machine import container
from talkies.run import estimate
from talkies.run.inputs import folders_outside
from talkies.settings import complete

APPTAINER = f"""#!{sys.executable}
import json, os, subprocess, sys
arguments = sys.argv[1:]
if arguments[:1] == ["--version"]:
    print("apptainer version 1.4.5")
elif "exec" in arguments:
    with open(os.environ["TALKIES_TEST_CALLS"], "a") as calls:
        calls.write(json.dumps([arguments, os.environ.get("APPTAINER_BIND", "")]) + "\\n")
    image = next(i for i, word in enumerate(arguments) if word.endswith(".sif"))
    sys.exit(subprocess.run(arguments[image + 1:]).returncode)
"""
INSTALL = REPOSITORY / "scripts/install_profile"


class ClusterFolder(RunFolder):
    """A run folder on a machine with the stand-in for apptainer. more: further environment variables."""

    def __init__(self, path: Path, programs: Path | None = None, **more: str) -> None:
        super().__init__(path)
        self.programs = programs
        self.more = more

    def configure(self, **settings) -> None:
        super().configure(**{"engine": "fomm"} | settings)  # what its jobs ask for is looked at

    def environment(self) -> dict[str, str]:
        given = super().environment()
        if self.programs:
            given["PATH"] = f"{self.programs}:{given['PATH']}"
        return {**given, "TALKIES_TEST_CALLS": str(self.path / "calls.jsonl"), **self.more}

    def calls(self) -> list[tuple[list[str], list[str]]]:
        """Return the arguments and binds of each start of an image."""
        lines = (self.path / "calls.jsonl").read_text().splitlines()
        return [(arguments, binds.split(",")) for arguments, binds in map(json.loads, lines)]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    program(folder / "apptainer", APPTAINER)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The parts of a clone of the repository that a run needs."""
    path = tmp_path / "clone"
    path.mkdir()
    for name in ("workflow", "profiles", "examples"):
        shutil.copytree(REPOSITORY / name, path / name, symlinks=True)
    for name in ("Snakefile", "config.yaml", "slurm"):
        shutil.copy2(REPOSITORY / name, path / name, follow_symlinks=False)
    (path / "talkies.sif").write_bytes(IMAGE)
    return path


def small(path: Path, programs: Path | None = None, **more: str) -> ClusterFolder:
    RunFolder.create(path, images=["one", "two"], clips=["a"])
    run = ClusterFolder(path, programs, **more)
    run.configure()
    (run.path / "talkies.sif").write_bytes(IMAGE)
    return run


def resources(output: str, rule: str) -> dict[str, str]:
    """Return the resources of a rule's first job in a dry run's output."""
    block = output.split(f"\nrule {rule}:\n")[1].split("\n\n")[0]
    return dict(part.split("=", 1) for part in re.search(r"resources: (.*)", block)[1].split(", "))


# --- the exact command -------------------------------------------------------------------------------------


def test_the_literal_words_in_a_clone(clone: Path, programs: Path) -> None:
    run = ClusterFolder(clone, programs)
    result = run.run("snakemake", "--profile", "slurm", "-n", "-p")
    assert result.returncode == 0, result.stdout
    assert re.search(r"16 pairs in \d+ jobs?; 16 to make: about .+ of a GPU at 100 frames/s, .* GB free", result.stdout)
    for rule in ("motion", "animate"):
        asked = resources(result.stdout, rule)
        assert {"gpu": "1", "mem_mb": "4000"}.items() <= asked.items()
        assert "    threads: 4\n" in result.stdout.split(f"\nrule {rule}:\n")[1].split("\n\n")[0]
        assert int(asked["runtime"]) >= estimate.WALLTIME_MINUTES
    for rule in ("crop", "remux"):
        asked = resources(result.stdout, rule)
        assert "gpu" not in asked
        assert asked["mem_mb"] == "2000"


def test_without_apptainer_a_plan_is_made_and_a_run_on_this_machine_is_refused(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    (run.path / "slurm").symlink_to(REPOSITORY / "profiles/slurm")
    output = run.snakemake("--profile", "slurm", "-n", "-p")
    assert "neither apptainer nor singularity is here: only the nodes can run the image" in output
    assert resources(output, "animate")["gpu"] == "1"
    output = run.snakemake("--sdm", "apptainer", ok=False)
    assert "jobs are to run in an image, and neither apptainer nor singularity is here: load its module" in output
    assert "Traceback" not in output
    assert not (run.path / ".talkies/done").exists()


def test_a_job_asks_for_what_config_names(tmp_path: Path, programs: Path) -> None:
    run = small(tmp_path / "run", programs)
    (run.path / "slurm").symlink_to(REPOSITORY / "profiles/slurm")
    cpu = {"runtime": 7, "mem_mb": 900, "qos": "short", "slurm_partition": "small"}
    run.configure(slurm={"cpu": cpu, "gpu": {"gpu_model": "a100", "slurm_partition": "small,large"}})
    output = run.snakemake("--profile", "slurm", "-n", "-p")
    asked = resources(output, "animate")
    assert (asked["mem_mb"], asked["runtime"]) == ("4000", str(estimate.WALLTIME_MINUTES + 1))
    assert (asked["gpu_model"], asked["gpu"]) == ("a100", "1"), "what config.yaml does not name is still requested"
    for rule in ("motion", "animate"):
        assert resources(output, rule)["slurm_partition"] == "small,large"
    for rule in ("crop", "cut", "remux", "gallery"):
        assert {name: str(value) for name, value in cpu.items()}.items() <= resources(output, rule).items()


# --- the profile installed ---------------------------------------------------------------------------------


def install(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    return subprocess.run([sys.executable, INSTALL, *arguments], env=environment, capture_output=True, text=True)


def test_installed_it_is_found_from_any_run_folder(tmp_path: Path, programs: Path) -> None:
    home = tmp_path / "home"
    assert "would be made" in install(home, "--dry-run").stdout
    assert not home.exists()
    done = install(home)
    assert done.returncode == 0
    assert "slurm: made, a link to" in done.stdout
    assert "is installed already" in install(home).stdout
    run = small(tmp_path / "run", programs, HOME=str(home))
    assert " of a GPU at " in run.snakemake("--profile", "slurm", "-n", "-p")
    assert "would be removed" in install(home, "--remove", "-n").stdout
    assert install(home, "--remove").returncode == 0
    assert list((home / ".config/snakemake").iterdir()) == []
    assert "nothing to remove" in install(home, "--remove").stdout


@pytest.mark.parametrize("kind", ["folder", "link", "dead link"])
def test_a_profile_of_the_users_own_is_left(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / ".config/snakemake/slurm"
    mine.parent.mkdir(parents=True)
    if kind == "folder":
        mine.mkdir()
        (mine / "config.yaml").write_text("jobs: 1\n")
    else:
        mine.symlink_to(tmp_path if kind == "link" else "nowhere")
    for arguments in ([], ["--remove"]):
        result = install(tmp_path, *arguments)
        assert result.returncode == 1
        assert "left as it is" in result.stderr
    assert mine.exists() == (kind != "dead link")
    assert mine.is_symlink() == (kind != "folder")
    assert install(tmp_path, "--name", "talkies").returncode == 0
    assert (tmp_path / ".config/snakemake/talkies/config.v8+.yaml").is_file()


# --- the image ---------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "0123456789abcdef" * 4
BROKEN = "this is no image (empty, or not a .sif): build it"


@pytest.mark.parametrize(
    ("image", "content", "said"),
    [
        ("x.sif", None, "there is no image x.sif: build it (in a clone of talkies: python scripts/build_container.py)"),
        ("x.sif", b"", f"x.sif: {BROKEN}"),
        ("x.sif", b"<html>", BROKEN),
        ("x.sif", IMAGE[:400], "x.sif: its labels can't be read: build it"),
        ("x.sif", sif(None), f"x.sif holds no talkies, and this workflow is {__version__}: build it"),
        ("x.sif", OTHER, "x.sif holds talkies 9.9, and this workflow is"),
        ("x.sif", NO_GPUS, "x.sif is built without GPUs (talkies.gpus: none), and jobs ask for one: build it with"),
        ("folder", None, "folder: can't be read (Is a directory): build it"),
        ("loop", None, "loop: can't be read (Too many levels of symbolic links): build it"),
    ],
)  # fmt: skip
def test_an_image_that_will_not_do_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, content: bytes | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    if content is not None:
        (tmp_path / image).write_bytes(content)
    with pytest.raises(TalkiesError) as caught:
        container.check_image(image, gpus=True)
    assert str(caught.value).startswith("config.yaml: container: ")
    assert said in str(caught.value)


def test_an_image_that_will_do_and_what_can_not_be_checked(tmp_path: Path) -> None:
    image = tmp_path / "talkies.sif"
    image.write_bytes(NO_GPUS)
    assert container.check_image(str(image)) is container.check_image(None) is None
    assert "is not here yet" in container.check_image(f"docker://x@{DIGEST}", tmp_path / "not pulled")


def test_what_the_image_can_not_do_is_refused_before_any_job_is_sent(tmp_path: Path, programs: Path) -> None:
    run = small(tmp_path / "run", programs)
    (run.path / "slurm").symlink_to(REPOSITORY / "profiles/slurm")
    (run.path / "talkies.sif").write_bytes(NO_GPUS)
    for more in ([], ["-n"]):
        assert "talkies.sif is built without GPUs" in run.snakemake("--profile", "slurm", *more, ok=False)
    (run.path / "talkies.sif").write_bytes(IMAGE)
    (tmp_path / "Photos, 2020").mkdir()
    (run.path / "images/one.png").rename(tmp_path / "Photos, 2020/one.png")
    (run.path / "images/one.png").symlink_to(tmp_path / "Photos, 2020/one.png")
    (line,) = [line for line in run.snakemake("--sdm", "apptainer", ok=False).splitlines() if "to the image" in line]
    assert "/Photos, 2020: " in line
    assert not (run.path / ".talkies/done").exists()
    assert not (run.path / "calls.jsonl").exists()
    run.configure(container=None)
    assert "2 pairs" in run.snakemake("-n", "--sdm", "apptainer"), "a folder is seen by all where there is no image"
    (run.path / "images/one.png").unlink()
    run.configure(model={"device": "cpu"})
    (run.path / "talkies.sif").write_bytes(NO_GPUS)
    assert "gpu" not in resources(run.snakemake("--profile", "slurm", "-n", "-p"), "animate")


# --- what the image sees -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_folders_outside_the_run_folder_are_seen_in_the_image(tmp_path: Path, programs: Path) -> None:
    far = tmp_path / "far"
    for name in ("pictures of mine", "originals", "clips", "node/tmp"):
        (far / name).mkdir(parents=True)
    run = small(tmp_path / "run", programs, TMPDIR=str(far / "node/tmp"))
    draw_picture(far / "originals/linked.png", (9, 99, 199))
    draw_picture(far / "pictures of mine/own.png", (199, 99, 9))
    (far / "pictures of mine/linked.png").symlink_to("../originals/linked.png")
    make_clip(far / "clips/c.mp4", frames=3)
    run.configure(images=str(far / "pictures of mine"), driving="../far/clips", results=str(far / "results"))
    run.snakemake("--sdm", "apptainer", "--apptainer-args=--nv")
    assert (far / "results/c/own.mp4").is_file()
    assert (far / "results/c/linked.mp4").is_file()
    calls = run.calls()
    jobs = list((run.path / ".talkies/benchmarks").rglob("*.tsv"))
    assert {"gallery", "report.tsv", "verdict.tsv"} <= {job.name for job in jobs} | {job.parent.name for job in jobs}
    assert len(calls) == len(jobs), "every job must run in the image"
    for arguments, binds in calls:
        assert "--nv" in arguments
        assert set(binds) == {
            str(far / name) for name in ("pictures of mine", "originals", "clips", "results", "node/tmp")
        }


def outside(**settings) -> list[str]:
    return [str(path) for path in folders_outside(complete(settings))]


def test_folders_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, far = tmp_path / "run", tmp_path / "far"
    for folder in (here / "images", here / "driving", far / "deep/deeper", far / "weights", far / "tables"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    ours = {"images": "images", "driving": "driving"}
    assert outside(**ours) == []
    assert outside(**{**ours, "results": "../far/deep"}) == [f"{far}/deep"]
    assert outside(**{**ours, "results": str(far), "driving": f"{far}/deep/deeper"}) == [str(far)], (
        "one contains the other"
    )
    write_weights(far / "weights/w.pth")
    (far / "tables/p.tsv").touch()
    weights = {"model": {"preset": "vox-256", "checkpoint": f"{far}/weights/w.pth"}}
    assert outside(**ours, **weights, pairs=f"{far}/tables/p.tsv") == [f"{far}/tables", f"{far}/weights"]
    # A link in the run folder to a link to a folder, and a picture that is a link to a link.
    (far / "middle").symlink_to("deep")
    (here / "results").symlink_to(far / "middle")
    assert outside(**ours) == [f"{far}/deep", f"{far}/middle"]
    (far / "tables/one.png").touch()
    (far / "weights/one.png").symlink_to(far / "tables/one.png")
    (here / "images/one.png").symlink_to(far / "weights/one.png")
    assert outside(**ours) == [f"{far}/{name}" for name in ("deep", "middle", "tables", "weights")]
    (here / "images/loop.png").symlink_to("loop.png")  # the stage that crops it reports this error
    assert outside(**ours) == [f"{far}/{name}" for name in ("deep", "middle", "tables", "weights")]


@pytest.mark.parametrize("name", ["with,comma", "with:colon", "back\\slash"])
def test_a_folder_that_no_bind_can_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    folders = outside(results=f"../{name}")
    with pytest.raises(TalkiesError, match=r"config\.yaml.*can't be shown to the image"):
        container.check_bindable(folders)


def test_binds_are_added_to_those_of_the_user(tmp_path, programs, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    for name in ("in", "slurm", "local"):
        (tmp_path / name).mkdir()
    environment = {"APPTAINER_BIND": "/data:/mnt", "SLURM_TMPDIR": f"{tmp_path}/slurm", "TMPDIR": "/nowhere"}
    environment["USER_DISK"] = str(tmp_path)
    monkeypatch.setenv("USER_DISK", str(tmp_path))
    container.bind([tmp_path / "in", tmp_path / "not there"], "$USER_DISK/local", environment)
    expected = f"/data:/mnt,{tmp_path}/in,{tmp_path}/local,{tmp_path}/slurm"
    assert environment["APPTAINER_BIND"] == expected
    # SLURM's variables are missing in the job step.
    del environment["SLURM_TMPDIR"]
    container.bind([tmp_path / "in"], None, environment)
    assert environment["SLURM_TMPDIR"] == f"{tmp_path}/slurm"
    assert environment["APPTAINER_BIND"] == expected
    monkeypatch.setenv("PATH", "/nowhere")
    environment = {}
    container.bind([tmp_path / "in"], None, environment)
    assert environment == {"SINGULARITY_BIND": f"{tmp_path}/in"}


# --- room --------------------------------------------------------------------------------------------------


def test_a_run_that_will_not_fit_is_not_begun(tmp_path: Path, programs: Path) -> None:
    run = small(tmp_path / "run", programs)
    results = run.path / "results"
    results.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "t", results], capture_output=True).returncode:
        pytest.skip("a disk without room for results (mounting one needs root)")
    try:
        make_clip(run.path / "driving/b.mp4", frames=20)
        words = r"results: 0.1 MB free, and 4 films to make need about 0.1 MB: make room"
        assert re.search(words, run.snakemake("-n"))
        (results / "others").write_bytes(bytes(50_000))
        assert re.search(r"results: 0.0 MB free, and 4 films", run.snakemake(ok=False))
        assert not (run.path / ".talkies/done").exists()
    finally:
        subprocess.run(["umount", "--lazy", results], check=True)


# --- a pilot -----------------------------------------------------------------------------------------------
