"""The studio behind the page: it checks files and makes films, one after another with one loaded model.

All files are in one folder, which is removed at the end. All visitors share one queue, since they share the machine.
"""

from __future__ import annotations

import base64
import ctypes
import io
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from .. import media
from ..engines import FOMM
from ..engines.program import image_file
from ..engines.program import known as known_engines
from ..errors import TalkiesError, counted, printable
from ..files import open_input, shipped, stem_of
from ..fomm.model.presets import PRESETS
from ..fomm.model.published import find_weights
from ..machine.scratch import own_folder
from ..media import crop
from ..run.folder import CONFIG
from ..run.pairs import Source, Take
from ..run.plan import Plan
from ..run.state import State
from ..settings import Model, complete, read
from ..stages.animate import open_engine
from ..stages.check import FAILS, findings_of
from ..stages.check_file import SeenClip, Unreadable, look
from ..stages.films import make_films, program_named
from ..stages.work import Progress
from .choices import Choices, Form, Maker

log = logging.getLogger("talkies")

MOST_WAITING = 20  # films in the queue
MOST_KEPT = 20  # finished films whose files are kept
MOST_UPLOADED = 20  # times the largest upload: all uploads together
VIEW_SIDE = 720  # pixels of the longer side of the picture in which the crop is shown
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
FILM, RECORD, SOURCE, DRIVER = "film.mp4", "film.json", "source.png", "driver.mp4"
"""A finished film's files: the film, its record, and the crops that are shown beside it."""


CLONE_FS = 0x200  # linux/sched.h
IN_CONFIG, ON_PAGE = "set faceless: allow in config.yaml", 'tick "Accept a driving video without a face"'
"""How a driving video without a face is taken: in a run, and on the page."""


class Cancelled(Exception):
    """The current film was cancelled."""


@dataclass
class Job:
    """A requested film. total, made: steps of its work. began: when it counted its first (`time.monotonic`)."""

    number: int
    choices: Choices
    folder: Path
    state: str = WAITING
    total: int = 0
    made: int = 0
    began: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_open(self) -> bool:
        """Whether it waits or is being made."""
        return self.state in (WAITING, RUNNING)

    @property
    def seconds_left(self) -> float | None:
        """The expected seconds left at the rate so far; None if not known."""
        if self.state != RUNNING or not self.made or self.total <= self.made:
            return None
        return (time.monotonic() - self.began) / self.made * (self.total - self.made)

    def start(self, total: int, unit: str) -> None:
        """Start counting towards `total` steps: of the frames, which take the time."""
        if unit == "frames":
            self.total, self.made, self.began = total, 0, time.monotonic()
        self.advance(0)

    def advance(self, count: int) -> None:
        """Count steps; raises Cancelled if the film was cancelled."""
        if self.stop.is_set():
            raise Cancelled
        self.made += count


