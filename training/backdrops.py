"""Draw still backgrounds for rendered heads."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from head_mesh import linear
from PIL import Image, ImageDraw, ImageFilter

Rng = np.random.Generator


def colourful(rng: Rng, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """Return a random colour of any hue, in linear light."""
    return linear(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def draw_backdrop(rng: Rng, side: int) -> np.ndarray:
    """Draw the still background, as of a wall, a blurred room or leaves. Linear light, [side, side, 3]."""
    u = rng.uniform
    kind = rng.random()
    axis = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    if kind < 0.3:
        a, b, turn = colourful(rng, (0, 0.45), (0.15, 1)), colourful(rng, (0, 0.45), (0.15, 1)), u(0, 6.3)
        ramp = (math.cos(turn) * axis[None] + math.sin(turn) * axis[:, None] + 0.5)[..., None]
        field = a * (1 - ramp) + b * ramp
        if rng.random() < 0.6:  # darker towards the corners
            field = field * (1 - 0.6 * (axis[None] ** 2 + axis[:, None] ** 2))[..., None]
    elif kind < 0.72:
        image = Image.new(
            "RGB", (side, side), tuple(int(255 * v ** (1 / 2.2)) for v in colourful(rng, (0, 0.35), (0.2, 0.95)))
        )
        draw = ImageDraw.Draw(image)
        dim = u(0.25, 0.65)  # rooms are seldom colourful
        for _ in range(int(rng.integers(4, 28))):
            x, y = u(-0.2, 1) * side, u(-0.2, 1) * side
            w, h = abs(rng.normal(0, 0.3)) * side + 3, abs(rng.normal(0, 0.35)) * side + 3
            colour = tuple(int(255 * v ** (1 / 2.2)) for v in colourful(rng, (0, dim), (0.05, 1)))
            (draw.rectangle if rng.random() < 0.75 else draw.ellipse)((x, y, x + w, y + h), fill=colour)
        field = linear(np.asarray(image.filter(ImageFilter.GaussianBlur(u(0.4, 6))), np.float32) / 255)
    else:
        # Noise of several sizes between two colours: leaves, walls, cloth, stone.
        field = np.zeros((side, side, 1), np.float32)
        cells = int(rng.integers(2, 6))
        fall = u(0.45, 0.9)
        for octave in range(5):
            small = rng.random((cells * 2**octave,) * 2).astype(np.float32)
            large = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
            field += np.asarray(large)[..., None] * fall**octave
        field = ((field - field.min()) / (np.ptp(field) + 1e-6)) ** u(0.7, 1.8)
        field = colourful(rng, (0, 0.45), (0.05, 0.6)) * (1 - field) + colourful(rng, (0, 0.4), (0.15, 0.8)) * field
        pixels = Image.fromarray((field.clip(0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(u(0, 3)))
        field = np.asarray(pixels, np.float32) / 255
    return (field * (1 + rng.normal(0, 0.01, (side, side, 1)))).clip(0, 1).astype(np.float32)


def as_picture(light: np.ndarray) -> np.ndarray:
    """Return linear light as pixels, uint8."""
    return (light.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8)


def draw_clutter(rng: Rng, side: int) -> np.ndarray:
    """Draw a background of things with edges over a backdrop, uint8 [side, side, 3]."""
    image = Image.fromarray(as_picture(draw_backdrop(rng, side)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 35))):
        grey = rng.random() < 0.5
        colour = tuple(int(v) for v in (np.full(3, rng.integers(0, 256)) if grey else rng.integers(0, 256, 3)))
        x, y = rng.uniform(-16, side + 16, 2)
        size = abs(rng.normal(0, 25)) + 2
        kind = rng.random()
        if kind < 0.35:
            draw.polygon([tuple(rng.normal((x, y), size)) for _ in range(int(rng.integers(3, 7)))], fill=colour)
        elif kind < 0.6:
            draw.line(
                [tuple(rng.normal((x, y), 2 * size)) for _ in range(3)], fill=colour, width=int(rng.integers(1, 8))
            )
        elif kind < 0.8:
            draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        else:
            pitch = int(rng.integers(3, 16))
            for k in range(0, side, pitch):
                draw.rectangle((x, k, x + 2 * size, k + pitch // 2), fill=colour)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 0.3, 0.6, 1, 2])))))
