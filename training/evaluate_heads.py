"""Measure the demo network on rendered heads it has never seen, at the network's size, and print a table.

    python training/evaluate_heads.py --assets FOLDER [--weights FILE ...] [--groups 24]

Held-out people (seeds from 1,000,000) drive themselves and each other between two poses. The renderer gives the correct
picture and the true flow. Shares are relative to a copy of the source.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from album import Batch, draw_batch
from head_album import render_album
from losses import region_weight, transfer
from torch import Tensor
from train_demo import open_network

from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.presets import DEMO_WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
TEST_SEED = 1_000_000
SIDE = 128
BATCHES, SIZE = 16, 12


def energy(frames: Tensor, region: Tensor) -> Tensor:
    """Return the mean absolute difference between neighbouring pixels in a region."""
    across = frames.diff(dim=3)[:, :, 1:].abs() + frames.diff(dim=2)[..., 1:].abs()
    return (across * region[:, :, 1:, 1:]).sum() / region.sum()


@torch.inference_mode()
def measure(model: FirstOrderModel, batch: Batch) -> dict[str, tuple[float, float]]:
    """Return two numbers for each measure: the error, and what to divide it by."""
    source, driving, initial = (model.kp_detector(x) for x in (batch.source, batch.driving, batch.initial))
    out = model.generator(batch.source, source, transfer(source, driving, initial, batch.own))
    error, copy = (out.prediction - batch.target).abs(), (batch.source - batch.target).abs()
    still = batch.flow.new_tensor(np.stack(np.meshgrid(*[(np.arange(64) + 0.5) / 32 - 1] * 2), -1))
    seen = batch.visible[:, 0]
    measured = {
        "L1, of the copy's": (error.mean(), copy.mean()),
        "flow where visible, pixels": (((out.deformation - batch.flow).norm(dim=-1) * seen).sum() * 64, seen.sum()),
        "the same, of no motion's": (
            ((out.deformation - batch.flow).norm(dim=-1) * seen).sum(),
            ((still - batch.flow).norm(dim=-1) * seen).sum(),
        ),
        "keypoints, pixels": ((driving.value - batch.kp_driving.value).norm(dim=-1).mean() * 64, torch.ones(())),
    }
    for name, part in (("eyes", [0, 1]), ("mouth", [2])):
        region = region_weight(batch.regions[:, part], SIDE)
        measured[f"L1 of {name}, of the copy's"] = (error * region).sum(), (copy * region).sum()
        measured[f"gradient energy of {name}"] = energy(out.prediction, region), energy(batch.target, region)
    return {name: (float(a), float(b)) for name, (a, b) in measured.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, help="folder of skins and hair (docs/demo-model.md)")
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        default=[Path(f"{DEMO_WEIGHTS}:{which}") for which in ("drawings", "photographs")],
        help="checkpoints to compare",
    )
    parser.add_argument("--groups", type=int, default=24, help="rendered groups, of 4 people in 8 poses each")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/training", help="keeps what is rendered")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    album = render_album(args.folder, args.assets, args.groups, TEST_SEED, args.threads)
    batches = [draw_batch([(album, 1.0)], step, SIZE, SIDE, TEST_SEED) for step in range(BATCHES)]
    columns = []
    for weights in args.weights:
        model = open_network(weights)
        columns.append([measure(model, batch) for batch in batches])
    print(f"\nRendered heads, {4 * args.groups} held-out people, {BATCHES * SIZE} examples, half driven by another\n")
    print(f"| measure | {' | '.join(w.name for w in args.weights)} |\n|---|" + "---|" * len(columns))
    for name in columns[0][0]:
        shares = [sum(m[name][0] for m in column) / sum(m[name][1] for m in column) for column in columns]
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
