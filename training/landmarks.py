"""Turn a portrait's landmarks into what trains the network: keypoints, their jacobians, and regions of eyes and mouth.

All coordinates are in [-1, 1], (x, y), as portraits.py gives them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from portraits import (
    BROW_LEFT,
    BROW_RIGHT,
    CONTOUR,
    CROWN,
    EYE_LEFT,
    EYE_RIGHT,
    FOREHEAD,
    LIPS_INNER,
    LIPS_OUTER,
    NECK,
    NOSE,
    Portrait,
    Pose,
    sample_identity,
)

# Each keypoint is the mean of its landmarks. Outline, nose and brows move the head; each lid, lip, corner of the mouth
# and pupil has its own keypoint. The crown moves hair and hat, the neck moves the shoulders.
KEYPOINTS: dict[str, tuple[int, ...]] = {
    "chin": (8,),
    "cheek_left": (3,),
    "cheek_right": (13,),
    "forehead": (FOREHEAD,),
    "nose": (29,),
    "brow_left": (19,),
    "brow_right": (24,),
    "lid_upper_left": (35,),
    "lid_lower_left": (39,),
    "lid_upper_right": (43,),
    "lid_lower_right": (47,),
    "mouth_left": (63,),
    "mouth_right": (67,),
    "lip_upper": (65,),
    "lip_lower": (69,),
    "pupil_left": (49,),
    "pupil_right": (50,),
    "crown": (CROWN,),
    "neck": (NECK,),
}

# The landmarks that move like a keypoint: there, the network should choose the motion of that keypoint.
FOLLOWERS: dict[str, tuple[int, ...]] = {
    "chin": (6, 7, 8, 9, 10),
    "cheek_left": (0, 1, 2, 3, 4),
    "cheek_right": (12, 13, 14, 15, 16),
    "forehead": (FOREHEAD,),
    "nose": (27, 28, 29, 30, 31, 32),
    "brow_left": (17, 18, 19, 20, 21),
    "brow_right": (22, 23, 24, 25, 26),
    "lid_upper_left": (34, 35, 36),
    "lid_lower_left": (38, 39, 40),
    "lid_upper_right": (42, 43, 44),
    "lid_lower_right": (46, 47, 48),
    "mouth_left": (51, 63),
    "mouth_right": (57, 67),
    "lip_upper": (53, 54, 55, 64, 65, 66),
    "lip_lower": (59, 60, 61, 68, 69, 70),
    "pupil_left": (49,),
    "pupil_right": (50,),
    "crown": (CROWN,),
    "neck": (NECK,),
}

# Landmarks that move with the skull and the jaw. With those of the lids, frames would collapse when an eye shuts.
_STEADY = np.array([*range(0, 17), 17, 19, 21, 22, 24, 26, *range(27, 33), 33, 37, 41, 45, 51, 57, FOREHEAD], dtype=int)
_REACH = 0.34  # radius, in [-1, 1] units, of the neighbourhood that a keypoint's affine frame is fitted to
# The outline turns differently from the face in front of it, and what moves with it (hair, hat, ears) is far away.
_OUTLINE = np.array([*range(0, 17), CROWN])
_OUTLINE_REACH = 0.55


def keypoint_values(landmarks: np.ndarray) -> np.ndarray:
    """Return the keypoints [..., K, 2] of landmarks [..., LANDMARKS, 2]."""
    return np.stack([landmarks[..., list(which), :].mean(-2) for which in KEYPOINTS.values()], -2)


@cache
def _template() -> np.ndarray:
    """Return the mean face, [LANDMARKS, 2], the reference for jacobians."""
    faces = [Portrait(sample_identity(3_000_000 + k), 32).draw(Pose())[1] for k in range(100)]
    return np.mean(faces, axis=0)


def keypoint_jacobians(landmarks: np.ndarray) -> np.ndarray:
    """Return how each keypoint's neighbourhood is turned and stretched relative to the mean face, [..., K, 2, 2].

    This is a weighted least-squares affine fit to the steady landmarks near the keypoint; for keypoints on the head's
    outline, to landmarks of the outline. All landmarks have a small weight, which keeps every matrix far from singular.
    The neck's matrix is the identity, since drawn shoulders neither turn nor grow.
    """
    face = _affine_frames(landmarks, _STEADY, _REACH)
    outline = _affine_frames(landmarks, _OUTLINE, _OUTLINE_REACH)
    names = list(KEYPOINTS)
    for name in ("chin", "cheek_left", "cheek_right", "crown"):
        face[..., names.index(name), :, :] = outline[..., names.index(name), :, :]
    face[..., names.index("neck"), :, :] = np.eye(2)
    return face


def _affine_frames(landmarks: np.ndarray, which: np.ndarray, reach: float) -> np.ndarray:
    template = _template()
    anchors = keypoint_values(template)
    steady = template[which]
    distance = ((anchors[:, None] - steady[None]) ** 2).sum(-1)
    weight = np.exp(-distance / (2 * reach**2)) + 0.05  # [K, M]
    weight /= weight.sum(1, keepdims=True)
    mean = weight @ steady  # [K, 2]
    centred = steady[None] - mean[:, None]  # [K, M, 2]
    spread = np.einsum("km,kmi,kmj->kij", weight, centred, centred)
    inverse = np.linalg.inv(spread)
    cross = np.einsum("km,...mi,kmj->...kij", weight, landmarks[..., which, :], centred)
    return cross @ inverse


@cache
def neighbours() -> np.ndarray:
    """Return pairs of steady landmarks near each other, [M, 2]. Points between the two of a pair move with them."""
    template = _template()
    pairs = [
        (a, b)
        for k, a in enumerate(_STEADY)
        for b in _STEADY[:k]
        if 0.06 < np.linalg.norm(template[a] - template[b]) < 0.4 and not {a, b} <= {33, 37, 41, 45, 51, 57}
    ]
    return np.array(pairs)


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Return the gap between the inner lips divided by the mouth's width, [...]; 0 when shut."""
    lips = landmarks[..., LIPS_INNER, :]
    gap = np.linalg.norm(lips[..., [1, 2, 3], :] - lips[..., [7, 6, 5], :], axis=-1).mean(-1)
    return gap / np.linalg.norm(lips[..., 0, :] - lips[..., 4, :], axis=-1)


