"""Reads from keypoints whether a driving video begins with open eyes, a shut mouth and a straight head.

Relative motion starts at the video's first frame. If the eyes are shut there, the film's eyes never shut.
`training/first_frames.py` measures the bounds on drawn and rendered people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .model.presets import FaceParts

EYES_SHUT, EYES_OPEN = 0.35, 0.8
"""As shares of how far the same eyes open elsewhere in the video."""
MOUTH_OPEN, MOUTH_SHUT = 0.06, 0.03
"""Heights of the face by which the lips are further apart than elsewhere in the video."""
TURNED, STRAIGHT = 0.19, 0.12
"""Widths of the face by which the nose lies beside its middle: 20 degrees are 0.16 to 0.25."""
OFTEN_OPEN, OFTEN_SHUT = 0.75, 0.2
"""Quantiles over a video's frames, as references: eyes are mostly open, a mouth is sometimes shut."""
NARROW = 0.02
"""Heights of the face. Eyes that never open further than this are not judged."""
FEWEST = 4
"""The fewest frames with a face from which anything is judged."""


@dataclass(frozen=True)
class Usual:
    """How far eyes open and lips part in a video, in heights of the face."""

    parts: FaceParts
    eyes: float
    lips: float

    @classmethod
    def of(cls, poses: NDArray[np.float64], parts: FaceParts) -> Usual | None:
        """Measure it on the keypoints of some frames, [n, K, 2]; None if there are too few frames."""
        if len(poses) < FEWEST:
            return None
        eyes, lips, _ = measures(poses, parts)
        return cls(parts, float(np.quantile(eyes, OFTEN_OPEN)), float(np.quantile(lips, OFTEN_SHUT)))

    def faults(self, pose: NDArray[np.float64]) -> list[str]:
        """Return why a frame with these keypoints, [K, 2], is a bad first frame; empty if it is not."""
        eyes, lips, turn = (float(each[0]) for each in measures(pose[None], self.parts))
        wrong = {
            "eyes shut": self.eyes > NARROW and eyes < EYES_SHUT * self.eyes,
            "mouth open": lips - self.lips > MOUTH_OPEN,
            "head turned": abs(turn) > TURNED,
        }
        return [fault for fault, is_so in wrong.items() if is_so]

    def is_well(self, pose: NDArray[np.float64]) -> bool:
        """Return whether a frame with these keypoints, [K, 2], is clearly a good first frame."""
        eyes, lips, turn = (float(each[0]) for each in measures(pose[None], self.parts))
        return eyes > EYES_OPEN * self.eyes and lips - self.lips < MOUTH_SHUT and abs(turn) < STRAIGHT


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
