"""Time pairs: one `talkies shard` for all of them, beside one process of the reference for each. Prints a table.

    python benchmarks/pairs.py [--model vox-adv-256] [--pictures 8] [--clips 2] [--frames 96] [--references 4]

Both decode, find keypoints, render and encode. The shard's time is that of its motion and animate stages; each is a
process that loads the model, once in each precision. Cropping and sound are not part of either. The reference runs one
process for each pair, and all take about the same time. So only some pairs are timed, spread over all of them, before,
between and after the shards. Memory is the largest resident set of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import seeded
from film import make_clip
from frames import checkpoint
from PIL import Image
from workflow_scale import ROOT, Cost, measure, planned

from talkies.fomm.model.presets import PRESETS

BIN = Path(sys.executable).parent


def lay_out(folder: Path, args: argparse.Namespace, precision: str) -> list[tuple[Path, Path]]:
    """Make a run folder of patterns; return its pairs of picture and clip."""
    for name in ("images", "driving"):
        (folder / name).mkdir(parents=True)
    side = PRESETS[args.model].size
    pictures, clips = [], []
    for number in range(args.pictures):
        pictures.append(folder / "images" / f"p{number}.png")
        pattern = seeded.driving_frame(side, side, 5 * number + 2)
        Image.fromarray((pattern * 255).round().astype(np.uint8)).save(pictures[-1])
    for number in range(args.clips):
        clips.append(folder / "driving" / f"c{number}.mp4")
        make_clip(clips[-1], side, args.frames, first=number)  # so that no two clips are equal
    model = {"preset": args.model, "checkpoint": None, "precision": precision, "device": "cpu"}
    if args.model != "demo":
        model["checkpoint"] = str(checkpoint(args.model, folder))
    settings = {"images": "images", "driving": "driving", "crop": "none", "model": model, "audio": False}
    settings |= {"pairs_per_job": args.pictures * args.clips, "threads": args.threads}
    (folder / "config.yaml").write_text(json.dumps(settings))
    (folder / "profiles").symlink_to(ROOT / "profiles")
    return [(picture, clip) for clip in clips for picture in pictures]


def run(folder: Path, *command: str) -> Cost:
    """Run a program of this Python environment in the folder."""
    return measure([str(BIN / command[0]), *command[1:]], folder)


def shard(folder: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Make a run folder's films; return the seconds and the MB it took."""
    run(folder, "snakemake", "--until", "prepare", "--snakefile", str(ROOT / "Snakefile"))
    plan = planned(folder)
    costs = []
    for stage, names in (("motion", plan.clips), ("animate", plan.shards)):
        for name in names:
            receipt = f".talkies/receipts/{stage}/{name}.json"
            command = ["talkies", "shard", stage, name, "--receipt", receipt, "--threads", str(args.threads)]
            costs.append(run(folder, *command))
    films = list((folder / ".talkies").rglob("*.mp4"))
    assert len(films) >= args.pictures * args.clips, f"{len(films)} films"
    return sum(cost.wall for cost in costs), max(cost.megabytes for cost in costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vox-adv-256")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--references", type=int, default=4, help="how many of the pairs the reference makes")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = lay_out(folder / "fp32", args, "fp32")
        for precision in set(args.precisions) - {"fp32"}:
            lay_out(folder / precision, args, precision)
        weights = checkpoint(args.model, folder)
        chosen = [pairs[k * len(pairs) // args.references] for k in range(args.references)]
        turns = np.array_split(np.arange(len(chosen)), len(args.precisions) + 1)
        found: dict[str, tuple[float, float]] = {}
        theirs: dict[str, list[Cost]] = {"reference": [], "reference, malloc tuned": []}
        for turn, numbers in enumerate(turns):
            for number in numbers:
                picture, clip = chosen[number]
                command = ["python", str(ROOT / "benchmarks/reference.py"), str(picture), str(clip), f"out{number}.mp4"]
                command += ["--model", args.model, "--checkpoint", str(weights), "--threads", str(args.threads)]
                theirs["reference"].append(run(folder, *command))
                theirs["reference, malloc tuned"].append(run(folder, *command, "--malloc-tuned"))
            if turn < len(args.precisions):
                precision = args.precisions[turn]
                found[f"one shard, {precision}"] = shard(folder / precision, args)
        for what, costs in theirs.items():
            all_pairs = len(pairs) * median(cost.wall for cost in costs)
            found[f"{what} (median of {len(costs)}, times {len(pairs)})"] = (
                all_pairs,
                max(cost.megabytes for cost in costs),
            )
        base, tuned = (len(pairs) * median(cost.wall for cost in costs) for costs in theirs.values())
    title = f"{args.model}, {args.pictures} pictures x {args.clips} clips x {args.frames} frames"
    print(f"| {title} | seconds | against the reference | malloc tuned | MB |\n|---|---|---|---|---|")
    for what, (seconds, size) in found.items():
        print(f"| {what} | {seconds:.0f} | {base / seconds:.2f} | {tuned / seconds:.2f} | {size:.0f} |")


if __name__ == "__main__":
    main()
