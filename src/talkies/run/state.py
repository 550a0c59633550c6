"""What stands, what failed and what is to be made under a plan: for planning, workers, commands and pages.

An item stands if its file is there, as its ledger entry or, without one, its record says, under its key of now. A pair
is done if its film stands, whatever else is gone; else its chain of stages is walked up to the first film that stands,
and what lies below is due.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from .ledger import Failed, Forgotten, Ledger, Made
from .plan import NotSeen, Plan, Stage
from .record import Film, Prepared, R, Recorded, Talkie

Listing = dict[str, tuple[int, int]]
"""A folder's files: size and time (ns) by name."""
Entry = Made | Failed | None
NEW = "not made yet"


@dataclass
class State:
    """The pairs that are done, those that failed and why, and the items that each stage is to make, by its name.

    why: the reasons why pairs are to be made, in words. found: the ledger entries of files that only their records told
    of, by shard.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    due: dict[str, list[str]] = field(default_factory=dict)
    to_make: list[str] = field(default_factory=list)
    to_animate: list[str] = field(default_factory=list)
    why: str = ""
    found: dict[str, list[Made]] = field(default_factory=dict)


class Look:
    """Compares a plan with its folder and ledger. Folders are listed once."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.plan, self.ledger = plan, ledger
        self.found: dict[str, list[Made]] = {}
        self._listings: dict[Path, Listing] = {}
        self._answers: dict[tuple[str, str], Entry] = {}
        self._roots: dict[str, bool] = {}

    def answer(self, stage: Stage, item: str) -> Entry:
        """Return the entry of an item that stands or failed under its key of now; None: it is to be made."""
        about = stage.name, item
        if about not in self._answers:
            self._answers[about] = self._answer(stage, item)
        return self._answers[about]

    def _answer(self, stage: Stage, item: str) -> Entry:
        # Keys and paths are computed only where something was made: in a new folder of 100,000 pairs, for none.
        entry = self.ledger.get(stage.name, item)
        if entry is None and stage.of == "pairs" and not self.has_films(stage):
            return None
        recorded = stage.file(self.plan, item)
        there = self.status(recorded.path)
        if there is None and not isinstance(entry, Failed):
            return None
        key = self.plan.key(stage, item)
        if key is None:
            return None
        if isinstance(entry, Failed):
            unless = entry.unless
            retried = unless is not None and getattr(self.plan.settings, unless[0]) == unless[1]
            return entry if entry.key == key and not retried else None
        assert there is not None, "only a failure has no file"
        if isinstance(entry, Made) and (entry.size, entry.mtime_ns) == there:
            return entry if entry.key == key and self.status(recorded.record_path) else None
        # The ledger was lost or the item forgotten, or the file was touched, copied or altered: its record tells.
        record = recorded.fresh(key)
        if record is None:
            return None
        made = replace(made_of(stage, item, recorded, record), found=True)
        self.found.setdefault(self.plan.shard_of(stage, item), []).append(made)
        return made

    def carried(self, stage: Stage, name: str) -> bool:
        """Return whether the film in the results shows what a stage makes of a pair, under any sound."""
        last = self.plan.last
        entry = self.ledger.get(last.name, name)
        if stage is last or (entry is None and not self.has_films(last)):
            return False
        key = self.plan.key(stage, name)
        if key is None:
            return False
        recorded = last.file(self.plan, name)
        there = self.status(recorded.path)
        if there is None or self.status(recorded.record_path) is None:
            return False
        if isinstance(entry, Made) and (entry.size, entry.mtime_ns) == there:
            return entry.shows == key
        return recorded.fresh(key, name="picture_key") is not None

    def stands(self, stage: Stage, item: str) -> bool:
        """Return whether an item need not be made: its file stands, or the film in the results carries it."""
        return isinstance(self.answer(stage, item), Made) or (stage.of == "pairs" and self.carried(stage, item))

    def failure(self, stage: Stage, item: str) -> str | None:
        """Return why an item can't be made: it failed itself, or what it is made from; None if that is not known."""
        entry = self.answer(stage, item)
        if isinstance(entry, Failed):
            return entry.reason
        if entry is not None:
            return None
        before = self.plan.before(stage, item)
        if before is not None:
            return None if self.stands(before, item) else self.failure(before, item)
        for above in self.plan.inputs(stage, item):
            if reason := self.failure(*above):
                return reason
        return None

    def state(self) -> State:
        """Return the state of the whole plan."""
        plan, state = self.plan, State(due={stage.name: [] for stage in self.plan.stages}, found=self.found)
        for name in plan.pairs:
            if isinstance(self.answer(plan.last, name), Made):
                state.done.append(name)
            elif reason := self.failure(plan.last, name):
                state.failed[name] = reason
            else:
                for stage in self.due_chain(name):
                    state.due[stage.name].append(name)
        state.to_make, state.to_animate = state.due[plan.last.name], state.due[plan.first.name]
        self._inputs(state)
        return state

    def due_chain(self, name: str) -> list[Stage]:
        """Return the stages that a pair whose film does not stand has still to go through, the last first."""
        due = []
        for stage in reversed(self.plan.chain(name)):
            if self.stands(stage, name):
                break
            due.append(stage)
        return due

    def _inputs(self, state: State) -> None:
        """Add the pictures and takes that due pairs need, and those that the gallery shows beside finished ones."""
        plan = self.plan
        wanted: dict[tuple[str, str], None] = {}
        for name in state.due[plan.first.name]:
            for stage, item in plan.inputs(plan.first, name):
                wanted[stage.name, item] = None
        shown = [plan.pairs[name] for name in plan.pairs if name not in state.failed]
        for stage in plan.stages:
            if stage.reads_files:
                items = (pair.source if stage.of == "pictures" else pair.take for pair in shown)
                wanted |= {(stage.name, item): None for item in items}
        # A stage of takes may itself need an earlier one.
        for stage in reversed([stage for stage in plan.stages if stage.of != "pairs"]):
            for item in [item for name, item in wanted if name == stage.name]:
                if self.answer(stage, item) is None and not self.failure(stage, item):
                    state.due[stage.name].append(item)
                    wanted |= {(above.name, each): None for above, each in plan.inputs(stage, item)}

    def has_films(self, stage: Stage) -> bool:
        """Return whether any film of a stage of pairs is there."""
        if stage.name not in self._roots:
            name = next(iter(self.plan.pairs))
            root = stage.file(self.plan, name).path.parents[1]
            with suppress(OSError):
                self._roots[stage.name] = any(root.iterdir())
            self._roots.setdefault(stage.name, False)
        return self._roots[stage.name]

    def status(self, path: Path) -> tuple[int, int] | None:
        """Return the size and time (ns) of a file; None if it is not there."""
        return self._listing(path.parent).get(path.name)

    def _listing(self, folder: Path) -> Listing:
        # Size and time come with the listing's own attributes where the file system sends both together
        # (NFS READDIRPLUS); on a local disk each costs about a microsecond.
        if folder not in self._listings:
            found: Listing = {}
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(OSError):
                        if entry.is_file():
                            status = entry.stat()
                            found[entry.name] = status.st_size, status.st_mtime_ns
            self._listings[folder] = found
        return self._listings[folder]


