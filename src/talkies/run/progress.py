"""The progress of a run: what is done, what is being made, how fast, and about when it will be finished.

It comes from the journals that the workers append to, here or on a cluster; each is read from where the last read
ended. The scheduler is asked only for the jobs in its queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from ..errors import TalkiesError, counted, printable
from ..machine.slurm import Queue, queue
from .estimate import FRAMES_PER_SECOND, LOOK_SECONDS, REMUX_SECONDS, duration
from .folder import GALLERY_PAGE, JOURNALS, LOCKS, RUNS, Folder
from .journal import Animated, Begun, Ended, Event, Failed, Looked, Remuxed, Started, events_of
from .lock import held_locks
from .plan import Plan
from .receipts import Receipts
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
JOBS_BEFORE_FILMS = 3
"""In this order: prepare, motion, animate."""
MOST_NAMES = 5


@dataclass(frozen=True)
class Outlook:
    """The progress of the last run. Times are seconds since 1970, or seconds; None if not known yet.

    made, failed, animated, running: pairs since the run started; animated ones wait for their sound. left: pairs that
    the run's jobs have still to make. seconds_per_frame, seconds_per_pair: of one worker. pairs_per_minute: of all
    workers together.
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
    """The journals' events since the run started: by pair the time, and for its film frames and seconds."""

    started: float | None = None
    ended: float | None = None
    shards: set[str] = field(default_factory=set)
    first_looked: float | None = None
    last_animated: dict[str, float] = field(default_factory=dict)  # by shard
    first_remuxed: dict[str, float] = field(default_factory=dict)
    begun: dict[str, dict[str, float]] = field(default_factory=dict)  # by shard
    fresh: set[str] = field(default_factory=set)
    animated: dict[str, tuple[float, int, float]] = field(default_factory=dict)
    remuxed: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Watch:
    """Reads the progress of the run in this folder; each call reads only what is new.

    to_make: the pairs to make when the run started, or at a later known time.
    """

    def __init__(self, plan: Plan, to_make: Iterable[str]) -> None:
        self.plan = plan
        self._to_make = list(to_make)
        self._offsets: dict[Path, int] = {}
        self._events = _Events()
        self._of_shard: dict[str, str] = {}

    def look(self) -> Outlook:
        """Read what is new and return the progress."""
        for event in self._read_on(RUNS.path):
            if isinstance(event, Started):
                # A new run: events of older runs are skipped by their time.
                self._events = _Events(started=event.time, shards=set(event.shards))
                self._offsets = {RUNS.path: self._offsets[RUNS.path]}
            else:
                self._events.ended = event.time
        since = self._events.started or 0.0
        for path in sorted(JOURNALS.glob("*.jsonl")) if since else []:
            if path != RUNS.path:
                shard = path.stem.partition("-")[2]
                for event in self._read_on(path):
                    if event.time >= since:
                        self._take(event, shard)
        return self._outlook(time.time())

    def _read_on(self, path: Path) -> Iterator[Event]:
        """Yield the events of the lines that were finished since the last read."""
        try:
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        yield from events_of(whole.splitlines())

    def _take(self, event: Event, shard: str) -> None:
        events = self._events
        if isinstance(event, Looked):
            events.begun[shard] = {}
            events.first_looked = min(events.first_looked or event.time, event.time)
            events.fresh |= set(event.fresh)
        elif isinstance(event, Begun):
            events.begun.setdefault(shard, {})[event.pair] = event.time
        elif isinstance(event, Animated):
            events.begun.get(shard, {}).pop(event.pair, None)
            events.animated[event.pair] = event.time, event.frames, event.seconds
            events.last_animated[shard] = event.time
        elif isinstance(event, Remuxed):
            events.remuxed[event.pair] = event.time
            events.first_remuxed.setdefault(shard, event.time)
        elif isinstance(event, Failed):
            events.begun.get(shard, {}).pop(event.pair, None)
            events.failed[event.pair] = event.reason

    def _seconds_a_film(self, now: float) -> Callable[[str], float]:
        """Return the expected seconds for a pair's film, from its engine's latest films."""
        plan, sums = self.plan, dict[str, tuple[int, float]]()
        for name, (when, frames, seconds) in self._events.animated.items():
            if name in plan.pairs and when > now - WINDOW_SECONDS:
                before = sums.get(plan.pairs[name].engine, (0, 0.0))
                sums[plan.pairs[name].engine] = before[0] + frames, before[1] + seconds
        a_frame = {engine: seconds / frames for engine, (frames, seconds) in sums.items() if frames}

        def takes(name: str) -> float:
            engine = plan.pairs[name].engine
            return self._frames(name) * a_frame.get(engine, 1 / plan.rate(engine))

        return takes

    def _outlook(self, now: float) -> Outlook:
        plan, events = self.plan, self._events
        films = [film for name, film in events.animated.items() if name in plan.pairs]
        frames, seconds = sum(film[1] for film in films), sum(film[2] for film in films)
        running = [name for shard in events.begun.values() for name in shard] if events.ended is None else []
        left = self._left() if events.ended is None else []
        to_animate = [n for n in left if n not in events.animated and n not in events.fresh]
        recent = [film for film in films if film[0] > now - WINDOW_SECONDS]
        # From the start of the first of them, so that waiting in a queue does not count as slowness.
        wall = max(now - max(now - WINDOW_SECONDS, min(f[0] - f[2] for f in recent)), 1.0) if recent else 0.0
        seconds_left: float | None = None
        learnt = any(rate != FRAMES_PER_SECOND for rate in plan.rates.values())
        if left and (recent or (running and learnt)):  # not from a mere guess
            # From the seconds a frame: unfinished films count with the time already spent on them.
            takes = self._seconds_a_film(now)
            work = sum(map(takes, to_animate))
            for films_begun in events.begun.values():
                work -= sum(min(now - began, takes(n)) for n, began in films_begun.items())
            workers = max(1, sum(map(bool, events.begun.values())))
            seconds_left = max(work, 0.0) / workers + REMUX_SECONDS * self._longest_tail(left)
            # Between a shard's animation and its sound a job waits and starts; so do the jobs that have not started.
            waiting = {self._of_shard[name] for name in to_animate} - events.begun.keys()
            seconds_left += self._gap() * (1 + math.ceil(len(waiting) / workers)) + LOOK_SECONDS * len(plan.pairs)
        return Outlook(
            started=events.started,
            ended=events.ended,
            made=[name for name in events.remuxed if name in plan.pairs],
            failed=dict(events.failed),
            animated=[name for name in left if name in events.animated or name in events.fresh],
            running=running,
            left=left,
            seconds_per_frame=seconds / frames if frames else None,
            seconds_per_pair=seconds / len(films) if films else None,
            pairs_per_minute=60 * len(recent) / wall if recent and left else None,
            seconds_left=seconds_left,
        )

    def _gap(self) -> float:
        """Return the seconds from when a job may start to its first pair.

        This is measured on shards that have their sound, or, until there is one, on the first job's start.
        """
        events = self._events
        gaps = [time - events.last_animated[s] for s, time in events.first_remuxed.items() if s in events.last_animated]
        if gaps := [gap for gap in gaps if gap > 0]:
            return median(gaps)
        if events.first_looked is None or events.started is None:
            return 0.0
        return max(0.0, events.first_looked - events.started) / JOBS_BEFORE_FILMS

    def _frames(self, name: str) -> int:
        pair = self.plan.pairs.get(name)
        return self.plan.takes[pair.take].frames if pair else 0

    def _left(self) -> list[str]:
        """Return the pairs that the run's jobs have still to make."""
        events, plan = self._events, self.plan
        if not self._of_shard:
            self._of_shard = {name: shard for shard, names in plan.pair_shards.items() for name in names}
        over = {shard for shard in events.shards if self._is_over(shard)}
        return [
            name
            for name in self._to_make
            if name not in events.remuxed
            and name not in events.failed
            and self._of_shard[name] in events.shards
            and self._of_shard[name] not in over
        ]

    def _is_over(self, shard: str) -> bool:
        """Return whether a shard's last receipt exists: then all of its pairs are done or failed."""
        return shard in self.plan.pair_shards and Folder.receipt("remux", self.plan.receipt("remux", shard)).exists()

    def _longest_tail(self, left: Iterable[str]) -> int:
        """Return the pairs of the shard with the most pairs left: they get their sound when all are animated."""
        waiting = set(left)
        return max((len(waiting.intersection(names)) for names in self.plan.pair_shards.values()), default=0)


