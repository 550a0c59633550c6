"""From the keypoints of source and driving to a dense deformation and an occlusion map (FOMM, sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .keypoint_detector import Keypoints
from .layers import AntiAliasDownsample, Hourglass, coordinate_grid, gaussian_heatmap, inverse_2x2, warp

KEYPOINT_VARIANCE = 0.01
"""Variance of a keypoint's Gaussian, in the squared units of [-1, 1] coordinates (FOMM, eq. 6)."""


@dataclass(frozen=True)
class DenseMotion:
    """The output of the dense motion network for N frames at its own side h x w.

    deformation: [N, h, w, 2], for each pixel of the driving frame its place in the source, (x, y) in [-1, 1].
    mask: [N, K+1, h, w], the share of each local motion, background first, summing to 1.
    sparse_deformed: [N, K+1, 3, h, w], the source warped by each local motion.
    occlusion: [N, 1, h, w] in [0, 1], 0 where the source does not show what is needed; or None.
    """

    deformation: Tensor
    mask: Tensor
    sparse_deformed: Tensor
    occlusion: Tensor | None


class DenseMotionNetwork(nn.Module):
    """Combines K local affine motions and a still background into one deformation.

    centred_grid: pixels without motion stay exactly in place (see `coordinate_grid`).
    """

    def __init__(
        self,
        *,
        num_kp: int,
        num_channels: int,
        block_expansion: int,
        max_features: int,
        num_blocks: int,
        estimate_occlusion_map: bool = False,
        scale_factor: float = 1,
        centred_grid: bool = False,
    ) -> None:
        super().__init__()
        self.centred_grid = centred_grid
        self.hourglass = Hourglass(block_expansion, (num_kp + 1) * (num_channels + 1), num_blocks, max_features)
        self.mask = nn.Conv2d(self.hourglass.out_features, num_kp + 1, 7, padding=3)
        self.occlusion: nn.Conv2d | None = None
        if estimate_occlusion_map:
            self.occlusion = nn.Conv2d(self.hourglass.out_features, 1, 7, padding=3)
        if scale_factor != 1:
            self.down = AntiAliasDownsample(num_channels, scale_factor)

    def shrink(self, source: Tensor) -> Tensor:
        """Return source [N, 3, H, W] scaled to this network's side."""
        return self.down(source) if hasattr(self, "down") else source

    def heatmaps(self, source: Keypoints, driving: Keypoints, height: int, width: int) -> Tensor:
        """Return [N, K+1, h, w]: driving minus source Gaussians (eq. 6), the background's first and zero."""
        difference = gaussian_heatmap(driving.value, height, width, KEYPOINT_VARIANCE) - gaussian_heatmap(
            source.value, height, width, KEYPOINT_VARIANCE
        )
        return torch.cat([torch.zeros_like(difference[:, :1]), difference], dim=1)

    def sparse_motions(self, source: Keypoints, driving: Keypoints, height: int, width: int) -> Tensor:
        """Return [N, K+1, h, w, 2]: T_{S<-D}(z) ~ p_S + J_S J_D^-1 (z - p_D) by keypoint (eq. 4), identity first."""
        identity = coordinate_grid(height, width, driving.value, self.centred_grid)
        offset = identity - driving.value[:, :, None, None]  # [N, K, h, w, 2]
        if source.jacobian is not None and driving.jacobian is not None:
            jacobian = source.jacobian @ inverse_2x2(driving.jacobian)
            offset = (offset.flatten(2, 3) @ jacobian.transpose(2, 3)).unflatten(2, (height, width))
        moved = offset + source.value[:, :, None, None]
        return torch.cat([identity.expand_as(moved[:, :1]), moved], dim=1)

    def forward(self, small: Tensor, kp_source: Keypoints, kp_driving: Keypoints) -> DenseMotion:
        """Compute the motion of N driving frames.

        small: the source after `shrink`, [N or 1, 3, h, w] in [0, 1]; keypoints of N pictures each (the source's may
        be one). Coordinates stay in the keypoints' precision, not the weights'.
        """
        count = len(kp_driving)
        height, width = small.shape[2:]
        kp_source = kp_source if len(kp_source) == count else kp_source.expand(count)
        heatmaps = self.heatmaps(kp_source, kp_driving, height, width).to(small.dtype)
        motions = self.sparse_motions(kp_source, kp_driving, height, width)
        maps = motions.shape[1]
        copies = small[:, None].expand(count, maps, *small.shape[1:])
        deformed = warp(copies.flatten(0, 1), motions.flatten(0, 1)).unflatten(0, (count, maps))
        features = self.hourglass(torch.cat([heatmaps[:, :, None], deformed], dim=2).flatten(1, 2))
        mask = self.mask(features).softmax(dim=1)
        deformation = (motions * mask[..., None].to(motions.dtype)).sum(dim=1)
        occlusion = None if self.occlusion is None else self.occlusion(features).sigmoid()
        return DenseMotion(deformation, mask, deformed, occlusion)
