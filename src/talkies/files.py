"""Files: only regular ones are opened (a pipe would wait, a device never ends), and files are written whole."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from .errors import InputError, printable

log = logging.getLogger("talkies")
T = TypeVar("T")


PATHS = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
"""The system's errors for a path that does not exist."""


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; InputError for a pipe, a socket or a device, else OSError.

    Without O_NONBLOCK, opening a pipe would wait for its writer. The opened file is checked, not the name, which may
    change meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:  # the system's error for a socket, and for a missing device
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
    """Open a picture or clip; InputError unless it is a regular, readable file that is not empty."""
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
    """Raise OSError if the disk or the network, not the file's content, prevents reading it."""
    with open_regular(path) as file:
        while file.read(1 << 22):
            pass


def check_zip(file: IO[bytes]) -> None:
    """Raise BadZipFile for a zip that would unpack to more than its size: PyTorch and numpy store uncompressed."""
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > os.fstat(file.fileno()).st_size:
        raise zipfile.BadZipFile(f"it would unpack to {unpacked / 1e9:.1f} GB")
    file.seek(0)


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a regular file's bytes, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PART = re.compile(r"\.+(.+?)(?:\.\d+-[0-9a-f]+\.part)+", re.DOTALL)
"""A temporary file's name, .NAME.PID-TIME.part, and that of a temporary file's own temporary file."""


def stem_of(name: str) -> str:
    """Return the part of a file's name for its temporary name: short enough for any file system."""
    return name.encode("utf-8", "surrogateescape")[:180].decode("utf-8", "ignore")


def beside(path: Path) -> Path:
    """Return a hidden temporary name in the same folder that no other process uses."""
    return path.with_name(f".{stem_of(path.name)}.{os.getpid()}-{time.monotonic_ns():x}.part")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file; at the end rename it to the file's name, or remove it after an error.

    So a file under its own name is never half written, even if the process is killed.
    """
    part = beside(path)
    try:
        yield part
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Move a finished file to its final name, so that it is never half there, even after a power cut."""
    with part.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:  # a full disk may be noticed only here, and the system names no file
            raise OSError(error.errno, error.strerror, str(part)) from None
    try:
        part.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        near = beside(path)  # from the scratch disk, which is another file system
        try:
            shutil.copyfile(part, near)
            publish(near, path)
        finally:
            near.unlink(missing_ok=True)
        part.unlink()
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no fsync for folders
            raise
    finally:
        os.close(folder)


def digest(value: Any) -> str:
    """Return the digest of a value of lists, dictionaries, texts and numbers."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:32]


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all: sorted keys, so that equal values are equal bytes."""
    write_whole(path, (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        keep_aside(path)
    with whole(path) as part:
        part.write_bytes(content)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's object, or None if it is missing or no such."""
    with suppress(OSError, ValueError):
        return from_json(path.read_bytes(), dict[str, Any])
    return None


def typed(value: Any, kind: type[T]) -> T:
    """Return values of JSON or YAML as a type; ValueError where they are no such."""
    return msgspec.convert(value, kind, dec_hook=from_plain)


def from_json(text: bytes, kind: type[T]) -> T:
    """Return a JSON text's value as a type; ValueError where it is no such, or no JSON."""
    try:
        return msgspec.json.decode(text, type=kind, dec_hook=from_plain)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def to_json(value: Any) -> bytes:
    """Return a typed value as JSON, its names in the order that they have in it."""
    return msgspec.json.encode(value, enc_hook=_plain) + b"\n"


def to_plain(value: Any) -> Any:
    """Return a typed value as values for JSON."""
    return msgspec.to_builtins(value, enc_hook=_plain)


def from_plain(kind: type, value: Any) -> Any:
    """Return what a plain value stands for: types that are written as one make it by `from_plain`."""
    return value if isinstance(value, kind) else kind.from_plain(value)  # type: ignore[attr-defined]


def _plain(value: Any) -> Any:
    return value.plain


def keep_aside(path: Path) -> Path:
    """Rename a file that is not ours and is in our way, and log that; return the new name.

    Of a link, the link itself is renamed, not its target.
    """
    now = time.time_ns()
    mark = f".kept-{time.strftime('%Y-%m-%d-%H%M%S', time.localtime(now // 10**9))}-{now % 10**9:09d}"
    aside = path.with_name(stem_of(path.stem) + mark + path.suffix)
    path.rename(aside)
    log.warning("%s is not as talkies made it: kept as %s", printable(path), printable(aside.name))
    return aside


def own_cache() -> Path | None:
    """Return this user's cache folder, mode 0700; None if there can't be one, or another user owns it.

    It is in $XDG_CACHE_HOME, else in ~/.cache; in an image, where the run folder is the home, in its .talkies.
    """
    home, here = Path(os.path.expanduser("~")), Path.cwd()  # noqa: PTH111  # there may be no home
    chosen = os.environ.get("XDG_CACHE_HOME")
    folder = Path(chosen, "talkies") if chosen else home / ".cache/talkies" if home != here else here / ".talkies/cache"
    with suppress(OSError):
        if folder.is_absolute():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.lstat().st_uid == os.geteuid():
                folder.chmod(0o700)
                return folder
    return None


def shipped(name: str) -> Path:
    """Return a folder that comes with the package (workflow, profiles, examples): in the wheel, else in the clone."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / name
