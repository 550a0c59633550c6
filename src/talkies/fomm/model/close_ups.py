"""Close-ups: small networks that paint the mouth and the eyes of a made frame again, at the full side.

The generator's motion has 64 x 64 places and its paint half the picture's side: too coarse for teeth and lids. A
close-up sees one region of the face as several pictures of the same size: the generator's paint, and the source's
pixels as each of several motions carries them there. The motions are the generator's own and rigid ones: with the
skull, which carries the upper teeth, and with the jaw, a lid or a pupil. From these it makes a motion of its own (a
share of each, and a remainder), a mask and a paint, and the frame's region is made again. It is trained on rendered
heads whose true motion is known (training/train_close_ups.py).

Regions are found by keypoints, so the networks fit only those of the demo presets (training/landmarks.py): 19, in
[-1, 1] coordinates. Right eyes are seen in the mirror.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .generator import Generated
from .keypoint_detector import Keypoints
from .layers import ShuffledUNet, coordinate_grid, inverse_2x2, warp
from .presets import PRESETS

CHIN, NOSE, BROW, UPPER_LID, LOWER_LID, OTHER_LID = 0, 4, 5, 7, 8, 10
LIDS = 7, 8, 9, 10
MOUTH_LEFT, MOUTH_RIGHT, UPPER_LIP, LOWER_LIP, PUPIL = 11, 12, 13, 14, 15
MIRROR = PRESETS["demo-photographs"].mirror
EDGE = 0.4
"""Width of the border in which a region, an ellipse, fades into the frame, as a share of its half sides."""
FREE = 0.25
"""The largest own motion of a close-up, as a share of the region's half width."""


@dataclass(frozen=True)
class Region:
    """A region of the face. Numbers are keypoints.

    width, height: of its pictures, in pixels. reach: half its width, in sizes of the head. middle: the mean of these
    is its middle. spots: drawn for the network. carriers: each set carries the source along, by the motion of its mean;
    the first is the skull.
    """

    width: int
    height: int
    reach: float
    middle: tuple[int, ...]
    spots: tuple[int, ...]
    carriers: tuple[tuple[int, ...], ...]

    @property
    def inputs(self) -> int:
        """The number of channels a close-up sees (see `observe`)."""
        return 3 * (2 + len(self.carriers)) + 1 + 2 * len(self.carriers) + 2 * len(self.spots)


MOUTH = Region(
    width=112,
    height=96,
    reach=0.75,
    middle=(MOUTH_LEFT, MOUTH_RIGHT, UPPER_LIP, LOWER_LIP),
    spots=(MOUTH_LEFT, MOUTH_RIGHT, UPPER_LIP, LOWER_LIP, CHIN, NOSE),
    carriers=((NOSE, NOSE, LOWER_LID, OTHER_LID), (CHIN, LOWER_LIP)),
)
EYE = Region(
    width=64,
    height=48,
    reach=0.40,
    middle=(UPPER_LID, LOWER_LID),
    spots=(UPPER_LID, LOWER_LID, PUPIL, BROW, NOSE),
    carriers=((LOWER_LID, NOSE), (UPPER_LID,), (PUPIL,)),
)
REGIONS = {"mouth": MOUTH, "eye": EYE}


@dataclass(frozen=True)
class Sight:
    """What a close-up works with, for N frames of h x w pixels.

    seen: the network's input, [N, inputs, h, w]. grid: the places of its pixels in the frame, [N, h, w, 2]. motions:
    where each motion finds them in the source, the generator's first: M of [N, h, w, 2]. painted: the generator's
    paint, [N, 3, h, w]. mask: what the source shows, [N, 1, h, w]. unit: the region's half width, [N, 1, 1, 1].
    """

    seen: Tensor
    grid: Tensor
    motions: list[Tensor]
    painted: Tensor
    mask: Tensor
    unit: Tensor


@dataclass(frozen=True)
class Look:
    """What a close-up makes: motion [N, h, w, 2], mask [N, 1, h, w] and paint [N, 3, h, w]."""

    motion: Tensor
    mask: Tensor
    paint: Tensor


