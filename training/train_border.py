"""Train the motion of persons in front of a still background (plate.py) on pairs of rendered heads (matte_album.py).

    python training/train_border.py --minutes 12 [--album build/mattes] [--folder build/training]
    python training/train_border.py --ship src/talkies/fomm/model/demo.safetensors
    python training/train_border.py --measure [--sheet docs/demo-photographs.jpg]

A training begins with the network that an earlier one left in --folder. --ship writes the package's weights with this
network and the matte (train_matte.py). --measure compares the package's frames of people that were not trained on, with
and without layers and close-ups. --sheet also shows them: each person's picture, the frames of three postures, and one
that another person drives.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from train_close_ups import as_tensor, follow, set_rate, ship_networks
from train_matte import edges

import talkies
from talkies.fomm.model.checkpoint_head import SECOND
from talkies.fomm.model.layers import coordinate_grid, enlarged_deformation
from talkies.fomm.model.matte import MatteNetwork, find_matte, grown, shrunk
from talkies.fomm.model.plate import BorderNetwork, Layers, blurred, cut_out, seen_through

HELD = 40  # the first people are for measuring
BATCH = 16
RATE = 2e-3
SIDE = 128  # at which frames are compared
MOTION_SIDE = 64
TEAR = 0.5  # a person's motion may change by this share of a place from one to the next


class Pairs:
    """Pairs of rendered pictures of one person, in memory, at SIDE. matte: it finds the sources' mattes."""

    @torch.no_grad()
    def __init__(self, files: list[Path], matte: MatteNetwork) -> None:
        rows: dict[str, list[Tensor]] = {}
        for file in files:
            with np.load(file) as part:
                count = len(part["deformation"])
                front, alpha = (torch.from_numpy(part[name]).float() / 255 for name in ("front", "alpha"))
                both = F.avg_pool2d(torch.cat([front, alpha[..., None]], 3).permute(0, 3, 1, 2), 2)
                value, whole = torch.from_numpy(part["value"]), as_tensor(part["picture"][:1])
                picture = torch.cat([whole, find_matte(matte, whole, value[:1])[0]], 1)
                source = torch.cat([F.avg_pool2d(picture, 2), both[:1, 3:]], 1)
                new = {
                    "source": source.expand(count, -1, -1, -1).half(),
                    "target": both[1:].half(),
                    "there": value[:1].expand(count, -1, -1),
                    "here": value[1:],
                    **{name: torch.from_numpy(part[name]) for name in ("deformation", "background", "occlusion")},
                }
            for name, values in new.items():
                rows.setdefault(name, []).append(values)
        self.rows = {name: torch.cat(values) for name, values in rows.items()}

    def __len__(self) -> int:
        return len(self.rows["here"])

    def batch(self, which: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, Tensor]:
        """Return some pairs; with rng, many with found mattes or other wrong ones, and in other colours."""
        some = {name: values[torch.from_numpy(which)].float() for name, values in self.rows.items()}
        cutouts = []
        for source, target in zip(some["source"], some["target"], strict=True):
            picture, found, alpha = source[None].split((3, 1, 1), 1)
            kind = 1.0 if rng is None else rng.random()
            if kind < 0.4:
                alpha = found
            elif kind < 0.6:
                alpha = blurred((grown if kind < 0.5 else shrunk)(alpha, 1), 1)
            cutout = cut_out(picture, alpha)
            if rng is not None and rng.random() < 0.7:
                gain = rng.uniform(0.3, 1.4, (3, 1, 1)) * (-1 if rng.random() < 0.2 else 1)
                gain, middle = (torch.from_numpy(x).float() for x in (gain, rng.uniform(0.35, 0.65, (3, 1, 1))))
                for colours in (cutout[0, :3], target[:3]):
                    colours.sub_(0.5).mul_(gain).add_(middle).clamp_(0, 1)
            cutouts.append(cutout)
        some["cutout"] = torch.cat(cutouts)
        return some


