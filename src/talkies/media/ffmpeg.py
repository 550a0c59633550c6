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
# High dynamic range (PQ and HLG, ITU-R BT.2100) is mapped to the range of our films. Light is that of BT.2408: a white
# paper has 203 cd/m², an HLG display reaches 1000. What is up to nine tenths as bright as the paper stays as it is;
# brighter light is compressed by the Möbius curve of ffmpeg's tonemap, so that highlights keep some drawing. The result
# is for a display of BT.1886 (gamma 2.4) with the primaries of BT.709.
TRANSFERS = {16: "PQ", 18: "HLG"}  # the transfer functions' numbers in ITU-T H.273
WHITE, DISPLAY = 203, 1000  # cd/m²
KNEE, PEAK = 0.9, DISPLAY / WHITE  # of white


@cache
def ffmpeg_path() -> str:
    """Return the path of imageio-ffmpeg's binary (`IMAGEIO_FFMPEG_EXE` names another)."""
    from imageio_ffmpeg import binaries, get_ffmpeg_exe

    own = sorted(Path(binaries.__path__[0]).glob("ffmpeg-*"))
    if own and "IMAGEIO_FFMPEG_EXE" not in os.environ:
        return str(own[0])  # which imageio-ffmpeg would run each time, to see whether it works
    try:
        found: str = get_ffmpeg_exe()
        return found
    except RuntimeError as error:
        raise TalkiesError(f"no ffmpeg: {error}; reinstall imageio-ffmpeg") from None


@cache
def ffmpeg_version() -> str:
    """Return ffmpeg's version, e.g. `9.0.2`: as imageio-ffmpeg's file is named, else as the program says."""
    from imageio_ffmpeg import get_ffmpeg_version

    named = re.search(r"-v(\d[\w.]*)$", ffmpeg_path())
    return named[1] if named else str(get_ffmpeg_version())


def file_url(path: str | Path) -> str:
    """Return the address with which ffmpeg opens a file of any name."""
    return "file:" + os.path.abspath(path)  # noqa: PTH100 (Path.absolute keeps "..")


def input_arguments(path: str | Path, *options: str) -> list[str]:
    """Return the arguments that open this file and no other."""
    guard = ["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS]
    return [*guard, *options, "-i", file_url(path)]


class Ffmpeg:
    """One run of ffmpeg: it starts on entering the context, and has ended after leaving it.

    seconds: a limit of its processor time, which also limits its memory; give it to read files of strangers. If a limit
    stops it, the file is at fault.
    """

    def __init__(self, arguments: Sequence[str], *, stdin: bool = False, seconds: float | None = None) -> None:
        self._command = [ffmpeg_path(), "-hide_banner", "-nostats", "-nostdin", "-loglevel", "error", *arguments]
        self._with_stdin = stdin
        self._seconds = seconds
        self._said = b""

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
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # nothing happens if it has ended
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # unwritten bytes for a process that is gone
                if pipe is not None:
                    pipe.close()
        self._process.wait()
        self._drain.join()

    def _read_stderr(self) -> None:
        """Keep only its head: a file with a million faults must neither block the run nor fill the memory."""
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            self._said = pipe.read(STDERR_BYTES)
            while pipe.read(STDERR_BYTES):
                pass

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

    def finish(self) -> str | None:
        """Read what is left of its stdout and wait for its end; return what is wrong with its input, None for nothing.

        Raises TalkiesError or OSError if the machine, not the file, is at fault.
        """
        self.stdout.read()
        with suppress(ChildProcessError):  # another thread has killed it and waited for it
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        used = processor_seconds(self._process.pid)
        code = self._process.wait()
        self._drain.join()
        failure = 256 - code  # ffmpeg exits with the system's error number, or its own, negative
        if not code:
            return None
        if -code in CRASHES:
            return "ffmpeg crashes on it: convert it to mp4 with another program"
        if self._seconds is not None and code == -signal.SIGKILL and used > self._seconds - 1:
            return f"reading it takes over {self._seconds:.0f} s of processor time: convert it to mp4"
        # ffmpeg exits with 255 if it was asked to stop. That is also EPERM, as some decoders call a damaged file.
        if code < 0 or (failure == errno.EPERM and os.strerror(errno.EPERM).encode() not in self._said):
            raise TalkiesError(f"{self._subject()}: ffmpeg was stopped (exit code {code}): try again")
        if failure == errno.ENOMEM and self._seconds is not None and could_have_memory():
            return f"reading it takes over {MEMORY / 1e9:g} GB of memory: convert it to a smaller mp4"
        if failure in TRANSIENT:
            raise OSError(failure, f"ffmpeg: {os.strerror(failure)}", self._subject())
        return self._complaint()

    def _subject(self) -> str:
        return ", ".join(printable(argument[5:]) for argument in self._command if argument.startswith("file:"))

    def _complaint(self) -> str:
        """Return the first line of its stderr that tells something, without its address."""
        said = self._said.decode("utf-8", "surrogateescape")
        lines = [re.sub(r"^(\[[^\]]*\] )+", "", line).strip() for line in said.splitlines()]
        return printable(next((line[:200] for line in lines if not line.startswith("Last message")), "no reason given"))


TRANSIENT = [
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EAGAIN),
]
"""ffmpeg's errors if the machine is at fault. (Not EIO: damaged files give that too; see read_through.)"""


def run(arguments: Sequence[str], *, seconds: float | None = None) -> str | None:
    """Run ffmpeg and return what is wrong with its input, as `Ffmpeg.finish` does."""
    with Ffmpeg(arguments, seconds=seconds) as process:
        return process.finish()


def seconds_for(path: Path) -> float:
    """Return the processor time, in seconds, that reading all of a file may take."""
    return SECONDS + SECONDS_A_BYTE * path.stat().st_size


def seconds_text(value: Fraction) -> str:
    """Return seconds in ffmpeg's form, to a nanosecond."""
    return f"{float(value):.9f}"


def hdr_filters(transfer: str) -> str:
    """Return ffmpeg's filters from RGB of 16 bits with this transfer function to RGB of 8 bits."""
    name = {"PQ": "smpte2084", "HLG": "arib-std-b67"}[transfer]
    return (
        f"zscale=tin={name}:pin=bt2020:p=bt2020:t=linear:npl={WHITE}:agamma=0,format=gbrpf32le,zscale=p=bt709,"
        f"tonemap=mobius:param={KNEE}:peak={PEAK:.4f}:desat=0,zscale=t=bt709:agamma=0,format=rgb24"
    )
