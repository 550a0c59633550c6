"""Deals pictures, takes and pairs into shards. A shard is one job of each stage that it goes through.

Items stay in their shard, so that adding or removing a file starts only the jobs of its own shard. A file that has
changed is dealt again, as one removed and one added file: its old shard is otherwise unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .asks import Specs
from .estimate import PICTURE_SECONDS, preparing_seconds
from .plan import Plan
from .receipts import Receipts

PICTURES_PER_JOB = 100
CLIPS_PER_JOB = 50
TAKE_SECONDS_PER_JOB = 400
"""On this machine: small, so that the cores share the work. On a cluster, a job takes about `job_minutes`."""
FIRST_SECONDS = 180
"""On this machine: seconds of work in the first shard of pairs; each further one has twice as much, up to
`job_minutes`. So the first films come soon, and the shards stay few."""
SIZES = ("pairs_per_job", "job_minutes", "gpus")
"""Settings that decide how pairs are dealt. A new value deals the pairs of unfinished shards again."""
MOST_PER_JOB = 2000
"""Items of a shard."""


def deal(plan: Plan, previous: Plan | None, receipts: Receipts, *, on_cluster: bool = False) -> None:
    """Put a plan's pictures, takes and pairs into shards; items of the previous plan stay where they were.

    previous: the folder's last plan. receipts: they also name items that were removed and are back. on_cluster: jobs
    are sent to a cluster, so each gets more work.
    """
    settings = plan.settings
    worth = settings.job_minutes * 60
    spread = settings.gpus if on_cluster else 1
    specs = Specs(plan)
    plan.picture_shards = assign(
        "pictures",
        dict.fromkeys(plan.sources, PICTURE_SECONDS),
        _stay(plan.sources, previous.picture_shards if previous else {}, "pictures", receipts, specs.source),
        MOST_PER_JOB if on_cluster else PICTURES_PER_JOB,
        lambda _: worth if on_cluster else math.inf,
        after=_last("pictures", previous.picture_shards if previous else {}, receipts),
    )
    plan.take_shards = assign(
        "clips",
        {name: preparing_seconds(take) for name, take in plan.takes.items()},
        _stay(plan.takes, previous.take_shards if previous else {}, "clips", receipts, specs.driving),
        MOST_PER_JOB if on_cluster else CLIPS_PER_JOB,
        lambda _: worth if on_cluster else TAKE_SECONDS_PER_JOB,
        at_least=spread,
        after=_last("clips", previous.take_shards if previous else {}, receipts),
    )
    dealt = _dealt(plan, previous)
    plan.pair_shards = assign(
        "pairs",
        {name: plan.seconds_of(pair) for name, pair in plan.pairs.items()},
        _stay(plan.pairs, dealt, "pairs", receipts, None),
        settings.pairs_per_job,
        lambda number: worth if on_cluster else min(worth, FIRST_SECONDS * 2 ** min(number, 30)),
        at_least=spread,
        after=_last("pairs", previous.pair_shards if previous else {}, receipts),
        kind=lambda name: plan.pairs[name].engine,
    )


def _dealt(plan: Plan, previous: Plan | None) -> Mapping[str, Sequence[str]]:
    """Return the shards of pairs that stay as they are: all, or none if the settings ask for other sizes.

    Finished shards stay because of their receipts.
    """
    if previous is None or any(getattr(previous.settings, key) != getattr(plan.settings, key) for key in SIZES):
        return {}
    return previous.pair_shards


def _stay(
    items: Mapping[str, object],
    dealt: Mapping[str, Sequence[str]],
    kind: str,
    receipts: Receipts,
    spec: Callable[[str], str] | None,
) -> dict[str, list[str]]:
    """Return the shards with the items that stay in them: those dealt before, and those named in a receipt.

    spec: of inputs. An input that was finished under another spec has changed, and does not stay.
    """
    stage = "prepare" if spec else "remux"
    home: dict[str, str] = {}
    for shard in receipts.shards(stage):
        if shard.startswith(kind):
            for item, asked in receipts.read(stage, shard).asked.items():
                if item in items and (spec is None or asked == spec(item)):
                    home[item] = shard
    stays: dict[str, list[str]] = {}
    placed: set[str] = set()
    for shard, members in dealt.items():
        answered = spec is not None and receipts.readable(stage, shard) is not None
        for item in members:
            here = home.get(item) == shard if answered else spec is None or item not in home
            if here and item in items and item not in placed:
                stays.setdefault(shard, []).append(item)
                placed.add(item)
    for item, shard in home.items():
        if item not in placed:
            stays.setdefault(shard, []).append(item)
    return stays


def assign(
    prefix: str,
    weights: Mapping[str, float],
    stay: Mapping[str, Sequence[str]],
    most: int,
    heaviest: Callable[[int], float],
    *,
    at_least: int = 1,
    after: int = 0,
    kind: Callable[[str], str] = lambda item: "",
) -> dict[str, list[str]]:
    """Put items into shards of at most `most` items and about the given weight; items of `stay` keep their shard.

    heaviest: the weight of the first, second, ... new shard (counted from 0). at_least: the least number of shards
    for the new items. after: the last number used so far. kind: of an item; a shard has items of one kind, since a
    job loads one engine.
    """
    shards = {}
    for shard, items in stay.items():
        kept = [item for item in items if item in weights]
        if kept := [item for item in kept if kind(item) == kind(kept[0])]:
            shards[shard] = kept
    placed = {item for items in shards.values() for item in items}
    first = number = max(after, last_number(stay))
    new = {item: weight for item, weight in weights.items() if item not in placed}
    most = max(1, min(most, len(new) // at_least))
    share = sum(new.values()) / at_least if at_least > 1 else math.inf
    current: list[str] = []
    load = 0.0
    for item, weight in sorted(new.items(), key=lambda each: kind(each[0])):
        full = len(current) >= most or load + weight > min(heaviest(number - first - 1), share)
        if not current or full or kind(item) != kind(current[0]):
            number += 1
            current = shards[f"{prefix}-{number:04d}"] = []
            load = 0.0
        current.append(item)
        load += weight
    return shards


def last_number(shards: Mapping[str, object] | Sequence[str]) -> int:
    """Return the largest number among shards' names."""
    return max((int(shard.rpartition("-")[2]) for shard in shards), default=0)


def _last(kind: str, dealt: Mapping[str, Sequence[str]], receipts: Receipts) -> int:
    """Return the largest number used so far, so that no shard's name is used twice."""
    stages = ("animate", "remux") if kind == "pairs" else ("prepare",)
    told = [shard for stage in stages for shard in receipts.shards(stage) if shard.startswith(kind)]
    return last_number([*dealt, *told])
