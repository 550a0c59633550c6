"""The losses that train the network: of pictures, keypoints, and the known motion."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from album import Batch
from landmarks import FOLLOWERS, KEYPOINTS
from portraits import EYE_LEFT, LIPS_INNER
from torch import Tensor

from talkies.fomm.model.dense_motion import DenseMotion
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.generator import Generated
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.motion import hull_area


def transfer(source: Keypoints, driving: Keypoints, initial: Keypoints, own: np.ndarray) -> Keypoints:
    """Return the source's keypoints, moved by relative motion with adapted scale.

    An identity that drives itself gets the driving keypoints unchanged, as in the paper.
    """
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
    """Return weights [N, 1, side, side] in [0, 1]: near 1 inside the ellipses ``where``, falling off smoothly."""
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    x, y = axis[None, None, None, :], axis[None, None, :, None]
    cx, cy, rx, ry = (where[..., k, None, None] for k in range(4))
    far = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
    return (4 * (1.25 - far)).sigmoid().amax(1, keepdim=True)


def picture_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 of pixels at full, half and quarter size; at the first two, also of differences and local energy.

    Differences are those between neighbouring pixels; energy is their mean size over 5 x 5 pixels. If the warp is a
    pixel off, plain L1 is lowest for a blurred picture; the L1 of energy is not.
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
    """Squared relative error of the gradient energy around each eye and the mouth.

    Energy is summed over each region before it is compared. A comparison at each place would favour soft pictures,
    which are right in the median of each place but too soft overall.
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


OPENINGS = (("lid_upper_left", "lid_lower_left"), ("lid_upper_right", "lid_lower_right"), ("lip_upper", "lip_lower"))
"""Pairs of keypoints whose distance shows how far an eye or the mouth is open."""


def keypoint_loss(found: Keypoints, true: Keypoints) -> Tensor:
    """L1 of values, of openings and of jacobians. An opening is right if both of its ends have the same error."""
    error = found.value - true.value
    upper, lower = ([list(KEYPOINTS).index(pair[end]) for pair in OPENINGS] for end in (0, 1))
    opening = error[:, upper] - error[:, lower]
    return 10 * error.abs().mean() + 10 * opening.abs().mean() + (found.jacobian - true.jacobian).abs().mean()


def mask_loss(mask: Tensor, batch: Batch) -> Tensor:
    """Guide the masks: each landmark moves with the keypoint that it follows, and the background with none."""
    which = [mark for marks in FOLLOWERS.values() for mark in marks]
    owner = torch.tensor([1 + k for k, marks in enumerate(FOLLOWERS.values()) for _ in marks])
    shares = look_up(mask, batch.target_points[:, which])
    chosen = shares.gather(2, owner.expand(len(mask), -1)[..., None])
    ground = resized(batch.target_ground, mask)
    away = -((mask[:, :1] + 1e-3).log() * ground).sum() / ground.sum().clamp(min=1)
    return -(chosen + 1e-3).log().mean() + away


def flow_loss(deformation: Tensor, batch: Batch) -> Tensor:
    """L1 of the deformation where the true one is known.

    At each landmark of the target, and at each mark that is visible in both pictures, the deformation must point to
    the same landmark or mark in the source. Where both pictures show background, nothing may move.
    """
    flow = deformation.permute(0, 3, 1, 2)
    marks = torch.ones(batch.target_points.shape[:2])
    marks[:, EYE_LEFT.start : LIPS_INNER.stop] = 4  # lids and lips: without this, the head moves well but not the face
    weight = torch.cat([marks, 2 * batch.both_seen], 1)
    where = torch.cat([batch.target_points, batch.target_marks], 1)
    right = torch.cat([batch.source_points, batch.source_marks], 1)
    figure = ((look_up(flow, where) - right).abs().mean(-1) * weight).sum() / weight.sum()
    still = resized(batch.source_ground * batch.target_ground, deformation.permute(0, 3, 1, 2))
    axis = (torch.arange(flow.shape[-1]) + 0.5) / flow.shape[-1] * 2 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    return figure + 0.5 * ((flow - grid).abs().mean(1, keepdim=True) * still).sum() / still.sum().clamp(min=1)


