"""Runs ffmpeg: its arguments, its exit, and its messages if a file or the machine is at fault.

This is the ffmpeg of imageio-ffmpeg, which has no ffprobe.

Files may come from strangers: ffmpeg opens plain files only (no network, no playlists that name other
files), by absolute names behind `file:`, so that no name is taken for an option, a pattern or a protocol.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO

from ..errors import TalkiesError, printable
from .limits import CRASHES, MEMORY, could_have_memory, limit_memory, limit_time, processor_seconds

log = logging.getLogger("talkies")

# ffmpeg's demuxers for formats in one file (HLS, DASH, concat, image2 … open other files).
DEMUXERS = "mov,matroska,webm,avi,gif,apng,mpeg,mpegts,flv,asf,ogg,wav,mp3,flac,aac,aiff"
# swscale's flags. Without scaling, its plain conversion gives what every other reader of the file sees, and is nearer
# to the true colours (1 level off on flat patches) than the accurate path (2-3 levels). Scaling needs the accurate
# path.
PLAIN = "bicubic"
SCALING = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
STDERR_BYTES = 1 << 18
AGAIN = "copy or download it again, or convert it to mp4"
# The processor time, in seconds, that reading a file may take, and for each of its bytes: ten times that of a slow
# machine. Some files never end.
SECONDS = 60
SECONDS_A_BYTE = 1 / 20e6


@cache
def ffmpeg_path() -> str:
    """Return the path of imageio-ffmpeg's binary (`IMAGEIO_FFMPEG_EXE` names another)."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        found: str = get_ffmpeg_exe()
        return found
    except RuntimeError as error:
        raise TalkiesError(f"no ffmpeg: {error}; reinstall imageio-ffmpeg") from None


@cache
def ffmpeg_version() -> str:
    """Return ffmpeg's version, e.g. `9.0.2`: as imageio-ffmpeg's file is named, else as the program says."""
    if named := re.search(r"-v(\d[\w.]*)$", ffmpeg_path()):
        return named[1]
    with Ffmpeg(["-version"], bare=True) as process:
        words = process.stdout.read().decode(errors="replace").split()
        process.finish()
    return words[2] if words[:2] == ["ffmpeg", "version"] else "unknown"


def file_url(path: str | Path) -> str:
    """Return the address with which ffmpeg opens a file of any name."""
    return "file:" + os.path.abspath(path)  # noqa: PTH100 (Path.absolute keeps "..")


