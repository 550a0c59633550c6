"""Reads the frames of a clip: decoded, cropped, scaled, at a constant rate."""

from __future__ import annotations

import logging
from collections.abc import Generator
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..errors import InputError, printable
from ..files import read_through
from ..machine.resources import available_threads
from .clip import Clip
from .ffmpeg import AGAIN, PLAIN, SCALING, SECONDS, Ffmpeg, hdr_filters, input_arguments, seconds_text
from .pictures import MAX_PIXELS

if TYPE_CHECKING:
    from .pictures import Frame

log = logging.getLogger("talkies")


SECONDS_A_PICTURE = 0.05
SECONDS_A_PIXEL = 0.25e-6
"""Seconds of processor time that decoding may take, for each picture and each of its pixels (see ffmpeg.SECONDS)."""
MAX_FRAMES = 250_000  # of a segment: over two hours
THREADS = 4  # of a decoder: each keeps pictures of its own, which fill the memory it may have


class Box(NamedTuple):
    """A square of the picture in display pixels: x to the right and y downward from the upper left corner.

    It may reach outside a picture that is too small, by half of it at most; there the picture's edge is repeated.
    """

    x: int
    y: int
    side: int


def read_frames(
    clip: Clip,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    box: Box | None = None,
    size: int | tuple[int, int] | None = None,
    flip: bool = False,
    rate: Fraction | None = None,
    threads: int | None = None,
    skip: Literal["noref", "nokey"] | None = None,
) -> Generator[Frame, None, None]:
    """Yield the clip's frames, uint8 [H,W,3] RGB, one at a time, at `clip.rate` (or `rate`).

    `start` and `end` are seconds after the clip's first picture. `box` crops, and repeats the edge outside the picture;
    then the frame is scaled to `size` (a side, or width and height). Without `box` it is the whole picture; without
    `size` nothing is scaled. `flip` mirrors it. Transparency is put on white. YCbCr is converted with the file's matrix
    and range (if it states none: bt709 for HD, bt601 below), high dynamic range is mapped to ours. A clip
    of the wanted size is passed on bit for bit as ffmpeg decodes it. `skip`, for a quick look, leaves out frames that
    no other needs ("noref") or all but key frames ("nokey"), and repeats the one before.

    A damaged clip yields what can be decoded, with a warning on logger "talkies". Raises InputError if that is
    nothing, TalkiesError or OSError if the machine failed. Closing the generator ends ffmpeg.
    """
    since = Fraction(start or 0)
    rate = rate or clip.rate
    limit = clip.count(start, end, rate)
    if limit <= 0:
        asked = f"the segment starts at {float(since):g} s" + ("" if end is None else f" and ends at {float(end):g} s")
        raise InputError(clip.path, f"{asked}, where the clip, of {float(clip.duration):g} s, has no frame: mend it")
    if (frames := clip.count(start, end)) > MAX_FRAMES:
        raise InputError(clip.path, f"{frames:,} frames are over {MAX_FRAMES:,}: give a part of it by start and end")
    filters, width, height = _filters(clip, since, rate, limit, box, size)
    filters += ",hflip" * flip
    skipped = ["-skip_frame", skip] if skip else []
    threads = min(threads or available_threads(), THREADS)
    arguments = [
        *["-copyts", "-filter_complex_threads", str(threads), "-threads", str(threads)],
        *input_arguments(clip.path, *_seek(clip, since), *_decoder(clip), *skipped, "-max_pixels", str(MAX_PIXELS)),
        *["-filter_complex", f"[0:{clip.stream}]{filters}[out]", "-map", "[out]"],
        *["-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"],
    ]
    return _decode(clip, arguments, (height, width, 3), limit)


