"""The choices on the page: read from its controls, as a film to make, and as keys of config.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..engines import FOMM, Movement
from ..errors import TalkiesError, printable
from ..fomm.model.presets import PRESETS
from ..media import crop
from ..operate.one_film import Wanted

LONGEST = 1000  # the most characters of a control's text


@dataclass(frozen=True)
class Network:
    """Weights that are here: a preset, and its checkpoint unless it was fetched."""

    preset: str
    checkpoint: str | None = None


@dataclass(frozen=True)
class Choices:
    """The values of the page's controls.

    faceless: also take a video without a face. usual: the default crop (see `media.crop`). start, end:
    seconds, None for all of the clip.
    """

    picture: Path
    driving: Path
    engine: str
    network: Network
    usual: str
    picture_crop: crop.Request | None
    driving_crop: crop.Request | None
    start: Fraction | None
    end: Fraction | None
    movement: Movement
    paste_back: bool
    sound: bool
    faceless: bool = False

    def wanted(self) -> Wanted:
        """Return the film."""
        usual = crop.parse(self.usual)
        return Wanted(
            self.picture,
            self.driving,
            self.engine,
            self.picture_crop or usual,
            self.driving_crop or usual,
            self.start,
            self.end,
            self.movement,
            paste_back=self.paste_back,
            sound=self.sound,
            needs_face=self.network.preset if self._refuses_faceless() else None,
        )

    def of_run(self) -> dict[str, Any]:
        """Return the same choices as keys of config.yaml; a box and a segment are settings of a single file."""
        keys = self.of_engine()
        crops = {"images": self.picture_crop, "driving": self.driving_crop}
        keys |= _unless_empty("crop", {kind: cut.plain for kind, cut in crops.items() if cut and not cut.box})
        keys |= _unless_empty("motion", self._motion()) | self._shown()
        picture = self.of_picture() if self.picture_crop and self.picture_crop.box else {}
        clip = _cut(self.driving_crop) if self.driving_crop and self.driving_crop.box else {}
        files = _unless_empty(self.picture.name, picture) | _unless_empty(self.driving.name, clip | self._segment())
        return keys | _unless_empty("files", files)

    def _refuses_faceless(self) -> bool:
        return self.engine == FOMM and PRESETS[self.network.preset].crop == "face" and not self.faceless

    def of_engine(self) -> dict[str, Any]:
        """Return the keys of config.yaml that choose engine and network, and what they take."""
        if self.engine != FOMM:
            return {"engine": self.engine}
        chosen = {"preset": self.network.preset, "checkpoint": self.network.checkpoint}
        keys = _unless_empty("model", {key: value for key, value in chosen.items() if value not in (None, "demo")})
        return keys | ({"faceless": "allow"} if self.faceless else {})

    def of_picture(self) -> dict[str, Any]:
        """Return the picture's entry in `files` of config.yaml."""
        return _cut(self.picture_crop)

    def of_clip(self) -> dict[str, Any]:
        """Return the driving video's entry in `files` of config.yaml."""
        return _cut(self.driving_crop) | self._segment() | self._motion() | self._shown()

    def _motion(self) -> dict[str, Any]:
        usual = Movement()
        return {name: value for name, value in vars(self.movement).items() if value != getattr(usual, name)}

    def _shown(self) -> dict[str, Any]:
        return ({} if self.sound else {"audio": False}) | ({"paste_back": True} if self.paste_back else {})

    def _segment(self) -> dict[str, Any]:
        ends = {"start": self.start, "end": self.end}
        return {name: float(value) for name, value in ends.items() if value is not None}


def _unless_empty(key: str, value: Any) -> dict[str, Any]:
    return {key: value} if value else {}


def _cut(asked: crop.Request | None) -> dict[str, Any]:
    return {"crop": asked.plain} if asked else {}


def usual_crop(preset: str) -> str:
    """Return a preset's default crop."""
    return PRESETS[preset].crop


def read_crop(text: Any) -> crop.Request | None:
    """Read a typed crop; None if it is empty, for the network's default."""
    word = str(text or "").strip()[:LONGEST]
    return crop.parse(word) if word else None


def read_seconds(value: Any, what: str) -> Fraction | None:
    """Read a control of seconds; None if it is empty. what: its label, for messages."""
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text):
        raise TalkiesError(f"{what}: {printable(text)[:60]} is not a number of seconds: write one like 2.5")
    return Fraction(text)


def read_segment(start: Any, end: Any) -> tuple[Fraction | None, Fraction | None]:
    """Read the start and end of a segment, in seconds."""
    first, last = read_seconds(start, "start"), read_seconds(end, "end")
    if last is not None and last <= (first or 0):
        raise TalkiesError(f"end: {float(last):g} s is not after the start: give a later one")
    return first or None, last


def read_best_frame(text: Any) -> int | str | None:
    """Read the frame that motion counts from: a number, auto, or empty for the first."""
    word = str(text if text is not None else "").strip().lower()
    if word in ("", "first"):
        return None
    if word == "auto":
        return word
    if not re.fullmatch("[0-9]{1,9}", word):
        raise TalkiesError(f"best frame: {printable(word)[:60]} is neither auto nor a number: give one")
    return int(word)
