"""Stills of driving videos for the gallery, each of a moment that moves."""

from __future__ import annotations

from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path

from .. import media

LOOKED_SECONDS = 60
FRAMES_A_SECOND, FEWEST_FRAMES = 5, 24
SIDE = 64  # pixels at which frames are compared
MARK = b"talkies: at "
"""What a poster's comment (JPEG) holds before its moment in seconds."""


def draw_poster(film: Path, poster: Path) -> None:
    """Write the frame (JPEG) of a film that differs most from its first, of the first minute; note its moment in it.

    Raises InputError where the film can't be read.
    """
    from PIL import Image

    clip = media.probe(film)
    moment = _moment(clip)
    with closing(media.read_frames(clip, start=moment, threads=1)) as frames:
        comment = MARK + f"{float(moment):.2f}".encode()
        Image.fromarray(next(frames)).save(poster, "JPEG", quality=85, comment=comment)


def moment_of(poster: Path) -> float | None:
    """Return the moment, in seconds, that a poster of ours shows; None for any other picture."""
    from PIL import Image

    with suppress(OSError, ValueError), Image.open(poster) as picture:
        comment = picture.info.get("comment", b"")
        if comment.startswith(MARK):
            return float(comment.removeprefix(MARK))
    return None


def _moment(clip: media.Clip) -> Fraction:
    import numpy as np

    seconds = min(clip.duration, Fraction(LOOKED_SECONDS))
    rate = min(clip.rate, max(Fraction(FRAMES_A_SECOND), FEWEST_FRAMES / seconds)).limit_denominator(100_000)
    with closing(media.read_frames(clip, end=seconds, size=SIDE, rate=rate, threads=1)) as frames:
        looked = np.stack([frame.mean(-1) for frame in frames])
    contrast = looked.std((1, 2))
    change = np.abs(looked - looked[0]).mean((1, 2))
    change[contrast < np.median(contrast) / 2] = -1  # a fade to black is far from everything, and shows nothing
    return Fraction(int(change.argmax())) / rate
