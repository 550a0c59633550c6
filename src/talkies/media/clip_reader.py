"""Reads the facts about a film or sound file with PyAV, in the child process of `guarded`.

Every packet's time stamp is read; of each stream only the first picture or sound is decoded. PyAV gives exact numbers
in about 1 ms a clip, where ffmpeg's program gives lines for people to read, in 50 ms a question, and its ffprobe comes
in no well-kept package. Decoding and encoding stay with that program: it has zscale, and each run its own limits.
"""

from __future__ import annotations

import itertools
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.logging

from ..errors import InputError, printable
from .clip import MAX_RATE
from .ffmpeg import AGAIN, DEMUXERS, SECONDS, SECONDS_A_BYTE, TRANSFERS
from .guarded import allow, read_through
from .pictures import size_fault

MAX_PACKETS = 5_000_000  # of a stream: 23 hours at 60 a second
GEN_PTS = 1  # ffmpeg's AVFMT_FLAG_GENPTS
STILL = av.stream.Disposition.attached_pic | av.stream.Disposition.still_image | av.stream.Disposition.timed_thumbnails
"""A cover picture or a photo: no video. (A part of a picture in tiles, too, is "dependent".)"""
STANDARD_RATES = tuple(
    sorted(
        {Fraction(n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60)}
        | {Fraction(n * 1000, 1001) for n in (12, 15, 24, 30, 48, 60)}
    )
)
DEFAULT_RATE = Fraction(25)  # of a clip of one frame that states none
UNSTATED = (0, 2, 3)  # matrices of ITU-T H.273


@dataclass
class Track:
    """A stream's packets: times in ticks of `timebase` seconds, in file order."""

    stream: Any  # PyAV's
    timebase: Fraction
    wanted: bool = True  # its first frame is decoded
    times: array[int] = field(default_factory=lambda: array("q"))  # presentation, else decoding
    lengths: array[int] = field(default_factory=lambda: array("q"))
    timeless: int = 0  # packets without presentation time
    first: Any = None  # the first frame that can be decoded

    @property
    def next_time(self) -> int:
        """When the next packet begins, if it does not tell."""
        return self.times[-1] + self.lengths[-1] if self.times else 0

    def span(self) -> tuple[Fraction, Fraction]:
        """Return the start of the first and the end of the last packet, in seconds."""
        last = max(t + n for t, n in zip(self.times, self.lengths, strict=True))
        return min(self.times) * self.timebase, last * self.timebase


def why(head: bytes, error: Exception) -> str:
    """Return what is wrong with a film."""
    last = getattr(error, "log", None)  # ffmpeg's last message: its severity, its part's name, the text
    said = printable(str(last[2] if last else getattr(error, "strerror", None) or error).strip()[:200])
    if "whitelist" in said or head.lstrip().startswith((b"#EXTM3U", b"ffconcat")):
        return (
            "not a plain video file (a playlist, a script or another format that talkies does not open): give a video"
        )
    if re.match(rb"\s*(<!doctype html|<html)", head, re.IGNORECASE):
        return "this is a web page, not a video; download the video itself"
    if "moov atom not found" in said:
        return "the video is cut short and its index is missing; copy or download it again"
    return f"not a video that can be read ({said}): {AGAIN}"


def read(file: BinaryIO) -> tuple[dict[str, Any], None]:
    """Return the facts: those of `Clip`, or no picture's; the sound's."""
    allow(SECONDS + SECONDS_A_BYTE * os.fstat(file.fileno()).st_size)
    av.logging.set_level(av.logging.ERROR)  # its last message is the reason if the file can't be opened
    options = {"fd": str(file.fileno()), "protocol_whitelist": "fd", "format_whitelist": DEMUXERS}
    with av.open("fd:", options=options, metadata_errors="surrogateescape") as container:
        av.logging.set_level(None)
        container.flags &= ~GEN_PTS  # times that the file does not tell are not made up
        film = _picture_stream(container)
        if film and (fault := size_fault(film.width, film.height)):
            raise InputError("", fault)
        sounds = sorted(container.streams.audio, key=lambda s: not s.disposition & av.stream.Disposition.default)
        wanted = [s.index for s in [film, *sounds] if s]
        tracks = {s.index: Track(s, s.time_base or Fraction(1), s.index in wanted) for s in container.streams}
        damaged = _read_packets(container, tracks)
        if damaged:
            read_through(file)
        sound, remark = _sound([tracks[s.index] for s in sounds])
        facts = {
            "clip": None
            if film is None
            else _picture(tracks[film.index], damaged) | {"sound": sound, "remark": remark},
            "sound": sound,
            "empty": not container.streams,
        }
    return facts, None


