"""Posters: frames of driving videos for the gallery, each from a moment with motion."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .. import media
from ..media.crop import resize

if TYPE_CHECKING:
    from ..media.pictures import Frame

LOOKED_SECONDS = 60
FRAMES_A_SECOND, FEWEST_FRAMES = 5, Fraction(24)
SIDE = 64  # side in pixels at which frames are compared
MARK = b"talkies: at "
"""The start of a poster's comment (JPEG), before its time in seconds."""


def draw_poster(film: Path, poster: Path) -> None:
    """Write the frame (JPEG) of a film's first minute that differs most from its first frame; note its time in it.

    The film is one of our previews, so that its frames are small.
    Raises InputError if the film can't be read.
    """
    from PIL import Image

    clip = media.probe(film)
    looks = max(FRAMES_A_SECOND * clip.seconds(end=LOOKED_SECONDS), FEWEST_FRAMES)
    rate = clip.sampling(looks, end=LOOKED_SECONDS)
    frames = [*media.read_frames(clip, end=LOOKED_SECONDS, rate=rate, threads=1)]
    best = _moving(frames)
    comment = MARK + f"{float(best / rate):.2f}".encode()
    Image.fromarray(frames[best]).save(poster, "JPEG", quality=85, comment=comment)


def moment_of(poster: Path) -> float | None:
    """Return the time, in seconds, of a poster of ours; None for any other picture."""
    from PIL import Image

    with suppress(OSError, ValueError), Image.open(poster) as picture:
        comment = picture.info.get("comment", b"")
        if comment.startswith(MARK):
            return float(comment.removeprefix(MARK))
    return None


def _moving(frames: list[Frame]) -> int:
    """Return the number of the frame that differs most from the first."""
    import numpy as np

    looked = np.stack([resize(frame, SIDE, quick=True).mean(-1) for frame in frames])
    contrast = looked.std((1, 2))
    change = np.abs(looked - looked[0]).mean((1, 2))
    change[contrast < np.median(contrast) / 2] = -1  # a fade to black differs most, but shows nothing
    return int(change.argmax())
