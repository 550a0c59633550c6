"""Makes the plan, once when Snakemake starts, from the settings, the folders and the receipts.

Jobs read .talkies/plan.json, which real runs write. Commands that look at a folder between runs make a new plan, so
that they show what the next run would do.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import TalkiesError, printable
from ..files import LEFT, read_json
from ..settings import Settings, complete, read
from . import probes, programs, snakemake_private
from .deal import deal
from .estimate import rates
from .folder import CONFIG, HOME, LOCKS, RECEIPTS, RUN
from .lock import claim, held_locks, is_abandoned
from .outside import folders_outside
from .pairs import (
    Pair,
    Source,
    Take,
    by_each_engine,
    check_squares,
    each_face,
    list_inputs,
    list_pairs,
    stamp_of,
)
from .plan import Plan, stamps_of_sounds, stored_plan, weights_of
from .receipts import Receipts
from .state import State, look


@cache
def due() -> str:
    """Return the ending of this process's new receipt names: always the same, though a Snakefile may be read
    twice."""
    return secrets.token_hex(4)


def make_plan(
    settings: Settings,
    *,
    on_cluster: bool = False,
    given: Mapping[str, Any] | None = None,
    inputs: tuple[dict[str, Path], dict[str, Path]] | None = None,
) -> tuple[Plan, State]:
    """Read the folders, plan the run, and compare it with what is there.

    settings: complete (`settings.complete`). on_cluster: jobs are sent to a cluster, so each gets more work. given:
    settings of the command line. inputs: pictures and videos by name, instead of the folders of the settings. Raises
    TalkiesError that names the key, file or line at fault.
    """
    previous = stored_plan()
    receipts = Receipts()
    images, clips = inputs or list_inputs(settings)
    pairs = list_pairs(settings, images, clips)
    if settings.multi_face:
        pairs = each_face(pairs, images, settings)
    if len(settings.by_engine) > 1:
        pairs = by_each_engine(pairs, settings.by_engine)
    check_squares(settings, pairs)
    plan = Plan(
        settings=settings,
        sources=_sources(pairs, images, settings),
        takes=_takes(pairs, clips, settings),
        pairs={pair.name: pair for pair in pairs},
        outside=_outside(settings, pairs),
        sounds=stamps_of_sounds(pairs),
        weights=weights_of(settings),
        programs=programs.stamps(settings.programs),
        rates=rates(settings, receipts, on_cluster=on_cluster),
        given=dict(given or {}),
    )
    if plan.is_pilot:
        _keep_pilot(plan, previous, receipts)
    _count_frames(plan)
    deal(plan, previous, receipts, on_cluster=on_cluster)
    state = look(plan, receipts, due())
    plan.receipts = state.receipts
    plan.joined = on_cluster and all(_is_animated_anew(plan, shard) for shard in plan.pair_shards)
    return plan, state


def _is_animated_anew(plan: Plan, shard: str) -> bool:
    """Return whether a shard's talkies need animating, with no stage between animate and remux."""
    animated, remuxed = (plan.receipt(stage, shard).endswith(due()) for stage in ("animate", "remux"))
    return not remuxed or (animated and not plan.items("show", shard))


def current_plan() -> tuple[Plan, State]:
    """Return the plan of this folder under the current settings, and its state.

    While a run is active, this is its plan. Otherwise it follows config.yaml and the settings of the last run's
    command line.
    """
    stored = stored_plan()
    if stored is not None and (is_running() or not CONFIG.exists()):
        return stored, look(stored, Receipts(), "none")
    if not CONFIG.exists():
        raise TalkiesError("there is no config.yaml here: go into the run folder, or make one: talkies init FOLDER")
    given = stored.given if stored is not None else {}
    return make_plan(complete(read(CONFIG) | given), given=given)


def _keep_pilot(plan: Plan, previous: Plan | None, receipts: Receipts) -> None:
    """Reduce a pilot's plan to the pairs that are done and the first ones to make."""
    deal(plan, previous, receipts)
    state = look(plan, receipts, "none")
    to_make = set(state.to_make)
    chosen = {*state.done, *[name for name in plan.pairs if name in to_make][: plan.settings.first]}
    plan.pairs = {name: pair for name, pair in plan.pairs.items() if name in chosen}
    sources, takes = ({getattr(pair, of) for pair in plan.pairs.values()} for of in ("source", "take"))
    plan.sources = {name: source for name, source in plan.sources.items() if name in sources}
    plan.takes = {name: take for name, take in plan.takes.items() if name in takes}


