"""The progress of a run: what is done, what is being made, how fast, and about when it will be finished.

It is a fold over the ledger, to which the workers append, here or on a cluster; each file is read on from where the
last read ended.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import TalkiesError, counted, printable
from . import ledger as ledgers
from .estimate import duration
from .folder import CHECK_PAGE, GALLERY_PAGE, LOCKS
from .ledger import Broke, Checked, Ended, Failed, Ledger, Made, note
from .lock import held_locks
from .plan import Plan, Stage
from .state import State, look
from .upkeep import orphans

log = logging.getLogger("talkies")

WINDOW_SECONDS = 1200
"""The rate is computed from the films of the last 20 minutes, since workers come and go."""
FIRST_SECONDS, LAST_SECONDS = 10.0, 600.0
"""Seconds between progress lines: each gap is twice the one before."""
OFTEN_SECONDS = 2.0
"""The same if each line replaces the one before."""
MOST_NAMES = 5


@dataclass(frozen=True)
class Outlook:
    """The progress of the last run. Times are seconds since 1970, or seconds; None if not known yet.

    made, failed, animated, running: pairs since the run started; animated ones wait for their sound. left: pairs that
    the run has still to make. pairs_per_minute: of all workers together. broke: jobs that ended before their work was
    done, and why.
    """

    started: float | None
    ended: float | None
    made: list[str]
    failed: dict[str, str]
    animated: list[str]
    running: list[str]
    left: list[str]
    pairs_per_minute: float | None
    seconds_left: float | None
    broke: dict[str, str]

    @property
    def pace(self) -> str:
        """Return the rate and the time left in a few words; empty if neither is known."""
        said = []
        if self.pairs_per_minute is not None:
            said.append(f"{_short(self.pairs_per_minute)} pairs a minute")
        if self.seconds_left is not None:
            at = time.strftime(
                "%H:%M" if self.seconds_left < 43200 else "%a %H:%M", time.localtime(time.time() + self.seconds_left)
            )
            said.append(f"about {duration(self.seconds_left)} left (until {at})")
        return "; ".join(said)

    @property
    def so_far(self) -> str:
        """Return what the run has made and how fast, in words; empty if nothing is known yet."""
        if self.ended is not None and self.started is not None:
            return f"the last run: {len(self.made)} made in {duration(self.ended - self.started)}"
        return f"the run: {self.pace}" if self.pace else ""


def outlook(plan: Plan, to_make: Sequence[str], ledger: Ledger) -> Outlook:
    """Return the progress of the last run. to_make: the pairs to make when it started, or at a later known time."""
    since, now = ledger.started or math.inf, time.time()
    going = ledger.started is not None and ledger.ended is None
    failed: dict[str, str] = {}
    made: list[str] = []
    makes: list[Made] = []
    inputs: dict[tuple[str, str], str] = {}
    for (stage, item), entry in ledger.entries.items():
        if entry.time < since or (isinstance(entry, Made) and entry.found):
            continue
        if isinstance(entry, Failed) and item in plan.pairs:
            failed[item] = entry.reason
        elif isinstance(entry, Failed):
            inputs[stage, item] = entry.reason
        elif isinstance(entry, Made) and item in plan.pairs:
            makes.append(entry)
            made += [item] * (stage == plan.last.name)
    for name in to_make if inputs else ():
        for above, each in plan.inputs(plan.first, name):
            if reason := inputs.get((above.name, each)):
                failed[name] = reason
    done = {*made, *failed}
    left = [name for name in to_make if name not in done] if going else []
    begun = {item: at for (_, item), at in ledger.begun.items() if going and at[1] >= since}
    films = {film.item: film for film in makes if film.stage == plan.first.name}
    recent = [film for film in films.values() if film.time > now - WINDOW_SECONDS]
    # From the start of the first of them, so that waiting in a queue does not count as slowness.
    wall = max(now - max(now - WINDOW_SECONDS, min(f.time - f.seconds for f in recent)), 1.0) if recent else 0.0
    return Outlook(
        started=ledger.started,
        ended=ledger.ended,
        made=made,
        failed=failed,
        animated=[name for name in left if name in films],
        running=list(begun),
        left=left,
        pairs_per_minute=60 * len(recent) / wall if recent and left else None,
        seconds_left=_seconds_left(plan, [name for name in left if name not in films], left, makes, begun),
        broke={f"{b.stage} {b.shard}": b.reason for b in ledger.broke.values() if b.time >= since},
    )


def _seconds_left(
    plan: Plan, to_animate: list[str], left: list[str], makes: list[Made], begun: dict[str, tuple[str, float]]
) -> float | None:
    """Return the time left: the work that is left at the pace of the workers at work; None where none is known."""
    expected, took = defaultdict[str, float](float), defaultdict[str, float](float)
    for made in makes:
        if made.time > time.time() - WINDOW_SECONDS:
            expected[made.stage] += plan.table[made.stage].seconds(plan, made.item)
            took[made.stage] += made.seconds
    if not left or not expected[plan.first.name]:
        return None

    def cost(stage: Stage, name: str) -> float:
        usual = stage.seconds(plan, name)
        return usual * took[stage.name] / expected[stage.name] if expected[stage.name] else usual

    work = sum(cost(plan.first, name) for name in to_animate)
    for name, (_, began) in begun.items():
        if name in plan.pairs:
            work -= min(time.time() - began, cost(plan.first, name))
    work += sum(cost(stage, name) for name in left for stage in plan.chain(name)[1:])
    return max(work, 0.0) / (len({shard for shard, _ in begun.values()}) or 1)


def start(plan: Plan, state: State, say: Callable[[str], object], *, often: bool = False) -> threading.Event:
    """Report the progress of a run from time to time until the event is set. often: each line replaces the one
    before."""
    over = threading.Event()

    def speak() -> None:
        ledger, before, gap = Ledger(), "", 0.0 if often else FIRST_SECONDS
        while not over.wait(gap):
            ledger.read_on()
            now = outlook(plan, state.to_make, ledger)
            line = f"{_count(plan, state, now)}{'; ' * bool(now.pace)}{now.pace}"
            if (now.left or often) and line != before:
                say(line)
            before, gap = line, OFTEN_SECONDS if often else min(2 * gap, LAST_SECONDS)

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


def end(plan: Plan, over: threading.Event, failed: Iterable[tuple[str, str, str]] = ()) -> list[str]:
    """Note that the run has ended, and return its summary: pairs, failures and why, time, pace, where the films are.

    failed: the jobs that failed for good, by stage, shard and reason.
    """
    over.set()
    note(ledgers.RUN, *(Broke(stage=stage, shard=shard, reason=why) for stage, shard, why in failed), Ended())
    try:
        return list(_summary(plan))
    except (TalkiesError, OSError):
        return []  # the worker that met a damaged file has reported it


def _summary(plan: Plan) -> Iterator[str]:
    ledger = Ledger.read()
    state = look(plan, ledger)
    now = outlook(plan, state.to_make, ledger)
    yield count(plan, state)
    if now.so_far:
        yield now.so_far
    yield from failures(state.failed)
    yield from unfinished(state, now)
    yield from doubts(plan, ledger.checked)
    if state.done and (better := plan.settings.better):
        yield better
    page = plan.results / GALLERY_PAGE
    if page.exists() and state.done:
        yield f"the films: {printable(page)}"


def count(plan: Plan, state: State) -> str:
    """Return, in words, how many of a plan's pairs are done, failed and to make."""
    pairs = counted(len(plan.pairs), "pair")
    return f"{pairs}: {len(state.done)} done, {len(state.failed)} failed, {len(state.to_make)} to make"


