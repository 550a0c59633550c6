"""Runs a program to its end, leaving nothing of it running."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
CAN_NOT_START = 127
"""The exit code, as in a shell, of a program that could not be started."""
LONGEST_LINE = 2000


@dataclass(frozen=True)
class Ended:
    """How a program ended. code: its exit code, 128 + N after signal N. last: the last lines it wrote."""

    code: int
    last: tuple[str, ...] = ()
    timed_out: bool = False

    @property
    def signal(self) -> int | None:
        """The signal that killed it, None if it ended by itself."""
        return self.code - 128 if 128 < self.code < 128 + signal.NSIG else None


def run(
    command: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    *,
    say: Callable[[str], object],
    seconds: float | None = None,
    look: Callable[[], object] | None = None,
    every: float = 2.0,
) -> Ended:
    """Run a program in a folder to its end. When this call ends, for any reason, its whole process group has ended.

    say: called with each line of its output. seconds: the time limit. look: called from time to time meanwhile.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Ended(CAN_NOT_START, (f"{error.filename or command[0]}: {error.strerror}",))
    # Reads from a pipe that nobody writes to: it is closed when we end, even by SIGKILL.
    end = f"read nothing; kill -s TERM -- -{process.pid}; sleep {GRACE}; kill -s KILL -- -{process.pid}"
    watch = subprocess.Popen(
        ["sh", "-c", end], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    last: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        while line := process.stdout.readline(LONGEST_LINE):
            if line := line.strip():
                last[:] = [*last[-9:], line]
                say(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    began, timed_out = time.monotonic(), False
    try:
        while not timed_out:
            left = every if seconds is None else min(every, began + seconds - time.monotonic())
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(left, 0.01))
                break
            timed_out = seconds is not None and time.monotonic() - began >= seconds
            if look is not None:
                look()
    finally:
        _end(process)
        watch.kill()
        watch.communicate()
        reader.join(GRACE)
    code = process.returncode
    return Ended(code if code >= 0 else 128 - code, tuple(last), timed_out)


def _end(process: subprocess.Popen[str]) -> None:
    """End a program's process group: by SIGTERM, and after a while by SIGKILL."""
    began = time.monotonic()
    with suppress(ProcessLookupError, PermissionError):  # none of it is left
        while time.monotonic() - began < 2 * GRACE:
            os.killpg(process.pid, signal.SIGKILL if time.monotonic() - began > GRACE else signal.SIGTERM)
            process.poll()
            time.sleep(0.1)
