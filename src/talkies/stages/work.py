"""The worker of every stage: lock, scratch, what an item is made from, its ledger.

It holds its shard's lock, makes the items of the shard that are due, and notes each in the ledger. An item with a bad
input (InputError) is noted with its reason, and the others go on. Any other error (memory, disk, a signal, a GPU) ends
the worker before its job is done, so that the job is run again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import asdict

from .. import media
from ..errors import InputError, TalkiesError, printable
from ..files import PART, stem_of
from ..machine.scratch import open_scratch
from ..run.folder import LOCKS, shard_of
from ..run.inputs import stamp_of, unreadable
from ..run.ledger import Begun, Broke, Event, Failed, Forgotten, Ledger, Loaded, note
from ..run.lock import lock
from ..run.pairs import Pair
from ..run.plan import Plan, Stage
from ..run.planner import finish
from ..run.record import Film, R, Record, Recorded
from ..run.state import Look, made_of

if TYPE_CHECKING:
    from ..engines import Engine

    Opener = Callable[[str, Path], Engine]

log = logging.getLogger("talkies")
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How a worker reports its progress: `start` with the number of frames, `advance` by some; both may do
    nothing."""

    start: Callable[[int, str], None] = lambda frames, what: None
    advance: Callable[[int], None] = lambda frames: None

    def through(self, frames: Iterable[T]) -> Iterator[T]:
        """Yield frames, and report each when it has been used."""
        for frame in frames:
            yield frame
            self.advance(1)


class Unwanted(InputError):
    """An input that is refused unless a setting has another value. unless: the setting and that value."""

    def __init__(self, path: str | Path, reason: str, unless: tuple[str, str]) -> None:
        self.unless = unless
        super().__init__(path, reason)


def _no_engine(name: str, within: Path) -> Engine:
    raise RuntimeError("this stage asks for no network")


@dataclass
class Bench:
    """What a stage works with: plan, folder, one shard, scratch, ledger, progress and engine.

    engine: opens an engine by name, once, and gives it a folder for its files. records: of what items are made from, as
    they were read.
    """

    plan: Plan
    stage: Stage
    shard: str
    engine: Opener = _no_engine
    progress: Progress = field(default_factory=Progress)
    scratch: Path = Path()
    records: dict[tuple[str, str], Any] = field(default_factory=dict)

    @cached_property
    def look(self) -> Look:
        """What stands of this shard and of what it is made from."""
        plan = self.plan
        shards = {self.shard}
        for item in plan.items(self.stage, self.shard):
            chain = plan.chain(item)[0] if self.stage.of == "pairs" else self.stage
            todo = [(chain, item)]
            while todo:
                todo = [above for each in todo for above in plan.inputs(*each)]
                shards |= {plan.shard_of(*above) for above in todo}
        ledger = Ledger.read(shards)
        plan.learn(ledger)
        return Look(plan, ledger)

    def key(self, item: str) -> str:
        """Return an item's key."""
        return self.plan.known_key(self.stage.name, item)

    def record(self, stage: str, item: str) -> Any:
        """Return the record of what a stage made of an item; TalkiesError if that is gone or damaged."""
        if (stage, item) not in self.records:
            made_by = self.plan.table[stage]
            recorded = made_by.file(self.plan, item)
            record = recorded.fresh(self.plan.key(made_by, item) or "")
            if record is None:
                raise TalkiesError(f"{printable(recorded.path)}: it is gone or damaged; run snakemake again to make it")
            self.records[stage, item] = record
        return self.records[stage, item]

    def film(self, name: str) -> tuple[Film, Path]:
        """Return the film that the stage before made of a pair: its record and file, alone or in the talkie."""
        plan = self.plan
        before = plan.before(self.stage, name)
        assert before is not None, "the first stage makes its own film"
        key, silent = plan.known_key(before.name, name), before.file(plan, name)
        record = silent.fresh(key)
        if record is not None:
            return record, silent.path
        talkie = plan.talkie(name)
        # Its record may already be that of a newer film, if a worker was killed between the two.
        carried = talkie.record() if self.look.carried(before, name) else None
        if carried is None or carried.picture_key != key:
            self.note(*(Forgotten(stage=stage.name, item=name) for stage in (before, plan.last)))
            raise TalkiesError(f"{printable(name)}: its silent film is gone; run snakemake again to make it")
        return carried, talkie.path

    def writer(self, pair: Pair, rate: str, part: str, *, threads: int | None = None) -> media.FrameWriter:
        """Return the writer of the film that this stage makes of a pair. part: a name for the unfinished film."""
        path = self.stage.file(self.plan, pair.name).path
        path.parent.mkdir(parents=True, exist_ok=True)
        return media.FrameWriter(
            path,
            Fraction(rate),
            **media.encoding(**asdict(self.plan.settings.film)),
            threads=threads,
            part=self.scratch / part,
        )

    def note(self, *events: Event) -> None:
        """Append events to the shard's ledger."""
        note(self.shard, *events)


