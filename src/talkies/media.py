"""All media: probe, read and write films through ffmpeg, put sound under pictures, read pictures.

The only tool is the ffmpeg that imageio-ffmpeg brings (there is no ffprobe beside it). What it prints of
a file gives the streams; `-c copy -f framecrc` lists every packet with its exact time stamps, without decoding.

Files may come from strangers: ffmpeg opens plain files only (no network, no playlists that name other
files), by absolute names behind `file:`, so that no name is taken for an option, a pattern or a protocol.
"""

from __future__ import annotations

import errno
import itertools
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from array import array
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from .cores import available_threads
from .errors import InputError, TalkiesError, printable
from .files import file_digest as file_digest
from .files import open_input, open_regular, read_through
from .limits import CRASHES, MEMORY, could_have_memory, limit_memory, limit_time, processor_seconds
from .pictures import MAX_PIXELS, size_fault
from .pictures import read_picture as read_picture

if TYPE_CHECKING:  # numpy and pillow cost more to import than the rest of this file together
    import numpy as np
    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]  # [height, width, 3], RGB

log = logging.getLogger("talkies")

PICTURE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .heic .heif .avif .ppm .pgm .pbm .pnm .jp2".split()  # noqa: SIM905
)
CLIP_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .gif .apng .mpg .mpeg .vob .ts .m2ts .mts .flv .wmv .asf .ogv".split()  # noqa: SIM905
)
# Of ffmpeg's demuxers those that hold everything in one file (HLS, DASH, concat, image2 … open others).
DEMUXERS = "mov,matroska,webm,avi,gif,apng,mpeg,mpegts,flv,asf,ogg,wav,mp3,flac,aac,aiff"

FILM_SIZE = 256  # pixels: the side of prepared pictures, of the driving clips' previews and of every film
MAX_RATE = 60  # frames a second
STANDARD_RATES = tuple(
    sorted(
        {Fraction(n) for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60)}
        | {Fraction(n * 1000, 1001) for n in (12, 15, 24, 30, 48, 60)}
    )
)
MOSAIC_FILMS = 100  # in one mosaic: each has a decoder of its own
MOSAIC_SIDE = 2160  # pixels, the most a mosaic's sides have: what players decode
DEFAULT_RATE = Fraction(25)  # of a clip of one frame that states none

# Sound that mp4 takes as it is; everything else becomes AAC.
COPIED_SOUND = frozenset("aac mp3 ac3 eac3 vorbis opus flac pcm_s16le pcm_s16be".split())  # noqa: SIM905
AAC = ["-c:a", "aac", "-b:a", "192k"]

# swscale's flags. Without scaling its plain conversion is what every other reader of the file sees, and nearer to the
# true colours (1 level off on flat patches) than the accurate path (2-3 levels); scaling needs the accurate one.
PLAIN = "bicubic"
SCALING = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
STDERR_BYTES = 1 << 18
AGAIN = "copy or download it again, or convert it to mp4"
# Of reading a file ffmpeg may cost so much processor time, in seconds, and for each of its bytes, and of decoding it
# so much for each picture and each of its pixels: ten times what a slow machine takes, and some files never end.
SECONDS = 60
SECONDS_A_BYTE = 1 / 20e6
SECONDS_A_PICTURE = 0.05
SECONDS_A_PIXEL = 0.25e-6
THREADS = 4  # of a decoder: each keeps pictures of its own, which fill the memory it may have
SPARE_FRAMES = 2  # that decoding may give beyond those that were counted
MAX_PACKETS = 5_000_000  # of a stream: 23 hours at 60 a second

_ALPHA = re.compile(r"^(rgba|bgra|argb|abgr|yuva|gbrap|ya8|ya16|pal8|rgbaf|ayuv|vuya)")
_TRUNCATED = re.compile(r"partial file|File ended prematurely|[Pp]acket corrupt|corrupt input packet")
_SIZE = re.compile(r"(?<!\w)([1-9]\d{0,5})x([1-9]\d{0,5})(?!\w)")  # not the codec's tag, (avc1 / 0x31637661)
_NO_PTS = -(1 << 63)


# --- ffmpeg itself ---------------------------------------------------------------------------------------


@cache
def ffmpeg_path() -> str:
    """Return the path of imageio-ffmpeg's binary (`IMAGEIO_FFMPEG_EXE` names another)."""
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:
        raise TalkiesError(f"no ffmpeg: {error}; reinstall imageio-ffmpeg") from None


@cache
def ffmpeg_version() -> str:
    """Return ffmpeg's version as it states it, e.g. `n9.0.2-17-g2a571b6068`."""
    with _Ffmpeg(["-version"], bare=True) as process:
        words = process.stdout.read().decode(errors="replace").split()
        process.finish()
    return words[2] if words[:2] == ["ffmpeg", "version"] else "unknown"


def __getattr__(name: str) -> str:
    if name == "FFMPEG_VERSION":  # asked of the binary on first use, since that takes 0.1 s
        return ffmpeg_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _url(path: str | Path) -> str:
    return "file:" + os.path.abspath(path)  # noqa: PTH100 (Path.absolute keeps "..")


