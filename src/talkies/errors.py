"""The errors that users see: one line each, with the file or key, what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path


class TalkiesError(Exception):
    """An error that the user can fix. `str()` is one line; the command line prints it and exits with 1."""


class InputError(TalkiesError):
    """A picture or clip of the user's can't be used.

    A worker notes it in the ledger and goes on with its other items; any other error ends its job.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{printable(self.path)}: {reason}")


class Stopped(BaseException):
    """The process was asked to stop (SIGTERM, SIGINT, the end of its job's time); the unfinished pair was discarded.

    Like KeyboardInterrupt it does not derive from Exception, because libraries (a decoder, a log handler) catch every
    Exception and go on.
    """


def printable(name: str | Path) -> str:
    """Return a file name for one line of a terminal: control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun (plural in -s): 1 pair, 12 pairs."""
    return f"{count} {noun}{'s' * (count != 1)}"


def size_text(size: float) -> str:
    """Return a number of bytes in words: 1.2 GB, 3.4 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
