"""Makes many silent films with one loaded model: what rule animate runs."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .. import __version__, media
from ..command import CommandEngine
from ..engines import FOMM, FilmJob, Material, Movement
from ..errors import InputError, TalkiesError, counted, printable
from ..fomm.model.presets import PRESETS
from ..media.crop import Crop, is_faceless
from ..media.film import FILM_SIZE
from ..program import Program
from ..run import asks, programs
from ..run.journal import Animated, Begun, Looked
from ..run.pairs import Pair
from ..run.plan import Plan
from ..run.probes import clip_of
from ..run.record import (
    Answer,
    Film,
    FilmPicture,
    FoundMotion,
    Original,
    PreparedTake,
    Record,
    content_key,
    is_unchanged,
)
from ..run.state import FACELESS
from .motion import detect_take
from .prepare import mend, probe_copy, seconds, sound_digest
from .work import UNFINISHED_BYTES, Bench, Outcome, Stage, flipped, holding, say_again, since

if TYPE_CHECKING:
    from ..engines import Engine, MotionEngine
    from .work import Opener

log = logging.getLogger("talkies")


def _make(bench: Bench, names: list[str]) -> Iterator[tuple[str, Outcome]]:
    """Make the films that exist neither as a silent film nor in a talkie."""
    missing: list[tuple[Pair, str]] = []
    fresh: list[str] = []
    faceless: dict[str, str | None] = {}
    lost = _mend(bench, names)
    for name, reason in lost.items():
        yield name, InputError("", reason)
    for name in names:
        if name in lost:
            continue
        pair = bench.plan.pairs[name]
        try:
            key = picture_key(bench, pair)
        except InputError as error:
            yield name, error
            continue
        if stands(bench, pair, key):
            fresh.append(name)
            yield name, Answer(picture_key=key)
        elif refusal := _refusal(bench, pair, faceless):
            yield name, InputError("", refusal)
        else:
            missing.append((pair, key))
    bench.journal.note(Looked(fresh=fresh))
    if missing:
        # Ordered by picture, since a picture's features are kept from one film to the next.
        missing.sort(key=lambda item: (item[0].engine, item[0].source, item[0].name))
        frames = [_take_facts(bench, pair).frames for pair, _ in missing]
        bench.progress.start(sum(frames), "frames")
        bench.scratch.require(2 * max(frames) * UNFINISHED_BYTES)
        for engine, alike in groupby(missing, key=lambda item: item[0].engine):
            yield from _animate_pairs(bench, engine, list(alike))
    pairs = counted(len(names), "pair")
    if fresh:
        log.info("%s: %d of %s are there already", bench.shard, len(fresh), pairs)


STAGE = Stage(
    "animate",
    spec=lambda specs, shard, name: specs.film(name),
    files=lambda bench, name: bench.folder.silent(bench.plan.pairs[name]),
    make=_make,
)


def _refusal(bench: Bench, pair: Pair, known: dict[str, str | None]) -> str | None:
    """Return why a pair is refused; None if it is not. known: the records of takes.

    A network for faces makes torn films from a video without a face.
    """
    settings, take = bench.plan.settings, bench.plan.takes[pair.take]
    preset = PRESETS[settings.model.preset]
    if pair.engine != FOMM or preset.crop != "face" or settings.faceless == "allow":
        return None
    if pair.take not in known:
        cut = bench.take(pair.take).crop
        clip, ends = clip_of(Path(take.file)), (seconds(take.start), seconds(take.end))
        known[pair.take] = why_refused(clip, cut, *ends, preset.name, "set faceless: allow in config.yaml")
        if known[pair.take]:
            log.error("%s", known[pair.take])
    return known[pair.take]


def why_refused(
    clip: media.Clip, cut: Crop, start: Fraction | None, end: Fraction | None, network: str, otherwise: str
) -> str | None:
    """Return why a network for faces takes no driving video without one, None where a face is seen or cut by hand.

    network: its name. otherwise: what else can be done.
    """
    if cut.faces != 0 or not is_faceless(clip, start=start, end=end):
        return None
    return (
        f"{printable(clip.path)}: {FACELESS}, and {network} animates by faces: crop it by hand (center, or a box), "
        f"or {otherwise}"
    )


def _mend(bench: Bench, names: Sequence[str]) -> dict[str, str]:
    """Make missing or damaged inputs of pairs again; return the pairs for which that failed, with the reason."""
    pairs = [bench.plan.pairs[name] for name in names]
    takes = dict.fromkeys(pair.take for pair in pairs)
    lost = mend(bench, dict.fromkeys(pair.source for pair in pairs), takes)
    for take in dict.fromkeys(pair.take for pair in pairs if pair.engine == FOMM):
        if (take, True) not in lost and not bench.folder.motion(take).whole():
            say_again(bench.folder.motion(take))
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

    It depends on contents, not on names, places or times; the records of source and take have the digests.
    """
    plan = bench.plan
    program = plan.others.get(pair.engine)
    if program is not None:
        asked = asks.film_of_program(
            pair,
            plan.sources[pair.source],
            plan.takes[pair.take],
            program,
            plan.settings,
            picture=bench.source(pair.source).original.sha256,
            driving=bench.take(pair.take).original.sha256,
            sound=sound_digest(pair.audio) if isinstance(pair.audio, str) and program.uses("audio") else None,
            contents=programs.digests(program),
        )
        return content_key(**asked)
    return content_key(
        **asks.film(
            pair,
            plan.sources[pair.source],
            plan.takes[pair.take],
            plan.settings,
            picture=bench.source(pair.source).original.sha256,
            driving=bench.take(pair.take).original.sha256,
            weights=bench.motion(pair.take).weights,
        )
    )


