"""The plan of a run: stages, pictures, takes and pairs, their keys, their shards, and the jobs with something to do.

The main process makes it when Snakemake starts; a real run writes it to .talkies/plan.json, and its jobs read that.

The stages themselves are in `talkies.stages`. Planning, state, names, ledger, estimates, logs and the command line loop
over their table and know none by name. The stages of pairs make a chain in the order of the table: each takes the film
that the wanted one before it made, and the last puts the finished film into the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from ..engines import FOMM
from ..engines.program import Program
from ..errors import InputError, TalkiesError
from ..files import digest, from_json, to_json, write_whole
from ..settings import Settings
from .folder import HOME, PLAN
from .inputs import stamp_of
from .ledger import Ledger
from .pairs import Pair, Source, Take
from .record import Film, FoundMotion, Prepared, PreparedTake, Record, Recorded, Talkie

RECIPE = 1
"""Part of every key. Raise it by hand when the same inputs give other pixels or samples on purpose."""
Contents = dict[str, str | None]
"""The digests of an engine's files, by what they are to it; None where it has none."""


Kind = Literal["pictures", "takes", "pairs"]


def _always(plan: Plan, item: str) -> bool:
    return True


def _nothing(plan: Plan, item: str) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Stage:
    """One step.

    name: of the stage and of its rule. of: the kind of its items. file: an item's file. asks: every value that decides
    that file, by the setting's name, and the keys or contents of what it is made from; NotSeen if one of these is not
    known yet. The key of the film before it in the chain is added by itself. make: makes items whose file does not
    stand; yields each with its record, or with the error in its inputs, in any order. seconds: what an item is expected
    to take. needs: the stages of pictures and takes whose results an item is made from. wanted: whether an item goes
    through this stage. on_gpu: its jobs use an engine, on a GPU or all cores.
    """

    name: str
    of: Kind
    file: Callable[[Plan, str], Recorded[Any]]
    asks: Callable[[Plan, str], Mapping[str, Any]]
    make: Callable[[Any, list[str]], Iterator[tuple[str, Record | InputError]]]
    seconds: Callable[[Plan, str], float]
    needs: Callable[[Plan, str], tuple[str, ...]] = _nothing
    wanted: Callable[[Plan, str], bool] = _always
    on_gpu: bool = False

    @property
    def reads_files(self) -> bool:
        """Whether its items are made from the user's files alone."""
        return self.of != "pairs" and self.needs is _nothing


Table = Callable[[Any], Sequence[Stage]]
"""Returns the stages of a run by its settings."""


class NotSeen(Exception):
    """The content of an input is not known yet: nothing was made from it so far."""


class Task(Struct):
    """A job with something to do.

    only: which items of its shard, of pictures and takes; a pair is due if its film does not stand.
    seconds: by estimate. needs: the stages and shards whose jobs are before it.
    """

    only: list[str]
    seconds: float
    needs: list[tuple[str, str]]


