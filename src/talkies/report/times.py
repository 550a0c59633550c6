"""The times of a run, a part of its gallery: what each stage took.

They come from the ledger, so they cover all results, whichever run made them. They name no file.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from ..run.estimate import duration
from ..run.ledger import Ledger, Made
from ..run.plan import Plan

LOAD = "load"
"""The loading of engines, beside the stages."""
COLOURS = 7
"""Of stages, in gallery.css; the same for the same place in the table."""


class Row(NamedTuple):
    """A stage, in words. colour, width: of its bar, the width in percent of the longest. median, most: of one item."""

    colour: str
    name: str
    width: int
    total: str
    share: str
    items: int
    median: str
    most: str


class Times(NamedTuple):
    """work: of all stages together. frame: what a frame of an animated film took on average; None without films."""

    work: str
    frame: str | None
    rows: list[Row]


def measure(plan: Plan, ledger: Ledger) -> Times:
    """Return what the stages of a plan took, by the ledger; items without a time are left out."""
    seconds = {LOAD: [load for load in ledger.loads.values() if 0 < load < float("inf")]}
    for stage in plan.stages:
        entries = (ledger.get(stage.name, item) for item in plan.everything(stage.of))
        seconds[stage.name] = [e.seconds for e in entries if isinstance(e, Made) and 0 < e.seconds < float("inf")]
    totals = {name: sum(each) for name, each in seconds.items()}
    work, longest = sum(totals.values()) or 1.0, max(totals.values()) or 1.0
    films = [film for film in ledger.films() if film.item in plan.pairs and film.frames]
    frame = sum(film.seconds for film in films) / sum(film.frames for film in films) if films else None
    rows = [
        Row(
            f"c{number % COLOURS}",
            name,
            round(100 * totals[name] / longest),
            duration(totals[name]),
            f"{totals[name] / work:.0%}",
            len(each),
            f"{median(each):.3g} s" if each else "",
            f"{max(each):.3g} s" if each else "",
        )
        for number, (name, each) in enumerate(seconds.items())
    ]
    return Times(duration(sum(totals.values())), None if frame is None else f"{frame:.2g} s", rows)
