"""A run's records: keys that change only with their content, files that are whole or absent, and reliable locks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
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
from talkies.run.record import FilmPicture, Record, Recorded, Talkie, file_facts, is_unchanged

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


def test_equal_values_are_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": {"p": 2, "q": 3}})
    write_json(tmp_path / "b", {"y": {"q": 3, "p": 2}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


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


def test_a_film_can_be_described_before_it_has_its_name(tmp_path: Path) -> None:
    film, part = Recorded(tmp_path / "a.mp4", Record), tmp_path / ".a.mp4.part"
    part.write_bytes(b"film")
    film.describe(Record(key="k"), of=part)
    assert film.fresh("k") is None
    part.rename(film.path)
    assert film.fresh("k")


# --- locks -------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from talkies.run.lock import lock
with lock(Path(sys.argv[1]), say=lambda text: print(text, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(path: Path, **options) -> subprocess.Popen[str]:
    """Start a process that holds the lock until it reads a line."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def foreign(path: Path, *, age: float = 0, **facts: object) -> None:
    """Write the lock of a job on another machine."""
    content = {"host": "elsewhere", "pid": 1, "started": "x/1", "namespace": "n", "slurm_job": None, **facts}
    path.write_text(json.dumps(content))
    os.utime(path, (time.time() - age,) * 2)


