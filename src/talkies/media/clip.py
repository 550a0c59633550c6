"""Facts about a film or sound file: streams, rate, sound and tags, read without decoding.

The streams come from ffmpeg's description of the file; `-c copy -f framecrc` lists every packet with its exact time
stamps.
"""

from __future__ import annotations

import itertools
import logging
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import InputError, printable
from ..files import fits, open_input, open_regular, read_through
from .ffmpeg import AGAIN, SECONDS, Ffmpeg, complaint, file_url, input_arguments, seconds_for
from .limits import CRASHES
from .pictures import MAX_PIXELS, size_fault

log = logging.getLogger("talkies")


MAX_RATE = 60  # frames a second
STANDARD_RATES = tuple(
    sorted(
        {Fraction(n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60)}
        | {Fraction(n * 1000, 1001) for n in (12, 15, 24, 30, 48, 60)}
    )
)
DEFAULT_RATE = Fraction(25)  # of a clip of one frame that states none
MAX_PACKETS = 5_000_000  # of a stream: 23 hours at 60 a second
_ALPHA = re.compile(r"^(rgba|bgra|argb|abgr|yuva|gbrap|ya8|ya16|pal8|rgbaf|ayuv|vuya)")
_TRUNCATED = re.compile(r"partial file|File ended prematurely|[Pp]acket corrupt|corrupt input packet")
_SIZE = re.compile(r"(?<!\w)([1-9]\d{0,5})x([1-9]\d{0,5})(?!\w)")  # not the codec's tag, (avc1 / 0x31637661)
_NO_PTS = -(1 << 63)


@dataclass(frozen=True)
class Sound:
    """An audio stream of a clip. Times are seconds of the file's own clock."""

    stream: int  # index in the file
    codec: str
    sample_rate: int
    channels: str  # ffmpeg's name of the layout: mono, stereo, 5.1 …
    start: Fraction  # when the first sample is heard (after the encoder's priming)
    end: Fraction  # when the last packet ends
    packet: Fraction  # a packet's length (the median), seconds: how finely it can be cut without decoding


@dataclass(frozen=True)
class Clip:
    """The facts about a driving video."""

    path: Path
    width: int  # as shown: after SAR and rotation, in square pixels
    height: int
    rate: Fraction  # the constant rate, frames a second, at which talkies reads it
    frames: int  # frames that read_frames gives: exact for constant rates (counted packets), else an estimate
    duration: Fraction  # seconds of video
    start: Fraction  # time stamp of the first picture in the file's own clock, seconds
    variable: bool  # the pictures are not evenly spaced in the file
    codec: str
    pixel_format: str
    rotation: int  # degrees counter-clockwise that the file asks for; ffmpeg applies it
    sar: Fraction  # shape of a stored pixel, width / height
    sound: Sound | None  # the default audio stream, else the first
    truncated: bool  # the file is cut short or damaged
    stream: int = 0  # index of the picture stream in the file
    matrix: str | None = None  # YCbCr matrix to assume where the file states none
    alpha: bool = False  # some of it may be transparent
    numbered: bool = False  # the file has no presentation times (AVI): pictures are counted instead
    pictures: int = 1  # in the file: what decoding has to do
    copy: Path | None = None  # where it is read instead: a copy on a faster disk

    @property
    def file(self) -> Path:
        """The file to read; `path` is what messages name."""
        return self.copy or self.path

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values, without the file's name."""
        found = _plain(vars(self))
        return {name: value for name, value in found.items() if name not in ("path", "copy")}

    @classmethod
    def from_dict(cls, path: Path, found: Mapping[str, Any]) -> Clip:
        """Return a clip from the values of `to_dict`; ValueError, TypeError or ZeroDivisionError if they are
        damaged."""
        sound = None if found.get("sound") is None else Sound(**_typed(Sound, found["sound"]))
        return cls(path=path, **{**_typed(cls, found), "sound": sound})


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(vars(value)) if isinstance(value, Sound) else str(value) if isinstance(value, Fraction) else value
        for name, value in found.items()
    }


SHAPES = {"int": int, "bool": bool, "str": str, "Fraction": str, "str | None": (str, None)}
"""How JSON holds a field's type."""


