"""Time pairs: one `talkies shard` for all of them, beside one process of the reference for each. Prints a table.

    python benchmarks/pairs.py [--model vox-adv-256] [--pictures 4] [--clips 2] [--frames 24] [--precision fp32]

Both decode, find keypoints, render and encode; the shard's time is that of its motion and its animate stage, each a
process that loads the model. Cropping and sound are outside of both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
import golden
import numpy as np
import yaml
from film import make_clip
from frames import checkpoint
from PIL import Image

BIN = Path(sys.executable).parent


def lay_out(folder: Path, args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Make a run folder of patterns; return its pairs of picture and clip."""
    for name in ("images", "driving"):
        (folder / name).mkdir()
    pictures, clips = [], []
    for number in range(args.pictures):
        pictures.append(folder / "images" / f"p{number}.png")
        pattern = golden.driving_frame(256, 256, 5 * number + 2)
        Image.fromarray((pattern * 255).round().astype(np.uint8)).save(pictures[-1])
    for number in range(args.clips):
        clips.append(folder / "driving" / f"c{number}.mp4")
        make_clip(clips[-1], 256, args.frames + number)  # lengths differ, so that no clip is another's copy
    model = {"preset": args.model, "checkpoint": None, "precision": args.precision, "device": "cpu"}
    if args.model != "demo":
        model["checkpoint"] = str(checkpoint(args.model, folder))
    settings = {"images": "images", "driving": "driving", "crop": "none", "model": model, "audio": False}
    settings |= {"pairs_per_job": args.pictures * args.clips, "threads": args.threads}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "profiles").symlink_to(Path(__file__).resolve().parents[1] / "profiles")
    return [(picture, clip) for clip in clips for picture in pictures]


def run(folder: Path, *command: str) -> float:
    """Run a program in the folder; return the seconds."""
    begun = time.perf_counter()
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vox-adv-256")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = lay_out(folder, args)
        run(
            folder,
            "snakemake",
            "--until",
            "prepare",
            "--snakefile",
            str(Path(__file__).resolve().parents[1] / "Snakefile"),
        )
        shards = shard_names(folder)
        ours = 0.0
        threads = ("--threads", str(args.threads))
        for shard in shards["clips"]:
            receipt = f".talkies/receipts/motion/{shard}.json"
            ours += run(folder, "talkies", "shard", "motion", shard, "--receipt", receipt, *threads)
        for shard in shards["pairs"]:
            receipt = f".talkies/receipts/animate/{shard}.json"
            ours += run(folder, "talkies", "shard", "animate", shard, "--receipt", receipt, *threads)
        reference = [str(Path(__file__).with_name("reference.py"))]
        theirs = {"reference": 0.0, "reference, malloc tuned": 0.0}
        weights = checkpoint(args.model, folder)
        for number, (picture, clip) in enumerate(pairs):
            command = ["python", *reference, str(picture), str(clip), f"out{number}.mp4", "--model", args.model]
            command += ["--checkpoint", str(weights), *threads]
            theirs["reference"] += run(folder, *command)
            theirs["reference, malloc tuned"] += run(folder, *command, "--malloc-tuned")
    print(f"| {args.model}, {len(pairs)} pairs of {args.frames} frames | seconds | against it |\n|---|---|---|")
    print(f"| talkies shard, {args.precision} | {ours:.1f} | |")
    for what, seconds in theirs.items():
        print(f"| {what} | {seconds:.1f} | {seconds / ours:.2f} |")


def shard_names(folder: Path) -> dict[str, list[str]]:
    """Return the names of the plan's shards, of clips and of pairs."""
    code = "import json; from talkies.plan import Plan; p = Plan.load(); "
    code += "print(json.dumps({'clips': list(p.clips), 'pairs': list(p.shards)}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