def take_in_vain(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Try to take a lock that is held; return the messages while waiting."""
    said: list[str] = []

    class StillWaiting(Exception):
        pass

    def wait(_: float) -> None:
        turns.append(1)
        if len(turns) == 3:
            raise StillWaiting

    turns: list[int] = []
    monkeypatch.setattr(locks, "time", SimpleNamespace(time=time.time, sleep=wait))
    with pytest.raises(StillWaiting), lock(path, say=said.append):
        pytest.fail("the lock was taken from its holder")
    assert len(turns) == 3
    return said


def take(path: Path) -> list[str]:
    """Take and release a lock that is free or stale; return the messages."""
    said: list[str] = []
    with lock(path, say=said.append):
        held = read_json(path)
        assert held is not None
        assert (held["pid"], held["host"]) == (os.getpid(), socket.gethostname())
    assert list(path.parent.iterdir()) == [], "nothing is left"
    return said


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    locks._answers.clear()
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks" / "pairs-0001.lock"


def test_a_free_lock_is_taken_and_given_back_also_after_an_error(path: Path) -> None:
    assert take(path) == []
    with pytest.raises(ZeroDivisionError), lock(path, say=print):
        _ = 1 / 0
    assert list(path.parent.iterdir()) == []


def test_two_processes_hold_a_lock_one_after_the_other(path: Path) -> None:
    first = holder(path)
    assert first.stdout.readline() == "held\n"
    assert held_locks(path.parent) == [f"pairs-0001: process {first.pid} on {socket.gethostname()}"]
    second = holder(path)
    assert (
        second.stdout.readline() == f"waiting: process {first.pid} on {socket.gethostname()} is at work on this shard\n"
    )
    first.communicate("\n")
    assert second.stdout.readline() == "held\n"
    assert read_json(path)["pid"] == second.pid
    second.communicate("\n")
    assert (first.returncode, second.returncode) == (0, 0)
    assert list(path.parent.iterdir()) == []


def test_the_lock_of_a_killed_process_is_broken(path: Path) -> None:
    dead = holder(path)
    assert dead.stdout.readline() == "held\n"
    dead.kill()
    dead.communicate()
    assert path.exists()
    assert held_locks(path.parent) == []
    assert take(path) == [f"breaking the lock of a job that is gone: process {dead.pid} on {socket.gethostname()}"]


def test_a_zombie_holds_no_lock(path: Path) -> None:
    dead = holder(path)
    assert dead.stdout.readline() == "held\n"
    dead.kill()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but remains a zombie
    assert len(take(path)) == 1
    dead.communicate()


def test_a_process_of_a_dead_ones_number_does_not_hold_its_lock(path: Path) -> None:
    foreign(path, host=socket.gethostname(), pid=os.getpid(), started="x/1", namespace=locks._pid_namespace())
    assert len(take(path)) == 1


def test_a_process_number_of_another_container_says_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(path, host=socket.gethostname(), pid=2**22, namespace="pid:[1]")
    assert "is at work" in take_in_vain(path, monkeypatch)[0]


def test_another_machines_lock_holds_while_it_is_renewed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(path, age=GONE_SECONDS - 60)
    assert take_in_vain(path, monkeypatch) == ["waiting: process 1 on elsewhere is at work on this shard"]
    assert not renew(path), "we do not renew another process's lock"
    assert time.time() - path.stat().st_mtime > 60
    foreign(path)
    assert len(held_locks(path.parent)) == 1


def test_a_holder_renews_its_own_lock(path: Path) -> None:
    with lock(path, say=print):
        os.utime(path, (0, 0))
        assert renew(path)
        assert time.time() - path.stat().st_mtime < 60


def test_another_machines_lock_is_broken_when_it_was_not_renewed(path: Path) -> None:
    foreign(path, age=GONE_SECONDS + 1)
    assert held_locks(path.parent) == []
    assert "gone: process 1 on elsewhere" in take(path)[0]


def test_an_unreadable_lock_is_broken_by_its_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text('{"host": "els')
    with monkeypatch.context() as context:
        assert take_in_vain(path, context) == []
    os.utime(path, (time.time() - HEARTBEAT_SECONDS - 1,) * 2)
    assert take(path) == []


@pytest.mark.parametrize("pid", ["x", None, [1]])
def test_a_lock_that_names_no_process_is_a_dead_one(path: Path, pid: object) -> None:
    foreign(path, host=socket.gethostname(), pid=pid, namespace=locks._pid_namespace())
    assert held_locks(path.parent) == []
    take(path)


def test_renewing_a_lock_that_is_gone_does_nothing(path: Path) -> None:
    renew(path)
    assert not path.exists()


def squeue(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in for squeue on the path; return the file that records its arguments."""
    folder.mkdir()
    program, asked = folder / "squeue", folder / "asked"
    program.write_text(f'#!/bin/sh\nprintf "%s " "$@" >> "{asked}"\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return asked


def test_the_lock_of_a_job_that_slurm_knows_holds_however_old(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in ("RUNNING", "PENDING", "COMPLETING"):
        squeue(tmp_path / state, f"echo {state}", monkeypatch)
        foreign(path, slurm_job="4711", age=10 * GONE_SECONDS)
        assert take_in_vain(path, monkeypatch), state
        locks._answers.clear()
    asked = squeue(tmp_path / "bin", "echo SUSPENDED", monkeypatch)
    foreign(path, slurm_job="4711", age=10 * GONE_SECONDS)
    assert take_in_vain(path, monkeypatch) == [
        "waiting: process 1 on elsewhere (SLURM job 4711) is at work on this shard"
    ]
    assert asked.read_text().count("--jobs 4711 ") == 1, "SLURM is asked only once"
    monkeypatch.setattr(locks, "ASK_SECONDS", 0)
    take_in_vain(path, monkeypatch)
    assert asked.read_text().count("--jobs 4711 ") == 4


@pytest.mark.parametrize(
    "answer",
    [
        "true",
        "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        *(f"echo {state}" for state in ("COMPLETED", "CANCELLED", "NODE_FAIL", "TIMEOUT")),
    ],
)
def test_the_lock_of_a_job_that_slurm_knows_no_more_is_broken_at_once(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    squeue(tmp_path / "bin", answer, monkeypatch)
    foreign(path, slurm_job="4711")
    assert "SLURM job 4711" in take(path)[0]


@pytest.mark.parametrize("script", ["echo 'Unable to contact slurm controller' >&2; exit 1", None])
def test_where_slurm_says_nothing_the_age_decides(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    if script is None:
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    else:
        squeue(tmp_path / "bin", script, monkeypatch)
    foreign(path, slurm_job="4711")
    with monkeypatch.context() as context:
        take_in_vain(path, context)
    foreign(path, slurm_job="4711", age=GONE_SECONDS + 1)
    take(path)


def test_a_run_on_another_login_node_is_not_taken_for_dead_by_its_age(path: Path) -> None:
    """Snakemake's own locks of the folder are removed only when its process is known to be gone."""
    foreign(path, age=10 * GONE_SECONDS)
    assert not is_abandoned(path)
    foreign(path, host=socket.gethostname(), pid=os.getpid(), started="x/1", namespace=locks._pid_namespace())
    assert is_abandoned(path)


def test_a_squeue_that_hangs_says_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path / "bin", "exec sleep 60", monkeypatch)
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: real(*words, **options | {"timeout": 0.5}))
    foreign(path, slurm_job="4711", age=GONE_SECONDS + 1)
    assert "SLURM job 4711" in take(path)[0], "the age decides"


def test_a_job_that_slurm_started_again_does_not_wait_for_itself(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A requeued job keeps its number, so the running job that SLURM reports is the one that asks."""
    squeue(tmp_path / "bin", "echo RUNNING", monkeypatch)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    foreign(path, slurm_job="4711", slurm_restart="0")
    assert "SLURM job 4711" in take(path)[0]


def test_another_step_of_the_same_job_holds_its_lock_while_it_renews_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path / "bin", "echo RUNNING", monkeypatch)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    foreign(path, slurm_job="4711", slurm_restart="0")
    with monkeypatch.context() as context:
        take_in_vain(path, context)
    foreign(path, slurm_job="4711", slurm_restart="0", age=GONE_SECONDS + 1)
    take(path)
