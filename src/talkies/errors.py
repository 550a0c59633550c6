"""The errors a person meets: one line each, with the file or key, what is wrong, and what to do."""

from __future__ import annotations

from pathlib import Path


class TalkiesError(Exception):
    """Something a person can mend. `str()` is one line; the command line prints it and exits 1."""


class InputError(TalkiesError):
    """A picture or clip of the user's cannot be used.

    A shard records it in its receipt and goes on with its other pairs; any other error ends the shard.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{printable(self.path)}: {reason}")


class Stopped(BaseException):
    """The process was asked to stop (SIGTERM, SIGINT, the end of its job's time); the unfinished pair was discarded.

    Like KeyboardInterrupt it is raised anywhere, also inside libraries (a decoder, a log's handler) that take every
    Exception for a fault of their own and go on.
    """


def printable(name: str | Path) -> str:
    """Return a file name fit for one line of a terminal: control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name))


def counted(count: int, noun: str) -> str:
    """Say how many there are of what an English noun with a plural in -s names: 1 pair, 12 pairs."""
    return f"{count} {noun}{'s' * (count != 1)}"


def size_text(size: float) -> str:
    """Say a number of bytes: 1.2 GB, 3.4 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