def status_of(plan: Plan, state: State, *, running: bool) -> Iterator[str]:
    """Yield the state of a run folder in lines. running: a run is at work."""
    ledger = Ledger.read()
    run = outlook(plan, state.to_make, ledger)
    begun = sorted(set(run.running).intersection(state.to_make)) if running else []
    animated = len(set(state.to_make) - set(state.to_animate))
    parts = [f"{animated} of them animated"] * bool(animated)
    parts += [f"{len(begun)} in the making"] * bool(begun)
    yield count(plan, state) + (f" ({', '.join(parts)})" if parts else "")
    if run.so_far:
        yield run.so_far
    if begun:
        yield f"in the making: {some(begun)}"
    yield from failures(state.failed)
    yield from unfinished(state, run)
    yield from doubts(plan, ledger.checked)
    yield from (f"at work: {each}" for each in held_locks(LOCKS))
    for film in orphans(plan):
        yield f"no longer asked for: {printable(film.path)} (talkies clean removes it)"


def by_reason(failed: dict[str, str]) -> dict[str, list[str]]:
    """Return what failed by its reasons: pairs, or jobs."""
    found: dict[str, list[str]] = {}
    for name, reason in sorted(failed.items(), key=lambda item: (item[1], item[0])):
        found.setdefault(reason, []).append(name)
    return found


def report_failures(plan: Plan, state: State, noun: str) -> None:
    """Log what failed, a line for each reason, and raise TalkiesError; do nothing if all was made. noun: of a pair."""
    for reason, names in by_reason(state.failed).items():
        log.error("%s (%s: %s)", reason, counted(len(names), noun), some(names))
    if state.failed:
        raise TalkiesError(
            f"{len(state.failed)} of {counted(len(plan.pairs), noun)} could not be made, for the reasons above; "
            "the others are done. Mend or remove those files and run it again"
        )


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
        yield f"{checked.said}: {printable(plan.results / CHECK_PAGE)}"


def some(names: list[str]) -> str:
    """Return the first few names."""
    shown = ", ".join(printable(name) for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown}, ..."


def _short(number: float) -> str:
    """Return a number with at least two digits, never with an exponent."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
