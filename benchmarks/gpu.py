"""Time the engine on this machine's GPU and print the table to send with a report (docs/performance.md).

    python benchmarks/gpu.py [--model vox-adv-256 --checkpoint P] [--frames 256] [--batches 8 32]

Without a checkpoint the network keeps the weights it was built with, unless it is the demo's: how fast it is does not
depend on them. For each precision and batch: frames a second, keypoints included, and the GPU's peak memory; the last
rows let torch.compile replay the generator as a CUDA graph. --device cpu runs the same program without a GPU.
"""

from __future__ import annotations

import argparse
import platform
import time
from fractions import Fraction

import numpy as np
import torch

from talkies.engines import Movement
from talkies.fomm.device import choose_device, keep_memory
from talkies.fomm.engine import Engine
from talkies.fomm.model import PRESETS, FirstOrderModel, build_model, load_model
from talkies.fomm.motion import detect_motion
from talkies.host.cores import available_threads


def network(name: str, checkpoint: str | None, device: torch.device) -> FirstOrderModel:
    """Load a network, or build it with weights that are as they come."""
    if checkpoint or PRESETS[name].checkpoint is None:
        return load_model(name, checkpoint, device=device)
    model = build_model(name).requires_grad_(False).eval().to(device)
    model.weights_digest = ""
    return model


def rate(model: FirstOrderModel, frames: list[np.ndarray], **options) -> tuple[float, float, int]:
    """Return frames a second, the GPU's peak memory in GB, and the batch that was used."""
    cuda = model.device.type == "cuda"
    with Engine(model, **options) as engine:
        prepared = engine.prepare("picture", frames[0])

        def make(clip: list[np.ndarray]) -> None:
            motion = detect_motion(engine.model, clip, Fraction(25), batch=engine.batch)
            for _ in engine.predict(prepared, motion, Movement()):
                pass

        for _ in range(2):  # the first is compiled, or finds its algorithms
            make(frames[: engine.batch])
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        make(frames)
        seconds = time.perf_counter() - begun
        return len(frames) / seconds, torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0, engine.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vox-adv-256", choices=list(PRESETS))
    parser.add_argument("--checkpoint")
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "bf16"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    keep_memory()
    device = choose_device(args.device)
    model = network(args.model, args.checkpoint, device)
    side = model.preset.size
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (args.frames, side, side, 3), dtype=np.uint8))
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{name}, {available_threads()} cores, torch {torch.__version__}, CUDA {torch.version.cuda}, {args.model}\n")
    print("| precision | batch | compiled | frames/s | peak GB |\n|---|---|---|---|---|")
    for compiled in (False,) if args.no_compile else (False, True):
        for precision in args.precisions:
            for batch in [*args.batches, None]:
                try:
                    speed, memory, used = rate(model, frames, precision=precision, batch=batch, compiled=compiled)
                except torch.cuda.OutOfMemoryError:
                    print(f"| {precision} | {batch} | {compiled} | out of memory | |", flush=True)
                    continue
                chosen = f"{used} (chosen)" if batch is None else str(used)
                print(f"| {precision} | {chosen} | {compiled} | {speed:.1f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
