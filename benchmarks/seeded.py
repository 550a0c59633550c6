"""Weights and pictures computed by fixed rules, for networks without trained weights.

Weights depend only on each entry's name and shape, pictures only on their size and number.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talkies.fomm.model.first_order import FirstOrderModel

FRAMES_A_TURN = 48  # the driving pattern is periodic: frame 48 looks like frame 0


def seeded_weights(model: FirstOrderModel) -> dict[str, Tensor]:
    """Return a state dict: each entry depends only on its name and shape; anti-alias kernels are not changed."""
    return {
        name: tensor if name.endswith("down.weight") else torch.from_numpy(_entry(name, tensor.shape)).to(tensor.dtype)
        for name, tensor in model.state_dict().items()
    }


def _entry(name: str, shape: torch.Size) -> NDArray[Any]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return rng.normal(0, 0.1, shape)
    if name.endswith(".bias"):
        bias = rng.normal(0, 0.05, shape)
        if name == "kp_detector.jacobian.bias":  # jacobians near the identity, as in a trained network
            bias = bias + np.tile([1, 0, 0, 1], shape[0] // 4)
        return bias
    if len(shape) == 1:
        return rng.uniform(0.8, 1.2, shape)
    deviation = np.sqrt(2 / np.prod(shape[1:]))  # He: the signal keeps its size at any depth
    if name == "kp_detector.jacobian.weight":
        deviation *= 0.02
    return rng.normal(0, deviation, shape)


def source_image(height: int, width: int) -> NDArray[np.float32]:
    """Return the source picture, [height, width, 3] in (0, 1)."""
    return _pattern(height, width, seed=0)


def driving_frame(height: int, width: int, t: int) -> NDArray[np.float32]:
    """Return frame t of the driving clip, [height, width, 3] in (0, 1): a pattern that shifts, turns and scales."""
    a = 2 * np.pi * t / FRAMES_A_TURN
    shift = (0.08 * np.sin(a), 0.05 * np.sin(2 * a))
    return _pattern(height, width, seed=51, shift=shift, turn=0.15 * np.sin(a), scale=1 + 0.04 * (1 - np.cos(a)))


def _pattern(
    height: int,
    width: int,
    *,
    seed: int,
    shift: tuple[float, float] = (0.0, 0.0),
    turn: float = 0.0,
    scale: float = 1.0,
) -> NDArray[np.float32]:
    """Draw six waves and five blobs a colour, moved by shift (in sides), turn (radians) and scale about the middle."""
    rng = np.random.default_rng(1000 + seed)
    frequency = rng.uniform(-4, 4, (3, 6, 2))
    phase = rng.uniform(0, 2 * np.pi, (3, 6))
    amplitude = rng.uniform(0.3, 1, (3, 6))
    centre = rng.uniform(0.25, 0.75, (5, 2))
    spread = rng.uniform(0.03, 0.09, 5)
    colour = rng.uniform(-3, 3, (5, 3))

    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    x, y = x - 0.5 - shift[0], y - 0.5 - shift[1]
    x, y = (
        (np.cos(turn) * x + np.sin(turn) * y) / scale + 0.5,
        (-np.sin(turn) * x + np.cos(turn) * y) / scale + 0.5,
    )
    channels = []
    for c in range(3):
        waves = sum(
            amplitude[c, k] * np.cos(2 * np.pi * (frequency[c, k, 0] * x + frequency[c, k, 1] * y) + phase[c, k])
            for k in range(6)
        )
        blobs = sum(
            colour[b, c] * np.exp(-((x - centre[b, 0]) ** 2 + (y - centre[b, 1]) ** 2) / (2 * spread[b] ** 2))
            for b in range(5)
        )
        channels.append(1 / (1 + np.exp(-(waves + blobs))))
    return np.stack(channels, axis=-1).astype(np.float32)


def as_batch(image: NDArray[np.float32]) -> Tensor:
    """Return a [H, W, 3] image as a batch of one, [1, 3, H, W]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
