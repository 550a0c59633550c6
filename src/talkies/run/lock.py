"""Locks of shards and run folders, renewed by a heartbeat, so that two workers never write one film."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import printable
from ..files import read_json, write_json

log = logging.getLogger("talkies")

HEARTBEAT_SECONDS = 20
"""How often a worker renews its lock."""
GONE_SECONDS = 120
"""How long a lock of another machine may go without renewal before its job counts as ended. The next attempt of a
killed worker waits this long, and its GPU is idle. Shared file systems show times up to a minute late.
"""


@contextmanager
def lock(path: Path, *, say: Callable[[str], object]) -> Iterator[None]:
    """Hold a shard's lock, a file that names this job, and renew it. Wait while the job that it names is alive.

    A lock is broken only when its job has ended. On this machine the process and its start time show that; of another
    one, the lock must not have been renewed for GONE_SECONDS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    me = _this_job()
    told = False
    while not _take(path, me):
        holder = read_json(path)
        if holder is None:
            # Either just released, or its writer died before it was written: the file's age decides.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > HEARTBEAT_SECONDS:
                    _break(path, None)
        elif _is_gone(path, holder):
            say(f"breaking the lock of a job that is gone: {_describe(holder)}")
            _break(path, holder)
            continue
        elif not told:
            say(f"waiting: {_describe(holder)} is at work on this shard")
            told = True
        time.sleep(0.5)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            if not renew(path):
                os.kill(os.getpid(), signal.SIGTERM)  # stop this worker: the other one has taken over
                return

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if read_json(path) == me:
            path.unlink(missing_ok=True)


def claim(path: Path) -> None:
    """Write this job's identity, from which a later job can see whether it still runs (`is_abandoned`)."""
    write_json(path, _this_job())


def is_abandoned(path: Path) -> bool:
    """Return whether the job that claimed this file has ended without removing it."""
    holder = read_json(path)
    return holder is not None and _is_known_gone(holder) is True  # claims are not renewed, so the age says nothing


def renew(path: Path) -> bool:
    """Renew a lock by setting the file's time; False if the lock is no longer this job's.

    After a long pause (a suspended machine) another worker may have taken over.
    """
    holder = read_json(path)
    with suppress(OSError):
        if holder == _this_job():
            os.utime(path)
    return holder is None or holder == _this_job()


def held_locks(folder: Path) -> list[str]:
    """Describe the locks in a folder whose jobs are alive."""
    alive = []
    for path in sorted(folder.glob("*.lock")):
        holder = read_json(path)
        if holder is not None and not _is_gone(path, holder):
            alive.append(f"{path.stem}: {_describe(holder)}")
    return alive


def _take(path: Path, me: Mapping[str, Any]) -> bool:
    """Create the lock; False if it is there already. Until it is written, it is taken for one just released."""
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(me, file)
    except FileExistsError:
        return False
    return True


def _break(path: Path, holder: Mapping[str, Any] | None) -> None:
    """Remove the lock of an ended job. Of several workers that do so, one gets the new lock by `_take`.

    The lock is moved away first and read again: if another worker has made a new one meanwhile, it is put back.
    """
    if read_json(path) != holder:
        return
    aside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.dead")
    with suppress(FileNotFoundError):
        path.rename(aside)
        if read_json(aside) != holder:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def _this_job() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": _start_time(pid),
        "namespace": _pid_namespace(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _describe(holder: Mapping[str, Any]) -> str:
    job = f" (SLURM job {holder['slurm_job']})" if holder.get("slurm_job") else ""
    return f"process {holder.get('pid')} on {printable(str(holder.get('host')))}{job}"


def _is_gone(path: Path, holder: Mapping[str, Any]) -> bool:
    """Return whether the job that holds this lock has ended: by what is known of it, else by the lock's age."""
    known = _is_known_gone(holder)
    if known is not None:
        return known
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > GONE_SECONDS
    return True


def _is_known_gone(holder: Mapping[str, Any]) -> bool | None:
    """Return whether a job has ended, by its process on this machine; None: unknown."""
    if holder.get("host") == socket.gethostname() and holder.get("namespace") == _pid_namespace():
        # The start time distinguishes a process from a later one with the same number.
        return _start_time(holder.get("pid")) != holder.get("started")
    return None


def _start_time(pid: object) -> str | None:
    """Return a process's start in clock ticks since boot, with the boot's id; None if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # Field 3 is the state: a zombie has ended and only waits for its parent.
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
