"""The generator: source features, moved, masked and decoded into the driving frame's pose (FOMM, sec. 3.3)."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .dense_motion import DenseMotionNetwork
from .keypoint_detector import Keypoints
from .layers import DownBlock, ResidualBlock, SameBlock, UpBlock, warp, widths


@dataclass(frozen=True)
class SourceFeatures:
    """What the generator needs of a source image, computed once for all its frames.

    features: [N, C, H/2^d, W/2^d] of the encoder; small: [N, 3, h, w], the picture as dense motion sees it.
    """

    features: Tensor
    small: Tensor


@dataclass(frozen=True)
class Generated:
    """N frames and how they came about (shapes of the last three: see DenseMotion).

    prediction: [N, 3, H, W] in [0, 1]; logits: the same before the final sigmoid.
    """

    prediction: Tensor
    logits: Tensor
    deformation: Tensor
    occlusion: Tensor | None
    mask: Tensor
    sparse_deformed: Tensor


class Generator(nn.Module):
    """Johnson-style encoder and decoder around a warp of the features (FOMM, eq. 8)."""

    def __init__(
        self,
        *,
        num_kp: int,
        num_channels: int,
        block_expansion: int,
        max_features: int,
        num_down_blocks: int,
        num_bottleneck_blocks: int,
        dense_motion_params: dict[str, Any],
        estimate_occlusion_map: bool = False,
        estimate_jacobian: bool = False,
    ) -> None:
        # estimate_jacobian stands among the original's common parameters; here the keypoints tell.
        super().__init__()
        self.dense_motion_network = DenseMotionNetwork(
            num_kp=num_kp,
            num_channels=num_channels,
            estimate_occlusion_map=estimate_occlusion_map,
            **dense_motion_params,
        )
        width = widths(block_expansion, max_features, num_down_blocks)
        width[0] = block_expansion
        self.first = SameBlock(num_channels, width[0], kernel_size=7)
        self.down_blocks = nn.ModuleList(DownBlock(a, b) for a, b in itertools.pairwise(width))
        upward = list(reversed(widths(block_expansion, max_features, num_down_blocks)))
        self.up_blocks = nn.ModuleList(UpBlock(a, b) for a, b in itertools.pairwise(upward))
        self.bottleneck = nn.Sequential(
            OrderedDict((f"r{i}", ResidualBlock(upward[0])) for i in range(num_bottleneck_blocks))
        )
        self.final = nn.Conv2d(block_expansion, num_channels, 7, padding=3)

    def encode(self, source: Tensor) -> SourceFeatures:
        """Encode source images [N, 3, H, W] in [0, 1]; H and W multiples of 2**num_down_blocks."""
        features = self.first(source)
        for block in self.down_blocks:
            features = block(features)
        return SourceFeatures(features, self.dense_motion_network.shrink(source))

    def render(self, source: SourceFeatures, kp_source: Keypoints, kp_driving: Keypoints) -> Generated:
        """Render the N frames of kp_driving from one source (or from N)."""
        count = len(kp_driving)
        motion = self.dense_motion_network(source.small, kp_source, kp_driving)
        features = source.features.expand(count, -1, -1, -1)
        sides = features.shape[2:]
        deformation = motion.deformation
        if deformation.shape[1:3] != sides:
            channels_first = deformation.permute(0, 3, 1, 2)
            deformation = F.interpolate(channels_first, size=sides, mode="bilinear").permute(0, 2, 3, 1)
        x = warp(features, deformation)
        if motion.occlusion is not None:
            occlusion = motion.occlusion
            if occlusion.shape[2:] != sides:
                occlusion = F.interpolate(occlusion, size=sides, mode="bilinear")
            x = x * occlusion
        x = self.bottleneck(x)
        for block in self.up_blocks:
            x = block(x)
        logits = self.final(x)
        return Generated(
            logits.sigmoid(),
            logits,
            motion.deformation,
            motion.occlusion,
            motion.mask,
            motion.sparse_deformed,
        )

    def forward(self, source: Tensor, kp_source: Keypoints, kp_driving: Keypoints) -> Generated:
        """Encode and render: source [N, 3, H, W] in [0, 1], keypoints of N pictures each."""
        return self.render(self.encode(source), kp_source, kp_driving)
