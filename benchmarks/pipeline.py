"""Time a film without the network, whose frames come from a tensor instead: is the encoder the limit?

    taskset -c 0,1 python benchmarks/pipeline.py [CLIP] [--films 12] [--frames 250] [--rounds 3] [--preset P]

The engine makes films of a drawn talkie, or of a clip, as in a job of the workflow. It prints frames a second of wall
time, and the processor time of the engine (converting colours, writing to the pipe) and of ffmpeg.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from encode import real, talkie
from PIL import Image

from talkies import media
from talkies.engines import FilmJob, Movement
from talkies.fomm.device import keep_memory
from talkies.fomm.engine import Engine
from talkies.fomm.model.checkpoint import load_model
from talkies.fomm.motion import detect_motion
from talkies.fomm.precision import fast_form
from talkies.machine.resources import available_threads


def used(who: int) -> float:
    """Return the processor seconds of this process, or of its children that have ended."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def without_network(engine: Engine, frames: np.ndarray) -> None:
    """Replace the network's output with these frames, uint8 [n, 256, 256, 3], repeated."""
    ready = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(255).contiguous()
    at = 0

    def generate(features: object, source: object, moved: torch.Tensor) -> SimpleNamespace:
        nonlocal at
        count = len(moved)
        at = (at + count) % (len(ready) - count)
        return SimpleNamespace(prediction=ready[at : at + count])

    engine.model.generate = generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="veryfast")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--encoder-threads", type=int, default=1, help="of each film's encoder")
    args = parser.parse_args()
    keep_memory()
    model = load_model("demo", device="cpu")
    frames = real(args.clip, args.frames) if args.clip else talkie(args.frames)
    found = detect_motion(model, list(frames[:2]), Fraction(25))
    value, jacobian = (np.resize(part, (args.frames, *part.shape[1:])) for part in (found.value, found.jacobian))
    motion = replace(found, value=value, jacobian=jacobian)
    print(f"| {available_threads()} cores, {args.preset} | frames/s | engine, ms of CPU a frame | ffmpeg |")
    print("|---|---|---|---|")
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as name, Engine(fast_form(model, "fp32"), batch=args.batch) as engine:
            folder = Path(name)
            motion.save(folder / "motion.npz")
            Image.fromarray(frames[0]).save(folder / "picture.png")

            def job(film: int, folder: Path = folder) -> FilmJob:
                writer = media.FrameWriter(
                    folder / f"{film}.mp4", Fraction(25), preset=args.preset, threads=args.encoder_threads
                )
                place = (folder / "picture.png", folder / "motion.npz", lambda: None, args.frames)
                ends = {"done": lambda seconds: None, "progress": lambda count: None}
                return FilmJob(str(film), "source", "take", "", *place, Movement(), writer, **ends)

            engine.prepare("source", frames[0])
            without_network(engine, frames)
            torch.set_num_threads(1)  # waiting threads would hide the cost
            began, own, theirs = time.perf_counter(), used(resource.RUSAGE_SELF), used(resource.RUSAGE_CHILDREN)
            assert all(fault is None for _, fault in engine.films(map(job, range(args.films))))
            count = args.films * args.frames
            took = time.perf_counter() - began
            spent = [used(resource.RUSAGE_SELF) - own, used(resource.RUSAGE_CHILDREN) - theirs]
            each = " | ".join(f"{1000 * seconds / count:.2f}" for seconds in spent)
            print(f"| round {number + 1} | {count / took:.0f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
