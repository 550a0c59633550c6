"""What each stage's result depends on: one function a stage, from which both the spec and the content key come.

A *content key* (sha256) is taken by a worker, who knows the inputs' contents: equal keys, equal pixels and samples. A
*spec* is taken by the plan, which knows sizes and times alone: equal specs, nothing has changed since the receipt was
written. In either, an input stands for all that was asked of it, so a change reaches all that depend on it.
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
    from .keys import Settings
    from .pairs import Pair, Source, Take
    from .plan import Plan

ENCODING: dict[str, Any] = {"crf": 18, "preset": "veryfast", "encoder": "x264"}
"""How films are encoded where config.yaml says nothing (`FrameWriter`)."""
FIRST_ENCODING: dict[str, Any] = {"crf": 18, "preset": "medium"}
"""What stands in keys for ENCODING, whatever that is: by this all films were made at first. So a film that was made by
an earlier one is done, and only what config.yaml says of its own makes another."""

Asked = dict[str, Any]


def encoding(settings: Settings) -> dict[str, Any]:
    """Return how a run's films are encoded: crf, preset, encoder."""
    return ENCODING | _own_encoding(settings)


def _own_encoding(settings: Settings) -> dict[str, Any]:
    """Return what config.yaml says of encoding that is not left to talkies."""
    own = {name: value for name, value in asdict(settings.film).items() if value not in (None, "x264")}
    if own.get("encoder") == "nvenc":  # and where that can't be opened, x264 takes the usual preset
        own.pop("preset", None)
    return own


def _encoding_asked(settings: Settings, **more: Any) -> Asked:
    own = _own_encoding(settings)
    return {"film": {**more, **FIRST_ENCODING}, **({"own_encoding": own} if own else {})}


def source(wanted: Source, content: Any) -> Asked:
    """Return what a prepared picture depends on. content: of its file."""
    return {"kind": "source", "content": content, "crop": wanted.crop.plain, "size": FILM_SIZE}


def driving(wanted: Take, content: Any) -> Asked:
    """Return what a prepared take depends on. content: of its file."""
    segment = [wanted.start, wanted.end]
    return {
        **{"kind": "driving", "content": content, "crop": wanted.crop.plain, "segment": segment, "size": FILM_SIZE},
        **_flipped(wanted),
    }


def motion(wanted: Take, *, content: Any, box: Any, preset: str, weights: Any) -> Asked:
    """Return what a take's keypoints depend on. box: the square that was cut; weights: the network's."""
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

    picture, driving: the contents of its files. recipe: of the preset; None takes today's.
    """
    model = settings.model
    recipe = PRESETS[model.preset].recipe if recipe is None else recipe
    return {
        "source": picture,
        "source_crop": source.crop.plain,
        "driving": driving,
        "driving_crop": take.crop.plain,
        "segment": [take.start, take.end],
        # Of the driving keypoints themselves nothing is scaled, nor counted from a frame.
        "motion": [pair.adapt_scale, pair.best_frame or 0] if pair.relative else "absolute",
        "preset": model.preset,
        "precision": model.precision,
        "weights": weights,
        **_encoding_asked(settings, size=FILM_SIZE),
        **_flipped(take),
        # A preset whose films changed while its weights did not; the others' keys are what they were.
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
    """Return what a pair's pixels depend on where another program makes them.

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
        # A choice that the command does not take changes nothing.
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
    """Tell whether a talkie shows more than the animated square: the whole picture, or the square enlarged."""
    return bool(pair.paste_back or settings.upscale)


def shown(pair: Pair, settings: Settings, picture: Any) -> Asked:
    """Return what a film that is set into its picture, or enlarged, depends on. picture: of the square."""
    if pair.paste_back:
        return {"picture": picture, "paste_back": FEATHER, "largest": LARGEST_SIDE}
    return {"picture": picture, "upscale": settings.upscale}


def talkie(pair: Pair, settings: Settings, *, picture: Any, sound: Any) -> Asked:
    """Return what a talkie depends on. picture: of what it shows; sound: the content of a sound file of its own."""
    audio = {"file": sound} if isinstance(pair.audio, str) else pair.audio
    return {"picture": picture, "audio": audio, "provenance": settings.provenance}


def _flipped(take: Take) -> dict[str, bool]:
    # Takes that are not mirrored have no such entry: their keys are what they were before it could be asked for.
    return {"flip": True} if take.flip else {}


class Specs:
    """The specs of a plan's items; those of inputs are kept, since many pairs share them."""

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
            recipe=1 if plan.without_specs else None,
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
        """Return the spec of what a pair's talkie shows: that of the silent film where it shows the square alone."""
        pair, settings = self.plan.pairs[name], self.plan.settings
        bare = self.film(name)
        return _spec(shown(pair, settings, bare)) if is_shown(pair, settings) else bare

    def talkie(self, name: str) -> str:
        """Return the spec of a pair's talkie."""
        return self.talkie_of(name, self.shown(name))

    def talkie_of(self, name: str, picture: str) -> str:
        """Return the spec of a pair's talkie that shows what this spec tells."""
        pair = self.plan.pairs[name]
        sound = [pair.audio, self.plan.sounds.get(pair.audio)] if isinstance(pair.audio, str) else None
        return _spec(talkie(pair, self.plan.settings, picture=picture, sound=sound))

    def check(self) -> str:
        """Return the spec of the look at all files: what they are, how they are cut, whose poses are compared."""
        plan = self.plan
        files = {name: self.source(name) for name in plan.sources}, {name: self.driving(name) for name in plan.takes}
        return _spec([*files, compared(plan)])

    def gallery(self, receipts: Mapping[str, Mapping[str, str]]) -> str:
        """Return the spec of the gallery. receipts: the names of those that tell of what it shows."""
        shown = self.plan.settings.gallery
        private = sorted(name for name, pair in self.plan.pairs.items() if pair.private)
        films = [receipts["remux"], receipts["check"]]
        return _spec([shown.title, shown.mosaic, sorted(self.plan.pairs), private, films])

    def _once(self, kind: str, item: str, asked: Callable[[], Asked]) -> str:
        if (kind, item) not in self._kept:
            self._kept[kind, item] = _spec(asked())
        return self._kept[kind, item]


def compared(plan: Plan) -> list[tuple[str, str]]:
    """Return which pictures are moved by which takes, counted from the first frame: there poses matter."""
    return sorted(
        {(p.source, p.take) for p in plan.pairs.values() if p.relative and p.best_frame is None and p.engine == FOMM}
    )


def _spec(asked: Asked | list[Any]) -> str:
    return digest([RECIPE, asked])


def _stamped(wanted: Source | Take) -> list[Any]:
    # Not the whole path: a folder that was moved with its files' times holds what it held.
    return [Path(wanted.file).name, *wanted.stamp]
