"""Keypoints and their local affine transformations from one picture (FOMM, sec. 3.1 and supplementary A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import AntiAliasDownsample, Hourglass, coordinate_grid, reduced


@dataclass(frozen=True)
class Keypoints:
    """The K keypoints of N pictures, with the affine map of each one's neighbourhood.

    value: [N, K, 2], (x, y) in [-1, 1], 0 is the picture's centre.
    jacobian: [N, K, 2, 2], the derivative at each keypoint of the map from the abstract reference frame
    (the paper's dT_{X<-R}/dp), or None for a network that does not estimate it.
    """

    value: Tensor
    jacobian: Tensor | None = None

    def __len__(self) -> int:
        return self.value.shape[0]

    def __getitem__(self, frames: int | slice | list[int]) -> Keypoints:
        """Return the keypoints of some frames, always with the leading frame axis."""
        if isinstance(frames, int):
            frames = slice(frames, frames + 1 or None)
        return Keypoints(self.value[frames], None if self.jacobian is None else self.jacobian[frames])

    def expand(self, count: int) -> Keypoints:
        """Return one picture's keypoints repeated (as a view) for `count` pictures."""
        jacobian = None if self.jacobian is None else self.jacobian.expand(count, -1, -1, -1)
        return Keypoints(self.value.expand(count, -1, -1), jacobian)


class KeypointDetector(nn.Module):
    """Hourglass with a heat map and four jacobian maps for each keypoint, read by a soft argmax.

    temperature divides the heat maps' logits; scale_factor is the network's scale of the picture; pad is the head's
    padding (0 in the published networks: its maps are 6 pixels smaller than the features); reduction: the factor by
    which pictures are scaled down first.
    """

    def __init__(
        self,
        *,
        num_kp: int,
        num_channels: int,
        block_expansion: int,
        max_features: int,
        num_blocks: int,
        temperature: float,
        estimate_jacobian: bool = False,
        scale_factor: float = 1,
        single_jacobian_map: bool = False,
        pad: int = 0,
        reduction: int = 1,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.reduction = reduction
        self.predictor = Hourglass(block_expansion, num_channels, num_blocks, max_features)
        self.kp = nn.Conv2d(self.predictor.out_features, num_kp, 7, padding=pad)
        self.jacobian: nn.Conv2d | None = None
        if estimate_jacobian:
            maps = 1 if single_jacobian_map else num_kp
            self.jacobian = nn.Conv2d(self.predictor.out_features, 4 * maps, 7, padding=pad)
            # Training starts with the identity everywhere.
            nn.init.zeros_(self.jacobian.weight)
            self.jacobian.bias = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 1.0] * maps))
        if scale_factor != 1:
            self.down = AntiAliasDownsample(num_channels, scale_factor)

    def forward(self, frames: Tensor) -> Keypoints:
        """Detect the keypoints of frames [N, 3, H, W] in [0, 1]."""
        frames = reduced(frames, self.reduction)
        small = self.down(frames) if hasattr(self, "down") else frames
        features = self.predictor(small)
        logits = self.kp(features)
        heatmap = (logits.flatten(2) / self.temperature).softmax(dim=2)  # [N, K, h w]
        grid = coordinate_grid(logits.shape[2], logits.shape[3], heatmap)
        value = heatmap @ grid.flatten(0, 1)
        if self.jacobian is None:
            return Keypoints(value)
        maps = self.jacobian(features).flatten(2).unflatten(1, (-1, 4))  # [N, K or 1, 4, h w]
        jacobian = (heatmap[:, :, None] * maps).sum(dim=-1)
        return Keypoints(value, jacobian.unflatten(-1, (2, 2)))
