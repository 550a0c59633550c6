"""Train the demo preset on drawn portraits, on a CPU.

    python training/train_demo.py --folder build/training --schedule 64:600:12:1e-3:true:1,128:4000:8:1e-3:true:4

You can kill it at any time. Started again with the same arguments, it continues from its last checkpoint. The batch of
step n depends only on the seed and n, so the result is the same. With --start, training begins with existing weights of
the same preset, for example the shipped ones, instead of an untrained network. Stages of the schedule are
side:steps:batch:rate:keypoints (true or found):every (see Stage).

A step gives the network an identity A in one pose (the source) and asks for A in another pose (the target). In half of
the examples, A itself drives the motion, as in the paper. In the others, another identity B drives it, in the same two
poses. The target is then the correct result of relative motion from B to A, so transfer between identities is trained
directly. Keypoints and jacobians are supervised by the true landmarks. In early stages, the generator gets the true
keypoints; later it gets those that the detector finds, and gradients flow through both. Every few steps, the paper's
equivariance loss under affine and thin-plate maps trains the detector too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from album import Album, Batch, draw_batch, make_album
from losses import (
    dense_loss,
    energy_loss,
    equivariance_loss,
    flow_loss,
    hole_loss,
    keypoint_loss,
    mask_loss,
    picture_loss,
    region_weight,
    transfer,
)
from PIL import Image
from torch import Tensor

from talkies.fomm.model.checkpoint import load_checkpoint, part_of, save_safetensors
from talkies.fomm.model.checkpoint_head import NETWORKS, SECOND
from talkies.fomm.model.dense_motion import DenseMotion
from talkies.fomm.model.first_order import FirstOrderModel, build_model
from talkies.fomm.model.generator import Generated, Generator
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.model.presets import DEMO_WEIGHTS, PRESETS

SCHEDULE = "64:600:12:1e-3:true:1,128:4000:8:1e-3:true:4,128:1500:6:6e-4:found:1"
HELD_OUT = 900_000  # first seed of the identities in contact sheets; seeds for training start at 0
Albums = list[tuple[Album, float]]  # each album with its share of the examples


@dataclass(frozen=True)
class Stage:
    """A stage of the schedule.

    detected: True if the generator gets the keypoints that the detector finds, False if it gets the true ones. every:
    one step in this many trains all networks; the others train only the dense motion or only the detector.
    """

    side: int
    steps: int
    batch: int
    rate: float
    detected: bool
    every: int


def parse_schedule(text: str) -> list[Stage]:
    """Parse a schedule such as '64:3000:12:1e-3:true:3,128:3000:8:6e-4:found:1' into stages."""
    stages = []
    for part in text.split(","):
        side, steps, batch, rate, whose, every = part.split(":")
        detected = {"true": False, "found": True}[whose]
        stages.append(Stage(int(side), int(steps), int(batch), float(rate), detected, int(every)))
    return stages


def stage_at(stages: list[Stage], step: int) -> tuple[Stage, int]:
    """Return the stage of a step, and the step's number in that stage."""
    for stage in stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise IndexError(step)


def learning_rate(stages: list[Stage], step: int) -> float:
    """Return the learning rate: it warms up over 100 steps, and in the last stage falls to a twentieth on a cosine."""
    stage, within = stage_at(stages, step)
    rate = stage.rate * min(1.0, (step + 1) / 100)
    if stage is stages[-1]:
        rate *= 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * within / stage.steps))
    return rate


@torch.no_grad()
def pass_through(generator: Generator) -> None:
    """Make an untrained generator output the warped source nearly unchanged, so that training starts sharp.

    The first three features hold red, green and blue. The residual blocks add almost nothing yet. The last layer turns
    the three features back into a picture (5 x - 2.5 is a good approximation of the logit of x).
    """
    middle = generator.first.conv.kernel_size[0] // 2
    first, final = generator.first.conv, generator.final
    first.weight[:3] = 0
    first.bias[:3] = 0
    final.weight.mul_(0.05)
    for channel in range(3):
        first.weight[channel, channel, middle, middle] = 1
        final.weight[channel, channel, middle, middle] = 5
        final.bias[channel] = -2.5
    for block in generator.bottleneck:
        block.conv2.weight.mul_(0.05)
        block.conv2.bias.zero_()


