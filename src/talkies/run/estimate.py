"""Estimates of a run: seconds and walltimes of its jobs, hours and gigabytes of the films to make."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from ..engines import FOMM
from ..errors import counted, printable, size_text
from ..files import from_json
from ..fomm.model.presets import PRESETS, frame_bytes
from ..machine.disk import room
from .asks import is_shown
from .receipts import Receipts

if TYPE_CHECKING:
    from ..settings import Settings
    from .pairs import Pair, Take
    from .plan import Plan
    from .state import State

# What the work costs: seconds of one core, bytes. A run's own films replace FRAMES_PER_SECOND.
PICTURE_SECONDS = 1.0  # for each picture: cropping
TAKE_SECONDS = 1.0  # for each take: probing, opening and closing its files
TAKE_SECONDS_PER_FRAME = 0.02  # cropping and keypoints
PAIR_SECONDS = 0.3  # for each film, in addition to its frames: opening and closing it, its record
REMUX_SECONDS = 1.0  # for each film: its sound
SHOW_SECONDS_PER_FRAME = 0.2  # setting it into a picture of 2,000 pixels a side
LOOK_SECONDS = 0.01  # for each pair in the gallery
POSTER_SECONDS = 0.5  # for each take in the gallery
MOSAIC_SECONDS_PER_FRAME = 0.005  # for each film in it
CHECK_SECONDS = 3.0  # for each file that is checked
GPU_BYTES = 1_500_000_000  # GPU memory of the CUDA context and a network's weights
FRAMES_PER_SECOND = 10.0
"""Expected speed of the network until films are finished."""
LEARNING_FILMS = 50
"""Finished films from which the rate is learnt."""

WALLTIME_MARGIN = 2.0
WALLTIME_MINUTES = 15
"""A job's walltime is WALLTIME_MARGIN times the estimate, plus this for its start: image, model, a busy disk."""

BYTES_PER_FRAME = 2_500
LEAST_BYTES_PER_FRAME = 1_500
"""Of a finished talkie (256 x 256, its sound included): the examples measure 1,500 to 3,000."""


def preparing_seconds(take: Take) -> float:
    """Return how long the preparation of a take is expected to take."""
    return TAKE_SECONDS + TAKE_SECONDS_PER_FRAME * take.frames


def animating_seconds(plan: Plan, pair: Pair) -> float:
    """Return how long a pair's film is expected to take."""
    return PAIR_SECONDS + plan.takes[pair.take].frames / plan.rate(pair.engine)


def seconds(plan: Plan, stage: str, shard: str) -> float:
    """Return how long a stage of a shard is expected to take."""
    if stage == "prepare":
        takes = (plan.takes[take] for take in plan.take_shards.get(shard, []))
        return PICTURE_SECONDS * len(plan.picture_shards.get(shard, [])) + sum(map(preparing_seconds, takes))
    if stage == "motion":
        rate = plan.rate(FOMM)
        return sum(TAKE_SECONDS + plan.takes[take].frames / rate for take in plan.items("motion", shard))
    pairs = [plan.pairs[name] for name in plan.pair_shards[shard]]
    if stage == "animate":
        return sum(animating_seconds(plan, pair) for pair in pairs) + plan.joined * REMUX_SECONDS * len(pairs)
    if stage == "remux":
        return REMUX_SECONDS * len(pairs)
    shown = (pair for pair in pairs if is_shown(pair, plan.settings))
    return sum(PAIR_SECONDS + SHOW_SECONDS_PER_FRAME * plan.takes[pair.take].frames for pair in shown)


def walltime(plan: Plan, stage: str, shard: str | None) -> int:
    """Return the walltime, in minutes, of a job of this stage and shard: the estimate with a margin, and the start.

    shard None: the job of the gallery, which reads every pair, or of the check, which reads every file.
    """
    files = len(plan.sources) + len(plan.takes)
    whole = CHECK_SECONDS * files if stage == "check" else LOOK_SECONDS * len(plan.pairs)
    if stage == "gallery":
        whole += POSTER_SECONDS * len(plan.takes) + MOSAIC_SECONDS_PER_FRAME * _mosaic_frames(plan)
    expected = seconds(plan, stage, shard) if shard else whole
    return WALLTIME_MINUTES + math.ceil(WALLTIME_MARGIN * expected / 60)


def gpu_megabytes(plan: Plan, shard: str) -> int:
    """Return the GPU memory (MB) that a job of a shard needs; for the built-in engine, with a batch of one frame."""
    if plan.by_program(shard):
        return max(plan.others[plan.pairs[name].engine].gpu_mem_mb for name in plan.pair_shards[shard])
    side = PRESETS[plan.settings.model.preset].size
    return math.ceil((GPU_BYTES + 2 * frame_bytes(side, 4)) / 1e6)


def _mosaic_frames(plan: Plan) -> int:
    """Return the frames of all talkies that the mosaics show."""
    most = plan.settings.gallery.mosaic or 0
    films = Counter(pair.take for pair in plan.pairs.values())
    return sum(min(count, most) * plan.takes[take].frames for take, count in films.items())


