"""The progress of a run: what is done, what is being made, how fast, and about when it will be finished.

It is a fold over the ledger, to which the workers append, here or on a cluster; each file is read on from where the
last read ended. The scheduler is asked only for the jobs in its queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import TalkiesError, counted, printable
from ..machine.slurm import Queue, queue
from . import ledger as ledgers
from .estimate import duration
from .folder import CHECK_PAGE, GALLERY_PAGE, LOCKS, Folder
from .ledger import Begun, Broke, Checked, Ended, Event, Failed, Ledger, Made, Reader, Started, note
from .lock import held_locks
from .plan import Plan
from .state import State, look
from .upkeep import orphans

WINDOW_SECONDS = 1200
"""The rate is computed from the films of the last 20 minutes, since workers come and go."""
SAY_SECONDS = (5, 10, 20, 30)
"""Seconds between progress lines; the last number is used from there on."""
OFTEN_SECONDS = (2,)
"""The same if each line replaces the one before."""
SHOW_SECONDS = 3
"""Seconds between updates of the gallery during a run, if there are new films."""
SHOW_SHARE = 0.05
"""The share of one core's time that the gallery may take during a run."""
MOST_NAMES = 5


@dataclass(frozen=True)
class Outlook:
    """The progress of the last run. Times are seconds since 1970, or seconds; None if not known yet.

    made, failed, animated, running: pairs since the run started; animated ones wait for their sound. left: pairs that
    the run has still to make. seconds_per_frame, seconds_per_pair: of one worker. pairs_per_minute: of all workers
    together. broke: jobs that ended before their work was done, and why.
    """

    started: float | None
    ended: float | None
    made: list[str]
    failed: dict[str, str]
    animated: list[str]
    running: list[str]
    left: list[str]
    seconds_per_frame: float | None
    seconds_per_pair: float | None
    pairs_per_minute: float | None
    seconds_left: float | None
    broke: dict[str, str]

    @property
    def pace(self) -> str:
        """Return the rate and the time left in a few words; empty if neither is known."""
        said = []
        if self.seconds_per_frame is not None and self.seconds_per_pair is not None:
            said.append(f"{_short(self.seconds_per_frame)} s a frame, {_short(self.seconds_per_pair)} s a pair")
        if self.pairs_per_minute is not None:
            said.append(f"{_short(self.pairs_per_minute)} pairs a minute")
        if self.seconds_left is not None:
            at = time.strftime("%H:%M" if self.seconds_left < 43200 else "%a %H:%M", _after(self.seconds_left))
            said.append(f"about {duration(self.seconds_left)} left (until {at})")
        return "; ".join(said)

    @property
    def so_far(self) -> str:
        """Return what the run has made and how fast, in words; empty if nothing is known yet."""
        pace = f"; {self.pace}" if self.pace else ""
        if self.ended is not None and self.started is not None:
            return f"the last run: {len(self.made)} made in {duration(self.ended - self.started)}{pace}"
        return f"the run: {self.pace}" if pace else ""


@dataclass
class _Events:
    """The ledger's events since the run started, by pair."""

    started: float | None = None
    ended: float | None = None
    begun: dict[str, tuple[str, float]] = field(default_factory=dict)  # shard and time
    films: dict[str, Made] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, str], str] = field(default_factory=dict)  # failed, by stage and item
    broke: dict[tuple[str, str], str] = field(default_factory=dict)
    seconds: float = 0.0  # of all stages


