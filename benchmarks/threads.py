"""Time a node full of workers: with how many threads per worker does each core make the most frames a second?

    python benchmarks/threads.py [--model vox-adv-256] [--precision fp32] [--threads 1 2 4] [--frames 48] [--rounds 3]

All cores work at once, as on a cluster node without a GPU. Each worker has `threads` cores for itself, and its own
network. The time of a frame includes its keypoints. Without a checkpoint, the network has seeded weights, except the
demo network.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from fractions import Fraction
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import torch

WAIT_SECONDS = 120


def work(cores: list[int], args: argparse.Namespace, ready: Barrier, answers: Any) -> None:
    """Make the frames on these cores in each round, when all workers are ready; send the seconds and MB back."""
    os.sched_setaffinity(0, cores)
    from seeded import seeded_weights

    from talkies.engines import Movement
    from talkies.fomm.device import keep_memory
    from talkies.fomm.engine import Engine
    from talkies.fomm.model.checkpoint import load_model
    from talkies.fomm.model.first_order import build_model
    from talkies.fomm.motion import detect_motion
    from talkies.fomm.precision import fast_form

    keep_memory()
    torch.set_num_threads(len(cores))
    if args.model == "demo":
        model = load_model("demo", device="cpu")
    else:
        model = build_model(args.model).requires_grad_(False).eval()
        model.load_state_dict(seeded_weights(model))
        model.weights_digest = ""
    side = model.preset.size
    frames = list(np.random.default_rng(0).integers(0, 256, (args.frames, side, side, 3), dtype=np.uint8))
    with Engine(fast_form(model, args.precision), threads=len(cores)) as engine:
        prepared = engine.prepare("picture", frames[0])

        def make(clip: list[np.ndarray]) -> None:
            motion = detect_motion(engine.model, clip, Fraction(25), batch=engine.batch)
            for _ in engine.predict(prepared, motion, Movement()):
                pass

        make(frames[: engine.batch])
        for _ in range(args.rounds):
            ready.wait(WAIT_SECONDS)
            began = time.perf_counter()
            make(frames)
            answers.put((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
            ready.wait(WAIT_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vox-adv-256")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    processes = multiprocessing.get_context("spawn")
    print(f"| {args.model}, {args.precision}, {len(cores)} cores | frames a core second | each round | MB a node |")
    print("|---|---|---|---|")
    for threads in args.threads:
        count = len(cores) // threads
        if not count:
            print(f"| {threads} threads a worker | more than the cores | | |")
            continue
        ready, answers = processes.Barrier(count), processes.Queue()
        parts = [cores[threads * number :][:threads] for number in range(count)]
        workers = [processes.Process(target=work, args=(part, args, ready, answers)) for part in parts]
        for worker in workers:
            worker.start()
        rates, memory = [], 0.0
        for _ in range(args.rounds):
            told = [answers.get(timeout=WAIT_SECONDS) for _ in workers]
            rates.append(count * args.frames / max(seconds for seconds, _ in told) / (count * threads))
            memory = sum(megabytes for _, megabytes in told)
        for worker in workers:
            worker.join()
        each = " ".join(f"{rate:.2f}" for rate in rates)
        name = f"{count} workers of {threads} threads"
        print(f"| {name} | {sorted(rates)[len(rates) // 2]:.2f} | {each} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
