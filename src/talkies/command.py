"""The engine `command`: a program, in an image or on this machine, makes the films.

It runs once a film, or once for all films of a shard, in a folder that is removed afterwards. Its inputs are copies.
Its film's frames are counted, and it is converted to the clip's rate and our encoding.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import media
from .engines import FilmJob, Material
from .errors import InputError, TalkiesError, printable
from .machine import container, supervise
from .machine.cores import available_threads
from .machine.scratch import own_folder
from .program import Command, Program

if TYPE_CHECKING:
    from .media.pictures import Frame

log = logging.getLogger("talkies")

CRF = 8
"""Of the clip that a program gets: a good quality, since its film is encoded again."""
SETTLED_SECONDS = 3
"""A film of a batch is read when it has not grown for this long, while the program goes on."""
MOST_LINES = 5000
"""The most lines of a program's output in the log."""
TRANSIENT = re.compile(
    r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory|No space left on device|Disk quota exceeded"
    r"|CUDA error|CUDA driver|no CUDA-capable device|cuDNN error|CUBLAS_STATUS",
    re.IGNORECASE,
)
"""A program's words if the machine failed, not the picture: then the job is run again."""


class CommandEngine:
    """A program as an engine.

    image: the file of its image. within: the folder for its files. facts: returns more facts for records, called when
    a film is recorded.
    """

    def __init__(
        self,
        program: Program,
        *,
        image: Path | None = None,
        threads: int | None = None,
        within: Path | None = None,
        facts: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.program = program
        self.threads = threads or available_threads()
        self.side = program.side
        self._image, self._within, self._facts = image, within, facts
        self._command = Command(program.command)
        self._made = ExitStack()
        self._given: dict[tuple[str, ...], Path] = {}

    def facts(self) -> dict[str, Any]:
        """Return the facts about the program for a film's record."""
        device = "cuda" if container.gpu_given() else "cpu"
        return {"engine": {"name": self.program.name, **self._facts(), "device": device}, "software": {}}

    def __enter__(self) -> Self:
        self._folder = self._made.enter_context(own_folder("engine", self._within))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._made.close()

    def films(self, jobs: Iterable[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        """Make films; yield each job when its film is finished, or with the reason why there is none.

        Raises TalkiesError if the machine failed the program: a signal, memory, a disk, a GPU.
        """
        if self.program.batch:
            yield from self._batch(list(jobs))
            return
        for number, job in enumerate(jobs):
            try:
                place = self._lay_out(number, job)
                ended = self._run(place.folder, self._values(place, job), _switches(job), self.program.minutes)
                if ended.code:
                    raise InputError("", self._fault(ended))
                self._take_over(place, job)
                job.done(None)
                yield job, None
            except InputError as error:
                yield job, InputError(job.name, _reason(error, self.program.name))
            finally:
                shutil.rmtree(self._folder / str(number), ignore_errors=True)

    # --- one program for many films ------------------------------------------------------------------------

    def _batch(self, jobs: list[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        places: dict[int, _Place] = {}
        faults: dict[int, InputError] = {}
        for number, job in enumerate(jobs):
            try:
                places[number] = self._lay_out(number, job)
            except InputError as error:
                faults[number] = InputError(job.name, _reason(error, self.program.name))
        done: set[int] = set()
        began = time.monotonic()

        def take(number: int) -> InputError | None:
            """Take over a film; its time is the time since the last one."""
            nonlocal began
            try:
                self._take_over(places[number], jobs[number])
            except InputError as error:
                return error
            done.add(number)
            jobs[number].done(time.monotonic() - began)
            began = time.monotonic()
            return None

        def look() -> None:
            """Take over finished films, so that they stay even if the program fails later."""
            for number in places.keys() - done:
                if _is_settled(places[number].output):
                    take(number)  # a film that is not whole yet is read again later

        if places:
            whole = self._folder
            lines = [self._job_line(places[number], jobs[number]) for number in places]
            (whole / "jobs.jsonl").write_text("".join(lines), encoding="utf-8")
            values = {**self._common(), "jobs": str(whole / "jobs.jsonl")}
            for name in ("home", "tmp", "out"):
                (whole / name).mkdir(exist_ok=True)
            minutes = self.program.minutes * len(places)
            ended = self._run(whole, values, {"gpu": container.gpu_given()}, minutes, look)
            for number in sorted(places.keys() - done):
                if fault := take(number):
                    reason = self._fault(ended) if ended.code else _reason(fault, self.program.name)
                    faults[number] = InputError(jobs[number].name, reason)
        for number, job in enumerate(jobs):
            yield job, faults.get(number)

    def _job_line(self, place: _Place, job: FilmJob) -> str:
        values = self._values(place, job)
        names = ("source", "driving", "audio", "output", "folder")
        told: dict[str, Any] = {name: values[name] for name in names}
        if not Path(values["audio"]).exists():
            told["audio"] = None
        asked: dict[str, Any] = {**told, **_switches(job), "best_frame": int(values["best_frame"])}
        asked |= {"frames": job.frames, "rate": float(job.writer.rate)}
        del asked["gpu"]
        return json.dumps(asked) + "\n"

    # --- a film --------------------------------------------------------------------------------------------

    def _lay_out(self, number: int, job: FilmJob) -> _Place:
        """Make a film's folder, with copies of the program's inputs."""
        place = _Place(self._folder / str(number))
        for folder in (place.given, place.out, place.folder / "home", place.folder / "tmp"):
            folder.mkdir(parents=True)
        material: list[Material] = []

        def of_job() -> Material:
            material.extend([] if material else [job.material()])
            return material[0]

        inputs: list[tuple[str, tuple[str, ...], Callable[[Material, Path, FilmJob], None]]] = [
            ("source.png", ("picture", job.source), self._cut_picture),
            ("driving.mp4", ("clip", job.take), self._cut_clip),
            ("audio.wav", ("sound", job.take, job.sound), self._cut_sound),
        ]
        for name, key, make in inputs:
            if not self.program.uses(name.partition(".")[0]):
                continue
            if name == "audio.wav" and self.program.batch and of_job().sound.sound is None:
                continue  # the program knows whether it needs the sound
            if key not in self._given:
                path = self._folder / f"given-{len(self._given)}{Path(name).suffix}"
                make(of_job(), path, job)
                self._given[key] = path
            shutil.copyfile(self._given[key], place.given / name)
        return place

    @property
    def _whole(self) -> bool:
        return self.program.input == "whole"

    def _cut_picture(self, material: Material, path: Path, job: FilmJob) -> None:
        from PIL import Image

        from .media import crop

        picture = media.read_picture(material.picture)
        if not self._whole and material.box is not None:
            picture = crop.resize(crop.cut(picture, material.box), self.side)
        Image.fromarray(picture).save(path)

    def _cut_clip(self, material: Material, path: Path, job: FilmJob) -> None:
        media.write_excerpt(
            material.clip,
            path,
            box=None if self._whole else material.driving_box,
            size=None if self._whole else self.side,
            start=material.start,
            end=material.end,
            flip=material.flip,
            crf=CRF,
            preset="veryfast",
        )

    def _cut_sound(self, material: Material, path: Path, job: FilmJob) -> None:
        sound = material.sound
        if sound.sound is None:
            raise InputError("", "moves faces by sound, and this clip has none: give the pair a sound file (audio)")
        start = material.start if isinstance(sound, media.Clip) else None
        media.write_wav(sound, path, start=start, duration=job.frames / job.writer.rate)

    def _common(self) -> dict[str, str]:
        checkpoint = self.program.checkpoint
        values = {"threads": str(self.threads), "side": str(self.side)}
        return {**values, "checkpoint": os.path.abspath(checkpoint)} if checkpoint else values  # noqa: PTH100

    def _values(self, place: _Place, job: FilmJob) -> dict[str, str]:
        frame = job.movement.best_frame
        return {
            **self._common(),
            "source": str(place.given / "source.png"),
            "driving": str(place.given / "driving.mp4"),
            "audio": str(place.given / "audio.wav"),
            "output": str(place.output),
            "folder": str(place.out),
            "best_frame": str(frame if isinstance(frame, int) else 0),
        }

    def _run(
        self,
        folder: Path,
        values: Mapping[str, str],
        switches: Mapping[str, bool],
        minutes: float,
        look: Callable[[], object] | None = None,
    ) -> supervise.Ended:
        """Run the program; raise TalkiesError if the machine failed it."""
        program, written = self.program, 0
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        options: tuple[str, ...] = ()
        if self._image is None:
            environment |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
        else:
            binds = [*map(_from_here, program.binds), *self._shown()]
            cut = not program.network and container.can_cut_network(str(self._image))
            options = container.exec_options(
                folder,
                start=program.workdir,
                binds=binds,
                writable=program.writable_tmpfs,
                network=not cut,
                environment=environment,
            )
        task = supervise.Task(
            self._command.filled(values, switches),
            str(Path(program.workdir or folder / "out").expanduser()),
            environment,
            str(self._image) if self._image else None,
            options,
            nv=container.gpu_given(),
        )

        def say(line: str) -> None:
            nonlocal written
            written += 1
            if written <= MOST_LINES:
                log.info("| %s", printable(line))
            if written == MOST_LINES:
                log.info("| (what more it writes is left out)")

        ended = supervise.run(task, say=say, seconds=60 * minutes, look=look)
        if ended.code and not ended.timed_out:
            failed = next((line for line in reversed(ended.last) if TRANSIENT.search(line)), None)
            if not ended.began:
                said = printable(ended.last[-1])[:300] if ended.last else "no reason given"
                raise TalkiesError(f"{program.name}: its program can't be started ({said}): mend command or image")
            if ended.signal is not None:
                raise TalkiesError(f"{program.name}: its program was killed by signal {ended.signal}: run again")
            if failed is not None:
                said = printable(failed)[:300]
                raise TalkiesError(f"{program.name}: the machine failed its program ({said}): run again")
        return ended

    def _shown(self) -> list[str]:
        """Return the read-only binds of what the program reads outside its folder."""
        checkpoint = self._common().get("checkpoint")
        return [f"{checkpoint}:{checkpoint}:ro"] if checkpoint else []

    def _fault(self, ended: supervise.Ended) -> str:
        if ended.timed_out:
            return (
                f"{self.program.name}: not done after {self.program.minutes:g} minutes (engine.minutes): it was ended"
            )
        said = printable(ended.last[-1])[:300] if ended.last else "it said nothing"
        return f"{self.program.name}: its program failed (exit code {ended.code}): {said}"

    def _take_over(self, place: _Place, job: FilmJob) -> None:
        """Write the program's film at the clip's rate, in our encoding; InputError if its length or size is wrong."""
        found = self.program.found(place.out, place.output)
        try:
            film = media.probe(found)
        except InputError as error:
            raise InputError("", f"what it made is no film ({error.reason}): mend its command") from None
        side = self.program.output_side or self.side
        if not self._whole and (film.width, film.height) != (side, side):
            size = f"{film.width} x {film.height} pixels, not {side} x {side}"
            raise InputError("", f"its film is {size}: give the side it makes as output_side")
        frames, said = retimed(film, job.frames, job.writer.rate)
        if said:
            log.info("%s: %s", printable(job.name), said)
        with job.writer as writer:
            for frame in frames:
                writer.write(frame)
        job.progress(job.frames)


def retimed(film: media.Clip, frames: int, rate: Fraction) -> tuple[Iterator[Frame], str | None]:
    """Return `frames` frames of a film, uint8 RGB [H, W, 3], for this rate; and what was done to them.

    A film with as many frames (or one more or less) is used frame by frame, whatever its rate, since programs round
    rates. A film that lasts as long, within a frame, is sampled by time. InputError for any other.
    """
    if abs(film.frames - frames) <= 1:
        said = (
            None if film.frames == frames else f"{film.frames} frames of {frames}: the last one is repeated or left out"
        )
        return _exactly(media.read_frames(film), frames), said
    lasts, asked = film.frames / film.rate, frames / rate
    if abs(lasts - asked) <= 1 / min(film.rate, rate):
        said = f"{film.frames} frames at {film.rate} a second sampled as {frames} at {rate}"
        return _exactly(media.read_frames(film, rate=rate), frames), said
    raise InputError(
        "",
        f"its film has {film.frames} frames at {float(film.rate):g} a second, where {frames} at {float(rate):g} were "
        "asked for: mend its command",
    )


def _exactly(frames: Iterable[Frame], count: int) -> Iterator[Frame]:
    """Yield exactly this many frames: repeat the last one, or leave out the rest."""
    last: Frame | None = None
    left = count
    for frame in frames:
        if not left:
            return
        yield frame
        last, left = frame, left - 1
    while last is not None and left:
        yield last
        left -= 1


@dataclass(frozen=True)
class _Place:
    """A film's folder."""

    folder: Path

    @property
    def given(self) -> Path:
        return self.folder / "in"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def output(self) -> Path:
        return self.out / "film.mp4"


def _switches(job: FilmJob) -> dict[str, bool]:
    movement = job.movement
    return {
        "relative": movement.relative,
        "adapt_scale": movement.adapt_scale,
        "find_best_frame": movement.best_frame == "auto",
        "gpu": container.gpu_given(),
    }


def _reason(error: InputError, name: str) -> str:
    return str(error) if error.path else error.reason if error.reason.startswith(name) else f"{name}: {error.reason}"


def _from_here(bind: str) -> str:
    """Return a bind with an absolute path of this machine's folder."""
    place, colon, inside = bind.partition(":")
    place = os.path.abspath(os.path.expanduser(place))  # noqa: PTH100, PTH111 - Path.absolute keeps ".."
    return f"{place}{colon or ':'}{inside or place}"


def _is_settled(path: Path) -> bool:
    with suppress(OSError):
        status = path.stat()
        return bool(status.st_size) and time.time() - status.st_mtime > SETTLED_SECONDS
    return False
