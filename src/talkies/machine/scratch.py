"""Scratch: a process's temporary folder on a fast disk of its machine.

A process removes its folder when it ends. The folder of a killed process is removed by the next process of the same
user that uses scratch on that machine.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import TalkiesError, printable, size_text

VARIABLES = ("SLURM_TMPDIR", "L_SCRATCH", "TMPDIR")
"""Variables in which clusters name a job's own folder; the first usable one counts."""
FULL = (errno.ENOSPC, errno.EDQUOT)
LEAST_FREE = 1_000_000
"""Free bytes below which a disk is taken for the full one of which an error does not tell the file."""


def find_place(wanted: str | None) -> Path:
    """Return the scratch folder: the wanted one, else $SLURM_TMPDIR, $L_SCRATCH, $TMPDIR or the system's.

    wanted: a path, in which variables ($USER) are filled in; TalkiesError if it can't be used.
    """
    if wanted is not None:
        folder = Path(os.path.expandvars(wanted)).expanduser()
        if not _is_usable(folder):
            raise TalkiesError(
                f"scratch: {printable(folder)}: there is no such folder, or it is not writable, on "
                f"{socket.gethostname()}: make it there, or name another by scratch in config.yaml"
            )
        return folder.resolve()
    named = (Path(value) for name in VARIABLES if (value := os.environ.get(name)))
    return next(filter(_is_usable, named), Path(tempfile.gettempdir())).resolve()


def _is_usable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@contextmanager
def open_scratch(wanted: str | None, name: str) -> Iterator[Path]:
    """Give a worker its folder on the scratch disk, and remove it at the end, also after an error.

    wanted: as for find_place. name: the shard's. Raises TalkiesError, not the system's error, if the disk is full.
    """
    with own_folder(name, find_place(wanted)) as folder:
        try:
            yield folder
        except OSError as error:
            file, free = error.filename2 or error.filename, shutil.disk_usage(folder).free
            if error.errno not in FULL or not (str(folder) in str(file) if file else free < LEAST_FREE):
                raise
            raise TalkiesError(
                f"scratch {printable(folder.parent)} ({socket.gethostname()}) is full: {size_text(free)} free: make "
                "room there, or name another folder by scratch in config.yaml, and run again; what was finished stays"
            ) from error


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
