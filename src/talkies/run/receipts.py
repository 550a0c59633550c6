"""The receipts of a run folder: .talkies/receipts/STAGE/SHARD.DUE.json.

A shard with something to make gets a new receipt name, so that its receipt is missing and Snakemake runs its job. The
worker writes the receipt and removes those with older names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import BENCHMARKS, LOGS, RECEIPTS, Folder
from .record import Answer, Receipt

if TYPE_CHECKING:
    pass

STAGES = ("prepare", "motion", "animate", "show", "remux")
TOLD: dict[str, tuple[str, ...]] = {
    "prepare": ("sha256",),
    "motion": ("weights",),
    "animate": ("picture_key",),
    "show": ("picture_key",),
    "remux": ("file", "shows"),
}
"""The shape of a stage's receipt entry for each finished item."""
ALL = "all"
"""The one shard of stages about the whole run: the check and the gallery."""
NAME = re.compile(r"((?:pictures|clips|pairs)-\d+|all)(?:\.[0-9a-f]+)?")


def shard_of(name: str) -> str:
    """Return the shard of a receipt's name."""
    return name.partition(".")[0]


class Receipts:
    """The existing receipts. Folders are listed once, and a receipt is read when it is first needed."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, list[str]]] = {}
        self._times: dict[str, dict[str, int]] = {}
        self._read: dict[tuple[str, str], tuple[str | None, Receipt]] = {}
        self._forgiven: str | None = None

    def forgive(self, reason: str) -> None:
        """Forget failures with a reason that no longer counts."""
        self._forgiven = reason

    def name(self, stage: str, shard: str) -> str | None:
        """Return the name of a shard's newest receipt, a readable one if it was read; None: there is none."""
        if (stage, shard) in self._read:
            return self.readable(stage, shard)
        return next(iter(self._of(stage).get(shard, [])), None)

    def time(self, stage: str, shard: str) -> int:
        """Return when a shard's newest receipt was written, ns since 1970; 0 if there is none."""
        self._of(stage)
        return self._times[stage].get(shard, 0)

    def readable(self, stage: str, shard: str) -> str | None:
        """Return the name of a shard's newest receipt that can be read."""
        return self._load(stage, shard)[0]

    def read(self, stage: str, shard: str) -> Receipt:
        """Return a shard's newest readable receipt, or an empty one."""
        receipt = self._load(stage, shard)[1]
        if self._forgiven is not None:
            for item in [item for item, reason in receipt.failed.items() if self._forgiven in reason]:
                receipt.drop(item)
        return receipt

    def shards(self, stage: str) -> list[str]:
        """Return the shards that have a receipt of this stage."""
        return sorted(self._of(stage))

    def _of(self, stage: str) -> dict[str, list[str]]:
        if stage not in self._names:
            found: dict[str, list[tuple[int, str]]] = {}
            with suppress(OSError), os.scandir(RECEIPTS / stage) as entries:
                for entry in entries:
                    name = NAME.fullmatch(entry.name.removesuffix(".json"))
                    if name and entry.name.endswith(".json"):
                        found.setdefault(name[1], []).append((entry.stat().st_mtime_ns, name[0]))
            self._times[stage] = {shard: max(names)[0] for shard, names in found.items()}
            self._names[stage] = {s: [name for _, name in sorted(names, reverse=True)] for s, names in found.items()}
        return self._names[stage]

    def _load(self, stage: str, shard: str) -> tuple[str | None, Receipt]:
        if (stage, shard) not in self._read:
            self._read[stage, shard] = None, Receipt()
            for name in self._of(stage).get(shard, []):
                receipt = Receipt.read(Folder.receipt(stage, name))
                if receipt is not None:
                    self._read[stage, shard] = name, _sound(receipt, stage)
                    break
        return self._read[stage, shard]


def _sound(receipt: Receipt, stage: str) -> Receipt:
    """Return a receipt without the items whose entries have the wrong shape."""
    wanted = TOLD.get(stage, ())
    for item in [item for item, told in receipt.done.items() if any(getattr(told, name) is None for name in wanted)]:
        receipt.drop(item)
    return receipt


def load(stage: str, name: str) -> Receipt:
    """Return the receipt of a stage above; TalkiesError if it is missing or damaged."""
    return _sound(Receipt.load(Folder.receipt(stage, name)), stage)


def save_unnoticed(receipt: Receipt, path: Path) -> None:
    """Rewrite a receipt and keep its time, so that nothing below it runs again."""
    status = path.stat()
    receipt.save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def distrust(stage: str, item: str, *, clip: bool = False, if_failed: bool = False) -> None:
    """Make an item's receipt entries invalid, so that the next run makes this item again, and no other.

    clip: for prepared files, a take, not a picture of the same name. if_failed: only if the item failed.
    """
    receipts = Receipts()
    shards = [s for s in receipts.shards(stage) if stage != "prepare" or s.startswith("clips") == clip]
    if if_failed:
        shards = [shard for shard in shards if item in receipts.read(stage, shard).failed]
    _doubt(receipts, stage, shards, [item])


def doubt_elsewhere(stage: str, shard: str, items: Iterable[str]) -> None:
    """Make other shards' receipt entries of items invalid that have just been made: their files were replaced."""
    receipts, kind = Receipts(), shard.partition("-")[0]
    _doubt(receipts, stage, [s for s in receipts.shards(stage) if s != shard and s.startswith(kind)], items)


def _doubt(receipts: Receipts, stage: str, shards: Iterable[str], items: Iterable[str]) -> None:
    items = list(items)
    for shard in shards:
        name, receipt = receipts.readable(stage, shard), receipts.read(stage, shard)
        told = [item for item in items if receipt.doubt(item)] if name is not None else []
        if name is not None and told:
            save_unnoticed(receipt, Folder.receipt(stage, name))


def answer_all(stage: str, name: str, spec: str) -> None:
    """Write the receipt of a stage about the whole run."""
    Receipt({ALL: Answer()}, {}, {ALL: spec}).save(Folder.receipt(stage, name))
    remove_older(stage, name)


def remove_older(stage: str, name: str) -> None:
    """Remove a shard's receipts, logs and benchmarks with other names than this."""
    for folder in (RECEIPTS, LOGS, BENCHMARKS):
        for path in (folder / stage).glob(f"{shard_of(name)}.*"):
            if path.name.removesuffix(path.suffix) != name:
                path.unlink(missing_ok=True)