def eye_opening(landmarks: np.ndarray) -> np.ndarray:
    """Return the gap between the lids divided by the eye's width, as the mean of both eyes, [...]; 0 when shut."""
    openings = []
    for eye in (EYE_LEFT, EYE_RIGHT):
        lids = landmarks[..., eye, :]
        gap = np.linalg.norm(lids[..., [1, 2, 3], :] - lids[..., [7, 6, 5], :], axis=-1).mean(-1)
        openings.append(gap / np.linalg.norm(lids[..., 0, :] - lids[..., 4, :], axis=-1))
    return np.mean(openings, axis=0)


def yaw_measure(landmarks: np.ndarray) -> np.ndarray:
    """Return the nose's position between the cheeks, along the line of the eyes, [...]; about 0 when looking ahead."""
    axis = _eye_axis(landmarks)
    middle = landmarks[..., [2, 14], :].mean(-2)
    width = np.linalg.norm(landmarks[..., 2, :] - landmarks[..., 14, :], axis=-1)
    return ((landmarks[..., NOSE, :][..., 2, :] - middle) * axis).sum(-1) / width


def tilt_measure(landmarks: np.ndarray) -> np.ndarray:
    """Return the angle from the horizontal to the line of the eyes, in degrees, positive if clockwise, [...]."""
    axis = _eye_axis(landmarks)
    return np.degrees(np.arctan2(axis[..., 1], axis[..., 0]))


def _eye_axis(landmarks: np.ndarray) -> np.ndarray:
    left = landmarks[..., [33, 37], :].mean(-2)
    right = landmarks[..., [41, 45], :].mean(-2)
    axis = right - left
    return axis / np.linalg.norm(axis, axis=-1, keepdims=True)


def regions(landmarks: np.ndarray) -> np.ndarray:
    """Return ellipses around the left eye, right eye and mouth: [..., 3, 4] as centre x, y and radii x, y.

    An eye's ellipse covers the upper lid and what a blink uncovers. The mouth's covers both lips, with a margin.
    """
    out = []
    for which, grow_x, grow_y, low in (
        (EYE_LEFT, 1.35, 1.35, 0.62),
        (EYE_RIGHT, 1.35, 1.35, 0.62),
        (LIPS_OUTER, 1.25, 1.3, 0.35),
    ):
        points = landmarks[..., which, :]
        a, b = points.min(-2), points.max(-2)
        centre, half = (a + b) / 2, (b - a) / 2
        rx = half[..., 0] * grow_x
        ry = np.maximum(half[..., 1] * grow_y, low * half[..., 0])
        out.append(np.concatenate([centre, rx[..., None], ry[..., None]], -1))
    return np.stack(out, -2)


__all__ = [
    "BROW_LEFT",
    "BROW_RIGHT",
    "CONTOUR",
    "KEYPOINTS",
    "eye_opening",
    "keypoint_jacobians",
    "keypoint_values",
    "mouth_opening",
    "neighbours",
    "regions",
    "tilt_measure",
    "yaw_measure",
]
