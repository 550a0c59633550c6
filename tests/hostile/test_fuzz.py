"""Hundreds of damaged pictures and clips: each works or is refused in one line, without hanging or filling memory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
AT_ONCE = 2
SECONDS = 120  # more than this for one file, even on a busy machine, counts as hanging
MEMORY = 1.9  # GB, of the command and of each process that it starts
PASSING = ("try again", "unexpected", "out of memory", "memory to decode", "No space", "Cannot allocate", "run again")
"""Messages that blame the machine. The machine is fine here, so such a message about a file is wrong."""


def outcome(facts: dict) -> str:
    if facts["memory"] > MEMORY:
        return "over memory"
    if facts["code"] == 0:
        return "made"
    said = facts["said"]
    clear = len(said) == 1 and facts["file"].split(".")[0] in said[0] and not any(word in said[0] for word in PASSING)
    return "refused clearly" if facts["code"] == 1 and clear else "unexpected"


def fuzz(kind: str, count: int, folder: Path) -> dict[str, list[dict]]:
    """Run `count` seeds in parallel processes; return the results by outcome."""
    names = ("made", "refused clearly", "hung", "over memory", "unexpected")
    found: dict[str, list[dict]] = {name: [] for name in names}
    threads = [threading.Thread(target=work, args=(kind, first, count, folder, found)) for first in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def work(kind: str, first: int, count: int, folder: Path, found: dict[str, list[dict]]) -> None:
    """Run every AT_ONCE-th seed in one process, and start a new process if one dies or hangs."""
    own = folder / str(first)
    own.mkdir()
    while first < count:
        log = own / "stderr"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, FUZZ, kind, *map(str, (first, AT_ONCE, count)), own],
                stdout=subprocess.PIPE,
                bufsize=0,  # so that select() sees all unread output
                stderr=errors,
                start_new_session=True,
            )
        begun: dict = {}
        while line := next_line(process):
            facts = json.loads(line)
            if "code" in facts:
                found[outcome(facts)].append(facts)
                begun, first = {}, facts["seed"] + AT_ONCE
            else:
                begun = facts
        hung = line is None
        if hung:
            os.killpg(process.pid, signal.SIGKILL)
        if process.wait() or begun:
            found["hung" if hung else "unexpected"].append({**begun, "errors": log.read_text()[-1000:]})
            first = begun.get("seed", count) + AT_ONCE


def next_line(process: subprocess.Popen[bytes]) -> bytes | None:
    """Return the next line that a process prints, b"" at its end, or None if it prints nothing for too long."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], SECONDS)[0]:
        return None
    return process.stdout.readline()


def check(kind: str, count: int, folder: Path) -> None:
    found = fuzz(kind, count, folder)
    done = [facts for each in found.values() for facts in each if "seconds" in facts]
    longest = max(done, key=lambda facts: facts["seconds"])
    print(f"\n{kind}: {count} tried: " + ", ".join(f"{len(each)} {name}" for name, each in found.items()))
    print(
        f"longest {longest['seconds']:.1f} s ({longest['file']}), most memory {max(f['memory'] for f in done):.2f} GB"
    )
    print(Counter(facts["file"].partition("-")[2] for facts in found["made"]))
    for name in ("hung", "over memory", "unexpected"):
        assert not found[name], json.dumps(found[name][:5], indent=1)
    assert len(found["made"]) + len(found["refused clearly"]) == count
    assert min(len(found["made"]), len(found["refused clearly"])) > count // 20  # some files survive and some do not


@pytest.mark.parametrize(("kind", "count"), [("pictures", 63), ("clips", 20)])
def test_some_damaged_files(tmp_path: Path, kind: str, count: int) -> None:
    check(kind, count, tmp_path)


@pytest.mark.longest
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("pictures", 840), ("clips", 200)])
def test_hundreds_of_damaged_files(tmp_path: Path, kind: str, count: int) -> None:
    check(kind, count, tmp_path)
