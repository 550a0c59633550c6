"""A run's records: keys that change only with their content, files that are whole or absent, and reliable locks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkies.files import digest, keep_aside, read_json, write_json
from talkies.media.sound import SoundFacts
from talkies.report.page import is_ours, write_page
from talkies.run import lock as locks
from talkies.run import record
from talkies.run.lock import GONE_SECONDS, HEARTBEAT_SECONDS, held_locks, is_abandoned, lock, renew
from talkies.run.record import FilmPicture, Recorded, Talkie, file_facts, is_unchanged

# --- keys --------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), plain, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_matter(value: dict, random) -> None:
    names = list(value)
    random.shuffle(names)
    assert digest({name: value[name] for name in names}) == digest(value)


@given(plain, plain)
def test_another_value_is_another_digest(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


# --- files -------------------------------------------------------------------------------------------------


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": "ü\n", "a": [1, None]})
    before = path.read_bytes()
    assert read_json(path) == {"b": "ü\n", "a": [1, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": "x" * 100_000, "b": object()})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_files_bytes_are_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves the new or the old file whole: first the bytes are synced, then the name, then the folder."""
    told: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        told.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        told.append(("rename", self.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_json(tmp_path / "a.json", {"a": 1})
    (_, part), *_ = told
    assert part.startswith(".a.json.")
    assert told == [("fsync", part), ("rename", part), ("fsync", tmp_path.name)]


DEEP = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def test_what_is_no_record_says_nothing(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"a": 1}x', DEEP):
        (tmp_path / "a.json").write_bytes(content)
        assert read_json(tmp_path / "a.json") is None, content[:20]
    assert read_json(tmp_path / "none.json") is None
    assert read_json(tmp_path) is None


def test_a_page_is_ours_as_we_wrote_it(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    write_page(page, "<html>é</html>")
    written = page.stat()
    write_page(page, "<html>é</html>")
    assert (page.stat().st_mtime_ns, page.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert is_ours(page)
    write_page(page, "<html>other</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    page.write_text(page.read_text() + "\n")
    assert not is_ours(page)
    for number in range(3):  # even within one second
        page.write_text(f"mine {number}")
        write_page(page, "<html>other</html>")
    assert len(list(tmp_path.glob("index.kept-*.html"))) == 3


def test_the_longest_name_can_be_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + ".mp4")
    path.write_bytes(b"mine")
    aside = keep_aside(path)
    assert aside.read_bytes() == b"mine"
    assert ".kept-" in aside.name
    assert aside.suffix == ".mp4"


def test_a_file_is_unchanged_by_time_or_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    facts = file_facts(path)
    assert is_unchanged(path, facts)
    read: list[Path] = []
    honest = record.file_digest
    monkeypatch.setattr(record, "file_digest", lambda p: read.append(p) or honest(p))
    assert is_unchanged(path, facts)
    assert read == [], "equal size and time are enough"
    os.utime(path, ns=(1, 1))
    assert is_unchanged(path, facts), "a copied file has a different time"
    assert read == [path]
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert not is_unchanged(path, facts)
    path.write_bytes(b"three")
    assert not is_unchanged(path, facts)
    assert read == [path, path], "a different size is enough"
    path.unlink()
    assert not is_unchanged(path, facts)


def test_a_record_is_fresh_while_key_and_film_are_its_own(tmp_path: Path) -> None:
    film = Recorded(tmp_path / "dots.in.name.mp4", Talkie)
    assert film.record_path.name == "dots.in.name.json"
    assert film.record() is None
    assert film.fresh("k") is None
    film.path.write_bytes(b"film")
    picture = FilmPicture("25", 256)
    made = Talkie(
        key="k", picture_key="p", picture=picture, sound=SoundFacts(None), facts={"motion": {"relative": True}}
    )
    written = film.describe(made)
    told = json.loads(film.record_path.read_text())
    assert (told["key"], told["motion"], told["file"]["size"]) == ("k", {"relative": True}, 4)
    assert "facts" not in told
    assert film.fresh("k") == written == film.record()
    assert film.fresh("p", name="picture_key") == written
    assert film.fresh("other") is None
    film.path.write_bytes(b"mlif")
    os.utime(film.path, ns=(5, 5))
    assert film.fresh("k") is None, "altered"
    film.remove()
    film.remove()
    assert list(tmp_path.iterdir()) == []


# --- locks -------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from talkies.run.lock import lock
with lock(Path(sys.argv[1]), say=lambda text: print(text, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
"""
HERE = socket.gethostname()


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until it reads a line."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks" / "pairs-0001.lock"


def take(path: Path) -> list[str]:
    """Take and release a lock that is free or stale; return the messages."""
    said: list[str] = []
    with lock(path, say=said.append):
        held = read_json(path)
        assert held is not None
        assert (held["pid"], held["host"]) == (os.getpid(), HERE)
    assert list(path.parent.iterdir()) == [], "nothing is left"
    return said


def test_a_free_lock_is_taken_renewed_and_given_back_also_after_an_error(path: Path) -> None:
    assert take(path) == []
    with pytest.raises(ZeroDivisionError), lock(path, say=print):  # noqa: PT012
        os.utime(path, (0, 0))
        assert renew(path)
        assert time.time() - path.stat().st_mtime < 60
        _ = 1 / 0
    renew(path)
    assert list(path.parent.iterdir()) == []


def test_two_processes_hold_a_lock_one_after_the_other_and_that_of_a_killed_one_is_broken(path: Path) -> None:
    first = holder(path)
    assert first.stdout.readline() == "held\n"
    assert held_locks(path.parent) == [f"pairs-0001: process {first.pid} on {HERE}"]
    second = holder(path)
    assert second.stdout.readline() == f"waiting: process {first.pid} on {HERE} is at work on this shard\n"
    first.communicate("\n")
    assert second.stdout.readline() == "held\n"
    assert read_json(path)["pid"] == second.pid
    second.kill()
    os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but remains a zombie
    assert held_locks(path.parent) == []
    assert take(path) == [f"breaking the lock of a job that is gone: process {second.pid} on {HERE}"]
    second.communicate()


OLD, RENEWED = GONE_SECONDS + 1, GONE_SECONDS - 60
OURS = {"host": HERE, "pid": os.getpid(), "namespace": locks._pid_namespace()}
JOB = {"slurm_job": "4711"}
HELD = [
    ({}, RENEWED),
    ({}, 0),
    (JOB, 0),
    (OURS | {"pid": 2**22, "namespace": "pid:[1]"}, 0),  # a process number of another container
]
BROKEN = [
    ({}, OLD),
    (JOB, OLD),
    (OURS, 0),  # a later process with the number of a dead one: it began at another time
    *((OURS | {"pid": pid}, 0) for pid in ("x", None, [1])),
]


def prepare(path: Path, facts: dict, age: float) -> None:
    """Write another job's lock, renewed so many seconds ago."""
    other = {"host": "elsewhere", "pid": 1, "started": "x/1", "namespace": "n", "slurm_job": None}
    path.write_text(json.dumps(other | facts))
    os.utime(path, (time.time() - age,) * 2)


class StillWaiting(Exception):
    """A lock was not given three times."""


def waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Try to take a lock that is held; return the messages while waiting."""
    said: list[str] = []
    turns = iter(range(2))

    def wait(_: float) -> None:
        if next(turns, None) is None:
            raise StillWaiting

    monkeypatch.setattr(locks, "time", SimpleNamespace(time=time.time, sleep=wait))
    with pytest.raises(StillWaiting), lock(path, say=said.append):
        pytest.fail("the lock was taken from its holder")
    return said


@pytest.mark.parametrize(("facts", "age"), HELD)
def test_the_lock_of_a_job_that_may_be_alive_holds(
    path: Path, facts: dict, age: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(path, facts, age)
    (said,) = waits(path, monkeypatch)
    assert said.startswith("waiting: process ")
    assert said.endswith(f"{' (SLURM job 4711)' * ('slurm_job' in facts)} is at work on this shard")
    assert len(held_locks(path.parent)) == 1
    assert not renew(path), "we do not renew another process's lock"
    assert abs(time.time() - path.stat().st_mtime - age) < 30
    assert not is_abandoned(path), "Snakemake's own locks are removed only if its process is known to be gone"


@pytest.mark.parametrize(("facts", "age"), BROKEN)
def test_the_lock_of_a_job_that_is_gone_is_broken(path: Path, facts: dict, age: float) -> None:
    prepare(path, facts, age)
    assert held_locks(path.parent) == []
    assert is_abandoned(path) == (age == 0)
    (said,) = take(path)
    assert said.startswith("breaking the lock of a job that is gone: process ")


def test_a_worker_whose_lock_another_took_over_is_stopped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        with lock(path, say=print):
            path.write_text('{"host": "elsewhere", "pid": 1}')
            assert stopped.wait(20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert read_json(path) == {"host": "elsewhere", "pid": 1}, "the other one's lock stays"


def test_an_unreadable_lock_is_broken_by_its_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text('{"host": "els')
    with monkeypatch.context() as context:
        assert waits(path, context) == []
    os.utime(path, (time.time() - HEARTBEAT_SECONDS - 1,) * 2)
    assert take(path) == []