def shown_key(plan: Plan, pair: Pair, key: str) -> str:
    """Return the content key of the film that a talkie shows, given that of its pixels."""
    shown = asks.is_shown(pair, plan.settings)
    return content_key(**asks.shown(pair, plan.settings, key)) if shown else key


def stands(bench: Bench, pair: Pair, key: str) -> bool:
    """Return whether a pair's pixels exist: as a silent film, or in its talkie (as wanted, or the square alone)."""
    if bench.folder.silent(pair).fresh(key) is not None:
        return True
    shown = shown_key(bench.plan, pair, key)
    talkie = bench.folder.talkie(pair)
    if any(talkie.fresh(each, name="picture_key") is not None for each in {shown, key}):
        return True
    return shown != key and bench.folder.shown(pair).fresh(shown) is not None


def _take_facts(bench: Bench, pair: Pair) -> FoundMotion | PreparedTake:
    """Return the record with a take's frames and rate: that of its motion, if the engine computes motion."""
    return bench.motion(pair.take) if pair.engine == FOMM else bench.take(pair.take)


def _animate_pairs(bench: Bench, name: str, missing: Sequence[tuple[Pair, str]]) -> Iterator[tuple[str, Outcome]]:
    """Make silent films with one engine; yield each when it is finished, or with the error in its inputs."""
    folder, scratch = bench.folder, bench.scratch
    engine = bench.engine(name, scratch.folder)

    def staged(path: Path, record: Record) -> Path:
        return scratch.stage_in(path, sha256=record.file.sha256)

    # All before the first film, so that from here on nothing is read from the shared disk.
    sources = {
        source: staged(folder.source(source).path, bench.source(source))
        for source in {pair.source for pair, _ in missing}
    }
    takes = {pair.take for pair, _ in missing if pair.engine == FOMM}
    motions = {take: staged(folder.motion(take).path, bench.motion(take)) for take in takes}

    def jobs() -> Iterator[FilmJob]:
        for number, (pair, key) in enumerate(missing):
            silent, facts = folder.silent(pair).path, _take_facts(bench, pair)
            silent.parent.mkdir(parents=True, exist_ok=True)
            bench.journal.note(Begun(pair=pair.name))
            writer = media.FrameWriter(
                silent,
                Fraction(facts.rate),
                **asks.encoding(bench.plan.settings),
                # The number of films encoded at once; if they are few, they share the cores.
                threads=max(1, engine.threads // len(missing)),
                part=scratch.unfinished(f"{number}.mp4"),
            )
            yield FilmJob(
                pair.name,
                pair.source,
                pair.take,
                pair.audio if isinstance(pair.audio, str) else "",
                sources[pair.source],
                motions.get(pair.take),
                partial(_material, bench, pair),
                facts.frames,
                Movement(pair.relative, pair.adapt_scale, pair.best_frame),
                writer,
                done=partial(_record_film, bench, engine, pair, key, writer, time.monotonic()),
                progress=bench.progress.advance,
            )

    keys = {pair.name: key for pair, key in missing}
    with engine:
        for job, fault in engine.films(jobs()):
            yield job.name, fault or Answer(picture_key=keys[job.name])


def _material(bench: Bench, pair: Pair) -> Material:
    """Return a pair's files and crops, for engines that read the files themselves."""
    plan = bench.plan
    source, take = bench.source(pair.source), bench.take(pair.take)
    picture, wanted = Path(plan.sources[pair.source].file), plan.takes[pair.take]
    if not is_unchanged(picture, source.original):
        raise TalkiesError(f"{printable(picture)}: it has changed since it was looked at; run snakemake again")
    clip = probe_copy(Path(wanted.file), bench.scratch, take.original.sha256)
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
    bench: Bench, engine: Engine, pair: Pair, key: str, writer: media.FrameWriter, began: float, took: float | None
) -> None:
    took = since(began) if took is None else round(took, 3)
    source, take = bench.source(pair.source), bench.take(pair.take)
    facts = film_facts(
        {"crop": source.crop, **_public(source.original)},
        {
            "crop": take.crop,
            "segment": [pair.start, pair.end],
            **flipped(bench.plan.takes[pair.take]),
            **_public(take.original),
        },
        Movement(pair.relative, pair.adapt_scale, pair.best_frame),
        engine,
        network=pair.source if pair.engine == FOMM else None,
    )
    bench.folder.silent(pair).describe(Film(key=key, picture=picture_of(writer), seconds=took, facts=facts))
    bench.journal.note(Animated(pair=pair.name, frames=writer.frames, seconds=took))
    log.info("%s: %d frames in %.1f s", printable(pair.name), writer.frames, took)