class Studio:
    """The queue, its worker, and the files of the page.

    folder: for all files. largest: bytes of an upload. load: keys of `model`.
    Engines, weights and run folders are those of the working folder. files: examples and uploads by the names that the
    page has for them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        largest: int = 500_000_000,
        threads: int | None = None,
        **load: Any,
    ) -> None:
        self.folder, self.largest = folder, largest
        self.makers = _makers()
        examples = {kind: sorted((shipped("examples") / kind).iterdir()) for kind in ("images", "driving")}
        self.examples = {
            kind: {path.name: f"example {path.name}" for path in paths} for kind, paths in examples.items()
        }
        self.files = {f"example {path.name}": path for paths in examples.values() for path in paths}
        self.jobs: dict[int, Job] = {}
        self._model, self._threads = Model(**load), threads
        self._lock = threading.Lock()
        self._loaded: tuple[Maker, Any] | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="films", initializer=_own_working_folder)

    # --- files ---

    def file(self, name: str) -> Path:
        """Return a file by the page's name for it, and keep it longer; TalkiesError if it is not here."""
        path = self.files.get(name)
        if path is None or not path.exists():
            raise TalkiesError("this file is no longer here: choose it again")
        with open_input(path):  # raises unless it is a readable file that is not empty
            if path.is_relative_to(self.folder):
                path.touch()
        return path

    def new_file(self, name: str) -> tuple[str, Path]:
        """Return the page's name and the path of an upload, named like the visitor's file.

        Raises TalkiesError if there is no room, also after the oldest files that no film waits for were removed.
        """
        with self._lock:
            waiting = [job.choices for job in self.jobs.values() if job.is_open]
            used = {path for each in waiting for path in (each.picture, each.driving)}
            size, most = 0, (MOST_UPLOADED - 1) * self.largest
            for path in sorted(self.folder.glob("upload-*/*"), key=lambda path: -path.stat().st_mtime_ns):
                size += path.stat().st_size
                if size > most and path not in used:
                    size -= path.stat().st_size
                    shutil.rmtree(path.parent)
            if size > most or shutil.disk_usage(self.folder).free < 2 * self.largest:
                raise TalkiesError("no room for more files: cancel films, or start talkies app again")
            given = secrets.token_hex(16)
            named = Path(printable(Path(name).name))
            path = self.folder / f"upload-{given}" / f"{stem_of(named.stem).lstrip('.-') or 'file'}{named.suffix[:10]}"
            path.parent.mkdir()
            self.files[given] = path
        return given, path

    # --- what the page shows ---

    def maker(self, name: str) -> Maker:
        """Return what makes the films, by its name on the page."""
        if name not in self.makers:
            raise TalkiesError(f"{printable(name)[:60]}: choose one of the list")
        return self.makers[name]

    def choices(self, form: Form) -> Choices:
        """Return the film that a form describes; TalkiesError for what is missing or wrong."""
        for kind, name in (("picture", form.picture), ("driving video", form.driving)):
            if not name:
                raise TalkiesError(f"{kind}: none is chosen yet: choose one first")
        if form.end is not None and form.end <= (form.start or 0):
            raise TalkiesError(f"end: {form.end:g} s is not after the start: give a later one")
        return Choices(self.file(form.picture), self.file(form.driving), self.maker(form.maker), form)

    def look(self, form: Form, clip: bool) -> dict[str, Any]:
        """Return the check's findings of the form's picture or (clip) driving video.

        view: the whole picture as a JPEG in a data: address. size, box: of picture and crop, in pixels. facts: lines.
        problems: pairs of level and text. All but the problems are missing if the file can't be used.
        """
        maker = self.maker(form.maker)
        file = self.file(form.driving if clip else form.picture)
        request = crop.parse((form.driving_crop if clip else form.picture_crop) or maker.crop)
        first, last = (None if each is None else str(each) for each in (form.start, form.end))
        wanted = Take("", str(file), request, first, last) if clip else Source(str(file), request)
        facts, problems = look(wanted)[0], []
        preset = None if maker.program else PRESETS[maker.preset]
        found = findings_of(file.name, wanted, facts, preset, form.faceless)
        for problem in found.problems:
            advice = "" if problem.level == FAILS else problem.advice.partition("in config.yaml")[0].strip()
            problems.append((problem.level, self.words(f"{problem.text}: {advice}" if advice else problem.text)))
        if isinstance(facts, Unreadable):
            return {"problems": problems}
        if clip:
            shown = next(iter(media.read_frames(media.probe(file), start=form.start, end=form.end)))
        else:
            shown = media.read_reduced(file, VIEW_SIDE)[0]
        told = f"{facts.width} × {facts.height} pixels"
        if isinstance(facts, SeenClip):
            told += f", {facts.seconds:g} s, {counted(facts.frames, 'frame')}, sound: {facts.sound or 'none'}"
        x, y, side = facts.crop.box
        about = "about " if clip and request.mode == "face" else ""  # a dozen frames were looked at
        told_crop = f"crop: {about}{side} pixels square at {x},{y}"
        view, size = _data_address(shown), (facts.width, facts.height)
        return {"view": view, "size": size, "box": (x, y, side), "facts": [told, told_crop], "problems": problems}

    def queue(self) -> list[dict[str, Any]]:
        """Return all known films as values for JSON, the newest first.

        done: the part of the work, 0 to 1; None before it is known. before: open films before it.
        """
        told, before = [], 0
        for job in sorted(self.jobs.values(), key=lambda job: job.number):
            part = min(1.0, job.made / job.total) if job.total else None
            told.append(
                {
                    **{name: getattr(job, name) for name in ("number", "state", "seconds", "seconds_left", "reason")},
                    **{"title": job.choices.title, "sound": job.choices.form.audio, "done": part, "before": before},
                }
            )
            before += job.is_open
        return told[::-1]

    def words(self, text: str) -> str:
        """Return a message without the folders of uploads: the visitor knows only the file's name."""
        return re.sub(rf"{re.escape(str(self.folder))}/([^/\s]+/)?", "", text)

    # --- films ---

    def submit(self, choices: Choices) -> Job:
        """Request a film; TalkiesError if too many wait."""
        with self._lock:
            if sum(job.state == WAITING for job in self.jobs.values()) >= MOST_WAITING:
                raise TalkiesError(f"{choices.title}: {MOST_WAITING} films are before it: wait for them")
            number = max(self.jobs, default=0) + 1
            job = self.jobs[number] = Job(number, choices, self.folder / f"film-{number}")
            self._worker.submit(self._do, job)
        return job

    def cancel(self, number: int) -> None:
        """Remove a film from the queue, or stop it within a batch of frames."""
        with self._lock:
            if (job := self.jobs.get(number)) is not None:
                job.stop.set()
                job.state = CANCELLED if job.state == WAITING else job.state

    def close(self) -> None:
        """Stop the current film, and wait for that."""
        for number in list(self.jobs):
            self.cancel(number)
        self._worker.submit(self._unload)
        self._worker.shutdown()

    def _do(self, job: Job) -> None:
        with self._lock:
            if job.state == CANCELLED:
                return
            job.state = RUNNING
        began = job.began = time.monotonic()
        state, reason = FAILED, ""
        try:
            self._make(job)
            state = DONE
        except Cancelled:
            state = CANCELLED
        except TalkiesError as error:
            reason = str(error)
        except MemoryError:
            reason = "out of memory: take a shorter part of the video, or a smaller picture"
        except Exception as error:  # as on the command line: one line for any error
            log.exception("film %d", job.number)
            reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        job.seconds, job.reason = time.monotonic() - began, self.words(reason)
        if state != DONE:
            shutil.rmtree(job.folder, ignore_errors=True)
        job.state = state
        log.info("film %d: %s%s, %.1f s", job.number, state, f": {job.reason}" * bool(reason), job.seconds)
        with self._lock:
            for old in [job for job in self.jobs.values() if not job.is_open][:-MOST_KEPT]:
                del self.jobs[old.number]
                shutil.rmtree(old.folder, ignore_errors=True)

    def _make(self, job: Job) -> None:
        job.advance(0)
        job.folder.mkdir()
        choices = job.choices

        def take(plan: Plan, state: State) -> None:
            if state.failed:
                raise TalkiesError(next(iter(state.failed.values())).replace(IN_CONFIG, ON_PAGE))
            (pair,) = plan.pairs.values()
            talkie = plan.talkie(pair.name)
            files = {FILM: talkie.path, RECORD: talkie.record_path}
            files |= {SOURCE: plan.source_file(pair.source).path, DRIVER: plan.driving_file(pair.take).path}
            for name, path in files.items():
                shutil.copyfile(path, job.folder / name)

        make_films(
            choices.of_run(),
            {},
            [choices.picture],
            [choices.driving],
            None,
            threads=self._threads,
            progress=Progress(job.start, job.advance),
            take=take,
            opener=None if choices.maker.program else lambda name, within: self._engine(choices.maker),
        )

    def _engine(self, maker: Maker) -> Any:
        """Return the engine with these weights; only the last one stays loaded."""
        if self._loaded is None or self._loaded[0] != maker:
            self._unload()
            self._loaded = maker, open_engine(replace(self._model, preset=maker.preset), self._threads)
        return self._loaded[1]

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded[1].__exit__(None, None, None)
            self._loaded = None


