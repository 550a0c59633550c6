"""A child process that reads files of strangers, so that one that crashes it or needs too much harms nothing else.

It gets open files and opens nothing by name; memory and processor time are limited. It is started when first needed,
reads one file after the other, and is started again if it dies.
"""

from __future__ import annotations

import errno
import json
import math
import os
import queue
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..errors import InputError, TalkiesError, printable
from ..files import open_input
from .limits import CRASHES, MEMORY, could_have_memory, limit_memory

PATIENCE = 900  # seconds that a file may take on a busy machine; its processor time has its own limit
ASKED_BYTES, ANSWER_BYTES = 64, 1 << 16
AT_ONCE = 8  # files read at once, by several threads: most of that time is spent waiting for the disk
TASKS = {"picture": "pictures", "clip": "clip_reader"}
"""The module for each task: `read(file)` returns a value of JSON, and a descriptor of shared memory or None, and may
take a whole number; `why(head, error)` is what is wrong with a file, from its first bytes and an error."""


def read_guarded(path: str | Path, task: str, *, again: str, most: int) -> tuple[dict[str, Any], int]:
    """Let a child do one of `TASKS` with a file; return its answer, and a descriptor of shared memory or -1.

    task: its name, and after a space the number that it takes. again: what to do with a file that crashes it or needs
    too much. most: the file's largest size, bytes. Raises InputError if the file is at fault, TalkiesError, MemoryError
    or OSError if the machine failed.
    """
    with open_input(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise InputError(path, f"over {most / 1e9:.0f} GB is too large: give a smaller one")
        child = children.get()
        try:
            answer, shared = child.ask(path, file, task.encode())
        finally:
            children.put(child)
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
        serving = f"from talkies.media.guarded import serve; serve({theirs.fileno()})"
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


def _children() -> queue.LifoQueue[_Child]:
    """Return the children of this process; the last one that read a file reads the next."""
    found: queue.LifoQueue[_Child] = queue.LifoQueue()
    for _ in range(AT_ONCE):
        found.put(_Child())
    return found


children = _children()


def _forget() -> None:
    """A forked process must not share its parent's."""
    global children
    children = _children()


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


# --- the child process -------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Read files, one for each message on a socket, until its other end closes."""
    limit_memory()
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_watch, args=(descriptor,), daemon=True).start()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(connection, ASKED_BYTES, 1)
        if not descriptors:
            return
        with os.fdopen(descriptors[0], "rb") as file:
            answer, shared = _answer(file, asked.decode())
        try:
            socket.send_fds(connection, [json.dumps(answer).encode()], [] if shared is None else [shared])
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            if shared is not None:
                os.close(shared)


def _watch(descriptor: int) -> None:
    """End this process when its parent ends, even in the middle of a file."""
    poll = select.poll()
    poll.register(descriptor, 0)  # reports a hang-up, and nothing else
    poll.poll()
    os._exit(0)


def _answer(file: BinaryIO, asked: str) -> tuple[dict[str, Any], int | None]:
    task, *number = asked.split()
    module = import_module(f".{TASKS[task]}", __package__)
    try:
        value, shared = module.read(file, *map(int, number))
        return {"value": value}, shared
    except InputError as error:
        return {"reason": error.reason}, None
    except Exception as error:  # decoders raise any error on damaged data
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return {"heavy": True}, None
        try:
            head = read_through(file)
        except OSError as failure:  # the disk, not the file's content
            return {"errno": failure.errno}, None
        return {"reason": module.why(head, error)}, None


def read_through(file: BinaryIO) -> bytes:
    """Read a whole file and return its first bytes; OSError if the disk or the network prevents it."""
    file.seek(0)
    head = file.read(512)
    while file.read(1 << 22):
        pass
    return head


def allow(seconds: float) -> None:
    """Let this process be killed (SIGXCPU) after `seconds` more seconds of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
