"""The plan of a run: sources, takes, pairs and their shards. Real runs write it to .talkies/plan.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..command import Program
from ..engines import FOMM
from ..errors import TalkiesError
from ..files import NUMBER, fits, read_json, write_json
from ..fomm.model.presets import demo_digest
from .asks import is_shown
from .estimate import FRAMES_PER_SECOND, animating_seconds
from .folder import PLAN
from .pairs import Pair, Source, Take, stamp_of, usual_choices
from .programs import programs

FORMAT = 2

TEXT = (str, None)
CROP = (str, [NUMBER])
SETTINGS = {
    **dict.fromkeys(("images", "driving", "results"), str),
    **dict.fromkeys(("pairs", "scratch", "container"), TEXT),
    **dict.fromkeys(("first", "upscale", "threads"), (*NUMBER, None)),
    **dict.fromkeys(("job_minutes", "pairs_per_job", "gpus"), NUMBER),
    **dict.fromkeys(("provenance", "check"), bool),
    "files": {"*": dict},
    "faceless": str,
    "slurm": {"gpu": dict, "cpu": dict},
    "motion": {"relative": bool, "adapt_scale": bool, "best_frame": (str, *NUMBER, None)},
    "engines": {"*": dict},
    "film": {"preset": TEXT, "crf": (*NUMBER, None), "encoder": str},
    "model": {"preset": str, "checkpoint": TEXT, "device": str, "precision": str},
    "gallery": {"title": str, "mosaic": (*NUMBER, None), "report": bool},
}
TAKE = {"driving": str, "file": str, "stamp": [int], "crop": CROP, "start": TEXT, "end": TEXT, "frames": int}
SHAPE = {
    "settings": SETTINGS,
    "sources": {"*": {"file": str, "stamp": [int], "crop": CROP}},
    "takes": {"*": {**TAKE, "flip": bool}},
    "pictures": {"*": [str]},
    "clips": {"*": [str]},
    "shards": {"*": [list]},
    "outside": [str],
    "rates": {"*": NUMBER},
}
"""The shape of a plan's file (`records.fits`)."""
PAIR = {
    **dict.fromkeys(("driving", "image"), str),
    **dict.fromkeys(("variant", "start", "end"), TEXT),
    **dict.fromkeys(("relative", "adapt_scale", "flip", "private", "paste_back"), bool),
    **dict.fromkeys(("crop", "driving_crop"), (*CROP, None)),
    "best_frame": (str, *NUMBER, None),
    "audio": (bool, str),
    "engine": str,
}


