"""Shows films at a glance: a poster of one, a mosaic film of many, a contact sheet (PNG) of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .. import media
from ..errors import TalkiesError, printable
from ..files import whole
from ..media.crop import resize
from ..media.ffmpeg import SCALING, input_arguments, run
from ..media.film import BT709, mp4_output

if TYPE_CHECKING:
    from ..media.pictures import Frame
    from .entries import Entry

LOOKED_SECONDS = 60
FRAMES_A_SECOND, FEWEST_FRAMES = 5, Fraction(24)
SIDE = 64  # side in pixels at which frames are compared
MARK = b"talkies: at "
"""The start of a poster's comment (JPEG), before its time in seconds."""
MOSAIC_FILMS = 100  # in one mosaic: each has a decoder of its own
MOSAIC_SIDE = 2160  # pixels, the most a mosaic's sides have: what players decode
GAP = 8  # white pixels between the frames of a sheet
MOST_PIXELS = 16_000  # the longest side of a sheet


def draw_poster(film: Path, poster: Path) -> None:
    """Write the frame (JPEG) of `moving_frame`, and note its time in it."""
    from PIL import Image

    frame, seconds = moving_frame(film)
    comment = MARK + f"{seconds:.2f}".encode()
    Image.fromarray(frame).save(poster, "JPEG", quality=85, comment=comment)


def moving_frame(film: Path) -> tuple[Frame, float]:
    """Return the frame of a film's first minute that differs most from its first frame, and its time in seconds.

    The film is one of our previews, so that its frames are small. Raises InputError if the film can't be read.
    """
    clip = media.probe(film)
    looks = max(FRAMES_A_SECOND * clip.seconds(end=LOOKED_SECONDS), FEWEST_FRAMES)
    rate = clip.sampling(looks, end=LOOKED_SECONDS)
    frames = [*media.read_frames(clip, end=LOOKED_SECONDS, rate=rate, threads=1)]
    best = _moving(frames)
    return frames[best], float(best / rate)


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


# --- mosaics -----------------------------------------------------------------------------------------------


def write_mosaic(films: Sequence[Path], out: Path) -> None:
    """Write one film that shows many of ours at once, in rows of squares, with the sound of the first that has any.

    They start together and run at the first one's rate; shorter films stop at their last frame. The squares are as high
    as the highest film, or less if the whole would be wider or higher than MOSAIC_SIDE. The first film's comment tag is
    kept. Raises InputError naming the film that cannot be read; TalkiesError for more than MOSAIC_FILMS.
    """
    if len(films) > MOSAIC_FILMS:
        raise TalkiesError(f"{len(films)} films are too many for one mosaic: give it {MOSAIC_FILMS} of them at most")
    clips = [media.probe(film) for film in films]
    columns = math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    side = min(max(clip.height for clip in clips), MOSAIC_SIDE // columns)
    side -= side % 2
    sounding = next((number for number, clip in enumerate(clips) if clip.sound), None)
    sound = [] if sounding is None else ["-map", f"{sounding}:a", "-c:a", "copy"]
    # A hundred decoders with several threads each would be too many.
    inputs = [word for clip in clips for word in ("-threads", "1", *input_arguments(clip.path))]
    arguments = [*inputs, "-filter_complex", _tiles(clips, columns, rows, side), "-map", "[out]", *sound]
    arguments += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", *BT709]
    if fault := run([*arguments, *mp4_output(out, None, metadata=0)]):
        raise TalkiesError(f"{printable(out)}: the mosaic failed ({fault}): try fewer films")


def _tiles(clips: Sequence[media.Clip], columns: int, rows: int, side: int) -> str:
    """Return ffmpeg's filters that arrange films in rows of squares."""
    squares = [
        f"[{number}:{clip.stream}]setpts=PTS-STARTPTS,fps={clips[0].rate},"
        f"scale={side}:{side}:force_original_aspect_ratio=decrease:force_divisible_by=2:flags={SCALING},"
        f"pad={side}:{side}:(ow-iw)/4*2:(oh-ih)/4*2,setsar=1,format=yuv420p[t{number}]"
        for number, clip in enumerate(clips)
    ]
    places = "|".join(f"{n % columns * side}_{n // columns * side}" for n in range(len(clips)))
    every = "".join(f"[t{number}]" for number in range(len(clips)))
    stacked = f"{every}xstack=inputs={len(clips)}:layout={places}:fill=black"
    # The last row may have fewer films: it is padded.
    return ";".join([*squares, f"{stacked},pad={columns * side}:{rows * side}:0:0[out]"])


# --- contact sheets ----------------------------------------------------------------------------------------


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
        assert entry.source and entry.preview and entry.film  # noqa: PT018
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
