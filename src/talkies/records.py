"""What a run remembers in files: content keys, the record beside each film, receipts, locks and the journal.

A record (JSON) beside a file tells what it was made from (its content key) and what it is (size, mtime,
sha256). A receipt tells what became of a shard's items and holds nothing that changes from run to run.
Every file is written beside its place, synced, and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import TalkiesError, printable
from .media import file_digest, publish

log = logging.getLogger("talkies")

RECIPE = 1
"""Part of every content key. Raise it by hand when the same inputs give other pixels or samples on purpose."""

HEARTBEAT_SECONDS = 20
"""How often a worker renews its lock."""
GONE_SECONDS = 120
"""How long a lock of another machine stays unrenewed before its job counts as gone, where no scheduler tells.

So it is in an image, which has no squeue: a killed worker's next attempt waits for this long, on a GPU that idles.
Shared file systems show times up to a minute late.
"""
LONGEST_FILE = 255
"""Bytes of a file's name, on the usual file systems."""
ASK_SECONDS = 15
"""How long the scheduler's answer about a job counts: its controller serves everyone, and many may wait for a lock."""
ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()  # noqa: SIM905
)
"""States of a job that is over, which squeue may still tell for some minutes."""


def content_key(**parts: Any) -> str:  # whatever JSON holds
    """Return the sha256 (hex) of everything that decides a result, and of the recipe's version."""
    return hashlib.sha256(_canonical({"recipe": RECIPE, **parts})).hexdigest()


def digest(value: Any) -> str:
    """Return a short digest of a JSON value, for telling whether a plan has changed."""
    return hashlib.sha256(_canonical(value)).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all: sorted keys, so that equal values are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(value, file, sort_keys=True, indent=1, ensure_ascii=False)
            file.write("\n")
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path, shape: Any = dict) -> dict[str, Any] | None:
    """Return a JSON file's object, or None when it is missing or has not this shape (a record that says nothing)."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and fits(value, shape) else None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError for any that can't be read, also one nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


NUMBER = (int, float)


def fits(value: Any, shape: Any) -> bool:
    """Tell whether a JSON value has a shape.

    A shape is a type; a tuple of shapes, of which one must fit; [the shape of every item], or of several items one by
    one; {name: the shape of what stands there, "*": of all values}, where other names may stand too; or None for null.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if "*" in shape:
            return all(fits(inner, shape["*"]) for inner in value.values())
        return all(name in value and fits(value[name], inner) for name, inner in shape.items())
    if isinstance(shape, list):
        if not isinstance(value, list) or len(value) != len(shape) != 1:
            return False
        return all(fits(item, shape[n % len(shape)]) for n, item in enumerate(value))
    if isinstance(shape, tuple):
        return any(fits(value, each) for each in shape)
    if shape is None:
        return value is None
    return isinstance(value, shape) and (shape in (bool, object) or not isinstance(value, bool))


def keep_aside(path: Path) -> Path:
    """Move what is not ours and stands in our way to a name beside it that says so, and say it; return that name.

    A link is moved itself, and nothing that it leads to.
    """
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    stem, suffix = os.fsencode(path.stem), os.fsencode(path.suffix)
    for number in range(1, 1000):
        mark = f".kept-{stamp}{f'-{number}' if number > 1 else ''}".encode()
        aside = path.with_name(os.fsdecode(stem[: LONGEST_FILE - len(mark) - len(suffix)] + mark + suffix))
        if not os.path.lexists(aside):
            break
    path.rename(aside)
    log.warning("%s was not made by talkies: kept as %s", printable(path), printable(aside.name))
    return aside


def write_page(path: Path, text: str) -> None:
    """Write a page (HTML or SVG) whole or not at all, with our seal at its end; what is no such page is kept aside.

    The seal, a comment that holds the digest of all before it, tells a page of ours, as we wrote it, from any other.
    """
    content = text.encode() + _seal(text.encode())
    if is_ours(path):
        if path.read_bytes() == content:
            return
    elif os.path.lexists(path):
        keep_aside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def is_ours(page: Path) -> bool:
    """Tell whether a page is one that `write_page` wrote, unchanged since."""
    if page.is_symlink() or not page.is_file():
        return False
    content = page.read_bytes()
    return content.endswith(_seal(content[:-SEAL]))


def _seal(content: bytes) -> bytes:
    return f"\n<!-- written by talkies {hashlib.sha256(content).hexdigest()} -->\n".encode()


SEAL = len(_seal(b""))


