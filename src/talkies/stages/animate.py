"""Makes many silent films with one loaded model: what rule animate runs."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from msgspec.structs import asdict

from .. import __version__, media
from ..engines import FOMM, FilmJob, Material, Movement
from ..engines.command import CommandEngine
from ..engines.program import Program
from ..errors import InputError, TalkiesError, printable
from ..fomm import import_torch
from ..fomm.model.presets import PRESETS
from ..media.film import encoding
from ..run.estimate import maker
from ..run.inputs import clip_of
from ..run.pairs import Pair
from ..run.plan import Plan, Stage
from ..run.record import Film, FoundMotion, Original, PreparedTake, is_unchanged
from ..settings import Model
from .cut import seconds, why_refused
from .work import Bench, Unwanted, begin, since

if TYPE_CHECKING:
    from ..engines import Engine, MotionEngine
    from .work import Opener

log = logging.getLogger("talkies")


PAIR_SECONDS = 0.3
"""For each film, in addition to its frames: opening and closing it, its record."""


def _asks(plan: Plan, name: str) -> dict[str, Any]:
    pair, film = plan.pairs[name], {"film": encoding(**asdict(plan.settings.film))}
    program = plan.others.get(pair.engine)
    if program is not None:
        return _asks_of_program(plan, pair, program) | film
    model = plan.settings.model
    return {
        "source": plan.known_key("crop", pair.source),
        "take": plan.known_key("motion", pair.take),
        # Absolute motion uses the driving keypoints themselves: no scale and no first frame.
        "motion": [pair.adapt_scale, pair.best_frame or 0] if pair.relative else "absolute",
        "model": [model.precision, model.layers, PRESETS[model.preset].recipe],
        **film,
    }


def _asks_of_program(plan: Plan, pair: Pair, program: Program) -> dict[str, Any]:
    """Return what decides a program's film. A setting that its command does not use changes nothing."""
    source, take = plan.sources[pair.source], plan.takes[pair.take]
    chosen = {
        "relative": pair.relative,
        "adapt_scale": pair.adapt_scale,
        "find_best_frame": pair.best_frame == "auto",
        "best_frame": pair.best_frame if isinstance(pair.best_frame, int) else 0,
    }
    inputs: dict[str, Any] = {"source": plan.known_key("crop", pair.source), "take": plan.known_key("cut", pair.take)}
    if program.input == "whole":
        segment = {"start": take.start, "end": take.end, "flip": take.flip}
        inputs = {"picture": plan.content(source.file), "video": plan.content(take.file), **segment}
    keys = ("command", "workdir", "input", "side", "output_side", "result", "batch")
    return {
        **inputs,
        "motion": {name: value for name, value in chosen.items() if program.uses(name)},
        "audio": plan.content(pair.audio) if isinstance(pair.audio, str) and program.uses("audio") else None,
        "engine": {**plan.programs[pair.engine], **{key: getattr(program, key) for key in keys}},
    }


def _make(bench: Bench, names: list[str]) -> Iterator[tuple[str, Film | InputError]]:
    missing: list[Pair] = []
    faceless: dict[str, str | None] = {}
    for name in names:
        pair = bench.plan.pairs[name]
        if pair.engine == FOMM and pair.take not in faceless:
            faceless[pair.take] = why_refused(bench.plan, pair.take, bench.record("cut", pair.take).crop)
            if why := faceless[pair.take]:
                log.error("%s", why)
        if refusal := faceless.get(pair.take) if pair.engine == FOMM else None:
            yield name, Unwanted("", refusal, ("faceless", "allow"))
        else:
            missing.append(pair)
    if missing:
        # Ordered by picture, since a picture's features are kept from one film to the next.
        missing.sort(key=lambda pair: (pair.engine, pair.source, pair.name))
        bench.progress.start(sum(_take_facts(bench, pair).frames for pair in missing), "frames")
        for engine, alike in groupby(missing, key=lambda pair: pair.engine):
            yield from _animate_pairs(bench, engine, list(alike))


def _seconds(plan: Plan, name: str) -> float:
    pair = plan.pairs[name]
    program = plan.others.get(pair.engine)
    load = program.load_seconds_a_film if program else 0.0
    return PAIR_SECONDS + load + plan.takes[pair.take].frames / plan.rates[pair.engine]


STAGE = Stage(
    "animate",
    "pairs",
    file=lambda plan, name: plan.film("animate", name),
    asks=_asks,
    make=_make,
    seconds=_seconds,
    # The built-in engine computes a take's motion once for all pictures; programs get the clip itself.
    needs=lambda plan, name: ("crop", "motion") if plan.pairs[name].engine == FOMM else ("crop", "cut"),
    on_gpu=True,
)


def _take_facts(bench: Bench, pair: Pair) -> FoundMotion | PreparedTake:
    """Return the record with a take's frames and rate: that of its motion, if the engine computes motion."""
    found: FoundMotion | PreparedTake = bench.record("motion" if pair.engine == FOMM else "cut", pair.take)
    return found


