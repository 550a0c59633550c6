"""Hundreds of damaged pictures and clips: each works or is refused in one line, without hanging or filling memory."""

from __future__ import annotations

import json
import resource
import signal
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import clips
import pytest
from pictures import KINDS

from talkies.cli import main
from talkies.media import guarded

SECONDS = 120  # more than this for one file, even on a busy machine, counts as hanging
MEMORY = 1.9  # GB, of the process that reads the file, and of what this one adds
PASSING = ("try again", "unexpected", "out of memory", "memory to decode", "No space", "Cannot allocate", "run again")
"""Messages that blame the machine. The machine is fine here, so such a message about a file is wrong."""
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
DAMAGED = {"headless.mov", "scratched.mp4", "truncated.mkv", "truncated.mp4", "cover-only.m4a", "sound-only.mp4"}
BLOWS: dict[str, Callable[[bytes, Random], bytes]] = {  # what becomes of some bytes
    "flip": lambda part, random: bytes([part[0] ^ 1 << random.randrange(8)]) + part[1:],
    "number": lambda part, random: struct.pack(random.choice("<>") + "I", random.choice(EXTREMES)) + part[4:],
    "twice": lambda part, random: part * random.choice((2, 2, 4, 101)),
    "without": lambda part, random: b"",
    "zeros": lambda part, random: bytes(len(part)),
    "noise": lambda part, random: random.randbytes(len(part)),
}


def damage(data: bytes, random: Random) -> tuple[str, bytes]:
    """Return what was done to a file, and the file. Half of the damage hits the first kilobyte, with the headers."""
    if random.random() < 0.15:
        return "cut", data[: random.randrange(len(data))]
    chosen = random.choices([*BLOWS], [4, 4, 2, 1, 1, 1], k=random.choice((1, 1, 2, 5, 20)))
    for blow in chosen:
        at = random.randrange(min(len(data), 1024) if random.random() < 0.5 else len(data))
        end = at + random.choice((1, 4, 16, 100, 1000))
        data = data[:at] + BLOWS[blow](data[at:end] or b"\0", random) + data[end:] or b"\0"
    return "+".join(chosen), data


def original(kind: str, seed: int, folder: Path) -> tuple[str, bytes]:
    """Return a file's name and content."""
    if kind == "clips":
        names = sorted(set(clips.names()) - DAMAGED)
        name = names[seed % len(names)]
        return name, clips.get(name).read_bytes()
    name, image, how, *_ = KINDS[seed % len(KINDS)]
    image.save(folder / name, **how)
    # The command takes a .gif for a clip; the content decides how the file is read.
    return name.replace(".gif", ".png"), (folder / name).read_bytes()


def peak() -> float:
    """Return the peak memory of the process that read the last file, in GB."""
    reader = guarded.children.queue[-1].process
    status = Path(f"/proc/{reader.pid}/status").read_text() if reader else ""
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e6 if "VmHWM:" in status else 0.0


def fuzz(kind: str, seeds: range, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage a file by each seed and crop it by the command."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    own, made, wrong = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, Counter[bool](), []
    for seed in seeds:
        name, data = original(kind, seed, folder)
        what, content = damage(data, Random(f"{kind} {seed}"))
        path = folder / f"{seed}-{name}"
        path.write_bytes(content)
        signal.alarm(SECONDS)  # the command stops at it
        try:
            out = folder / ("out.png" if kind == "pictures" else "out.mp4")
            code = main(["crop", str(path), "-o", str(out), "--mode", "center", "--size", "64"])
        finally:
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)
        said = [line for line in capsys.readouterr().err.splitlines() if "warning: " not in line]
        refused = code == 1 and len(said) == 1 and path.name.split(".")[0] in said[0]
        clear = code == 0 or (refused and not any(word in said[0] for word in PASSING))
        memory = max(peak(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 - own)
        made[code == 0] += 1
        if not clear or memory > MEMORY:
            wrong.append({"file": path.name, "damage": what, "code": code, "said": said, "memory": memory})
    assert not wrong, json.dumps(wrong[:5], indent=1)
    assert min(made[True], made[False]) > len(seeds) // 20, "some files survive and some do not"


@pytest.mark.parametrize(("kind", "count"), [("pictures", 63), ("clips", 20)])
def test_some_damaged_files(tmp_path: Path, capsys, kind: str, count: int) -> None:
    fuzz(kind, range(count), tmp_path, capsys)


@pytest.mark.longest
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first", "last"), [*(("pictures", n, n + 420) for n in (63, 483)), ("clips", 20, 220)]
)
def test_hundreds_of_damaged_files(tmp_path: Path, capsys, kind: str, first: int, last: int) -> None:
    fuzz(kind, range(first, last), tmp_path, capsys)