def _typed(kind: type, found: Mapping[str, Any]) -> dict[str, Any]:
    types = {each.name: str(each.type) for each in fields(kind)}
    if not fits(found, {name: SHAPES[each] for name, each in types.items() if each in SHAPES}):
        raise ValueError("not the facts of a clip")
    return {name: Fraction(value) if types.get(name) == "Fraction" else value for name, value in found.items()}


@dataclass(frozen=True)
class SoundFile:
    """A file whose sound a film gets, from its beginning: music, a voice, or another video."""

    path: Path
    sound: Sound

    @property
    def file(self) -> Path:
        """The file to read."""
        return self.path

    @property
    def start(self) -> Fraction:
        """Time of the first sample in the file's own clock, seconds."""
        return self.sound.start


@dataclass(frozen=True)
class Stream:
    """One stream of a file as ffmpeg prints it."""

    index: int
    kind: str  # "video", "audio", "subtitle", "data", "attachment"
    codec: str
    text: str  # the rest of the line
    default: bool
    cover: bool  # a cover picture of music, not a video
    details: str  # metadata and side data


@dataclass
class Packets:
    """Every packet of one stream: times in ticks of `timebase` seconds, in file order."""

    facts: dict[str, str] = field(default_factory=dict)  # "tb", "media_type", "codec_id", "dimensions" …
    times: array[int] = field(default_factory=lambda: array("q"))  # presentation
    lengths: array[int] = field(default_factory=lambda: array("q"))
    timeless: int = 0  # packets without presentation time; `times` has their decoding times

    @property
    def timebase(self) -> Fraction:
        """The length of a tick, seconds."""
        return Fraction(self.facts["tb"])

    def span(self) -> tuple[Fraction, Fraction]:
        """Return the start of the first and the end of the last packet, in seconds."""
        last = max(t + n for t, n in zip(self.times, self.lengths, strict=True))
        return min(self.times) * self.timebase, last * self.timebase


_STREAM = re.compile(
    r"^  Stream #0:(?P<index>\d+)(?:\[0x[0-9a-f]+\])?(?:\([^)]*\))?: "
    r"(?P<kind>Video|Audio|Subtitle|Data|Attachment): (?P<codec>\w+)(?P<text>.*)$"
)


def streams(path: str | Path, *, timeout: float | None = 60) -> list[Stream]:
    """Return the streams of a media file.

    Raises InputError for anything that is not a film or sound in one plain file.
    """
    path = Path(path)
    open_input(path).close()
    arguments = input_arguments(path, "-max_pixels", str(MAX_PIXELS))
    with Ffmpeg(arguments, timeout=timeout, seconds=seconds_for(path)) as process:
        process.stdout.read()
        code = process.finish()  # exit code 1 is expected: "At least one output file must be specified"
    # The first line has the file's name, which may itself contain lines that look like a stream's.
    _, found, listing = process.stderr.partition(f"from '{file_url(path)}':\n")
    if not found or -code in CRASHES:
        read_through(path)
        raise InputError(path, process.fault or why_not_a_film(path, process.stderr))
    return _parse_streams(listing)


def _parse_streams(listing: str) -> list[Stream]:
    blocks: list[tuple[re.Match[str], list[str]]] = []
    for line in listing.split("\n"):
        if match := _STREAM.match(line):
            blocks.append((match, []))
        elif blocks and line.startswith("    "):
            blocks[-1][1].append(line)
        elif line.startswith(("Stream mapping", "Output #", "At least one")):
            break
    return [
        Stream(
            index=int(m["index"]),
            kind=m["kind"].lower(),
            codec=m["codec"],
            text=m["text"],
            default="(default)" in m["text"],
            cover="(attached pic)" in m["text"] or "(still image)" in m["text"],
            details="\n".join(details),
        )
        for m, details in blocks
    ]


def why_not_a_film(path: Path, stderr: str) -> str:
    """Return why ffmpeg can't open a file as a film, and what to do."""
    with open_regular(path) as file:
        head = file.read(512)
    if "not on whitelist" in stderr or "not in allowed" in stderr or head.lstrip().startswith(b"#EXTM3U"):
        return (
            "not a plain video file (a playlist, a script or another format that talkies does not open): give a video"
        )
    if re.match(rb"\s*(<!doctype html|<html)", head, re.IGNORECASE):
        return "this is a web page, not a video; download the video itself"
    if "moov atom not found" in stderr:
        return "the video is cut short and its index is missing; copy or download it again"
    return f"not a video that can be read ({complaint(stderr)}): {AGAIN}"