def look_up(maps: Tensor, where: Tensor) -> Tensor:
    """Sample maps [N, C, h, w] at points [N, M, 2] -> [N, M, C]."""
    found = F.grid_sample(maps, where[:, :, None], padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2)


def resized(ground: Tensor, like: Tensor) -> Tensor:
    """Resize a map of the background to the size of another map. Places that are partly background count little."""
    pure = ground**4
    return pure if pure.shape[-1] == like.shape[-1] else F.adaptive_avg_pool2d(pure, like.shape[-1])


def hole_loss(occlusion: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the occlusion map (0: missing in the source) where drawings tell what is missing.

    Between lips and between lids, the map must be 0 if they are clearly further apart in the target than in the
    source, and 1 if they are not; in between it is free. Where the target shows background, the map must be 0 if the
    source's figure hid it, and 1 if it did not.
    """
    source_points, target_points = batch.source_points, batch.target_points
    drawn = 1 - batch.rendered
    total, count = occlusion.new_zeros(()), occlusion.new_full((), 1e-3)
    for upper, lower in (((64, 65, 66), (70, 69, 68)), ((34, 35, 36), (40, 39, 38)), ((42, 43, 44), (48, 47, 46))):
        gaps = [(p[:, lower] - p[:, upper]).norm(dim=-1).mean(1) for p in (source_points, target_points)]
        opens = (gaps[1] - 1.5 * gaps[0] > 0.04).float() * drawn  # 0.04: 2.5 pixels
        stays = (gaps[1] < gaps[0] + 0.02).float() * drawn
        share = torch.tensor([0.3, 0.5, 0.7])[:, None, None, None]
        between = target_points[:, upper] * (1 - share) + target_points[:, lower] * share  # [3, N, 3, 2]
        where = between.transpose(0, 1).flatten(1, 2)[:, :, None]
        seen = F.grid_sample(occlusion, where, align_corners=False).flatten(1)
        surprise = -(1.001 - seen).log().mean(1) * opens - (seen + 0.001).log().mean(1) * stays
        total, count = total + surprise.sum(), count + (opens + stays).sum()
    shown = resized(batch.target_ground, occlusion) * drawn[:, None, None, None]
    there = resized(batch.source_ground, occlusion)
    hidden = resized(1 - batch.source_ground, occlusion)
    surprise = -((1.001 - occlusion).log() * hidden + (occlusion + 0.001).log() * there) * shown
    return total / count + surprise.sum() / shown.sum().clamp(min=1)


def dense_loss(out: Generated | DenseMotion, batch: Batch) -> Tensor:
    """Error of deformation and occlusion of rendered figures, from the true flow and the true visibility.

    Eyes and mouth have seven times the weight: without it, the head moves well but not the face.
    """
    assert out.occlusion is not None
    side = out.occlusion.shape[-1]
    right, visible = batch.flow.permute(0, 3, 1, 2), batch.visible
    if visible.shape[-1] != side:  # a place that is partly visible counts in part
        seen = F.adaptive_avg_pool2d(visible, side)
        right = F.adaptive_avg_pool2d(right * visible, side) / seen.clamp(min=1e-3)
        visible = seen
    weight = (1 + 6 * region_weight(batch.regions, side)) * batch.rendered[:, None, None, None]
    count = weight.sum().clamp(min=1)
    away = (out.deformation.permute(0, 3, 1, 2) - right).abs().mean(1, keepdim=True)
    flow = (away * weight * visible).sum() / count
    surprise = F.binary_cross_entropy(out.occlusion.clamp(1e-3, 1 - 1e-3), visible, reduction="none")
    return 8 * flow + 0.15 * (surprise * weight).sum() / count


def equivariance_loss(model: FirstOrderModel, frames: Tensor, found: Keypoints, rng: np.random.Generator) -> Tensor:
    """The paper's equivariance loss (eqs. 8-10): keypoints of a warped picture are the picture's keypoints, warped.

    The map T takes points of the warped picture to points of the picture. It is affine, plus a thin-plate term with
    random control values. Values: X = T(Y); jacobians: 1 = J_X^-1 T'(Y) J_Y.
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