def _input(path: str | Path, *options: str) -> list[str]:
    """Return the arguments that open a file, and nothing but that file."""
    guard = ["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS]
    return [*guard, *options, "-i", _url(path)]


class _Ffmpeg:
    """One run of ffmpeg: started on entering, on leaving ended and reaped whatever happened between.

    Its stderr is drained by a thread into a bounded memory (the head and the tail), so that a file with a million
    faults can neither block the run nor fill the memory. seconds: of processor time that it may use, and with it
    limited memory: so whoever reads what strangers made. What then stops it is the file's fault, and `fault` says it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: bool = False,
        timeout: float | None = None,
        level: str = "info",
        bare: bool = False,
        seconds: float | None = None,
    ) -> None:
        common = ["-hide_banner", "-nostats", "-nostdin", "-loglevel", level]
        self._command = [ffmpeg_path(), *([] if bare else common), *arguments]
        self._with_stdin = stdin
        self._timeout = timeout
        self._seconds = seconds
        self._head = bytearray()
        self._tail: deque[bytes] = deque(maxlen=200)
        self.timed_out = False
        self.code = 0
        self.fault: str | None = None

    def __enter__(self) -> _Ffmpeg:
        environment = {k: v for k, v in os.environ.items() if k not in ("FFREPORT", "AV_LOG_FORCE_COLOR")}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE if self._with_stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=1 << 16,
            env=environment,
            # Ctrl-C in a terminal reaches us alone: ffmpeg would end its file early, as if all were well.
            start_new_session=True,
        )
        if self._seconds is not None:
            limit_memory(self._process.pid)
            limit_time(self._process.pid, self._seconds)
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()
        self._timer = None
        if self._timeout is not None:
            self._timer = threading.Timer(self._timeout, self._expire)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._process.kill()  # nothing happens if it has ended
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # unwritten bytes for a process that is gone
        self._process.wait()
        self._drain.join()

    def _expire(self) -> None:
        self.timed_out = True
        self._process.kill()

    def _read_stderr(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            while line := pipe.readline(1 << 12):
                if len(self._head) < STDERR_BYTES:
                    self._head += line
                else:
                    self._tail.append(line)

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stderr(self) -> str:
        """What it said; complete after `finish`."""
        return (bytes(self._head) + b"".join(self._tail)).decode("utf-8", "surrogateescape")

    def finish(self) -> int:
        """Wait for the end and return the exit code (negative: the signal by which it crashed).

        Raises TalkiesError or OSError when the machine, not the file, is at fault; `fault` tells what the file did.
        """
        with suppress(ChildProcessError):  # another thread has killed it and waited for it
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        used = processor_seconds(self._process.pid)
        code = self.code = self._process.wait()
        self._drain.join()
        if self.timed_out:
            raise TalkiesError(f"{self._subject()}: ffmpeg did not finish within {self._timeout:g} s: try again")
        if -code in CRASHES:
            self.fault = "ffmpeg crashes on it: convert it to mp4 with another program"
        elif self._seconds is not None and code == -signal.SIGKILL and used > self._seconds - 1:
            self.fault = f"reading it takes over {self._seconds:.0f} s of processor time: convert it to mp4"
        # 255 is what it returns when it was asked to stop and ended its file early, as if all were well. It is also
        # what is left of -1, by which some readers say that the file is damaged.
        elif code < 0 or (code == 255 and not _says(self.stderr, errno.EPERM)):
            raise TalkiesError(f"{self._subject()}: ffmpeg was stopped (exit code {code}): try again")
        elif code and _says(self.stderr, errno.ENOMEM) and self._seconds is not None and could_have_memory():
            self.fault = f"reading it takes over {MEMORY / 1e9:g} GB of memory: convert it to a smaller mp4"
        elif code:
            _raise_if_transient(self.stderr, self._subject())
        return code

    def _subject(self) -> str:
        names = [a[5:] for a in self._command if a.startswith("file:")]
        return ", ".join(printable(n) for n in names)


# What ffmpeg says when the machine fails it. (Not EIO: damaged files give that too; see _read_through.)
TRANSIENT = [
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EAGAIN),
]


def _raise_if_transient(stderr: str, subject: str) -> None:
    """Raise OSError if ffmpeg failed for want of memory, disk or file handles: another run may succeed."""
    for number in TRANSIENT:
        if _says(stderr, number):
            raise OSError(number, f"ffmpeg: {os.strerror(number)}", subject)


def _says(stderr: str, number: int) -> bool:
    """Tell whether ffmpeg failed by this error of the system's. What it quotes of a file is indented."""
    return re.search(rf"(?m)^\S.*: {os.strerror(number)}$", stderr) is not None


def _complaint(stderr: str) -> str:
    """Return the line of ffmpeg's stderr that says most, without its address and our file's name."""
    lines = [re.sub(r"^(\[[^\]]*\] )+", "", line).strip() for line in stderr.splitlines()]
    telling = [
        line
        for line in lines
        if line
        and not line.startswith(("Error opening input", "Error while", "Conversion failed", "Last message"))
        and re.search(r"(?i)not |no |error|invalid|fail|corrupt|unknown|missing|unsupported|end of file", line)
    ]
    return printable((telling or lines or ["no reason given"])[0][:200])


# --- probing ---------------------------------------------------------------------------------------------


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
    """What probing found in a driving video."""

    path: Path
    width: int  # as shown: after SAR and rotation, in square pixels
    height: int
    rate: Fraction  # the constant rate, frames a second, at which talkies reads it
    frames: int  # frames that read_frames gives: exact for constant rates (counted packets), else an estimate
    duration: Fraction  # seconds of picture
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


@dataclass(frozen=True)
class SoundFile:
    """A file whose sound is put under a film, from its beginning: music, a voice, or another video."""

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
    cover: bool  # a still picture that belongs to the music, no film
    details: str  # metadata and side data


@dataclass
class _Packets:
    """Every packet of one stream: times in ticks of `timebase` seconds, in file order."""

    facts: dict[str, str] = field(default_factory=dict)  # "tb", "media_type", "codec_id", "dimensions" …
    times: array[int] = field(default_factory=lambda: array("q"))  # presentation
    lengths: array[int] = field(default_factory=lambda: array("q"))
    timeless: int = 0  # packets without presentation time; their decoding time stands in `times`

    @property
    def timebase(self) -> Fraction:
        return Fraction(self.facts["tb"])

    def span(self) -> tuple[Fraction, Fraction]:
        """Return start of the first and end of the last, seconds."""
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
    arguments = _input(path, "-max_pixels", str(MAX_PIXELS))
    with _Ffmpeg(arguments, timeout=timeout, seconds=_seconds_for(path)) as process:
        process.stdout.read()
        code = process.finish()  # 1 when all is well: "At least one output file must be specified"
    # The file's name stands in the first line and may itself hold lines that look like a stream's.
    _, found, listing = process.stderr.partition(f"from '{_url(path)}':\n")
    if not found or -code in CRASHES:
        read_through(path)
        raise InputError(path, process.fault or _why_not_a_film(path, process.stderr))
    return _parse_streams(listing)


def _seconds_for(path: Path) -> float:
    """Return the processor time that looking at all of a file may take, in seconds."""
    return SECONDS + SECONDS_A_BYTE * path.stat().st_size


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


def _why_not_a_film(path: Path, stderr: str) -> str:
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
    return f"not a video that can be read ({_complaint(stderr)}): {AGAIN}"


def _packets(path: Path, streams: Sequence[str], *, timeout: float | None = None) -> tuple[list[_Packets], _Ffmpeg]:
    """List the packets of some streams ("0", "v", "a?" …) without decoding.

    Return them, and ffmpeg's run, which has ended. InputError for more than MAX_PACKETS.
    """
    chosen = [a for stream in streams for a in ("-map", f"0:{stream}")]
    arguments = [
        *["-copyts", *_input(path), *chosen],
        # copyinkf: packets before the first key frame count too, the decoder may well show them
        *["-c", "copy", "-copyinkf", "-f", "framecrc", "pipe:1"],
    ]
    found: dict[int, _Packets] = {}
    with _Ffmpeg(arguments, timeout=timeout, seconds=_seconds_for(path)) as process:
        for line in process.stdout:
            if line.startswith(b"#"):  # "#tb 0: 1/30000"
                head, _, value = line[1:].decode().strip().partition(": ")
                name, _, number = head.rpartition(" ")
                if number.isdigit():
                    found.setdefault(int(number), _Packets()).facts[name] = value
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
    """Return what is known of a clip without decoding its pictures; every packet's time stamp is looked at.

    The rate of evenly spaced pictures is exact (30000/1001); above 60 it is divided by the smallest whole number that
    brings it to 60 or less. Variable ones get the standard rate nearest to their average, by ratio.

    Raises InputError for what is not a readable video, TalkiesError when `timeout` seconds did not suffice.
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
    packets, ended = _packets(path, chosen, timeout=timeout)
    truncated = bool(_TRUNCATED.search(ended.stderr) or ended.fault)
    if truncated or not packets or not packets[0].times:
        read_through(path)
    if not packets or not packets[0].times:
        raise InputError(path, ended.fault or f"no picture in it can be read ({_complaint(ended.stderr)}): {AGAIN}")
    shown = packets[0]
    start, end = shown.span()
    rate, variable = _find_rate(shown, _stated_rate(picture.text))
    end = end if variable else max(shown.times) * shown.timebase + 1 / rate  # the last one's own length may be anything
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
        sar = Fraction(1)  # no camera makes such pixels: a damaged header
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
    """Return the sound of any file that has one; InputError for one that has none that can be read."""
    path = Path(path)
    sounds = [s for s in streams(path, timeout=timeout) if s.kind == "audio"]
    chosen = next((s for s in sounds if s.default), sounds[0] if sounds else None)
    packets = _packets(path, [str(chosen.index)], timeout=timeout)[0] if chosen else []
    sound = _find_sound(path, chosen, packets, timeout) if chosen else None
    if sound is None:
        raise InputError(path, "there is no sound in it that can be read: name another file, or audio: false")
    return SoundFile(path, sound)


def _shown_size(width: int, height: int, sar: Fraction, rotation: int) -> tuple[int, int]:
    """Return the size in square pixels: the side that pixels stretch grows, so that none is lost."""
    if sar > 1:
        width = round(width * sar)
    else:
        height = round(height / sar)
    return (height, width) if rotation % 180 == 90 else (width, height)


def _assumed_matrix(pixel_format: str, notes: str, width: int, height: int) -> str | None:
    """Return "bt709" for YCbCr of HD size without a stated matrix, as players do; ffmpeg would take bt601."""
    if not pixel_format.startswith(("yuv", "nv", "p0")) or re.search(r"bt|smpte|ycgco|fcc|gbr", notes):
        return None
    return "bt709" if width >= 1280 or height > 576 else None


def _stated_rate(text: str) -> Fraction | None:
    """Return the rate that the file states; ffmpeg prints two decimals, the standard rate behind them is meant."""
    match = re.search(r"([\d.]+)(k?) fps", text)
    if match is None:
        return None
    printed = Fraction(match[1]) * (1000 if match[2] else 1)
    if not printed:
        return None
    nearest = min(STANDARD_RATES, key=lambda rate: abs(rate - printed))
    return nearest if abs(nearest - printed) <= Fraction(1, 100) else printed


def _find_rate(packets: _Packets, stated: Fraction | None) -> tuple[Fraction, bool]:
    """Return the constant rate of the pictures and False, or a standard rate near their average and True.

    Evenly spaced is what lies within one tick of the file's clock of an even grid: containers round (Matroska
    to 1 ms), and that is no variable rate. Several rates may fit a short clip; what the file states comes first.
    A grid of which up to a tenth is missing (dropped frames) is variable, but keeps its rate.
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