def list_packets(path: Path, streams: Sequence[str], *, timeout: float | None = None) -> tuple[list[Packets], Ffmpeg]:
    """List the packets of some streams ("0", "v", "a?" …) without decoding.

    Return them, and the finished run of ffmpeg. InputError for more than MAX_PACKETS.
    """
    chosen = [a for stream in streams for a in ("-map", f"0:{stream}")]
    arguments = [
        *["-copyts", *input_arguments(path), *chosen],
        # copyinkf: packets before the first key frame count too, since the decoder may show them
        *["-c", "copy", "-copyinkf", "-f", "framecrc", "pipe:1"],
    ]
    found: dict[int, Packets] = {}
    with Ffmpeg(arguments, timeout=timeout, seconds=seconds_for(path)) as process:
        for line in process.stdout:
            if line.startswith(b"#"):  # "#tb 0: 1/30000"
                head, _, value = line[1:].decode().strip().partition(": ")
                name, _, number = head.rpartition(" ")
                if number.isdigit():
                    found.setdefault(int(number), Packets()).facts[name] = value
                continue
            columns = line.split(b",")
            flags = next((int(c.strip()[2:], 16) for c in columns[6:] if c.strip().startswith(b"F=0x")), 1)
            if flags & 4:  # "discard": before the cut of an edit list, decoded but never shown
                continue
            stream = found[int(columns[0])]
            decoding, shown, length = (int(c) for c in columns[1:4])
            stream.timeless += shown == _NO_PTS
            stream.times.append(decoding if shown == _NO_PTS else shown)
            stream.lengths.append(length)
            if len(stream.times) > MAX_PACKETS:
                raise InputError(path, f"over {MAX_PACKETS:,} pictures or parts of sound in it: give a shorter one")
        process.finish()
    return [found[number] for number in sorted(found)], process


