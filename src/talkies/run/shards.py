"""Deals pictures, takes and pairs into shards. A shard is one job of each stage that it goes through.

Items stay in their shard, so that adding or removing a file starts only the jobs of its own shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .ledger import Ledger
from .plan import Kind, Plan

PREFIXES: dict[Kind, str] = {"pictures": "pictures", "takes": "clips", "pairs": "pairs"}
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


def deal(plan: Plan, previous: Plan | None, ledger: Ledger, *, on_cluster: bool = False) -> None:
    """Put a plan's pictures, takes and pairs into shards; items stay where they were.

    previous: the folder's last plan. ledger: it also tells of items that were removed and are back. on_cluster: jobs
    are sent to a cluster, so each gets more work.
    """
    settings = plan.settings
    worth = settings.job_minutes * 60
    spread = settings.gpus if on_cluster else 1

    def put(
        items_of: Kind,
        most: int,
        heaviest: Callable[[int], float],
        at_least: int = 1,
        kind: Callable[[str], str] = lambda item: "",
    ) -> None:
        before = previous.shards[items_of] if previous else {}
        dealt = {} if items_of == "pairs" and previous and _sizes(previous) != _sizes(plan) else before
        stages = [stage for stage in plan.stages if stage.of == items_of]
        weights = {
            item: sum(stage.seconds(plan, item) for stage in stages if stage.wanted(plan, item))
            for item in plan.everything(items_of)
        }
        homes = {item: home for item in weights if (home := ledger.homes.get((stages[-1].name, item)))}
        prefix = PREFIXES[items_of]
        after = last_number([*before, *(each for each in ledger.shards if each.startswith(prefix))])
        stay = _stay(weights, dealt, homes)
        plan.shards[items_of] = assign(prefix, weights, stay, most, heaviest, at_least=at_least, after=after, kind=kind)

    put("pictures", MOST_PER_JOB if on_cluster else PICTURES_PER_JOB, lambda _: worth if on_cluster else math.inf)
    put(
        "takes",
        MOST_PER_JOB if on_cluster else CLIPS_PER_JOB,
        lambda _: worth if on_cluster else TAKE_SECONDS_PER_JOB,
        at_least=spread,
    )
    put(
        "pairs",
        settings.pairs_per_job,
        lambda number: worth if on_cluster else min(worth, FIRST_SECONDS * 2 ** min(number, 30)),
        at_least=spread,
        kind=lambda name: plan.pairs[name].engine,
    )


def _sizes(plan: Plan) -> list[object]:
    return [getattr(plan.settings, key) for key in SIZES]


def _stay(
    items: Mapping[str, object], dealt: Mapping[str, Sequence[str]], homes: Mapping[str, str]
) -> dict[str, list[str]]:
    """Return the shards with the items that stay in them: those dealt before, else those in whose ledger they are."""
    stays: dict[str, list[str]] = {}
    placed = set()
    for shard, members in dealt.items():
        for item in members:
            if item in items and item not in placed:
                stays.setdefault(shard, []).append(item)
                placed.add(item)
    for item, shard in homes.items():
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