def _find_sound(path: Path, stream: Stream, listed: list[_Packets], timeout: float | None) -> Sound | None:
    if not listed or not listed[0].times:
        log.warning("%s: its sound track is empty or cannot be read; going on without sound", printable(path))
        return None
    packets = listed[0]
    start, end = packets.span()
    # Where the first sample lies is known only after decoding a packet: encoders put silence before it.
    arguments = [
        *["-copyts", *_input(path), "-map", f"0:{stream.index}", "-frames:a", "1"],
        *["-c:a", "pcm_s16le", "-f", "framecrc", "pipe:1"],
    ]
    with _Ffmpeg(arguments, timeout=timeout, level="error", seconds=SECONDS) as process:
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


# --- reading frames --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A square of the picture in display pixels: x to the right and y downward from the upper left corner.

    It may reach outside a picture that is too small for it; what is outside repeats the picture's edge.
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
    rate: Fraction | None = None,
    threads: int | None = None,
    skip: Literal["noref", "nokey"] | None = None,
) -> Generator[Frame, None, None]:
    """Yield the clip's frames, uint8 [H,W,3] RGB, one at a time, at `clip.rate` (or `rate`).

    `start` and `end` are seconds after the clip's first picture. `box` cuts, and repeats the edge where the box reaches
    outside; then the frame is scaled to `size` (a side, or width and height). Without `box` the whole picture is given;
    without `size` nothing is scaled. Alpha is laid over white. YCbCr is converted by the matrix and range that the file
    states (where it states none: bt709 for HD, bt601 below). A clip of the wanted size passes bit for bit as ffmpeg
    decodes it. `skip`, for a quick look, leaves out frames that no other needs ("noref") or all but key frames
    ("nokey"), and repeats the one before instead.

    A damaged clip yields what can be decoded and a warning on logger "talkies". Raises InputError if that is nothing,
    TalkiesError or OSError when the machine failed. Closing the generator ends ffmpeg.
    """
    since = Fraction(start or 0)
    rate = rate or clip.rate
    limit = math.ceil(max(clip.frames / clip.rate - since, Fraction(0)) * rate) + SPARE_FRAMES
    if end is not None:
        limit = min(limit, round((Fraction(end) - since) * rate))
    if limit <= 0:
        raise InputError(clip.path, f"the segment {float(since):g} s to {float(end or 0):g} s holds no frame: mend it")
    filters, width, height = _filters(clip, since, rate, limit, box, size)
    skipped = ["-skip_frame", skip] if skip else []
    threads = min(threads or available_threads(), THREADS)
    arguments = [
        *["-copyts", "-filter_complex_threads", str(threads), "-threads", str(threads)],
        *_input(clip.file, *_seek(clip, since), *_decoder(clip), *skipped, "-max_pixels", str(MAX_PIXELS)),
        *["-filter_complex", f"[0:{clip.stream}]{filters}[out]", "-map", "[out]"],
        *["-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"],
    ]
    until = clip.duration if end is None else min(clip.duration, Fraction(end))
    return _decode(clip, arguments, (height, width, 3), limit, since, int((until - since) * rate))


