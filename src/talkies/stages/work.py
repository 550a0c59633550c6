"""The worker of every stage: lock, scratch, failures of the stages above, receipt.

It holds its shard's lock, makes the items, and writes a receipt. An item with a bad input (InputError) gets its
reason in the receipt, and the others go on. Any other error (memory, disk, a signal, a GPU) ends the worker without a
receipt, so that the job is run again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, TalkiesError, printable
from ..files import PART, stem_of
from ..machine.scratch import Scratch, open_scratch
from ..run import asks, receipts
from ..run.asks import Specs
from ..run.estimate import BYTES_PER_FRAME
from ..run.folder import Folder
from ..run.journal import Failed, Journal, Loaded
from ..run.lock import held
from ..run.pairs import Source, Take, stamp_of
from ..run.plan import Plan
from ..run.receipts import shard_of
from ..run.record import (
    Answer,
    FoundMotion,
    Original,
    Prepared,
    PreparedTake,
    R,
    Receipt,
    Record,
    Recorded,
    content_key,
)

if TYPE_CHECKING:
    from ..engines import Engine

    Opener = Callable[[str, Path | None], Engine]

log = logging.getLogger("talkies")

UNFINISHED_BYTES = 4 * BYTES_PER_FRAME
"""Bytes a frame that the scratch disk must have free: photographs take more than drawings."""


@dataclass(frozen=True)
class Progress:
    """How a worker reports its progress: `start` with the number of frames, `advance` by some; both may do
    nothing."""

    start: Callable[[int, str], None] = lambda frames, what: None
    advance: Callable[[int], None] = lambda frames: None


@dataclass
class Bench:
    """What a stage works with: plan, folder, one shard, scratch, journal, progress and engine.

    engine: opens an engine by name, once, and gives it a folder for its files. stage, shard: those at work.
    """

    plan: Plan
    stage: Stage
    shard: str
    journal: Journal
    engine: Opener = field(default_factory=lambda: _no_engine)
    progress: Progress = field(default_factory=Progress)
    scratch: Scratch = field(default_factory=Scratch)
    _sources: dict[str, Prepared] = field(default_factory=dict)
    _takes: dict[str, PreparedTake] = field(default_factory=dict)
    _motions: dict[str, FoundMotion] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Folder:
        """The run folder's files."""
        return Folder.of(self.plan)

    @cached_property
    def above(self) -> dict[tuple[str, str], Receipt]:
        """The receipts that this stage of the shard reads, by stage and shard."""
        needs = self.plan.needs(self.stage.name, self.shard)
        return {(stage, shard): receipts.load(stage, self.plan.receipt(stage, shard)) for stage, shard in needs}

    def source(self, name: str) -> Prepared:
        """Return the record of a prepared picture; TalkiesError if it does not stand: `mend` makes it again."""
        if name not in self._sources:
            self._sources[name] = _needed(self.standing_source(name), self.folder.source(name))
        return self._sources[name]

    def take(self, name: str) -> PreparedTake:
        """Return the record of a prepared take; TalkiesError if it does not stand."""
        if name not in self._takes:
            self._takes[name] = _needed(self.standing_take(name), self.folder.driving(name))
        return self._takes[name]

    def motion(self, name: str) -> FoundMotion:
        """Return the record of a take's keypoints; TalkiesError if they are missing or damaged."""
        if name not in self._motions:
            recorded = self.folder.motion(name)
            self._motions[name] = _needed(recorded.whole(), recorded)
        return self._motions[name]

    def standing_source(self, name: str) -> Prepared | None:
        """Return the record of a prepared picture that is whole, with the wanted crop, and from the current input."""
        wanted, record = self.plan.sources[name], self.folder.source(name).whole()
        if record is None:
            return None
        key = content_key(**asks.source(wanted, record.original.sha256))
        return record if record.key == key and _is_current(record.original, wanted) else None

    def standing_take(self, name: str) -> PreparedTake | None:
        """Return the record of a prepared take that is whole, with the wanted crop, and from the current input."""
        wanted, record = self.plan.takes[name], self.folder.driving(name).whole()
        if record is None:
            return None
        key = content_key(**asks.driving(wanted, record.original.sha256))
        return record if record.key == key and _is_current(record.original, wanted) else None


def _needed(record: R | None, recorded: Recorded[R]) -> R:
    if record is None:
        raise TalkiesError(f"{printable(recorded.path)}: it is gone or damaged; run snakemake again to make it")
    return record


def _is_current(original: Original, wanted: Source | Take) -> bool:
    # Not only the time in the plan: the file may have been replaced meanwhile.
    return [original.size, original.mtime_ns] in (wanted.stamp, stamp_of(Path(wanted.file)))


def say_again(recorded: Recorded[Any]) -> None:
    """Log that a prepared file is made again."""
    log.warning("%s: it is gone or damaged and is made again", printable(recorded.path))


Outcome = Answer | InputError


