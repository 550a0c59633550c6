"""Runs programs: for an answer, within a time limit (`ask`), or to their end, leaving nothing of them running (`run`).

`run` passes on the output line by line. It starts this file as a process of its own, the supervisor, which starts the
program. Processes whose parents end become the supervisor's children (PR_SET_CHILD_SUBREAPER), and it gets a signal
when we end (PR_SET_PDEATHSIG), even by SIGKILL. So it can end all of them: when the program ends, when we ask it to,
and when we can no longer ask.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ANSWER_SECONDS = 20.0
"""The time limit of a program that is asked."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
CAN_NOT_START = 127
"""The exit code, as in a shell, of a program that could not be started."""
LONGEST_LINE = 2000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


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


class Answer(NamedTuple):
    """A program's exit code (None: it is missing, or did not answer in time), its output, and why it failed."""

    code: int | None
    out: str = ""
    complaint: str = ""


def ask(*command: str, seconds: float | None = None) -> Answer:
    """Run a program for its answer. seconds: the time limit, usually ANSWER_SECONDS."""
    seconds = seconds or ANSWER_SECONDS
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # a child that hangs would keep a pipe open
        try:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=seconds).returncode
        except OSError as error:
            return Answer(None, complaint=error.strerror or str(error))
        except subprocess.TimeoutExpired:
            return Answer(None, complaint=f"no answer in {seconds:g} s")
        out.seek(0)
        err.seek(0)
        said, complaint = (file.read().decode(errors="replace").strip() for file in (out, err))
    return Answer(code, said, " ".join(complaint.split())[-200:])


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
    """Run a program in a folder to its end. When this call ends, for any reason, it and all it started have ended.

    say: called with each line of its output. seconds: the time limit. look: called from time to time meanwhile. Call
    this from the main thread: Linux signals the supervisor when the thread that started it ends.
    """
    process = subprocess.Popen(
        # -I, -S: this file needs no package, and finds none where the program's HOME is another.
        [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(os.getpid()), folder, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
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
        while True:
            left = every if seconds is None else min(every, began + seconds - time.monotonic())
            try:
                process.wait(max(left, 0.01))
                break
            except subprocess.TimeoutExpired:
                if seconds is not None and time.monotonic() - began >= seconds:
                    timed_out = True
                    break
                if look is not None:
                    look()
    finally:
        _end(process)
        reader.join(GRACE)
    code = process.returncode
    return Ended(code if code >= 0 else 128 - code, tuple(last), timed_out)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2 * GRACE + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the supervisor's own process ------------------------------------------------------------------------


class _Told(BaseException):
    """The supervisor was asked to end."""


def main(arguments: Sequence[str]) -> int:
    """Run a program for a process (its number, a folder, a command), its output on ours; return its exit code."""
    parent, folder, *command = arguments

    def told(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Told

    signal.signal(signal.SIGTERM, told)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    code = 128 + signal.SIGTERM
    try:
        if os.getppid() == int(parent):  # else it died before we could be signalled
            code = _run(command, folder)
    except _Told:
        pass
    finally:
        _end_descendants()
    sys.stdout.flush()
    return code


def _run(command: list[str], folder: str) -> int:
    try:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{error.filename or command[0]}: {error.strerror}", flush=True)
        return CAN_NOT_START
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end_descendants() -> None:
    """End every process below this one: SIGTERM, and after a while SIGKILL."""
    began = time.monotonic()
    while left := _descendants(os.getpid()):
        late = time.monotonic() - began > GRACE
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
        if time.monotonic() - began > 2 * GRACE:
            return
        time.sleep(0.1)
        with suppress(ChildProcessError):  # reap our own children
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _descendants(process: int) -> list[int]:
    """Return the processes below one that have not ended."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    below = [process]
    while below:
        below = [child for each in below for child in children.get(each, [])]
        found += below
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
