"""A push may remove at the other end only files that an earlier push of this run brought, if they are unchanged."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from carried import SSH, Staged, files, program
from run_folder import BIN, draw_picture, make_clip, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("rsync"), reason="NOT TESTED: staging (rsync is not installed)")

LAYOUTS = {
    "nested": {"images": "media", "driving": "media/clips", "results": "media/out"},
    "all in one": {"images": "./", "driving": "./", "results": "./"},
    "results above": {"images": "all/in", "driving": "all/in/clips", "results": "all"},
}


def lay_out(folder: Path, layout: str) -> Staged:
    """Create a run folder with two pictures and a clip, and a stand-in for ssh beside it."""
    settings = LAYOUTS[layout]
    run = Staged(folder / "laptop")
    for key in settings.values():
        (run.path / key).mkdir(parents=True, exist_ok=True)
    for name in ("one", "two"):
        draw_picture(run.path / settings["images"] / f"{name}.png", (1, 2, 3))
    make_clip(run.path / settings["driving"] / "a.mp4", frames=1)
    run.configure(**settings)
    program(folder / "bin", "ssh", SSH)
    (folder / "remote home").mkdir()
    return run


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("where", ["here", "ssh"])
def test_only_what_a_push_brought_goes(tmp_path: Path, layout: str, where: str) -> None:
    run, settings = lay_out(tmp_path, layout), LAYOUTS[layout]
    there = tmp_path / "remote home" / "my run"
    target = str(there) if where == "here" else "me@hpc:~/my run"
    run.stage("push", target)
    images, results = there / settings["images"], there / settings["results"]
    films = [results / "a/one.mp4", results / "a/one.json", results / "index.html", results / "mosaic.mp4"]
    foreign = [images / "theirs.png", images / "notes.txt", there / "jobs.log", there / settings["driving"] / "b.mp4"]
    for path in (*films, *foreign):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"worth keeping")
    before = files(there)
    (run.path / settings["images"] / "one.png").unlink()
    gone = os.path.normpath(f"{settings['images']}/one.png")
    may_go = not Path(gone).is_relative_to(settings["results"])
    listed = run.stage("push", "--delete", "-n", target)
    assert files(there) == before, "a dry run changes nothing"
    assert (f"would be removed there: {gone}" in listed.splitlines()) == may_go
    assert listed.count("would be removed there") == may_go
    said = run.stage("push", "--delete", target)
    assert before - files(there) == ({gone} if may_go else set())
    assert (f"removed there: {gone}" in said.splitlines()) == may_go
    assert "theirs.png" in said, "foreign files that would be animated there are named"
    assert all(path.read_bytes() == b"worth keeping" for path in (*films, *foreign))
    assert "removed there" not in run.stage("push", "--delete", target)


def test_what_has_changed_there_or_is_another_runs_stays(tmp_path: Path) -> None:
    run, there = lay_out(tmp_path, "nested"), tmp_path / "there"
    run.stage("push", str(there))
    (there / "media/one.png").write_bytes(b"retouched there")
    (run.path / "media/one.png").unlink()
    assert "media/one.png" not in run.stage("push", "--delete", str(there))
    assert (there / "media/one.png").read_bytes() == b"retouched there"
    other = Staged(tmp_path / "other")
    shutil.copytree(run.path, other.path, ignore=shutil.ignore_patterns("two.png", ".talkies"))
    other.stage("push", "--delete", str(there))
    assert (there / "media/two.png").exists(), "the other run folder did not push this file"
    (there / ".talkies/pushed.json").write_text("[" * 100_000)
    (run.path / "media/two.png").unlink()
    run.stage("push", "--delete", str(there))
    assert (there / "media/two.png").exists(), "the list of pushed files is lost"


def test_a_pull_brings_no_link_that_leads_out(tmp_path: Path) -> None:
    """Even if the other end sends links unchanged, as an old or hostile one may."""
    run, there = lay_out(tmp_path, "nested"), tmp_path / "there"
    run.stage("push", str(there))
    for name in ("media/out/a", ".snakemake/metadata"):
        (there / name).mkdir(parents=True)
    (there / "media/out/a/one.mp4").write_bytes(b"film")
    (there / "media/out/a/secret.mp4").symlink_to("/etc/passwd")
    (there / "media/out/b").symlink_to(tmp_path)
    (there / "media/out/a/same.mp4").symlink_to("one.mp4")
    plain = 'for each; do\n[ "$each" = --copy-unsafe-links ] || set -- "$@" "$each"\nshift\ndone\n'
    program(run.bin, "rsync", f'#!/bin/sh\n{plain}exec {shutil.which("rsync")} "$@"\n')
    run.stage("pull")
    out = run.path / "media/out"
    assert files(out) == {"a/one.mp4", "a/same.mp4"}
    assert not os.path.lexists(out / "a/secret.mp4")
    assert not os.path.lexists(out / "b")


def test_what_a_killed_stage_left_goes_with_the_next(tmp_path: Path) -> None:
    run, temporary = lay_out(tmp_path, "nested"), tmp_path / "tmp"
    temporary.mkdir()
    program(
        run.bin,
        "rsync",
        f'#!/bin/sh\ncase $* in *--version*) ;; *) sleep 60 ;; esac\nexec {shutil.which("rsync")} "$@"\n',
    )
    environment = run.environment() | {"TMPDIR": str(temporary)}
    command = [str(BIN / "talkies"), "stage", "push", str(tmp_path / "there")]
    killed = subprocess.Popen(command, cwd=run.path, env=environment, start_new_session=True)
    host = socket.gethostname().partition(".")[0]
    wait_for(lambda: len(list(temporary.glob(f"talkies-{host}-stage-*/names"))) == 1)
    (temporary / "mine").touch()
    alive = subprocess.Popen(command, cwd=run.path, env=environment, start_new_session=True)
    wait_for(lambda: len(list(temporary.glob(f"talkies-{host}-stage-*/names"))) == 2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    time.sleep(0.1)
    (run.bin / "rsync").unlink()
    subprocess.run(command, cwd=run.path, env=environment, check=True)
    left = list(temporary.glob("talkies-*"))
    os.killpg(alive.pid, signal.SIGKILL)
    alive.wait()
    assert left, "a running process keeps its folder"
    subprocess.run(command, cwd=run.path, env=environment, check=True)
    assert [path.name for path in temporary.iterdir()] == ["mine"]
