"""Shows many films at once in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import TalkiesError, printable
from ..files import beside
from .clip import Clip, probe, tags
from .ffmpeg import SCALING, input_arguments, run
from .film import mp4_output
from .sound import remux

MOSAIC_FILMS = 100  # in one mosaic: each has a decoder of its own
MOSAIC_SIDE = 2160  # pixels, the most a mosaic's sides have: what players decode


def mosaic(films: Sequence[str | Path], out: str | Path, *, columns: int | None = None) -> dict[str, Any]:
    """Write one film that shows many at once, in rows of squares, with the sound of the first that has any.

    At most MOSAIC_FILMS; columns: None for a square. They start together and run at the first one's rate; shorter
    films stop at their last frame. The squares are as high as the highest film, or less if the whole would be wider
    or higher than MOSAIC_SIDE. The first film's comment tag is kept.

    Returns facts: films, columns, side of a square (pixels), frames, duration (seconds), sound ("copy", "aac" or None),
    bytes. Raises InputError naming the film that cannot be read; TalkiesError for none or too many.
    """
    if not 1 <= len(films) <= MOSAIC_FILMS:
        raise TalkiesError(f"{len(films)} films for one mosaic: give it 1 to {MOSAIC_FILMS} of them")
    out = Path(out)
    clips = [probe(film) for film in films]
    columns = min(columns or math.ceil(math.sqrt(len(clips))), len(clips))
    rows = math.ceil(len(clips) / columns)
    side = min(max(clip.height for clip in clips), MOSAIC_SIDE // max(columns, rows))
    side -= side % 2
    silent = beside(out)
    with silent.open("wb"):
        pass  # a folder that is missing or full says so here, in the system's own words
    try:
        if fault := run([*_tiles(clips, columns, rows, side), *mp4_output(silent, None)]):
            raise TalkiesError(f"{printable(out)}: the mosaic failed ({fault}): try fewer films")
        sounding = next((clip for clip in clips if clip.sound), None)
        facts = remux(silent, sounding, out, comment=tags(films[0]).get("comment"))
    finally:
        silent.unlink(missing_ok=True)
    return {"films": len(clips), "columns": columns, "side": side} | {
        name: getattr(facts, name) for name in ("frames", "duration", "sound", "bytes")
    }


def _tiles(clips: Sequence[Clip], columns: int, rows: int, side: int) -> list[str]:
    """Return ffmpeg's arguments that arrange films in rows of squares and encode them."""
    inputs, squares = [], []
    for number, clip in enumerate(clips):
        inputs += [
            "-threads",
            "1",
            *input_arguments(clip.path),
        ]  # a hundred decoders with several threads each would be too many
        squares.append(
            f"[{number}:{clip.stream}]setpts=PTS-STARTPTS,fps={clips[0].rate},"
            f"scale={side}:{side}:force_original_aspect_ratio=decrease:force_divisible_by=2:flags={SCALING},"
            f"pad={side}:{side}:(ow-iw)/4*2:(oh-ih)/4*2,setsar=1,format=yuv420p[t{number}]"
        )
    places = "|".join(f"{n % columns * side}_{n // columns * side}" for n in range(len(clips)))
    every = "".join(f"[t{number}]" for number in range(len(clips)))
    stacked = f"{every}xstack=inputs={len(clips)}:layout={places}:fill=black," if len(clips) > 1 else every
    # The last row may have fewer films: it is padded.
    graph = f"{';'.join(squares)};{stacked}pad={columns * side}:{rows * side}:0:0[out]"
    return [
        *inputs,
        *["-filter_complex", graph, "-map", "[out]", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20"],
        *["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"],
    ]
