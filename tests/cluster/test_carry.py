"""To a cluster and back: what is copied, that it is whole, and that nothing is lost on either side or made again.

The cluster is a folder, or a host behind a stand-in for ssh that runs the remote command on this machine.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from carried import SSH, Staged, files
from run_folder import REPOSITORY, RunFolder, draw_picture, program, write_weights
from sif import IMAGE

from talkies import settings as config
from talkies.fomm.model.published import note

NOTHING = "Nothing to be done"
own = Staged.environment

MISSING = "staging to a cluster and back (rsync is not installed)"
pytestmark = pytest.mark.skipif(not shutil.which("rsync"), reason=MISSING)


@pytest.fixture
def laptop(finished: RunFolder, tmp_path: Path) -> Staged:
    """A folder with only the inputs of the finished run, including their times."""
    path = tmp_path / "laptop"
    hidden = shutil.ignore_patterns("results", ".*")
    shutil.copytree(finished.path, path, symlinks=True, ignore=hidden)
    program(tmp_path / "bin/ssh", SSH)
    (tmp_path / "remote home").mkdir()
    return Staged(path)


@pytest.fixture
def cluster(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """The same run, finished, on the cluster."""
    return finished.copy(tmp_path / "remote home" / "my run") if (tmp_path / "remote home").exists() else None


# --- push --------------------------------------------------------------------------------------------------


def test_a_push_carries_the_inputs_and_what_config_names(laptop: Staged, tmp_path: Path) -> None:
    laptop.configure(pairs="pairs.tsv", model={"checkpoint": "weights/own.safetensors"}, container="image.sif")
    for name in (
        "weights/own.safetensors",
        "image.sif",
        "results/a/red.mp4",
        ".venv/x",
        "notes.txt",
        "images/.DS_Store",
    ):
        (laptop.path / name).parent.mkdir(exist_ok=True, parents=True)
        (laptop.path / name).write_bytes(name.encode())
    write_weights(laptop.path / "weights/own.safetensors", "demo")
    (laptop.path / "pairs.tsv").write_text("image\tdriving\nred\ta\n")
    target = tmp_path / "two words" / "deep"
    listed = laptop.stage("push", "-n", str(target))
    assert not target.exists()
    assert not (laptop.path / ".talkies").exists()
    assert "image.sif" in listed.splitlines()
    said = laptop.stage("push", str(target))
    profiles = {f"profiles/{name}" for name in files(REPOSITORY / "profiles")}
    pictures = {f"images/{colour}.png" for colour in ("red", "green", "blue")}
    wanted = {"config.yaml", "pairs.tsv", "image.sif", "weights/own.safetensors", "driving/a.mp4", "driving/b.mp4"}
    assert files(target) == wanted | pictures | profiles
    assert f"push: {len(files(target))} files carried to {target}" in said
    for name in wanted | pictures | profiles:
        here, there = (laptop.path / name).stat(), (target / name).stat()
        assert (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
    assert "push: 0 files carried" in laptop.stage("push", str(target))


def test_what_an_engine_needs_goes_with_it(laptop: Staged, tmp_path: Path) -> None:
    for name in ("other.sif", "w.pth", "loops/batch.py", "loops/__pycache__/batch.pyc"):
        (laptop.path / name).parent.mkdir(exist_ok=True)
        (laptop.path / name).write_bytes(IMAGE if name.endswith(".sif") else name.encode())
    (tmp_path / "models").mkdir()
    command = "run {source} {driving} {output} {checkpoint}"
    other = {"name": "other", "image": "other.sif", "command": command, "checkpoint": "w.pth"}
    laptop.configure(engine=other | {"binds": ["loops:/loops", f"{tmp_path}/models:/models"]})
    there = tmp_path / "there"
    said = laptop.stage("push", str(there))
    assert {"other.sif", "w.pth", "loops/batch.py"} <= files(there)
    assert not (there / "loops/__pycache__").exists()
    assert f"engine other: binds: {tmp_path}/models is outside the run folder and is not carried" in said
    assert "push: 0 files carried" in laptop.stage("push", str(there))
    (laptop.path / "musetalk.sif").write_bytes(IMAGE)
    laptop.configure(engine="musetalk")
    assert "examples" not in laptop.stage("push", str(there)), "the package there has its own"


def test_weights_that_config_names_by_their_preset_go_with_it(
    laptop: Staged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go from the laptop's folder of weights into the run folder there, where the preset finds them."""
    kept = tmp_path / ".cache/talkies/weights"
    kept.mkdir(parents=True)
    (tmp_path / ".cache/talkies").chmod(0o700)
    write_weights(kept / "vox-cpk.safetensors", "vox-256")
    note(kept / "vox-cpk.safetensors", kept / "vox-cpk.safetensors", sha256="0" * 64, source="x")
    monkeypatch.setattr(Staged, "environment", lambda run: own(run) | {"XDG_CACHE_HOME": str(tmp_path / ".cache")})
    laptop.configure(model={"preset": "vox-256"})
    there = tmp_path / "there"
    assert "vox-cpk.safetensors" in laptop.stage("push", "-n", str(there)).splitlines()
    assert not there.exists()
    said = laptop.stage("push", str(there))
    assert "outside the run folder" not in said
    assert (there / "weights/vox-cpk.safetensors").stat().st_mtime_ns == (
        kept / "vox-cpk.safetensors"
    ).stat().st_mtime_ns
    assert (there / "weights/weights.lock").read_bytes() == (kept / "weights.lock").read_bytes()
    assert "push: 0 files carried" in laptop.stage("push", str(there))
    assert (there / "weights/vox-cpk.safetensors").exists()
    shutil.rmtree(kept)
    monkeypatch.chdir(there)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert config.load(Path("config.yaml")).model.checkpoint == "weights/vox-cpk.safetensors"


