"""Files that users give: only regular ones are opened, so that nothing waits for a pipe or reads a device for ever."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

from .errors import InputError

PATHS = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
"""What the system says of a path that leads nowhere, whatever the disk."""


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; InputError for a pipe, a socket or a device, else OSError.

    Without O_NONBLOCK opening a pipe would wait for its writer. What was opened is asked, not the name, which may
    lead elsewhere a moment later.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:  # so the system calls a socket, and a device that is not there
            raise
        raise InputError(path, "this is a socket or device, not a file: give a file") from None
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise InputError(path, "this is a device or pipe, not a file: give a file")
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_input(path: str | Path) -> BufferedReader:
    """Open a picture or clip; InputError unless it is a regular file with bytes that we may read."""
    try:
        file = open_regular(path)
        if not os.fstat(file.fileno()).st_size:
            file.close()
            raise InputError(path, "the file is empty; copy it again")
        return file
    except FileNotFoundError:
        broken = Path(path).is_symlink()
        reason = "the link leads nowhere: mend or remove it" if broken else "there is no such file: mend its name"
        raise InputError(path, reason) from None
    except IsADirectoryError:
        raise InputError(path, "this is a folder, not a file: give a file") from None
    except PermissionError:
        raise InputError(path, "no permission to read it; mend with chmod u+r") from None
    except ValueError:
        raise InputError(path, "not a possible file name: give another") from None
    except OSError as error:
        if error.errno in PATHS:
            raise InputError(path, f"{os.strerror(error.errno or 0).lower()}: mend the path") from None
        raise


def read_through(path: str | Path) -> None:
    """Raise OSError if the disk or the network, not the file's content, keeps us from reading it."""
    with open_regular(path) as file:
        while file.read(1 << 22):
            pass


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a regular file's bytes, in hexadecimal, read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
