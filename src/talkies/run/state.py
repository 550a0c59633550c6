"""Which pairs are done, failed and still to make under the current settings, for all commands and pages.

A pair is done if its shard's receipt has it under its current spec, and its film exists. A pair that is neither done
nor failed is due. A shard with something due gets a new receipt name, so that Snakemake runs its job: what is shown
about a run is what the run does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..files import read_json
from .asks import Specs
from .folder import CHECK_PAGE, GALLERY_PAGE, Folder
from .plan import Plan
from .receipts import ALL, STAGES, Receipts
from .record import Answer

FACELESS = "no face in any frame looked at"
"""The reason for refusing a driving video, unless config.yaml allows it."""
Listing = dict[str, tuple[int, int]]
"""A folder's files: size and time (ns) by name."""


@dataclass
class State:
    """The state of a plan's pairs. receipts: their names, by stage and shard."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    to_make: list[str] = field(default_factory=list)
    to_animate: list[str] = field(default_factory=list)
    """The pairs to make whose pixels must be computed."""
    receipts: dict[str, dict[str, str]] = field(default_factory=dict)


def look(plan: Plan, receipts: Receipts, due: str) -> State:
    """Compare a plan with its folder. due: the ending of new receipt names."""
    return _Look(plan, receipts, due).look()


class _Look:
    # A spec is computed only for an item that a receipt names: in a new folder of a million pairs, for none.

    def __init__(self, plan: Plan, receipts: Receipts, due: str) -> None:
        self.plan, self.receipts, self.due = plan, receipts, due
        self.folder, self.specs = Folder.of(plan), Specs(plan)
        self.state = State(receipts={stage: {} for stage in (*STAGES, "check", "gallery")})
        self._listings: dict[Path, Listing] = {}
        if plan.settings.faceless == "allow":
            receipts.forgive(FACELESS)

    def look(self) -> State:
        plan, state = self.plan, self.state
        animated: list[str] = []
        for shard, names in plan.pair_shards.items():
            lacking = [name for name in names if not self._is_answered(shard, name)]
            state.to_make += lacking
            self._name("remux", shard, fresh=bool(lacking))
            for stage in ("animate", "show"):
                # Snakemake runs again what depends on a newer file: that file must be a receipt.
                if self.receipts.time(stage, shard) > self.receipts.time("remux", shard):
                    self.receipts.read(stage, shard)
            if plan.items("show", shard):
                self._name("show", shard, fresh=any(self._lacks("show", shard, name) for name in lacking))
            self._name("animate", shard, fresh=any(self._lacks("animate", shard, name) for name in lacking))
            state.to_animate += [name for name in lacking if self._is_to_animate(shard, name)]
            if state.receipts["animate"][shard].endswith(self.due):
                animated += names
        self._inputs([plan.pairs[name].source for name in animated], [plan.pairs[name].take for name in animated])
        if plan.settings.check:
            self._whole("check", self.specs.check(), CHECK_PAGE)
        self._whole("gallery", self.specs.gallery(state.receipts), GALLERY_PAGE)
        return state

    def _whole(self, stage: str, spec: str, page: str) -> None:
        """Choose the receipt's name of a page about the whole run, which is beside the films."""
        stands = self.receipts.read(stage, ALL).answers(ALL, spec) and self._is_there(self.folder.results / page)
        self._name(stage, ALL, fresh=not stands)

    # --- pairs ---------------------------------------------------------------------------------------------

    def _is_answered(self, shard: str, name: str) -> bool:
        """Note a pair that is done or failed under its current spec; return whether it is."""
        talkies = self.receipts.read("remux", shard)
        if name not in talkies.asked or talkies.asked[name] != self.specs.talkie(name):
            return False
        if name in talkies.failed:
            self.state.failed[name] = talkies.failed[name]
            return True
        if name in talkies.done and self._stands(name, talkies.done[name]):
            self.state.done.append(name)
            return True
        return False

    def _stands(self, name: str, told: Answer) -> bool:
        """Return whether a talkie is the file in its receipt: by size and time, else by its record."""
        pair = self.plan.pairs[name]
        talkie = self.folder.talkie(pair)
        there = self._listing(talkie.path.parent)
        found = there.get(talkie.path.name)
        if found is None or talkie.record_path.name not in there:
            return False
        if told.file == found:
            return True
        if told.file is None or told.file[0] != found[0]:
            return False
        record = (read_json(talkie.record_path) or {}).get("file")
        return isinstance(record, dict) and (record.get("size"), record.get("mtime_ns")) == found

    def _is_carried(self, shard: str, name: str, *, bare: bool = False) -> bool:
        """Return whether the talkie already shows the wanted pictures (bare: the square alone), under any sound."""
        told = self.receipts.read("remux", shard).done.get(name)
        if told is None:
            return False
        wanted = self.specs.film(name) if bare else self.specs.shown(name)
        return told.shows == wanted and self._stands(name, told)

    def _lacks(self, stage: str, shard: str, name: str) -> bool:
        """Return whether a stage has something to do for a pair whose talkie must be made."""
        shown = self.plan.is_shown(name)
        if stage == "show" and not shown:
            return False
        receipt = self.receipts.read(stage, shard)
        spec = self.specs.shown if stage == "show" else self.specs.film
        if name not in receipt.asked or not receipt.answers(name, spec(name)):
            return True
        if name in receipt.failed or self._is_carried(shard, name):
            return False
        if stage == "animate" and shown and not self._lacks("show", shard, name):
            return False
        pair = self.plan.pairs[name]
        made = self.folder.shown(pair) if stage == "show" else self.folder.silent(pair)
        if self._is_there(made.path):
            return False
        return not (stage == "animate" and shown and self._is_carried(shard, name, bare=True))

    def _is_to_animate(self, shard: str, name: str) -> bool:
        """Return whether a pair's pixels must be computed: no talkie and no silent film has them."""
        if self._is_carried(shard, name) or self._is_carried(shard, name, bare=True):
            return False
        if self.plan.is_shown(name) and not self._lacks("show", shard, name):
            return False
        animated = self.receipts.read("animate", shard)
        if name not in animated.asked or not animated.answers(name, self.specs.film(name)):
            return True
        return name not in animated.failed and not self._is_there(self.folder.silent(self.plan.pairs[name]).path)

    # --- pictures and takes --------------------------------------------------------------------------------

    def _inputs(self, sources: Iterable[str], takes: Iterable[str]) -> None:
        """Choose the receipts' names of prepared files; only those that something due needs are compared.

        The files themselves are not: a worker that finds one missing or damaged makes it again.
        """
        plan, specs = self.plan, self.specs
        wanted, taken = set(sources), set(takes)
        for shard, names in plan.picture_shards.items():
            self._prepared("prepare", shard, wanted.intersection(names), specs.source)
        for shard, names in plan.take_shards.items():
            self._prepared("prepare", shard, taken.intersection(names), specs.driving)
            if plan.items("motion", shard):
                self._prepared("motion", shard, taken.intersection(plan.items("motion", shard)), specs.motion)

    def _prepared(self, stage: str, shard: str, needed: Iterable[str], spec: Callable[[str], str]) -> None:
        """Choose the name of a receipt of prepared files: a new one if a needed file is due."""
        receipt = self.receipts.read(stage, shard)
        lacking = [name for name in needed if not receipt.answers(name, spec(name))]
        self._name(stage, shard, fresh=bool(lacking))

    # --- files ---------------------------------------------------------------------------------------------

    def _name(self, stage: str, shard: str, *, fresh: bool) -> None:
        """Choose a receipt's name: a new one, or the existing one."""
        there = None if fresh else self.receipts.name(stage, shard)
        self.state.receipts[stage][shard] = there or f"{shard}.{self.due}"

    def _is_there(self, path: Path) -> bool:
        return path.name in self._listing(path.parent)

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
