"""Time a frame: the engine, in every precision that this machine supports, against the reference. Prints a table.

    python benchmarks/frames.py [--model vox-adv-256] [--frames 8] [--rounds 3] [--threads 2]

Each contestant runs in a separate process, since the C library's memory is tuned for a whole process. They take turns
in each round, and only one works at a time. So the medians, and their ratios, come from one run on one machine. Weights
are seeded: speed does not depend on them, but the effect of rounding does. The time of a frame includes its keypoints
and its rendering. With --threads 1, processor seconds are counted instead of wall time, for machines that are not idle.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
import reference
import seeded
import torch

from talkies.engines import Movement
from talkies.fomm.device import bf16_unit, keep_memory
from talkies.fomm.engine import Engine, resized
from talkies.fomm.model.checkpoint import load_model, save_safetensors
from talkies.fomm.model.first_order import build_model
from talkies.fomm.model.presets import DEMO_WEIGHTS
from talkies.fomm.motion import detect_motion
from talkies.fomm.precision import fast_form
from talkies.media.film import FILM_SIZE

REFERENCES = ("reference", "reference, malloc tuned")


def checkpoint(preset: str, folder: Path) -> Path:
    """Return the path of a preset's weights: the package's own for demo, seeded ones for any other."""
    if preset == "demo":
        return DEMO_WEIGHTS
    path = folder / f"{preset}.safetensors"
    model = build_model(preset)
    save_safetensors(seeded.seeded_weights(model), path)
    return path


def images(side: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a picture and a clip, uint8 RGB."""
    drawn = [seeded.source_image(side, side), *(seeded.driving_frame(side, side, 3 * t) for t in range(count))]
    picture, *clip = ((image * 255).round().astype(np.uint8) for image in drawn)
    return picture, clip


def compete(name: str, preset: str, weights: str, frames: int, threads: int, out: Path) -> None:
    """Run one contestant: for each line of stdin, make the frames and print the seconds; save the last frames."""
    clock = time.perf_counter if threads > 1 else time.process_time
    torch.set_num_threads(threads)
    if name != REFERENCES[0]:
        reference.tune_malloc() if name in REFERENCES else keep_memory()
    if name in REFERENCES:
        model = reference.load(preset, weights)
        picture, clip = images(model.preset.size, frames)
        source, driving = picture / 255, [frame / 255 for frame in clip]

        def make() -> np.ndarray:
            return np.stack(reference.animate(model, source, driving))

    else:
        model = load_model(preset, weights)
        model.photographs = None  # the reference has only the first network, and the paper's motion
        model.preset = replace(model.preset, photographs=None, reach=None, openings=())
        engine = Engine(fast_form(model, name), threads=threads)
        picture, clip = images(engine.model.preset.size, frames)
        prepared = engine.prepare("picture", picture)

        def make() -> np.ndarray:
            motion = detect_motion(engine.model, clip, Fraction(25), batch=engine.batch)
            return np.concatenate(list(engine.predict(prepared, motion, Movement())))

    make()  # the first run is slower than the others
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = clock()
        made = make()
        print(clock() - begun, flush=True)
    np.save(out, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vox-adv-256")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compete", nargs=3, metavar=("NAME", "WEIGHTS", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compete:
        name, weights, out = args.compete
        compete(name, args.model, weights, args.frames, args.threads, Path(out))
        return
    names = [*REFERENCES, "fp32", *(["bf16"] if bf16_unit() else [])]
    with tempfile.TemporaryDirectory() as folder:
        weights = checkpoint(args.model, Path(folder))
        outs = {name: Path(folder) / f"{number}.npy" for number, name in enumerate(names)}
        workers = {}
        for name in names:
            command = [sys.executable, __file__, "--model", args.model, "--frames", str(args.frames)]
            command += ["--threads", str(args.threads), "--compete", name, str(weights), str(outs[name])]
            workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert workers[name].stdout.readline().strip() == "ready"  # start them one after another
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name, worker in workers.items():
                worker.stdin.write("go\n")
                worker.stdin.flush()
                seconds[name].append(float(worker.stdout.readline()) / args.frames)
        for worker in workers.values():
            worker.communicate()
        made = {name: np.load(path) for name, path in outs.items()}
    print(table(args.model, seconds, made))
    if "bf16" not in names:
        print("\nbf16: not measurable here, this processor has no bfloat16 products of its own")


def table(preset: str, seconds: dict[str, list[float]], made: dict[str, np.ndarray]) -> str:
    """Return the table: milliseconds, two ratios, and the difference between the frames and the reference's frames."""
    milliseconds = {name: 1000 * median(each) for name, each in seconds.items()}
    exact = to_film(made["reference"])
    lines = [
        f"| {preset} | ms a frame | (each round) | against the reference | malloc tuned | PSNR, dB | levels, at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in seconds.items():
        ratios = " | ".join(f"{milliseconds[r] / milliseconds[name]:.2f}" for r in REFERENCES)
        rounds = " ".join(f"{1000 * s:.0f}" for s in each)
        differ = np.abs(to_film(made[name]).astype(float) - exact)
        error = np.square(differ).mean()
        quality = f"{10 * np.log10(255**2 / error):.1f}" if error else "same"
        lines.append(f"| {name} | {milliseconds[name]:.0f} | {rounds} | {ratios} | {quality} | {differ.max():.0f} |")
    return "\n".join(lines)


def to_film(frames: np.ndarray) -> np.ndarray:
    """Return frames as in a film, uint8 of 256 x 256, from any of the contestants."""
    if frames.dtype == np.uint8:
        return frames
    large = resized(torch.from_numpy(frames).permute(0, 3, 1, 2), FILM_SIZE)
    return large.mul(255).round().byte().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main()