def start(
    plan: Plan,
    state: State,
    shards: Iterable[str],
    say: Callable[[str], object],
    say_progress: Callable[[str], object],
    show: Callable[[], object] | None = None,
    ended: Callable[[], Iterable[str]] = tuple,
    *,
    often: bool = False,
) -> threading.Event:
    """Note that a run of these shards starts, and report its progress from time to time until the event is set.

    often: each line replaces the one before.
    show: updates the gallery; called when there are new films, for at most SHOW_SHARE of the time.
    ended: returns new lines about failed jobs.
    """
    RUNS.note(Started(shards=sorted(shards)))
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


def end(plan: Plan, over: threading.Event | None) -> list[str]:
    """Note that the run has ended, and return its summary: pairs, failures and why, time, pace, where the films are."""
    if over is None:
        return []
    over.set()
    RUNS.note(Ended())
    try:
        return list(_summary(plan))
    except (TalkiesError, OSError):
        return []  # the worker that met a damaged file has reported it


def _summary(plan: Plan) -> Iterator[str]:
    state = look(plan, Receipts(), "none")
    now = Watch(plan, state.to_make).look()
    yield count(plan, state)
    if now.so_far:
        yield now.so_far
    yield from failures(state.failed)
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

    queue: the folder's jobs on a cluster.
    """

    pairs: int
    done: list[str]
    failed: dict[str, str]
    to_make: list[str]
    orphans: list[Path]
    at_work: list[str]
    count: str
    run: Outlook
    queue: Queue | None


def status_of(plan: Plan, state: State, run: Outlook, *, running: bool) -> Status:
    """Return the state of a plan's pairs.

    running: a run is at work; pairs that its workers have finished count as done, though no receipt has them yet.
    """
    at_work = held_locks(LOCKS)
    made, failed = set(state.to_make).intersection(run.made if running else ()), dict(state.failed)
    if running:
        failed |= {name: reason for name, reason in run.failed.items() if name in plan.pairs}
    done = [*state.done, *(name for name in state.to_make if name in made)]
    to_make = [name for name in state.to_make if name not in made and name not in failed]
    begun = sorted(set(run.running).intersection(to_make)) if running else []
    parts = [f"{len(run.animated)} of them animated"] * bool(run.animated and running)
    parts += [f"{len(begun)} in the making"] * bool(begun)
    said = count(plan, State(done, failed, to_make)) + (f" ({', '.join(parts)})" if parts else "")
    return Status(
        len(plan.pairs),
        done,
        failed,
        to_make,
        [f.path for f in orphans(plan)],
        at_work,
        said,
        replace(run, running=begun),
        queue(Path.cwd()),
    )


def by_reason(failed: dict[str, str]) -> dict[str, list[str]]:
    """Return the pairs that failed by their reasons."""
    found: dict[str, list[str]] = {}
    for name, reason in sorted(failed.items(), key=lambda item: (item[1], item[0])):
        found.setdefault(reason, []).append(name)
    return found


def failures(failed: dict[str, str]) -> Iterator[str]:
    """Return what failed, a line for each reason."""
    for reason, names in by_reason(failed).items():
        yield f"failed: {reason} ({counted(len(names), 'pair')}: {some(names)})"


def some(names: list[str]) -> str:
    """Return the first few names."""
    shown = ", ".join(printable(name) for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown}, ..."


def _short(number: float) -> str:
    """Return a number with at least two digits, never with an exponent."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _after(seconds: float) -> time.struct_time:
    return time.localtime(time.time() + seconds)
