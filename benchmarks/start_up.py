"""Time the start: `talkies animate` on a clip of one frame, and a dry run of the examples. Medians with warm caches.

vox-adv-256 has seeded weights here. Its first start makes the fast form, later ones read it from beside the weights.

python benchmarks/start_up.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from film import make_clip
from frames import checkpoint
from published import timed

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def seconds(command: list[str], rounds: int) -> list[tuple[float, float]]:
    """Run a program ``rounds`` times; return the wall seconds and the CPU seconds of each."""
    path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    return [timed(command, ROOT, path) for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clip, out = Path(name) / "one.mp4", Path(name) / "out.mp4"
        make_clip(clip, 256, 1)
        animate = [str(BIN / "talkies"), "animate", "--source", "examples/images/ada.png", "--driving", str(clip)]
        animate += ["-o", str(out), "--config", "crop.driving=none"]
        print("| start | the first | again | (each) | CPU seconds |\n|---|---|---|---|---|")
        vox = [*animate, "--model", "vox-adv-256", "--checkpoint", str(checkpoint("vox-adv-256", Path(name)))]
        for what, command in (
            ("talkies animate, one frame, demo", animate),
            ("the same in fp32", [*animate, "--config", "model.precision=fp32"]),
            ("vox-adv-256, fp32", [*vox, "--config", "model.precision=fp32"]),
            ("vox-adv-256, bf16", [*vox, "--config", "model.precision=bf16"]),
            ("snakemake -n, the examples", [str(BIN / "snakemake"), "-n", "--quiet"]),
        ):
            first, again = seconds(command, 1)[0][0], seconds(command, args.rounds)
            wall, used = (median(column) for column in zip(*again, strict=True))
            each = " ".join(f"{one:.2f}" for one, _ in again)
            print(f"| {what} | {first:.2f} | {wall:.2f} | {each} | {used:.2f} |", flush=True)


if __name__ == "__main__":
    main()