class Watch:
    """Reads the progress of the run in this folder; each call reads only what is new.

    to_make: the pairs to make when the run started, or at a later known time.
    """

    def __init__(self, plan: Plan, to_make: Iterable[str]) -> None:
        self.plan = plan
        self._to_make = list(to_make)
        self._reader = Reader()
        self._since: float | None = None
        self._events = _Events()

    def look(self) -> Outlook:
        """Read what is new and return the progress."""
        news = list(self._reader.new())
        for shard, event in news:
            if shard == ledgers.RUN and isinstance(event, Started):
                self._events = _Events(started=event.time)  # events of older runs are left out by their time
        for shard, event in news:
            if self._events.started is not None and event.time >= self._events.started:
                self._take(shard, event)
        return self._outlook(time.time())

    def _take(self, shard: str, event: Event) -> None:
        events, plan = self._events, self.plan
        if isinstance(event, Ended):
            events.ended = event.time
        elif isinstance(event, Broke):
            events.broke[event.stage, event.shard] = event.reason
            events.begun = {name: begun for name, begun in events.begun.items() if begun[0] != shard}
        elif isinstance(event, Begun):
            events.begun[event.item] = shard, event.time
            events.broke.pop((event.stage, shard), None)
        elif isinstance(event, Made) and not event.found:
            events.seconds += event.seconds
            if event.stage == plan.first.name:
                events.begun.pop(event.item, None)
                events.films[event.item] = event
            elif event.stage == plan.last.name:
                events.made.add(event.item)
        elif isinstance(event, Failed):
            if event.item in plan.pairs:
                events.begun.pop(event.item, None)
                events.failed[event.item] = event.reason
            else:
                events.inputs[event.stage, event.item] = event.reason

    def _failed_above(self, name: str) -> str | None:
        if not self._events.inputs:
            return None
        above = self.plan.inputs(self.plan.first, name)
        return next((r for stage, item in above if (r := self._events.inputs.get((stage.name, item)))), None)

    def _outlook(self, now: float) -> Outlook:
        plan, events = self.plan, self._events
        films = [film for name, film in events.films.items() if name in plan.pairs]
        frames, seconds = sum(film.frames for film in films), sum(film.seconds for film in films)
        failed = dict(events.failed)
        failed |= {name: reason for name in self._to_make if (reason := self._failed_above(name))}
        left = [n for n in self._to_make if n not in events.made and n not in failed] if events.ended is None else []
        running = list(events.begun) if events.ended is None else []
        recent = [film for film in films if film.time > now - WINDOW_SECONDS]
        # From the start of the first of them, so that waiting in a queue does not count as slowness.
        wall = max(now - max(now - WINDOW_SECONDS, min(f.time - f.seconds for f in recent)), 1.0) if recent else 0.0
        return Outlook(
            started=events.started,
            ended=events.ended,
            made=[name for name in events.made if name in plan.pairs],
            failed=failed,
            animated=[name for name in left if name in events.films],
            running=running,
            left=left,
            seconds_per_frame=seconds / frames if frames else None,
            seconds_per_pair=seconds / len(films) if films else None,
            pairs_per_minute=60 * len(recent) / wall if recent and left else None,
            seconds_left=self._seconds_left(left, recent, now),
            broke={f"{stage} {shard}": reason for (stage, shard), reason in events.broke.items()},
        )

    def _seconds_left(self, left: list[str], recent: list[Made], now: float) -> float | None:
        """Return the time left: the work that is left at the pace of the workers at work; None where none is known."""
        plan, events = self.plan, self._events
        if not left or not recent:
            return None
        expected = sum(plan.first.seconds(plan, film.item) for film in recent)
        slower = sum(film.seconds for film in recent) / expected if expected else 1.0
        work = sum(plan.first.seconds(plan, name) for name in left if name not in events.films) * slower
        for name, (_, began) in events.begun.items():
            if name in plan.pairs:
                work -= min(now - began, plan.first.seconds(plan, name) * slower)
        later = [stage for stage in plan.of_pairs if stage is not plan.first]
        work += sum(stage.seconds(plan, name) for name in left for stage in later if stage.wanted(plan, name))
        workers = len({shard for shard, _ in events.begun.values()}) or 1
        return max(work, 0.0) / workers


def start(
    plan: Plan,
    state: State,
    say: Callable[[str], object],
    say_progress: Callable[[str], object],
    show: Callable[[], object] | None = None,
    ended: Callable[[], Iterable[str]] = tuple,
    *,
    often: bool = False,
) -> threading.Event:
    """Report the progress of a run from time to time until the event is set.

    often: each line replaces the one before. show: updates the gallery; called when there are new films, for at most
    SHOW_SHARE of the time. ended: returns new lines about failed jobs.
    """
    over = threading.Event()

    def speak() -> None:
        watch, before, shown, rested = Watch(plan, state.to_make), "", 0, 0.0
        gaps = OFTEN_SECONDS if often else SAY_SECONDS
        number, due = 0, time.monotonic() + gaps[0]
        while not over.wait(min(SHOW_SECONDS, gaps[0]) if show else max(0.0, due - time.monotonic())):
            now = watch.look()
            line = f"{_count(plan, state, now)}{'; ' * bool(now.pace)}{now.pace}"
            if time.monotonic() >= due:
                number += 1
                due = time.monotonic() + gaps[min(number, len(gaps) - 1)]
                for failure in ended():
                    say(failure)
                if (now.left or often) and line != before:
                    say_progress(line)
                    before = line
            if show and now.left and len(now.made) > shown and time.monotonic() >= rested:
                began, shown = time.monotonic(), len(now.made)
                show()
                rested = time.monotonic() + (time.monotonic() - began) / SHOW_SHARE

    threading.Thread(target=speak, name="progress", daemon=True).start()
    return over


def _count(plan: Plan, state: State, now: Outlook) -> str:
    """Return the progress of a run as a line; pairs done before it started count as done."""
    failed = len({*state.failed, *now.failed})
    made = len(set(state.to_make).intersection(now.made))
    words = [f"{len(state.done) + made} of {counted(len(plan.pairs), 'pair')} done"]
    words += [f"{failed} failed"] * bool(failed)
    words += [f"{len(now.animated)} animated"] * bool(now.animated)
    words += [f"{len(now.running)} in the making"] * bool(now.running)
    return ", ".join(words)