def picture_of(writer: media.FrameWriter) -> FilmPicture:
    """Return the facts about a written film's pictures."""
    size = writer.size if writer.size != (FILM_SIZE, FILM_SIZE) else None
    return FilmPicture(writer.frames, str(writer.rate), size or FILM_SIZE, *writer.encoding)


def film_facts(
    source: Mapping[str, object],
    driving: Mapping[str, object],
    movement: Movement,
    engine: Engine,
    *,
    network: str | None,
) -> dict[str, object]:
    """Return what a film's record tells of its making.

    source, driving: the input files and their crops. network: for the built-in engine, the source whose network is
    named (`FilmJob.source`).
    """
    of_engine = engine.facts()
    if network is not None and (name := cast("MotionEngine", engine).network(network)):
        of_engine["model"]["network"] = name
    return {
        "source": source,
        "driving": driving,
        "motion": movement,
        **of_engine,
        "software": {
            **of_engine["software"],
            "talkies": __version__,
            "ffmpeg": media.ffmpeg_version(),
            "python": platform.python_version(),
        },
    }


def _public(original: Original) -> dict[str, str]:
    """Return an input's name and digest, without its folder: a film's record may be shown to others."""
    return {"file": Path(original.file).name, "sha256": original.sha256}


# --- loading engines -------------------------------------------------------------------------------------


def load_engine(plan: Plan, *, device: str | None = None, threads: int | None = None) -> Opener:
    """Return the function that opens one of the plan's engines by name and gives it a folder for its files."""

    def load(name: str, within: Path | None) -> Engine:
        program = plan.others.get(name)
        if program is not None:
            return open_program(program, threads=threads, within=within)
        model = plan.settings.model
        return open_engine(
            model.preset,
            model.checkpoint,
            device=device or model.device,
            precision=model.precision,
            threads=threads,
        )

    return load


def open_program(program: Program, *, threads: int | None = None, within: Path | None = None) -> Engine:
    """Return a program as an engine; TalkiesError if its image is not here."""
    image = programs.image_file(program) if program.image else None
    if image is not None and not image.exists():
        raise TalkiesError(f"{printable(program.image or '')}: it is not here: run snakemake again, which pulls it")
    told = {"command": program.command, "image": program.image, "side": program.side}

    def facts() -> dict[str, Any]:
        return {**told, "sha256": programs.digests(program)}

    return CommandEngine(program, image=image, threads=threads, within=within, facts=facts)


def open_engine(
    preset: str, checkpoint: str | None, *, device: str, precision: str, threads: int | None = None
) -> MotionEngine:
    """Load a model onto a working device, and return its engine; TalkiesError says why that failed."""
    from ..fomm import engine

    if preset not in PRESETS:
        raise TalkiesError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    return engine.open_engine(preset, checkpoint, device=device, precision=precision, threads=threads)
