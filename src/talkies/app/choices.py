"""The choices of the page's form, and the same choices as keys of config.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..engines import FOMM, Movement
from ..media import crop

Text = Annotated[str, Meta(max_length=200)]
Seconds = Annotated[float, Meta(ge=0, le=1_000_000)]

CLIP_KEYS = ("start", "end", "relative", "adapt_scale", "best_frame", "audio", "paste_back")
"""The keys of a driving video in `files` of config.yaml that are fields of the form."""


@dataclass(frozen=True)
class Maker:
    """What makes films: a program by its name, or the built-in engine with the weights that are here.

    crop: how pictures and videos are cut unless the user says otherwise (see `media.crop`).
    """

    crop: str
    preset: str = "demo"
    checkpoint: str | None = None
    program: str | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """The same as keys of config.yaml; those with their default value are left out."""
        if self.program is not None:
            return {"engine": self.program}
        model = {"preset": self.preset} if self.preset != "demo" else {}
        model |= {"checkpoint": self.checkpoint} if self.checkpoint else {}
        return {"model": model} if model else {}


class Form(Struct, forbid_unknown_fields=True):
    """The form as the browser sends it.

    picture, driving: files by the names that `Studio.files` has for them. start, end: seconds, None for all of the
    clip. An empty crop is the maker's. The other fields are keys of config.yaml; faceless: take a video without a face.
    """

    picture: Text = ""
    driving: Text = ""
    maker: Text = ""
    picture_crop: Text = ""
    driving_crop: Text = ""
    start: Seconds | None = None
    end: Seconds | None = None
    relative: bool = True
    adapt_scale: bool = True
    best_frame: Annotated[int, Meta(ge=0, le=10**9)] | Literal["auto"] | None = None
    audio: bool = True
    paste_back: bool = False
    faceless: bool = False

    def changed(self, *names: str) -> dict[str, Any]:
        """Return the fields with these names that have no default value."""
        usual = Form()
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)}


@dataclass(frozen=True)
class Choices:
    """A film to make: picture, driving video and maker, and the rest of the form. Raises TalkiesError for a crop."""

    picture: Path
    driving: Path
    maker: Maker
    form: Form

    def __post_init__(self) -> None:
        self.cut("picture")
        self.cut("driving")

    @property
    def title(self) -> str:
        """The names of picture and driving video, as a file name without suffix."""
        return f"{self.picture.stem}-{self.driving.stem}"

    @property
    def segment(self) -> tuple[Fraction | None, Fraction | None]:
        """Start and end in seconds, None for those of the clip."""
        return seconds(self.form.start), seconds(self.form.end)

    @property
    def movement(self) -> Movement:
        """How the motion is applied."""
        return Movement(self.form.relative, self.form.adapt_scale, self.form.best_frame)

    @property
    def needs_face(self) -> bool:
        """Whether a driving video without a face is refused."""
        return self.maker.program is None and self.maker.crop == "face" and not self.form.faceless

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.maker.program or FOMM

    def cut(self, kind: Literal["picture", "driving"]) -> crop.Request:
        """Return how the picture or the driving video is cut."""
        return crop.parse(getattr(self.form, f"{kind}_crop") or self.maker.crop)

    def of_engine(self) -> dict[str, Any]:
        """Return the keys of config.yaml that choose what makes the films, and what it takes."""
        return self.maker.keys | ({"faceless": "allow"} if self.form.faceless and not self.maker.program else {})

    def of_run(self) -> dict[str, Any]:
        """Return the keys of config.yaml that make films like this one; a box and a segment are a single file's."""
        picture, clip = self.of_file("picture"), self.of_file("driving")
        crops = {"images": picture.pop("crop", None), "driving": clip.pop("crop", None)}
        boxes = [{"crop": cut} if isinstance(cut, list) else {} for cut in crops.values()]
        keys = self.of_engine() | {
            "crop": {kind: cut for kind, cut in crops.items() if isinstance(cut, str)},
            "motion": self.form.changed("relative", "adapt_scale", "best_frame"),
            **self.form.changed("audio", "paste_back"),
            "files": _unless_empty(
                {self.picture.name: boxes[0], self.driving.name: boxes[1] | self.form.changed("start", "end")}
            ),
        }
        return {key: value for key, value in keys.items() if value != {}}

    def of_file(self, kind: Literal["picture", "driving"]) -> dict[str, Any]:
        """Return the entry of the picture or of the driving video in `files` of config.yaml."""
        cut = {"crop": self.cut(kind).plain} if getattr(self.form, f"{kind}_crop") else {}
        return cut | (self.form.changed(*CLIP_KEYS) if kind == "driving" else {})


def _unless_empty(entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: entry for name, entry in entries.items() if entry}


def seconds(value: float | None) -> Fraction | None:
    """Return a time as the decimal number that was typed."""
    return None if value is None else Fraction(str(value))
