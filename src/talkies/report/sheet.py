"""A contact sheet: one picture (PNG) with a frame of every film, a row for each picture, a column for each video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import media
from ..errors import TalkiesError
from ..files import whole
from .entries import Entry
from .gallery import moving_frame

if TYPE_CHECKING:
    from ..media.pictures import Frame

GAP = 8
"""White pixels between frames."""
MOST_PIXELS = 16_000
"""The longest side of a sheet."""


def draw_sheet(entries: Sequence[Entry], path: Path, *, side: int) -> tuple[int, int]:
    """Write a contact sheet as PNG; return its rows and columns of films.

    The first row holds the driving videos, the first column the pictures. All films of a video are shown at the same
    time, when the video differs most from its first frame. side: of a frame, in pixels. Raises TalkiesError if there
    is no film, or if the sheet would be too large.
    """
    from PIL import Image

    shown = {(e.image, e.variant, e.engine, e.driving, e.part): e for e in entries if e.film and e.source and e.preview}
    rows, columns = (list(dict.fromkeys(key)) for key in ([key[:3] for key in shown], [key[3:] for key in shown]))
    width, height = ((side + GAP) * (len(names) + 1) + GAP for names in (columns, rows))
    if not shown:
        raise TalkiesError("there are no films yet: run snakemake")
    if max(width, height) > MOST_PIXELS:
        raise TalkiesError(f"--side {side}: the sheet would have {width} x {height} pixels: give a smaller side")
    sheet = Image.new("RGB", (width, height), "white")

    def put(frame: Frame, row: int, column: int) -> None:
        picture = Image.fromarray(frame)
        picture.thumbnail((side, side))
        corner = (GAP + (side + GAP) * column, GAP + (side + GAP) * row)
        sheet.paste(picture, (corner[0] + (side - picture.width) // 2, corner[1] + (side - picture.height) // 2))

    moments: dict[tuple[str, str], float] = {}
    for key, entry in shown.items():
        row, column = rows.index(key[:3]) + 1, columns.index(key[3:]) + 1
        assert entry.source
        assert entry.preview
        assert entry.film
        if key[3:] not in moments:
            frame, moments[key[3:]] = moving_frame(entry.preview)
            put(frame, 0, column)
        put(media.read_picture(entry.source), row, 0)
        clip = media.probe(entry.film)
        since = min(moments[key[3:]], float(clip.duration - 1 / clip.rate))
        put(next(media.read_frames(clip, start=since, threads=1)), row, column)
    with whole(path) as part:
        sheet.save(part, "PNG")
    return len(rows), len(columns)
