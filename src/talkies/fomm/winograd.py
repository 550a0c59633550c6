"""3x3 convolutions with fewer products, by Winograd's minimal filtering.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016. In float32 it is, for 4x4 pixels at once, 36
products for each pair of channels where there were 144. In half precision it is 24 products for 2x4 pixels where there
were 72: larger tiles would magnify rounding errors.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# In half precision: points near 1 magnify rounding least, and dyadic ones keep the transforms' coefficients exact.
POINTS = {True: ((0, 1, -1, 2, -2), (0, 1, -1, 2, -2)), False: ((0, 1, -1), (0, 0.75, -0.75, 1.5, -1.5))}
"""The points of the filters along rows and columns, in float32 and in half precision."""


class Winograd(nn.Module):
    """A 3x3 convolution by the minimal filtering F(4x4, 3x3), or F(2x4, 3x3) in half precision.

    Overlapping tiles are transformed (B), multiplied with the transformed kernels, a matrix for each place of a tile,
    and transformed back to pixels (A). Each transform is one matrix product, so it rounds once. Sides that are not
    multiples of the tiles' steps use the usual convolution.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        rows, columns = (minimal_filter(*points) for points in POINTS[dtype == torch.float32])
        self.steps = len(rows[2]), len(columns[2])
        self.to_tiles, _, self.from_tiles = (
            nn.Parameter(torch.kron(a, b).to(dtype)) for a, b in zip(rows, columns, strict=True)
        )  # [36, 36] and [16, 36]; [24, 24] and [8, 24]
        self.kernels = _kernels(conv, rows[1], columns[1], dtype)  # [36 or 24, in, out]
        self.conv = conv.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H, W]."""
        n, channels, height, width = x.shape
        p, q = self.steps
        if height % p or width % q:
            return cast(Tensor, self.conv(x))
        made = x.new_empty(n, height // p, p, width // q, q, self.kernels.shape[2])
        # One picture at a time: enough for the products, and little enough for the processor's cache.
        for picture, out in zip(x.permute(0, 2, 3, 1), made, strict=True):
            padded = F.pad(picture, (0, 0, 1, 1, 1, 1))
            tiles = padded.unfold(0, p + 2, p).unfold(1, q + 2, q).permute(3, 4, 0, 1, 2)  # [.., .., rows, columns, C]
            tiles = (self.to_tiles @ tiles.flatten(0, 1).flatten(1)).view(len(self.kernels), -1, channels)
            product = torch.bmm(tiles, self.kernels).flatten(1)
            pixels = (self.from_tiles @ product).view(p, q, height // p, width // q, -1)
            torch.add(pixels.permute(2, 0, 3, 1, 4), cast(Tensor, self.conv.bias), out=out)
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