@dataclass
class Plan:
    """The whole plan.

    picture_shards, take_shards: the shards of preparation and motion; pair_shards: those of pairs. receipts: the name
    of each shard's receipt, by stage. outside: folders outside the run folder that its jobs read or write. sounds:
    size and time of the sound files of pairs. weights: identifies the network's weights without loading them;
    programs: the same for images and checkpoints of other engines, by engine. rates: expected frames a second of each
    engine. given: settings that the command line changed. joined: the animating jobs add the sound too, so that a
    shard waits once for a node.
    """

    settings: dict[str, Any]
    sources: dict[str, Source]
    takes: dict[str, Take]
    pairs: dict[str, Pair]
    picture_shards: dict[str, list[str]] = field(default_factory=dict)
    take_shards: dict[str, list[str]] = field(default_factory=dict)
    pair_shards: dict[str, list[str]] = field(default_factory=dict)
    receipts: dict[str, dict[str, str]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    sounds: dict[str, list[int]] = field(default_factory=dict)
    weights: Any = None
    programs: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    joined: bool = False
    without_specs: bool = False
    """Whether it was read from a plan of format 1, whose receipts have no specs."""

    @property
    def is_pilot(self) -> bool:
        """Whether only the first pairs to make are planned (`first`)."""
        return self.settings.get("first") is not None

    @property
    def engines(self) -> dict[str, dict[str, Any]]:
        """The engines' keys by name; empty for the built-in one."""
        return self.settings["engines"]

    @cached_property
    def others(self) -> dict[str, Program]:
        """The engines that are other programs, by name."""
        return programs(self.settings)

    def rate(self, engine: str) -> float:
        """Return the expected frames a second of an engine."""
        return self.rates.get(engine, FRAMES_PER_SECOND)

    def seconds_of(self, pair: Pair) -> float:
        """Return the expected seconds for a pair's film."""
        return animating_seconds(self, pair)

    @cached_property
    def shard_of_source(self) -> dict[str, str]:
        """The shard that prepares each source."""
        return {name: shard for shard, names in self.picture_shards.items() for name in names}

    @cached_property
    def shard_of_take(self) -> dict[str, str]:
        """The shard that prepares each take."""
        return {take: shard for shard, takes in self.take_shards.items() for take in takes}

    @cached_property
    def moving_takes(self) -> set[str]:
        """The takes whose motion is computed: those that the built-in engine uses."""
        if len(self.engines) == 1:
            return set(self.takes) if FOMM in self.engines else set()
        return {pair.take for pair in self.pairs.values() if pair.engine == FOMM}

    def by_program(self, shard: str) -> bool:
        """Return whether a program animates a shard, not the built-in engine."""
        return any(self.pairs[name].engine != FOMM for name in self.pair_shards.get(shard, []))

    def is_shown(self, name: str) -> bool:
        """Return whether a pair's talkie shows more than the animated square."""
        return is_shown(self.pairs[name], self.settings)

    def receipt(self, stage: str, shard: str) -> str:
        """Return the name of a shard's receipt."""
        return self.receipts[stage][shard]

    def items(self, stage: str, shard: str) -> Sequence[str]:
        """Return the items of a shard that a stage works on: sources, takes or pairs."""
        if stage == "show":
            return [name for name in self.pair_shards[shard] if self.is_shown(name)]
        if stage == "motion":
            return [take for take in self.take_shards.get(shard, []) if take in self.moving_takes]
        for shards in (self.pair_shards, self.take_shards, self.picture_shards):
            if shard in shards:
                return shards[shard]
        return []

    def comes_from(self, stage: str, shard: str, item: str) -> list[tuple[str, str, str]]:
        """Return the items of the stages above that an item is made from, as stage, shard, item."""
        if stage == "motion":
            return [("prepare", shard, item)]
        if stage == "animate":
            pair = self.pairs[item]
            source, take = pair.source, pair.take
            # The built-in engine computes a take's motion once for all pictures; programs get the clip itself.
            of_take = "motion" if pair.engine == FOMM else "prepare"
            return [("prepare", self.shard_of_source[source], source), (of_take, self.shard_of_take[take], take)]
        if stage == "show":
            return [("animate", shard, item)]
        if stage == "remux":
            return [("show" if self.is_shown(item) else "animate", shard, item)]
        return []

    def needs(self, stage: str, shard: str) -> list[tuple[str, str]]:
        """Return the stages and shards whose receipts a stage of a shard reads."""
        items = self.items(stage, shard)
        return sorted({above[:2] for item in items for above in self.comes_from(stage, shard, item)})

    def save(self, path: Path = PLAN) -> None:
        """Write the plan."""
        ordinary = usual_choices(self.settings)
        value = {
            "format": FORMAT,
            "settings": self.settings,
            "sources": {name: _plain(vars(source)) for name, source in self.sources.items()},
            "takes": {name: _plain(vars(take)) for name, take in self.takes.items()},
            "pictures": self.picture_shards,
            "clips": self.take_shards,
            "shards": {
                shard: [_compact(self.pairs[name], ordinary) for name in names]
                for shard, names in self.pair_shards.items()
            },
            "receipts": self.receipts,
            "outside": self.outside,
            "sounds": self.sounds,
            "weights": self.weights,
            "programs": self.programs,
            "rates": self.rates,
            "given": self.given,
            "joined": self.joined,
        }
        if read_json(path) != value:
            write_json(path, value)

    @classmethod
    def load(cls, path: Path = PLAN) -> Plan:
        """Read a plan; TalkiesError if there is none or another version of talkies wrote it."""
        value = read_json(path)
        if value is None:
            raise TalkiesError(f"{path}: no plan here: go into the run folder, and run snakemake there first")
        if value.get("format") not in (1, FORMAT):
            raise TalkiesError(f"{path}: a plan of format {value.get('format')}, not {FORMAT}: run snakemake again")
        try:
            _bring_up(value)
            if fits(value, SHAPE):
                plan = cls._from_json(value)
                if plan._is_complete():
                    return plan
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            pass
        raise TalkiesError(f"{path}: a damaged plan: run snakemake again")

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Plan:
        settings = value["settings"]
        plan = cls(
            settings=settings,
            sources={name: Source(**_with_crops(source)) for name, source in value["sources"].items()},
            takes={name: Take(**_with_crops(take)) for name, take in value["takes"].items()},
            pairs={},
            picture_shards=value["pictures"],
            take_shards=value["clips"],
            outside=value["outside"],
            programs=value["programs"],
            rates=value["rates"],
        )
        ordinary = usual_choices(settings)
        for shard, rows in value["shards"].items():
            pairs = [Pair(row[0], row[1], **(ordinary | (_with_crops(row[2]) if len(row) > 2 else {}))) for row in rows]
            if not all(isinstance(pair.driving, str) and isinstance(pair.image, str) for pair in pairs):
                raise TypeError("a name that is no text")
            plan.pair_shards[shard] = [pair.name for pair in pairs]
            plan.pairs.update((pair.name, pair) for pair in pairs)
        if value["format"] == 1:
            plan.without_specs = True
            plan.sounds, plan.weights = stamps_of_sounds(plan.pairs.values()), weights_of(settings)
        else:
            plan.receipts, plan.sounds, plan.weights = value["receipts"], value["sounds"], value["weights"]
            plan.given, plan.joined = value["given"], value.get("joined") is True
        return plan

    def _is_complete(self) -> bool:
        """Return whether every name in the plan exists there, and every pair has fields of the right types."""
        usual = Pair("", "", **usual_choices(self.settings))[2:]
        shards = {**self.picture_shards, **self.take_shards, **self.pair_shards}
        named = {stage: {"*": str} for stage in self.receipts}
        return (
            self.shard_of_source.keys() == self.sources.keys()
            and self.shard_of_take.keys() == self.takes.keys()
            and all(fits(_plain(pair._asdict()), PAIR) for pair in self.pairs.values() if pair[2:] != usual)
            and all(pair.source in self.sources and pair.take in self.takes for pair in self.pairs.values())
            and all(pair.engine in self.engines for pair in self.pairs.values())
            and self.others.keys() == self.programs.keys()
            and (self.without_specs or (fits(self.receipts, named) and self._names_all(shards)))
        )

    def _names_all(self, shards: Iterable[str]) -> bool:
        """Return whether each shard's last receipt has a name."""
        named = set(self.receipts.get("prepare", {})) | set(self.receipts.get("remux", {}))
        return named.issuperset(shards)


def stored_plan() -> Plan | None:
    """Return the folder's plan, or None if there is none that this version can continue from."""
    try:
        return Plan.load()
    except TalkiesError:
        return None


def stamps_of_sounds(pairs: Iterable[Pair]) -> dict[str, list[int]]:
    """Return size and time of the pairs' sound files."""
    return {audio: stamp_of(Path(audio)) for audio in sorted({p.audio for p in pairs if isinstance(p.audio, str)})}


def weights_of(settings: Mapping[str, Any]) -> Any:
    """Return what identifies the network's weights without loading them.

    This is a checkpoint's size and time, or, for weights in the package, their digest.
    """
    checkpoint = settings["model"]["checkpoint"]
    return stamp_of(Path(checkpoint)) if checkpoint else demo_digest()


def _bring_up(value: dict[str, Any]) -> None:
    """Add the fields that a plan from before other engines and encodings lacks."""
    value["settings"].setdefault("faceless", "refuse")
    value["settings"].setdefault("film", {"preset": None, "crf": None, "encoder": "x264"})
    if "rates" not in value:
        value["settings"].setdefault("engines", {FOMM: {}})
        value |= {"programs": {}, "rates": {FOMM: value["rate"]}}


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as they are after a round trip through JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _with_crops(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields read from JSON, with boxes as crop.parse returns them."""
    return {
        name: tuple(value) if name.endswith("crop") and isinstance(value, list) else value
        for name, value in fields.items()
    }


def _compact(pair: Pair, ordinary: Mapping[str, Any]) -> list[Any]:
    fields = pair._asdict()
    special = _plain(
        {k: value for k, value in fields.items() if k not in ("driving", "image") and value != ordinary.get(k)}
    )
    return [pair.driving, pair.image, special] if special else [pair.driving, pair.image]
