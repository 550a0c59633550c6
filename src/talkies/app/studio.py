"""The studio behind the page: it makes films one after another with one loaded model.

All files are in one folder, which is removed at the end. All visitors share one queue, since they share the machine.
"""

from __future__ import annotations

import ctypes
import logging
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import media
from ..engines import FOMM
from ..errors import TalkiesError, printable
from ..files import open_input, shipped, write_json
from ..fomm.model.presets import PRESETS
from ..fomm.model.published import find_weights
from ..host.scratch import own_folder
from ..media import crop
from ..media.film import FILM_SIZE
from ..operate.one_film import make_film, program_named
from ..program import Program
from ..run import programs
from ..run.folder import CONFIG
from ..run.settings import read
from ..stages.animate import open_engine, open_program
from ..stages.crop import write_png
from ..stages.work import Progress
from .choices import Choices, Network

log = logging.getLogger("talkies")

MOST_WAITING = 20  # films in the queue
MOST_KEPT = 20  # finished films whose files are kept
MOST_VISITS = 100  # pages whose choices are remembered
MOST_UPLOADED = 20  # times the largest upload: all uploads together
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
FILM, RECORD, SOURCE, DRIVER = "film.mp4", "film.json", "source.png", "driver.mp4"
"""A finished film's files: the film, its record, and the crops that are shown beside it."""


class Cancelled(Exception):
    """The current film was cancelled."""