def _sources(pairs: Iterable[Pair], images: Mapping[str, Path], settings: Settings) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for (name, image), pair in sorted({(pair.source, pair.image): pair for pair in pairs}.items()):
        file = images[image]
        if name in images and name != image:
            raise TalkiesError(f"{printable(images[name])}: named like a crop of {image}: rename it")
        sources[name] = Source(str(file), stamp_of(file), pair.crop or settings.crop_of(file, "images"))
    return sources


def _takes(pairs: Iterable[Pair], clips: Mapping[str, Path], settings: Settings) -> dict[str, Take]:
    """Return the takes; their frames are not counted yet."""
    takes: dict[str, Take] = {}
    for (name, driving), pair in {(pair.take, pair.driving): pair for pair in pairs}.items():
        if name in takes:
            raise TalkiesError(f"{printable(clips[name])}: named like a segment of {driving}: rename it")
        file = clips[driving]
        cut = pair.driving_crop or settings.crop_of(file, "driving")
        takes[name] = Take(driving, str(file), stamp_of(file), cut, pair.start, pair.end, flip=pair.flip)
    return takes


def _count_frames(plan: Plan) -> None:
    """Set each take's number of frames.

    A clip that can't be read counts as empty here: the stage prepare reports what is wrong with it.
    """
    clips = probes.probe_all({take.file for take in plan.takes.values()}, keep=plan.is_pilot)
    for name, take in plan.takes.items():
        clip = clips[take.file]
        if clip is not None:
            since, until = Fraction(take.start or 0), Fraction(take.end) if take.end else None
            plan.takes[name] = replace(take, frames=clip.count(since, until))


def _outside(settings: Settings, pairs: Iterable[Pair]) -> list[str]:
    folders = [str(folder) for folder in folders_outside(settings)]
    for sound in sorted({pair.audio for pair in pairs if isinstance(pair.audio, str)}):
        folder = str(Path(sound).resolve().parent)
        if not Path(folder).is_relative_to(Path.cwd()) and folder not in folders:
            folders.append(folder)
    return folders


# --- a run begins and ends ---------------------------------------------------------------------------------


def start_run(plan: Plan) -> None:
    """Write the plan when a real run starts. A dry run writes nothing.

    Raises TalkiesError while workers of an earlier run are alive whose pairs the plan deals again, since two workers
    could then write one film. Workers of unchanged shards may go on: the new worker of their shard waits for them.
    """
    stored, alive = stored_plan(), held_locks(LOCKS)
    if stored is not None and alive:
        at_work = {name for line in alive for name in stored.pair_shards.get(line.partition(":")[0], [])}
        for shard, names in plan.pair_shards.items():
            if not set(names) <= set(stored.pair_shards.get(shard, [])) and at_work & set(names):
                raise TalkiesError(f"a worker of an earlier run is still at work ({alive[0]}): wait for it or stop it")
    results = Path(plan.settings.results)
    try:
        results.mkdir(parents=True, exist_ok=True)  # before the jobs: an image can bind only folders that exist
    except OSError as error:
        raise TalkiesError(
            f"config.yaml: results: can't make {printable(results)} ({error.strerror}): name another folder"
        ) from None
    if not alive:
        for left in [*HOME.glob(".*.part"), *RECEIPTS.rglob(".*.part")]:
            if LEFT.fullmatch(left.name):  # left by killed workers; their next attempt removes what is beside films
                left.unlink(missing_ok=True)
    plan.save()
    claim(RUN)


def mend_plan(plan: Plan) -> None:
    """Write the plan again if that of an earlier run is missing or damaged, even if there is nothing to do."""
    if RECEIPTS.is_dir() and stored_plan() is None and not at_work():
        plan.save()


def at_work() -> list[str]:
    """Name the processes at work in the run folder: workers, or a snakemake that is not known to have ended."""
    return held_locks(LOCKS) or ["snakemake"] * is_running()


def is_running() -> bool:
    """Return whether a run is at work in this folder, as far as is known here."""
    return bool(read_json(RUN)) and not is_abandoned(RUN)


def end_run() -> None:
    """Note that the run has ended, whatever the outcome."""
    RUN.unlink(missing_ok=True)


def unlock_after_kill() -> bool:
    """Remove Snakemake's locks of the folder if the run that took them was killed; return whether there were any.

    The locks of a run that is alive, or may be, stay.
    """
    if not is_abandoned(RUN):
        return False
    RUN.unlink(missing_ok=True)  # first, so that a run that starts at the same moment leaves our locks alone
    return snakemake_private.remove_locks()
