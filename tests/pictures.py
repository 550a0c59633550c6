"""A small picture of every format, and one of each kind of pixels that is decoded differently."""

from __future__ import annotations

from typing import Any

import clips
import numpy as np
from PIL import Image, ImageCms

from talkies.media import pictures

pictures._register_heif()


def gradient(height: int = 24, width: int = 32) -> np.ndarray:
    """Colours that differ in every corner, uint8 [H,W,3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full(x.shape, 90)], -1).astype(np.uint8)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def linear_profile() -> bytes:
    """Return the sRGB profile with its three tone curves replaced by straight lines."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(int.from_bytes(data[128:132], "big")):
        entry = 132 + 12 * i
        name, start = bytes(data[entry : entry + 4]), int.from_bytes(data[entry + 4 : entry + 8], "big")
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[start : start + 12] = b"curv" + bytes(8)
            data[entry + 8 : entry + 12] = (12).to_bytes(4, "big")
    return bytes(data).replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be"))


COLOURS, LARGE = gradient(), gradient(64, 96)
RAMP = COLOURS[..., 0]
ALPHA = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
RGBA = np.dstack([COLOURS, ALPHA])
SIXTEEN = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (16, 1))
FLOATS = np.tile(np.linspace(0, 1, 32).astype(np.float32), (16, 1))
HALVES = (
    np.full((16, 16, 3), 255) * (np.arange(16) < 8)[:, None] + np.array([200, 10, 10]) * (np.arange(16) > 7)[:, None]
)
GREY = np.full((16, 16, 3), 55, np.uint8)
FRAMES = [Image.fromarray(clips.frame(i)) for i in range(1, 4)]
ANIMATED: dict[str, Any] = {"save_all": True, "append_images": FRAMES[1:]}


def two_colours() -> Image.Image:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.paste(1, (8, 0, 16, 16))
    return image


PALETTE = Image.fromarray(COLOURS).quantize(64)
KINDS: list[tuple[str, Image.Image, dict[str, Any], np.ndarray, float]] = [
    # name, picture, how it is saved, what is read, and by how many levels that may be off on average
    *((f"a{suffix}", Image.fromarray(COLOURS), {}, COLOURS, 0) for suffix in (".png", ".bmp", ".tif", ".ppm", ".jp2")),
    ("a.webp", Image.fromarray(COLOURS), {"lossless": True}, COLOURS, 0),
    ("lzw.tif", Image.fromarray(COLOURS), {"compression": "tiff_lzw"}, COLOURS, 0),
    ("progressive.jpg", Image.fromarray(LARGE), {"quality": 90, "progressive": True}, LARGE, 3),
    *((f"photo{s}", Image.fromarray(LARGE), {"quality": 90}, LARGE, 3) for s in (".jpg", ".heic", ".avif")),
    ("alpha.png", Image.fromarray(RGBA), {}, on_white(COLOURS, ALPHA), 0.5),
    ("alpha.webp", Image.fromarray(RGBA), {"lossless": True, "exact": True}, on_white(COLOURS, ALPHA), 0.5),
    ("grey-alpha.png", Image.fromarray(RGBA[..., [0, 3]], "LA"), {}, on_white(np.dstack([RAMP] * 3), ALPHA), 0.5),
    ("palette-key.png", two_colours(), {"transparency": 0}, HALVES, 0),
    ("palette-key.gif", two_colours(), {"transparency": 0}, HALVES, 0),
    (
        "palette-alpha.png",
        two_colours(),
        {"transparency": bytes([128, 255])},
        np.where(HALVES == 255, 127, HALVES),
        0.5,
    ),
    ("colour-key.png", two_colours().convert("RGB"), {"transparency": (0, 0, 0)}, HALVES, 0),
    ("grey.png", Image.fromarray(RAMP), {}, np.dstack([RAMP] * 3), 0),
    ("bit.png", Image.fromarray(RAMP > 127), {}, np.dstack([(RAMP > 127) * 255] * 3), 0),
    ("palette.png", PALETTE, {}, np.array(PALETTE.convert("RGB")), 0),
    ("sixteen.png", Image.fromarray(SIXTEEN), {}, np.dstack([SIXTEEN / 257] * 3), 0.5),
    ("sixteen.tif", Image.fromarray(SIXTEEN), {}, np.dstack([SIXTEEN / 257] * 3), 0.5),
    ("float.tif", Image.fromarray(FLOATS), {}, np.dstack([FLOATS * 255] * 3), 0.5),
    ("cmyk.jpg", Image.fromarray(LARGE).convert("CMYK"), {}, LARGE, 6),
    ("cmyk.tif", Image.fromarray(LARGE).convert("CMYK"), {}, LARGE, 6),
    ("linear.png", Image.fromarray(GREY), {"icc_profile": linear_profile()}, GREY + 73, 5),
    ("no-profile.png", Image.fromarray(GREY), {"icc_profile": b"no profile" * 20}, GREY, 0),
    *((f"animated{suffix}", FRAMES[0], ANIMATED, clips.frame(1), 6) for suffix in (".gif", ".webp", ".png")),
]
