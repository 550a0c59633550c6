"""Train the close-ups of mouth and eyes on pairs of rendered heads (close_up_album.py).

    python training/train_close_ups.py mouth --minutes 60 [--album build/close-ups] [--folder build/training]
    python training/train_close_ups.py --ship src/talkies/fomm/model/demo.safetensors

The generator's part of each example is in the album, so only the small network is trained. State is saved every few
minutes in --folder, and a training that was interrupted goes on from there. With --start, a new training begins with
the close-ups in a file such as the package's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from head_mesh import EYE_LEFT, EYE_RIGHT, LASHES, TEETH, TONGUE
from losses import picture_loss
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from talkies.fomm.model.checkpoint import load_checkpoint, save_safetensors
from talkies.fomm.model.checkpoint_head import SECOND
from talkies.fomm.model.close_ups import (
    REGIONS,
    CloseUp,
    Look,
    Region,
    Sight,
    fading,
    find_region,
    interpret,
    mirrored,
    observe,
    places,
)
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.model.layers import coordinate_grid, warp
from talkies.fomm.model.presets import DEMO_WEIGHTS

SIDE = 256  # of the pictures
KINDS = {"mouth": ("mouth",), "eye": ("eye", "other eye")}  # names in a group's file, by region
CLOSE_UPS = f"{SECOND}.close_ups."  # begins the names of their weights in the package's file
HELD = 10  # the first groups are for measuring
BATCH = 12
RATE = 1.5e-3
CRITIC_FROM = 0.6  # share of the time when the critic begins
MOVING = {"mouth": (TEETH, TONGUE), "eye": (EYE_LEFT, EYE_RIGHT)}  # what is behind lips and lids
MAPS = ("target", "painted", "mask", "motion", "truth", "visible", "material")
TEETH_TONE = 0.93, 0.86, 0.79
"""Factors of red, green and blue: rendered teeth are 1.45 times as bright as the skin, photographed ones about 1.2."""


class Pairs:
    """All pairs of some groups for one region, in memory. Eyes are there twice; the other eye is in the mirror."""

    def __init__(self, files: list[Path], region: str) -> None:
        self.region = region
        rows: dict[str, list[np.ndarray]] = {}
        pictures: list[np.ndarray] = []
        for file in files:
            with np.load(file) as stored:
                for name in KINDS[region]:
                    for key in MAPS:
                        rows.setdefault(key, []).append(stored[f"{name} {key}"])
                    for key in ("kp_source", "kp_driving"):
                        rows.setdefault(key, []).append(stored[key])
                    rows.setdefault("picture", []).append(stored["picture"] + sum(map(len, pictures)))
                    rows.setdefault("flipped", []).append(np.full(len(stored["picture"]), name == "other eye"))
                pictures.append(stored["pictures"])
        self.rows = {key: np.concatenate(parts) for key, parts in rows.items()}
        self.pictures = np.concatenate(pictures)

    def __len__(self) -> int:
        return len(self.rows["picture"])

    def batch(self, which: np.ndarray, rng: np.random.Generator | None = None) -> Example:
        """Return some pairs; with rng, in other colours, some blurred, mouths in the mirror at random."""
        some = {key: torch.from_numpy(values[which]) for key, values in self.rows.items() if key != "picture"}
        source = as_tensor(self.pictures[self.rows["picture"][which]])
        source[some["flipped"]] = source[some["flipped"]].flip(3)
        target, painted = (as_tensor(self.rows[key][which]) for key in ("target", "painted"))
        mask, motion, truth = some["mask"][:, None].float() / 255, some["motion"].float(), some["truth"].float()
        visible, material = some["visible"], some["material"]
        _tone(target, material == TEETH, visible == 1)
        kp_source, kp_driving = (_turned(_keypoints(some[key]), some["flipped"]) for key in ("kp_source", "kp_driving"))
        if rng is not None and self.region == "mouth" and rng.random() < 0.5:
            source, target, painted, mask = (x.flip(3) for x in (source, target, painted, mask))
            motion, truth = (x.flip(2) * x.new_tensor([-1, 1]) for x in (motion, truth))
            visible, material = visible.flip(2), material.flip(2)
            kp_source, kp_driving = mirrored(kp_source), mirrored(kp_driving)
        if rng is not None:
            source, target, painted = _recoloured(rng, source, target, painted)
        region = REGIONS[self.region]
        middle, half = find_region(region, kp_driving.value)
        grid = places(region, middle, half)
        sight = observe(region, source, grid, half, (motion, mask, painted), kp_source, kp_driving)
        return Example(sight, source, target, truth, visible, material)


@dataclass(frozen=True)
class Example:
    """N pairs. truth: the true motion [N, h, w, 2]; visible: whether the source shows a place (2: unknown)."""

    sight: Sight
    source: Tensor
    target: Tensor
    truth: Tensor
    visible: Tensor
    material: Tensor

    def composed(self, look: Look) -> Tensor:
        """Return the region's pixels, [N, 3, h, w]: as the close-up makes them, faded into the generator's result."""
        new = look.paint.lerp(warp(self.source, look.motion, padding="border"), look.mask)
        return self.coarse().lerp(new, inside(new))

    def coarse(self) -> Tensor:
        kept = warp(self.source, self.sight.motions[0], padding="border")
        return self.sight.painted.lerp(kept, self.sight.mask)


def as_tensor(pictures: np.ndarray) -> Tensor:
    """Return pictures, uint8 [N, H, W, 3], as float32 [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def _keypoints(flat: Tensor) -> Keypoints:
    return Keypoints(flat[..., :2], flat[..., 2:].unflatten(2, (2, 2)))


def _turned(keypoints: Keypoints, flipped: Tensor) -> Keypoints:
    other = mirrored(keypoints)
    assert keypoints.jacobian is not None
    assert other.jacobian is not None
    return Keypoints(
        torch.where(flipped[:, None, None], other.value, keypoints.value),
        torch.where(flipped[:, None, None, None], other.jacobian, keypoints.jacobian),
    )


def _tone(target: Tensor, teeth: Tensor, visible: Tensor) -> None:
    """Make teeth as dark and warm as photographed ones, in place, where the source shows hardly any of them."""
    shown = (teeth & visible).sum((1, 2)) < 0.05 * teeth.sum((1, 2))
    target *= torch.where((teeth & shown[:, None, None])[:, None], target.new_tensor(TEETH_TONE)[:, None, None], 1.0)


def _recoloured(rng: np.random.Generator, *pictures: Tensor) -> list[Tensor]:
    """Change colours as light and cameras do, the same in all pictures of a pair; blur a third of the batches."""
    count = len(pictures[0])
    gain = torch.from_numpy(rng.uniform(0.8, 1.15, (count, 3, 1, 1)).astype(np.float32))
    gamma = torch.from_numpy(rng.uniform(0.75, 1.3, (count, 1, 1, 1)).astype(np.float32))
    grey, soft = rng.random() < 0.06, rng.uniform(-0.4, 0.2)  # soft: the weight of each neighbour along an axis
    out = []
    for picture in pictures:
        x = (picture.clamp(min=1e-4) ** gamma).mul_(gain).clamp_(max=1)
        if grey:
            x = x.mean(1, keepdim=True).expand_as(x).contiguous()
        if soft > 0:
            row = x.new_tensor([soft, 1 - 2 * soft, soft])
            kernel = (row[:, None] * row).expand(3, 1, 3, 3)
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
        out.append(x)
    return out


def inside(like: Tensor) -> Tensor:
    """Return how much each pixel of a region counts in the frame, [1, 1, h, w]."""
    return fading(coordinate_grid(like.shape[2], like.shape[3], like, centred=True))[None, None]


def importance(like: Tensor) -> Tensor:
    """Return the weight of each pixel of a region in losses, [1, 1, h, w]: most in its middle."""
    grid = coordinate_grid(like.shape[2], like.shape[3], like, centred=True)
    far = ((grid / 0.72) ** 2).sum(-1)
    return inside(like) * (0.25 + torch.sigmoid(5 * (1.15 - far)))


class Critic(nn.Module):
    """Tells true patches of a region from made ones (hinge loss, spectral norm)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96)
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in itertools.pairwise(widths))
        self.last = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h, w = x.shape[2] // 8, x.shape[3] // 8
        x, features = x[:, :, h:-h, w:-w] * 2 - 1, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.last(x), features


def known_losses(region: str, example: Example, look: Look, result: Tensor) -> dict[str, Tensor]:
    """Return the losses of picture, motion, mask and paint."""
    special = torch.isin(example.material, torch.tensor(MOVING[region], dtype=torch.uint8)).float()[:, None]
    weight = importance(result) * (1 + 1.5 * special)
    seen = (example.visible == 1).float()[:, None]
    told = (example.visible < 2).float()[:, None]
    sure = seen * weight * (1 + special) * (example.material != LASHES).float()[:, None]  # lashes are a random pattern
    off = (look.motion - example.truth).abs().mean(-1)[:, None] / example.sight.unit
    mask = F.binary_cross_entropy(look.mask.clamp(0.01, 0.99), seen, reduction="none")
    wrong = (look.paint - example.target).abs() * weight
    return {
        "picture": picture_loss(result, example.target, weight),
        "motion": 3 * (off.clamp(max=0.5) * sure).sum() / sure.sum(),
        "mask": 0.06 * (mask * told * weight).sum() / (told * weight).sum(),
        "paint": 0.3 * (wrong * (1 - 0.8 * seen)).mean() / weight.mean(),
    }


@torch.no_grad()
def measure(network: CloseUp, pairs: Pairs, count: int, sheet: Path | None = None) -> dict[str, float]:
    """Measure on held-out people: errors before and after, by kind of place; energy; motion in pixels."""
    network.eval()
    which = np.random.default_rng(5).permutation(len(pairs))[:count]
    sums: dict[str, np.ndarray] = {}
    cells = []

    def add(name: str, value: Tensor, by: Tensor) -> None:
        sums[name] = sums.get(name, 0) + np.array([float(value.sum()), float(by.sum())])

    def energy(x: Tensor, where: Tensor) -> Tensor:
        return (x.diff(dim=2)[..., 1:].abs() + x.diff(dim=3)[:, :, 1:].abs()) * where[:, :, 1:, 1:]

    for first in range(0, len(which), 40):
        example = pairs.batch(np.sort(which[first : first + 40]))
        look = interpret(network(example.sight.seen), example.sight)
        result = example.composed(look)
        middle = (importance(result) > 0.9).float().expand(len(result), 3, -1, -1)
        seen = (example.visible == 1).float()[:, None]
        special = torch.isin(example.material, torch.tensor(MOVING[pairs.region], dtype=torch.uint8)).float()[:, None]
        for name, x in (("before", example.coarse()), ("after", result)):
            error = (x - example.target).abs()
            add(f"L1 {name}", error * middle, middle)
            add(f"L1 inner seen {name}", error * special * seen, 3 * special * seen)
            add(f"L1 inner hidden {name}", error * special * (1 - seen), 3 * special * (1 - seen))
            add(f"L1 hidden {name}", error * middle * (1 - seen), middle * (1 - seen))
            add(f"energy {name}", energy(x, middle), energy(example.target, middle))
            add(f"energy inner {name}", energy(x, special * middle), energy(example.target, special * middle))
        for name, motion in (("before", example.sight.motions[0]), ("after", look.motion)):
            off = (motion - example.truth).norm(dim=-1)[:, None] * SIDE / 2 * seen
            add(f"motion px {name}", off * middle[:, :1], seen * middle[:, :1])
            add(f"motion px inner {name}", off * special, seen * special)
        if sheet and first < 40:
            copies = [warp(example.source, m, padding="border") for m in (example.sight.motions[1], look.motion)]
            shown = [copies[0], example.coarse(), result, example.target, look.paint, copies[1]]
            cells.append(torch.stack([*shown, look.mask.expand(-1, 3, -1, -1)], 1))
    if sheet:
        n, m, _, h, w = cells[0].shape
        rows = cells[0].permute(0, 3, 1, 4, 2).reshape(n, h, m * w, 3)
        both = torch.cat([torch.cat(list(rows[k::2])) for k in range(2)], 1)
        Image.fromarray((both.clamp(0, 1) * 255).round().byte().numpy()).save(sheet)
    network.train()
    return {name: round(float(a / max(b, 1)), 4) for name, (a, b) in sums.items()}


def set_rate(optimizer: torch.optim.Optimizer, rate: float, steps: int, done: float) -> None:
    """Set the learning rate: up in the first steps, then along a cosine. done: the share of the time that is over."""
    rate *= min(1, (steps + 1) / 60) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(done, 1))))
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, steps: int, most: float) -> None:
    """Move the mean over the steps towards a network; most: the largest share of it that stays."""
    decay = min(most, (1 + steps) / (10 + steps))
    for mean, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        mean.lerp_(new, 1 - decay) if mean.is_floating_point() else mean.copy_(new)


class Training:
    """A training's state: network, its average over steps, critic, optimizers; and how long it has run."""

    def __init__(self, region: Region) -> None:
        self.network = CloseUp(region).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average, self.critic = deepcopy(self.network), Critic()
        self.optimizer = torch.optim.Adam(self.network.parameters(), RATE, betas=(0.9, 0.99))
        self.judge = torch.optim.Adam(self.critic.parameters(), 4e-4, betas=(0.0, 0.99))
        self.steps, self.seconds = 0, 0.0

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "average": self.average,
            "critic": self.critic,
            "optimizer": self.optimizer,
            "judge": self.judge,
        }

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        temporary = path.with_suffix(".part")
        torch.save(state | {"steps": self.steps, "seconds": self.seconds}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.steps, self.seconds = state["steps"], state["seconds"]

    def step(self, pairs: Pairs, rng: np.random.Generator, done: float) -> dict[str, float]:
        """Do one step; done: the share of the time that is over. Returns the losses."""
        set_rate(self.optimizer, RATE, self.steps, done)
        example = pairs.batch(np.sort(rng.integers(len(pairs), size=BATCH)), rng)
        with torch.autocast("cpu", torch.bfloat16):
            raw = self.network(example.sight.seen)
        look = interpret(raw, example.sight)
        result = example.composed(look)
        losses = known_losses(pairs.region, example, look, result)
        if done > CRITIC_FROM:
            losses |= self._criticised(result, example.target, (done - CRITIC_FROM) / 0.1)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 3)
        if torch.isfinite(norm):
            self.optimizer.step()
        follow(self.average, self.network, self.steps, 0.997)
        self.steps += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _criticised(self, made: Tensor, true: Tensor, begun: float) -> dict[str, Tensor]:
        """Train the critic, and return its losses for what was made; they grow with ``begun`` from 0 to 1."""
        with torch.autocast("cpu", torch.bfloat16):
            right, wrong = self.critic(true)[0].float(), self.critic(made.detach())[0].float()
        loss = F.relu(1 - right).mean() + F.relu(1 + wrong).mean()
        self.judge.zero_grad()
        loss.backward()
        self.judge.step()
        if begun < 0.3:
            return {}
        with torch.autocast("cpu", torch.bfloat16):
            score, mine = self.critic(made)
            with torch.no_grad():
                _, theirs = self.critic(true)
        near = torch.stack([(a.float() - b.float()).abs().mean() for a, b in zip(mine, theirs, strict=True)]).mean()
        share = min(1.0, begun)
        return {"critic": -0.07 * share * score.float().mean(), "features": 0.3 * share * near}


