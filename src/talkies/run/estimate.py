"""Estimates of a run: seconds and walltimes of its jobs, hours and gigabytes of the films to make."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ..engines import FOMM
from ..errors import counted, printable, size_text
from ..fomm.model.presets import PRESETS
from ..machine.resources import room

if TYPE_CHECKING:
    from ..settings import Settings
    from .ledger import Ledger, Made
    from .plan import Plan
    from .state import State

# What work costs that is no stage's: seconds of one core, bytes.
RUN_SECONDS = 2.0  # Snakemake's start and end
JOB_SECONDS = 1.0  # a job's start: Python, the plan
LOAD_SECONDS = 2.0  # the same of a job that loads an engine, in addition
LOOK_SECONDS = 0.01  # for each pair in the gallery
POSTER_SECONDS = 0.5  # for each take in the gallery
MOSAIC_SECONDS = 30.0  # the same with a mosaic of some films of some seconds
CHECK_SECONDS = 0.3  # for each file that is checked
FRAMES_PER_SECOND = {"cpu": 5.0, "cuda": 100.0}
"""Expected speed of the built-in engine until films are finished, by kind of device."""
SMALL_FACTOR = 4
"""The packaged networks are smaller, and so much faster on a processor."""
LEARNING_FILMS = 50
"""Finished films from which the rate is learnt."""
LEAST_SHARE = 0.2
"""The least part of a film's seconds that its frames took, whatever a program's `load_seconds` say."""

WALLTIME_MARGIN = 2.0
WALLTIME_MINUTES = 15
"""A job's walltime is WALLTIME_MARGIN times the estimate, plus this for its start: image, model, a busy disk."""

BYTES_PER_FRAME = 2_500
LEAST_BYTES_PER_FRAME = 1_500
"""Of a finished talkie (256 x 256, its sound included): the examples measure 1,500 to 3,000."""


def walltime(plan: Plan, stage: str, shard: str | None) -> int:
    """Return the walltime, in minutes, of a job of this stage and shard: the estimate with a margin, and the start.

    shard None: the job of the gallery, which reads every pair, or of the check, which reads every file.
    """
    if shard is None:
        seconds = _page_seconds(plan, stage)
    else:
        stages = [stage]
        if plan.joined and stage == plan.first.name:
            stages = [each.name for each in plan.of_pairs]
        tasks = [plan.tasks.get(each, {}).get(shard) for each in stages]
        seconds = sum(task.seconds for task in tasks if task)
    return WALLTIME_MINUTES + math.ceil(WALLTIME_MARGIN * seconds / 60)


def _page_seconds(plan: Plan, page: str) -> float:
    """Return what a job about the whole run takes."""
    if page == "check":
        return CHECK_SECONDS * (len(plan.sources) + len(plan.takes))
    of_take = MOSAIC_SECONDS if plan.settings.gallery.mosaic else POSTER_SECONDS
    return LOOK_SECONDS * len(plan.pairs) + of_take * len(plan.takes)


def run_seconds(plan: Plan, cores: int) -> float:
    """Return how long a run on this machine takes: its jobs, with their starts, and Snakemake's own."""
    total = RUN_SECONDS
    for stage in plan.stages:
        tasks = plan.tasks[stage.name].values()
        start = JOB_SECONDS + LOAD_SECONDS * stage.on_gpu
        # A job that uses an engine has all cores; of others, each has one.
        total += sum(start + task.seconds for task in tasks) / (1 if stage.on_gpu else max(1, min(cores, len(tasks))))
    for page, name in plan.pages.items():
        if name.endswith(plan.nonce):
            total += JOB_SECONDS + _page_seconds(plan, page) / (cores if page == "check" else 1)
    return total


def maker(engine: str, preset: str, device: str) -> str:
    """Return the name under which the ledger keeps how fast films are made: engine, network and kind of device."""
    return " ".join([engine, *([preset] if engine == FOMM else []), device.partition(":")[0].partition(" ")[0]])


