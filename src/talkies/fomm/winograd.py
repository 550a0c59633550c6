"""3x3 convolutions with fewer products, by Winograd's minimal filtering.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016. In float32 it is, for 4x4 pixels at once, 36
products for each pair of channels where there were 144. In bfloat16 it is 24 products for 2x4 pixels where there were
72: larger tiles would magnify rounding errors.
"""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Winograd(nn.Module):
    """A 3x3 convolution by the minimal filtering F(4x4, 3x3), in float32.

    Tiles of 6x6 pixels, 4 apart, are transformed (B), multiplied with the transformed kernels, 36 matrices, and
    transformed back (A) to 4x4 pixels. Sides that are not multiples of 4 use the usual convolution.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        corner = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
        g = torch.tensor(corner, dtype=torch.float64) / 24
        self.kernels = _kernels(conv, g, g, torch.float32)  # [36, in, out]

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H, W]."""
        if x.shape[2] % 4 or x.shape[3] % 4:
            return self.conv(x)
        n, _, height, width = x.shape
        made = x.new_empty(n, height, width, self.kernels.shape[2])
        # Two frames at once: enough for the products, and few enough for the processor's cache.
        for pair, out in zip(x.permute(0, 2, 3, 1).split(2), made.split(2), strict=True):
            self._tiled(pair, out)
        return made.add_(cast(Tensor, self.conv.bias)).permute(0, 3, 1, 2)

    def _tiled(self, x: Tensor, made: Tensor) -> None:
        """Write the filtered x [n, H, W, C] into [n, H, W, out]."""
        n, height, width, channels = x.shape
        rows, columns = height // 4, width // 4
        padded = F.pad(x, (0, 0, 1, 1, 1, 1)).contiguous()
        bands = [padded[:, r : r + height : 4] for r in range(6)]
        half = x.new_empty(6, n, rows, width + 2, channels)
        _to_tiles(bands, list(half))
        tiles = x.new_empty(6, 6, n, rows, columns, channels)
        _to_tiles([half[:, :, :, c : c + width : 4] for c in range(6)], [tiles[:, c] for c in range(6)])
        product = torch.bmm(tiles.view(36, -1, channels), self.kernels).view(6, 6, n, rows, columns, -1)
        half = x.new_empty(6, n, rows, columns, 4, product.shape[-1])
        _from_tiles([product[:, c] for c in range(6)], [half[..., c, :] for c in range(4)])
        _from_tiles(list(half.flatten(3, 4)), [made[:, r::4] for r in range(4)])


def _to_tiles(d: list[Tensor], out: list[Tensor]) -> None:
    """Write the six combinations of six neighbours, along one axis: B^T d."""
    a, b = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(d[4], d[2], out=a)
    torch.sub(d[3], d[1], out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.sub(a, b, alpha=2, out=out[4])
    torch.add(a, torch.sub(d[0], d[2], out=b), alpha=4, out=out[0])
    torch.sub(d[5], d[3], out=a)
    torch.add(a, torch.sub(d[1], d[3], out=b), alpha=4, out=out[5])


def _from_tiles(m: list[Tensor], out: list[Tensor]) -> None:
    """Write the four pixels that six products make, along one axis: A^T m."""
    near, far = m[1] + m[2], m[3] + m[4]
    torch.add(near, far, alpha=4, out=out[2])
    torch.add(near.add_(far), m[0], out=out[0])
    torch.sub(m[1], m[2], out=near)
    torch.sub(m[3], m[4], out=far)
    torch.add(near, far, alpha=2, out=out[1])
    torch.add(near.add_(far, alpha=8), m[5], out=out[3])


class HalfWinograd(nn.Module):
    """A 3x3 convolution by the minimal filtering F(2x4, 3x3), in half precision.

    Tiles of 4x6 pixels, 2 and 4 apart. Each transform is one matrix product with float32 sums, so it rounds once.
    Sides that are not multiples of the tiles' steps use the usual convolution.
    """

    steps = (2, 4)

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = deepcopy(conv).to(dtype)
        # Points near 1 magnify rounding least; dyadic ones keep the transforms' coefficients exact.
        rows, columns = minimal_filter(0, 1, -1), minimal_filter(0, 0.75, -0.75, 1.5, -1.5)
        self.to_tiles, _, self.from_tiles = (
            nn.Parameter(torch.kron(a, b).to(dtype)) for a, b in zip(rows, columns, strict=True)
        )  # [24, 24], [8, 24]
        self.kernels = _kernels(conv, rows[1], columns[1], dtype)  # [24, in, out]

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H, W]."""
        n, channels, height, width = x.shape
        p, q = self.steps
        if height % p or width % q:
            return cast(Tensor, self.conv(x))
        made = x.new_empty(n, height // p, p, width // q, q, self.kernels.shape[2])
        for picture, out in zip(x.permute(0, 2, 3, 1), made, strict=True):
            padded = F.pad(picture, (0, 0, 1, 1, 1, 1))
            tiles = padded.unfold(0, p + 2, p).unfold(1, q + 2, q).permute(3, 4, 0, 1, 2)  # [4, 6, rows, columns, C]
            tiles = (self.to_tiles @ tiles.flatten(0, 1).flatten(1)).view(len(self.kernels), -1, channels)
            product = torch.bmm(tiles, self.kernels).flatten(1)
            pixels = (self.from_tiles @ product).view(p, q, height // p, width // q, -1)
            out.copy_(pixels.permute(2, 0, 3, 1, 4))
        made.add_(cast(Tensor, self.conv.bias))
        return made.view(n, height, width, -1).permute(0, 3, 1, 2)


def _kernels(conv: nn.Conv2d, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> nn.Parameter:
    """Return a convolution's transformed kernels, [len(rows) len(columns), in, out]; without numbers if it has none."""
    if conv.weight.is_meta:
        shape = len(rows) * len(columns), conv.in_channels, conv.out_channels
        return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))
    kernels = torch.einsum("ia,ocab,jb->ijco", rows, conv.weight.double(), columns).flatten(0, 1)
    return nn.Parameter(kernels.to(dtype).contiguous())


def minimal_filter(*points: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return B^T, G and A^T, float64, of a filter of three taps: its pixels are A^T [(G g) * (B^T d)].

    d has one value more than there are points, which must differ; infinity is added to them (Toom and Cook).
    """
    others = [np.delete(points, i) for i in range(len(points))]
    vanishing = [np.poly(roots)[::-1] for roots in [*others, np.array(points)]]  # coefficients from x^0 on
    b = np.array([np.pad(row, (0, len(points) + 1 - len(row))) for row in vanishing])
    g = np.array([[x**i / np.prod(x - rest) for i in range(3)] for x, rest in zip(points, others, strict=True)])
    a = np.vander(points, len(points) - 1, increasing=True)
    infinity = [np.eye(size)[-1:] for size in (3, len(points) - 1)]
    g, a = np.concatenate([g, infinity[0]]), np.concatenate([a, infinity[1]])
    return torch.from_numpy(b), torch.from_numpy(g), torch.from_numpy(a.T.copy())