def look(plan: Plan, ledger: Ledger | None = None) -> State:
    """Return the state of a plan, which learns what workers have read since it was made. ledger: if it was read."""
    ledger = ledger or Ledger.read()
    plan.learn(ledger)
    return Look(plan, ledger).state()


def made_of(stage: Stage, item: str, recorded: Recorded[R], record: R) -> Made:
    """Return the ledger entry of a file that stands as its record says."""
    status = recorded.path.stat()
    original = record.original if isinstance(record, Prepared) else None
    return Made(
        stage=stage.name,
        item=item,
        key=record.key or "",
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        seconds=record.seconds,
        frames=record.frames,
        by=record.by if isinstance(record, Film) else "",
        shows=record.picture_key if isinstance(record, Talkie) else None,
        read=(original.size, original.mtime_ns, original.sha256) if original else None,
    )


def with_something_made(look: Look) -> Iterable[str]:
    """Return the input files from which something was made: their content is compared at plan time."""
    plan, ledger = look.plan, look.ledger
    yield from (file for stage, item, file in plan.files() if ledger.get(stage.name, item))
    films = look.has_films(plan.last)
    for name, pair in plan.pairs.items():
        made = (plan.last.name, name) in ledger.entries
        if made or (films and look.status(plan.last.file(plan, name).record_path)):
            yield plan.sources[pair.source].file
            yield plan.takes[pair.take].file


# --- why pairs are to be made ------------------------------------------------------------------------------


def reasons(look: Look, before: Plan | None, names: Iterable[str]) -> str:
    """Return in words why pairs are to be made, the most frequent reason first; empty if all are new.

    before: the plan of the last run, whose settings are compared with those of now.
    """
    for stage, item, file in before.files() if before else ():
        if before and (read := look.ledger.contents.get((stage.name, item))):
            before.contents[file] = read[2]
    seen: dict[tuple[str, str], list[str]] = {}
    counts = Counter(_why(look, before, name, seen) for name in names)
    return "" if set(counts) <= {NEW} else ", ".join(f"{why} {count}" for why, count in counts.most_common())


def _why(look: Look, before: Plan | None, name: str, seen: dict[tuple[str, str], list[str]]) -> str:
    plan, pair = look.plan, look.plan.pairs[name]
    entry = look.ledger.get(plan.last.name, name)
    there = look.status(plan.last.file(plan, name).path)
    if isinstance(entry, Forgotten):
        return "forgotten"
    if isinstance(entry, Made) and entry.key == plan.key(plan.last, name):
        return "film altered" if there else "film gone"
    if before and pair.source not in before.sources:
        return "new picture"
    if before and pair.take not in before.takes:
        return "new video" if pair.take == pair.driving else "new part of a video"
    if before and name not in before.pairs:
        return "new pair"
    changed = [each for stage in plan.of_pairs for each in _changed(plan, before, stage, name, seen)] if before else []
    if changed:
        return f"{' and '.join(dict.fromkeys(changed))} changed"
    return "settings or files changed" if entry or there else NEW


def _changed(now: Plan, before: Plan, stage: Stage, item: str, seen: dict[tuple[str, str], list[str]]) -> list[str]:
    """Return what decides an item and is not as it was, by the names of settings. seen: of pictures and takes."""
    if (found := seen.get((stage.name, item))) is not None:
        return found
    above = now.inputs(stage, item) if stage.wanted(now, item) else []
    keys = [now.key(*each) for each in above]
    new, old = _asked(now, stage, item), _asked(before, stage, item)
    found = []
    if new is not None and old is not None:
        found = [name for name in old | new if old.get(name) != new.get(name) and new.get(name) not in keys]
    found += [name for each in above for name in _changed(now, before, *each, seen) if name not in found]
    if stage.of != "pairs":
        seen[stage.name, item] = found
    return found


def _asked(plan: Plan, stage: Stage, item: str) -> dict[str, Any] | None:
    try:
        return dict(stage.asks(plan, item)) if stage.wanted(plan, item) else {}
    except NotSeen:
        return None