def note_failures(failures: Iterable[tuple[str, str, str]]) -> None:
    """Note the jobs that failed for good, by stage, shard and reason, for the summary and `talkies status`."""
    for stage, shard, reason in failures:
        note(ledgers.RUN, Broke(stage=stage, shard=shard, reason=reason))


def end(plan: Plan, over: threading.Event) -> list[str]:
    """Note that the run has ended, and return its summary: pairs, failures and why, time, pace, where the films are."""
    over.set()
    note(ledgers.RUN, Ended())
    try:
        return list(_summary(plan))
    except (TalkiesError, OSError):
        return []  # the worker that met a damaged file has reported it


def _summary(plan: Plan) -> Iterator[str]:
    ledger = Ledger.read()
    plan.learn(ledger)
    state = look(plan, ledger)
    now = Watch(plan, state.to_make).look()
    yield count(plan, state)
    if now.so_far:
        yield now.so_far
    yield from failures(state.failed)
    yield from unfinished(state, now)
    yield from doubts(plan, ledger.checked)
    if state.done and (better := plan.settings.better):
        yield better
    page = Folder.of(plan).results / GALLERY_PAGE
    if page.exists() and state.done:
        yield f"the films: {printable(page)}"


def count(plan: Plan, state: State) -> str:
    """Return, in words, how many of a plan's pairs are done, failed and to make."""
    pairs = counted(len(plan.pairs), "pair")
    return f"{pairs}: {len(state.done)} done, {len(state.failed)} failed, {len(state.to_make)} to make"


@dataclass(frozen=True)
class Status:
    """The state of a run folder, as `talkies status` shows it. orphans: films whose pair is no longer wanted.

    queue: the folder's jobs on a cluster. due: how many items each stage is to make. said: lines about jobs that ended
    before their work was done, and about the check.
    """

    pairs: int
    done: list[str]
    failed: dict[str, str]
    to_make: list[str]
    due: dict[str, int]
    orphans: list[Path]
    at_work: list[str]
    count: str
    run: Outlook
    queue: Queue | None
    said: list[str]


def status_of(plan: Plan, state: State, *, running: bool) -> Status:
    """Return the state of a plan's pairs. running: a run is at work."""
    run = Watch(plan, state.to_make).look()
    begun = sorted(set(run.running).intersection(state.to_make)) if running else []
    animated = len(set(state.to_make) - set(state.to_animate))
    parts = [f"{animated} of them animated"] * bool(animated)
    parts += [f"{len(begun)} in the making"] * bool(begun)
    said = count(plan, state) + (f" ({', '.join(parts)})" if parts else "")
    return Status(
        pairs=len(plan.pairs),
        done=state.done,
        failed=state.failed,
        to_make=state.to_make,
        due={stage: len(items) for stage, items in state.due.items() if items},
        orphans=[film.path for film in orphans(plan)],
        at_work=held_locks(LOCKS),
        count=said,
        run=replace(run, running=begun),
        queue=queue(Path.cwd()),
        said=[*unfinished(state, run), *doubts(plan, Ledger.read([ledgers.RUN]).checked)],
    )


def by_reason(failed: dict[str, str]) -> dict[str, list[str]]:
    """Return what failed by its reasons: pairs, or jobs."""
    found: dict[str, list[str]] = {}
    for name, reason in sorted(failed.items(), key=lambda item: (item[1], item[0])):
        found.setdefault(reason, []).append(name)
    return found


def failures(failed: dict[str, str]) -> Iterator[str]:
    """Return what failed, a line for each reason."""
    for reason, names in by_reason(failed).items():
        yield f"failed: {reason} ({counted(len(names), 'pair')}: {some(names)})"


def unfinished(state: State, run: Outlook) -> Iterator[str]:
    """Yield a line for each reason why jobs of the last run ended before their work was done, while some is left."""
    for reason, jobs in by_reason(run.broke).items() if any(state.due.values()) else ():
        yield f"{counted(len(jobs), 'job')} not finished ({some(jobs)}): {reason}"


def doubts(plan: Plan, checked: Checked | None) -> Iterator[str]:
    """Yield a line about the files with something wrong, if there are any."""
    if checked is not None and checked.doubtful and plan.settings.check:
        yield f"{checked.said}: {printable(Folder.of(plan).results / CHECK_PAGE)}"


def some(names: list[str]) -> str:
    """Return the first few names."""
    shown = ", ".join(printable(name) for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown}, ..."


def _short(number: float) -> str:
    """Return a number with at least two digits, never with an exponent."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _after(seconds: float) -> time.struct_time:
    return time.localtime(time.time() + seconds)