def _animate_pairs(bench: Bench, name: str, missing: Sequence[Pair]) -> Iterator[tuple[str, Film | InputError]]:
    """Make silent films with one engine; yield each when it is finished, or with the error in its inputs."""
    plan = bench.plan
    engine = bench.engine(name, bench.scratch)

    for source in {pair.source for pair in missing}:
        bench.record("crop", source)  # an error before the first film, if one is gone
    made: dict[str, Film] = {}

    def jobs() -> Iterator[FilmJob]:
        for number, pair in enumerate(missing):
            facts = _take_facts(bench, pair)
            begin(bench, pair.name)
            # The number of films encoded at once; if they are few, they share the cores.
            threads = max(1, engine.threads // len(missing))
            writer = bench.writer(pair, facts.rate, f"{number}.mp4", threads=threads)
            yield FilmJob(
                pair.name,
                pair.source,
                pair.take,
                pair.audio if isinstance(pair.audio, str) else "",
                plan.source_file(pair.source).path,
                plan.motion_file(pair.take).path if pair.engine == FOMM else None,
                partial(_material, bench, pair),
                facts.frames,
                Movement(pair.relative, pair.adapt_scale, pair.best_frame),
                writer,
                done=partial(_record_film, bench, engine, pair, writer, time.monotonic(), made),
                progress=bench.progress.advance,
            )

    with engine:
        for job, fault in engine.films(jobs()):
            yield job.name, fault or made[job.name]


def _material(bench: Bench, pair: Pair) -> Material:
    """Return a pair's files and crops, for engines that read the files themselves."""
    plan = bench.plan
    source, take = bench.record("crop", pair.source), bench.record("cut", pair.take)
    picture, wanted = Path(plan.sources[pair.source].file), plan.takes[pair.take]
    if not is_unchanged(picture, source.original):
        raise TalkiesError(f"{printable(picture)}: it has changed since it was looked at; run snakemake again")
    clip = clip_of(Path(wanted.file))
    return Material(
        picture,
        source.crop.box,
        clip,
        take.crop.box,
        seconds(wanted.start),
        seconds(wanted.end),
        wanted.flip,
        media.probe_sound(pair.audio) if isinstance(pair.audio, str) else clip,
    )


def _record_film(
    bench: Bench,
    engine: Engine,
    pair: Pair,
    writer: media.FrameWriter,
    began: float,
    made: dict[str, Film],
    took: float | None,
) -> None:
    took = since(began) if took is None else round(took, 3)
    source, take = bench.record("crop", pair.source), bench.record("cut", pair.take)
    facts, kind = engine.facts(), "model" if pair.engine == FOMM else "engine"
    if pair.engine == FOMM and (network := cast("MotionEngine", engine).network(pair.source)):
        facts["model"]["network"] = network
    by = maker(pair.engine, bench.plan.settings.model.preset, str(facts[kind].get("device", "")))
    facts |= {
        "source": {"crop": source.crop, **_public(source.original)},
        "driving": {
            "crop": take.crop,
            "segment": [pair.start, pair.end],
            **({"flip": True} if pair.flip else {}),
            **_public(take.original),
        },
        "motion": Movement(pair.relative, pair.adapt_scale, pair.best_frame),
        "software": {
            **facts["software"],
            "talkies": __version__,
            "ffmpeg": media.ffmpeg_version(),
            "python": platform.python_version(),
        },
        "animate_seconds": took,
    }
    film = Film(
        key=bench.key(pair.name), frames=writer.frames, picture=writer.picture, seconds=took, by=by, facts=facts
    )
    made[pair.name] = bench.stage.file(bench.plan, pair.name).describe(film)
    log.info("%s: %d frames in %.1f s", printable(pair.name), writer.frames, took)


def _public(original: Original) -> dict[str, str]:
    """Return an input's name and digest, without its folder: a film's record may be shown to others."""
    return {"file": Path(original.file).name, "sha256": original.sha256}


# --- loading engines -------------------------------------------------------------------------------------


def load_engine(plan: Plan, *, threads: int | None = None) -> Opener:
    """Return the function that opens one of the plan's engines by name and gives it a folder for its files."""
    built_in = cache(partial(open_engine, plan.settings.model, threads))

    def load(name: str, within: Path) -> Engine:
        program = plan.others.get(name)
        if program is None:
            return built_in()
        return CommandEngine(program, plan.programs[name], threads=threads, within=within)

    return load


def open_engine(model: Model, threads: int | None = None) -> MotionEngine:
    """Load a model onto a working device, and return its engine; TalkiesError says why that failed."""
    import_torch()
    from ..fomm import engine

    load = {key: getattr(model, key) for key in ("device", "precision", "layers")}
    return engine.open_engine(model.preset, model.checkpoint, threads=threads, **load)
