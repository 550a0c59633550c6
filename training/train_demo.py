"""Train the demo preset on drawn portraits, on a CPU.

    python training/train_demo.py --folder build/training --schedule 64:600:12:1e-3:true:1,128:4000:8:1e-3:true:4

Killed at any moment and started again with the same words it goes on from its last checkpoint; the batch of step n
depends on the seed and n alone, so the course is the same. With --start it does not begin with an untrained network
but with weights of the same preset: the shipped ones, to train them further. Stages of the schedule are
side:steps:batch:rate:keypoints (true or found):every (see Stage).

A step shows the network an identity A in one pose (the source) and asks for A in another (the target). The motion
comes half the time from A itself, as in the paper, and half the time from somebody else, B, who was drawn in the very
same poses: the target is then what relative motion from B to A ought to give, so that transfer between identities is
trained and not hoped for. Keypoints and jacobians are supervised by the true landmarks; in the early stages the
generator is given the true ones, later those that the detector finds, and gradients then flow through both. The
paper's equivariance under affine and thin-plate maps is asked of the detector on every few steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from landmarks import FOLLOWERS, keypoint_jacobians, keypoint_values, neighbours, regions
from PIL import Image
from portraits import EYE_LEFT, LIPS_INNER, POSE_NAMES, Portrait, Pose, Trace, sample_identity, sample_pose, spoil
from torch import Tensor

from talkies.model import DenseMotion, FirstOrderModel, Generated, Generator, Keypoints, build_model, save_safetensors
from talkies.model.checkpoint import load_checkpoint
from talkies.motion import hull_area

SCHEDULE = "64:600:12:1e-3:true:1,128:4000:8:1e-3:true:4,128:1500:6:6e-4:found:1"
SIDE = 128  # the network's own
FAMILY = 4  # identities of a group, all drawn in the same poses
POSES = 8  # poses of a group, the first NEAR of them near to looking ahead
NEAR = 3
MARKS = 192  # places on a figure that are followed from pose to pose
GROUND = 64  # side of the map of the background
SPOILED = 0.5  # share of driving pictures with blur, noise and JPEG
SPOILED_SOURCES = 0.15  # of sources: more of them teach the generator to smooth, and texture goes with the noise
HELD_OUT = 900_000  # seeds of the contact sheet's identities; the training's start at 0


def near_pose(rng: np.random.Generator) -> Pose:
    """What a portrait or the first frame of a clip looks like: nearly straight ahead, whatever mouth and eyes do."""
    pose = sample_pose(rng)
    calm = {"yaw": 0.25, "pitch": 0.25, "roll": 0.3, "shift_x": 0.6, "shift_y": 0.6, "brow": 0.4}
    values = dict(zip(POSE_NAMES, pose.as_array().tolist(), strict=True))
    values.update({k: values[k] * f for k, f in calm.items()})
    if rng.random() < 0.6:
        values.update(mouth=0.0)
    if rng.random() < 0.7:
        values.update(eye_left=0.85, eye_right=0.85)
    return Pose(**values)


def draw_group(group: int, seed: int = 0) -> dict[str, np.ndarray]:
    """One group's pictures and what is known of them, as the arrays of Album without their first axis."""
    rng = np.random.default_rng([seed, group, 5])
    poses = [near_pose(rng) if k < NEAR else sample_pose(rng) for k in range(POSES)]
    members = []
    for member in range(FAMILY):
        portrait = Portrait(sample_identity(seed + group * FAMILY + member), SIDE)
        traces = [portrait.trace(pose) for pose in poses]
        marks, seen = follow_marks(traces, rng)
        ground = [
            (trace.labels == 0).reshape(GROUND, len(trace.labels) // GROUND, GROUND, -1).mean((1, 3))
            for trace in traces
        ]
        members.append(
            {
                "pictures": np.stack([trace.picture for trace in traces]),
                "points": np.stack([trace.landmarks for trace in traces]),
                "marks": marks,
                "seen": seen,
                "ground": (np.stack(ground) * 255).astype(np.uint8),
            }
        )
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


def follow_marks(traces: list[Trace], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places on an identity's shapes, the same in all its drawings.

    Returns where they lie, float32 [POSES, MARKS, 2] in [-1, 1], and in which drawings each is seen, bool. Most lie
    on the shapes' edges, where a wrong motion shows; those of lids and lips have landmarks of their own.
    """
    common = set.intersection(*({(key, len(s[1])) for key, s in trace.shapes.items()} for trace in traces))
    keys = sorted(key for key, corners in common if corners > 1 and not key[0].startswith(("eye", "mouth")))
    # An edge is chosen by its length in the first drawing, which most nearly looks ahead.
    edges = [(key, k) for key in keys for k in range(len(traces[0].shapes[key][1]))]
    steps = [np.diff(c, axis=0, append=c[:1]) for c in (traces[0].shapes[key][1] for key in keys)]
    length = np.linalg.norm(np.concatenate(steps), axis=1).clip(1, len(traces[0].labels) / 4)
    chosen = [edges[k] for k in rng.choice(len(edges), MARKS, p=length / length.sum())]
    share = rng.dirichlet((1, 1, 1), MARKS)
    on_edge = rng.random(MARKS) < 0.6
    share[on_edge] = np.column_stack([share[on_edge, 0], 1 - share[on_edge, 0], np.zeros(on_edge.sum())])
    third = rng.random(MARKS)
    marks = np.empty((len(traces), MARKS, 2), np.float32)
    seen = np.empty((len(traces), MARKS), bool)
    for n, trace in enumerate(traces):
        side = len(trace.labels)
        labels = np.pad(trace.labels, 1)
        for m, (key, first) in enumerate(chosen):
            label, corners = trace.shapes[key]
            three = [first, (first + 1) % len(corners), int(third[m] * len(corners))]
            place = share[m] @ corners[three]
            marks[n, m] = place / side * 2 - 1
            x, y = (int(v) for v in place)
            inside = 0 <= x < side and 0 <= y < side
            seen[n, m] = inside and bool((labels[y : y + 3, x : x + 3] == label).any())
    return marks, seen


@dataclass(frozen=True)
class Album:
    """The drawn groups: pictures uint8 [G, FAMILY, POSES, SIDE, SIDE, 3] and what was derived from their landmarks."""

    pictures: np.ndarray
    points: np.ndarray  # [G, FAMILY, POSES, LANDMARKS, 2]
    marks: np.ndarray  # places on the figure, [G, FAMILY, POSES, MARKS, 2]
    seen: np.ndarray  # whether each is seen there, bool [G, FAMILY, POSES, MARKS]
    ground: np.ndarray  # how much of each place is background, of 255: [G, FAMILY, POSES, GROUND, GROUND]
    values: np.ndarray  # [G, FAMILY, POSES, K, 2]
    jacobians: np.ndarray  # [G, FAMILY, POSES, K, 2, 2]
    regions: np.ndarray  # [G, FAMILY, POSES, 3, 4]


def make_album(folder: Path, groups: int, seed: int) -> Album:
    """Draw the album once and keep it in ``folder``; drawing takes about 10 ms a picture and core."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"album-{seed}-{groups}x{FAMILY}x{POSES}-{SIDE}"
    pictures_path, known_path = folder / f"{stem}.npy", folder / f"{stem}-known.npz"
    if not known_path.exists():  # written last
        shape = (groups, FAMILY, POSES, SIDE, SIDE, 3)
        pictures = np.lib.format.open_memmap(pictures_path, "w+", np.uint8, shape)
        known: dict[str, list[np.ndarray]] = {}
        with multiprocessing.Pool(os.cpu_count()) as pool:
            draw = functools.partial(draw_group, seed=seed)
            for k, drawn in enumerate(pool.imap(draw, range(groups), chunksize=4)):
                pictures[k] = drawn.pop("pictures")
                for name, value in drawn.items():
                    known.setdefault(name, []).append(value)
        pictures.flush()
        temporary = known_path.with_suffix(".part.npz")
        np.savez(temporary, **{name: np.stack(values) for name, values in known.items()})
        temporary.replace(known_path)
    with np.load(known_path) as stored:
        arrays = dict(stored)
    return Album(
        pictures=np.load(pictures_path, mmap_mode="r"),
        values=keypoint_values(arrays["points"]).astype(np.float32),
        jacobians=keypoint_jacobians(arrays["points"]).astype(np.float32),
        regions=regions(arrays["points"]).astype(np.float32),
        **arrays,
    )


@dataclass(frozen=True)
class Batch:
    """N examples at one side. Pictures [N, 3, side, side] in [0, 1]; keypoints are the true ones."""

    source: Tensor  # spoiled as inputs are
    driving: Tensor  # of A itself or of B
    initial: Tensor  # the same performer in the source's pose
    target: Tensor  # clean
    kp_source: Keypoints
    kp_driving: Keypoints
    kp_initial: Keypoints
    kp_target: Keypoints
    regions: Tensor  # the target's, [N, 3, 4]
    source_regions: Tensor
    source_points: Tensor  # landmarks and what lies between them, [N, M, 2]
    target_points: Tensor
    source_marks: Tensor  # places on the figure that are seen in both pictures, [N, MARKS, 2]
    target_marks: Tensor
    both_seen: Tensor  # float [N, MARKS]
    source_ground: Tensor  # background, [N, 1, GROUND, GROUND] in [0, 1]
    target_ground: Tensor
    own: np.ndarray  # bool [N], whether A drives itself


def draw_batch(album: Album, step: int, size: int, side: int, seed: int) -> Batch:
    """The batch of a step: the same for the same seed and step."""
    rng = np.random.default_rng([seed, step, 11])
    groups = rng.integers(0, len(album.pictures), size)
    a = rng.integers(0, FAMILY, size)
    own = rng.random(size) < 0.5
    b = np.where(own, a, (a + rng.integers(1, FAMILY, size)) % FAMILY)
    i = np.where(rng.random(size) < 0.65, rng.integers(0, NEAR, size), rng.integers(0, POSES, size))
    # Now and then nothing moves: the picture must then stay as it is.
    j = np.where(rng.random(size) < 0.1, i, (i + rng.integers(1, POSES, size)) % POSES)
    jitters = [_jitter(rng) for _ in range(2 * size)]

    def pictures(who: np.ndarray, pose: np.ndarray, performer: bool, spoiled: float) -> Tensor:
        out = np.empty((size, SIDE, SIDE, 3), np.float32)
        for n in range(size):
            picture = album.pictures[groups[n], who[n], pose[n]]
            if rng.random() < spoiled:
                picture = spoil(picture, rng)
            matrix, gain, gamma = jitters[n + size * (performer and not own[n])]
            out[n] = np.clip((picture.astype(np.float32) / 255) ** gamma @ matrix * gain, 0, 1)
        tensor = torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()
        return F.avg_pool2d(tensor, SIDE // side) if side != SIDE else tensor

    pairs = neighbours()[rng.integers(0, len(neighbours()), 64)]
    share = rng.random((64, 1)).astype(np.float32)

    def points(who: np.ndarray, pose: np.ndarray) -> Tensor:
        marks = album.points[groups, who, pose]
        between = marks[:, pairs[:, 0]] * share + marks[:, pairs[:, 1]] * (1 - share)
        return torch.from_numpy(np.concatenate([marks, between], 1))

    def keypoints(who: np.ndarray, pose: np.ndarray) -> Keypoints:
        at = groups, who, pose
        return Keypoints(torch.from_numpy(album.values[at]), torch.from_numpy(album.jacobians[at]))

    return Batch(
        source=pictures(a, i, False, SPOILED_SOURCES),
        driving=pictures(b, j, True, SPOILED),
        initial=pictures(b, i, True, SPOILED),
        target=pictures(a, j, False, 0),
        kp_source=keypoints(a, i),
        kp_driving=keypoints(b, j),
        kp_initial=keypoints(b, i),
        kp_target=keypoints(a, j),
        regions=torch.from_numpy(album.regions[groups, a, j]),
        source_regions=torch.from_numpy(album.regions[groups, a, i]),
        source_points=points(a, i),
        target_points=points(a, j),
        source_marks=torch.from_numpy(album.marks[groups, a, i]),
        target_marks=torch.from_numpy(album.marks[groups, a, j]),
        both_seen=torch.from_numpy((album.seen[groups, a, i] & album.seen[groups, a, j]).astype(np.float32)),
        source_ground=torch.from_numpy(album.ground[groups, a, i].astype(np.float32))[:, None] / 255,
        target_ground=torch.from_numpy(album.ground[groups, a, j].astype(np.float32))[:, None] / 255,
        own=own,
    )


def _jitter(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """A change of colour: a matrix that turns hue and saturation, gains per channel, gamma."""
    channels = np.eye(3)[rng.permutation(3)] if rng.random() < 0.3 else np.eye(3)
    keep = rng.uniform(0.6, 1.2)
    grey = np.full((3, 3), 1 / 3)
    matrix = channels * keep + grey * (1 - keep)
    return matrix.astype(np.float32), rng.uniform(0.8, 1.15, 3).astype(np.float32), float(rng.uniform(0.8, 1.25))


def transfer(source: Keypoints, driving: Keypoints, initial: Keypoints, own: np.ndarray) -> Keypoints:
    """Relative motion for a batch, scale adapted; an identity that drives itself is taken as it is, as in the paper."""
    scale = [
        1.0 if o else (hull_area(s) / max(hull_area(d), 1e-6)) ** 0.5
        for s, d, o in zip(source.value, initial.value, own, strict=True)
    ]
    factor = torch.tensor(scale, dtype=source.value.dtype)[:, None, None]
    relative = source.value + (driving.value - initial.value) * factor
    jacobian = driving.jacobian @ torch.linalg.inv(initial.jacobian) @ source.jacobian
    mine = torch.from_numpy(own)[:, None, None]
    return Keypoints(
        torch.where(mine, driving.value, relative), torch.where(mine[..., None], driving.jacobian, jacobian)
    )


def region_weight(where: Tensor, side: int) -> Tensor:
    """[N, 1, side, side] in [0, 1]: 1 inside the ellipses around eyes and mouth, falling off smoothly."""
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    x, y = axis[None, None, None, :], axis[None, None, :, None]
    cx, cy, rx, ry = (where[..., k, None, None] for k in range(4))
    far = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
    return (4 * (1.25 - far)).sigmoid().amax(1, keepdim=True)


def picture_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 on pixels and on their differences, at full, half and quarter side, and of the local energy.

    Energy is the mean size of differences over 5 x 5 pixels: where the warp is a pixel off, plain L1 is least for a
    blurred picture, and this is not.
    """
    total = prediction.new_zeros(())
    for level in range(3):
        if level:
            prediction, target, weight = (F.avg_pool2d(x, 2) for x in (prediction, target, weight))
        norm = weight.mean()
        error = prediction - target
        total = total + (error.abs() * weight).mean() / norm
        if level < 2:
            for axis in (2, 3):
                near = weight.narrow(axis, 0, weight.shape[axis] - 1)
                total = total + (error.diff(dim=axis).abs() * near).mean() / norm
                energies = [F.avg_pool2d(x.diff(dim=axis).abs(), 5, 2) for x in (prediction, target)]
                near = F.avg_pool2d(near, 5, 2)
                total = total + 2 * ((energies[0] - energies[1]).abs() * near).mean() / norm
    return total


def energy_loss(prediction: Tensor, target: Tensor, where: Tensor) -> Tensor:
    """How far the gradient energy around each eye and the mouth is from the target's, squared, as a share of that.

    The mean, not each place's own, for a soft picture is right in the median of each place and too soft in all.
    """
    total = prediction.new_zeros(())
    for k in range(where.shape[1]):
        weight = region_weight(where[:, k : k + 1], target.shape[-1])
        mine, right = (
            sum((x.diff(dim=axis).abs() * weight.narrow(axis, 1, x.shape[axis] - 1)).sum((1, 2, 3)) for axis in (2, 3))
            for x in (prediction, target)
        )
        total = total + ((mine / (right + 1e-2 * weight.sum((1, 2, 3))) - 1) ** 2).mean()
    return total


def keypoint_loss(found: Keypoints, true: Keypoints) -> Tensor:
    """L1 of values (small features more precisely) and jacobians."""
    return 10 * (found.value - true.value).abs().mean() + (found.jacobian - true.jacobian).abs().mean()


def mask_loss(mask: Tensor, batch: Batch) -> Tensor:
    """A hint for the masks: each landmark moves with the keypoint it follows, the background with none."""
    which = [mark for marks in FOLLOWERS.values() for mark in marks]
    owner = torch.tensor([1 + k for k, marks in enumerate(FOLLOWERS.values()) for _ in marks])
    shares = look_up(mask, batch.target_points[:, which])
    chosen = shares.gather(2, owner.expand(len(mask), -1)[..., None])
    ground = resized(batch.target_ground, mask)
    away = -((mask[:, :1] + 1e-3).log() * ground).sum() / ground.sum().clamp(min=1)
    return -(chosen + 1e-3).log().mean() + away


def flow_loss(deformation: Tensor, batch: Batch) -> Tensor:
    """The deformation against what is known of it.

    At each landmark of the target, and each place on the figure that both pictures show, it must look at the same of
    the source; where both show the background, at the same place.
    """
    flow = deformation.permute(0, 3, 1, 2)
    marks = torch.ones(batch.target_points.shape[:2])
    marks[:, EYE_LEFT.start : LIPS_INNER.stop] = 4  # lids and lips: a head that moves well is not yet a face that does
    weight = torch.cat([marks, 2 * batch.both_seen], 1)
    where = torch.cat([batch.target_points, batch.target_marks], 1)
    right = torch.cat([batch.source_points, batch.source_marks], 1)
    figure = ((look_up(flow, where) - right).abs().mean(-1) * weight).sum() / weight.sum()
    still = resized(batch.source_ground * batch.target_ground, deformation.permute(0, 3, 1, 2))
    axis = (torch.arange(flow.shape[-1]) + 0.5) / flow.shape[-1] * 2 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    return figure + 0.5 * ((flow - grid).abs().mean(1, keepdim=True) * still).sum() / still.sum().clamp(min=1)


def look_up(maps: Tensor, where: Tensor) -> Tensor:
    """[N, C, h, w] at points [N, M, 2] -> [N, M, C]."""
    found = F.grid_sample(maps, where[:, :, None], padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2)


def resized(ground: Tensor, like: Tensor) -> Tensor:
    """A map of the background at the side of another map; what is not wholly background counts little."""
    pure = ground**4
    return pure if pure.shape[-1] == like.shape[-1] else F.adaptive_avg_pool2d(pure, like.shape[-1])


def hole_loss(occlusion: Tensor, batch: Batch) -> Tensor:
    """What the source can't show must be known as missing: the mouth's inside, the eyeball, background that appears.

    The cross entropy of the occlusion map (0 says missing) between lips and between lids: 0 where they are further
    apart in the target than in the source, 1 where they are not, and whatever serves the picture in between; and
    where the target shows background: 0 where the source's figure hid it, 1 where it did not.
    """
    source_points, target_points = batch.source_points, batch.target_points
    total, count = occlusion.new_zeros(()), occlusion.new_full((), 1e-3)
    for upper, lower in (((64, 65, 66), (70, 69, 68)), ((34, 35, 36), (40, 39, 38)), ((42, 43, 44), (48, 47, 46))):
        gaps = [(p[:, lower] - p[:, upper]).norm(dim=-1).mean(1) for p in (source_points, target_points)]
        opens = (gaps[1] - 1.5 * gaps[0] > 0.04).float()  # 0.04: 2.5 pixels
        stays = (gaps[1] < gaps[0] + 0.02).float()
        share = torch.tensor([0.3, 0.5, 0.7])[:, None, None, None]
        between = target_points[:, upper] * (1 - share) + target_points[:, lower] * share  # [3, N, 3, 2]
        where = between.transpose(0, 1).flatten(1, 2)[:, :, None]
        seen = F.grid_sample(occlusion, where, align_corners=False).flatten(1)
        surprise = -(1.001 - seen).log().mean(1) * opens - (seen + 0.001).log().mean(1) * stays
        total, count = total + surprise.sum(), count + (opens + stays).sum()
    shown = resized(batch.target_ground, occlusion)
    there = resized(batch.source_ground, occlusion)
    hidden = resized(1 - batch.source_ground, occlusion)
    surprise = -((1.001 - occlusion).log() * hidden + (occlusion + 0.001).log() * there) * shown
    return total / count + surprise.sum() / shown.sum().clamp(min=1)


def equivariance_loss(model: FirstOrderModel, frames: Tensor, found: Keypoints, rng: np.random.Generator) -> Tensor:
    """The paper's equivariance (eqs. 8-10): keypoints of a warped picture are the warped keypoints of the picture.

    The map T takes points of the warped picture to the picture: affine plus a thin-plate term whose control points
    move at random. Values: X = T(Y); jacobians: 1 = J_X^-1 T'(Y) J_Y.
    """
    n, side = len(frames), frames.shape[-1]
    noise = torch.from_numpy(rng.normal(0, 0.05, (n, 2, 3)).astype(np.float32))
    theta = torch.eye(2, 3) + noise
    axis = torch.linspace(-0.8, 0.8, 4)
    control = torch.cartesian_prod(axis, axis)
    bend = torch.from_numpy(rng.normal(0, 0.004, (n, 2, 16)).astype(np.float32))

    def move(points: Tensor) -> Tensor:  # [N, M, 2] -> [N, M, 2]
        flat = points @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]
        square = ((points[:, :, None] - control) ** 2).sum(-1)
        return flat + (square * (square + 1e-6).log()) @ bend.transpose(1, 2)

    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(1, -1, 2).expand(n, -1, -1)
    warped = F.grid_sample(frames, move(grid).view(n, side, side, 2), padding_mode="reflection", align_corners=False)
    other = model.kp_detector(warped)
    value = (found.value - move(other.value)).abs().mean()
    where = other.value.detach().requires_grad_()
    moved = move(where)
    slope = torch.stack([torch.autograd.grad(moved[..., k].sum(), where, retain_graph=True)[0] for k in range(2)], -2)
    closure = torch.linalg.inv(found.jacobian) @ slope.detach() @ other.jacobian
    return 10 * value + (closure - torch.eye(2)).abs().mean()


@dataclass(frozen=True)
class Stage:
    """A stretch of the schedule.

    detected: whether the generator is given the keypoints that the detector finds, or the true ones. every: one step
    of so many trains all networks, the others the dense motion or the detector alone.
    """

    side: int
    steps: int
    batch: int
    rate: float
    detected: bool
    every: int


def parse_schedule(text: str) -> list[Stage]:
    """'64:3000:12:1e-3:true:3,128:3000:8:6e-4:found:1' -> stages."""
    stages = []
    for part in text.split(","):
        side, steps, batch, rate, whose, every = part.split(":")
        detected = {"true": False, "found": True}[whose]
        stages.append(Stage(int(side), int(steps), int(batch), float(rate), detected, int(every)))
    return stages


def stage_at(stages: list[Stage], step: int) -> tuple[Stage, int]:
    """The stage of a step, and how far into it the step is."""
    for stage in stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    raise IndexError(step)


def learning_rate(stages: list[Stage], step: int) -> float:
    """Warm over 100 steps; the last stage falls along a cosine to a twentieth."""
    stage, within = stage_at(stages, step)
    rate = stage.rate * min(1.0, (step + 1) / 100)
    if stage is stages[-1]:
        rate *= 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * within / stage.steps))
    return rate


@torch.no_grad()
def pass_through(generator: Generator) -> None:
    """Let an untrained generator show what the warp brings, nearly unchanged, so that it starts sharp.

    The first three features carry red, green and blue, the residual blocks add nothing yet, and the last layer
    turns the three features back into a picture (5 x - 2.5 is a fair logit of x).
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
    """Training mode, but for the generator's own normalisation.

    That keeps its initial statistics, mean 0 and variance 1, and so is an affine map per channel: statistics of a
    small batch would shift colours from step to step, which the generator can't undo.
    """
    model.train()
    for part in (model.generator.first, model.generator.bottleneck):
        for module in part.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def guide(out: Generated | DenseMotion, batch: Batch) -> dict[str, Tensor]:
    """What the drawings say of deformation, masks and occlusion."""
    return {
        "flow": 4 * flow_loss(out.deformation, batch),
        "masks": 0.03 * mask_loss(out.mask, batch),
        "holes": 0.1 * hole_loss(out.occlusion, batch),
    }


class Trainer:
    """The state of a training and how a step changes it."""

    def __init__(
        self,
        folder: Path,
        stages: list[Stage],
        groups: int,
        seed: int,
        decay: float = 0.99,
        start: Path | None = None,
    ) -> None:
        self.folder, self.stages, self.seed, self.decay = folder, stages, seed, decay
        torch.manual_seed(seed)
        self.model = build_model("demo")
        if start:
            self.model.load_state_dict({name: value.float() for name, value in load_checkpoint(start).items()})
        else:
            pass_through(self.model.generator)
        set_training(self.model)
        self.model.to(memory_format=torch.channels_last)  # a fifth faster
        self.average = build_model("demo").eval()
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99))
        self.step = 0
        self.album = make_album(folder, groups, seed)
        self.path = folder / "state.pt"
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self) -> None:
        """Write the state beside its place, then rename: never half a file."""
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
        """One step; returns its losses."""
        stage, _ = stage_at(self.stages, self.step)
        batch = draw_batch(self.album, self.step, stage.batch, stage.side, self.seed)
        rng = np.random.default_rng([self.seed, self.step, 12])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.stages, self.step)
        # Motion and detector have the most to learn and cost the least.
        if self.step % stage.every == 0:
            losses = self._whole(batch, stage, rng)
        elif self.step % 2:
            losses = self._motion(batch)
        else:
            losses = self._detector(batch)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        if torch.isfinite(norm):  # one bad batch must not end a night's work
            self.optimizer.step()
        self._follow()
        self.step += 1
        return {k: float(v.detach()) for k, v in losses.items()}

    def _whole(self, batch: Batch, stage: Stage, rng: np.random.Generator) -> dict[str, Tensor]:
        """Losses of detector, dense motion and generator together."""
        others = np.flatnonzero(~batch.own)
        n = stage.batch
        # One pass of the detector sees every picture; an identity that drives itself needs no initial frame.
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
        # Most of what is hidden lies outside the regions, and there only the decoder can mend anything.
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
        """Loss of the detector alone."""
        found = self.model.kp_detector(torch.cat([batch.source, batch.driving]))
        return {"keypoints": keypoint_loss(found, _join(batch.kp_source, batch.kp_driving))}

    def _motion(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the dense motion alone: guided by the drawings, and the source, warped, against the target."""
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
        """Let the averaged weights follow, faster at the start."""
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
def contact_sheet(model: FirstOrderModel, path: Path, side: int, album: Album) -> dict[str, float]:
    """Held-out identities driven by others: rows of source, driving, result, truth, occlusion; returns measures."""
    batch = draw_batch(album, 0, 24, side, 99)
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


def ship(folder: Path, path: Path) -> None:
    """Write the averaged weights of a training's last checkpoint in half precision, as the package carries them."""
    state = torch.load(folder / "state.pt", weights_only=True)
    save_safetensors(state["average"], path, half=True)
    print(f"{path}: step {state['step']}, {path.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ship", type=Path, metavar="FILE", help="write the weights so far as safetensors, and end")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with")
    parser.add_argument("--folder", type=Path, default=Path("build/training"))
    parser.add_argument("--schedule", default=SCHEDULE)
    parser.add_argument("--groups", type=int, default=1200, help=f"groups of {FAMILY} identities in {POSES} poses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=180, help="seconds between checkpoints and contact sheets")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.ship:
        ship(args.folder, args.ship)
        return
    torch.set_num_threads(args.threads)
    stages = parse_schedule(args.schedule)
    trainer = Trainer(args.folder, stages, args.groups, args.seed, start=args.start)
    held_out = make_album(args.folder, 24, HELD_OUT)
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
            sheet = args.folder / f"sheet-{trainer.step:06d}.png"
            print(
                json.dumps({"sheet": sheet.name, **contact_sheet(trainer.average, sheet, side, held_out)}), flush=True
            )
            saved = time.monotonic()
    if asked_to_stop:
        trainer.save()


if __name__ == "__main__":
    main()
