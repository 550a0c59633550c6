"""The generator: source features, warped, masked and decoded in the driving frame's pose (FOMM, sec. 3.3)."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .dense_motion import DenseMotion, DenseMotionNetwork
from .keypoint_detector import Keypoints
from .layers import (
    DownBlock,
    ResidualBlock,
    SameBlock,
    UpBlock,
    enlarged_deformation,
    reduced,
    resized,
    resized_deformation,
    warp,
    widths,
)
from .plate import Layers


@dataclass(frozen=True)
class SourceFeatures:
    """A source image's features for the generator, computed once for all its frames.

    features: [N, C, H/2^d, W/2^d] of the encoder; small: [N, 3, h, w], the picture at dense motion's side; picture:
    the source itself, [N, 3, H, W], if the network keeps visible pixels. photograph: whether the network for
    photographs made them, if a preset has two. close_ups: whether close-ups may change the frames. layers: the
    person and the background behind it, if frames are made of these.
    """

    features: Tensor
    small: Tensor
    picture: Tensor | None = None
    photograph: bool = False
    close_ups: bool = False
    layers: Layers | None = None


@dataclass(frozen=True)
class Generated(DenseMotion):
    """N frames and their motion.

    prediction: [N, 3, H, W] in [0, 1]; logits: the decoder's output before the final sigmoid.
    """

    prediction: Tensor
    logits: Tensor


class MaskedWarp(nn.Module):
    """Warps the source's features and masks what the source does not show (FOMM, eq. 8)."""

    def forward(self, features: Tensor, deformation: Tensor, occlusion: Tensor | None) -> Tensor:
        """Return features [1 or N, C, h, w] sampled at the deformation [N, h, w, 2], times occlusion [N, 1, h, w]."""
        moved = warp(features.expand(len(deformation), -1, -1, -1), deformation)
        return moved if occlusion is None else moved * occlusion


class Generator(nn.Module):
    """Johnson-style encoder and decoder around a warp of the features (FOMM, eq. 8).

    keep_visible: the result is the warped source where the occlusion map says visible, and painted where it says
    hidden, like the skips of Siarohin et al., Motion Representations for Articulated Animation, CVPR 2021. reduction:
    the networks take and paint pictures of 1/reduction of the side; visible parts are warped at the full side, so
    results are as sharp as their source.
    """

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
        keep_visible: bool = False,
        reduction: int = 1,
    ) -> None:
        # estimate_jacobian is one of the original's common parameters; here the keypoints show it.
        super().__init__()
        if keep_visible and not estimate_occlusion_map:
            raise ValueError("keep_visible needs estimate_occlusion_map: it tells what is visible")
        self.keep_visible = keep_visible
        self.reduction = reduction
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
        self.warp = MaskedWarp()
        upward = list(reversed(widths(block_expansion, max_features, num_down_blocks)))
        self.up_blocks = nn.ModuleList(UpBlock(a, b) for a, b in itertools.pairwise(upward))
        self.bottleneck = nn.Sequential(
            OrderedDict((f"r{i}", ResidualBlock(upward[0])) for i in range(num_bottleneck_blocks))
        )
        self.final = nn.Conv2d(block_expansion, num_channels, 7, padding=3)

    def encode(self, source: Tensor) -> SourceFeatures:
        """Encode source images [N, 3, H, W] in [0, 1]; H and W multiples of reduction * 2**num_down_blocks."""
        small = reduced(source, self.reduction)
        features = self.first(small)
        for block in self.down_blocks:
            features = block(features)
        kept = source if self.keep_visible else None
        return SourceFeatures(features, self.dense_motion_network.shrink(small), kept)

    def render(self, source: SourceFeatures, kp_source: Keypoints, kp_driving: Keypoints) -> Generated:
        """Render the N frames of kp_driving from one source (or from N)."""
        count = len(kp_driving)
        motion = self.dense_motion_network(source.small, kp_source, kp_driving)
        sides = source.features.shape[2:]
        occlusion = None if motion.occlusion is None else resized(motion.occlusion, sides)
        x = self.warp(source.features, resized_deformation(motion.deformation, sides), occlusion)
        x = self.bottleneck(x)
        for block in self.up_blocks:
            x = block(x)
        logits = self.final(x)
        prediction = logits.sigmoid()
        if source.picture is not None and motion.occlusion is not None:
            picture = source.picture.expand(count, -1, -1, -1)
            kept = warp(picture, enlarged_deformation(motion.deformation, picture.shape[2:]), padding="border")
            prediction = resized(prediction, picture.shape[2:], "bicubic").clamp(0, 1)
            prediction = prediction.lerp(kept, resized(motion.occlusion, picture.shape[2:]))
        return Generated(**vars(motion), prediction=prediction, logits=logits)

    def forward(self, source: Tensor, kp_source: Keypoints, kp_driving: Keypoints) -> Generated:
        """Encode and render: source [N, 3, H, W] in [0, 1], keypoints of N pictures each."""
        return self.render(self.encode(source), kp_source, kp_driving)
