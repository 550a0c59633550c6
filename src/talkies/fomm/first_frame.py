"""The frame that relative motion counts from: how faces are there, and how they are elsewhere in the video.

A driver whose eyes are shut in that frame would open the picture's eyes too far, or one who speaks press its lips
together. Then lids, pupils or lips count from where they are elsewhere in the video when the eyes are open, or when the
mouth is as far shut as the picture's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .model.keypoint_detector import Keypoints
from .model.presets import FaceParts

OFTEN_OPEN, OFTEN_SHUT = 0.75, 0.2
"""Quantiles over a video's frames: eyes are mostly open, a mouth is sometimes shut."""
EYES_SHUT, EYES_OPEN = 0.7, 0.8
"""As shares of how far the same eyes open elsewhere in the video."""
MOUTH_OPEN, MOUTH_SHUT = 0.02, 0.005
"""Heights of the face by which the lips are further apart than elsewhere in the video."""


def measures(poses: NDArray[np.float64], parts: FaceParts) -> tuple[NDArray[np.float64], ...]:
    """Return the opening of eyes and of lips in heights of the face, and the nose's offset in widths; [n] each."""
    upward = poses[:, parts.forehead] - poses[:, parts.chin]
    height = np.linalg.norm(upward, axis=1)
    across = poses[:, parts.cheeks[1]] - poses[:, parts.cheeks[0]]
    width = np.linalg.norm(across, axis=1)

    def apart(pair: tuple[int, int]) -> NDArray[np.float64]:
        return ((poses[:, pair[0]] - poses[:, pair[1]]) * upward).sum(1) / np.maximum(height, 1e-6) ** 2

    aside = poses[:, parts.nose] - poses[:, list(parts.cheeks)].mean(1)
    turn = (aside * across).sum(1) / np.maximum(width, 1e-6) ** 2
    return np.mean([apart(lids) for lids in parts.lids], 0), apart(parts.lips), turn


def counted_from(source: Keypoints, driving: Keypoints, first: int, parts: FaceParts) -> Keypoints:
    """Return the keypoints that the motion of a clip's T frames counts from, for a picture: those of one frame.

    source: of the picture, first: the frame's number. If the frame's eyes are shut and the picture's are not, lids and
    pupils are where they are in the median of the frames with open eyes. If its mouth is further open than the
    picture's, lips and chin are where they are in the median of those with a mouth as far shut.
    """
    start = driving[first]
    poses, mine = (keypoints.value.double().cpu().numpy() for keypoints in (driving, source))
    eyes, lips, _ = measures(poses, parts)
    (my_eyes,), (my_lips,), _ = measures(mine, parts)
    value = poses[first].copy()
    upper, lower = parts.lips
    # From one lower lid to the other, as complex numbers: it turns with the head, and expressions leave it.
    across = _complex(poses[:, parts.lids[1][1]] - poses[:, parts.lids[0][1]])

    def place(moving: int, still: int, frames: NDArray[np.bool_]) -> None:
        away = _complex(poses[frames, moving] - poses[frames, still]) / across[frames]
        there = (np.median(away.real) + 1j * np.median(away.imag)) * across[first]
        value[moving] = value[still] + [there.real, there.imag]

    wide = np.quantile(eyes, OFTEN_OPEN)
    if eyes[first] < min(EYES_SHUT * wide, my_eyes):
        for (lid, still), pupil in zip(parts.lids, parts.pupils, strict=True):
            place(lid, still, eyes >= EYES_OPEN * wide)
            place(pupil, still, eyes >= EYES_OPEN * wide)
    shut = max(np.quantile(lips, OFTEN_SHUT), my_lips)
    if lips[first] > shut + MOUTH_OPEN:
        for moving in (lower, *parts.jaw):
            place(moving, upper, lips <= shut + MOUTH_SHUT)
    return Keypoints(torch.from_numpy(value[None]).to(start.value), start.jacobian)


def _complex(points: NDArray[np.float64]) -> NDArray[np.complex128]:
    return points[..., 0] + 1j * points[..., 1]
