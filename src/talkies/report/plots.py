"""The plots of a run (results/plots.svg): how long pairs took, what the stages took, how evenly the shards were loaded.

The times are those that the records beside the films and the prepared files tell, so of everything that stands in the
results, whichever run made it; only what loading the network took is in the journals alone. No file is named in them.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..run.estimate import duration
from ..run.folder import HOME, JOURNALS, PLOTS, Folder
from ..run.journal import Journal
from ..run.plan import Plan
from ..run.receipts import Receipts
from ..run.record import Recorded
from ..run.state import look
from .page import write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = {
    "prepare": ("crop", "#8c8c8c"),
    "motion": ("find motion", "#009e73"),
    "load": ("load the network", "#e69f00"),
    "animate": ("animate", "#0072b2"),
    "remux": ("put the sound on", "#cc79a7"),
}
"""The stages in their order, as the plots call and colour them (colours that the colour-blind tell apart)."""
OF_SHARDS = ("load", "animate", "remux")
"""What the jobs of a shard of pairs do, and their workers note."""
WIDE = 20
"""Where the slowest pair takes so many times what the middle one takes, the axis of times is logarithmic."""


@dataclass(frozen=True)
class Times:
    """What a run's work took, in seconds of one worker.

    films: frames and seconds of each film that was animated. stages: in all, by stage. shards: by shard of pairs, in
    the order of OF_SHARDS.
    """

    pairs: int
    failed: int
    films: list[tuple[int, float]]
    stages: dict[str, float]
    shards: dict[str, list[float]]


def measure(plan: Plan) -> Times:
    """Gather what the records and journals tell of a plan's files; what tells no time counts nothing."""
    run = Folder.of(plan)
    films: list[tuple[int, float]] = []
    shards = {shard: [0.0] * len(OF_SHARDS) for shard in plan.pair_shards}
    loads = 0.0
    for shard, seconds in _loads():
        loads += seconds
        if shard in shards:
            shards[shard][0] += seconds
    for shard, names in plan.pair_shards.items():
        for name in names:
            record = run.talkie(plan.pairs[name]).record()
            animated, remuxed = _seconds(record), _seconds(record, "remux_seconds")
            if animated:
                films.append((int(record["picture"]["frames"]), animated))
            shards[shard][1] += animated
            shards[shard][2] += remuxed
    prepared = [run.source(image) for image in plan.sources] + [run.driving(take) for take in plan.takes]
    stages = {
        "prepare": _sum(prepared),
        "motion": _sum([run.motion(take) for take in plan.takes]),
        "load": loads,
        "animate": sum(seconds[1] for seconds in shards.values()),
        "remux": sum(seconds[2] for seconds in shards.values()),
    }
    failed = look(plan, Receipts(), "none").failed
    return Times(len(plan.pairs), len(failed), films, stages, {s: t for s, t in shards.items() if any(t)})


def _loads() -> Iterator[tuple[str, float]]:
    """Yield a shard and the seconds of each load of the network."""
    for event in Journal.read(JOURNALS):
        if isinstance(event, dict) and event.get("event") == "loaded":
            yield str(event.get("shard")), _seconds(event)


def _seconds(record: dict[str, Any], name: str = "seconds") -> float:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _sum(files: Sequence[Recorded]) -> float:
    return sum(_seconds(file.record()) for file in files)


# --- the picture -----------------------------------------------------------------------------------------


def write_plots(plan: Plan) -> Path:
    """Draw a run's plots beside its gallery, equal times as equal bytes; return their path. Raises OSError."""
    path = Path(plan.settings["results"]) / PLOTS
    drawn = io.StringIO()
    draw(measure(plan), drawn)
    write_page(path, drawn.getvalue())
    return path


def draw(times: Times, path: Path | io.StringIO) -> None:
    """Draw the plots into an SVG: four panels on white."""
    # Its list of fonts goes among our own files: in an image the home is the run folder, or can't be written to.
    os.environ.setdefault("MPLCONFIGDIR", str((HOME / "matplotlib").absolute()))
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()  # not as a user's own file of settings has it
    matplotlib.rcParams |= {
        "svg.hashsalt": "talkies",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.axisbelow": True,
        "grid.color": "#e0e0e0",
        "legend.frameon": False,
    }
    figure = Figure(figsize=(11, 8.5), layout="constrained", facecolor="white")
    made = f"{len(times.films):,} of {times.pairs:,} pairs made, {times.failed:,} failed"
    figure.suptitle(f"{made}; {duration(sum(times.stages.values()))} of work in all")
    (of_pairs, of_frames), (of_stages, of_shards) = figure.subplots(2, 2)
    _draw_pairs(of_pairs, times)
    _draw_frames(of_frames, times)
    _draw_stages(of_stages, times)
    _draw_shards(of_shards, times)
    figure.savefig(path, format="svg", dpi=150, metadata={"Date": None, "Title": f"Talkies: {made}"})