def _decode(clip: Clip, arguments: list[str], shape: tuple[int, int, int], limit: int) -> Generator[Frame, None, None]:
    import numpy as np

    count = 0
    each = SECONDS_A_PICTURE + SECONDS_A_PIXEL * clip.width * clip.height
    with Ffmpeg(arguments, seconds=SECONDS + each * max(clip.pictures, limit)) as process:
        while count < limit:
            frame = np.empty(shape, np.uint8)
            if process.stdout.readinto(frame.data.cast("B")) < frame.size:  # type: ignore[attr-defined]
                break
            yield frame
            count += 1
        fault = process.finish()
    short = fault is not None or clip.truncated or count < limit * 0.9
    if short:
        read_through(clip.path)
    if count == 0:
        raise InputError(clip.path, f"no picture in it can be decoded ({fault or 'nothing in it'}): {AGAIN}")
    if short:
        log.warning("%s: the clip is damaged or cut short; going on with its %d frames", printable(clip.path), count)


def _seek(clip: Clip, since: Fraction) -> list[str]:
    """Return options that skip most of a long clip's head: the filters cut exactly, and this saves decoding."""
    indexed = clip.path.suffix.lower() in (".mp4", ".m4v", ".mov", ".mkv", ".webm")
    if since < 30 or not indexed or clip.truncated:
        return []
    return ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", seconds_text(clip.start + since - 20)]


def _decoder(clip: Clip) -> list[str]:
    """Return the option for WebM, the one format whose alpha ffmpeg's own decoder drops."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(clip.codec)
    return ["-c:v", name] if clip.alpha and name else []


def _filters(
    clip: Clip, since: Fraction, rate: Fraction, limit: int, box: Box | None, size: int | tuple[int, int] | None
) -> tuple[str, int, int]:
    """Return ffmpeg's filters from stored pictures to RGB frames, and the frames' width and height."""
    # Time first, so that only used frames are converted. Times are shifted so that the first output frame is at 0.
    clock, origin = (f"N/({clip.rate}*TB)", since) if clip.numbered else ("PTS", clip.start + since)
    steps = [f"setpts=round({clock}-({seconds_text(origin)})/TB)", f"fps=fps={rate}:start_time=0:round=near"]
    steps.append(f"trim=end_frame={limit}")  # here, since later frames would pile up before the output ends
    if clip.alpha:
        steps.append(
            "format=rgba,split[over][under];[under]drawbox=color=white:t=fill:replace=1[white];"
            "[white][over]overlay=format=gbrp"
        )
    matrix = f":in_color_matrix={clip.matrix}" if clip.matrix else ""
    width, height = clip.width, clip.height
    wanted = (size, size) if isinstance(size, int) else size
    if box is None and wanted is not None:
        width, height = wanted
    # The size is always given: a stream that changes its size must not change the frames' size.
    plain = clip.sar == 1 and (width, height) == (clip.width, clip.height)
    form = "gbrp16le" if clip.hdr else "rgb24"
    steps.append(f"scale={width}:{height}:flags={PLAIN if plain else SCALING}{matrix},format={form},setsar=1")
    if box is not None:
        left, top = max(box.x, 0), max(box.y, 0)
        right, bottom = min(box.x + box.side, width), min(box.y + box.side, height)
        if (left, top, right, bottom) != (0, 0, width, height):
            steps.append(f"crop={right - left}:{bottom - top}:{left}:{top}:exact=1")
        margins = (left - box.x, box.x + box.side - right, top - box.y, box.y + box.side - bottom)
        if any(margins):
            steps.append(
                f"format={'gbrp16le' if clip.hdr else 'gbrp'},pad={box.side}:{box.side}:{margins[0]}:{margins[2]}"
            )
            steps.append("fillborders=left={}:right={}:top={}:bottom={}:mode=smear".format(*margins))
        width = height = box.side
    if wanted is not None and wanted != (width, height):
        width, height = wanted
        steps.append(f"scale={width}:{height}:flags={SCALING}")
    return ",".join([*steps, hdr_filters(clip.hdr) if clip.hdr else "format=rgb24"]), width, height
