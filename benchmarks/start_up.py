"""Time the start: `talkies animate` on a clip of one frame, and a dry run of the examples. Medians with warm caches.

vox-adv-256 has seeded weights here. Its first start makes the fast form, later ones read it from beside the weights.

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
from frames import checkpoint

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def seconds(command: list[str], rounds: int) -> list[float]:
    """Run a program ``rounds`` times; return the time of each."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}, check=True, capture_output=True
        )
        found.append(time.perf_counter() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clip, out = Path(name) / "one.mp4", Path(name) / "out.mp4"
        make_clip(clip, 256, 1)
        animate = [str(BIN / "talkies"), "animate", "--source", "examples/images/ada.png", "--driving", str(clip)]
        animate += ["-o", str(out), "--crop-driving", "none"]
        print("| start | the first | again | (each) |\n|---|---|---|---|")
        vox = [*animate, "--model", "vox-adv-256", "--checkpoint", str(checkpoint("vox-adv-256", Path(name)))]
        for what, command in (
            ("talkies animate, one frame, demo", animate),
            ("the same in fp32", [*animate, "--precision", "fp32"]),
            ("vox-adv-256, fp32", [*vox, "--precision", "fp32"]),
            ("vox-adv-256, bf16", [*vox, "--precision", "bf16"]),
            ("snakemake -n, the examples", [str(BIN / "snakemake"), "-n", "--quiet"]),
        ):
            first, each = seconds(command, 1)[0], seconds(command, args.rounds)
            print(f"| {what} | {first:.2f} | {median(each):.2f} | {' '.join(f'{s:.2f}' for s in each)} |", flush=True)


if __name__ == "__main__":
    main()
