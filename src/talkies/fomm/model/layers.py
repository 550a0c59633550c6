"""The blocks that the three networks share (FOMM, supplementary material A: Johnson-style blocks, hourglass).

Convolutions keep the side, except for the stated pooling and upsampling; tensors are [N, C, H, W]. Attribute names
are those of the published checkpoints, which load strictly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SameBlock(nn.Module):
    """Convolution, batch norm, ReLU at one resolution: [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, in_features: int, out_features: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_features, out_features, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(norm(conv(x)))."""
        return F.relu(self.norm(self.conv(x)))


class DownBlock(SameBlock):
    """A same block, then 2x2 average pooling: [N, in, H, W] -> [N, out, H/2, W/2]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features."""
        return F.avg_pool2d(super().forward(x), 2)


class UpBlock(SameBlock):
    """Nearest-neighbour doubling, then a same block: [N, in, H, W] -> [N, out, 2H, 2W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features at twice the side."""
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResidualBlock(nn.Module):
    """Pre-activation residual block at one resolution and width (norm, ReLU, convolution, twice)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(features)
        self.norm2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus its residual, [N, features, H, W]."""
        residual = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(residual)))


def widths(block_expansion: int, max_features: int, num_blocks: int) -> list[int]:
    """Return the channels at each depth 0..num_blocks: doubled each time, capped at max_features.

    Depth 0 is used only by callers that start an encoder there.
    """
    return [min(max_features, block_expansion * 2**depth) for depth in range(num_blocks + 1)]


class Encoder(nn.Module):
    """The hourglass's encoder: each block halves the side and doubles the channels up to max_features."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int, max_features: int) -> None:
        super().__init__()
        width = widths(block_expansion, max_features, num_blocks)
        width[0] = in_features
        self.down_blocks = nn.ModuleList(DownBlock(a, b) for a, b in itertools.pairwise(width))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the input and every level's features, finest first."""
        levels = [x]
        for block in self.down_blocks:
            levels.append(block(levels[-1]))
        return levels


class Decoder(nn.Module):
    """The hourglass's decoder, which concatenates the encoder's level of the same side after each block."""

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int, max_features: int) -> None:
        super().__init__()
        width = widths(block_expansion, max_features, num_blocks)
        self.up_blocks = nn.ModuleList(
            UpBlock(width[depth + 1] * (1 if depth == num_blocks - 1 else 2), width[depth])
            for depth in reversed(range(num_blocks))
        )
        self.out_features = width[0] + in_features

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return [N, out_features, H, W] from the encoder's levels, finest first."""
        x = levels[-1]
        for block, skip in zip(self.up_blocks, reversed(levels[:-1]), strict=True):
            x = torch.cat([block(x), skip], dim=1)
        return x


class Hourglass(nn.Module):
    """U-Net with num_blocks halvings (FOMM, sec. 3.1): [N, in, H, W] -> [N, out_features, H, W].

    H and W must be multiples of 2**num_blocks.
    """

    def __init__(self, block_expansion: int, in_features: int, num_blocks: int, max_features: int) -> None:
        super().__init__()
        self.encoder = Encoder(block_expansion, in_features, num_blocks, max_features)
        self.decoder = Decoder(block_expansion, in_features, num_blocks, max_features)
        self.out_features = self.decoder.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the last level, concatenated with the input."""
        return self.decoder(self.encoder(x))


class ShuffledUNet(nn.Module):
    """A U-Net on half the sides, whose halvings and doublings add their levels: [N, in, H, W] -> [N, out, H, W].

    Four neighbouring pixels are channels of one place, so that most convolutions have many channels and few places.
    widths: channels at 1/2, 1/4, ... of the sides.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.first = SameBlock(4 * inputs, widths[0])
        self.down = nn.ModuleList([nn.Sequential(SameBlock(m, n), SameBlock(n, n)) for m, n in pairs])
        self.middle = SameBlock(widths[-1], widths[-1])
        self.up = nn.ModuleList([UpBlock(n, m) for m, n in reversed(pairs)])
        self.join = nn.ModuleList([SameBlock(m, m) for m, _ in reversed(pairs)])
        self.last = nn.Conv2d(widths[0], 4 * outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs; H and W are multiples of 2 ** len(widths)."""
        x = self.first(F.pixel_unshuffle(x.to(self.last.weight.dtype), 2))
        levels = [x]
        for block in self.down:
            levels.append(block(F.avg_pool2d(levels[-1], 2)))
        x = self.middle(levels[-1])
        for up, join, level in zip(self.up, self.join, reversed(levels[:-1]), strict=True):
            x = join(up(x) + level)
        return F.pixel_shuffle(self.last(x), 2)


class AntiAliasDownsample(nn.Module):
    """Gaussian blur, then every (1/scale)-th pixel from the first, zero padded: one strided convolution.

    The kernel is in the published state dicts as `weight` [channels, 1, k, k]. sigma = (1/scale - 1) / 2, k = 2
    round(4 sigma) + 1. scale is 1/2, 1/4, ...: networks with scale 1 have no such module.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.stride = round(1 / scale)
        sigma = (1 / scale - 1) / 2
        size = 2 * round(4 * sigma) + 1
        offset = torch.arange(size, dtype=torch.float32, device="cpu") - (size - 1) / 2
        row = torch.exp(-(offset**2) / (2 * sigma**2))
        kernel = row[:, None] * row[None, :]
        kernel = kernel / kernel.sum()
        self.weight: Tensor
        self.register_buffer("weight", kernel.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, ceil(H * scale), ceil(W * scale)]."""
        return F.conv2d(x, self.weight, stride=self.stride, padding=self.weight.shape[-1] // 2, groups=x.shape[1])


def reduced(x: Tensor, factor: int) -> Tensor:
    """Return pictures [N, C, H, W] at 1/factor of their side: the mean of each square of factor x factor pixels."""
    return F.avg_pool2d(x, factor) if factor != 1 else x


def coordinate_grid(height: int, width: int, like: Tensor, centred: bool = False) -> Tensor:
    """Return the grid [height, width, 2] of (x, y) in [-1, 1], from corner pixel to corner pixel.

    For sampling (see `warp`), -1 and 1 are the outer edges instead, so an identity grid shifts by up to half a pixel.
    The published weights were trained with this. centred: the grid of the pixels' centres in sampling, so that an
    identity warp is the identity.
    """
    inset_x, inset_y = (1 / width, 1 / height) if centred else (0, 0)
    x = torch.linspace(inset_x - 1, 1 - inset_x, width, dtype=like.dtype, device=like.device)
    y = torch.linspace(inset_y - 1, 1 - inset_y, height, dtype=like.dtype, device=like.device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)


def resized(maps: Tensor, sides: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Maps [N, C, h, w] at other sides: a matrix product along each axis, which is faster than interpolating."""
    if maps.shape[2:] == sides:
        return maps
    rows, columns = (
        F.interpolate(torch.eye(old, device=maps.device)[None, None], size=(new, old), mode=mode)[0, 0]
        for old, new in zip(maps.shape[2:], sides, strict=True)
    )
    return (rows @ maps.float() @ columns.T).to(maps.dtype)


def resized_deformation(deformation: Tensor, sides: Sequence[int]) -> Tensor:
    """A deformation [N, h, w, 2] at other sides."""
    return resized(deformation.permute(0, 3, 1, 2), sides).permute(0, 2, 3, 1)


def enlarged_deformation(deformation: Tensor, sides: Sequence[int]) -> Tensor:
    """A deformation at larger sides, in which the picture's outermost pixels keep their place."""
    small, large = (
        coordinate_grid(height, width, deformation, centred=True)
        for height, width in (deformation.shape[1:3], (sides[0], sides[1]))
    )
    return large + resized_deformation(deformation - small, sides)


def warp(x: Tensor, deformation: Tensor, padding: str = "zeros") -> Tensor:
    """Sample x [N, C, H, W] where deformation [N, h, w, 2] (x, y in [-1, 1]) points: [N, C, h, w].

    Bilinear, with `padding` ("zeros" or "border") outside, computed in the deformation's precision (half-precision
    coordinates would be off by whole pixels) and returned in x's.
    """
    sampled = F.grid_sample(
        x.to(deformation.dtype), deformation, mode="bilinear", padding_mode=padding, align_corners=False
    )
    return sampled.to(x.dtype)


def gaussian_heatmap(points: Tensor, height: int, width: int, variance: float) -> Tensor:
    """Return [N, K, height, width]: exp(-|z - p|^2 / (2 variance)) about points [N, K, 2] in [-1, 1] (eq. 6)."""
    grid = coordinate_grid(height, width, points)
    # The exponential of a sum is the product of one over x and one over y: no [N, K, h, w, 2] is made.
    x = torch.exp(-((grid[0, :, 0] - points[..., 0:1]) ** 2) / (2 * variance))
    y = torch.exp(-((grid[:, 0, 1] - points[..., 1:2]) ** 2) / (2 * variance))
    return y[..., :, None] * x[..., None, :]


def inverse_2x2(matrix: Tensor) -> Tensor:
    """Return the inverses of [..., 2, 2], in closed form; a singular matrix gives infinities."""
    a, b, c, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    determinant = a * d - b * c
    adjugate = torch.stack([d, -b, -c, a], dim=-1)
    return (adjugate / determinant[..., None]).unflatten(-1, (2, 2))
