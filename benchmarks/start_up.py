"""Time the start: `talkies animate` on a clip of one frame, and a dry run of the examples. Medians with warm caches.

python benchmarks/start_up.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from film import make_clip

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def seconds(command: list[str], rounds: int) -> list[float]:
    """Run a program once, then ``rounds`` times; return the time of each of these."""
    found = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}, check=True, capture_output=True
        )
        found.append(time.perf_counter() - begun)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clip, out = Path(name) / "one.mp4", Path(name) / "out.mp4"
        make_clip(clip, 256, 1)
        animate = [str(BIN / "talkies"), "animate", "--source", "examples/images/ada.png", "--driving", str(clip)]
        animate += ["-o", str(out), "--crop-driving", "none"]
        print("| start | seconds | (each) |\n|---|---|---|")
        for what, command in (
            ("talkies animate, one frame, demo", animate),
            ("the same in fp32", [*animate, "--precision", "fp32"]),
            ("snakemake -n, the examples", [str(BIN / "snakemake"), "-n", "--quiet"]),
        ):
            each = seconds(command, args.rounds)
            print(f"| {what} | {median(each):.2f} | {' '.join(f'{s:.2f}' for s in each)} |", flush=True)


if __name__ == "__main__":
    main()
