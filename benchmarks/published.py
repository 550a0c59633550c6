"""Time the published program and `talkies animate` from command to film, in turns. Prints a table.

    git clone https://github.com/AliaksandrSiarohin/first-order-model
    python benchmarks/published.py first-order-model [--python PYTHON] [--frames 48] [--rounds 3] [--threads 2]

PYTHON is one with what its demo.py needs (torch, imageio, scikit-image, ...). Both have the same seeded weights of
vox-adv-256, picture and clip. A first round, which is not counted, fills the file cache, and keeps our fast form. CPU
seconds are those of all threads and of ffmpeg: on a machine that is not idle, only these can be compared.
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

import numpy as np
import torch
from film import make_clip
from frames import images
from PIL import Image
from seeded import seeded_weights

from talkies import media
from talkies.fomm.device import bf16_unit
from talkies.fomm.model.first_order import build_model

MODEL = "vox-adv-256"


def write_inputs(folder: Path, frames: int) -> None:
    """Write weights as the published trainer does, a picture and a clip."""
    state = seeded_weights(build_model(MODEL))
    parts = {
        network: {name.split(".", 1)[1]: value for name, value in state.items() if name.startswith(network)}
        for network in ("generator", "kp_detector")
    }
    torch.save(parts, folder / "weights.pth.tar")
    Image.fromarray(images(256, 0)[0]).save(folder / "picture.png")
    make_clip(folder / "clip.mp4", 256, frames)


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Run a program in a folder; return its wall seconds and its CPU seconds."""
    began, before = time.perf_counter(), os.times()
    subprocess.run(command, cwd=folder, env=os.environ | environment, check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used


def decibels(film: Path, other: Path) -> float:
    """Return the PSNR of two films."""
    one, two = (np.stack(list(media.read_frames(media.probe(each)))).astype(float) for each in (film, other))
    return float(10 * np.log10(255**2 / np.square(one - two).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("program", type=Path, help="the folder of the published program")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs it (this one)")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, args.frames)
        weights, picture, clip = (str(folder / file) for file in ("weights.pth.tar", "picture.png", "clip.mp4"))
        published = [args.python, "demo.py", "--config", f"config/{MODEL}.yaml", "--checkpoint", weights]
        published += ["--source_image", picture, "--driving_video", clip, "--relative", "--adapt_scale", "--cpu"]
        commands = {"published": [*published, "--result_video", str(folder / "published.mp4")]}
        for precision in ("fp32", *(["bf16"] if bf16_unit() else [])):
            ours = [sys.executable, "-m", "talkies", "animate", picture, clip, "-o", str(folder / f"{precision}.mp4")]
            ours += ["--config", "crop=none", "--model", MODEL, "--checkpoint", weights]
            commands[precision] = [*ours, "--config", f"model.precision={precision}", "--threads", str(args.threads)]
        seconds: dict[str, list[tuple[float, float]]] = {what: [] for what in commands}
        for number in range(args.rounds + 1):
            for what, command in commands.items():
                found = timed(command, args.program, {"OMP_NUM_THREADS": str(args.threads)})
                if number:
                    seconds[what].append(found)
        print(f"| {args.frames} frames | seconds, median | (fastest to slowest) | | CPU seconds | | PSNR, dB |")
        print("|---|---|---|---|---|---|---|")
        base = [median(each) for each in zip(*seconds["published"], strict=True)]
        for what, each in seconds.items():
            wall, used = (median(column) for column in zip(*each, strict=True))
            span = f"{min(each)[0]:.1f} to {max(each)[0]:.1f}"
            ratios = f"{base[0] / wall:.1f}x | {used:.1f} | {base[1] / used:.1f}x"
            like = "" if what == "published" else f"{decibels(folder / f'{what}.mp4', folder / 'published.mp4'):.1f}"
            print(f"| {what} | {wall:.1f} | {span} | {ratios} | {like} |")


if __name__ == "__main__":
    main()
