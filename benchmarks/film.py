"""Time and weigh whole films: does encoding and decoding hide behind inference, and does memory stay flat?

    python benchmarks/film.py [--model demo] [--frames 96] [--long 2000] [--rounds 3] [--threads 2]

For a whole film, a clip is decoded, its keypoints are found, and its frames are rendered and encoded. Inference alone
is the same computation with the clip in memory and nothing written. Peak memory is that of a process that makes one
whole film.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
from frames import checkpoint, images
from PIL import Image

from talkies import media
from talkies.engines import FilmJob, Movement
from talkies.fomm.device import keep_memory
from talkies.fomm.engine import Engine
from talkies.fomm.model.checkpoint import load_model
from talkies.fomm.motion import detect_motion
from talkies.fomm.precision import fast_form

RATE = Fraction(25)


def make_clip(path: Path, side: int, frames: int, first: int = 0) -> None:
    """Write a clip of the network's size: a moving pattern that repeats every 48 frames. first: its first frame."""
    _, drawn = images(side, 48)
    with media.FrameWriter(path, RATE, preset="ultrafast") as writer:
        for number in range(frames):
            writer.write(drawn[(first + number) % 48])


def whole(engine: Engine, clip: Path, picture: np.ndarray, out: Path) -> None:
    """Make a film from a clip's file."""
    side = engine.model.preset.size
    motion = detect_motion(engine.model, media.read_frames(media.probe(clip), size=side), RATE, batch=engine.batch)
    motion.save(out.with_suffix(".npz"))
    Image.fromarray(picture).save(out.with_suffix(".png"))
    writer = media.FrameWriter(out, RATE, crf=18, preset="medium", threads=engine.threads)
    place = out.with_suffix(".png"), out.with_suffix(".npz"), lambda: None, motion.frames
    ends = {"done": lambda seconds: None, "progress": lambda count: None}
    job = FilmJob("film", "picture", "take", "", *place, Movement(), writer, **ends)
    assert [fault for _, fault in engine.films([job])] == [None]


def alone(engine: Engine, frames: list[np.ndarray], picture: np.ndarray) -> None:
    """Do the computation for a film, but write nothing."""
    motion = detect_motion(engine.model, frames, RATE, batch=engine.batch)
    for _ in engine.predict(engine.prepare("picture", picture), motion, Movement()):
        pass


def peak(command: list[str]) -> float:
    """Return the largest resident size, in MB, of a process that runs this."""
    done = subprocess.run([sys.executable, __file__, *command], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weigh", nargs=2, metavar=("CLIP", "WEIGHTS"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    def engine(weights: Path) -> Engine:
        keep_memory()
        return Engine(fast_form(load_model(args.model, weights), args.precision), threads=args.threads)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out.mp4"
        if args.weigh:
            clip, weights = map(Path, args.weigh)
            with engine(weights) as loaded:
                whole(loaded, clip, images(loaded.model.preset.size, 0)[0], out)
            status = Path("/proc/self/status").read_text()
            print(status.split("VmHWM:")[1].split()[0])
            return
        weights = checkpoint(args.model, folder)
        begun = time.perf_counter()
        with engine(weights) as loaded:
            start = time.perf_counter() - begun
            side = loaded.model.preset.size
            picture, _ = images(side, 0)
            short, long = folder / "short.mp4", folder / "long.mp4"
            make_clip(short, side, args.frames)
            frames = list(media.read_frames(media.probe(short), size=side))
            alone(loaded, frames[: loaded.batch], picture)
            seconds: dict[str, list[float]] = {"inference alone": [], "whole film": []}
            for _ in range(args.rounds):
                for what, run in (
                    ("inference alone", lambda: alone(loaded, frames, picture)),
                    ("whole film", lambda: whole(loaded, short, picture, out)),
                ):
                    begun = time.perf_counter()
                    run()
                    seconds[what].append(time.perf_counter() - begun)
        print(f"| {args.model}, {args.precision}, {args.frames} frames | seconds | |\n|---|---|---|")
        base = median(seconds["inference alone"])
        for what, each in seconds.items():
            print(f"| {what} | {median(each):.2f} | {median(each) / base:.2f} |")
        print(f"| (start-up: weights read, rewritten) | {start:.2f} | |")
        make_clip(long, side, args.long)
        options = ["--model", args.model, "--precision", args.precision, "--threads", str(args.threads)]
        sizes = {
            count: peak([*options, "--weigh", str(clip), str(weights)])
            for count, clip in ((args.frames, short), (args.long, long))
        }
        print(f"\n| {args.model}, {args.precision} | peak memory, MB |\n|---|---|")
        for count, size in sizes.items():
            print(f"| {count} frames | {size:.0f} |")


if __name__ == "__main__":
    main()
