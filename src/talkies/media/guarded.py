"""A child process that reads files of strangers, so that one that crashes it or needs too much harms nothing else.

It gets open files and opens nothing by name; memory and processor time are limited (see `reader`). It is started when
first needed, reads one file after the other, and is started again if it dies.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import InputError, TalkiesError, printable
from ..files import open_input
from .limits import CRASHES, MEMORY, could_have_memory

PATIENCE = 900  # seconds that a file may take on a busy machine; its processor time has its own limit
ASKED_BYTES, ANSWER_BYTES = 64, 1 << 16
AT_ONCE = 8  # files read at once, by several threads: most of that time is spent waiting for the disk


def read_guarded(path: str | Path, task: str, *, again: str, most: int, **options: int) -> tuple[dict[str, Any], int]:
    """Let a child do one of `reader.TASKS` with a file; return its answer, and a descriptor of shared memory or -1.

    again: what to do with a file that crashes it or needs too much. most: the file's largest size, bytes. Raises
    InputError if the file is at fault, TalkiesError, MemoryError or OSError if the machine failed.
    """
    with open_input(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise InputError(path, f"over {most / 1e9:.0f} GB is too large: give a smaller one")
        with children.one() as child:
            answer, shared = child.ask(path, file, json.dumps([task, options]).encode())
    if "value" in answer:
        return answer["value"], shared
    raise _why(path, answer, again)


class _Child:
    """One such process."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def ask(self, path: str | Path, file: IO[bytes], asked: bytes) -> tuple[dict[str, Any], int]:
        """Return the child's answer, or {"ended": its exit code}."""
        try:
            answer, descriptors = self._exchange(file, asked)
        except EOFError:
            return {"ended": self.stop()}, -1
        except TimeoutError:
            self.stop()
            raise TalkiesError(f"{printable(path)}: it was not read within {PATIENCE} s: try again") from None
        except BaseException:  # also when asked to stop: nobody would read its answer
            self.stop()
            raise
        if "heavy" in answer:
            self.stop()  # its memory may be fragmented
        return answer, descriptors[0] if descriptors else -1

    def _exchange(self, file: IO[bytes], asked: bytes) -> tuple[dict[str, Any], list[int]]:
        """Send a file and return the answer; EOFError if the process ended instead."""
        if self._connection is None or (self.process and self.process.poll() is not None):
            self.stop()  # it has died since the last file
            self._connection = self._start()
        try:
            socket.send_fds(self._connection, [asked], [file.fileno()])
            answer, descriptors, _, _ = socket.recv_fds(self._connection, ANSWER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
        if not answer:
            raise EOFError
        return json.loads(answer), descriptors

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        # With this process's module path, and without the rest of Python's start, which takes time.
        path = [str(Path(__file__).resolve().parents[2]), *sys.path]
        serving = f"from talkies.media.reader import serve; serve({theirs.fileno()})"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {path!r}; {serving}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders' remarks are not needed
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # only we get Ctrl-C of a terminal
            )
        return ours

    def stop(self) -> int:
        """End the process, if there is one; return its exit code (negative: a signal)."""
        if self._connection is not None:
            self._connection.close()
        process, self.process, self._connection = self.process, None, None
        if process is None:
            return 0
        try:
            return process.wait(0.2)  # it has ended by itself, or ends when the connection closes
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


class _Children:
    """The children of this process; the last one that read a file reads the next."""

    def __init__(self) -> None:
        self.all = [_Child() for _ in range(AT_ONCE)]
        self.idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        for child in self.all:
            self.idle.put(child)

    @contextmanager
    def one(self) -> Iterator[_Child]:
        """Give one that is idle."""
        child = self.idle.get()
        try:
            yield child
        finally:
            self.idle.put(child)


children = _Children()


def _forget() -> None:
    """A forked process must not share its parent's."""
    global children
    children = _Children()


os.register_at_fork(after_in_child=_forget)


def _why(path: str | Path, answer: dict[str, Any], again: str) -> Exception:
    """Return the error for a file that was not read: the file's fault, or the machine's."""
    if "errno" in answer:
        return OSError(answer["errno"], os.strerror(answer["errno"]), str(path))
    ended = -answer.get("ended", 0)
    if "ended" in answer and ended != signal.SIGXCPU and ended not in CRASHES:
        return TalkiesError(f"{printable(path)}: the process that reads it was stopped ({ended}): try again")
    if not could_have_memory():
        return MemoryError(f"{printable(path)}: the machine has no memory to read it")
    if "reason" in answer:
        reason = answer["reason"]
    elif ended == signal.SIGXCPU:
        reason = f"reading it takes too long for its size: {again}"
    elif ended:
        reason = f"its decoder crashes on it: {again}"
    else:
        reason = f"reading it takes over {MEMORY / 1e9:g} GB of memory: {again}"
    return InputError(path, reason)