def train(args: argparse.Namespace) -> None:
    files = sorted(args.album.glob("group-*.npz"))
    files = [file for file in files if ".part" not in file.name]
    numbers = [int(file.stem.split("-")[1]) for file in files]
    held = Pairs([f for f, n in zip(files, numbers, strict=True) if n < HELD], args.region)
    pairs = Pairs([f for f, n in zip(files, numbers, strict=True) if n >= HELD], args.region)
    torch.manual_seed(0)
    training = Training(REGIONS[args.region])
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / f"close-up-{args.region}.pt"
    if path.exists():
        training.load(path)
    elif args.start:
        prefix = f"{CLOSE_UPS}{args.region}."
        entries = load_checkpoint(args.start).items()
        weights = {name.removeprefix(prefix): value for name, value in entries if name.startswith(prefix)}
        training.network.load_state_dict(weights)
        training.average.load_state_dict(weights)
    count = sum(p.numel() for p in training.network.parameters())
    print(f"{args.region}: {len(pairs)} pairs, {len(held)} held out, {count} parameters", flush=True)
    rng = np.random.default_rng(training.steps + 1)
    sums: dict[str, list[float]] = {}
    saved = last = time.time()
    while training.seconds < 60 * args.minutes:
        losses = training.step(pairs, rng, training.seconds / 60 / args.minutes)
        for name, value in losses.items():
            sums.setdefault(name, []).append(value)
        now = time.time()
        training.seconds, last = training.seconds + now - last, now
        if training.steps % 100 == 0:
            means = {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
            print(json.dumps({"step": training.steps, "minutes": round(training.seconds / 60, 1), **means}), flush=True)
            sums = {}
        if now - saved > 300:
            training.save(path)
            print(json.dumps(measure(training.average, held, 120, args.folder / f"{args.region}.png")), flush=True)
            saved = last = time.time()
    training.save(path)
    print(json.dumps(measure(training.average, held, 1200, args.folder / f"{args.region}.png")), flush=True)


def ship_networks(path: Path, states: dict[str, dict[str, Tensor]]) -> None:
    """Write the package's weights with these networks in place of its own, in half precision.

    states: by how the names of their entries begin, such as "photographs.border.".
    """
    entries = load_checkpoint(DEMO_WEIGHTS)
    entries = {name: value for name, value in entries.items() if not name.startswith(tuple(states))}
    for begins, state in states.items():
        entries |= {f"{begins}{name}": value for name, value in state.items()}
    save_safetensors(entries, path, half=True)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def ship(folder: Path, path: Path) -> None:
    """Write the package's weights, with the averages of the trainings there are as close-ups."""
    states = {}
    for name, region in REGIONS.items():
        if (state := folder / f"close-up-{name}.pt").exists():
            training = Training(region)
            training.load(state)
            states[f"{CLOSE_UPS}{name}."] = training.average.state_dict()
    ship_networks(path, states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("region", nargs="?", choices=REGIONS)
    parser.add_argument("--minutes", type=float, default=60, help="length of the training")
    parser.add_argument("--album", type=Path, default=Path("build/close-ups"))
    parser.add_argument("--folder", type=Path, default=Path("build/training"), help="keeps the training's state")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with, such as the package's")
    parser.add_argument("--ship", type=Path, help="write the package's weights with these close-ups")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ship:
        ship(args.folder, args.ship)
    elif args.region:
        train(args)
    else:
        parser.error("name a region to train, or --ship")


if __name__ == "__main__":
    main()