def rates(settings: Settings, ledger: Ledger, *, on_cluster: bool) -> dict[str, float]:
    """Return the expected frames a second of each engine of the settings.

    This is `frames_per_second` of config.yaml, else the median of a few finished films by the same engine, preset and
    kind of device, else what a program's own keys say, or a guess. A film's time includes opening and closing it, so
    short films count as slow; the seconds in which a program loads are counted by themselves.
    """
    if settings.frames_per_second:
        return dict.fromkeys(settings.by_engine, settings.frames_per_second)
    device = settings.model.device
    if device == "auto":
        gpu = settings.slurm.gpu
        given = bool(gpu.get("gpu", 1) or gpu.get("gres")) if on_cluster else has_gpu()
        device = "cuda" if given else "cpu"
    seen: dict[str, list[Made]] = {}
    for entry in ledger.films():
        if entry.seconds > 0 and entry.frames:
            seen.setdefault(entry.by, []).append(entry)
    found = {}
    for engine, program in settings.by_engine.items():
        films = seen.get(maker(engine, settings.model.preset, device), [])[-LEARNING_FILMS:]
        load = program.load_seconds_a_film if program else 0.0
        latest = [film.frames / max(film.seconds - load, LEAST_SHARE * film.seconds) for film in films]
        if program:
            guess = program.frames_per_second
        else:
            packaged = PRESETS[settings.model.preset].packaged
            guess = FRAMES_PER_SECOND[device] * (SMALL_FACTOR if packaged and device == "cpu" else 1)
        found[engine] = float(f"{median(latest):.2g}") if latest else guess
    return found


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU with a loaded driver."""
    return Path("/dev/nvidiactl").exists()


# --- of a whole run ----------------------------------------------------------------------------------------


def frames_of(plan: Plan, names: Iterable[str]) -> int:
    """Return the frames of pairs' films."""
    return sum(plan.takes[plan.pairs[name].take].frames for name in names)


def frames_a_second(plan: Plan, names: Iterable[str]) -> str:
    """Return, in words, the expected rates of these pairs' engines."""
    engines = dict.fromkeys(plan.pairs[name].engine for name in names)
    if len(plan.rates) == 1:
        return f"{next(iter(plan.rates.values())):g} frames/s"
    return ", ".join(f"{plan.rates[name]:g} frames/s ({name})" for name in engines)


def describe(plan: Plan, state: State, *, cores: int = 1, on_cluster: bool = False) -> str:
    """Return one line about a run's size: pairs, jobs, estimated time and gigabytes to make, and free space."""
    took = duration(run_seconds(plan, cores))
    if on_cluster:
        seconds = sum(t.seconds for stage in plan.stages if stage.on_gpu for t in plan.tasks[stage.name].values())
        gpu = plan.settings.model.device != "cpu" and plan.settings.slurm.gpu.get("gpu", 1) != 0
        long = f"{seconds / 3600:.3g} GPU hours" if seconds >= 3600 else f"{duration(seconds)} of a GPU"
        took = long if gpu else duration(seconds)
    drivings = len({take.driving for take in plan.takes.values()})
    pilot = f" (a pilot, first: {plan.settings.first})" if plan.is_pilot else ""
    to_make = f"{len(state.to_make)} to make"
    if len(state.to_animate) < len(state.to_make):
        to_make += f", {len(state.to_animate)} of them to {plan.first.name}"
    if state.to_make:
        to_make += f": about {took}"
    if state.to_animate:
        to_make += f" at {frames_a_second(plan, state.to_animate)}"
    if state.to_make:
        to_make += f", {size_text(frames_of(plan, state.to_make) * BYTES_PER_FRAME)}"
    return (
        f"{counted(len(plan.sources), 'picture')}, {counted(drivings, 'video')}: "
        f"{counted(len(plan.pairs), 'pair')} in {counted(len(plan.shards['pairs']), 'job')}"
        f"{pilot}; {to_make}; {size_text(room(plan.results))} free"
    )


def duration(seconds: float) -> str:
    """Return a time in its two largest units: 1 h 05 min, 4 min 20 s, 12 s."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours >= 48:
        return f"{hours // 24} days {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def lack_of_room(plan: Plan, state: State) -> tuple[str, bool] | None:
    """Return that the films to make will not fit on the results' disk, by estimate, and whether that is certain: not
    even small ones would. None if there is enough room."""
    free, wanted = room(plan.results), frames_of(plan, state.to_make)
    if wanted * BYTES_PER_FRAME <= free:
        return None
    return (
        f"{printable(plan.results)}: {size_text(free)} free, and {counted(len(state.to_make), 'film')} to make need "
        f"about {size_text(wanted * BYTES_PER_FRAME)}: make room, or name another folder by results in config.yaml",
        wanted * LEAST_BYTES_PER_FRAME > free,
    )
