"""Limits for the processes that read what strangers made: a file may cost so much memory and time, and no more.

Memory is limited as RLIMIT_DATA counts it: what a process can write to and shares with nobody. RLIMIT_AS would count
addresses that are only reserved: ffmpeg reserves 0.9 GB for a clip of 1080 lines that it reads with 80 MB.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
from contextlib import suppress

MEMORY = 1_500_000_000  # bytes: a job that prepares files asks for 2 GB
CRASHES = frozenset([signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL])
"""Signals by which a decoder crashes: it does so again on the same file, so it is the file's fault. Others come from
outside."""


def limit_memory(process: int = 0) -> None:
    """Limit a process (0: this one) to MEMORY, and have it leave no file of its memory at a crash."""
    _lower(process, resource.RLIMIT_DATA, MEMORY)
    _lower(process, resource.RLIMIT_CORE, 0)


def limit_time(process: int, seconds: float) -> None:
    """Have a process killed (SIGKILL) after so many seconds of processor time.

    At the softer limit it would get SIGXCPU, which ffmpeg takes for a wish to end the film early.
    """
    _lower(process, resource.RLIMIT_CPU, max(1, round(seconds)))


def _lower(process: int, kind: int, most: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended already; a sandbox forbids to set limits
        _, hard = resource.prlimit(process, kind)
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.prlimit(process, kind, (most, most))


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used, also one that has ended and was not yet waited for."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def could_have_memory() -> bool:
    """Tell whether the machine grants as much memory as the limit allows.

    If so, a child that got none reached its own limit, and its file is at fault. If not (an `ulimit`, a machine that
    promises no more memory than it has), the machine is short, and another run may succeed.
    """
    try:
        mmap.mmap(-1, MEMORY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, ValueError):
        return False
    return True