def rates(settings: Settings, receipts: Receipts, *, on_cluster: bool) -> dict[str, float]:
    """Return the expected frames a second of each engine of the settings.

    This is `frames_per_second` of config.yaml, else the median of a few finished films by the same engine, preset and
    kind of device, else FRAMES_PER_SECOND. A film's time includes opening and closing it, so short films count as slow.
    """
    if settings.frames_per_second:
        return dict.fromkeys(settings.by_engine, settings.frames_per_second)
    wanted = settings.model.device
    if wanted == "auto":
        gpu = settings.slurm.gpu
        given = bool(gpu.get("gpu", 1) or gpu.get("gres")) if on_cluster else has_gpu()
        wanted = "cuda" if given else "cpu"
    seen: dict[str, list[float]] = {name: [] for name in settings.by_engine}
    for film in islice(_some_films(Path(settings.results), receipts), LEARNING_FILMS * len(seen)):
        name, fomm = film.engine.name, film.engine.name == FOMM
        alike = not fomm or film.model.preset == settings.model.preset
        device = film.model.device if fomm else film.engine.device
        if alike and name in seen and device.startswith(wanted) and film.seconds > 0:
            seen[name].append(film.picture.frames / film.seconds)
    return {
        name: float(f"{median(each):.2g}") if each and median(each) > 0 else FRAMES_PER_SECOND
        for name, each in seen.items()
    }


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU with a loaded driver."""
    return Path("/dev/nvidiactl").exists()


class _Frames(Struct):
    frames: int


class _Maker(Struct, frozen=True):
    name: str = FOMM  # records from before there were other engines name none
    device: str = ""
    preset: str = ""


class _MadeFilm(Struct):
    """What a film's record tells of the time that it took."""

    picture: _Frames
    seconds: float
    engine: _Maker = _Maker()
    model: _Maker = _Maker()


def _some_films(results: Path, receipts: Receipts) -> Iterable[_MadeFilm]:
    """Yield what is known of finished films: a few of each shard, the last shards first."""
    for shard in reversed(receipts.shards("remux")):
        for name in islice(receipts.read("remux", shard).done, 10):
            with suppress(OSError, ValueError):
                yield from_json((results / f"{name}.json").read_bytes(), _MadeFilm)


# --- of a whole run ----------------------------------------------------------------------------------------


def frames_of(plan: Plan, names: Iterable[str]) -> int:
    """Return the frames of pairs' films."""
    return sum(plan.takes[plan.pairs[name].take].frames for name in names)


def frames_a_second(plan: Plan, names: Iterable[str]) -> str:
    """Return, in words, the expected rates of these pairs' engines."""
    engines = dict.fromkeys(plan.pairs[name].engine for name in names)
    if len(plan.engines) == 1:
        return f"{plan.rate(next(iter(plan.engines))):g} frames/s"
    return ", ".join(f"{plan.rate(name):g} frames/s ({name})" for name in engines)


def describe(plan: Plan, state: State, *, on_cluster: bool = False) -> str:
    """Return one line about a run's size: pairs, jobs, estimated time and gigabytes to make, and free space."""
    seconds = sum(animating_seconds(plan, plan.pairs[name]) for name in state.to_animate)
    if on_cluster:
        took = f"{seconds / 3600:.3g} GPU hours" if seconds >= 3600 else f"{duration(seconds)} of a GPU"
    else:
        took = duration(seconds)
    drivings = len({take.driving for take in plan.takes.values()})
    free, limit = room(Path(plan.settings.results))
    pilot = f" (a pilot, first: {plan.settings.first})" if plan.is_pilot else ""
    to_make = f"{len(state.to_make)} to make"
    if len(state.to_animate) < len(state.to_make):
        to_make += f", {len(state.to_animate)} of them to animate"
    if state.to_animate:
        to_make += f": about {took} at {frames_a_second(plan, state.to_animate)}"
    if state.to_make:
        to_make += f", {size_text(frames_of(plan, state.to_make) * BYTES_PER_FRAME)}"
    return (
        f"{counted(len(plan.sources), 'picture')}, {counted(drivings, 'video')}: "
        f"{counted(len(plan.pairs), 'pair')} in {counted(len(plan.pair_shards), 'job')}"
        f"{pilot}; {to_make}; {size_text(free)} {limit}"
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


@dataclass(frozen=True)
class LackOfRoom:
    """A message that the films to make will not fit on the results' disk; certain: not even small ones."""

    text: str
    certain: bool

    def __str__(self) -> str:
        return self.text


def lack_of_room(plan: Plan, state: State) -> LackOfRoom | None:
    """Return the lack of space for the films to make, by estimate; None if there is enough."""
    folder = Path(plan.settings.results)
    free, limit = room(folder)
    frames = frames_of(plan, state.to_make)
    if frames * BYTES_PER_FRAME <= free:
        return None
    return LackOfRoom(
        f"{printable(folder)}: {size_text(free)} {limit}, and {counted(len(state.to_make), 'film')} to make need "
        f"about {size_text(frames * BYTES_PER_FRAME)}: make room, or name another folder by results in config.yaml",
        frames * LEAST_BYTES_PER_FRAME > free,
    )
