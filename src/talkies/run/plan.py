"""The plan of a run: sources, takes, pairs and their shards. Real runs write it to .talkies/plan.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from ..engines import FOMM
from ..errors import TalkiesError
from ..files import from_json, to_json, typed, write_whole
from ..fomm.model.presets import demo_digest
from ..program import Program
from ..settings import Settings
from .asks import is_shown
from .estimate import FRAMES_PER_SECOND, animating_seconds
from .folder import PLAN
from .pairs import Pair, Source, Take, choices_of, stamp_of, usual_pair
from .programs import Contents

FORMAT = 3
Weights = str | list[int] | None
"""What tells a network's weights from others without loading them: a digest, or size and time."""


class Row(Struct, array_like=True, omit_defaults=True):
    """A pair in a plan's file. own: its fields that are not the usual ones."""

    driving: str
    image: str
    own: dict[str, Any] = {}


IN_FILE = {"picture_shards": "pictures", "take_shards": "clips", "rows": "shards"}
"""Fields that have another name in a plan's file."""


class Stored(Struct, kw_only=True, omit_defaults=True, rename=IN_FILE):
    """A plan's file: `Plan`'s fields, and for each shard of pairs its rows."""

    format: int
    settings: Settings
    sources: dict[str, Source]
    takes: dict[str, Take]
    picture_shards: dict[str, list[str]]
    take_shards: dict[str, list[str]]
    rows: dict[str, list[Row]]
    receipts: dict[str, dict[str, str]]
    outside: list[str]
    sounds: dict[str, list[int]]
    weights: Weights
    programs: dict[str, Contents]
    rates: dict[str, float | int]
    given: dict[str, Any]
    joined: bool = False


ALIKE = [name for name in Stored.__struct_fields__ if name not in ("format", "rows")]
"""The fields that `Plan` and its file have in common."""


class _Head(Struct):
    format: int


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

    settings: Settings
    sources: dict[str, Source]
    takes: dict[str, Take]
    pairs: dict[str, Pair]
    picture_shards: dict[str, list[str]] = field(default_factory=dict)
    take_shards: dict[str, list[str]] = field(default_factory=dict)
    pair_shards: dict[str, list[str]] = field(default_factory=dict)
    receipts: dict[str, dict[str, str]] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    sounds: dict[str, list[int]] = field(default_factory=dict)
    weights: Weights = None
    programs: dict[str, Contents] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    joined: bool = False

    @property
    def is_pilot(self) -> bool:
        """Whether only the first pairs to make are planned (`first`)."""
        return self.settings.first is not None

    @property
    def engines(self) -> dict[str, Program | None]:
        """The engines by name, None for the built-in one."""
        return self.settings.by_engine

    @cached_property
    def others(self) -> dict[str, Program]:
        """The engines that are other programs, by name."""
        return self.settings.programs

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
        """Write the plan, where it is another than what is there."""
        usual = usual_pair(self.settings)
        rows = {shard: [_row(self.pairs[name], usual) for name in names] for shard, names in self.pair_shards.items()}
        stored = Stored(format=FORMAT, rows=rows, **{name: getattr(self, name) for name in ALIKE})
        content = to_json(stored)
        with suppress(OSError):
            if path.read_bytes() == content:
                return
        write_whole(path, content)

    @classmethod
    def load(cls, path: Path = PLAN) -> Plan:
        """Read a plan; TalkiesError if there is none or another version of talkies wrote it."""
        try:
            content = path.read_bytes()
            known = from_json(content, _Head).format
        except (OSError, ValueError):
            raise TalkiesError(f"{path}: no plan here: go into the run folder, and run snakemake there first") from None
        if known != FORMAT:
            raise TalkiesError(f"{path}: a plan of format {known}, not {FORMAT}: run snakemake again")
        try:
            plan = cls._of(from_json(content, Stored))
            if plan._is_complete():
                return plan
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            pass
        raise TalkiesError(f"{path}: a damaged plan: run snakemake again")

    @classmethod
    def _of(cls, stored: Stored) -> Plan:
        plan = cls(pairs={}, **{name: getattr(stored, name) for name in ALIKE})
        usual = usual_pair(stored.settings)
        choices, fields = choices_of(usual), asdict(usual)
        for shard, rows in stored.rows.items():
            pairs = [
                typed({**fields, "driving": row.driving, "image": row.image, **row.own}, Pair)
                if row.own
                else Pair(row.driving, row.image, *choices)
                for row in rows
            ]
            plan.pair_shards[shard] = [pair.name for pair in pairs]
            plan.pairs.update(zip(plan.pair_shards[shard], pairs, strict=True))
        return plan

    def _is_complete(self) -> bool:
        """Return whether every name in the plan exists there."""
        shards = {**self.picture_shards, **self.take_shards, **self.pair_shards}
        return (
            self.shard_of_source.keys() == self.sources.keys()
            and self.shard_of_take.keys() == self.takes.keys()
            and all(pair.source in self.sources and pair.take in self.takes for pair in self.pairs.values())
            and all(pair.engine in self.engines for pair in self.pairs.values())
            and self.others.keys() == self.programs.keys()
            and self._names_all(shards)
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


def weights_of(settings: Settings) -> Weights:
    """Return what identifies the network's weights without loading them.

    This is a checkpoint's size and time, or, for weights in the package, their digest.
    """
    checkpoint = settings.model.checkpoint
    return stamp_of(Path(checkpoint)) if checkpoint else demo_digest()


def _row(pair: Pair, usual: Pair) -> Row:
    if choices_of(pair) == choices_of(usual):
        return Row(pair.driving, pair.image)
    fields = zip(pair.__struct_fields__[2:], choices_of(pair), choices_of(usual), strict=True)
    return Row(pair.driving, pair.image, {name: value for name, value, other in fields if value != other})
