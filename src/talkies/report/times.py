"""The drawings of a run's times in its gallery: of pairs, of stages, and of shards. They name no file."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from ..run.estimate import duration

STAGES = {
    "prepare": "crop",
    "motion": "find motion",
    "load": "load the network",
    "animate": "animate",
    "remux": "put the sound on",
}
"""The stages in their order, as the page calls them."""
OF_SHARDS = ("load", "animate", "remux")
"""The work of a shard of pairs, as its workers note it."""
WIDE = 20
"""If the slowest pair takes this many times the median, the time axis is logarithmic."""
WIDTH, HEIGHT = 1000, 200
"""Of a drawing, in its own units; the page scales it."""


@dataclass(frozen=True)
class Times:
    """The times of a run's work, in seconds of one worker.

    films: frames and seconds of each animated film. stages: totals by stage. shards: by shard of pairs, in the order
    of OF_SHARDS.
    """

    films: list[tuple[int, float]]
    stages: dict[str, float]
    shards: dict[str, list[float]]


def drawn(times: Times) -> dict[str, Any]:
    """Return the values of times.html: texts, and outlines of bars in units of WIDTH x HEIGHT, from the top left."""
    whole = sum(times.stages.values())
    most = max(times.stages.values()) or 1.0
    return {
        "work": duration(whole),
        "stages": [
            (name, STAGES[name], round(WIDTH * seconds / most), duration(seconds), f"{seconds / (whole or 1):.0%}")
            for name, seconds in times.stages.items()
        ],
        "pairs": _pairs(times.films) if times.films else None,
        "shards": _shards(list(times.shards.values())) if times.shards else None,
        "size": (WIDTH, HEIGHT),
    }


def _pairs(films: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Return the histogram of the films' seconds: bars (x, y, width, height) and their texts."""
    seconds = sorted(film[1] for film in films)
    least, most, middle = seconds[0], seconds[-1], median(seconds)
    wide = most > WIDE * middle
    count = min(60, max(5, round(math.sqrt(len(seconds)))))
    steps = [number / count for number in range(count + 1)]
    if wide:
        edges = [least * (most / least) ** step for step in steps]
        place = math.log(middle / least) / math.log(most / least)
    else:
        edges = [least + (most - least) * step for step in steps]
        place = (middle - least) / (most - least) if most > least else 0.5
    below = [0, *(bisect_right(seconds, edge) for edge in edges[1:-1]), len(seconds)]
    counts = [after - before for before, after in pairwise(below)]
    high = [round(HEIGHT * number / max(counts)) for number in counts]
    wide_bar = WIDTH / count
    return {
        "bars": [(round(n * wide_bar + 1), HEIGHT - h, round(wide_bar - 2), h) for n, h in enumerate(high) if h],
        "most": f"{max(counts):,}",
        "least_seconds": f"{least:.3g} s",
        "most_seconds": f"{most:.3g} s",
        "median": f"{middle:.3g} s",
        "place": round(WIDTH * place),
        "frame": f"{sum(seconds) / (sum(frames for frames, _ in films) or 1):.2g} s",
        "logarithmic": wide,
        "count": f"{len(seconds):,}",
    }


def _shards(shards: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the shards side by side, the longest first: one outline for each stage, for any number of shards."""
    ordered = sorted(shards, key=sum, reverse=True)
    totals = [sum(each) for each in ordered]
    across, up = WIDTH / len(ordered), HEIGHT / totals[0]
    outlines = []
    for stage in range(len(OF_SHARDS)):
        steps = []
        for number, each in enumerate(ordered):
            left, bottom = number * across, HEIGHT - up * sum(each[:stage])
            steps.append(f"M{left:.1f} {bottom:.1f}h{across:.1f}v{-up * each[stage]:.1f}h{-across:.1f}z")
        outlines.append((OF_SHARDS[stage], STAGES[OF_SHARDS[stage]], "".join(steps)))
    mean = fmean(totals)
    return {
        "outlines": outlines,
        "count": len(ordered),
        "longest": duration(totals[0]),
        "mean": duration(mean),
        "place": round(HEIGHT - up * mean),
    }
