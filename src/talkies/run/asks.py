"""What each stage's result depends on: one function a stage, from which both the spec and the content key come.

A worker, which has read the inputs, computes a *content key* (sha256): equal keys mean equal pixels and samples. The
plan, which knows only sizes and times, computes a *spec*: equal specs mean that nothing has changed since the receipt
was written. Both include the key or spec of the stage above, so a change reaches everything that depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from ..engines import FOMM
from ..files import digest
from ..fomm.model.presets import PRESETS
from ..media.film import FILM_SIZE
from ..media.paste import FEATHER, LARGEST_SIDE
from .record import RECIPE

if TYPE_CHECKING:
    from ..program import Program
    from ..settings import Settings
    from .pairs import Pair, Source, Take
    from .plan import Plan

ENCODING: dict[str, Any] = {"crf": 18, "preset": "veryfast", "encoder": "x264"}
"""How films are encoded by default (`FrameWriter`)."""
FIRST_ENCODING: dict[str, Any] = {"crf": 18, "preset": "medium"}
"""Stands in content keys for the default encoding, whatever that is: the first default. So films stay valid when the
default changes, and only an encoding that config.yaml asks for makes them again."""

Asked = dict[str, Any]


def encoding(settings: Settings) -> dict[str, Any]:
    """Return how a run's films are encoded: crf, preset, encoder."""
    return ENCODING | _own_encoding(settings)


def _own_encoding(settings: Settings) -> dict[str, Any]:
    """Return the encoding settings that config.yaml sets itself."""
    own = {name: value for name, value in asdict(settings.film).items() if value not in (None, "x264")}
    if own.get("encoder") == "nvenc":  # where nvenc can't be opened, x264 is used with its default preset
        own.pop("preset", None)
    return own


def _encoding_asked(settings: Settings, **more: Any) -> Asked:
    own = _own_encoding(settings)
    return {"film": {**more, **FIRST_ENCODING}, **({"own_encoding": own} if own else {})}


def source(wanted: Source, content: Any) -> Asked:
    """Return what a prepared picture depends on. content: of the picture's file."""
    return {"kind": "source", "content": content, "crop": wanted.crop.plain, "size": FILM_SIZE}


def driving(wanted: Take, content: Any) -> Asked:
    """Return what a prepared take depends on. content: of the video's file."""
    segment = [wanted.start, wanted.end]
    return {
        **{"kind": "driving", "content": content, "crop": wanted.crop.plain, "segment": segment, "size": FILM_SIZE},
        **_flipped(wanted),
    }


def motion(wanted: Take, *, content: Any, box: Any, preset: str, weights: Any) -> Asked:
    """Return what a take's keypoints depend on. box: the crop; weights: the network's."""
    return {
        "kind": "motion",
        "driving": content,
        "crop": box,
        "segment": [wanted.start, wanted.end],
        "preset": preset,
        "weights": weights,
        "size": PRESETS[preset].size,
        **_flipped(wanted),
    }


def film(
    pair: Pair,
    source: Source,
    take: Take,
    settings: Settings,
    *,
    picture: Any,
    driving: Any,
    weights: Any,
    recipe: int | None = None,
) -> Asked:
    """Return what a pair's pixels depend on.

    picture, driving: the contents of its files. recipe: the preset's recipe version; None: the current one.
    """
    model = settings.model
    recipe = PRESETS[model.preset].recipe if recipe is None else recipe
    return {
        "source": picture,
        "source_crop": source.crop.plain,
        "driving": driving,
        "driving_crop": take.crop.plain,
        "segment": [take.start, take.end],
        # Absolute motion uses the driving keypoints themselves: no scale and no first frame.
        "motion": [pair.adapt_scale, pair.best_frame or 0] if pair.relative else "absolute",
        "preset": model.preset,
        "precision": model.precision,
        "weights": weights,
        **_encoding_asked(settings, size=FILM_SIZE),
        **_flipped(take),
        # Only presets whose films changed while their weights did not have a recipe; the other presets keep their
        # keys.
        **({"preset_recipe": recipe} if recipe > 1 else {}),
    }


def film_of_program(
    pair: Pair,
    source: Source,
    take: Take,
    program: Program,
    settings: Settings,
    *,
    picture: Any,
    driving: Any,
    sound: Any,
    contents: Mapping[str, Any],
) -> Asked:
    """Return what a pair's pixels depend on if another program makes them.

    picture, driving, sound: the contents of the pair's files; contents: of the program's image and checkpoint.
    """
    square = program.input == "square"
    chosen = {
        "relative": pair.relative,
        "adapt_scale": pair.adapt_scale,
        "find_best_frame": pair.best_frame == "auto",
        "best_frame": pair.best_frame if isinstance(pair.best_frame, int) else 0,
    }
    return {
        "source": picture,
        "driving": driving,
        "crops": [source.crop.plain, take.crop.plain] if square else None,
        "segment": [take.start, take.end],
        # A setting that the command does not use changes nothing.
        "choices": {name: value for name, value in chosen.items() if program.uses(name)},
        "sound": sound if program.uses("audio") else None,
        "program": {
            **contents,
            **{name: getattr(program, name) for name in ("command", "workdir", "input", "side", "output_side")},
            **{name: getattr(program, name) for name in ("result", "batch")},
        },
        **_encoding_asked(settings),
        **_flipped(take),
    }