def file_facts(path: Path) -> dict[str, Any]:
    """Return what a record says of a file: size in bytes, mtime in nanoseconds, sha256."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": file_digest(path)}


def is_unchanged(path: Path, facts: Mapping[str, Any] | None) -> bool:
    """Tell whether a file is the one its record describes: by size and time first, by digest where time differs."""
    if not isinstance(facts, dict):
        return False
    try:
        status = path.stat()
        if status.st_size != facts.get("size"):
            return False
        return status.st_mtime_ns == facts.get("mtime_ns") or file_digest(path) == facts.get("sha256")
    except OSError:
        return False


FACTS = {"size": int, "mtime_ns": int, "sha256": str}
"""The shape of what a record says of a file."""


KEYS = ("key", "picture_key")


@dataclass(frozen=True)
class Recorded:
    """A file and the record (JSON) beside it, which is the truth about it.

    shape: what a record of this kind must hold (`fits`); one that does not is none.
    """

    path: Path
    shape: Any = field(default=dict, compare=False)

    @property
    def record_path(self) -> Path:
        """The JSON beside the file: its name with .json for its suffix."""
        return self.path.with_name(self.path.name.removesuffix(self.path.suffix) + ".json")

    def record(self) -> dict[str, Any]:
        """Return the record, empty where there is none."""
        return read_json(self.record_path, self.shape) or {}

    def fresh(self, key: str, *, name: str = "key") -> dict[str, Any] | None:
        """Return the record if it holds this content key and the file is the one it describes, else None."""
        record = self.record()
        if record.get(name) != key or not is_unchanged(self.path, record.get("file")):
            return None
        return record

    def describe(self, record: Mapping[str, Any], *, of: Path | None = None) -> dict[str, Any]:
        """Write the record, with the facts of the file (or of what will be renamed to it, `of`); return it."""
        complete = {**record, "file": file_facts(of or self.path)}
        write_json(self.record_path, complete)
        return complete

    def is_whole(self) -> bool:
        """Tell whether the file is there and is the one that its record describes."""
        return is_unchanged(self.path, self.record().get("file"))

    def blank(self) -> None:
        """Have the record claim nothing, so that the file counts as fresh for no key; it stays as it is."""
        if record := self.record():
            write_json(self.record_path, {**record, **{name: None for name in KEYS if name in record}})

    def keep_foreign(self, seen: Any = None) -> None:
        """Move out of the way what would be replaced and is not ours: the file or the record.

        A file is ours when it is the one that its record describes, or has the size and time of `seen`, [bytes,
        nanoseconds], as a worker last saw it.
        """
        if os.path.lexists(self.path):
            status = self.path.lstat()
            ours = self.is_whole() or [status.st_size, status.st_mtime_ns] == seen
            if self.path.is_symlink() or not ours:
                keep_aside(self.path)
        if os.path.lexists(self.record_path) and not self.record() and self.record_path.lstat().st_size:
            keep_aside(self.record_path)

    def remove(self) -> None:
        """Remove the file and its record, where they are."""
        self.path.unlink(missing_ok=True)
        self.record_path.unlink(missing_ok=True)


@dataclass
class Receipt:
    """What became of a shard's items: facts by item for the good ones, a reason for each that failed.

    asked: the spec of each item, good or failed: what was asked of it when it was answered.
    """

    done: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the receipt."""
        write_json(path, {"done": self.done, "failed": self.failed, "asked": self.asked})

    @classmethod
    def read(cls, path: Path) -> Receipt | None:
        """Read a receipt; None where it is missing or damaged, which is the same."""
        value = read_json(path, {"done": {"*": dict}, "failed": {"*": str}})
        if value is None or not fits(value.get("asked", {}), {"*": str}):
            return None
        return cls(value["done"], value["failed"], value.get("asked", {}))

    @classmethod
    def load(cls, path: Path) -> Receipt:
        """Read a receipt; TalkiesError when it is missing or damaged."""
        found = cls.read(path)
        if found is None:
            raise TalkiesError(f"{path}: this receipt is missing or damaged: run snakemake again")
        return found

    def answers(self, item: str, spec: str) -> bool:
        """Tell whether an item is answered, for good or ill, as it is asked for now."""
        return self.asked.get(item) == spec and (item in self.done or item in self.failed)

    def drop(self, item: str) -> None:
        """Forget what is told of an item."""
        for part in (self.done, self.failed, self.asked):
            part.pop(item, None)

    def doubt(self, item: str) -> bool:
        """Let an item be answered for no spec; tell whether it was for any. What was seen of its file stays known."""
        was = bool(self.asked.get(item))
        if was:
            self.asked[item] = ""
        return was


