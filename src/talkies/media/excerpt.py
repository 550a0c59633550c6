"""An excerpt of a clip as a film: a segment, cropped to a square, scaled, mirrored, with its sound."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import beside
from .clip import Clip
from .film import FrameWriter
from .frames import Box, read_frames
from .sound import remux

if TYPE_CHECKING:
    from .pictures import Frame


def excerpt_frames(
    clip: Clip,
    *,
    box: Box | None = None,
    size: int | None = None,
    start: Fraction | None = None,
    end: Fraction | None = None,
    flip: bool = False,
) -> Iterator[Frame]:
    """Yield the frames of an excerpt, uint8 RGB [H, W, 3]; the arguments are those of `read_frames`.

    flip: mirrored.
    """
    frames = read_frames(clip, start=start, end=end, box=box, size=size)
    return (frame[:, ::-1] for frame in frames) if flip else frames


def write_excerpt(
    clip: Clip,
    target: Path,
    *,
    box: Box | None = None,
    size: int | None = None,
    start: Fraction | None = None,
    end: Fraction | None = None,
    flip: bool = False,
    crf: int = 18,
    preset: str = "medium",
    parts: tuple[Path | None, Path | None] = (None, None),
) -> int:
    """Write an excerpt as H.264 at the clip's constant rate, with its sound, whole or not at all; return its frames.

    parts: temporary names of the silent film and of the film with sound, which may be on another disk.
    """
    picture = parts[0] or beside(target)
    try:
        with FrameWriter(picture, clip.rate, crf=crf, preset=preset) as writer:
            for frame in excerpt_frames(clip, box=box, size=size, start=start, end=end, flip=flip):
                writer.write(frame)
        remux(picture, clip, target, start=start, end=end, part=parts[1])
    finally:
        picture.unlink(missing_ok=True)
    return writer.frames
