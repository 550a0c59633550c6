"""The matte: which share of each pixel of a picture is the person, from a small network and the picture's own edges.

The network sees the picture at SIDE x SIDE and where the keypoints say the head is. Guided filters (He, Sun and Tang,
Guided Image Filtering, TPAMI 2013) then lay the matte's border along the edges of the whole picture. The network is
trained on rendered heads (training/train_matte.py), with the demo presets' keypoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import ShuffledUNet, coordinate_grid
from .presets import PRESETS

SIDE = 128
MIRROR = PRESETS["demo-photographs"].mirror or ()
CHIN, FOREHEAD, CROWN = 0, 3, 17
EDGES = (16, 1e-3), (3, 1e-4)
"""Of the guided filters: radius in pixels, and the variance of colours from which on an edge is followed. The first
finds ears and hair that the network left out beside the head, the second lays the border along fine edges."""
ISLAND = 2
"""What is narrower than about twice this, at SIDE, is no person."""
DECIDED = 4
"""How much steeper the network's matte is made: what is half a person is seldom there, and looks like a ghost."""
UNSURE = 0.35
"""From this share of doubtful pixels on a matte is not used (see `find_matte`)."""


def head_places(value: Tensor, side: int) -> Tensor:
    """Return where pixels are in the frames of heads with keypoints [N, K, 2]: [N, side, side, 2], x and y.

    The head's height, from crown to chin, is 1, its middle (0, 0); y points from the crown to the chin.
    """
    top, chin = value[:, [FOREHEAD, CROWN]].mean(1), value[:, CHIN]
    size = (chin - top).norm(dim=-1).clamp(min=0.1)[:, None, None]
    down = ((chin - top)[:, None, None] / size[..., None]).unbind(-1)
    away = coordinate_grid(side, side, value, centred=True) - ((chin + top) / 2)[:, None, None]
    x, y = away.unbind(-1)
    return torch.stack([x * down[1] - y * down[0], x * down[0] + y * down[1]], dim=-1) / size[..., None]


def observe(picture: Tensor, value: Tensor) -> Tensor:
    """Return what the network sees of pictures [N, 3, SIDE, SIDE] in [0, 1] with keypoints [N, K, 2]: [N, 6, ...]."""
    place = head_places(value, SIDE).permute(0, 3, 1, 2)
    head = 1 - (place[:, :1] / 0.45) ** 2 - (place[:, 1:] / 0.6) ** 2
    return torch.cat([picture * 2 - 1, head.clamp(-2, 1), place.clamp(-1.5, 1.5)], dim=1)


class MatteNetwork(ShuffledUNet):
    """From what is seen (`observe`) to the matte's logits, [N, 1, SIDE, SIDE]."""

    def __init__(self) -> None:
        super().__init__(6, 1, (32, 40, 56, 72, 88))


def find_matte(network: MatteNetwork, picture: Tensor, value: Tensor) -> tuple[Tensor, float]:
    """Return the matte [1, 1, H, W] of a picture [1, 3, H, W] with keypoints [1, K, 2], and the doubt about it.

    The doubt is the share of pixels in which the network is undecided, or takes another side in the mirrored picture.
    """
    small = F.interpolate(picture, size=(SIDE, SIDE), mode="area")
    other = value[:, list(MIRROR)] * value.new_tensor([-1, 1])
    seen = torch.cat([observe(small, value), observe(small.flip(3), other)])
    one, two = network(seen).float().sigmoid().chunk(2)
    two = two.flip(3)
    alpha = (one + two) / 2
    doubt = float((4 * alpha * (1 - alpha)).mean() + (one - two).abs().mean())
    alpha = torch.minimum(alpha, grown(shrunk(alpha, ISLAND), ISLAND + 1))
    large = F.interpolate(alpha, size=picture.shape[2:], mode="bilinear")
    for reach, smooth in EDGES:
        large = follow_edges((DECIDED * (large - 0.5) + 0.5).clamp(0, 1), picture, reach, smooth)
    return large, doubt


def grown(x: Tensor, radius: int) -> Tensor:
    """Return the largest value in squares about each pixel."""
    side = 2 * radius + 1
    return F.max_pool2d(F.max_pool2d(x, (1, side), 1, (0, radius)), (side, 1), 1, (radius, 0))


def shrunk(x: Tensor, radius: int) -> Tensor:
    """Return the smallest value in squares about each pixel."""
    return -grown(-x, radius)


def mean_over(x: Tensor, radius: int) -> Tensor:
    """Return the mean over squares about each pixel, as far as they are in the picture."""
    side = 2 * radius + 1
    x = F.avg_pool2d(x, (1, side), 1, (0, radius), count_include_pad=False)
    return F.avg_pool2d(x, (side, 1), 1, (radius, 0), count_include_pad=False)


def follow_edges(alpha: Tensor, picture: Tensor, reach: int, smooth: float) -> Tensor:
    """Return a matte [1, 1, H, W] that is, about each pixel, the best linear function of the picture's colours."""
    mean, level = mean_over(picture, reach), mean_over(alpha, reach)
    products = (picture[:, :, None] * picture[:, None]).flatten(1, 2)
    spread = mean_over(products, reach).unflatten(1, (3, 3)) - mean[:, :, None] * mean[:, None]
    along = mean_over(picture * alpha, reach) - mean * level
    spread = spread.permute(0, 3, 4, 1, 2) + smooth * torch.eye(3, device=alpha.device)
    slope = torch.linalg.solve(spread, along.permute(0, 2, 3, 1)[..., None])[..., 0].permute(0, 3, 1, 2)
    offset = level - (slope * mean).sum(1, keepdim=True)
    return ((mean_over(slope, reach) * picture).sum(1, keepdim=True) + mean_over(offset, reach)).clamp(0, 1)
