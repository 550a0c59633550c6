"""Converts frames to bytes on the network's device: RGB, or the planes that encoders take."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

RED, BLUE = 0.2126, 0.0722
"""Weights of red and blue in luma (BT.709); green has the rest."""
TAPS = 12
SLAB = 32
"""Chroma samples of one matrix product: each uses 12 of the 256 pixels in its row; the other weights are zero."""


def rgb_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Return frames, [n, 3, H, W] in [0, 1], as uint8 [n, H, W, 3], rounded as the original's writer does."""
    return frames.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def yuv420p(frames: torch.Tensor) -> torch.Tensor:
    """Return frames, float32 [n, 3, H, W] in [0, 1], as planes, uint8 [n, H * 3 / 2, W]: H rows of luma, then Cb, Cr.

    BT.709, limited range, chroma with half the sides, sampled at the centre of its four pixels: within one level of
    ffmpeg's scaler (`media.ffmpeg.SCALING`). H and W are even.
    """
    count, _, height, width = frames.shape
    luma_and_chroma = _matrix(frames.device) @ frames.reshape(count, 3, -1)
    planes = torch.empty(count, height * width * 3 // 2, dtype=torch.uint8, device=frames.device)
    # Plus a half, since the conversion to bytes truncates.
    planes[:, : height * width] = luma_and_chroma[:, 0].add(16.5)
    chroma = luma_and_chroma[:, 1:].reshape(-1, width)
    chroma = torch.cat([chroma[:, first:last] @ weights.T for first, last, weights in _slabs(width, frames.device)], 1)
    chroma = chroma.reshape(count, 2, height, width // 2)
    rows = [weights @ chroma[:, :, first:last] for first, last, weights in _slabs(height, frames.device)]
    planes[:, height * width :] = torch.cat(rows, 2).reshape(count, -1).add_(128.5).clamp_(0, 255)
    return planes.reshape(count, height * 3 // 2, width)


@lru_cache(maxsize=8)
def _matrix(device: torch.device) -> torch.Tensor:
    """Return the matrix from RGB in [0, 1] to luma and chroma, without the offsets 16 and 128."""
    luma = torch.tensor([RED, 1 - RED - BLUE, BLUE], dtype=torch.float64)
    blue, red = torch.eye(3, dtype=torch.float64)[2] - luma, torch.eye(3, dtype=torch.float64)[0] - luma
    return torch.stack([219 * luma, 112 * blue / (1 - BLUE), 112 * red / (1 - RED)]).to(device, torch.float32)


@lru_cache(maxsize=8)
def _slabs(side: int, device: torch.device) -> list[tuple[int, int, torch.Tensor]]:
    """Return how a side is halved: for each slab, the pixels `first` to `last` and weights [samples, last - first].

    Lanczos with three lobes, stretched to the larger pixels; edge pixels are repeated.
    """
    place = torch.arange(TAPS, dtype=torch.float64) - (TAPS - 1) / 2
    taps = torch.sinc(place / 2) * torch.sinc(place / 6)
    reach = TAPS // 2 - 1
    whole = F.one_hot((2 * torch.arange(side // 2)[:, None] - reach + torch.arange(TAPS)).clamp(0, side - 1), side)
    weights = (whole * (taps / taps.sum())[:, None]).sum(1).to(device, torch.float32)
    slabs = []
    for sample in range(0, side // 2, SLAB):
        first, last = max(0, 2 * sample - reach), min(side, 2 * (sample + SLAB) + reach)
        slabs.append((first, last, weights[sample : sample + SLAB, first:last].contiguous()))
    return slabs