def test_a_clones_program_goes_with_it(laptop: Staged, tmp_path: Path) -> None:
    for name in ("workflow", "Snakefile", "pyproject.toml"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, laptop.path / name)
    (laptop.path / "slurm").symlink_to("profiles/slurm")
    (laptop.path / "workflow/__pycache__").mkdir()
    (laptop.path / "workflow/__pycache__/x.pyc").touch()
    laptop.stage("push", str(tmp_path / "there"))
    assert (tmp_path / "there/workflow/rules/animate.smk").exists()
    assert (tmp_path / "there/slurm").readlink() == Path("profiles/slurm")
    assert not (tmp_path / "there/workflow/__pycache__").exists()


def test_only_what_changed_goes_over_also_within_one_second(laptop: Staged, tmp_path: Path) -> None:
    laptop.stage("push", str(tmp_path / "there"))
    picture = laptop.path / "images/red.png"
    data, times = bytearray(picture.read_bytes()), picture.stat()
    data[-20] ^= 1
    picture.write_bytes(data)
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns - times.st_mtime_ns % 10**9 + 5))
    assert "images/red.png" in laptop.stage("push", "-n", str(tmp_path / "there"))
    assert "push: 1 file carried" in laptop.stage("push", str(tmp_path / "there"))
    assert (tmp_path / "there/images/red.png").read_bytes() == bytes(data)


def test_what_is_there_and_not_here_is_named_and_stays(laptop: Staged, tmp_path: Path) -> None:
    there = tmp_path / "remote home" / "run"
    laptop.stage("push", "hpc:run")
    (laptop.path / "images/red.png").unlink()
    for name in ("images/notes.txt", "images/.hidden.png", "driving/zoe.mp4"):
        (there / name).write_bytes(b"theirs")
    before = files(there)
    said = laptop.stage("push", "hpc:run")
    assert "images: 1 file there and not here, and would be animated too: red.png" in said
    assert "driving: 1 file there and not here, and would be animated too: zoe.mp4" in said
    assert files(there) == before


def test_what_lies_elsewhere_is_told(laptop: Staged, tmp_path: Path) -> None:
    (laptop.path / "images").rename(tmp_path / "pictures")
    laptop.configure(images=str(tmp_path / "pictures"))
    said = laptop.stage("push", str(tmp_path / "there"))
    assert f"images: {tmp_path}/pictures is outside the run folder and is not carried" in said
    assert not (tmp_path / "there/images").exists()