def _decode(
    clip: Clip, arguments: list[str], shape: tuple[int, int, int], limit: int, since: Fraction, expected: int
) -> Generator[Frame, None, None]:
    import numpy as np

    count = 0
    each = SECONDS_A_PICTURE + SECONDS_A_PIXEL * clip.width * clip.height
    with _Ffmpeg(arguments, level="error", seconds=SECONDS + each * max(clip.pictures, limit)) as process:
        while count < limit:
            frame = np.empty(shape, np.uint8)
            if process.stdout.readinto(frame.data.cast("B")) < frame.size:  # type: ignore[attr-defined]
                break
            yield frame
            count += 1
        process.stdout.read()
        code = process.finish()
    short = code != 0 or clip.truncated or count < expected * 0.9
    if short:
        read_through(clip.file)
    if count == 0:
        if since >= clip.duration:
            reason = f"the segment starts at {float(since):g} s but the clip has {float(clip.duration):g} s: mend it"
        else:
            reason = process.fault or f"no picture in it can be decoded ({_complaint(process.stderr)}): {AGAIN}"
        raise InputError(clip.path, reason)
    if short:
        log.warning("%s: the clip is damaged or cut short; going on with its %d frames", printable(clip.path), count)


def _seek(clip: Clip, since: Fraction) -> list[str]:
    """Return options that skip most of a long clip's head. The filters cut exactly, this only saves decoding."""
    indexed = clip.path.suffix.lower() in (".mp4", ".m4v", ".mov", ".mkv", ".webm")
    if since < 30 or not indexed or clip.truncated:
        return []
    return ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", _seconds(clip.start + since - 20)]


