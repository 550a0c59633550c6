"""Facts about a film or sound file: its picture, rate and sound. `clip_reader` finds them, in a guarded child."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InputError, printable
from .guarded import read_guarded

log = logging.getLogger("talkies")

MAX_RATE = 60  # frames a second, at which clips are read at the most


@dataclass(frozen=True)
class Sound:
    """An audio stream of a clip. Times are seconds of the file's own clock."""

    stream: int  # index in the file
    codec: str
    sample_rate: int
    channels: int
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
    sar: Fraction  # shape of a stored pixel, width / height
    sound: Sound | None  # the default audio stream, else the first, of those that can be decoded
    truncated: bool  # the file is cut short or damaged
    stream: int = 0  # index of the picture stream in the file
    matrix: str | None = None  # YCbCr matrix to assume where the file states none
    hdr: str | None = None  # "PQ" or "HLG": its transfer function, of high dynamic range
    alpha: bool = False  # some of it may be transparent
    numbered: bool = False  # the file has no presentation times (AVI): pictures are counted instead
    pictures: int = 1  # in the file: what decoding has to do
    remark: str | None = None  # what is odd about its sound

    def count(
        self, start: Fraction | float | None = None, end: Fraction | float | None = None, rate: Fraction | None = None
    ) -> int:
        """Return the number of frames that `read_frames` gives of a segment at a rate (default: its own).

        start, end: seconds after the first picture.
        """
        rate = rate or self.rate
        left = round(self.frames / self.rate * rate) - round(Fraction(start or 0) * rate)
        if end is not None:
            left = min(left, round((Fraction(end) - Fraction(start or 0)) * rate))
        return max(0, left)

    def seconds(self, start: Fraction | float | None = None, end: Fraction | float | None = None) -> Fraction:
        """Return how long a segment lasts, at least one frame."""
        last = self.duration if end is None else min(Fraction(end), self.duration)
        return max(last - Fraction(start or 0), 1 / self.rate)

    def sampling(
        self, frames: Fraction | int, start: Fraction | float | None = None, end: Fraction | float | None = None
    ) -> Fraction:
        """Return the rate at which a segment gives about so many frames, at most its own."""
        return min(self.rate, frames / self.seconds(start, end)).limit_denominator(100_000)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values, without the file's name."""
        found: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        return {name: value for name, value in found.items() if name != "path"}

    @classmethod
    def from_dict(cls, path: Path, found: Mapping[str, Any]) -> Clip:
        """Return a clip from the values of `to_dict`; ValueError or ZeroDivisionError if they are
        damaged."""
        return msgspec.convert({**found, "path": str(path)}, cls, dec_hook=_from_text)


def _from_text(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return kind(value)


@dataclass(frozen=True)
class SoundFile:
    """A file whose sound a film gets, from its beginning: music, a voice, or another video."""

    path: Path
    sound: Sound

    @property
    def start(self) -> Fraction:
        """Time of the first sample in the file's own clock, seconds."""
        return self.sound.start


def probe(path: str | Path) -> Clip:
    """Return the facts about a clip; every packet's time stamp is read.

    The rate of evenly spaced pictures is exact (30000/1001); above 60 it is divided by the smallest whole number that
    gives 60 or less. Variable rates become the standard rate nearest to their average, by ratio.

    Raises InputError if it is not a readable video, TalkiesError or OSError if the machine failed.
    """
    facts = _facts(path)
    if facts["clip"] is None:
        nothing = "nothing in it" if facts["empty"] else "there is no moving picture in it"
        if facts["sound"]:
            nothing = "it is sound without a picture, which a film gets by the key audio"
        raise InputError(path, f"{nothing}: give a video")
    clip = Clip.from_dict(Path(path), facts["clip"])
    if clip.remark:
        log.warning("%s: %s", printable(path), clip.remark)
    return clip


def probe_sound(path: str | Path) -> SoundFile:
    """Return the sound of a file; InputError if it has none that can be read."""
    found = _facts(path)["sound"]
    if found is None:
        raise InputError(path, "there is no sound in it that can be read: name another file, or audio: false")
    return SoundFile(Path(path), msgspec.convert(found, Sound, dec_hook=_from_text))


def _facts(path: str | Path) -> dict[str, Any]:
    return read_guarded(path, "clip", again="convert it to mp4", most=sys.maxsize)[0]
