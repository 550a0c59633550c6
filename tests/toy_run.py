"""A run in this process: the real plan, state, ledger and worker, with stages that write a line instead of a film.

A picture or clip is a text; what a stage makes of it is a text that names all that it was made from, so that a test
sees whether a file shows what the settings ask for.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from talkies.errors import InputError
from talkies.files import file_digest, whole, write_whole
from talkies.media.crop import Crop
from talkies.media.frames import Box
from talkies.media.sound import SoundFacts
from talkies.run import inputs, planner
from talkies.run.folder import done
from talkies.run.plan import Stage
from talkies.run.record import Film, FilmPicture, FoundMotion, Prepared, PreparedTake, Talkie
from talkies.run.state import look
from talkies.settings import complete
from talkies.stages import STAGES, crop
from talkies.stages.work import Bench, do_job

PICTURES, CLIPS = ("blue", "green", "red"), ("a", "b")
BASE: dict[str, Any] = {
    "images": "images",
    "driving": "driving",
    "crop": "center",
    "check": False,
    "pairs_per_job": 3,
    "gallery": {"report": False},
}
NO_SOUND = SoundFacts(None)


class Killed(BaseException):
    """A worker is killed at a point that a test chose."""


class ToyRun:
    """A run folder in the working folder. made: how often each stage made each item since the last look."""

    def __init__(self, clips: Mapping[str, Path]) -> None:
        """clips: a real clip for each name, since their frames are counted."""
        self.start()
        Path("images").mkdir()
        Path("driving").mkdir()
        for name in PICTURES:
            self.write(f"images/{name}.png", f"{name} first")
        for name in CLIPS:
            shutil.copyfile(clips[name], f"driving/{name}.mp4")

    def start(self) -> None:
        """Begin in a folder that is there already."""
        self.made: Counter[tuple[str, str]] = Counter()
        self.kill_at: int | None = None
        self.events = 0
        self.stages = tuple(replace(stage, make=self._maker(stage)) for stage in STAGES)
        self.settings: dict[str, Any] = {}

    # --- what a test does ---

    @staticmethod
    def write(path: str, text: str) -> None:
        """Write an input."""
        Path(path).write_text(text)

    def plan(self, **more: Any):
        """Return the plan and the state, as `snakemake -n` sees them."""
        planner.nonce.cache_clear()
        inputs._read.cache_clear()
        wanted = complete(BASE | self.settings)
        return planner.make_plan(wanted, lambda _: self.stages, **more)

    def run(self, **more: Any) -> Counter[str]:
        """Do what the plan asks, as Snakemake does: each job after the jobs it needs; return how many items each stage
        made."""
        self.made.clear()
        plan, state = self.plan(**more)
        planner.start_run(plan, state)
        try:
            self.jobs(plan)
        finally:
            planner.end_run()
        return self.counts()

    def jobs(self, plan) -> None:
        """Do the jobs of a run."""
        for stage in self.stages:
            for shard in plan.tasks[stage.name]:
                self.job(stage.name, plan.name(shard))
        self.gallery()

    def job(self, stage: str, name: str) -> None:
        """Do a job, from the plan's file, as the worker does."""
        plan = planner.Plan.load(lambda _: self.stages)
        do_job(plan.table[stage], plan, name)

    def gallery(self) -> None:
        """Write the gallery, as its job does."""
        plan = planner.Plan.load(lambda _: self.stages)
        Path(plan.settings.results, "index.html").write_text("the gallery")
        planner.finish_gallery(plan, look(plan))

    def is_calm(self) -> bool:
        """Return whether Snakemake would find nothing to be done."""
        plan, state = self.plan()
        return not any(state.due.values()) and done("gallery", plan.pages["gallery"]).exists()

    def counts(self) -> Counter[str]:
        """Return how many items each stage made."""
        return Counter(stage for stage, _ in self.made.elements())

    def due(self, **more: Any) -> dict[str, int]:
        """Return how many items each stage is to make."""
        _, state = self.plan(**more)
        return {stage: len(items) for stage, items in state.due.items() if items}

    def films(self) -> dict[str, str]:
        """Return the films' texts."""
        return {f"{p.parent.name}/{p.stem}": p.read_text() for p in sorted(Path("results").glob("*/*.mp4"))}

    def expected(self) -> dict[str, str]:
        """Return the text that each film must have under the settings of now."""
        plan, state = self.plan()
        return {name: self._text(plan, plan.last, name) for name in plan.pairs if name not in state.failed}

    def debris(self) -> list[Path]:
        """Return what must not be there after a run: temporary files, silent films."""
        left = [*Path().rglob("*.part"), *Path(".talkies/films").rglob("*.mp4"), *Path(".talkies/locks").glob("*.lock")]
        return [path for path in left if path.is_file()]

    # --- the stages ---

    def point(self) -> None:
        """Count an event at which a worker may be killed; kill it at the chosen one."""
        self.events += 1
        if self.events == self.kill_at:
            raise Killed

    def _text(self, plan, stage: Stage, item: str) -> str:
        above = plan.before(stage, item)
        parts = [stage.name, item, *([self._text(plan, above, item)] if above else [])]
        parts += [self._text(plan, *each) for each in plan.inputs(stage, item) if not above]
        if stage.reads_files:
            file = (plan.sources if stage.of == "pictures" else plan.takes)[item].file
            parts.append(file_digest(file)[:8])
        own = {
            "crop": lambda: plan.sources[item].crop.plain,
            "cut": lambda: plan.takes[item].crop.plain,
            "motion": lambda: plan.settings.model.preset,
            "animate": lambda: [plan.pairs[item].relative, plan.settings.film.crf, plan.settings.model.precision],
            "show": lambda: plan.settings.upscale,
            "remux": lambda: [plan.pairs[item].audio, plan.settings.provenance],
        }[stage.name]()
        return "(" + " ".join([*parts, json.dumps(own)]) + ")"

    def _maker(self, stage: Stage) -> Callable[[Bench, list[str]], Iterator[tuple[str, Any]]]:
        def make(bench: Bench, items: list[str]) -> Iterator[tuple[str, Any]]:
            for item in items:
                self.point()
                try:
                    record = self._make(stage, bench, item)
                except InputError as error:
                    yield item, error
                    continue
                self.made[stage.name, item] += 1
                self.point()
                yield item, record
                self.point()

        return make

    def _make(self, stage: Stage, bench: Bench, item: str) -> Any:
        plan = bench.plan
        target = stage.file(plan, item)
        original = None
        cut = Crop("center", Box(0, 0, 64), None, False)
        if stage.reads_files:
            file = Path((plan.sources if stage.of == "pictures" else plan.takes)[item].file)
            original = crop.read_original(bench, file)
            if file.read_bytes().startswith(b"broken"):
                raise InputError(file, "broken: mend it")
        if stage.of == "pairs" and (before := plan.before(stage, item)):
            made, film = bench.film(item)
            assert getattr(made, "picture_key", made.key) == plan.known_key(before.name, item)
            assert self._text(plan, before, item) in film.read_text()
        text = self._text(plan, stage, item)
        picture = FilmPicture("25", 256)
        key = bench.key(item)
        records: dict[str, Callable[[], Any]] = {
            "crop": lambda: Prepared(key=key, original=original, crop=cut),
            "cut": lambda: PreparedTake(
                key=key,
                original=original,
                crop=cut,
                rate="25",
                frames=1,
                sound=False,
                truncated=False,
            ),
            "motion": lambda: FoundMotion(key=key, frames=1, rate="25"),
            "remux": lambda: Talkie(
                key=key,
                picture_key=plan.known_key(plan.before(stage, item).name, item),
                pair=item,
                picture=picture,
                sound=NO_SOUND,
            ),
        }
        record = records.get(stage.name, lambda: Film(key=key, picture=picture, seconds=0.5))()
        if stage.name != plan.last.name:
            write_whole(target.path, text.encode())
            self.point()
            return target.describe(record)
        target.keep_foreign(bench.look.ledger.files.get((stage.name, item)))
        target.path.parent.mkdir(parents=True, exist_ok=True)
        with whole(target.path) as part:
            part.write_text(text)
            record = target.describe(record, of=part)
            self.point()
        return record
