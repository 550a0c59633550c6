"""Cover a face with a hand or another thing, or make its picture coarse.

A driver who covers their mouth still has one, where the landmarks are. So some driving pictures are covered, and the
target stays the same.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Pen = ImageDraw.ImageDraw
LARGE = 3  # covers are drawn this many times larger, then shrunk
SKINS = np.array([[255, 220, 190], [236, 188, 150], [205, 150, 110], [160, 110, 75], [105, 70, 48]], np.float64)


def cover(picture: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover a face with a hand or a plain thing: uint8 [side, side, 3] in and out; landmarks [L, 2] in [-1, 1]."""
    side = len(picture)
    at = (landmarks[int(rng.integers(len(landmarks)))] + rng.normal(0, 0.08, 2) + 1) / 2 * side * LARGE
    width = float(np.ptp(landmarks[:17, 0])) / 2 * side * LARGE  # width of the face
    shape = Image.new("L", (side * LARGE, side * LARGE), 0)
    lines = Image.new("L", shape.size, 0)  # shadows between fingers, shade along an edge
    pen, shade = ImageDraw.Draw(shape), ImageDraw.Draw(lines)
    if rng.random() < 0.7:
        _hand(pen, shade, at, width * rng.uniform(0.75, 1.15), rng)
        where = np.clip((landmarks[29] + 1) / 2 * side, 1, side - 2).astype(int)
        own = picture[where[1] - 1 : where[1] + 2, where[0] - 1 : where[0] + 2].mean((0, 1))
        colour = own if rng.random() < 0.6 else SKINS[rng.integers(len(SKINS))]
    else:
        _thing(pen, shade, at, width * rng.uniform(0.2, 0.9), rng)
        colour = rng.uniform(0, 255, 3)
    soft = rng.uniform(0.3, 1.2) * LARGE
    mask, dark = (
        np.asarray(x.filter(ImageFilter.GaussianBlur(s)).resize((side, side), Image.Resampling.BOX), np.float32) / 255
        for x, s in ((shape, soft), (lines, soft + LARGE * rng.uniform(0.2, 1)))
    )
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + rng.normal(0, 0.15) * axis[:, None] + rng.normal(0, 0.15) * axis[None]
    grain = rng.normal(0, rng.uniform(0, 0.05), (side, side))
    body = colour * rng.uniform(0.75, 1.15) * (light + grain - rng.uniform(0.2, 0.6) * dark)[..., None]
    cast = np.roll(mask, rng.integers(0, 5, 2), (0, 1))[..., None] * rng.uniform(0, 0.35)  # shadow on the face
    mask = mask[..., None]
    return (picture * (1 - cast) * (1 - mask) + body * mask).clip(0, 255).astype(np.uint8)


def _hand(pen: Pen, shade: Pen, at: np.ndarray, size: float, rng: np.random.Generator) -> None:
    """Draw an arm, a palm and one to four fingers, close together or spread; often a thumb."""
    turn = rng.uniform(-np.pi, np.pi) if rng.random() < 0.25 else rng.normal(0, 0.8)  # 0: fingers point up
    up, right = np.array([np.sin(turn), -np.cos(turn)]), np.array([np.cos(turn), np.sin(turn)])

    def place(x: float, y: float) -> tuple[float, float]:
        return tuple(at + size * (x * right + y * up))

    def limb(points: list[tuple[float, float]], thick: float, edge: bool) -> None:
        if edge:
            shade.line(points, 255, int(thick * 1.18), "curve")
            shade.line(points, 0, int(thick * 0.8), "curve")
        pen.line(points, 255, int(thick), "curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=255)

    lean = rng.normal(0, 0.4)
    limb([place(0, -0.2), place(lean, -1), place(3 * lean, -4)], size * rng.uniform(0.3, 0.42), False)
    palm = [(-0.26, 0.25), (0.26, 0.25), (0.24, -0.15), (0.12, -0.36), (-0.12, -0.36), (-0.24, -0.15)]
    pen.polygon([place(x, y) for x, y in palm], fill=255)
    spread, bend = rng.uniform(0, 0.35), rng.uniform(0.4, 1.1)
    fingers = range(4) if rng.random() < 0.7 else sorted(rng.choice(4, int(rng.integers(1, 4)), replace=False))
    for k in fingers:
        x, length = -0.2 + 0.133 * k, (0.38, 0.46, 0.43, 0.32)[k] * bend
        angle = spread * (k - 1.5) / 1.5
        tip = place(x + length * np.sin(angle), 0.25 + length * np.cos(angle))
        limb([place(x, 0.15), tip], size * 0.125, True)
    if rng.random() < 0.7:
        side = rng.choice((-1, 1))
        limb([place(0.2 * side, -0.1), place(0.4 * side, rng.uniform(0, 0.3))], size * 0.14, True)


def _thing(pen: Pen, shade: Pen, at: np.ndarray, size: float, rng: np.random.Generator) -> None:
    """Draw an ellipse or a four-cornered shape, for a cup, a microphone or a bar."""
    angle, flat = rng.uniform(0, np.pi), rng.uniform(0.3, 1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = 4 if rng.random() < 0.5 else 24
    steps = (np.arange(corners) + 0.5) / corners * 2 * np.pi
    ring = at + (np.stack([np.cos(steps), flat * np.sin(steps)], 1) * size / 1.5) @ turn.T
    points = [tuple(p) for p in ring]
    pen.polygon(points, fill=255)
    shade.line([*points, points[0]], 255, max(1, int(size * 0.06)))


def coarsen(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shrink a picture and enlarge it again, as in a small or poor clip: uint8 [side, side, 3] in and out."""
    side = len(picture)
    small = round(side / rng.uniform(1.3, 2.6))
    image = Image.fromarray(picture).resize((small, small), Image.Resampling.BOX)
    return np.asarray(image.resize((side, side), rng.choice([Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])))
