"""Films that we write: frames encoded to H.264 in mp4."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..errors import InputError, TalkiesError, printable
from ..files import beside, publish
from .clip import Clip, probe
from .ffmpeg import SCALING, Ffmpeg, ffmpeg_path, file_url

if TYPE_CHECKING:
    from .pictures import Frame


NVENC, NVENC_PRESET = "h264_nvenc", "p5"
BT709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
FILM_SIZE = 256  # pixels: the side of prepared pictures, of the driving clips' previews and of every film


def encoding(crf: int | None, preset: str | None, encoder: str) -> dict[str, Any]:
    """Return how `FrameWriter` encodes the films of a run, with the defaults for what is None."""
    # Where nvenc can't be opened, x264 is used with its default preset.
    own = preset if encoder != "nvenc" else None
    return {"crf": crf or 18, "preset": own or "veryfast", "encoder": encoder}


class FilmPicture(Struct, frozen=True, omit_defaults=True):
    """The pictures of a film. rate: frames a second, a fraction as text. size: the side of a square, or width and
    height in pixels. How they were encoded: crf: the quality, smaller is better; encoder: x264 or nvenc."""

    rate: str
    size: int | tuple[int, int]
    crf: int | None = None
    preset: str | None = None
    encoder: str | None = None


class FrameWriter:
    """Write a silent film: H.264, yuv420p (bt709, limited range), faststart, at an exact constant rate.

        with FrameWriter(path, Fraction(30000, 1001)) as film:
            film.write(frame)  # uint8 [H,W,3] RGB

    On a clean exit the film is checked (frames, rate, size) and renamed to `path`; after an exception no file
    remains. Odd sides get one more pixel that repeats the edge, since yuv420p halves them. `part` is the temporary
    name (default: hidden, beside `path`); it may be on another disk. encoder: x264, or nvenc, which encodes on a GPU
    if it can (else x264 does) with about the same quality for the same `crf`.

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
        encoder: str = "x264",
        comment: str | None = None,
        threads: int | None = None,
        part: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.part = part or beside(self.path)
        self.rate = Fraction(rate)
        self.size = size  # width, height of the frames given
        self.frames = 0
        self.crf, self.preset, self.encoder = crf, preset, "x264"
        if encoder == "nvenc" and opens_nvenc():
            self.preset, self.encoder = NVENC_PRESET, "nvenc"
        self._comment, self._threads = comment, threads
        self._process: Ffmpeg | None = None

    def __enter__(self) -> FrameWriter:
        with self.part.open("wb"):
            pass  # a missing folder or a full disk raises the system's error here
        return self

    def write(self, frame: Frame) -> None:
        """Append one frame, uint8 [H,W,3] RGB; every frame has the size of the first."""
        import numpy as np

        height, width = frame.shape[:2]
        self.size = self.size or (width, height)
        if frame.dtype != "uint8" or frame.shape != (*self.size[::-1], 3):
            raise ValueError(
                f"a frame of {frame.dtype} {frame.shape}; uint8 RGB of {self.size[0]}x{self.size[1]} is needed"
            )
        if width % 2 or height % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._process is None:
            self._process = Ffmpeg(self._arguments(), stdin=True)
            self._process.__enter__()
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data.cast("B"))
        except BrokenPipeError:
            self._finish()
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
    def picture(self) -> FilmPicture:
        """The facts about the pictures that were written."""
        width, height = self.size or (0, 0)
        size = width if width == height else (width, height)
        return FilmPicture(str(self.rate), size, self.crf, self.preset, self.encoder)

    @property
    def _even_size(self) -> tuple[int, int]:
        assert self.size is not None
        return self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2

    def _arguments(self) -> list[str]:
        width, height = self._even_size
        steps = [f"scale=flags={SCALING}:out_color_matrix=bt709:out_range=tv,format=yuv420p"]
        steps += ["setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709", "setsar=1"]
        return [
            *["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"],
            *["-framerate", str(self.rate), "-i", "pipe:0"],
            *["-vf", ",".join(steps)],
            *self._encoder(),
            *BT709,
            *mp4_output(self.part, self._comment),
        ]

    def _encoder(self) -> list[str]:
        quality, preset = str(self.crf), ["-preset", self.preset]
        if self.encoder == "nvenc":
            return ["-c:v", NVENC, *preset, "-rc", "vbr", "-cq", quality, "-b:v", "0"]
        threads = ["-threads", str(self._threads)] if self._threads else []
        return ["-c:v", "libx264", *preset, "-crf", quality, *threads]

    def _finish(self) -> None:
        if self._process is None:
            raise TalkiesError(f"{printable(self.path)}: no frame was written: give it a clip that has some")
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if fault := self._process.finish():
            raise TalkiesError(f"{printable(self.path)}: ffmpeg ended early ({fault}): try again")
        film = check_film(self.part, self.path)
        if (film.width, film.height) != self._even_size or film.frames != self.frames or film.rate != self.rate:
            raise TalkiesError(
                f"{printable(self.path)}: the film that ffmpeg wrote is not the one that was given: "
                f"{film.frames} frames of {self.frames}, {film.rate} a second of {self.rate}: try again"
            )
        publish(self.part, self.path)


@cache
def opens_nvenc() -> bool:
    """Return whether the GPU can encode, by encoding one frame: a card's name does not tell it."""
    picture = ["-v", "error", "-f", "lavfi", "-i", f"color=size={FILM_SIZE}x{FILM_SIZE}:rate=25", "-frames:v", "1"]
    command = [ffmpeg_path(), *picture, "-c:v", NVENC, "-f", "null", "-"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def mp4_output(part: Path, comment: str | None, metadata: int = -1) -> list[str]:
    """Return the arguments of a playable mp4. metadata: the input from which they are taken; none by default."""
    tags = [] if comment is None else ["-metadata", f"comment={comment}"]
    return [
        *["-map_metadata", str(metadata), "-map_chapters", "-1", *tags],
        *["-movflags", "+faststart", "-f", "mp4", "-y", file_url(part)],
    ]


def check_film(part: Path, path: Path) -> Clip:
    """Return the facts about a film that we wrote; TalkiesError if it is not whole. part: where it is."""
    try:
        film = probe(part)
    except InputError as error:
        raise TalkiesError(f"{printable(path)}: it is not a whole film ({error.reason}): make it again") from None
    if film.truncated:
        raise TalkiesError(f"{printable(path)}: it is not a whole film (it is cut short): make it again")
    return film