def probe(path: str | Path, *, timeout: float | None = 600) -> Clip:
    """Return the facts about a clip without decoding it; every packet's time stamp is read.

    The rate of evenly spaced pictures is exact (30000/1001); above 60 it is divided by the smallest whole number that
    gives 60 or less. Variable rates become the standard rate nearest to their average, by ratio.

    Raises InputError if it is not a readable video, TalkiesError after `timeout` seconds.
    """
    path = Path(path)
    listing = streams(path, timeout=timeout)
    pictures = [s for s in listing if s.kind == "video" and not s.cover]
    if not pictures:
        nothing = "there is no moving picture in it (sound only?)" if listing else "nothing in it"
        raise InputError(path, f"{nothing}: give a video")
    picture = next((s for s in pictures if s.default), pictures[0])
    sounds = [s for s in listing if s.kind == "audio"]
    sound = next((s for s in sounds if s.default), sounds[0] if sounds else None)

    chosen = [str(s.index) for s in (picture, sound) if s]
    packets, ended = list_packets(path, chosen, timeout=timeout)
    truncated = bool(_TRUNCATED.search(ended.stderr) or ended.fault)
    if truncated or not packets or not packets[0].times:
        read_through(path)
    if not packets or not packets[0].times:
        raise InputError(path, ended.fault or f"no picture in it can be read ({complaint(ended.stderr)}): {AGAIN}")
    shown = packets[0]
    start, end = shown.span()
    rate, variable = _find_rate(shown, _stated_rate(picture.text))
    end = end if variable else max(shown.times) * shown.timebase + 1 / rate  # the last packet's own length may be wrong
    end = max(end, start + 1 / rate)
    step = max(1, -(-rate // MAX_RATE))  # rates above the limit: every second, third … picture
    rate /= step
    frames = max(1, round((end - start) * rate)) if variable else -(-len(shown.times) // step)
    if frames > 1000 * len(shown.times):
        raise InputError(
            path, f"its time stamps jump: {len(shown.times)} pictures in {float(end - start):.0f} s; convert it"
        )

    stored = _SIZE.search(picture.text)
    if stored is None:
        raise InputError(path, f"the size of its picture is not known: {AGAIN}")
    shape = re.search(r"SAR (\d+):(\d+)", picture.text)
    sar = Fraction(int(shape[1]), int(shape[2])) if shape and int(shape[1]) and int(shape[2]) else Fraction(1)
    if not Fraction(1, 10) <= sar <= 10:
        sar = Fraction(1)  # no camera makes such pixels: the header is damaged
    turn = re.search(r"rotation of (-?[\d.]+) degrees", picture.details)
    rotation = round(float(turn[1])) % 360 if turn else 0
    width, height = _shown_size(int(stored[1]), int(stored[2]), sar, rotation)
    if fault := size_fault(width, height):
        raise InputError(path, fault)
    colours = re.match(r"[^,]*(?:\([^)]*\))*[^,]*, (?P<format>\w+)(?:\((?P<notes>[^)]*)\))?", picture.text)
    pixel_format, notes = (colours["format"], colours["notes"] or "") if colours else ("unknown", "")
    return Clip(
        path=path,
        width=width,
        height=height,
        rate=rate,
        frames=frames,
        duration=end - start,
        start=start,
        variable=variable,
        codec=picture.codec,
        pixel_format=pixel_format,
        rotation=rotation,
        sar=sar,
        sound=_find_sound(path, sound, packets[1:], timeout) if sound else None,
        truncated=truncated,
        stream=picture.index,
        alpha=bool(_ALPHA.match(pixel_format) or re.search(r"(?i)alpha_mode\s*: 1", picture.details)),
        numbered=bool(shown.timeless) and not variable and step == 1,
        matrix=_assumed_matrix(pixel_format, notes, int(stored[1]), int(stored[2])),
        pictures=len(shown.times),
    )


def probe_sound(path: str | Path, *, timeout: float | None = 600) -> SoundFile:
    """Return the sound of a file; InputError if it has none that can be read."""
    path = Path(path)
    sounds = [s for s in streams(path, timeout=timeout) if s.kind == "audio"]
    chosen = next((s for s in sounds if s.default), sounds[0] if sounds else None)
    packets = list_packets(path, [str(chosen.index)], timeout=timeout)[0] if chosen else []
    sound = _find_sound(path, chosen, packets, timeout) if chosen else None
    if sound is None:
        raise InputError(path, "there is no sound in it that can be read: name another file, or audio: false")
    return SoundFile(path, sound)


def _shown_size(width: int, height: int, sar: Fraction, rotation: int) -> tuple[int, int]:
    """Return the size in square pixels: the stretched side grows, so that no pixels are lost."""
    if sar > 1:
        width = round(width * sar)
    else:
        height = round(height / sar)
    return (height, width) if rotation % 180 == 90 else (width, height)


def _assumed_matrix(pixel_format: str, notes: str, width: int, height: int) -> str | None:
    """Return "bt709" for YCbCr of HD size without a stated matrix, as players do; ffmpeg would use bt601."""
    if not pixel_format.startswith(("yuv", "nv", "p0")) or re.search(r"bt|smpte|ycgco|fcc|gbr", notes):
        return None
    return "bt709" if width >= 1280 or height > 576 else None


def _stated_rate(text: str) -> Fraction | None:
    """Return the rate that the file states; of ffmpeg's two decimals, the standard rate is meant."""
    match = re.search(r"([\d.]+)(k?) fps", text)
    if match is None:
        return None
    printed = Fraction(match[1]) * (1000 if match[2] else 1)
    if not printed:
        return None
    nearest = min(STANDARD_RATES, key=lambda rate: abs(rate - printed))
    return nearest if abs(nearest - printed) <= Fraction(1, 100) else printed


def _find_rate(packets: Packets, stated: Fraction | None) -> tuple[Fraction, bool]:
    """Return the constant rate of the pictures and False, or a standard rate near their average and True.

    Pictures are evenly spaced if they are within one tick of the file's clock of an even grid, since containers round
    times (Matroska to 1 ms). If several rates fit a short clip, the stated one comes first. A grid with up to a tenth
    of its pictures missing (dropped frames) is variable, but keeps its rate.
    """
    times = sorted(packets.times)
    span = times[-1] - times[0]
    if len(times) < 2 or span == 0:
        length = packets.lengths[0] * packets.timebase if packets.lengths else Fraction(0)
        rate = stated or (1 / length if length > 0 else DEFAULT_RATE)
        return (rate if Fraction(1, 10) <= rate <= MAX_RATE else DEFAULT_RATE), False
    intervals = len(times) - 1
    average = intervals / (span * packets.timebase)

    def fits(rate: Fraction) -> bool:
        ticks = 1 / (rate * packets.timebase)
        return all(abs(time - times[0] - i * ticks) <= 1 for i, time in enumerate(times))

    def fits_with_gaps(rate: Fraction) -> bool:
        ticks = 1 / (rate * packets.timebase)
        slots = [round((time - times[0]) / ticks) for time in times]
        on_grid = all(abs(time - times[0] - slot * ticks) <= 1 for time, slot in zip(times, slots, strict=True))
        distinct = all(before < after for before, after in itertools.pairwise(slots))
        return ticks >= 8 and on_grid and distinct and slots[-1] * 9 <= intervals * 10

    lowest, highest = intervals / ((span + 1) * packets.timebase), intervals / (max(span - 1, 1) * packets.timebase)
    even = average if span % intervals == 0 else None
    near = sorted(STANDARD_RATES, key=lambda rate: max(rate / average, average / rate))
    for candidate in [stated, even, *near, _simplest_between(lowest, highest)]:
        if candidate and lowest <= candidate <= highest and fits(candidate):
            return candidate, False
    for candidate in [stated, *near]:
        if candidate and fits_with_gaps(candidate):
            return candidate, True
    return near[0], True


def _simplest_between(low: Fraction, high: Fraction) -> Fraction:
    """Return the fraction of the smallest denominator in [low, high], 0 < low <= high."""
    whole = -(-low // 1)  # the next whole number
    if whole <= high:
        return Fraction(whole)
    below = low // 1
    return below + 1 / _simplest_between(1 / (high - below), 1 / (low - below))


def _find_sound(path: Path, stream: Stream, listed: list[Packets], timeout: float | None) -> Sound | None:
    if not listed or not listed[0].times:
        log.warning("%s: its sound track is empty or cannot be read; going on without sound", printable(path))
        return None
    packets = listed[0]
    start, end = packets.span()
    # The first sample's time is known only after decoding a packet: encoders put silence before it.
    arguments = [
        *["-copyts", *input_arguments(path), "-map", f"0:{stream.index}", "-frames:a", "1"],
        *["-c:a", "pcm_s16le", "-f", "framecrc", "pipe:1"],
    ]
    with Ffmpeg(arguments, timeout=timeout, level="error", seconds=SECONDS) as process:
        decoded = process.stdout.read().decode()
        process.finish()
    timebase = re.search(r"^#tb 0: (\S+)", decoded, re.MULTILINE)
    first = re.search(r"^0, *-?\d+, *(-?\d+),", decoded, re.MULTILINE)
    if timebase is None or first is None:
        log.warning("%s: its sound cannot be decoded; going on without sound", printable(path))
        return None
    start = int(first[1]) * Fraction(timebase[1])
    return Sound(
        stream=stream.index,
        codec=packets.facts.get("codec_id", stream.codec),
        sample_rate=int(packets.facts.get("sample_rate", 0)),
        channels=packets.facts.get("channel_layout_name", "unknown"),
        start=start,
        end=max(end, start),
        packet=sorted(packets.lengths)[len(packets.lengths) // 2] * packets.timebase,
    )


def tags(path: str | Path) -> dict[str, str]:
    """Return a media file's own tags, names in lower case ("comment", "title", …)."""
    path = Path(path)
    open_input(path).close()
    arguments = [*input_arguments(path), "-map", "0", "-c", "copy", "-f", "ffmetadata", "pipe:1"]
    with Ffmpeg(arguments, level="error", seconds=seconds_for(path)) as process:
        text = process.stdout.read().decode("utf-8", "surrogateescape")
        if process.finish():
            raise InputError(path, process.fault or why_not_a_film(path, process.stderr))
    found: dict[str, str] = {}
    general = re.split(r"(?<!\\)\n\[", text, maxsplit=1)[0]
    for line in re.split(r"(?<!\\)\n", general):
        if line.startswith(";") or not (match := re.match(r"((?:\\.|[^=\\])+)=(.*)", line, re.DOTALL)):
            continue
        name, value = (re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in match.groups())
        found[name.lower()] = value
    return found
