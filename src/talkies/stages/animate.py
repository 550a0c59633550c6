"""Silent films, many through one loaded model: what rule animate runs."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, media
from ..engines import FilmJob, Movement
from ..errors import InputError, TalkiesError, printable
from ..fomm.model.presets import PRESETS
from ..run import asks
from ..run.asks import ENCODING, FILM_CRF, FILM_PRESET
from ..run.pairs import Pair
from ..run.plan import Plan
from ..run.record import Recorded, content_key
from .motion import detect_take
from .prepare import mend
from .work import UNFINISHED_BYTES, Bench, Outcome, Stage, flipped, holding, since

if TYPE_CHECKING:
    from ..engines import Engine

log = logging.getLogger("talkies")


def _make(bench: Bench, names: list[str]) -> Iterator[tuple[str, Outcome]]:
    """Make the films whose pixels stand nowhere yet, neither here nor in a talkie."""
    missing: list[tuple[Pair, str]] = []
    fresh: list[str] = []
    lost = _mend(bench, names)
    for name, reason in lost.items():
        yield name, InputError("", reason)
    for name in names:
        if name in lost:
            continue
        pair = bench.plan.pairs[name]
        key = picture_key(bench, pair)
        if stands(bench, pair, key):
            fresh.append(name)
            yield name, {"picture_key": key}
        else:
            missing.append((pair, key))
    bench.journal.note("looked", fresh=fresh)
    if missing:
        # Pictures in turn: a picture's features are kept from one film to the next.
        missing.sort(key=lambda item: (item[0].source, item[0].name))
        frames = [int(bench.folder.motion(pair.take).record()["frames"]) for pair, _ in missing]
        bench.progress.start(sum(frames), "frames")
        bench.scratch.require(2 * max(frames) * UNFINISHED_BYTES)
        yield from _animate_pairs(bench, missing)
    log.info("%s: %d pairs: %d to make, %d were there", bench.shard, len(names), len(missing), len(fresh))


STAGE = Stage(
    "animate",
    spec=lambda specs, shard, name: specs.film(name),
    files=lambda bench, name: bench.folder.silent(bench.plan.pairs[name]),
    make=_make,
)


def _mend(bench: Bench, names: Sequence[str]) -> dict[str, str]:
    """Make again what is gone or damaged of what pairs are made of; return why some can't be, by pair."""
    pairs = [bench.plan.pairs[name] for name in names]
    takes = dict.fromkeys(pair.take for pair in pairs)
    lost = mend(bench, dict.fromkeys(pair.source for pair in pairs), takes)
    for take in takes:
        if (take, True) not in lost and not bench.is_as_asked("motion", take):
            bench.say_again("motion", take)
            try:
                with holding(bench.plan.shard_of_take[take]):
                    detect_take(bench, take)
            except InputError as error:
                lost[take, True] = str(error)
            finally:
                bench.scratch.release()
    causes = {pair.name: lost.get((pair.source, False)) or lost.get((pair.take, True)) for pair in pairs}
    return {name: reason for name, reason in causes.items() if reason}


def picture_key(bench: Bench, pair: Pair) -> str:
    """Return the content key of a pair's pixels.

    By content, not by name, place or time; the source and driving records tell the contents' digests.
    """
    plan = bench.plan
    return content_key(
        **asks.film(
            pair,
            plan.sources[pair.source],
            plan.takes[pair.take],
            plan.settings["model"],
            picture=bench.prepared("prepare", pair.source)["original"]["sha256"],
            driving=bench.prepared("prepare", pair.take, clip=True)["original"]["sha256"],
            weights=bench.prepared("motion", pair.take, clip=True)["weights"],
        )
    )


def shown_key(plan: Plan, pair: Pair, key: str) -> str:
    """Return the content key of what a talkie shows, by that of its pixels."""
    shown = asks.is_shown(pair, plan.settings)
    return content_key(**asks.shown(pair, plan.settings, key)) if shown else key


def stands(bench: Bench, pair: Pair, key: str) -> bool:
    """Tell whether a pair's pixels are there: as a silent film, or in its talkie, as it is to show them or bare."""
    if bench.folder.silent(pair).fresh(key) is not None:
        return True
    shown = shown_key(bench.plan, pair, key)
    talkie = bench.folder.talkie(pair)
    if any(talkie.fresh(each, name="picture_key") is not None for each in {shown, key}):
        return True
    return shown != key and bench.folder.shown(pair).fresh(shown) is not None


