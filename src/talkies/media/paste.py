"""Sets the animated square into the whole picture, or enlarges it. Films are encoded again; no network is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .. import media
from .crop import resize
from .film import FrameWriter
from .frames import Box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .pictures import Frame

FEATHER = 0.12  # share of the square's side over which its border is blended
LARGEST_SIDE = 4096  # pixels: the most that players decode; larger pictures are scaled down


def feathered_mask(box: Box, width: int, height: int) -> NDArray[np.float32]:
    """Return how much of the square shows in a picture of this size: float32 [side, side] in [0, 1].

    It is 0 along its border, so that nothing moves there, and 1 from FEATHER inwards; a side on the picture's edge
    has no border.
    """
    import numpy as np

    reach = max(1.0, FEATHER * box.side)
    place = np.arange(box.side, dtype=np.float32)

    def along(before: bool, after: bool) -> NDArray[np.float32]:
        endless = np.full_like(place, np.inf)
        near = np.minimum(place if before else endless, place[::-1] if after else endless)
        share = np.clip(near / reach, 0, 1)
        return (share * share * (3 - 2 * share)).astype(np.float32)

    across = along(box.x > 0, box.x + box.side < width)
    down = along(box.y > 0, box.y + box.side < height)
    return down[:, None] * across[None, :]


def paste(square: Frame, picture: Frame, box: Box, mask: NDArray[np.float32]) -> Frame:
    """Return the picture, uint8 [H,W,3], with the square, scaled to the box, set into it."""
    import numpy as np

    height, width = picture.shape[:2]
    left, top = max(box.x, 0), max(box.y, 0)
    right, bottom = min(box.x + box.side, width), min(box.y + box.side, height)
    inside = np.s_[top - box.y : bottom - box.y, left - box.x : right - box.x]
    still = picture[top:bottom, left:right].astype(np.float32)
    share = mask[inside][..., None]
    whole = picture.copy()
    whole[top:bottom, left:right] = np.rint(still + share * (resize(square, box.side)[inside] - still)).astype(np.uint8)
    return whole


def paste_film(film: Path, picture: Frame, box: Box, writer: FrameWriter) -> tuple[int, int]:
    """Write a film of the whole picture, with `film` playing in its square; return its width and height.

    box: the square's place in the picture, uint8 [H,W,3].
    """
    height, width = picture.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(width, height))
    if scale < 1:
        width, height = round(width * scale), round(height * scale)
        picture = resize(picture, (width, height))
        box = Box(round(box.x * scale), round(box.y * scale), max(1, round(box.side * scale)))
    mask = feathered_mask(box, width, height)
    with writer:
        for square in media.read_frames(media.probe(film)):
            writer.write(paste(square, picture, box, mask))
    return width, height


def enlarge_film(film: Path, side: int, writer: FrameWriter) -> tuple[int, int]:
    """Write the film with another side, scaled by ffmpeg (lanczos); return its width and height."""
    with writer:
        for square in media.read_frames(media.probe(film), size=side):
            writer.write(square)
    return side, side