@dataclass
class Job:
    """A requested film. total, made: frames, each counted when it is read and when it is made."""

    number: int
    choices: Choices
    folder: Path
    state: str = WAITING
    total: int = 0
    made: int = 0
    began: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def title(self) -> str:
        """The names of its picture and driving video, as a file name without suffix."""
        return f"{self.choices.picture.stem}-{self.choices.driving.stem}"

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

    def start(self, total: int, _: str) -> None:
        """Start counting towards `total` frames."""
        self.total, self.made, self.began = total, 0, time.monotonic()
        self.advance(0)

    def advance(self, count: int) -> None:
        """Count frames; raises Cancelled if the film was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled
        self.made += count


class Studio:
    """The queue, its worker, and the files of the page.

    folder: for all files. network: weights to offer in addition to those found. largest: bytes of an upload. Engines,
    weights and run folders are those of the working folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        network: Network | None = None,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        largest: int = 500_000_000,
    ) -> None:
        self.folder, self.largest = folder, largest
        self.uploads = folder / "uploads"
        self.uploads.mkdir()
        self.visits: dict[str, list[Any]] = {}
        self.networks = _networks(network)
        self.engines = _engines()
        self._load = {"device": device, "precision": precision, "threads": threads}
        self._threads = threads
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._turn = threading.Condition()
        self._closed = False
        self._loaded: tuple[Network, Any] | None = None
        self._worker = threading.Thread(target=self._work, name="films", daemon=True)
        self._worker.start()

    # --- files ---

    def own(self, path: Any) -> Path:
        """Return the path of an uploaded file; TalkiesError for any other."""
        found = Path(str(path).replace("\0", "")).resolve()
        if not found.is_relative_to(self.uploads.resolve()) or not found.is_file():
            raise TalkiesError(f"{printable(found.name)}: this file is no longer here: choose it again")
        with open_input(found):  # raises unless it is a regular, readable file that is not empty
            return found

    def examples(self) -> dict[str, list[str]]:
        """Return the names of the examples: pictures under images, videos under driving."""
        return {kind: sorted(path.name for path in (shipped("examples") / kind).iterdir()) for kind in KINDS}

    def example(self, kind: str, name: str) -> Path:
        """Return an example by its name, like an upload."""
        if name not in self.examples()[kind]:
            raise TalkiesError(f"there is no example {printable(str(name))[:60]}: choose one of the list")
        copy = self.uploads / "examples" / name
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(shipped("examples") / kind / name, copy)
        return copy

    def run_folder(self, name: Any) -> Path:
        """Return a run folder by name: the working folder (.), or one in it; TalkiesError for any other."""
        word = str(name or "").strip()
        if word == "." or (re.fullmatch(r"[\w-][\w. -]{0,99}", word) and not Path(word).is_symlink()):
            return Path(word)
        raise TalkiesError(f"{printable(word)[:60]}: give the name of a folder in {printable(Path.cwd())}, or .")

    def has_room(self) -> bool:
        """Return whether another upload is allowed, after removing the oldest ones that nobody shows or waits for."""
        most = MOST_UPLOADED * self.largest
        with self._turn:
            wanted = [job.choices for job in self._jobs.values() if job.is_open]
            shown = [value for values in self.visits.values() for value in values if isinstance(value, str)]
        kept = {path for each in wanted for path in (each.picture, each.driving)} | {Path(each) for each in shown}
        files = [path for path in self.uploads.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        for path in sorted(files, key=lambda path: path.stat().st_mtime):
            if size + self.largest <= most:
                break
            if path not in kept:
                size -= path.stat().st_size
                path.unlink(missing_ok=True)
        return size + self.largest <= most and shutil.disk_usage(self.folder).free > 2 * self.largest

    # --- visits ---

    def remember(self, visit: str, values: list[Any]) -> None:
        """Keep a page's values for when it is loaded again."""
        if not re.fullmatch("[0-9a-f]{32}", visit):
            return
        with self._turn:
            self.visits.pop(visit, None)
            self.visits[visit] = values
            while len(self.visits) > MOST_VISITS:
                self.visits.pop(next(iter(self.visits)))

    # --- jobs ---

    def jobs(self) -> list[Job]:
        """Return all known films, the newest first."""
        with self._turn:
            return sorted(self._jobs.values(), key=lambda job: -job.number)

    def job(self, number: Any) -> Job | None:
        """Return a film by its number."""
        return self._jobs.get(number)

    def submit(self, choices: Choices) -> Job:
        """Request a film; TalkiesError if too many wait."""
        with self._turn:
            if len(self._waiting) >= MOST_WAITING:
                raise TalkiesError(
                    f"{printable(choices.picture.name)}: {MOST_WAITING} films are before it: wait for them"
                )
            number = max(self._jobs, default=0) + 1
            job = self._jobs[number] = Job(number, choices, self.folder / f"film-{number}")
            self._waiting.append(job)
            self._turn.notify()
        return job

    def cancel(self, number: Any) -> None:
        """Remove a film from the queue, or stop it within a batch of frames."""
        with self._turn:
            job = self._jobs.get(number)
            if job is None or not job.is_open:
                return
            job.cancelled.set()
            if job.state == WAITING:
                self._waiting.remove(job)
                job.state = CANCELLED

    def close(self) -> None:
        """Stop the current film, and wait for that."""
        with self._turn:
            self._closed = True
            for job in self._jobs.values():
                job.cancelled.set()
            self._turn.notify()
        self._worker.join(60)

    def _work(self) -> None:
        while True:
            with self._turn:
                while not self._waiting and not self._closed:
                    self._turn.wait()
                if self._closed:
                    self._unload()
                    return
                job = self._waiting.popleft()
                job.state = RUNNING
            self._do(job)
            self._tidy()

    def _do(self, job: Job) -> None:
        began = job.began = time.monotonic()
        try:
            self._make(job)
            job.state = DONE
        except Cancelled:
            job.state = CANCELLED
        except TalkiesError as error:
            job.reason, job.state = self._without_folder(str(error)), FAILED
        except MemoryError:
            job.reason, job.state = "out of memory: take a shorter part of the video, or a smaller picture", FAILED
        except Exception as error:  # as on the command line: one line for any error
            said = self._without_folder(" ".join(str(error).split())[:300])
            log.exception("film %d", job.number)
            job.reason, job.state = f"unexpected {type(error).__name__}: {said}", FAILED
        job.seconds = time.monotonic() - began
        if job.state != DONE:
            shutil.rmtree(job.folder, ignore_errors=True)
        log.info("film %d: %s%s, %.1f s", job.number, job.state, f": {job.reason}" * bool(job.reason), job.seconds)

    def _without_folder(self, text: str) -> str:
        """Remove the uploads' folders from a message: the user knows only the file's name."""
        return re.sub(rf"{re.escape(str(self.uploads))}/([^/\s]+/)?", "", text)

    def _make(self, job: Job) -> None:
        job.advance(0)
        job.folder.mkdir()
        wanted = job.choices.wanted()
        made = make_film(wanted, job.folder / FILM, self._opener(job.choices), Progress(job.start, job.advance))
        write_json(job.folder / RECORD, {"pair": job.title, **made.record})
        # To show beside the film, with the crops in its record.
        picture = crop.resize(crop.cut(media.read_picture(wanted.picture), made.picture), FILM_SIZE)
        write_png(job.folder / SOURCE, picture)
        job.advance(0)
        media.write_excerpt(
            media.probe(wanted.driving),
            job.folder / DRIVER,
            box=made.driving,
            size=FILM_SIZE,
            start=wanted.start,
            end=wanted.end,
            preset="veryfast",
        )

    def _opener(self, choices: Choices) -> Any:
        def of_program(folder: Path) -> Any:
            return open_program(program_named(choices.engine), {}, threads=self._threads, within=folder)

        def of_network(_: Path) -> AbstractContextManager[Any]:
            return nullcontext(self._engine(choices.network))

        return of_network if choices.engine == FOMM else of_program

    def _engine(self, network: Network) -> Any:
        """Return the engine with these weights; only the last one stays loaded."""
        if self._loaded is None or self._loaded[0] != network:
            self._unload()
            self._loaded = network, open_engine(network.preset, network.checkpoint, **self._load)  # type: ignore[arg-type]
        return self._loaded[1]

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded[1].__exit__(None, None, None)
            self._loaded = None

    def _tidy(self) -> None:
        """Forget the oldest films, with their files."""
        with self._turn:
            over = [job for job in self._jobs.values() if not job.is_open][:-MOST_KEPT]
            for job in over:
                del self._jobs[job.number]
        for job in over:
            shutil.rmtree(job.folder, ignore_errors=True)


KINDS = ("images", "driving")


def _networks(more: Network | None) -> dict[str, Network]:
    """Return the weights that are here, by their names on the page."""
    found = {}
    if more is not None:
        name = f"{more.preset} ({Path(more.checkpoint).name})" if more.checkpoint else more.preset
        found[name] = more
    for name, preset in PRESETS.items():
        with suppress(TalkiesError):
            if preset.checkpoint is not None:
                find_weights(name)
            found.setdefault(name, Network(name))
    return found


def _engines() -> dict[str, Program | None]:
    """Return the usable engines by name; the built-in one is None."""
    usable: dict[str, Program | None] = {FOMM: None}
    names = list(programs.known())
    with suppress(TalkiesError):
        config = read(CONFIG) if CONFIG.exists() else {}
        names = [*programs.choose(config.get("engine"), config.get("engines")), *names]
    for name in names:
        with suppress(TalkiesError):
            if name not in usable:
                usable[name] = _ready(name)
    return usable


def _ready(name: str) -> Program:
    """Return an engine whose files are here; nothing is fetched. TalkiesError if a file is missing."""
    program = program_named(name, fetch=False)
    if program.image is not None and not programs.image_file(program).is_file():
        raise TalkiesError(f"engine {name}: its image is not here: fetch it first")
    return program


def _use_one_arena() -> None:
    """Let glibc use one memory arena for the threads of all films.

    With an arena for each new thread, freed memory would stay there: about 8 MB more for each film.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX


@contextmanager
def open_studio(**options: Any) -> Iterator[Studio]:
    """Give a studio; its folder is removed at the end, also after an error. Arguments: those of `Studio`."""
    _use_one_arena()
    with own_folder("app") as folder:
        studio = Studio(folder, **options)
        try:
            yield studio
        finally:
            studio.close()
