"""The child process of `guarded`: it reads the files that it is given, one after the other, and answers."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import select
import socket
import threading
from importlib import import_module
from typing import Any, BinaryIO

from ..errors import InputError
from .guarded import ASKED_BYTES
from .limits import limit_memory

TASKS = {"picture": "picture_decoder", "clip": "clip_reader"}
"""The module for each task: `read(file, **options)` returns a value of JSON, and a descriptor of shared memory or None;
`why(head, error)` is what is wrong with a file, from its first bytes and an error."""


def serve(descriptor: int) -> None:
    """Read files, one for each message on a socket, until its other end closes."""
    limit_memory()
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_watch, args=(descriptor,), daemon=True).start()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(connection, ASKED_BYTES, 1)
        if not descriptors:
            return
        task, options = json.loads(asked)
        with os.fdopen(descriptors[0], "rb") as file:
            answer, shared = _answer(file, task, options)
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


def _answer(file: BinaryIO, task: str, options: dict[str, int]) -> tuple[dict[str, Any], int | None]:
    module = import_module(f".{TASKS[task]}", __package__)
    try:
        value, shared = module.read(file, **options)
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