def input_arguments(path: str | Path, *options: str) -> list[str]:
    """Return the arguments that open this file and no other."""
    guard = ["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS]
    return [*guard, *options, "-i", file_url(path)]


class Ffmpeg:
    """One run of ffmpeg: it starts on entering the context, and has ended after leaving it.

    A thread reads its stderr and keeps only the head and the tail, so that a file with a million faults can neither
    block the run nor fill the memory. seconds: a limit of its processor time, which also limits its memory; give it
    to read files of strangers. If a limit stops it, the file is at fault, and `fault` says so.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: bool = False,
        timeout: float | None = None,
        level: str = "info",
        bare: bool = False,
        seconds: float | None = None,
    ) -> None:
        common = ["-hide_banner", "-nostats", "-nostdin", "-loglevel", level]
        self._command = [ffmpeg_path(), *([] if bare else common), *arguments]
        self._with_stdin = stdin
        self._timeout = timeout
        self._seconds = seconds
        self._head = bytearray()
        self._tail: deque[bytes] = deque(maxlen=200)
        self.timed_out = False
        self.code = 0
        self.fault: str | None = None

    def __enter__(self) -> Ffmpeg:
        environment = {k: v for k, v in os.environ.items() if k not in ("FFREPORT", "AV_LOG_FORCE_COLOR")}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE if self._with_stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=1 << 16,
            env=environment,
            # Only we get Ctrl-C of a terminal: ffmpeg would end its file early without an error.
            start_new_session=True,
        )
        if self._seconds is not None:
            limit_memory(self._process.pid)
            limit_time(self._process.pid, self._seconds)
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()
        self._timer = None
        if self._timeout is not None:
            self._timer = threading.Timer(self._timeout, self._expire)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._process.kill()  # nothing happens if it has ended
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # unwritten bytes for a process that is gone
        self._process.wait()
        self._drain.join()

    def _expire(self) -> None:
        self.timed_out = True
        self._process.kill()

    def _read_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            while line := pipe.readline(1 << 12):
                if len(self._head) < STDERR_BYTES:
                    self._head += line
                else:
                    self._tail.append(line)

    @property
    def stdout(self) -> IO[bytes]:
        """Its stdout."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        """Its stdin."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stderr(self) -> str:
        """Its stderr; complete after `finish`."""
        return (bytes(self._head) + b"".join(self._tail)).decode("utf-8", "surrogateescape")

    def finish(self) -> int:
        """Wait for its end and return the exit code (negative: the signal of a crash).

        Raises TalkiesError or OSError if the machine, not the file, is at fault; `fault` is the file's fault.
        """
        with suppress(ChildProcessError):  # another thread has killed it and waited for it
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        used = processor_seconds(self._process.pid)
        code = self.code = self._process.wait()
        self._drain.join()
        if self.timed_out:
            raise TalkiesError(f"{self._subject()}: ffmpeg did not finish within {self._timeout:g} s: try again")
        if -code in CRASHES:
            self.fault = "ffmpeg crashes on it: convert it to mp4 with another program"
        elif self._seconds is not None and code == -signal.SIGKILL and used > self._seconds - 1:
            self.fault = f"reading it takes over {self._seconds:.0f} s of processor time: convert it to mp4"
        # ffmpeg exits with 255 if it was asked to stop and ended its file early. 255 is also -1, which some demuxers
        # return for a damaged file.
        elif code < 0 or (code == 255 and not _says(self.stderr, errno.EPERM)):
            raise TalkiesError(f"{self._subject()}: ffmpeg was stopped (exit code {code}): try again")
        elif code and _says(self.stderr, errno.ENOMEM) and self._seconds is not None and could_have_memory():
            self.fault = f"reading it takes over {MEMORY / 1e9:g} GB of memory: convert it to a smaller mp4"
        elif code:
            _raise_if_transient(self.stderr, self._subject())
        return code

    def _subject(self) -> str:
        names = [a[5:] for a in self._command if a.startswith("file:")]
        return ", ".join(printable(n) for n in names)


# ffmpeg's messages if the machine is at fault. (Not EIO: damaged files give that too; see _read_through.)
TRANSIENT = [
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EAGAIN),
]


def _raise_if_transient(stderr: str, subject: str) -> None:
    """Raise OSError if ffmpeg lacked memory, disk space or file handles: another run may succeed."""
    for number in TRANSIENT:
        if _says(stderr, number):
            raise OSError(number, f"ffmpeg: {os.strerror(number)}", subject)


def _says(stderr: str, number: int) -> bool:
    """Return whether ffmpeg failed with this system error. Lines that quote a file are indented, and skipped."""
    return re.search(rf"(?m)^\S.*: {os.strerror(number)}$", stderr) is not None


def complaint(stderr: str) -> str:
    """Return the most telling line of ffmpeg's stderr, without its address and our file's name."""
    lines = [re.sub(r"^(\[[^\]]*\] )+", "", line).strip() for line in stderr.splitlines()]
    telling = [
        line
        for line in lines
        if line
        and not line.startswith(("Error opening input", "Error while", "Conversion failed", "Last message"))
        and re.search(r"(?i)not |no |error|invalid|fail|corrupt|unknown|missing|unsupported|end of file", line)
    ]
    return printable((telling or lines or ["no reason given"])[0][:200])


def seconds_for(path: Path) -> float:
    """Return the processor time, in seconds, that reading all of a file may take."""
    return SECONDS + SECONDS_A_BYTE * path.stat().st_size


def seconds_text(value: Fraction) -> str:
    """Return seconds in ffmpeg's form, to a nanosecond."""
    return f"{float(value):.9f}"