def _own_working_folder() -> None:
    """Let this thread have a working folder of its own (unshare(2)): films are made in a temporary run folder."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_FS):
        raise OSError(ctypes.get_errno(), "this thread can't have a working folder of its own")


def _makers() -> dict[str, Maker]:
    """Return what can make films here, by its name on the page: networks whose weights are here, and programs."""
    found: dict[str, Maker] = {}
    for name, known in PRESETS.items():
        with suppress(TalkiesError):
            if known.checkpoint is not None:
                find_weights(name)
            found[name] = Maker(known.crop, name)
    names = list(known_engines())
    with suppress(TalkiesError):
        config = read(CONFIG) if CONFIG.exists() else {}
        names = [*complete({key: config[key] for key in ("engine", "engines") if key in config}).by_engine, *names]
    for name in names:
        with suppress(TalkiesError):
            if name != FOMM and name not in found:
                program = program_named(name)
                if program.image is None or image_file(program).is_file():
                    found[name] = Maker(program.crop, program=name)
    return found


def _data_address(picture: Any) -> str:
    """Return a picture, uint8 [H, W, 3], as a small JPEG in an address."""
    from PIL import Image

    written, image = io.BytesIO(), Image.fromarray(picture)
    image.thumbnail((VIEW_SIDE, VIEW_SIDE))
    image.save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


@contextmanager
def open_studio(**options: Any) -> Iterator[Studio]:
    """Give a studio; its folder is removed at the end, also after an error. Arguments: those of `Studio`."""
    # Each new thread would keep about 8 MB of freed memory to itself: let glibc use one arena for all of them.
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX
    with own_folder("app") as folder:
        studio = Studio(folder, **options)
        try:
            yield studio
        finally:
            studio.close()