def _picture_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """Return the moving picture: the default one, else the first."""
    still = STILL | av.stream.Disposition.dependent
    moving = [s for s in container.streams.video if not s.disposition & still]
    known = [s for s in moving if s.codec_context is not None]
    if moving and not known:
        raise InputError("", "the format of its picture is not known: convert it to mp4 with another program")
    return next((s for s in known if s.disposition & av.stream.Disposition.default), known[0] if known else None)


def _read_packets(container: av.container.InputContainer, tracks: dict[int, Track]) -> bool:
    """Read all packets of these streams; return whether some are damaged."""
    damaged = False
    for each in tracks.values():
        if each.stream.codec_context is not None:
            each.stream.codec_context.thread_count = 1
    try:
        for packet in container.demux():
            track = tracks.get(packet.stream_index)
            if track is None:
                continue  # a stream that began later
            if track.wanted and track.first is None:
                track.first = _first_frame(packet)
            time = packet.dts if packet.pts is None else packet.pts
            if time is None and not packet.size:
                continue  # no packet: a stream's end
            damaged |= packet.is_corrupt
            if packet.is_discard:
                continue  # before the cut of an edit list: decoded but never shown
            track.timeless += packet.pts is None
            track.times.append(track.next_time if time is None else time)
            track.lengths.append(packet.duration or 0)
            if len(track.times) > MAX_PACKETS:
                raise InputError("", f"over {MAX_PACKETS:,} pictures or parts of sound in it: give a shorter one")
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        damaged = True
    return damaged or _ends_early(container, [track for track in tracks.values() if track.times])


def _ends_early(container: av.container.InputContainer, tracks: list[Track]) -> bool:
    """Return whether the header promises over half a second more than there is."""
    if container.duration is None or not tracks:
        return False
    begin, end = min(track.span()[0] for track in tracks), max(track.span()[1] for track in tracks)
    return Fraction(container.duration, av.time_base) - (end - begin) > Fraction(1, 2)


def _first_frame(packet: av.Packet[Any]) -> Any:
    """Return the first picture or sound that a packet gives, if it can be decoded."""
    try:
        return next(iter(packet.decode()), None)
    except MemoryError:
        raise
    except Exception:  # decoders raise any error on damaged data
        return None


