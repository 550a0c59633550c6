"""A program as an engine: it runs once a film, or once for all films of a shard, in a folder that is then removed.

Its inputs are copies. Its film's frames are counted, and it is converted to the clip's rate and our encoding.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import cache, partial
from itertools import count, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..errors import InputError, TalkiesError, printable
from ..machine import container, supervise
from ..machine.resources import available_threads
from ..machine.scratch import own_folder
from . import FilmJob, Material
from .program import Command, Program, image_file

if TYPE_CHECKING:
    from ..media.pictures import Frame

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


class CommandEngine(ExitStack):
    """A program as an engine; TalkiesError if its image is not here. Its folder is removed when it is left.

    contents: the digests of its files, for records. within: the folder for its files.
    """

    def __init__(
        self,
        program: Program,
        contents: Mapping[str, str | None],
        *,
        threads: int | None = None,
        within: Path | None = None,
    ) -> None:
        super().__init__()
        self.program, self.side, self._contents, self._within = program, program.side, contents, within
        self.threads = threads or available_threads()
        self._image = image_file(program) if program.image else None
        if self._image is not None and not self._image.exists():
            raise TalkiesError(f"{printable(program.image or '')}: it is not here: run snakemake again, which pulls it")
        checkpoint = os.path.abspath(program.checkpoint) if program.checkpoint else ""  # noqa: PTH100 - keeps ".."
        self._common = {"threads": str(self.threads), "side": str(self.side), "checkpoint": checkpoint}

    def facts(self) -> dict[str, Any]:
        """Return the facts about the program for a film's record."""
        program, device = self.program, "cuda" if container.gpu_given() else "cpu"
        told = {name: getattr(program, name) for name in ("name", "command", "image", "side")}
        return {"engine": {**told, "sha256": self._contents, "device": device}, "software": {}}

    def films(self, jobs: Iterable[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        """Make films; yield each job when its film is finished, or with the reason why there is none.

        Raises TalkiesError if the machine failed the program: a signal, memory, a disk, a GPU.
        """
        self._folder = self.enter_context(own_folder("engine", self._within))
        self._given: dict[tuple[str, ...], Path] = {}
        for together in [list(jobs)] if self.program.batch else ([job] for job in jobs):
            folder = self._folder / "films"
            try:
                faults = self._make(folder, together)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            for number, job in enumerate(together):
                yield job, faults.get(number)

    def _make(self, folder: Path, jobs: list[FilmJob]) -> dict[int, InputError]:
        """Make films by one start of the program; return the reasons for those that there are not, by number."""
        program, began = self.program, time.monotonic()
        waiting: dict[int, dict[str, str]] = {}
        faults: dict[int, InputError] = {}

        @contextmanager
        def noted(number: int) -> Iterator[None]:
            try:
                yield
            except InputError as error:
                faults[number] = InputError(jobs[number].name, f"{program.name}: {error.reason}")

        def take(number: int) -> None:
            """Take over a film; its time is the time since the last one."""
            nonlocal began
            with noted(number):
                self._take_over(waiting[number], jobs[number])
                del waiting[number]
                faults.pop(number, None)
                jobs[number].done(time.monotonic() - began)
                began = time.monotonic()

        def look() -> None:
            """Take over finished films, so that they stay even if the program fails later."""
            for number in [number for number, values in waiting.items() if _is_settled(Path(values["output"]))]:
                take(number)  # a film that is not whole yet is read again later

        for name in ("home", "tmp", "out"):
            (folder / name).mkdir(parents=True)
        for number, job in enumerate(jobs):
            with noted(number):
                waiting[number] = self._lay_out(folder / str(number), job)
        if not waiting:
            return faults
        values = waiting.get(0, {})
        if program.batch:
            (folder / "jobs.jsonl").write_text("".join(_job_line(waiting[n], jobs[n]) for n in waiting), "utf-8")
            values = {**self._common, "jobs": f"{folder}/jobs.jsonl", "folder": f"{folder}/out"}
        ended = self._run(folder, values, _switches(jobs[0]), len(waiting), look if program.batch else None)
        for number in list(waiting):
            if program.batch or not ended.code:
                take(number)
            if number in waiting and ended.code:
                with noted(number):
                    if ended.timed_out:
                        raise InputError(
                            "", f"not done after {program.minutes:g} minutes (engine.minutes): it was ended"
                        )
                    raise InputError("", f"its program failed (exit code {ended.code}): {_said(ended)}")
        return faults

    def _lay_out(self, folder: Path, job: FilmJob) -> dict[str, str]:
        """Copy the program's inputs into a film's folder; return the values of the command's placeholders."""
        program, frame = self.program, job.movement.best_frame
        for name in ("in", "out"):
            (folder / name).mkdir(parents=True)
        values = {
            **self._common,
            **{"source": f"{folder}/in/source.png", "driving": f"{folder}/in/driving.mp4"},
            **{"audio": f"{folder}/in/audio.wav", "output": f"{folder}/out/film.mp4", "folder": f"{folder}/out"},
            "best_frame": str(frame if isinstance(frame, int) else 0),
        }
        material = cache(job.material)
        for name, of in {"source": [job.source], "driving": [job.take], "audio": [job.take, job.sound]}.items():
            if not program.uses(name) or (name == "audio" and program.batch and material().sound.sound is None):
                continue  # many films: the program knows which of them need the sound
            given = self._given.get((name, *of))
            if given is None:
                given = self._folder / f"given-{len(self._given)}{Path(values[name]).suffix}"
                self._cut(name, material(), given, job)
                self._given[name, *of] = given
            shutil.copyfile(given, values[name])
        return values

    @property
    def _whole(self) -> bool:
        return self.program.input == "whole"

    def _cut(self, name: str, material: Material, path: Path, job: FilmJob) -> None:
        """Write an input (source, driving or audio) as the program gets it."""
        if name == "source":
            from PIL import Image

            from ..media import crop

            picture = media.read_picture(material.picture)
            if not self._whole and material.box is not None:
                picture = crop.resize(crop.cut(picture, material.box), self.side)
            Image.fromarray(picture).save(path)
        elif name == "driving":
            box, size = (None, None) if self._whole else (material.driving_box, self.side)
            cut = partial(media.write_excerpt, start=material.start, end=material.end, flip=material.flip)
            cut(material.clip, path, box=box, size=size, crf=CRF, preset="veryfast")
        else:
            sound = material.sound
            if sound.sound is None:
                raise InputError("", "moves faces by sound, and this clip has none: give the pair a sound file (audio)")
            start = material.start if isinstance(sound, media.Clip) else None
            media.write_wav(sound, path, start=start, duration=job.frames / job.writer.rate)

    def _run(
        self,
        folder: Path,
        values: Mapping[str, str],
        switches: Mapping[str, bool],
        films: int,
        look: Callable[[], object] | None,
    ) -> supervise.Ended:
        """Run the program; raise TalkiesError if the machine failed it."""
        program, lines = self.program, count(1)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        start = program.workdir or values["folder"]
        words = [str(program.here(word) or word) for word in Command(program.command).filled(values, switches)]
        if self._image is None:
            environment |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
            start = str(Path(start).expanduser())
        else:
            checkpoint = self._common["checkpoint"]
            binds = [*map(_from_here, program.binds), *([f"{checkpoint}:{checkpoint}:ro"] if checkpoint else [])]
            within = container.exec_command(
                self._image,
                folder,
                start=start,
                binds=binds,
                writable=program.writable_tmpfs,
                network=program.network,
                environment=environment,
            )
            words, start = [*within, *words], "."

        def say(line: str) -> None:
            number = next(lines)
            if number <= MOST_LINES:
                log.info("| %s", printable(line) if number < MOST_LINES else "(what more it writes is left out)")

        ended = supervise.run(words, start, environment, say=say, seconds=60 * program.minutes * films, look=look)
        if not ended.code or ended.timed_out:
            return ended
        failed = next((line for line in reversed(ended.last) if TRANSIENT.search(line)), None)
        by_runtime = self._image and ended.code == 255 and _said(ended).startswith("FATAL:")
        if by_runtime or ended.code == supervise.CAN_NOT_START:
            raise TalkiesError(f"{program.name}: its program can't be started ({_said(ended)}): mend command or image")
        if ended.signal is not None:
            raise TalkiesError(f"{program.name}: its program was killed by signal {ended.signal}: run again")
        if failed is not None:
            raise TalkiesError(f"{program.name}: the machine failed its program ({printable(failed)[:300]}): run again")
        return ended

    def _take_over(self, values: Mapping[str, str], job: FilmJob) -> None:
        """Write the program's film at the clip's rate, in our encoding; InputError if its length or size is wrong."""
        found = self.program.found(Path(values["folder"]), Path(values["output"]))
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
    lasts, asked = film.frames / film.rate, frames / rate
    if abs(film.frames - frames) <= 1:
        read = media.read_frames(film)
        more = f"{film.frames} frames of {frames}: the last one is repeated or left out"
        said = None if film.frames == frames else more
    elif abs(lasts - asked) <= 1 / min(film.rate, rate):
        read = media.read_frames(film, rate=rate)
        said = f"{film.frames} frames at {film.rate} a second sampled as {frames} at {rate}"
    else:
        raise InputError(
            "",
            f"its film has {film.frames} frames at {float(film.rate):g} a second, where {frames} at {float(rate):g} "
            "were asked for: mend its command",
        )
    return _exactly(read, frames), said


def _exactly(frames: Iterable[Frame], wanted: int) -> Iterator[Frame]:
    """Yield exactly this many frames: repeat the last one, or leave out the rest."""
    frame = None
    for frame in islice(frames, wanted):
        yield frame
        wanted -= 1
    if frame is not None:
        yield from repeat(frame, wanted)


def _said(ended: supervise.Ended) -> str:
    """Return the last line that a program wrote."""
    return printable(ended.last[-1])[:300] if ended.last else "it said nothing"


def _switches(job: FilmJob) -> dict[str, bool]:
    movement = job.movement
    found = {"relative": movement.relative, "adapt_scale": movement.adapt_scale}
    return {**found, "find_best_frame": movement.best_frame == "auto", "gpu": container.gpu_given()}


def _job_line(values: Mapping[str, str], job: FilmJob) -> str:
    """Return a film's line in the list of a batch."""
    told: dict[str, Any] = {name: values[name] for name in ("source", "driving", "audio", "output", "folder")}
    told["audio"] = values["audio"] if Path(values["audio"]).exists() else None
    chosen = {name: value for name, value in _switches(job).items() if name != "gpu"}
    of_clip = {"best_frame": int(values["best_frame"]), "frames": job.frames, "rate": float(job.writer.rate)}
    return json.dumps({**told, **chosen, **of_clip}) + "\n"


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