def test_links_to_pictures_go_as_pictures(laptop: Staged, tmp_path: Path) -> None:
    draw_picture(tmp_path / "far.png", (1, 2, 3))
    (laptop.path / "images/far.png").symlink_to(tmp_path / "far.png")
    (laptop.path / "originals").mkdir()
    (laptop.path / "images/red.png").rename(laptop.path / "originals/red.png")
    (laptop.path / "images/red.png").symlink_to("../originals/red.png")
    (laptop.path / "driving").rename(laptop.path / "clips")
    (laptop.path / "driving").symlink_to("clips")
    laptop.stage("push", str(tmp_path / "there"))
    for name in ("images/far.png", "images/red.png", "driving/a.mp4"):
        copy = tmp_path / "there" / name
        assert not copy.is_symlink()
        assert not copy.parent.is_symlink()
        assert copy.read_bytes() == (laptop.path / name).read_bytes()


# --- pull --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_after_a_pull_a_local_snakemake_finds_nothing_to_do(laptop: Staged, cluster: RunFolder) -> None:
    laptop.stage("push", str(cluster.path))
    (cluster.path / ".talkies/locks").mkdir(exist_ok=True)
    (cluster.path / "results/a/.x.mp4.7.part").touch()
    before = len(laptop.stage("pull", "-n").splitlines())
    assert not (laptop.path / "results").exists()
    assert before > 30
    laptop.stage("pull")
    assert NOTHING in laptop.snakemake()
    laptop.whole(sorted(cluster.films()))
    assert laptop.films() == cluster.films()
    assert "6 films are whole" in laptop.talkies("verify")
    assert "pull: 0 files carried" in laptop.stage("pull")
    laptop.forget_events()
    draw_picture(laptop.path / "images/new.png", (1, 200, 200))
    laptop.snakemake()
    assert sorted(laptop.events("animate")) == ["a/new", "b/new"], "changes are still noticed"


def test_what_a_pull_replaces_is_kept(laptop: Staged, cluster: RunFolder) -> None:
    mine = laptop.path / "results/a"
    mine.mkdir(parents=True)
    (mine / "red.mp4").write_bytes(b"my own film")
    (mine / "holiday.mp4").write_bytes(b"another")
    said = laptop.stage("pull", str(cluster.path))
    assert "1 file that differed here: kept in .talkies/replaced/" in said
    kept = [path for path in (laptop.path / ".talkies/replaced").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in kept] == [b"my own film"]
    assert (mine / "holiday.mp4").read_bytes() == b"another"
    assert laptop.films()["a/red"] == cluster.films()["a/red"]
    cluster_has = files(cluster.path)
    laptop.stage("pull", str(cluster.path))
    assert files(cluster.path) == cluster_has, "a pull changes nothing there"


def test_results_on_another_disk_at_either_end(laptop: Staged, cluster: RunFolder, tmp_path: Path) -> None:
    (cluster.path / "results").rename(tmp_path / "their disk")
    (cluster.path / "results").symlink_to(tmp_path / "their disk")
    (tmp_path / "my disk").mkdir()
    (laptop.path / "results").symlink_to(tmp_path / "my disk")
    laptop.stage("pull", str(cluster.path))
    assert (laptop.path / "results").is_symlink()
    assert files(tmp_path / "my disk") == files(tmp_path / "their disk")


def test_a_pull_waits_for_a_run_here(laptop: Staged, cluster: RunFolder) -> None:
    locks = laptop.path / ".talkies/locks"
    locks.mkdir(parents=True)
    (locks / "pairs-0001.lock").write_text('{"host": "elsewhere", "pid": 1, "started": "x", "namespace": "n"}')
    assert "a run is at work in this folder (pairs-0001: process 1 on elsewhere)" in laptop.stage(
        "pull", str(cluster.path), ok=False
    )


