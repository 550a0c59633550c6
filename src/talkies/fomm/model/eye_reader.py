"""The eye reader: a small network that sees where lids and pupils really are, at the picture's full side.

The keypoint detector sees the whole picture at 64 x 64, where an eye is a line of two or three pixels. After it, each
eye is cut out upright at the size of the head, the right one in the mirror, and the network tells where its keypoints
are. The mean of both is nearer to the truth than either. It is trained on rendered heads whose keypoints are known
(training/train_eye_reader.py); jacobians stay the detector's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .close_ups import LIDS, OTHER_LID, PUPIL, head_size
from .layers import DownBlock, SameBlock, coordinate_grid, warp

WIDTH, HEIGHT, REACH = 64, 48, 0.4
"""Of an eye's pictures: their sides in pixels, and half the width in sizes of the head."""
EYES = (*LIDS[:2], PUPIL), (*LIDS[2:], PUPIL + 1)
"""The keypoints of the left and the right eye: upper lid, lower lid, pupil."""
MOST = 0.12
"""The largest correction of a keypoint, in sizes of the head: what is farther away is no part of this eye."""


@dataclass(frozen=True)
class Place:
    """N places of an eye. middle: [N, 2]. axes: [N, 2, 2], the vectors across and down, half a width long."""

    middle: Tensor
    axes: Tensor

    @classmethod
    def find(cls, value: Tensor, eye: int) -> Place:
        """Return the places of the left (0) or the right (1) eye of faces with keypoints [N, K, 2]."""
        across = value[:, OTHER_LID] - value[:, LIDS[1]]
        across = across / across.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        down = torch.stack([-across[:, 1], across[:, 0]], dim=-1)
        half = head_size(value).clamp(min=1e-3) * REACH
        axes = torch.stack([-across if eye else across, down], dim=1)
        return cls(value[:, EYES[eye][:2]].mean(1), axes * half[:, None, None])

    def outside(self, points: Tensor) -> Tensor:
        """Return where points [N or 1, P, 2] of the eye's own coordinates are in the frame, [N, P, 2]."""
        return self.middle[:, None] + points @ self.axes

    def inside(self, points: Tensor) -> Tensor:
        """Return where points of the frame, [N, P, 2], are in the eye's own coordinates."""
        return (points - self.middle[:, None]) @ self.axes.transpose(1, 2) / self.axes.square().sum(2)[:, None]

    def cut(self, frames: Tensor) -> Tensor:
        """Return the eye's pictures, [N, 3, HEIGHT, WIDTH], from frames [N, 3, H, W]."""
        grid = coordinate_grid(HEIGHT, WIDTH, self.middle, centred=True)
        grid = grid * grid.new_tensor([1, HEIGHT / WIDTH])
        return warp(frames, self.outside(grid.flatten(0, 1)[None]).unflatten(1, (HEIGHT, WIDTH)), "border")


class EyeReader(nn.Module):
    """From an eye's pictures [N, 3, HEIGHT, WIDTH] to its keypoints in the eye's own coordinates, [N, 3, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            DownBlock(3, 16), DownBlock(16, 32), SameBlock(32, 32), DownBlock(32, 48), DownBlock(48, 64)
        )
        self.inner = nn.Linear(64 * HEIGHT * WIDTH // 256, 64)
        self.last = nn.Linear(64, 6)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the keypoints; neither brightness nor contrast of the pictures matter."""
        x = pictures - pictures.mean((1, 2, 3), keepdim=True)
        x = x / (x.square().mean((1, 2, 3), keepdim=True) + 1e-4).sqrt()
        x = self.blocks(x).flatten(1)
        return self.last(self.inner(x).relu()).unflatten(1, (3, 2))

    def read(self, frames: Tensor, value: Tensor, trust: Tensor) -> Tensor:
        """Return the keypoints [N, K, 2] of frames [N, 3, H, W] in [0, 1], detected and read.

        trust: how far readings count, [N] in [0, 1].
        """
        places = [Place.find(value, eye) for eye in (0, 1)]
        found = self(torch.cat([place.cut(frames) for place in places])).chunk(2)
        value, most = value.clone(), MOST / REACH
        for eye, place, points in zip(EYES, places, found, strict=True):
            change = (points - place.inside(value[:, eye])) / 2
            change[:, :2, 0] = 0  # lids move up and down; the middle of a lid is hard to tell along it
            change = change * (most / change.norm(dim=-1, keepdim=True).clamp(min=1e-6)).clamp(max=1)
            value[:, eye] += change @ place.axes * trust[:, None, None]
        return value