def _animate_pairs(bench: Bench, missing: Sequence[tuple[Pair, str]]) -> Iterator[tuple[str, Outcome]]:
    """Make silent films; yield each as it is finished, and those that their inputs forbid."""
    folder, scratch, engine = bench.folder, bench.scratch, bench.engine()

    def staged(recorded: Recorded) -> Path:
        return scratch.stage_in(recorded.path, sha256=recorded.record()["file"]["sha256"])

    # All before the first film, so that from here on the shared disk is only written to.
    sources = {source: staged(folder.source(source)) for source in {pair.source for pair, _ in missing}}
    motions = {take: staged(folder.motion(take)) for take in {pair.take for pair, _ in missing}}

    def jobs() -> Iterator[FilmJob]:
        for number, (pair, key) in enumerate(missing):
            silent, motion = folder.silent(pair).path, folder.motion(pair.take).record()
            silent.parent.mkdir(parents=True, exist_ok=True)
            bench.journal.note("begun", pair=pair.name)
            yield FilmJob(
                pair.name,
                pair.source,
                sources[pair.source],
                motions[pair.take],
                Movement(pair.relative, pair.adapt_scale, pair.best_frame),
                media.FrameWriter(
                    silent,
                    Fraction(motion["rate"]),
                    crf=FILM_CRF,
                    preset=FILM_PRESET,
                    threads=engine.threads,
                    part=scratch.unfinished(f"{number}.mp4"),
                ),
                done=partial(_record_film, bench, engine, pair, key, motion, time.monotonic()),
                progress=bench.progress.advance,
            )

    keys = {pair.name: key for pair, key in missing}
    with engine:
        for job, fault in engine.films(jobs()):
            yield job.name, fault or {"picture_key": keys[job.name]}


def _record_film(bench: Bench, engine: Engine, pair: Pair, key: str, motion: Mapping[str, Any], began: float) -> None:
    took, frames = since(began), motion["frames"]
    bench.folder.silent(pair).describe({"key": key, **_facts_of_making(bench, pair, motion, engine), "seconds": took})
    bench.journal.note("animated", pair=pair.name, frames=frames, seconds=took)
    log.info("%s: %d frames in %.1f s", printable(pair.name), frames, took)


def _facts_of_making(bench: Bench, pair: Pair, motion: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """Return what a film's record tells of how its pixels were made."""
    source, take = bench.folder.source(pair.source).record(), bench.folder.driving(pair.take).record()
    of_engine = engine.facts()
    return {
        "source": {"crop": source["crop"], **_public(source["original"])},
        "driving": {
            "crop": take["crop"],
            "segment": [pair.start, pair.end],
            **flipped(bench.plan.takes[pair.take]),
            **_public(take["original"]),
        },
        "motion": {
            "relative": pair.relative,
            "adapt_scale": pair.adapt_scale,
            "best_frame": pair.best_frame,
        },
        "picture": {"frames": motion["frames"], "rate": motion["rate"], **ENCODING},
        **of_engine,
        "software": {
            **of_engine["software"],
            "talkies": __version__,
            "ffmpeg": media.ffmpeg_version(),
            "python": platform.python_version(),
        },
    }


def _public(original: dict[str, Any]) -> dict[str, Any]:
    """Return an input's name and digest: a film's record may be shown to others, the folders are not theirs to know."""
    return {"file": Path(original["file"]).name, "sha256": original["sha256"]}


# --- what the model is loaded for ------------------------------------------------------------------------


def load_engine(plan: Plan, *, device: str | None = None, threads: int | None = None) -> Callable[[], Engine]:
    """Return the function that loads the plan's model and gives the engine."""

    def load() -> Engine:
        model = plan.settings["model"]
        return open_engine(
            model["preset"],
            model["checkpoint"],
            device=device or model["device"],
            precision=model["precision"],
            threads=threads,
        )

    return load


def open_engine(
    preset: str, checkpoint: str | None, *, device: str, precision: str, threads: int | None = None
) -> Engine:
    """Load a model onto a device that works, and return its engine; TalkiesError says what stands in the way."""
    from ..fomm.device import choose_device, keep_compiled, keep_memory
    from ..fomm.engine import Engine
    from ..fomm.model import load_model

    if preset not in PRESETS:
        raise TalkiesError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    keep_memory()
    keep_compiled()
    chosen = choose_device(device)
    began = time.monotonic()
    engine = Engine(load_model(preset, checkpoint, device=chosen), precision=precision, threads=threads)
    precision = str(engine.model.dtype).removeprefix("torch.")
    log.info(
        "%s on %s, %s, %d threads, loaded in %.1f s",
        *(preset, chosen, precision, engine.threads, time.monotonic() - began),
    )
    return engine