def _draw_pairs(axes: Axes, times: Times) -> None:
    import numpy as np

    axes.set(title="A pair: how long it takes to animate", xlabel="seconds a pair", ylabel="pairs")
    if not times.films:
        return _say_none(axes, "no film was animated")
    seconds = np.array([film[1] for film in times.films])
    middle = float(np.median(seconds))
    count = min(60, max(5, round(math.sqrt(len(seconds)))))
    bins: Any = count
    if seconds.max() > WIDE * middle:
        bins = np.geomspace(seconds.min(), seconds.max(), count + 1)
        axes.set_xscale("log")
    counts, *_ = axes.hist(seconds, bins=bins, color=STAGES["animate"][1], edgecolor="white", linewidth=0.5)
    axes.set_ylim(0, 1.15 * float(np.max(counts)))  # room for the legend
    axes.axvline(middle, color="black", linestyle="--", linewidth=1, label=f"median {middle:.3g} s")
    axes.legend()
    return _count_on(axes.yaxis)


def _draw_frames(axes: Axes, times: Times) -> None:
    axes.set(title="A pair: by the length of its film", xlabel="frames of the film", ylabel="seconds a pair")
    if not times.films:
        return _say_none(axes, "no film was animated")
    frames, seconds = zip(*times.films, strict=True)
    a_frame = sum(seconds) / sum(frames)
    # Dots as a picture: of thousands the SVG would be slow.
    axes.scatter(frames, seconds, s=14, alpha=0.4, linewidths=0, color=STAGES["animate"][1], rasterized=True)
    label = f"mean {a_frame:.2g} s a frame"
    axes.axline((0, 0), slope=a_frame, color="black", linestyle="--", linewidth=1, label=label)
    axes.set_xlim(0, 1.05 * max(frames))
    axes.set_ylim(0, 1.05 * max(seconds))
    axes.grid()
    axes.legend(loc="upper left")
    return None


def _draw_stages(axes: Axes, times: Times) -> None:
    unit, name = _unit(max(times.stages.values()))
    axes.set(title="The stages: all their workers together", xlabel=f"{name} of one worker")
    seconds = [times.stages[stage] for stage in STAGES]
    labels, colours = zip(*STAGES.values(), strict=True)
    bars = axes.barh(labels, [each / unit for each in seconds], color=colours)
    whole = sum(seconds) or 1.0
    axes.bar_label(bars, [f"{duration(each)}, {each / whole:.0%}" for each in seconds], padding=4)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.4 * (max(seconds) / unit or 1.0))  # room for the labels
    axes.tick_params(axis="y", length=0)


def _draw_shards(axes: Axes, times: Times) -> None:
    import numpy as np

    ordered = np.array(sorted(times.shards.values(), key=sum, reverse=True)).reshape(-1, len(OF_SHARDS))
    unit, name = _unit(float(ordered.sum(1).max(initial=0)))
    axes.set(title="The shards: how evenly the work was dealt out", xlabel="shards, the longest first")
    axes.set_ylabel(f"{name} of its workers")
    if not len(ordered):
        return _say_none(axes, "no shard has a film")
    edges = np.arange(len(ordered) + 1) + 0.5
    below = np.zeros(len(ordered))
    for stage, seconds in zip(OF_SHARDS, ordered.T / unit, strict=True):
        label, colour = STAGES[stage]
        # One outline a stage, however many shards there are.
        axes.stairs(below + seconds, edges, baseline=below, fill=True, color=colour, label=label)
        below = below + seconds
    mean = float(below.mean())
    axes.axhline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {duration(mean * unit)}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.25 * float(below.max()))  # room for the legend
    axes.legend(ncols=2, loc="upper right")
    return _count_on(axes.xaxis)


def _say_none(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _count_on(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _unit(seconds: float) -> tuple[int, str]:
    """Return the unit in which so many seconds are a number to read: its seconds and its name."""
    return (3600, "hours") if seconds >= 3 * 3600 else (60, "minutes") if seconds >= 300 else (1, "seconds")