def mirrored(keypoints: Keypoints) -> Keypoints:
    """Return keypoints as in a mirrored picture."""
    assert keypoints.jacobian is not None
    turn = keypoints.value.new_tensor([-1, 1]).diag()
    return Keypoints(keypoints.value[:, MIRROR] @ turn, turn @ keypoints.jacobian[:, MIRROR] @ turn)


def head_size(value: Tensor) -> Tensor:
    """Return the size of heads with keypoints [N, K, 2]: about 65 mm in a real head, [N] in [-1, 1] units.

    It is the distance of the eyes, or from them to the mouth, which a turned head does not shorten.
    """
    left, right = value[:, LOWER_LID], value[:, OTHER_LID]
    down = (left + right) / 2 - value[:, UPPER_LIP]
    return torch.maximum((left - right).norm(dim=-1), down.norm(dim=-1))


def find_region(region: Region, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the middle [N, 2] and the half sides [N, 2] of a region of faces with keypoints [N, K, 2]."""
    half = head_size(value) * region.reach
    return value[:, region.middle].mean(1), torch.stack([half, half * region.height / region.width], dim=-1)


def places(region: Region, middle: Tensor, half: Tensor) -> Tensor:
    """Return the places of a region's pixels, [N, h, w, 2] in [-1, 1]."""
    grid = coordinate_grid(region.height, region.width, middle, centred=True)
    return middle[:, None, None] + grid * half[:, None, None]


def coarse_motion(deformation: Tensor, grid: Tensor) -> Tensor:
    """Return a deformation [N, H, W, 2] at the places of a grid [N, h, w, 2]."""
    height, width = deformation.shape[1:3]
    away = deformation - coordinate_grid(height, width, deformation, centred=True)
    return grid + warp(away.permute(0, 3, 1, 2), grid, padding="border").permute(0, 2, 3, 1)


def observe(
    region: Region,
    source: Tensor,
    grid: Tensor,
    half: Tensor,
    coarse: tuple[Tensor, Tensor, Tensor],
    kp_source: Keypoints,
    kp_driving: Keypoints,
) -> Sight:
    """Return what the region's close-up sees.

    source: [N, 3, H, W] in [0, 1]. grid, half: see `places`. coarse: the generator's motion [N, h, w, 2], mask [N, 1,
    h, w] and paint [N, 3, h, w] in the region. Keypoints: of N pictures each, with jacobians.
    """
    motion, mask, painted = coarse
    assert kp_source.jacobian is not None
    assert kp_driving.jacobian is not None
    there, here = kp_source.value, kp_driving.value
    turn = kp_source.jacobian[:, NOSE] @ inverse_2x2(kp_driving.jacobian[:, NOSE])

    def carried(carrier: tuple[int, ...]) -> Tensor:
        away = grid - here[:, carrier].mean(1)[:, None, None]
        return away @ turn.transpose(1, 2)[:, None] + there[:, carrier].mean(1)[:, None, None]

    rigid = [carried(carrier) for carrier in region.carriers]
    skull, unit = rigid[0], half[:, :1, None, None]
    motions = [motion, *rigid]
    copies = [warp(source, m, padding="border") for m in motions]
    moves = [((m - skull) / unit).permute(0, 3, 1, 2).clamp(-1, 1) * 4 for m in (motion, *rigid[1:])]
    # Where the source's keypoints would be if only the skull moved.
    first = region.carriers[0]
    still = there[:, region.spots] - there[:, first].mean(1)[:, None]
    still = still @ inverse_2x2(turn).transpose(1, 2) + here[:, first].mean(1)[:, None]
    spots = [_spots(points, grid, 0.12 * unit) for points in (here[:, region.spots], still)]
    seen = torch.cat([painted, *copies, mask, *moves, *spots], dim=1)
    return Sight(seen, grid, motions, painted, mask, unit)


def _spots(points: Tensor, grid: Tensor, radius: Tensor) -> Tensor:
    """Return Gaussians [N, K, h, w] about points [N, K, 2] on a grid [N, h, w, 2] of straight rows and columns."""
    x, y = (
        torch.exp((axis[:, None] - points[..., k, None]) ** 2 / (-2 * radius[:, 0] ** 2))
        for k, axis in enumerate((grid[:, 0, :, 0], grid[:, :, 0, 1]))
    )
    return y[..., :, None] * x[..., None, :]


class CloseUp(ShuffledUNet):
    """The network of one region: from what is seen (`Sight.seen`) to raw outputs [N, M + 6, h, w]; see `interpret`.

    It starts as the generator's result.
    """

    def __init__(self, region: Region) -> None:
        motions = 1 + len(region.carriers)
        super().__init__(region.inputs, motions + 6, (48, 72, 112))
        nn.init.normal_(self.last.weight, std=1e-3)
        bias = torch.zeros(motions + 6, 4)
        bias[0] = 2  # the generator's motion
        self.last.bias = nn.Parameter(bias.flatten())


def interpret(raw: Tensor, sight: Sight) -> Look:
    """Return the motion, mask and paint of a close-up's raw outputs.

    In order: the share of each motion, its own motion (2), the change of the mask and of the paint (3).
    """
    raw, count = raw.float(), len(sight.motions)
    shares = raw[:, :count].softmax(1)
    motion = torch.stack([s[..., None] * m for s, m in zip(shares.unbind(1), sight.motions, strict=True)]).sum(0)
    motion = motion + FREE * torch.tanh(raw[:, count : count + 2]).permute(0, 2, 3, 1) * sight.unit
    mask = torch.sigmoid(torch.logit(sight.mask, 0.02) + 4 * raw[:, count + 2 : count + 3])
    paint = torch.sigmoid(torch.logit(sight.painted, 0.01) + 4 * raw[:, count + 3 :])
    return Look(motion, mask, paint)


def fading(places: Tensor) -> Tensor:
    """Return how much a region counts at places [..., 2] in its own [-1, 1] coordinates: 1 inside, 0 at its border."""
    share = ((1 - places.norm(dim=-1)) / EDGE).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _mirrored_places(grid: Tensor) -> Tensor:
    """Return places [N, h, w, 2] as in a mirrored picture."""
    return grid.flip(2) * grid.new_tensor([-1, 1])


@dataclass(frozen=True)
class _Frames:
    """N frames of a generator, without its prediction. source: [1, 3, H, W]. The rest as in Generated."""

    source: Tensor
    motion: Tensor
    mask: Tensor
    paint: Tensor
    kp_source: Keypoints
    kp_driving: Keypoints

    def mirrored(self) -> _Frames:
        return _Frames(
            self.source.flip(3),
            _mirrored_places(self.motion),
            self.mask.flip(3),
            self.paint.flip(3),
            mirrored(self.kp_source),
            mirrored(self.kp_driving),
        )

    def sight(self, region: Region) -> Sight:
        middle, half = find_region(region, self.kp_driving.value)
        grid = places(region, middle, half)
        mask, paint = (warp(x, grid, padding="border") for x in (self.mask, self.paint))
        coarse = coarse_motion(self.motion, grid), mask, paint
        source = self.source.expand(len(grid), -1, -1, -1)
        return observe(region, source, grid, half, coarse, self.kp_source, self.kp_driving)


def certainty(value: Tensor) -> Tensor:
    """Return how far close-ups can be trusted with faces of keypoints [N, K, 2], [N] in [0, 1].

    They know faces that look at the viewer and fill a good part of the picture: 0 for profiles, whose nose is beyond an
    eye, and for faces of less than about 80 of 256 pixels.
    """
    left, right = value[:, LOWER_LID], value[:, OTHER_LID]
    axis = (right - left) / (right - left).norm(dim=-1, keepdim=True).clamp(min=1e-6) ** 2
    turned = (((value[:, NOSE] - left) * axis).sum(-1) - 0.5).abs()
    ahead, near = (0.55 - turned) / 0.15, (head_size(value) - 0.2) / 0.05
    return torch.minimum(ahead, near).clamp(0, 1)


def doubt(views: Tensor) -> Tensor:
    """Return how far V views [V, N, K, 2] of N faces disagree about mouth, nose and eyes, in sizes of the head, [N]."""
    mean, parts = views.mean(0), (*MOUTH.spots, *LIDS)
    return (views - mean)[:, :, parts].norm(dim=-1).mean((0, 2)) / head_size(mean)


class CloseUps(nn.Module):
    """The close-ups of the mouth and of both eyes."""

    def __init__(self) -> None:
        super().__init__()
        self.mouth, self.eye = CloseUp(MOUTH), CloseUp(EYE)

    def retouch(self, made: Generated, source: Tensor, kp_source: Keypoints, kp_driving: Keypoints) -> Tensor:
        """Return a generator's N frames with mouth and eyes made again, float32 [N, 3, H, W] in [0, 1].

        source: the picture, [1, 3, H, W] in [0, 1]. Keypoints: the picture's, and those of the N frames.
        """
        assert made.occlusion is not None
        kp_source = kp_source.expand(len(kp_driving))
        paint, mask = made.logits.float().sigmoid(), made.occlusion.float()
        frames = _Frames(source.float(), made.deformation, mask, paint, kp_source, kp_driving)
        trust = torch.minimum(certainty(kp_source.value), certainty(kp_driving.value))
        result = made.prediction.float().clone()
        mouth, *eyes = frames.sight(MOUTH), frames.sight(EYE), frames.mirrored().sight(EYE)
        raw = self.mouth(mouth.seen), *self.eye(torch.cat([eye.seen for eye in eyes])).chunk(2)
        looks = [interpret(r, sight) for r, sight in zip(raw, (mouth, *eyes), strict=True)]
        last = looks[2]
        looks[2] = Look(_mirrored_places(last.motion), last.mask.flip(3), last.paint.flip(3))
        grids = mouth.grid, eyes[0].grid, _mirrored_places(eyes[1].grid)
        for look, grid in zip(looks, grids, strict=True):
            _paste(result, frames.source, look, grid, trust)
        return result


def _paste(frames: Tensor, source: Tensor, look: Look, grid: Tensor, trust: Tensor) -> None:
    """Put what close-ups made into frames [N, 3, H, W], in place, at a grid [N, h, w, 2]; trust: [N], how far."""
    count, _, height, width = frames.shape
    # From a grid's pixels to its edges.
    middle = (grid[:, 0, 0] + grid[:, -1, -1]) / 2
    pixels = grid.new_tensor([grid.shape[2], grid.shape[1]])
    half = (grid[:, -1, -1] - grid[:, 0, 0]) / 2 * pixels / (pixels - 1)
    size = grid.new_tensor([width, height])
    most = (half.amax(0) * size).ceil() + 1
    columns, rows = (min(int(m), side) for m, side in zip(most.tolist(), (width, height), strict=True))
    corner = ((middle - half + 1) / 2 * size).floor().clamp(min=0)
    corner = torch.minimum(corner, size - corner.new_tensor([columns, rows]))
    across, down = (torch.arange(n, device=grid.device) + 0.5 for n in (columns, rows))
    box = torch.stack([across.expand(rows, columns), down[:, None].expand(rows, columns)], dim=-1)
    here = (box + corner[:, None, None]) * 2 / size - 1
    at = (here - middle[:, None, None]) / half[:, None, None]
    parts = torch.cat([(look.motion - grid).permute(0, 3, 1, 2), look.mask, look.paint], dim=1)
    move, mask, paint = warp(parts, at, padding="border").split([2, 1, 3], dim=1)
    kept = warp(source.expand(count, -1, -1, -1), here + move.permute(0, 2, 3, 1), padding="border")
    made, share = paint.lerp(kept, mask), (fading(at) * trust[:, None, None])[:, None]
    for frame, new, weight, (x, y) in zip(frames, made, share, corner.int().tolist(), strict=True):
        part = frame[:, y : y + rows, x : x + columns]
        part.lerp_(new, weight)