@dataclass(frozen=True)
class Stage:
    """One step of a shard.

    spec: of an item of a shard. files: the files it writes, to find leftovers of killed workers beside them. make:
    makes the items that are left, and yields each one's receipt entry, in any order.
    """

    name: str
    spec: Callable[[Specs, str, str], str]
    files: Callable[[Bench, str], Recorded[Any]]
    make: Callable[[Bench, list[str]], Iterator[tuple[str, Outcome]]]


def work(
    stage: Stage, plan: Plan, name: str, *, engine: Opener | None = None, progress: Progress | None = None
) -> Receipt:
    """Do one stage of the shard in a receipt's name, and write that receipt.

    Files with the right content key are not made again. Raises TalkiesError, OSError and others that end the job
    without a receipt.
    """
    shard = shard_of(name)
    journal = Folder.journal(stage.name, shard)
    bench = Bench(plan, stage, shard, journal, _noting(engine or _no_engine, journal, shard), progress or Progress())
    items, specs = plan.items(stage.name, shard), Specs(plan)
    result = Receipt()
    with working(bench, [stage.files(bench, item).path for item in items]):
        for item in items:
            reason = _failed_above(bench, item)
            if reason is not None:
                _answer(bench, result, specs, item, InputError("", reason))
        for item, outcome in stage.make(bench, [item for item in items if item not in result.failed]):
            _answer(bench, result, specs, item, outcome)
        _save(bench, result, name)
    return result


def _failed_above(bench: Bench, item: str) -> str | None:
    for stage, shard, cause in bench.plan.comes_from(bench.stage.name, bench.shard, item):
        receipt = bench.above[stage, shard]
        if cause in receipt.failed:
            return receipt.failed[cause]
        if cause not in receipt.done:
            path = Folder.receipt(stage, bench.plan.receipt(stage, shard))
            raise TalkiesError(f"{printable(path)}: has no entry of {printable(cause)}: run snakemake again")
    return None


def _answer(bench: Bench, result: Receipt, specs: Specs, item: str, outcome: Outcome) -> None:
    result.asked[item] = bench.stage.spec(specs, bench.shard, item)
    if isinstance(outcome, InputError):
        reason = str(outcome) if outcome.path else outcome.reason
        result.failed[item] = reason
        if item in bench.plan.pairs:  # progress counts pairs, not the pictures and clips that fail above them
            bench.journal.note(Failed(pair=item, reason=reason))
        if outcome.path:
            log.error("%s", reason)
    else:
        result.done[item] = outcome


def _save(bench: Bench, result: Receipt, name: str) -> None:
    """Write the receipt, with older receipts' entries of items that are not in the plan now, and remove the older
    ones."""
    before = receipts.Receipts().read(bench.stage.name, bench.shard)
    for item, spec in before.asked.items():
        if item not in result.asked:
            result.asked[item] = spec
            if item in before.done:
                result.done[item] = before.done[item]
            if item in before.failed:
                result.failed[item] = before.failed[item]
    result.save(Folder.receipt(bench.stage.name, name))
    receipts.remove_older(bench.stage.name, name)
    if bench.stage.name in ("prepare", "motion"):
        receipts.doubt_elsewhere(bench.stage.name, bench.shard, result.done)


def holding(shard: str) -> AbstractContextManager[None]:
    """Hold a shard's lock, and renew it."""
    return held(Folder.lock(shard), say=log.info)


@contextmanager
def working(bench: Bench, films: Sequence[Path]) -> Iterator[None]:
    """Hold the shard's lock, remove killed workers' leftovers, and give the bench its scratch folder."""
    with holding(bench.shard):
        sweep(films)
        try:
            with open_scratch(bench.plan.settings.scratch, bench.shard) as bench.scratch:
                yield
        finally:
            sweep(films)


def sweep(films: Sequence[Path]) -> None:
    """Remove the temporary files that killed workers left of these films, records and encoders."""
    names: dict[Path, set[str]] = {}
    for film in films:
        record = Recorded(film, Record).record_path
        names.setdefault(film.parent, set()).update((stem_of(film.name), stem_of(record.name)))
    for folder, wanted in names.items():
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            part = re.fullmatch(PART, path.name, re.DOTALL)
            if part and part[1] in wanted:
                path.unlink(missing_ok=True)


def since(began: float) -> float:
    """Return the seconds since a monotonic time, rounded for records and journals."""
    return round(time.monotonic() - began, 3)


def flipped(take: Take) -> dict[str, bool]:
    """Return the record's entry of a mirrored take."""
    return {"flip": True} if take.flip else {}


def _noting(engine: Opener, journal: Journal, shard: str) -> Opener:
    """Return the function, with a journal entry of how long a first call took: it loads the model."""
    loaded: dict[str, Engine] = {}

    def load(name: str, within: Path | None) -> Engine:
        if name not in loaded:
            began = time.monotonic()
            loaded[name] = engine(name, within)
            journal.note(Loaded(shard=shard, seconds=since(began)))
        return loaded[name]

    return load


def _no_engine(name: str, within: Path | None) -> Engine:
    raise RuntimeError("this stage asks for no network")