def test_a_pull_brings_no_link_that_leads_out(laptop: Staged, cluster: RunFolder, tmp_path: Path) -> None:
    (cluster.path / "results/a/secret.mp4").symlink_to("/etc/passwd")
    (cluster.path / "results/far").symlink_to(tmp_path)
    (cluster.path / "results/a/same.mp4").symlink_to("red.mp4")
    laptop.stage("pull", str(cluster.path))
    brought = [path for path in (laptop.path / "results").rglob("*") if path.is_symlink()]
    assert [path.name for path in brought] == ["same.mp4"]


# --- over ssh ----------------------------------------------------------------------------------------------


@pytest.mark.longest
@pytest.mark.slow
def test_there_over_ssh_made_there_and_back(laptop: Staged, tmp_path: Path) -> None:
    draw_picture(laptop.path / "images" / "it's ünï $(touch hacked).png", (9, 200, 9))
    (laptop.path / "images/red.png").unlink()
    laptop.stage("push", "me@hpc:~/my run/one")
    there = RunFolder(tmp_path / "remote home" / "my run" / "one")
    assert files(there.path / "images") == files(laptop.path / "images")
    there.snakemake()
    laptop.stage("pull")
    assert NOTHING in laptop.snakemake()
    assert laptop.films() == there.films()
    assert len(laptop.films()) == 6
    assert not list(tmp_path.rglob("hacked"))
    assert "rsync --server" in (tmp_path / "asked").read_text()


def test_a_transfer_that_broke_off_goes_on_where_it_was(laptop: Staged, cluster: RunFolder) -> None:
    """The connection breaks after 3 MB. The part is kept under a hidden name, and the next call completes the file."""
    large = cluster.path / "results/a/large.mp4"
    large.write_bytes(os.urandom(8_000_000))
    cut = "import os\nleft = 3000000\nwhile left > 0 and (d := os.read(0, 65536)): left -= os.write(1, d)"
    program(laptop.bin / "ssh", SSH.replace('exec sh -c "$*"', f"sh -c \"$*\" | exec {sys.executable} -c '{cut}'"))
    assert "call it again, and it continues" in laptop.stage("pull", "hpc:my run", ok=False)
    assert not (laptop.path / "results/a/large.mp4").exists()
    partial = laptop.path / "results/a/.rsync-partial/large.mp4"
    assert 0 < partial.stat().st_size < 8_000_000
    program(laptop.bin / "ssh", SSH)
    laptop.stage("pull", "hpc:my run")
    assert (laptop.path / "results/a/large.mp4").read_bytes() == large.read_bytes()
    assert not list(laptop.path.rglob(".rsync-partial"))


# --- mistakes ----------------------------------------------------------------------------------------------


GONE = "(see its message above): call it again, and it continues"
"""After the code: ssh's (255) or rsync's own (12) for a host that can't be reached, whichever it sees first."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull"], "nothing was pushed from this run folder: name the place: pull HOST:DIR"),
        (["push", "hpc:"], "hpc:: give HOST:DIR, with the folder's own path (ssh HOST pwd tells it)"),
        (["push", "hpc:~"], "hpc:~: give HOST:DIR"),
        (["push", "hpc:$SCRATCH/x"], "hpc:$SCRATCH/x: give HOST:DIR"),
        (["push", "--", "-oProxyCommand=touch hacked:x"], "give HOST:DIR"),
        (["push", "nohost:x"], GONE),
        (["pull", "hpc:x"], GONE),
    ],
)
def test_mistakes_are_one_line(laptop: Staged, arguments: list[str], words: str) -> None:
    assert words in laptop.stage(*arguments, ok=False)


def test_what_is_missing_here_is_named(laptop: Staged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(laptop.bin / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    monkeypatch.setattr(Staged, "environment", lambda run: own(run) | {"PATH": str(run.bin)})
    assert "there is no rsync here: install it: apt" in laptop.stage("push", str(tmp_path / "there"), ok=False)
    (laptop.path / "config.yaml").unlink()
    assert "config.yaml: can't read it" in laptop.stage("push", str(tmp_path / "there"), ok=False)