def is_shown(pair: Pair, settings: Settings) -> bool:
    """Return whether a talkie shows more than the animated square: the whole picture, or the square enlarged."""
    return bool(pair.paste_back or settings.upscale)


def shown(pair: Pair, settings: Settings, picture: Any) -> Asked:
    """Return what a film that is set into its picture, or enlarged, depends on. picture: of the square."""
    if pair.paste_back:
        return {"picture": picture, "paste_back": FEATHER, "largest": LARGEST_SIDE}
    return {"picture": picture, "upscale": settings.upscale}


def talkie(pair: Pair, settings: Settings, *, picture: Any, sound: Any) -> Asked:
    """Return what a talkie depends on. picture: key of the silent film; sound: content of the pair's own sound
    file."""
    audio = {"file": sound} if isinstance(pair.audio, str) else pair.audio
    return {"picture": picture, "audio": audio, "provenance": settings.provenance}


def _flipped(take: Take) -> dict[str, bool]:
    # Only mirrored takes have this entry, so that all others keep the keys they had before it existed.
    return {"flip": True} if take.flip else {}


class Specs:
    """The specs of a plan's items. Specs of inputs are cached, since many pairs share them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._kept: dict[tuple[str, str], str] = {}

    def source(self, name: str) -> str:
        """Return the spec of a prepared picture."""
        wanted = self.plan.sources[name]
        return self._once("source", name, lambda: source(wanted, _stamped(wanted)))

    def driving(self, take: str) -> str:
        """Return the spec of a prepared take."""
        wanted = self.plan.takes[take]
        return self._once("driving", take, lambda: driving(wanted, _stamped(wanted)))

    def motion(self, take: str) -> str:
        """Return the spec of a take's keypoints."""
        wanted, preset, weights = self.plan.takes[take], self.plan.settings.model.preset, self.plan.weights
        asked = partial(motion, wanted, box=wanted.crop.plain, preset=preset, weights=weights)
        return self._once("motion", take, lambda: asked(content=self.driving(take)))

    def film(self, name: str) -> str:
        """Return the spec of a pair's silent film."""
        plan = self.plan
        pair = plan.pairs[name]
        wanted, take = plan.sources[pair.source], plan.takes[pair.take]
        if pair.engine in plan.others:
            return _spec(self._film_of_program(pair, wanted, take))
        asked = film(
            pair,
            wanted,
            take,
            plan.settings,
            picture=self.source(pair.source),
            driving=self.driving(pair.take),
            weights=plan.weights,
        )
        return _spec(asked)

    def _film_of_program(self, pair: Pair, wanted: Source, take: Take) -> Asked:
        return film_of_program(
            pair,
            wanted,
            take,
            self.plan.others[pair.engine],
            self.plan.settings,
            picture=self.source(pair.source),
            driving=self.driving(pair.take),
            sound=[pair.audio, self.plan.sounds.get(pair.audio)] if isinstance(pair.audio, str) else None,
            contents=self.plan.programs[pair.engine],
        )

    def shown(self, name: str) -> str:
        """Return the spec of the film that a pair's talkie shows: the silent film, or that made by `show`."""
        pair, settings = self.plan.pairs[name], self.plan.settings
        bare = self.film(name)
        return _spec(shown(pair, settings, bare)) if is_shown(pair, settings) else bare

    def talkie(self, name: str) -> str:
        """Return the spec of a pair's talkie."""
        return self.talkie_of(name, self.shown(name))

    def talkie_of(self, name: str, picture: str) -> str:
        """Return the spec of a pair's talkie, given the spec of the film that it shows."""
        pair = self.plan.pairs[name]
        sound = [pair.audio, self.plan.sounds.get(pair.audio)] if isinstance(pair.audio, str) else None
        return _spec(talkie(pair, self.plan.settings, picture=picture, sound=sound))

    def check(self) -> str:
        """Return the spec of the check of all files: the files, their crops, and the poses that are compared."""
        plan = self.plan
        files = {name: self.source(name) for name in plan.sources}, {name: self.driving(name) for name in plan.takes}
        return _spec([*files, compared(plan)])

    def gallery(self, receipts: Mapping[str, Mapping[str, str]]) -> str:
        """Return the spec of the gallery. receipts: the names of the receipts of what it shows."""
        shown = self.plan.settings.gallery
        private = sorted(name for name, pair in self.plan.pairs.items() if pair.private)
        films = [receipts["remux"], receipts["check"]]
        return _spec([shown.title, shown.mosaic, sorted(self.plan.pairs), private, films])

    def _once(self, kind: str, item: str, asked: Callable[[], Asked]) -> str:
        if (kind, item) not in self._kept:
            self._kept[kind, item] = _spec(asked())
        return self._kept[kind, item]


def compared(plan: Plan) -> list[tuple[str, str]]:
    """Return which takes move which pictures by motion relative to the first frame, where poses matter."""
    return sorted(
        {(p.source, p.take) for p in plan.pairs.values() if p.relative and p.best_frame is None and p.engine == FOMM}
    )


def _spec(asked: Asked | list[Any]) -> str:
    return digest([RECIPE, asked])


def _stamped(wanted: Source | Take) -> list[Any]:
    # Not the whole path: a moved folder whose files keep their times has not changed.
    return [Path(wanted.file).name, *wanted.stamp]