def _decoder(clip: Clip) -> list[str]:
    """Return the option for the one case where ffmpeg's own decoder drops alpha: WebM."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(clip.codec)
    return ["-c:v", name] if clip.alpha and name and not _ALPHA.match(clip.pixel_format) else []


def _filters(
    clip: Clip, since: Fraction, rate: Fraction, limit: int, box: Box | None, size: int | tuple[int, int] | None
) -> tuple[str, int, int]:
    """Return ffmpeg's filters from stored pictures to RGB frames, and the frames' width and height."""
    # Time first: what is not shown is not converted. Times are shifted so that the first output frame is at 0.
    clock, origin = (f"N/({clip.rate}*TB)", since) if clip.numbered else ("PTS", clip.start + since)
    steps = [f"setpts=round({clock}-({_seconds(origin)})/TB)", f"fps=fps={rate}:start_time=0:round=near"]
    steps.append(f"trim=end_frame={limit}")  # here, for what follows would pile up before the output says enough
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
    # The size is always spelled out: a stream that changes its size half way must not change the frames.
    plain = clip.sar == 1 and (width, height) == (clip.width, clip.height)
    steps.append(f"scale={width}:{height}:flags={PLAIN if plain else SCALING}{matrix},format=rgb24,setsar=1")
    if box is not None:
        left, top = max(box.x, 0), max(box.y, 0)
        right, bottom = min(box.x + box.side, width), min(box.y + box.side, height)
        if right <= left or bottom <= top:
            raise TalkiesError(
                f"{printable(clip.path)}: {box} lies outside the picture ({width}x{height}): give another"
            )
        if (left, top, right, bottom) != (0, 0, width, height):
            steps.append(f"crop={right - left}:{bottom - top}:{left}:{top}:exact=1")
        margins = (left - box.x, box.x + box.side - right, top - box.y, box.y + box.side - bottom)
        if max(margins) * 2 > box.side:  # the limit of ffmpeg's fillborders; no crop of ours asks for it
            raise TalkiesError(
                f"{printable(clip.path)}: {box} lies mostly outside the picture ({width}x{height}): give another"
            )
        if any(margins):
            steps.append(f"format=gbrp,pad={box.side}:{box.side}:{margins[0]}:{margins[2]}")
            steps.append("fillborders=left={}:right={}:top={}:bottom={}:mode=smear".format(*margins))
        width = height = box.side
    if wanted is not None and wanted != (width, height):
        width, height = wanted
        steps.append(f"scale={width}:{height}:flags={SCALING}")
    return ",".join([*steps, "format=rgb24"]), width, height


def _seconds(value: Fraction) -> str:
    return f"{float(value):.9f}"


# --- writing films ---------------------------------------------------------------------------------------


def _beside(path: Path) -> Path:
    """Return a temporary name in the same folder; hidden, and short enough for any file system."""
    stem = path.name.encode("utf-8", "surrogateescape")[:180].decode("utf-8", "ignore")
    return path.with_name(f".{stem}.{os.getpid()}-{time.monotonic_ns():x}.part")


def publish(part: Path, path: Path) -> None:
    """Move a finished file to its final name so that the name never shows half of it, also after a power cut."""
    with part.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:  # a full disk may show only here, and the system names no file
            raise OSError(error.errno, error.strerror, str(part)) from None
    try:
        part.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        near = _beside(path)  # the scratch disk is another file system
        try:
            shutil.copyfile(part, near)
            publish(near, path)
        finally:
            near.unlink(missing_ok=True)
        part.unlink()
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no fsync of folders
            raise
    finally:
        os.close(folder)


class FrameWriter:
    """Write a silent film: H.264, yuv420p (bt709, limited range), faststart, at an exact constant rate.

        with FrameWriter(path, Fraction(30000, 1001)) as film:
            film.write(frame)  # uint8 [H,W,3] RGB

    On a clean exit the film is checked (frames, rate, size) and renamed onto `path`; after an exception nothing
    remains. Odd sides grow by one pixel that repeats the edge, as yuv420p halves them. `part` is the temporary name
    (default: hidden, beside `path`); it may lie on another disk.

    Raises TalkiesError (also for zero frames) or OSError (full disk …), never InputError.
    """

    def __init__(
        self,
        path: str | Path,
        rate: Fraction,
        *,
        size: tuple[int, int] | None = None,
        crf: int = 18,
        preset: str = "medium",
        comment: str | None = None,
        threads: int | None = None,
        part: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.part = part or _beside(self.path)
        self.rate = Fraction(rate)
        self.size = size  # width, height of the frames given
        self.frames = 0
        self._crf, self._preset, self._comment, self._threads = crf, preset, comment, threads
        self._process: _Ffmpeg | None = None

    def __enter__(self) -> FrameWriter:
        with self.part.open("wb"):
            pass  # a folder that is missing or full says so here, in the system's own words
        return self

    def write(self, frame: Frame) -> None:
        """Append one frame, uint8 [H,W,3] RGB; every frame has the size of the first."""
        import numpy as np

        height, width = frame.shape[:2]
        self.size = self.size or (width, height)
        if frame.dtype != np.uint8 or frame.shape != (self.size[1], self.size[0], 3):
            raise ValueError(f"a frame of {frame.dtype} {frame.shape}; uint8 {(*self.size[::-1], 3)} is needed")
        if width % 2 or height % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._process is None:
            self._process = _Ffmpeg(self._arguments(), stdin=True, level="error")
            self._process.__enter__()
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data.cast("B"))
        except BrokenPipeError:
            self._fail()
        self.frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._process is not None:
                self._process.__exit__(None)
            self.part.unlink(missing_ok=True)

    @property
    def _even_size(self) -> tuple[int, int]:
        assert self.size is not None
        return self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2

    def _arguments(self) -> list[str]:
        width, height = self._even_size
        return [
            *["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"],
            *["-framerate", str(self.rate), "-i", "pipe:0"],
            *["-vf", f"scale=flags={SCALING}:out_color_matrix=bt709:out_range=tv,format=yuv420p,setsar=1"],
            *["-c:v", "libx264", "-preset", self._preset, "-crf", str(self._crf)],
            *(["-threads", str(self._threads)] if self._threads else []),
            *["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"],
            *_mp4_output(self.part, self._comment, None),
        ]

    def _fail(self) -> None:
        assert self._process is not None
        self._process.finish()
        raise TalkiesError(
            f"{printable(self.path)}: ffmpeg ended early ({_complaint(self._process.stderr)}): try again"
        )

    def _finish(self) -> None:
        if self._process is None:
            raise TalkiesError(f"{printable(self.path)}: no frame was written: give it a clip that has some")
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._fail()
        if self._process.finish():
            self._fail()
        film = _check_film(self.part, self.path)
        if (film.width, film.height) != self._even_size or film.frames != self.frames or film.rate != self.rate:
            raise TalkiesError(
                f"{printable(self.path)}: the film that ffmpeg wrote is not the one that was given: "
                f"{film.frames} frames of {self.frames}, {film.rate} a second of {self.rate}: try again"
            )
        publish(self.part, self.path)


def _mp4_output(part: Path, comment: str | None, title: str | None) -> list[str]:
    """Return the arguments of a playable mp4 that says nothing of its source but what is given."""
    tags = [f"{name}={value}" for name, value in (("comment", comment), ("title", title)) if value is not None]
    return [
        *["-map_metadata", "-1", "-map_chapters", "-1", *(a for tag in tags for a in ("-metadata", tag))],
        *["-movflags", "+faststart", "-f", "mp4", "-y", _url(part)],
    ]


@dataclass(frozen=True)
class _Film:
    width: int
    height: int
    frames: int
    rate: Fraction  # exact average
    duration: Fraction
    sounds: list[tuple[Fraction, Fraction]]  # start and end of each audio stream, seconds


def _check_film(part: Path, path: Path) -> _Film:
    """Look at a film that we wrote. Raises TalkiesError if it is no film of one picture stream."""
    found, ended = _packets(part, ["v?", "a?"])
    pictures = [s for s in found if s.facts.get("media_type") == "video"]
    sounds = [s for s in found if s.facts.get("media_type") == "audio" and s.times]
    if ended.code or len(pictures) != 1 or not pictures[0].times:
        raise TalkiesError(f"{printable(path)}: it is not a whole film ({_complaint(ended.stderr)}): make it again")
    width, _, height = pictures[0].facts["dimensions"].partition("x")
    times = pictures[0]
    start, end = times.span()
    return _Film(
        width=int(width),
        height=int(height),
        frames=len(times.times),
        rate=len(times.times) / (end - start),
        duration=end - start,
        sounds=[sound.span() for sound in sounds],
    )


# --- sound -----------------------------------------------------------------------------------------------


def remux(
    picture: Path,
    clip: Clip | SoundFile | None,
    out: Path,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    comment: str | None = None,
    title: str | None = None,
    part: Path | None = None,
) -> dict[str, Any]:
    """Put the clip's sound under a film's picture stream, which is copied; write `out` whole or not at all.

    `start` and `end` are seconds after the clip's first picture, as read_frames takes them: the sample that belongs to
    the clip's picture lies under the film's. Sound that starts late stays late, longer sound is cut at the picture's
    end, shorter sound stays shorter. It is copied where mp4 takes its codec and packets can be cut finely enough
    (within one frame of picture), else it becomes AAC. Without a clip or sound in the segment: a plain film.

    Returns facts: sound ("copy", "aac" or None), codec, offset and duration of the sound, duration of the picture
    (seconds), frames, bytes. Raises InputError naming the clip if its sound can be neither copied nor decoded.
    """
    out = Path(out)
    part = part or _beside(out)
    film = _check_film(Path(picture), Path(picture))
    origin = (clip.start if clip else Fraction(0)) + Fraction(start or 0)
    until = film.duration if end is None else min(film.duration, Fraction(end) - Fraction(start or 0))
    sound = clip.sound if clip else None
    if sound and (sound.end <= origin or sound.start - origin >= until):
        sound = None  # it is silent all through this segment
    ways = _ways(sound, origin, until, film)
    seconds = SECONDS + float(film.duration) + (_seconds_for(clip.file) if clip else 0)
    with part.open("wb"):
        pass  # a folder that is missing or full says so here, in the system's own words
    try:
        for way in ways:
            arguments = _remux_arguments(Path(picture), clip, sound, way, origin, until, film.duration)
            with _Ffmpeg([*arguments, *_mp4_output(part, comment, title)], level="error", seconds=seconds) as process:
                process.stdout.read()
                code = process.finish()
            fault = process.fault or (_complaint(process.stderr) if code else None)
            if fault is None:
                made = _check_film(part, out)
                fault = _compare(film, made, sound, until)
            if fault is None:
                late = _missing(made, sound, origin, until)
                fault = late if way == "copy" else None
            if fault is None:
                if clip and late:  # decoding gave less than the packets promised: that is all there is
                    log.warning("%s: its sound is damaged: %s", printable(clip.path), late)
                publish(part, out)
                begin, stop = made.sounds[0] if made.sounds else (Fraction(0), Fraction(0))
                begin = max(begin, Fraction(0))  # priming lies before 0 and is not heard
                return {
                    "sound": way,
                    "codec": None if sound is None or way is None else (sound.codec if way == "copy" else "aac"),
                    "offset": float(begin) if made.sounds else None,
                    "sound_duration": float(stop - begin) if made.sounds else None,
                    "duration": float(made.duration),
                    "frames": made.frames,
                    "bytes": out.stat().st_size,
                }
            log.debug("%s: %s of the sound failed: %s", printable(out), way, fault)
    finally:
        part.unlink(missing_ok=True)
    if clip is None or sound is None:
        raise TalkiesError(f"{printable(out)}: the film could not be written ({fault}): is there room? Try again")
    raise InputError(
        clip.path, f"its sound ({sound.codec}) cannot be used ({fault}): go on without it, by audio: false"
    )


def _ways(sound: Sound | None, origin: Fraction, until: Fraction, film: _Film) -> list[str | None]:
    """Return how to carry the sound, the best first: "copy", "aac" or None."""
    if sound is None:
        return [None]
    frame = 1 / film.rate
    # Sound before the first picture: an mp4 hides up to a packet of it (the encoder's priming, as players know it).
    begins = origin - sound.start <= max(frame / 2, sound.packet + Fraction(1, 1000))
    # Sound after the last picture: it can be cut between packets, together with the picture.
    ends = sound.end - origin - until <= frame / 2 or (sound.packet <= frame and film.duration - until <= frame)
    return ["copy", "aac"] if sound.codec in COPIED_SOUND and begins and ends else ["aac"]


def _remux_arguments(
    picture: Path,
    clip: Clip | SoundFile | None,
    sound: Sound | None,
    way: str | None,
    origin: Fraction,
    until: Fraction,
    duration: Fraction,
) -> list[str]:
    arguments = ["-copyts", *_input(picture)]
    if clip is None or sound is None:
        return [*arguments, "-map", "0:v:0", "-c", "copy"]
    # The file's clock moves so that the segment's first picture is at 0.
    arguments += _input(clip.file, "-itsoffset", _seconds(-origin))
    arguments += ["-map", "0:v:0", "-map", f"1:{sound.stream}", "-c:v", "copy"]
    if way == "copy":
        return [*arguments, "-c:a", "copy", "-t", _seconds(duration)]
    # first_pts=0 cuts what lies before the picture and fills with silence what is missing; async fills gaps inside,
    # from 20 ms on (by default from 100 ms, which is three frames of picture).
    rate = sound.sample_rate if sound.sample_rate in (22050, 24000, 32000, 44100, 48000) else 48000
    layout = "mono" if sound.channels == "mono" else "stereo"
    shape = (
        f"aresample={rate}:async=1:min_hard_comp=0.02:first_pts=0,aformat=sample_rates={rate}:channel_layouts={layout}"
    )
    return [*arguments, "-af", f"{shape},atrim=end={_seconds(until)}", *AAC]


def _compare(film: _Film, made: _Film, sound: Sound | None, until: Fraction) -> str | None:
    """Return what is wrong with a film that was to get this sound, or None."""
    frame = 1 / film.rate
    if (made.width, made.height, made.frames) != (film.width, film.height, film.frames):
        return f"{made.frames} frames instead of {film.frames}"
    if abs(made.duration - film.duration) > frame:
        return f"{float(made.duration):.3f} s instead of {float(film.duration):.3f} s"
    if len(made.sounds) != (1 if sound else 0):
        return f"{len(made.sounds)} sound tracks"
    if sound and made.sounds[0][1] > until + frame + Fraction(1, 20):  # an encoder fills its last packet
        return f"sound until {float(made.sounds[0][1]):.3f} s under {float(until):.3f} s of picture"
    return None


def _missing(made: _Film, sound: Sound | None, origin: Fraction, until: Fraction) -> str | None:
    """Return which part of the sound that the clip lists is not in the film, or None."""
    if sound is None:
        return None
    begin, end = made.sounds[0]
    slack = 1 / made.rate + Fraction(1, 10)  # packets state their length only roughly
    if begin > max(sound.start - origin, Fraction(0)) + slack or end < min(sound.end - origin, until) - slack:
        return f"only {float(begin):.3f} s to {float(end):.3f} s of it could be read"
    return None


# --- many films in one -----------------------------------------------------------------------------------


def mosaic(films: Sequence[str | Path], out: str | Path, *, columns: int | None = None) -> dict[str, Any]:
    """Write one film in which many play at once, in rows of squares, with the sound of the first that has any.

    At most MOSAIC_FILMS; columns: None for a square. They begin together and run at the first one's rate; one that is
    shorter than the longest stands still at its end. The squares are as high as the highest film, less where the whole
    would be wider or higher than MOSAIC_SIDE. The first film's comment tag is kept.

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
    silent, part = _beside(out), _beside(out)
    with silent.open("wb"):
        pass  # a folder that is missing or full says so here, in the system's own words
    try:
        with _Ffmpeg([*_tiles(clips, columns, rows, side), *_mp4_output(part, None, None)], level="error") as process:
            process.stdout.read()
            if process.finish():
                raise TalkiesError(
                    f"{printable(out)}: the mosaic failed ({_complaint(process.stderr)}): try fewer films"
                )
        publish(part, silent)
        sounding = next((clip for clip in clips if clip.sound), None)
        facts = remux(silent, sounding, out, comment=tags(films[0]).get("comment"))
    finally:
        part.unlink(missing_ok=True)
        silent.unlink(missing_ok=True)
    return {"films": len(clips), "columns": columns, "side": side} | {
        name: facts[name] for name in ("frames", "duration", "sound", "bytes")
    }