def _picture(track: Track, damaged: bool) -> dict[str, Any]:
    """Return the facts about the moving picture, as in `Clip`."""
    stream, pixels = track.stream, track.stream.format
    parts = pixels.components if pixels else ()
    if not track.times:
        raise InputError("", f"no picture in it can be read: {AGAIN}")
    start, end = track.span()
    rate, variable = find_rate(track.times, track.lengths, track.timebase, stream.average_rate)
    end = end if variable else max(track.times) * track.timebase + 1 / rate  # the last packet's own length may be wrong
    end = max(end, start + 1 / rate)
    step = max(1, -(-rate // MAX_RATE))  # rates above the limit: every second, third … picture
    rate /= step
    frames = max(1, round((end - start) * rate)) if variable else -(-len(track.times) // step)
    if frames > 1000 * len(track.times):
        jump = f"its time stamps jump: {len(track.times)} pictures in {float(end - start):.0f} s"
        raise InputError("", f"{jump}; convert it")
    sar = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, 10) <= sar <= 10:
        sar = Fraction(1)  # no camera makes such pixels: the header is damaged
    rotation = track.first.rotation % 360 if track.first else 0
    width, height = _shown_size(stream.width, stream.height, sar, rotation)
    if fault := size_fault(width, height):
        raise InputError("", fault)
    assumed = stream.colorspace in UNSTATED and len(parts) >= 3 and not pixels.is_rgb
    is_hd = stream.width >= 1280 or stream.height > 576
    has_alpha = any(part.is_alpha for part in parts) or bool(parts and pixels.has_palette)
    return {
        "width": width,
        "height": height,
        "rate": str(rate),
        "frames": frames,
        "duration": str(end - start),
        "start": str(start),
        "variable": variable,
        "codec": _codec(stream),
        "sar": str(sar),
        "truncated": damaged,
        "stream": stream.index,
        "matrix": "bt709" if assumed and is_hd else None,  # as players do; ffmpeg would use bt601
        "hdr": TRANSFERS.get(stream.color_trc),
        "alpha": has_alpha or stream.metadata.get("alpha_mode") == "1",
        "numbered": bool(track.timeless) and not variable and step == 1,
        "pictures": len(track.times),
    }


def _shown_size(width: int, height: int, sar: Fraction, rotation: int) -> tuple[int, int]:
    """Return the size in square pixels: the stretched side grows, so that no pixels are lost."""
    if sar > 1:
        width = round(width * sar)
    else:
        height = round(height / sar)
    return (height, width) if rotation % 180 == 90 else (width, height)


def _sound(tracks: list[Track]) -> tuple[dict[str, Any] | None, str | None]:
    """Return the facts about the first sound that can be decoded, as in `Sound`, and a remark about the others."""
    number = {track.stream.index: n for n, track in enumerate(sorted(tracks, key=lambda t: t.stream.index), 1)}
    for track in tracks:
        if not track.times or track.first is None:
            continue
        remark = None
        if track is not tracks[0]:
            first = tracks[0].stream
            remark = (
                f"its sound track {number[first.index]} ({_codec(first)}) can't be decoded: "
                f"track {number[track.stream.index]} ({_codec(track.stream)}) is used"
            )
        start = track.first.pts * track.first.time_base  # after the silence that encoders put before the sound
        return {
            "stream": track.stream.index,
            "codec": _codec(track.stream),
            "sample_rate": track.stream.rate,
            "channels": track.stream.channels,
            "start": str(start),
            "end": str(max(track.span()[1], start)),
            "packet": str(sorted(track.lengths)[len(track.lengths) // 2] * track.timebase),
        }, remark
    return None, "its sound can't be decoded: the film is silent" if tracks else None


def _codec(stream: Any) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"


# --- the constant rate -------------------------------------------------------------------------------------


def find_rate(
    times: Sequence[int], lengths: Sequence[int], timebase: Fraction, stated: Fraction | None
) -> tuple[Fraction, bool]:
    """Return the constant rate of the pictures and False, or a standard rate near their average and True.

    Pictures are evenly spaced if they are within one tick of the file's clock of an even grid, since containers round
    times (Matroska to 1 ms). If several rates fit a short clip, the stated one comes first. A grid with up to a tenth
    of its pictures missing (dropped frames) is variable, but keeps its rate.
    """
    times = sorted(times)
    span = times[-1] - times[0]
    if stated:  # a header rounds it, to 1 ns in Matroska: the standard rate is meant
        off, nearest = min((abs(rate - stated), rate) for rate in STANDARD_RATES)
        stated = nearest if off <= Fraction(1, 100) else stated
    if len(times) < 2 or span == 0:
        length = lengths[0] * timebase
        rate = stated or (1 / length if length > 0 else DEFAULT_RATE)
        return (rate if Fraction(1, 10) <= rate <= MAX_RATE else DEFAULT_RATE), False
    intervals = len(times) - 1
    average = intervals / (span * timebase)

    def is_on_grid(rate: Fraction, slots: Iterable[int]) -> bool:
        step, parts = (1 / (rate * timebase)).as_integer_ratio()  # ticks, times `parts`: whole numbers are quick
        return all(abs((time - times[0]) * parts - i * step) <= parts for time, i in zip(times, slots, strict=False))

    def fits(rate: Fraction) -> bool:
        return is_on_grid(rate, itertools.count())

    def fits_with_gaps(rate: Fraction) -> bool:
        ticks = 1 / (rate * timebase)
        slots = [round((time - times[0]) / ticks) for time in times]
        distinct = all(before < after for before, after in itertools.pairwise(slots))
        if ticks == 1:  # the clock counts pictures (AVI), so every gap is a picture that was dropped
            return rate == stated and distinct
        return ticks >= 8 and distinct and slots[-1] * 9 <= intervals * 10 and is_on_grid(rate, slots)

    lowest, highest = intervals / ((span + 1) * timebase), intervals / (max(span - 1, 1) * timebase)
    even = average if span % intervals == 0 else None
    near = sorted(STANDARD_RATES, key=lambda rate: max(rate / average, average / rate))
    for candidate in [stated, even, *near]:
        if candidate and lowest <= candidate <= highest and fits(candidate):
            return candidate, False
    for candidate in [stated, *near]:
        if candidate and fits_with_gaps(candidate):
            return candidate, True
    return near[0], True