def one_by_one(make: Callable[[Bench, str], R], what: str) -> Callable[[Bench, list[str]], Iterator[tuple[str, Any]]]:
    """Return the `make` of a stage that makes its items one after the other. what: they are, for the progress bar."""

    def each(bench: Bench, items: list[str]) -> Iterator[tuple[str, R | InputError]]:
        bench.progress.start(len(items), what)
        for item in items:
            try:
                yield item, make(bench, item)
            except InputError as error:
                yield item, error
            bench.progress.advance(1)

    return each


def work(
    stage: Stage, plan: Plan, shard: str, *, engine: Opener = _no_engine, progress: Progress | None = None
) -> None:
    """Make the items of a shard that are due in one stage; what stands is not made again.

    Raises TalkiesError, OSError and others that end the job before its work is done.
    """
    bench = Bench(plan, stage, shard, progress=progress or Progress())
    bench.engine = _noting(engine, bench)
    try:
        with holding(shard):
            due = [item for item in plan.items(stage, shard) if _is_due(bench, item)]
            with working(bench, due):
                _make(bench, due)
    except Exception as error:
        bench.note(Broke(stage=stage.name, shard=shard, reason=" ".join(str(error).split()) or type(error).__name__))
        raise


def do_job(
    stage: Stage, plan: Plan, name: str, *, engine: Opener = _no_engine, progress: Progress | None = None
) -> None:
    """Do a job of the plan: one stage of the shard in its name, or all stages of pairs where they are joined."""
    shard = shard_of(name)
    stages = [stage]
    if plan.joined and stage is plan.first:
        stages = [each for each in plan.of_pairs if shard in plan.tasks[each.name]]
    for each in stages:
        work(each, plan, shard, engine=engine, progress=progress)
        finish(each.name, name)


def _is_due(bench: Bench, item: str) -> bool:
    look, stage, plan = bench.look, bench.stage, bench.plan
    if stage.of != "pairs":
        task = plan.tasks.get(stage.name, {}).get(bench.shard)
        wanted = task is None or item in task.only
        return wanted and look.answer(stage, item) is None and not look.failure(stage, item)
    if look.answer(plan.last, item) is not None or look.failure(plan.last, item):
        return False
    return any(each is stage for each in look.due_chain(item))


def _make(bench: Bench, items: list[str]) -> None:
    """Make items and note each in the ledger."""
    plan, stage = bench.plan, bench.stage
    for item, outcome in stage.make(bench, items) if items else ():
        if isinstance(outcome, InputError):
            reason = str(outcome) if outcome.path else outcome.reason
            bench.note(_failure(bench, item, outcome, reason))
            if outcome.path:
                log.error("%s", reason)
            continue
        recorded = stage.file(plan, item)
        bench.note(made_of(stage, item, recorded, outcome))
        if stage is plan.last:
            for each in plan.of_pairs[:-1]:
                each.file(plan, item).remove()


def _failure(bench: Bench, item: str, error: InputError, reason: str) -> Failed:
    """Return the ledger entry of an item that can't be made: it counts while its input stays as it is."""
    plan, stage, read = bench.plan, bench.stage, None
    if stage.reads_files:
        file = (plan.sources if stage.of == "pictures" else plan.takes)[item].file
        size, mtime_ns = stamp_of(Path(file))
        if file not in plan.contents:
            plan.contents[file] = unreadable((size, mtime_ns))
            plan.forget_keys()
        read = size, mtime_ns, plan.contents[file]
    unless = error.unless if isinstance(error, Unwanted) else None
    return Failed(stage=stage.name, item=item, key=bench.key(item), reason=reason, unless=unless, read=read)


def holding(shard: str) -> AbstractContextManager[None]:
    """Hold a shard's lock, and renew it."""
    return lock(LOCKS / f"{shard}.lock", say=log.info)


@contextmanager
def working(bench: Bench, items: Iterable[str]) -> Iterator[None]:
    """Remove what killed workers left of these items, and give the bench its scratch folder."""
    files = [bench.stage.file(bench.plan, item).path for item in items]
    sweep(files)
    try:
        with open_scratch(bench.plan.settings.scratch, bench.shard) as bench.scratch:
            yield
    finally:
        sweep(files)


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
            part = PART.fullmatch(path.name)
            if part and part[1] in wanted:
                path.unlink(missing_ok=True)


def since(began: float) -> float:
    """Return the seconds since a monotonic time, rounded for records and the ledger."""
    return round(time.monotonic() - began, 3)


def _noting(engine: Opener, bench: Bench) -> Opener:
    """Return the function, with a ledger entry of how long a first call took: it loads the model."""
    loaded: dict[str, Engine] = {}

    def load(name: str, within: Path) -> Engine:
        if name not in loaded:
            began = time.monotonic()
            loaded[name] = engine(name, within)
            bench.note(Loaded(seconds=since(began)))
        return loaded[name]

    return load


def begin(bench: Bench, item: str) -> None:
    """Note that the work on an item has begun."""
    bench.note(Begun(stage=bench.stage.name, item=item))
