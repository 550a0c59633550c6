"""Makes one film of one picture and one driving video, for `talkies engine try` and the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from .. import media
from ..engines import FOMM, FilmJob, Material, Movement
from ..errors import TalkiesError, printable
from ..files import file_digest, to_plain
from ..machine.scratch import own_folder
from ..media import crop
from ..media.paste import paste_film
from ..program import Program
from ..run import programs
from ..run.folder import CONFIG
from ..settings import complete, read
from ..stages.animate import ENCODING, film_facts, picture_of, why_refused
from ..stages.crop import write_png
from ..stages.remux import SOURCE_TYPE, provenance
from ..stages.work import Progress

log = logging.getLogger("talkies")

ALLOW_FACELESS = 'tick "Accept a driving video without a face"'
"""How the page takes a driving video in which no face is seen."""
EngineOpener = Callable[[Path], AbstractContextManager[Any]]
"""Opens an engine, given a folder for its files."""


@dataclass(frozen=True)
class Wanted:
    """A requested film.

    engine: its name. picture_crop, driving_crop: see `media.crop`. start, end: seconds of the driving video, None for
    its start and end. paste_back: show the whole picture. sound: add the driving video's. provenance: tag the film.
    needs_face: name of a network for faces, which refuses a driving video without one; None takes any video.
    """

    picture: Path
    driving: Path
    engine: str
    picture_crop: crop.Request
    driving_crop: crop.Request
    start: Fraction | None = None
    end: Fraction | None = None
    movement: Movement = field(default_factory=Movement)
    paste_back: bool = False
    sound: bool = True
    provenance: bool = True
    needs_face: str | None = None


class Made(NamedTuple):
    """A made film: its record, as beside the films of a run, and the squares of picture and driving video."""

    record: dict[str, object]
    picture: media.Box
    driving: media.Box


def make_film(wanted: Wanted, target: Path, open_engine: EngineOpener, progress: Progress) -> Made:
    """Make a film, whole or not at all.

    Raises TalkiesError for errors that the user can fix. An exception of `progress` ends the work within a batch.
    """
    picture = media.read_picture(wanted.picture)
    clip = media.probe(wanted.driving)
    segment: dict[str, Any] = {"start": wanted.start, "end": wanted.end}
    with own_folder("animate") as folder:
        with ThreadPoolExecutor(1, thread_name_prefix="crops") as beside:  # while PyTorch is imported
            cropping = beside.submit(crop.crop_picture, picture, wanted.picture_crop, name=wanted.picture)
            finding = beside.submit(crop.find_crop, clip, wanted.driving_crop, **segment)
            opened = open_engine(folder)
            square, cut = cropping.result()
            driving_cut = finding.result()
        if wanted.needs_face and (
            why := why_refused(clip, driving_cut, wanted.start, wanted.end, wanted.needs_face, ALLOW_FACELESS)
        ):
            raise TalkiesError(why)
        log.info("%s: %s", printable(wanted.picture), _told(cut))
        log.info("%s: %s", printable(wanted.driving), _told(driving_cut))
        picture_file, motion_file, silent = folder / "picture.png", folder / "motion.npz", folder / "silent.mp4"
        write_png(picture_file, square)
        material = Material(
            wanted.picture, cut.box, clip, driving_cut.box, wanted.start, wanted.end, flip=False, sound=clip
        )
        with opened as engine:
            if wanted.engine == FOMM:
                progress.start(2 * clip.count(**segment), "frames")  # each frame is read, and each is made
                frames = media.read_frames(clip, box=driving_cut.box, size=engine.side, **segment)
                motion = engine.find_motion(advancing(frames, progress), clip.rate)
                motion.save(motion_file)
                count = motion.frames
            else:
                progress.start(clip.count(**segment), "frames")
                count = sum(1 for _ in media.read_frames(clip, size=(16, 16), **segment))
            writer = media.FrameWriter(silent, clip.rate, **ENCODING, threads=engine.threads)
            job = FilmJob(
                str(wanted.picture),
                _source_name(wanted),
                "driving",
                "",
                picture_file,
                motion_file,
                lambda: material,
                count,
                wanted.movement,
                writer,
                done=lambda seconds: None,
                progress=progress.advance,
            )
            for _, fault in engine.films([job]):
                if fault:
                    raise fault
            facts = film_facts(
                {"crop": cut, **_original(wanted.picture)},
                {
                    "crop": driving_cut,
                    "segment": [None if each is None else float(each) for each in segment.values()],
                    **_original(wanted.driving),
                },
                wanted.movement,
                engine,
                network=job.source if wanted.engine == FOMM else None,
            )
        if wanted.paste_back:
            whole = folder / "whole.mp4"
            paste_film(silent, picture, cut.box, media.FrameWriter(whole, clip.rate, **ENCODING))
            silent = whole
        sound = media.remux(
            silent,
            clip if wanted.sound else None,
            target,
            comment=provenance(wanted.engine) if wanted.provenance else None,
            **segment,
        )
    log.info("%s: %d frames at %s a second, sound: %s", printable(target), count, clip.rate, sound.sound or "none")
    told = {"paste_back": wanted.paste_back, "sound": sound, "digital_source_type": SOURCE_TYPE}
    return Made(to_plain({**facts, "picture": picture_of(writer), **told}), cut.box, driving_cut.box)


def _source_name(wanted: Wanted) -> str:
    """Return what identifies a cropped picture: a loaded engine keeps the last one's features under this name."""
    return f"{file_digest(wanted.picture)} {wanted.picture_crop}"


def _original(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": file_digest(path)}


def _told(cut: crop.Crop) -> str:
    box = f"{cut.box.side} pixels square at {cut.box.x},{cut.box.y}" if cut.box else "all of it"
    return f"crop {cut.mode}: {box}"


def advancing(frames: Iterator[Any], progress: Progress) -> Iterator[Any]:
    """Yield frames, and report each when it has been used."""
    for frame in frames:
        yield frame
        progress.advance(1)


def program_named(name: str, *, fetch: bool = True) -> Program:
    """Return a program as an engine, ready to be opened: from config.yaml here, else a known one.

    fetch: pull its image if that has an address. Raises TalkiesError if there is no such engine, or a file is
    missing.
    """
    config = read(CONFIG) if CONFIG.exists() else {}
    here = complete({key: config[key] for key in ("engine", "engines") if key in config}).programs
    program = here.get(name) or next(iter(complete({"engine": name}).programs.values()), None)
    if program is None:
        raise TalkiesError(f"{name} is the built-in engine: take talkies animate")
    if fetch:
        programs.fetch_images({name: program})
    return program