def set_training(model: FirstOrderModel) -> None:
    """Set training mode, except for batch norms in the generator's first layer and bottleneck.

    Those keep their initial statistics, mean 0 and variance 1, so each is an affine map per channel. The statistics of
    small batches would shift colours from step to step, and the generator can't undo that.
    """
    model.train()
    for part in (model.generator.first, model.generator.bottleneck):
        for module in part.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def guide(out: Generated | DenseMotion, batch: Batch) -> dict[str, Tensor]:
    """Return the losses of deformation, masks and occlusion."""
    return {
        "flow": 4 * flow_loss(out.deformation, batch),
        "masks": 0.03 * mask_loss(out.mask, batch),
        "holes": 0.1 * hole_loss(out.occlusion, batch),
        "dense": dense_loss(out, batch),
    }


def network(detector: int | None = None, reduction: int = 1) -> FirstOrderModel:
    """Build an untrained demo network at the album's size. detector: width of its detector; None: as for drawings."""
    parameters = deepcopy(PRESETS["demo-drawings"].parameters)
    parameters["common_params"]["reduction"] = reduction
    if detector:
        parameters["kp_detector_params"] |= {"block_expansion": detector, "max_features": 8 * detector}
    return build_model(parameters)


def open_network(weights: Path, reduction: int = 1) -> FirstOrderModel:
    """Load the network of these weights, with a detector of any width, ready for use."""
    entries = entries_of(weights)
    model = network(len(entries["kp_detector.predictor.encoder.down_blocks.0.conv.weight"]) // 2, reduction)
    model.load_state_dict(entries)
    return model.requires_grad_(False).eval()


def entries_of(weights: Path) -> dict[str, Tensor]:
    """Return the weights of generator and detector of one network. If the file has two, name one by FILE:photographs
    or FILE:drawings.
    """
    file, _, which = str(weights).partition(":")
    entries = part_of(load_checkpoint(file), PRESETS[f"demo-{which or 'drawings'}"])
    return {name: value for name, value in entries.items() if name.split(".")[0] in NETWORKS}


def widened(entries: Mapping[str, Tensor], model: FirstOrderModel) -> dict[str, Tensor]:
    """Return weights with which this model computes the same as a narrower network with weights ``entries``.

    New channels read all inputs, with the untrained network's weights, but nothing reads the new channels yet.
    """
    out = {}
    for name, new in model.state_dict().items():
        old = entries[name].float()
        if old.shape == new.shape:
            out[name] = old
            continue
        new = new.clone()
        places = [torch.arange(n) for n in old.shape]
        if old.ndim == 4 and old.shape[1] != new.shape[1]:
            inputs, wider = old.shape[1], new.shape[1]
            if ".decoder.up_blocks." in name and ".up_blocks.0." not in name:  # upsampled, then skipped features
                places[1] = torch.cat([torch.arange(inputs // 2), wider // 2 + torch.arange(inputs // 2)])
            elif ".predictor." not in name:  # the heads read the last block and the picture's three colours
                places[1] = torch.cat([torch.arange(inputs - 3), wider - 3 + torch.arange(3)])
            new[: old.shape[0]] = 0
        new[torch.meshgrid(*places, indexing="ij")] = old
        out[name] = new
    return out


class Trainer:
    """The state of a training run, and its steps."""

    def __init__(
        self,
        folder: Path,
        stages: list[Stage],
        albums: Albums,
        seed: int,
        decay: float = 0.995,
        start: Path | None = None,
        detector: int | None = None,
    ) -> None:
        self.folder, self.stages, self.albums, self.seed, self.decay = folder, stages, albums, seed, decay
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        self.model = network(detector)
        if start:
            self.model.load_state_dict(widened(entries_of(start), self.model))
        else:
            pass_through(self.model.generator)
        set_training(self.model)
        self.model.to(memory_format=torch.channels_last)  # a fifth faster
        self.average = network(detector).eval()
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99))
        self.step = 0
        self.path = folder / "state.pt"
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self) -> None:
        """Write the state to a temporary file, then rename it, so that the file is never incomplete."""
        temporary = self.path.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
            },
            temporary,
        )
        temporary.replace(self.path)

    def advance(self) -> dict[str, float]:
        """Train one step. Returns its losses."""
        stage, _ = stage_at(self.stages, self.step)
        batch = draw_batch(self.albums, self.step, stage.batch, stage.side, self.seed)
        rng = np.random.default_rng([self.seed, self.step, 12])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.stages, self.step)
        # Dense motion and detector learn the most and cost the least, and without good keypoints nothing else is right.
        if self.step % stage.every == 0:
            losses = self._whole(batch, stage, rng)
        elif self.step % stage.every == 1:
            losses = self._motion(batch)
        else:
            losses = self._detector(batch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        if torch.isfinite(norm):  # one bad batch must not ruin the run
            self.optimizer.step()
        self._follow()
        self.step += 1
        return {k: float(v.detach()) for k, v in losses.items()}

    def _whole(self, batch: Batch, stage: Stage, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the losses of detector, dense motion and generator together."""
        others = np.flatnonzero(~batch.own)
        n = stage.batch
        # The detector runs once, on all pictures. An identity that drives itself needs no initial frame.
        frames = torch.cat([batch.source, batch.driving, batch.initial[others]])
        true = _join(batch.kp_source, batch.kp_driving, _pick(batch.kp_initial, others))
        if not stage.detected:
            frames, true = frames[: 2 * n], Keypoints(true.value[: 2 * n], true.jacobian[: 2 * n])
        found = self.model.kp_detector(frames)
        losses = {"keypoints": keypoint_loss(found, true)}
        if stage.detected:
            kp_source, kp_driving = _slice(found, 0, n), _slice(found, n, 2 * n)
            initial = [kp_source.value.clone(), kp_source.jacobian.clone()]
            initial[0][others], initial[1][others] = found.value[2 * n :], found.jacobian[2 * n :]
            kp_initial = Keypoints(*initial)
        else:
            kp_source, kp_driving, kp_initial = batch.kp_source, batch.kp_driving, batch.kp_initial
        moved = transfer(kp_source, kp_driving, kp_initial, batch.own)
        out = self.model.generator(batch.source, kp_source, moved)
        weight = 1 + 8 * torch.maximum(
            region_weight(batch.regions, stage.side), 0.3 * region_weight(batch.source_regions, stage.side)
        )
        # Most hidden places are outside the regions, and only the decoder can fill them.
        hidden = F.interpolate(1 - out.occlusion.detach(), size=stage.side, mode="bilinear", align_corners=False)
        weight = weight + 4 * hidden
        losses["picture"] = picture_loss(out.prediction, batch.target, weight)
        losses["energy"] = 0.1 * energy_loss(out.prediction, batch.target, batch.regions)
        losses |= guide(out, batch)
        if self.step % (4 * stage.every) == 0:
            some = slice(n, n + max(2, n // 2))
            close = equivariance_loss(self.model, frames[some], _slice(found, some.start, some.stop), rng)
            losses["equivariance"] = 0.5 * close
        return losses

    def _detector(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the detector alone."""
        found = self.model.kp_detector(torch.cat([batch.source, batch.driving]))
        return {"keypoints": keypoint_loss(found, _join(batch.kp_source, batch.kp_driving))}

    def _motion(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of the dense motion alone: those of `guide`, and the warped source against the target."""
        network = self.model.generator.dense_motion_network
        moved = transfer(batch.kp_source, batch.kp_driving, batch.kp_initial, batch.own)
        out = network(network.shrink(batch.source), batch.kp_source, moved)
        side = batch.target.shape[-1]
        flow, seen = (
            F.interpolate(x, size=side, mode="bilinear", align_corners=False)
            for x in (out.deformation.permute(0, 3, 1, 2), out.occlusion.detach())
        )
        warped = F.grid_sample(batch.source, flow.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
        weight = (1 + 3 * region_weight(batch.regions, side)) * seen
        error = ((warped - batch.target).abs() * weight).mean() / weight.mean()
        return {"warp": 4 * error, **guide(out, batch)}

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the averaged weights, faster at the start."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        mine, theirs = self.average.state_dict(), self.model.state_dict()
        for name, value in mine.items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - decay)
            else:
                value.copy_(theirs[name])


def _join(*parts: Keypoints) -> Keypoints:
    return Keypoints(torch.cat([p.value for p in parts]), torch.cat([p.jacobian for p in parts]))


def _pick(kp: Keypoints, which: np.ndarray) -> Keypoints:
    return Keypoints(kp.value[which], kp.jacobian[which])


def _slice(kp: Keypoints, start: int, stop: int) -> Keypoints:
    return Keypoints(kp.value[start:stop], kp.jacobian[start:stop])


@torch.no_grad()
def contact_sheet(model: FirstOrderModel, path: Path, side: int, albums: Albums) -> dict[str, float]:
    """Write a picture of held-out examples: source, driving, result, target and occlusion of each. Returns measures."""
    batch = draw_batch(albums, 0, 24, side, 99)
    kp_source, kp_driving, kp_initial = (model.kp_detector(x) for x in (batch.source, batch.driving, batch.initial))
    moved = transfer(kp_source, kp_driving, kp_initial, batch.own)
    out = model.generator(batch.source, kp_source, moved)
    occlusion = F.interpolate(out.occlusion, size=side).expand(-1, 3, -1, -1)
    columns = torch.stack([batch.source, batch.driving, out.prediction, batch.target, occlusion], 1)
    cells = columns.permute(0, 3, 1, 4, 2).reshape(24, side, 5 * side, 3)
    half = torch.cat([torch.cat(list(cells[k::3]), 0) for k in range(3)], 1)
    Image.fromarray((half * 255).round().byte().numpy()).save(path)
    region = region_weight(batch.regions, side)
    error, copy = (out.prediction - batch.target).abs(), (batch.source - batch.target).abs()

    def energy(x: Tensor) -> Tensor:
        return (x.diff(dim=3)[:, :, 1:].abs() + x.diff(dim=2)[..., 1:].abs()) * region[:, :, 1:, 1:]

    return {
        "L1/copy": float(error.mean() / copy.mean()),
        "region L1/copy": float((error * region).mean() / (copy * region).mean()),
        "region energy": float(energy(out.prediction).mean() / energy(batch.target).mean()),
        "keypoint px": float((kp_driving.value - batch.kp_driving.value).norm(dim=-1).mean() * side / 2),
    }


def ship(folder: Path, path: Path, which: str | None = None) -> None:
    """Write the averaged weights of the last checkpoint in half precision, as in the package.

    which: "drawings" or "photographs": add the package's other network to the file; None: write these weights alone.
    """
    state = torch.load(folder / "state.pt", weights_only=True)
    mine = state["average"]
    if which:
        packaged = load_checkpoint(DEMO_WEIGHTS)
        drawings, photographs = (part_of(packaged, PRESETS[f"demo-{one}"]) for one in ("drawings", "photographs"))
        drawings, photographs = (mine, photographs) if which == "drawings" else (drawings, photographs | mine)
        mine = {**drawings, **{f"{SECOND}.{name}": value for name, value in photographs.items()}}
    save_safetensors(mine, path, half=True)
    print(f"{path}: step {state['step']}, {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ship", type=Path, metavar="FILE", help="write the weights so far as safetensors, and end")
    parser.add_argument(
        "--network", choices=("drawings", "photographs"), help="ship it with the package's other network in one file"
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with, or FILE:photographs of two")
    parser.add_argument("--folder", type=Path, default=Path("build/training"))
    parser.add_argument("--schedule", default=SCHEDULE)
    parser.add_argument("--groups", type=int, default=480, help="drawn groups, of 4 identities in 8 poses each")
    parser.add_argument("--heads", type=int, default=480, help="rendered groups")
    parser.add_argument("--drawn-share", type=float, default=0.45, help="of the examples, the rest are rendered")
    parser.add_argument("--assets", type=Path, help="folder of skins and hair (docs/demo-model.md), to render heads")
    parser.add_argument("--detector", type=int, metavar="WIDTH", help="widen the detector to so many features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=180, help="seconds between checkpoints and contact sheets")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.ship:
        ship(args.folder, args.ship, args.network)
        return
    torch.set_num_threads(args.threads)
    stages = parse_schedule(args.schedule)

    def albums(groups: int, heads: int, seed: int) -> Albums:
        made = [(make_album(args.folder, groups, seed, args.threads), args.drawn_share)] if groups else []
        if heads:
            from head_album import render_album  # needs numba, drawings do not

            made.append((render_album(args.folder, args.assets, heads, seed, args.threads), 1 - args.drawn_share))
        return made

    trainer = Trainer(
        args.folder, stages, albums(args.groups, args.heads, args.seed), args.seed, start=args.start,
        detector=args.detector,
    )  # fmt: skip
    held_out = [albums(args.groups and 8, 0, HELD_OUT), albums(0, args.heads and 8, HELD_OUT)]
    end = sum(stage.steps for stage in stages)
    sums: dict[str, list[float]] = {}
    saved = begun = time.monotonic()
    first = trainer.step
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_stop.append(number))
    while trainer.step < end and not asked_to_stop:
        for name, value in trainer.advance().items():
            sums.setdefault(name, []).append(value)
        now = time.monotonic()
        last = trainer.step == end
        if trainer.step % 50 == 0 or last:
            record = {k: round(float(np.mean(v)), 4) for k, v in sums.items()}
            record |= {"step": trainer.step, "rate": learning_rate(stages, trainer.step - 1)}
            record["seconds a step"] = round((now - begun) / (trainer.step - first), 3)
            print(json.dumps(record), flush=True)
            sums = {}
        if now - saved > args.every or last:
            trainer.save()
            side = stage_at(stages, trainer.step - 1)[0].side
            for kind, held in zip(("drawn", "rendered"), held_out, strict=True):
                if held:
                    sheet = args.folder / f"sheet-{trainer.step:06d}-{kind}.png"
                    measured = contact_sheet(trainer.average, sheet, side, held)
                    print(json.dumps({"sheet": sheet.name, **measured}), flush=True)
            saved = time.monotonic()
    if asked_to_stop:
        trainer.save()


if __name__ == "__main__":
    main()