class Journal:
    """One line of JSON for each thing a shard's worker finishes, appended as it happens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, event: str, **facts: Any) -> None:
        """Append an event with its time (seconds since 1970)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, sort_keys=True)
        with self.path.open("ab+") as file:
            # A line that a killed worker left unfinished must not swallow this one.
            unfinished = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(("\n" * bool(unfinished) + line + "\n").encode())

    @staticmethod
    def read(folder: Path) -> Iterator[dict[str, Any]]:
        """Yield all events of a run's journals; a line that a killed worker left unfinished is passed over."""
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    event = parse_json(line)
                    if isinstance(event, dict):
                        yield event


@contextmanager
def lock(path: Path, *, say: Callable[[str], object]) -> Iterator[None]:
    """Hold a shard's lock: a file that names this job. Wait while the job that it names is alive.

    A lock is broken only when its job is gone: on this machine by process and start time, in a SLURM job by
    the scheduler's word, elsewhere when it was not renewed for GONE_SECONDS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    me = _this_job()
    told = False
    while not _take(path, me):
        holder = read_json(path)
        if holder is None:
            # Either just released, or its writer died before a byte reached the disk: the age decides.
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
    try:
        yield
    finally:
        if read_json(path) == me:
            path.unlink(missing_ok=True)


def claim(path: Path) -> None:
    """Write which job this is, for a later one to tell whether it still runs (`is_abandoned`)."""
    write_json(path, _this_job())


def is_abandoned(path: Path) -> bool:
    """Tell whether a job has claimed this file and is gone without having taken it away."""
    holder = read_json(path)
    return holder is not None and _is_known_gone(holder) is True  # its age says nothing: nobody renews it


def renew(path: Path) -> bool:
    """Show by the file's time that a lock's holder is alive; False when the lock is not this job's any more.

    A worker that slept for long (a suspended machine) may find that another has taken its place.
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
    """Create the lock with its content in one step (link fails where the name exists, also on NFS)."""
    mine = path.with_name(f".{path.name}.{me['host']}.{me['pid']}")
    mine.write_text(json.dumps(me), encoding="utf-8")
    try:
        os.link(mine, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        return _create(path, mine.read_bytes())  # a file system without hard links
    finally:
        mine.unlink(missing_ok=True)
    return True


def _create(path: Path, content: bytes) -> bool:
    """Create a file that must not be there yet; False where it is."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _break(path: Path, holder: Mapping[str, Any] | None) -> None:
    """Remove a dead lock; of several workers that find it dead, one gets the new one by `_take`.

    The lock is moved away first and looked at again: if another worker has broken it and holds a new one in
    the meantime, that one is put back.
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
        "slurm_restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def _describe(holder: Mapping[str, Any]) -> str:
    job = f" (SLURM job {holder['slurm_job']})" if holder.get("slurm_job") else ""
    return f"process {holder.get('pid')} on {printable(str(holder.get('host')))}{job}"


def _is_gone(path: Path, holder: Mapping[str, Any]) -> bool:
    """Tell whether the job that holds this lock is gone: by what is known of it, else by the lock's age."""
    known = _is_known_gone(holder)
    if known is not None:
        return known
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > GONE_SECONDS
    return True


def _is_known_gone(holder: Mapping[str, Any]) -> bool | None:
    """Tell whether a job is gone by its process, if it was of this machine, or by the scheduler; None: unknown."""
    if holder.get("host") == socket.gethostname() and holder.get("namespace") == _pid_namespace():
        # The start time tells a process from a later one of the same number.
        return _start_time(holder.get("pid")) != holder.get("started")
    if holder.get("slurm_job") and holder["slurm_job"] == os.environ.get("SLURM_JOB_ID"):
        # Our own job, which SLURM knows of course: before it was started anew elsewhere, or another step of it.
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        return True if holder.get("slurm_restart", restart) != restart else None
    if holder.get("slurm_job"):
        alive = _slurm_knows(str(holder["slurm_job"]))
        return None if alive is None else not alive
    return None


def _start_time(pid: object) -> str | None:
    """Return a process' start in clock ticks since boot, with the boot's id; None when it does not run."""
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


_answers: dict[str, tuple[float, bool | None]] = {}


def _slurm_knows(job: str) -> bool | None:
    """Tell by squeue whether a job is still there; None when squeue can't tell. Asked every ASK_SECONDS."""
    when, known = _answers.get(job, (0.0, None))
    if not 0 <= time.time() - when < ASK_SECONDS:
        known = _ask_squeue(job)
        _answers[job] = time.time(), known
    return known


def _ask_squeue(job: str) -> bool | None:
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%T"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return False if "Invalid job id" in answer.stderr else None
    states = answer.stdout.split()
    return any(state not in ENDED for state in states)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
