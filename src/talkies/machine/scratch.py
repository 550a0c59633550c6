"""Scratch: a process's temporary folder on a fast disk of its machine.

A process removes its folder when it ends. The folder of a killed process is removed by the next process of the same
user that uses scratch on that machine.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import TalkiesError, printable, size_text

log = logging.getLogger("talkies")

VARIABLES = ("SLURM_TMPDIR", "L_SCRATCH", "TMPDIR")
"""Variables in which clusters name a job's own folder; the first usable one counts."""
FULL = (errno.ENOSPC, errno.EDQUOT)
MEMORY = ("tmpfs", "ramfs", "devtmpfs")
"""File systems in memory, which counts for a job's memory limit."""
SYSTEMS = "the system's temporary folder"


@dataclass(frozen=True)
class Place:
    """A scratch folder and who named it. chosen: it was chosen on purpose, so a full disk is an error."""

    folder: Path
    named: str
    chosen: bool = True

    def __str__(self) -> str:
        return f"scratch {printable(self.folder)} ({self.named}, {socket.gethostname()})"


def find_place(wanted: str | None, *, say: Callable[[str], object] = log.info) -> Place | None:
    """Return the scratch folder: the wanted one, else $SLURM_TMPDIR, $L_SCRATCH, $TMPDIR or the system's.

    wanted: a path, in which variables ($USER) are filled in; TalkiesError if it can't be used. A variable with an
    unusable folder is skipped with a message. The system's folder is used only if it is not in memory. None: there is
    none, and films are made beside their final place.
    """
    if wanted is not None:
        folder = Path(os.path.expandvars(wanted)).expanduser()
        missing = re.search(r"\$\{?(\w+)", str(folder))
        if missing and not folder.exists():
            where = socket.gethostname()
            raise TalkiesError(f"scratch: {printable(wanted)}: {missing[1]} is not set on {where}: name a folder there")
        fault = _unusable(folder)
        if fault:
            raise TalkiesError(
                f"scratch: {printable(folder)}: {fault} on {socket.gethostname()}: make it there, or name another "
                "by scratch in config.yaml"
            )
        return Place(folder.resolve(), "as chosen")
    for name in VARIABLES:
        value = os.environ.get(name)
        if not value or (name == "TMPDIR" and Path(value) == Path(_system_folder() or "")):
            continue
        fault = _unusable(Path(value))
        if fault is None:
            return Place(Path(value).resolve(), f"${name}")
        say(f"${name} names {printable(value)}, which is passed over: {fault}")
    system = _system_folder()
    if system is None or _unusable(Path(system)):
        return None
    if file_system(Path(system)) in MEMORY:
        say(f"{system} lies in memory and is passed over: unfinished films are written beside their final place")
        return None
    return Place(Path(system).resolve(), SYSTEMS, chosen=False)


def _system_folder() -> str | None:
    return next((folder for folder in ("/tmp", "/var/tmp") if Path(folder).is_dir()), None)


def _unusable(folder: Path) -> str | None:
    if not folder.is_dir():
        return "there is no such folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "it is not writable"
    return None


def file_system(folder: Path) -> str:
    """Return the type of a folder's file system (ext4, nfs4, tmpfs, ...); empty if it is not known."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        device = folder.stat().st_dev
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == number:
            return rest.split()[0]
    return ""


class Scratch:
    """A worker's own folder on a scratch disk; without one, files are made in their final place."""

    def __init__(self, place: Place | None = None, folder: Path | None = None) -> None:
        self.place = place
        self.folder = folder
        self._needed = 0

    def require(self, size: int) -> None:
        """Check that there is space for `size` bytes; TalkiesError if there is not.

        The system's own temporary folder, which nobody chose, is then not used.
        """
        self._needed = size
        if self.folder is None or self.place is None or self._free() >= size:
            return
        if self.place.chosen:
            raise self.full()
        log.info("%s has no room for %s: films are made beside their place", self.place, size_text(size))
        self.folder = None

    def full(self) -> TalkiesError:
        """Return the error that says how much is free and how much is needed."""
        assert self.folder is not None
        return TalkiesError(
            f"{self.place} is full: {size_text(self._free())} free, about {size_text(self._needed)} needed: make room "
            "there, or name another folder by scratch in config.yaml, and run again; what was finished stays"
        )

    def is_to_blame(self, error: OSError) -> bool:
        """Return whether this disk is full, not the results' disk: by the error's file, else by the free space."""
        name = error.filename2 or error.filename
        return self.folder is not None and (str(self.folder) in str(name) if name else self._free() < self._needed)

    def _free(self) -> int:
        assert self.folder is not None
        return shutil.disk_usage(self.folder).free

    def unfinished(self, name: str) -> Path | None:
        """Return the path for an unfinished file; None: beside its final place."""
        return self.folder / name if self.folder else None


@contextmanager
def open_scratch(wanted: str | None, name: str) -> Iterator[Scratch]:
    """Give a worker its folder on the scratch disk, and remove it at the end, also after an error.

    wanted: as for find_place. name: the shard's. Raises TalkiesError, not the system's error, if the disk is full.
    """
    place = find_place(wanted)
    if place is None:
        yield Scratch()
        return
    log.debug("%s", place)
    with own_folder(name, place.folder) as folder:
        scratch = Scratch(place, folder)
        try:
            yield scratch
        except OSError as error:
            if error.errno in FULL and scratch.is_to_blame(error):
                raise scratch.full() from error
            raise


@contextmanager
def own_folder(name: str, within: Path | None = None) -> Iterator[Path]:
    """Make a folder for this process, mode 0700, and remove it at the end, also after an error.

    within: its parent, else the system's temporary folder. First remove folders of this user's killed processes on
    this machine: a living process holds a lock on its folder, which the kernel releases when it ends.
    """
    within = within or Path(tempfile.gettempdir())
    prefix = f"talkies-{socket.gethostname().partition('.')[0]}-"
    for left in within.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            if left.lstat().st_uid == os.geteuid() and (held := _hold(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)
    held = None
    while held is None:  # another process may remove a new folder before it is locked
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{name}-", dir=within))
        try:
            held = _hold(folder)
        except OSError:  # a file system without locks: no folder there is removed
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        # A folder that can't be removed (a lost disk) must not fail finished work.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _hold(folder: Path) -> int | None:
    """Lock a folder; return its descriptor, or None if a process holds it or it was removed meanwhile.

    OSError if folders can't be locked (some network file systems) or it is not a folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), folder.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