class Plan(Struct, dict=True, kw_only=True, omit_defaults=True):
    """The whole plan; its fields are the plan's file.

    shards: items by shard, by the kind of item. contents: digests of the input files that are known, by path. weights:
    the digest of the built-in engine's; programs: those of other engines' files. rates: expected frames a second of
    each engine. given: settings that the command line changed. outside: folders outside the run folder that its jobs
    read or write. tasks: the jobs with something to do, by stage and shard. pages: the names of the jobs about the
    whole run; page_keys: what they show, at plan time. nonce: the ending of this plan's job names. joined: the first
    job of a shard of pairs does the later stages too, so that a shard waits once for a node.
    """

    settings: Settings
    sources: dict[str, Source]
    takes: dict[str, Take]
    pairs: dict[str, Pair]
    shards: dict[Kind, dict[str, list[str]]] = field(default_factory=lambda: {"pictures": {}, "takes": {}, "pairs": {}})
    contents: dict[str, str] = {}
    weights: str = ""
    programs: dict[str, Contents] = {}
    rates: dict[str, float] = {}
    given: dict[str, Any] = {}
    outside: list[str] = []
    tasks: dict[str, dict[str, Task]] = {}
    pages: dict[str, str] = {}
    page_keys: dict[str, str] = {}
    nonce: str = ""
    joined: bool = False

    def __post_init__(self) -> None:
        self.stages: Sequence[Stage] = ()
        self._keys: dict[tuple[str, str], str | None] = {}

    # --- items and stages ----------------------------------------------------------------------------------

    @cached_property
    def table(self) -> dict[str, Stage]:
        """The stages by name."""
        return {stage.name: stage for stage in self.stages}

    @cached_property
    def of_pairs(self) -> list[Stage]:
        """The stages of pairs, in order: the last one makes the film in the results."""
        return [stage for stage in self.stages if stage.of == "pairs"]

    @property
    def last(self) -> Stage:
        """The stage that makes the film in the results."""
        return self.of_pairs[-1]

    @property
    def first(self) -> Stage:
        """The stage that computes a pair's pixels."""
        return self.of_pairs[0]

    def everything(self, kind: Kind) -> Iterable[str]:
        """Return all items of a kind."""
        kinds: dict[Kind, Iterable[str]] = {"pictures": self.sources, "takes": self.takes, "pairs": self.pairs}
        return kinds[kind]

    def items(self, stage: Stage, shard: str) -> list[str]:
        """Return the items of a shard that go through a stage."""
        return [item for item in self.shards[stage.of].get(shard, []) if stage.wanted(self, item)]

    @cached_property
    def _shards_of(self) -> dict[Kind, dict[str, str]]:
        return {
            kind: {item: shard for shard, items in shards.items() for item in items}
            for kind, shards in self.shards.items()
        }

    def shard_of(self, stage: Stage, item: str) -> str:
        """Return the shard of an item."""
        return self._shards_of[stage.of][item]

    def chain(self, name: str) -> list[Stage]:
        """Return the stages that a pair goes through, in order."""
        return [stage for stage in self.of_pairs if stage.wanted(self, name)]

    def before(self, stage: Stage, item: str) -> Stage | None:
        """Return the stage that makes the film that this one takes; None for the first."""
        found = None
        for each in self.of_pairs if stage.of == "pairs" else ():
            if each.name == stage.name:
                return found
            found = each if each.wanted(self, item) else found
        return None

    def inputs(self, stage: Stage, item: str) -> list[tuple[Stage, str]]:
        """Return the items of pictures and takes that an item is made from, with their stages."""
        found = []
        for name in stage.needs(self, item):
            need = self.table[name]
            if stage.of == "pairs":
                pair = self.pairs[item]
                found.append((need, pair.source if need.of == "pictures" else pair.take))
            else:
                found.append((need, item))
        return found

    # --- files ---------------------------------------------------------------------------------------------

    @property
    def results(self) -> Path:
        """The folder of the films and the gallery."""
        return Path(self.settings.results)

    @staticmethod
    def source_file(name: str) -> Recorded[Prepared]:
        """Return a prepared picture: 256 x 256 PNG."""
        return Recorded(HOME / "sources" / f"{name}.png", Prepared)

    @staticmethod
    def driving_file(take: str) -> Recorded[PreparedTake]:
        """Return a prepared take: the cropped video with sound, for the gallery; its record has the crop."""
        return Recorded(HOME / "driving" / f"{take}.mp4", PreparedTake)

    @staticmethod
    def motion_file(take: str) -> Recorded[FoundMotion]:
        """Return a take's keypoints."""
        return Recorded(HOME / "motion" / f"{take}.npz", FoundMotion)

    def film(self, stage: str, name: str) -> Recorded[Film]:
        """Return the silent film that a stage makes of a pair; it is kept until the pair's talkie is made."""
        pair = self.pairs[name]
        return Recorded(HOME / "films" / stage / pair.driving / f"{pair.stem}.mp4", Film)

    def talkie(self, name: str) -> Recorded[Talkie]:
        """Return a pair's film in the results."""
        pair = self.pairs[name]
        return Recorded(self.results / pair.driving / f"{pair.stem}.mp4", Talkie)

    # --- keys ----------------------------------------------------------------------------------------------

    def key(self, stage: Stage, item: str) -> str | None:
        """Return an item's key: equal keys mean equal pixels and samples. None while an input was never read."""
        about = stage.name, item
        if about not in self._keys:
            try:
                before = self.before(stage, item)
                self._keys[about] = digest([RECIPE, stage.name, stage.asks(self, item), self._above(before, item)])
            except NotSeen:
                self._keys[about] = None
        return self._keys[about]

    def known_key(self, stage: str, item: str) -> str:
        """Return the key of an item by the name of its stage; NotSeen while an input was never read."""
        return self._above(self.table[stage], item) or ""

    def _above(self, stage: Stage | None, item: str) -> str | None:
        key = self.key(stage, item) if stage is not None else ""
        if key is None:
            raise NotSeen
        return key or None

    def files(self) -> Iterator[tuple[Stage, str, str]]:
        """Yield the stage, the item and the path of each of the user's files."""
        for stage in self.stages:
            if stage.reads_files:
                inputs: Mapping[str, Source | Take] = self.sources if stage.of == "pictures" else self.takes
                for name, wanted in inputs.items():
                    yield stage, name, wanted.file

    def content(self, file: str) -> str:
        """Return the digest of an input file; NotSeen if it was never read."""
        if file not in self.contents:
            raise NotSeen
        return self.contents[file]

    def learn(self, ledger: Ledger) -> None:
        """Take over what workers have read of the inputs since the plan was made."""
        for stage, name, file in self.files():
            read = ledger.contents.get((stage.name, name))
            if read and read[:2] == stamp_of(Path(file)):
                self.contents[file] = read[2]
        self.forget_keys()

    def forget_keys(self) -> None:
        """Compute all keys anew, after contents became known."""
        self._keys.clear()

    # --- engines -------------------------------------------------------------------------------------------

    @cached_property
    def others(self) -> dict[str, Program]:
        """The engines that are other programs, by name."""
        return self.settings.programs

    @cached_property
    def moving_takes(self) -> set[str]:
        """The takes whose motion is computed: those that the built-in engine uses."""
        return {pair.take for pair in self.pairs.values() if pair.engine == FOMM}

    def program_of(self, shard: str) -> Program | None:
        """Return the program that animates a shard; None: the built-in engine."""
        names = self.shards["pairs"].get(shard)
        return self.others.get(self.pairs[names[0]].engine) if names else None

    @property
    def is_pilot(self) -> bool:
        """Whether only the first pairs to make are planned (`first`)."""
        return self.settings.first is not None

    # --- jobs ----------------------------------------------------------------------------------------------

    def name(self, shard: str) -> str:
        """Return the name of a shard's jobs."""
        return f"{shard}.{self.nonce}"

    def needs(self, stage: str, shard: str) -> list[tuple[str, str]]:
        """Return the stages and shards whose jobs are before a job."""
        task = self.tasks.get(stage, {}).get(shard)
        return task.needs if task else []

    def jobs(self, stage: str) -> list[str]:
        """Return the names of a stage's jobs."""
        return [self.name(shard) for shard in self.tasks.get(stage, {})]

    # --- the file ------------------------------------------------------------------------------------------

    def save(self, path: Path = PLAN) -> None:
        """Write the plan."""
        write_whole(path, to_json(self))

    @classmethod
    def load(cls, table: Table, path: Path = PLAN) -> Plan:
        """Read a plan; TalkiesError if there is none that can be read."""
        try:
            plan = from_json(path.read_bytes(), cls)
        except OSError:
            raise TalkiesError(f"{path}: no plan here: go into the run folder, and run snakemake there first") from None
        except ValueError:
            raise TalkiesError(f"{path}: a damaged plan: run snakemake again") from None
        plan.stages = table(plan.settings)
        return plan


def stored_plan(table: Table) -> Plan | None:
    """Return the folder's plan, or None if there is none that can be read."""
    try:
        return Plan.load(table)
    except TalkiesError:
        return None


def compared(plan: Plan) -> list[tuple[str, str]]:
    """Return which takes move which pictures by motion relative to the first frame, where poses matter."""
    pairs = plan.pairs.values()
    return sorted({(p.source, p.take) for p in pairs if p.relative and p.best_frame is None and p.engine == FOMM})