def frame_losses(network: BorderNetwork, some: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Return the losses of silhouette, colours and smoothness, and the persons, [N, 4, SIDE, SIDE]."""
    small = F.avg_pool2d(some["cutout"], SIDE // MOTION_SIDE)
    maps = (some[name] for name in ("deformation", "background", "occlusion", "there", "here"))
    with torch.autocast("cpu", torch.bfloat16):
        motion = network.motion(small, *maps)
    large = enlarged_deformation(motion, torch.Size((SIDE, SIDE)))
    person, target = seen_through(some["cutout"], large), some["target"]
    known = (large.abs() < 1).all(-1)[:, None].float()  # the source shows it
    found, true = person[:, 3:], target[:, 3:]
    near = edges(true, 5)
    both = torch.minimum(found, true) * known
    away = (motion - coordinate_grid(MOTION_SIDE, MOTION_SIDE, motion, centred=True)).permute(0, 3, 1, 2)
    down, across = ((MOTION_SIDE / 2 * away.diff(dim=dim)).norm(dim=1) for dim in (2, 3))  # in places
    here = grown(F.max_pool2d(found.detach(), SIDE // MOTION_SIDE), 2)[:, 0]
    steps = (down, here[:, 1:]), (across, here[..., 1:])
    losses = {
        "silhouette": ((found - true).abs() * (1 + 3 * near) * known).mean(),
        "colours": 2 * ((person[:, :3] - target[:, :3]).abs() * both * (1 + 2 * near)).mean(),
        "tears": 0.3 * torch.stack([((step - TEAR).clamp(min=0) ** 2 * where).mean() for step, where in steps]).sum(),
        "bends": 0.5 * (away.diff(dim=3, n=2).abs().mean() + away.diff(dim=2, n=2).abs().mean()),
    }
    return losses, person


@torch.no_grad()
def measure(network: BorderNetwork, held: Pairs) -> dict[str, float]:
    network.eval()
    losses = [frame_losses(network, held.batch(np.arange(k, k + 24)))[0] for k in range(0, len(held), 24)]
    network.train()
    return {name: round(float(np.mean([float(each[name]) for each in losses])), 5) for name in losses[0]}


def train(args: argparse.Namespace) -> None:
    files = sorted(file for file in args.album.glob("person-*.npz") if ".part" not in file.name)
    matte = talkies.load_model("demo-photographs").matte
    assert matte is not None
    held, pairs = Pairs(files[:HELD], matte), Pairs(files[HELD:], matte)
    torch.manual_seed(0)
    args.folder.mkdir(parents=True, exist_ok=True)
    network = BorderNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = args.folder / "border.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
    average = deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    print(f"{len(pairs)} pairs, {sum(p.numel() for p in network.parameters())} parameters", flush=True)
    print(json.dumps(measure(average, held)), flush=True)
    rng, begun, said, steps = np.random.default_rng(1), time.time(), time.time(), 0
    while (done := (time.time() - begun) / 60 / args.minutes) < 1:
        set_rate(optimizer, RATE, steps, done)
        losses, _ = frame_losses(network, pairs.batch(np.sort(rng.integers(len(pairs), size=BATCH)), rng))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), 1)):
            optimizer.step()
        follow(average, network, steps, 0.998)
        steps += 1
        if time.time() - said > 60:
            print(json.dumps({"step": steps, **measure(average, held)}), flush=True)
            torch.save(average.state_dict(), path)
            said = time.time()
    torch.save(average.state_dict(), path)
    print(json.dumps({"step": steps, **measure(average, held)}), flush=True)


def ship(folder: Path, path: Path) -> None:
    """Write the package's weights with the matte and the border network."""
    matte = torch.load(folder / "matte.pt", weights_only=True)["average"]
    border = torch.load(folder / "border.pt", weights_only=True)
    ship_networks(path, {f"{SECOND}.matte.": matte, f"{SECOND}.border.": border})


@torch.inference_mode()
def compare(album: Path, sheet: Path | None) -> None:
    """Print the mean error of held-out people's pixels, by place: in one layer, in two, and with close-ups too.

    Also print for how many people layers, and then close-ups, make it larger.
    """
    model = talkies.load_model("demo-photographs")
    assert model.border is not None
    sums: dict[str, np.ndarray] = {}
    worse, rows, former = np.zeros(2, int), [], None
    files = sorted(album.glob("person-*.npz"))[:HELD]
    for file in files:
        with np.load(file) as part:
            pictures, alpha = as_tensor(part["picture"]), torch.from_numpy(part["alpha"])[:, None].float() / 255
        keypoints, features = model.keypoints(pictures), model.encode(pictures[:1])
        source, driving, true = keypoints[0], keypoints[1:], alpha[1:]
        made = model.generator.render(features, source, driving)
        sure = Layers.of(pictures[:1], alpha[:1], features.small.shape[-1])
        bare = replace(features, close_ups=False)
        frames = {
            "one layer": made.prediction,
            "two layers": model.generate(bare, source, driving).prediction,
            "with close-ups": model.generate(features, source, driving).prediction,
            "two layers, true matte": sure.frames(model.border, made, made.prediction, source, driving),
        }
        places = {
            "border": edges(true, 9),
            "background": 1 - grown(true, 9),
            "uncovered": (1 - grown(true, 1)) * alpha[:1],
            "inside": shrunk(true, 9),
        }
        errors = []
        for name, frame in frames.items():
            wrong = (frame - pictures[1:]).abs().mean(1, keepdim=True)
            found = [[float((wrong * where).sum()), float(where.sum())] for where in places.values()]
            sums[name] = sums.get(name, 0) + np.array(found)
            errors.append(float(wrong.mean()))
        worse += np.array(errors[1:3]) > np.array(errors[:2])
        first, other = former or (source, driving[:1])
        moved = talkies.transfer_motion(source, other, first, reach=model.preset.reach, openings=model.preset.openings)
        fourth = model.generate(features, source, moved).prediction
        rows.append(torch.cat([pictures[:1], frames["with close-ups"], fourth]))
        former = source, driving[:1]
    print(f"| | {' | '.join(places)} |\n|---|" + "---|" * len(places))
    for name, total in sums.items():
        print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in total[:, 0] / total[:, 1]) + " |")
    print(
        f"Of {len(files)} people, frames are farther from the truth with layers: {worse[0]}, with close-ups: {worse[1]}"
    )
    if sheet:
        cells = F.avg_pool2d(torch.stack(rows).flatten(0, 1).float(), 3, ceil_mode=True).unflatten(0, (-1, 4, 5))
        down, across, each, colours, height, width = cells.shape
        whole = cells.permute(0, 4, 1, 2, 5, 3).reshape(down * height, across * each * width, colours)
        Image.fromarray((whole * 255).round().byte().numpy()).save(sheet, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--album", type=Path, default=Path("build/mattes"))
    parser.add_argument("--folder", type=Path, default=Path("build/training"))
    parser.add_argument("--ship", type=Path, help="write the package's weights with both networks")
    parser.add_argument("--measure", action="store_true", help="measure the package's networks")
    parser.add_argument("--sheet", type=Path, help="of the measured people, a picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.measure:
        compare(args.album, args.sheet)
    elif args.ship:
        ship(args.folder, args.ship)
    else:
        train(args)


if __name__ == "__main__":
    main()
