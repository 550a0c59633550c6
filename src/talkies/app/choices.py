"""The choices of the page's form, and the same choices as keys of config.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from msgspec import Meta, Struct

from ..media import crop
from ..run.folder import PICTURES, VIDEOS

Text = Annotated[str, Meta(max_length=200)]
Seconds = Annotated[float, Meta(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class Maker:
    """What makes films: a program by its name, or the built-in engine with the weights that are here.

    crop: how pictures and videos are cut unless the user says otherwise (see `media.crop`).
    """

    crop: str
    preset: str = "demo"
    program: str | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """The same as keys of config.yaml; those with their default value are left out."""
        if self.program is not None:
            return {"engine": self.program}
        model = {"preset": self.preset} if self.preset != "demo" else {}
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
        for text in (self.form.picture_crop, self.form.driving_crop):
            crop.parse(text or self.maker.crop)

    @property
    def title(self) -> str:
        """The names of picture and driving video, as a file name without suffix."""
        return f"{self.picture.stem}-{self.driving.stem}"

    def of_run(self) -> dict[str, Any]:
        """Return the keys of config.yaml that make films like this one; a box and a segment are a single file's."""
        form = self.form
        files: dict[str, Any] = {self.picture.name: {}, self.driving.name: form.changed("start", "end")}
        crops = {}
        for kind, path, text in (
            ("images", self.picture, form.picture_crop),
            ("driving", self.driving, form.driving_crop),
        ):
            if text and isinstance(cut := crop.parse(text).plain, str):
                crops[kind] = cut
            elif text:
                files[path.name]["crop"] = cut
        keys = self.maker.keys | {
            "faceless": "allow" if form.faceless and self.maker.program is None else {},
            "crop": crops,
            "motion": form.changed("relative", "adapt_scale", "best_frame"),
            **form.changed("audio", "paste_back"),
            "files": {name: entry for name, entry in files.items() if entry},
        }
        return {key: value for key, value in keys.items() if value != {}}

    def as_yaml(self) -> str:
        """Return the lines of config.yaml that make films like this one from whole folders."""
        keys = {"images": PICTURES, "driving": VIDEOS, **self.of_run()}
        return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=1000)
