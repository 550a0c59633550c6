"""Limits of memory and time for the processes that read files of strangers.

RLIMIT_DATA limits the memory that a process can write to and does not share. RLIMIT_AS would also count reserved
addresses: ffmpeg reserves 0.9 GB for a clip of 1080 lines that it reads with 80 MB.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
from contextlib import suppress

MEMORY = 1_500_000_000  # bytes: a job that prepares files asks for 2 GB
CRASHES = frozenset([signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL])
"""Signals of a crash in a decoder: it will crash again on this file, so the file is at fault. Other signals come from
outside."""


def limit_memory(process: int = 0) -> None:
    """Limit a process (0: this one) to MEMORY, without a core dump after a crash."""
    _lower(process, resource.RLIMIT_DATA, MEMORY)
    _lower(process, resource.RLIMIT_CORE, 0)


def limit_time(process: int, seconds: float) -> None:
    """Let a process be killed (SIGKILL) after `seconds` seconds of processor time.

    At a soft limit it would get SIGXCPU, at which ffmpeg ends the film early without an error.
    """
    _lower(process, resource.RLIMIT_CPU, max(1, round(seconds)))


def _lower(process: int, kind: int, most: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended already, or a sandbox forbids limits
        _, hard = resource.prlimit(process, kind)
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.prlimit(process, kind, (most, most))


def processor_seconds(process: int) -> float:
    """Return the processor time of a process, which may have ended but must not have been waited for."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def could_have_memory() -> bool:
    """Return whether the machine grants as much memory as the limit allows.

    If so, a child that got no memory reached its own limit, and its file is at fault. If not (an `ulimit`, or no
    overcommit), the machine lacks memory, and another run may succeed.
    """
    try:
        mmap.mmap(-1, MEMORY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError):
        return False
    return True