def _tiles(clips: Sequence[Clip], columns: int, rows: int, side: int) -> list[str]:
    """Return ffmpeg's arguments that lay films out in rows of squares, encoded as films are."""
    inputs, squares = [], []
    for number, clip in enumerate(clips):
        inputs += ["-threads", "1", *_input(clip.file)]  # a hundred decoders with threads of their own would crowd
        squares.append(
            f"[{number}:{clip.stream}]setpts=PTS-STARTPTS,fps={clips[0].rate},"
            f"scale={side}:{side}:force_original_aspect_ratio=decrease:force_divisible_by=2:flags={SCALING},"
            f"pad={side}:{side}:(ow-iw)/4*2:(oh-ih)/4*2,setsar=1,format=yuv420p[t{number}]"
        )
    places = "|".join(f"{n % columns * side}_{n // columns * side}" for n in range(len(clips)))
    every = "".join(f"[t{number}]" for number in range(len(clips)))
    stacked = f"{every}xstack=inputs={len(clips)}:layout={places}:fill=black," if len(clips) > 1 else every
    # The last row may be short of films: what is missing is padded.
    graph = f"{';'.join(squares)};{stacked}pad={columns * side}:{rows * side}:0:0[out]"
    return [
        *inputs,
        *["-filter_complex", graph, "-map", "[out]", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20"],
        *["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"],
    ]


# --- facts about files -----------------------------------------------------------------------------------


def tags(path: str | Path) -> dict[str, str]:
    """Return a media file's own tags, names in lower case ("comment", "title", …)."""
    path = Path(path)
    open_input(path).close()
    arguments = [*_input(path), "-map", "0", "-c", "copy", "-f", "ffmetadata", "pipe:1"]
    with _Ffmpeg(arguments, level="error", seconds=_seconds_for(path)) as process:
        text = process.stdout.read().decode("utf-8", "surrogateescape")
        if process.finish():
            raise InputError(path, process.fault or _why_not_a_film(path, process.stderr))
    found: dict[str, str] = {}
    general = re.split(r"(?<!\\)\n\[", text, maxsplit=1)[0]
    for line in re.split(r"(?<!\\)\n", general):
        if line.startswith(";") or not (match := re.match(r"((?:\\.|[^=\\])+)=(.*)", line, re.DOTALL)):
            continue
        name, value = (re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in match.groups())
        found[name.lower()] = value
    return found


# --- folders ---------------------------------------------------------------------------------------------


def list_pictures(folder: str | Path) -> list[Path]:
    """Return the pictures of a folder by their suffixes, sorted by name."""
    return sort_folder(folder, PICTURE_SUFFIXES)[0]


def list_clips(folder: str | Path) -> list[Path]:
    """Return the clips of a folder by their suffixes, sorted by name."""
    return sort_folder(folder, CLIP_SUFFIXES)[0]


def sort_folder(folder: str | Path, suffixes: frozenset[str]) -> tuple[list[Path], list[Path]]:
    """Return the files of a folder that have one of the suffixes (any case), and the files that were ignored.

    Hidden files (`.DS_Store`, `._photo.jpg`) and folders are in neither. A broken link keeps its place, so that it
    fails by its name instead of vanishing. Raises TalkiesError if `folder` cannot be listed.
    """
    folder = Path(folder)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        reason = (error.strerror or "cannot be listed").lower()
        raise TalkiesError(f"{printable(folder)}: {reason}: name another folder, or mend this one") from None
    taken: list[Path] = []
    ignored: list[Path] = []
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") or os.path.isdir(path):  # noqa: PTH112 - of a link to nowhere others raise
            continue
        (taken if path.suffix.lower() in suffixes else ignored).append(path)
    return taken, ignored
