"""What keypoints tell of a face that is to move pictures: whether its eyes are open, its mouth shut, its head straight.

Relative motion is counted from a driving video's first frame. Where its eyes are shut, the film's never shut.
`training/first_frames.py` measures the bounds on drawn and rendered people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .model.presets import FaceParts

EYES_SHUT, EYES_OPEN = 0.35, 0.8
"""Shares of how far the same eyes open elsewhere in the video."""
MOUTH_OPEN, MOUTH_SHUT = 0.06, 0.03
"""Heights of the face by which the lips are further apart than elsewhere in the video."""
TURNED, STRAIGHT = 0.19, 0.12
"""Widths of the face by which the nose lies beside its middle: 20 degrees are 0.16 to 0.25."""
OFTEN_OPEN, OFTEN_SHUT = 0.75, 0.2
"""Quantiles over a video's frames, with which its own are compared: eyes are mostly open, a mouth is shut at times."""
NARROW = 0.02
"""Heights of the face: of eyes that are never further open, nothing is said."""
FEWEST = 4
"""Frames with a face, below which nothing is said of any."""


@dataclass(frozen=True)
class Usual:
    """How far eyes open and lips part in a video, in heights of the face."""

    parts: FaceParts
    eyes: float
    lips: float

    @classmethod
    def of(cls, poses: NDArray[np.float64], parts: FaceParts) -> Usual | None:
        """Measure it by the keypoints of some frames, [n, K, 2]; None where they are too few."""
        if len(poses) < FEWEST:
            return None
        eyes, lips, _ = _measures(poses, parts)
        return cls(parts, float(np.quantile(eyes, OFTEN_OPEN)), float(np.quantile(lips, OFTEN_SHUT)))

    def faults(self, pose: NDArray[np.float64]) -> list[str]:
        """Return what stands against counting motion from a frame with these keypoints, [K, 2]."""
        eyes, lips, turn = (float(each[0]) for each in _measures(pose[None], self.parts))
        wrong = {
            "eyes shut": self.eyes > NARROW and eyes < EYES_SHUT * self.eyes,
            "mouth open": lips - self.lips > MOUTH_OPEN,
            "head turned": abs(turn) > TURNED,
        }
        return [fault for fault, is_so in wrong.items() if is_so]

    def is_well(self, pose: NDArray[np.float64]) -> bool:
        """Tell whether nothing does, by a wide margin."""
        eyes, lips, turn = (float(each[0]) for each in _measures(pose[None], self.parts))
        return eyes > EYES_OPEN * self.eyes and lips - self.lips < MOUTH_SHUT and abs(turn) < STRAIGHT


def _measures(poses: NDArray[np.float64], parts: FaceParts) -> tuple[NDArray[np.float64], ...]:
    """Return how far the eyes are open, and the lips apart, in heights of the face, and how far the nose is aside."""
    upward = poses[:, parts.forehead] - poses[:, parts.chin]
    height = np.linalg.norm(upward, axis=1)
    across = poses[:, parts.cheeks[1]] - poses[:, parts.cheeks[0]]
    width = np.linalg.norm(across, axis=1)

    def apart(pair: tuple[int, int]) -> NDArray[np.float64]:
        return ((poses[:, pair[0]] - poses[:, pair[1]]) * upward).sum(1) / np.maximum(height, 1e-6) ** 2

    aside = poses[:, parts.nose] - poses[:, list(parts.cheeks)].mean(1)
    turn = (aside * across).sum(1) / np.maximum(width, 1e-6) ** 2
    return np.mean([apart(lids) for lids in parts.lids], 0), apart(parts.lips), turn
