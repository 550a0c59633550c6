"""The scratch disk: which one is used, what happens if it is full, and its cleanup."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_folder import RunFolder

from talkies.errors import TalkiesError
from talkies.files import own_cache
from talkies.fomm.device import keep_compiled
from talkies.machine import scratch
from talkies.machine.scratch import find_place, open_scratch


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in scratch.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate real disk: a tmpfs of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "talkies-test", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a scratch disk of its own (mounting one needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


# --- which folder ------------------------------------------------------------------------------------------


def test_the_first_folder_that_can_be_used_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chosen", *scratch.VARIABLES):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    assert find_place(str(tmp_path / "chosen")) == find_place("$chosen") == tmp_path / "chosen"
    for name in scratch.VARIABLES:
        assert find_place(None) == tmp_path / name
        (tmp_path / name).rmdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert find_place(None) == Path("/tmp").resolve()


def test_a_folder_that_can_not_be_used_is_refused_if_it_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")  # root may write anywhere
    for chosen in (tmp_path / "locked", tmp_path / "gone", "/local/${NOWHERE}/x"):
        reason = f"scratch: {chosen}: there is no such folder, or it is not writable, on {socket.gethostname()}: "
        with pytest.raises(TalkiesError, match=f"^{re.escape(reason)}"):
            find_place(str(chosen))


# --- a worker's own folder ---------------------------------------------------------------------------------


def fill(disk: Path) -> None:
    with open_scratch(str(disk), "pairs-0001") as mine, (mine / "film.mp4").open("wb", buffering=0) as film:
        while True:
            film.write(bytes(1 << 20))


def test_a_disk_that_fills_up_is_named_and_nothing_stays(disk: Path) -> None:
    with pytest.raises(TalkiesError, match=rf"^scratch {disk} \(.*\) is full: .* free: make room there"):
        fill(disk)
    assert list(disk.iterdir()) == []


def test_a_full_disk_of_the_results_is_not_taken_for_the_scratch(disk: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="No space left"),
        open_scratch(str(tmp_path), "pairs-0001") as mine,
    ):
        raise OSError(28, "No space left on device", str(mine / "film.mp4"), None, str(disk / "film.mp4"))


HOLDER = """
import sys
from pathlib import Path
from talkies.machine.scratch import own_folder
with own_folder(sys.argv[1], Path(sys.argv[2])) as folder:
    (folder / "half.mp4").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""


def holder(name: str, disk: Path, **options) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that has its own folder on a disk; return both."""
    command = [sys.executable, "-c", HOLDER, name, str(disk)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    return process, Path(process.stdout.readline().strip())


def test_what_killed_processes_left_goes_with_any_later_one_and_a_living_ones_stays(tmp_path: Path) -> None:
    """From any run and shard. Folders of other machines, of other users and with other names stay too."""
    (killed, left), (alive, used) = holder("run1-pairs-0001", tmp_path), holder("run2-pairs-0007", tmp_path)
    host = socket.gethostname().partition(".")[0]
    foreign = [tmp_path / name for name in ("talkies-elsewhere-1-x", f"talkies-{host}-of-bob", "mine", "talkies")]
    for folder in foreign:
        folder.mkdir()
    (tmp_path / f"talkies-{host}-link").symlink_to(tmp_path / "mine")
    (tmp_path / f"talkies-{host}-file").touch()
    if os.geteuid() == 0:
        os.chown(foreign[1], 4711, 4711)
    else:
        foreign.pop(1).rmdir()
    with open_scratch(str(tmp_path), "clips-0001"):
        assert (left / "half.mp4").exists(), "its process is alive"
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    killed.kill()
    killed.communicate()
    with open_scratch(str(tmp_path), "clips-0001") as mine:
        assert not left.exists()
        assert (used / "half.mp4").exists()
        assert mine.parent == tmp_path
    alive.communicate("\n")
    assert sorted(tmp_path.iterdir()) == sorted(
        [*foreign, tmp_path / f"talkies-{host}-link", tmp_path / f"talkies-{host}-file"]
    )


def test_a_disk_without_locks_keeps_what_may_be_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    process, used = holder("run-pairs-0001", tmp_path)
    monkeypatch.setattr(fcntl, "flock", refused)
    with open_scratch(str(tmp_path), "pairs-0001") as mine:
        assert used.exists()
        assert mine.exists()
    process.communicate("\n")
    assert list(tmp_path.iterdir()) == []


MANY = """
import sys
from pathlib import Path
from talkies.machine.scratch import own_folder
sys.stdin.readline()
for number in range(300):
    with own_folder("run-pairs", Path(sys.argv[1])) as folder:
        (folder / "half.mp4").touch()
        assert (folder / "half.mp4").exists()
"""


def test_many_at_once_take_no_folder_of_one_another(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * 4
    assert list(tmp_path.iterdir()) == []


# --- caches ------------------------------------------------------------------------------------------------


def test_the_cache_is_the_users_own_and_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert own_cache() == tmp_path / "cache/talkies"
    assert stat.S_IMODE((tmp_path / "cache/talkies").stat().st_mode) == 0o700
    (tmp_path / "cache/talkies").chmod(0o777)
    assert own_cache() == tmp_path / "cache/talkies"
    assert stat.S_IMODE((tmp_path / "cache/talkies").stat().st_mode) == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert own_cache() == tmp_path / "home/.cache/talkies"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_cache() == tmp_path / ".talkies/cache", "in an image, HOME is the run folder"
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert own_cache() is None
    keep_compiled()
    assert os.environ.pop("CUDA_CACHE_DISABLE") == "1"


@pytest.mark.parametrize("taken", ["folder", "link"])
def test_a_cache_that_another_user_took_first_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    if os.geteuid():
        pytest.skip("another user's cache folder (making one needs root)")
    theirs = tmp_path / "shared/talkies"
    theirs.mkdir(parents=True, mode=0o700)
    if taken == "link":
        theirs.rename(tmp_path / "theirs")
        theirs.symlink_to(tmp_path / "theirs")
    os.chown(theirs, 4711, 4711, follow_symlinks=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert own_cache() is None


# --- workers -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_on_a_scratch_disk_is_the_run_without_and_keeps_nothing_there(
    finished: RunFolder, disk: Path, tmp_path: Path
) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.configure(pairs_per_job=3, scratch=str(disk))
    run.snakemake()
    assert run.films() == finished.films()
    assert all(run.record(pair)["key"] == finished.record(pair)["key"] for pair in run.films())
    run.whole(sorted(run.films()))
    assert list(disk.iterdir()) == []


def test_a_bad_clip_is_named_as_the_user_knows_it(disk: Path, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["one"], clips=["a"])
    (run.path / "driving/b.mp4").write_bytes(b"\0" * 5000)
    run.configure(scratch=str(disk))
    run.snakemake(ok=False)
    reasons = (run.path / ".talkies/ledger/clips-0001.jsonl").read_text()
    assert "driving/b.mp4: " in reasons
    assert str(disk) not in reasons
    run.whole(["a/one"])
