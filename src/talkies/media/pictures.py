"""Reads pictures. A child process, `picture_decoder`, decodes them; it is started once, and again if it dies."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import InputError, TalkiesError, printable
from ..files import open_input
from .limits import CRASHES, MEMORY, could_have_memory

if TYPE_CHECKING:  # importing numpy takes longer than importing this file
    import numpy as np
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]  # [height, width, 3], RGB

MIN_SIDE = 8  # pixels; smaller pictures show nothing
MAX_SIDE = 20_000
MAX_PIXELS = 120_000_000  # 120 MP: 360 MB as RGB
MAX_PICTURE_BYTES = 1 << 30
PATIENCE = 900  # seconds that a picture may take on a busy machine; its processor time has its own limit
ASKED_BYTES, ANSWER_BYTES = 16, 4096
AGAIN = "save it again with another program"


def size_fault(width: int, height: int) -> str | None:
    """Return what is wrong with the size of a picture or clip; None for a good one."""
    if min(width, height) < MIN_SIDE:
        return f"{width}x{height} pixels is too small: give one of at least {MIN_SIDE} a side"
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return (
            f"{width}x{height} pixels is too large: scale it to at most {MAX_SIDE:,} a side and "
            f"{MAX_PIXELS // 10**6} megapixels"
        )
    return None


def read_picture(path: str | Path) -> Frame:
    """Return a picture as viewers show it: uint8 [H,W,3], sRGB.

    It is turned as EXIF says, with transparency on white and its colour profile applied; grey, palette, 16 bit,
    float, CMYK and 1 bit are converted; of an animation it is the first frame.

    Raises InputError if it is not a picture, is damaged, crashes its decoder, needs too much memory or time, or has
    sides under 8 or over 20,000 pixels or over 120 megapixels; TalkiesError or OSError if the machine failed.
    """
    return _read(path, 0)[0]


def read_smaller(path: str | Path, side: int) -> tuple[Frame, tuple[int, int]]:
    """Return a picture as `read_picture` does, and the width and height that it would have there.

    A JPEG is decoded at a half, a quarter or an eighth of its size where its longer side then still has `side` pixels,
    which takes a fraction of the time; others come whole.
    """
    return _read(path, side)


def _read(path: str | Path, side: int) -> tuple[Frame, tuple[int, int]]:
    import numpy as np

    with open_input(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_PICTURE_BYTES:
            raise InputError(path, "over 1 GB is too large for a picture: give a smaller one")
        answer, shared = _here().decode(path, file, side)
    width, height = answer["size"]
    try:
        pixels = mmap.mmap(shared, width * height * 3)
    finally:
        os.close(shared)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3), tuple(answer["own"])


TAKEN = b"taken"
"""The process's message before it reads a picture: if it ends after this, that picture is at fault."""


class _Decoder:
    """The child process that decodes, one picture at a time for all threads."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def decode(self, path: str | Path, file: IO[bytes], side: int) -> tuple[dict[str, Any], int]:
        """Return a picture's size, the file's own, and the descriptor of shared memory with its pixels."""
        with self._turn:
            try:
                answer, pixels = self._ask(file, side)
            except BaseException as error:  # also when asked to stop: nobody would read its answer
                ended = self.stop()
                if isinstance(error, TimeoutError):
                    raise TalkiesError(
                        f"{printable(path)}: it was not decoded within {PATIENCE} s: try again"
                    ) from None
                if not isinstance(error, EOFError):
                    raise
                answer, pixels = {"ended": ended}, None
            if "heavy" in answer:
                self.stop()  # its memory may be fragmented
        if pixels is None:
            raise _why(path, answer)
        return answer, pixels

    def _ask(self, file: IO[bytes], side: int) -> tuple[dict[str, Any], int | None]:
        """Send a file and return the answer; EOFError if the process ended instead."""
        connection = self._connection
        if connection is None or not _takes(connection, file, side):
            self.stop()  # it may have died since the last picture
            connection = self._start()
            if not _takes(connection, file, side):
                raise EOFError
        try:
            answer, descriptors, _, _ = socket.recv_fds(connection, ANSWER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            raise EOFError from None
        if not answer:
            raise EOFError
        return json.loads(answer), descriptors[0] if descriptors else None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        # With this process's module path, and without the rest of Python's start, which takes time.
        path = [str(Path(__file__).resolve().parents[2]), *sys.path]
        serving = f"from talkies.media.picture_decoder import serve; serve({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {path!r}; {serving}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders' remarks are not needed
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # only we get Ctrl-C of a terminal
            )
        self._connection = ours
        return ours

    def stop(self) -> int:
        """End the process, if there is one; return its exit code (negative: a signal)."""
        if self._connection is not None:
            self._connection.close()
        process, self._process, self._connection = self._process, None, None
        if process is None:
            return 0
        try:
            return process.wait(0.2)  # it has ended by itself, or ends when the connection closes
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


_decoder = _Decoder()


def _here() -> _Decoder:
    """Return this process's decoder; a forked process must not share its parent's."""
    global _decoder
    if _decoder.owner != os.getpid():
        _decoder = _Decoder()
    return _decoder


def _takes(connection: socket.socket, file: IO[bytes], side: int) -> bool:
    """Send a file; return whether the process at the other end is alive and confirms it."""
    with suppress(BrokenPipeError, ConnectionResetError):
        socket.send_fds(connection, [str(side).encode()], [file.fileno()])
        return connection.recv(len(TAKEN)) == TAKEN
    return False


def _why(path: str | Path, answer: dict[str, Any]) -> Exception:
    """Return the error for a missing picture: the file's fault, or the machine's."""
    if "errno" in answer:
        return OSError(answer["errno"], os.strerror(answer["errno"]), str(path))
    ended = -answer.get("ended", 0)
    if "ended" in answer and ended != signal.SIGXCPU and ended not in CRASHES:
        return TalkiesError(f"{printable(path)}: the process that decodes it was stopped ({-ended}): try again")
    if not could_have_memory():
        return MemoryError(f"{printable(path)}: the machine has no memory to decode it")
    if "reason" in answer:
        reason = answer["reason"]
    elif ended == signal.SIGXCPU:
        reason = f"decoding it takes too long for its size: {AGAIN}"
    elif ended:
        reason = f"its decoder crashes on it: {AGAIN}"
    else:
        reason = f"decoding it takes over {MEMORY / 1e9:g} GB of memory: scale it down, or {AGAIN}"
    return InputError(path, reason)
