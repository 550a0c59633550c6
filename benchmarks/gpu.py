"""Time the engine on this machine's GPU with each of its options, and print the tables to send with a report.

    python benchmarks/gpu.py [--model vox-adv-256 --checkpoint P] [--frames 256] [--batches 8 32] [--device cpu]

Without a checkpoint, the network has seeded weights, except the demo network; speed does not depend on them. The first
table shows how long a job takes until its first frames. The second shows, for each precision, memory layout and batch,
frames a second including keypoints, compared with the published demo's loop on the same device; the GPU's peak memory;
and the difference between the frames and those of that loop. --device cpu runs the same program without a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from frames import checkpoint, images

from talkies.engines import Movement
from talkies.fomm.device import built_for, choose_device, keep_memory
from talkies.fomm.engine import Engine, resized
from talkies.fomm.model.checkpoint import load_checkpoint, load_model
from talkies.fomm.model.first_order import FirstOrderModel, build_model
from talkies.fomm.model.presets import PRESETS
from talkies.fomm.motion import detect_motion, frames_to_tensor, transfer_motion
from talkies.fomm.precision import fast_form
from talkies.machine.resources import available_threads
from talkies.media.film import FILM_SIZE

START = """
import time; began = time.monotonic()
def told(what):
    global began
    if device.type == "cuda": torch.cuda.synchronize()
    print(f"| {what} | {time.monotonic() - began:.2f} |", flush=True); began = time.monotonic()
import torch; device = torch.device("cpu"); told("import torch")
import numpy as np, sys
from fractions import Fraction
from talkies.engines import Movement
from talkies.fomm.device import choose_device, keep_compiled, keep_memory
from talkies.fomm.engine import Engine
from talkies.fomm.model.checkpoint import load_model
from talkies.fomm.motion import detect_motion
from talkies.fomm.precision import fast_form
told("import talkies")
keep_memory(); keep_compiled(); device = choose_device(sys.argv[3]); told("a first computation on the device")
model = load_model(sys.argv[1], sys.argv[2], device); told("load the weights")
model = fast_form(model, "auto"); told("make the fast form")
engine = Engine(model)
side = model.preset.size; clip = list(np.zeros((engine.batch, side, side, 3), np.uint8) + 90)
source = engine.prepare("picture", clip[0]); told("encode the picture")
motion = detect_motion(engine.model, clip, Fraction(25), batch=engine.batch); told("keypoints of a first batch")
next(engine.predict(source, motion, Movement())); told("frames of a first batch")
next(engine.predict(source, motion, Movement())); told("frames of the next batch")
"""


def published(model: FirstOrderModel, clip: list[np.ndarray], picture: np.ndarray) -> np.ndarray:
    """Return the published demo's frames of a clip, uint8: one at a time, and the picture is encoded for each frame."""
    made = []
    preset = model.preset
    with torch.no_grad():
        source = frames_to_tensor(picture[None], model.device)
        kp_source = model.kp_detector(source)
        kp_initial = model.kp_detector(frames_to_tensor(clip[0][None], model.device))
        for frame in clip:
            kp_driving = model.kp_detector(frames_to_tensor(frame[None], model.device))
            moved = transfer_motion(*(kp_source, kp_driving, kp_initial), reach=preset.reach, openings=preset.openings)
            prediction = model.generator(source, kp_source, moved).prediction
            made.append(resized(prediction, FILM_SIZE).mul(255).round().byte()[0].permute(1, 2, 0).cpu().numpy())
    return np.stack(made)


def time_engine(
    model: FirstOrderModel,
    clip: list[np.ndarray],
    picture: np.ndarray,
    layout: torch.memory_format,
    precision: str,
    batch: int | None,
) -> tuple[float, float, int, np.ndarray]:
    """Return frames a second, the GPU's peak memory in GB, the batch that was used, and the frames."""
    cuda = model.device.type == "cuda"
    with Engine(fast_form(model, precision), batch=batch) as engine:
        engine.model.to(memory_format=layout)  # type: ignore[call-overload]
        prepared = engine.prepare("picture", picture)

        def make(frames: list[np.ndarray]) -> np.ndarray:
            motion = detect_motion(engine.model, frames, Fraction(25), batch=engine.batch)
            return np.concatenate(list(engine.predict(prepared, motion, Movement())))

        for _ in range(2):  # the first run selects algorithms
            make(clip[: engine.batch])
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        made = make(clip)
        seconds = time.perf_counter() - begun
        return len(clip) / seconds, torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0, engine.batch, made


def decibels(made: np.ndarray, wanted: np.ndarray) -> str:
    """Return the PSNR between two films, uint8."""
    error = float(np.mean((made.astype(np.float32) - wanted) ** 2))
    return f"{10 * math.log10(255**2 / error):.1f}" if error else "same"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vox-adv-256", choices=list(PRESETS))
    parser.add_argument("--checkpoint")
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "bf16"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    keep_memory()
    device = choose_device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{name}, {available_threads()} cores, torch {torch.__version__}, CUDA {torch.version.cuda}, {args.model}")
    print(f"built for {', '.join(built_for()) or 'processors'}\n\n| start of a job | seconds |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        weights = args.checkpoint or checkpoint(args.model, Path(folder))
        subprocess.run([sys.executable, "-c", START, args.model, str(weights), args.device], check=True)
        model = load_model(args.model, weights, device=device)
        model.photographs = None  # use only the first network
        plain = build_model(args.model)
        plain.load_state_dict(load_checkpoint(weights))
    picture, clip = images(model.preset.size, args.frames)
    plain = plain.requires_grad_(False).eval().to(device)
    published(plain, clip[:2], picture)
    begun = time.perf_counter()
    wanted = published(plain, clip, picture)
    slow = args.frames / (time.perf_counter() - begun)
    print("\n| precision | channels | batch | frames/s | against the demo's | peak GB | PSNR, dB |")
    print(
        f"|---|---|---|---|---|---|---|\n| demo's loop, fp32 | first | 1 | {slow:.1f} | 1.00 | | same |",
        flush=True,
    )
    layouts = {"last": torch.channels_last, "first": torch.contiguous_format}
    for precision, channels, batch in itertools.product(args.precisions, layouts, [*args.batches, None]):
        try:
            speed, memory, used, made = time_engine(model, clip, picture, layouts[channels], precision, batch)
        except torch.cuda.OutOfMemoryError:
            print(f"| {precision} | {channels} | {batch} | out of memory | | | |", flush=True)
            continue
        chosen = f"{used} (chosen)" if batch is None else str(used)
        told = (precision, channels, chosen, f"{speed:.1f}", f"{speed / slow:.2f}", f"{memory:.2f}")
        print(f"| {' | '.join(map(str, told))} | {decibels(made, wanted)} |", flush=True)


if __name__ == "__main__":
    main()
