"""Reads pictures. A guarded child process decodes them, by `picture_decoder`."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .guarded import read_guarded
from .hdr import map_picture

if TYPE_CHECKING:  # importing numpy takes longer than importing this file
    import numpy as np
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]  # [height, width, 3], RGB

MIN_SIDE = 8  # pixels; smaller pictures show nothing
MAX_SIDE = 20_000
MAX_PIXELS = 120_000_000  # 120 MP: 360 MB as RGB
MAX_PICTURE_BYTES = 1 << 30
AGAIN = "scale it down, or save it again with another program"

_turn = threading.Lock()


def size_fault(width: int, height: int) -> str | None:
    """Return what is wrong with the size of a picture or clip; None for a good one."""
    if min(width, height) < MIN_SIDE:
        return f"{width}x{height} pixels is too small: give one of at least {MIN_SIDE} a side"
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return (
            f"{width}x{height} pixels is too large: scale it to at most {MAX_SIDE:,} a side and "
            f"{MAX_PIXELS // 10**6} megapixels"
        )
    return None


def read_picture(path: str | Path) -> Frame:
    """Return a picture as viewers show it: uint8 [H,W,3], sRGB.

    It is turned as EXIF says, with transparency on white and its colour profile applied; high dynamic range (HEIC,
    AVIF) is mapped to ours (see `hdr`); grey, palette, 16 bit,
    float, CMYK and 1 bit are converted; of an animation it is the first frame.

    Raises InputError if it is not a picture, is damaged, crashes its decoder, needs too much memory or time, or has
    sides under 8 or over 20,000 pixels or over 120 megapixels; TalkiesError or OSError if the machine failed.
    """
    return _read(path, 0)[0]


def read_smaller(path: str | Path, side: int) -> tuple[Frame, tuple[int, int], str | None]:
    """Return a picture as `read_picture` does, the width and height that it would have there, and "PQ" or "HLG".

    A JPEG is decoded at a half, a quarter or an eighth of its size where its longer side then still has `side` pixels,
    which takes a fraction of the time; others come whole.
    """
    return _read(path, side)


def _read(path: str | Path, side: int) -> tuple[Frame, tuple[int, int], str | None]:
    import numpy as np

    with _turn:  # one large picture at a time
        answer, shared = read_guarded(path, "picture", again=AGAIN, most=MAX_PICTURE_BYTES, side=side)
    width, height = answer["size"]
    try:
        pixels = mmap.mmap(shared, width * height * 3)
    finally:
        os.close(shared)
    picture = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    if answer["hdr"]:
        map_picture(picture, answer["hdr"])
    return picture, tuple(answer["own"]), answer["hdr"]
