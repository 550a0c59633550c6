"""Makes films of given files without a run folder: runs the workflow's stages one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media, stages
from ..engines.program import Program
from ..errors import TalkiesError, printable
from ..files import open_regular
from ..machine.scratch import own_folder
from ..run import planner
from ..run.folder import CONFIG
from ..run.pairs import by_stem
from ..run.state import State, look
from ..settings import complete, read
from .animate import load_engine
from .work import Progress, work

if TYPE_CHECKING:
    from ..run.plan import Plan
    from .work import Opener

log = logging.getLogger("talkies")

RESULTS = ".films"
"""The results' folder in the temporary run folder, if no other is given."""


def make_films(
    of_all: Mapping[str, Any],
    of_clips: Mapping[str, Any],
    pictures: Sequence[Path],
    clips: Sequence[Path],
    results: Path | None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    take: Callable[[Plan, State], None] | None = None,
    opener: Opener | None = None,
) -> tuple[Plan, State]:
    """Animate every picture with every driving video; return the plan and the state of its pairs.

    of_all, of_clips: settings as in config.yaml for all films and for each driving video, with absolute paths.
    pictures, clips: files, or folders of them. results: a folder for the films; finished films there are not made
    again. None: the films are in the temporary run folder, and `take` is called there to fetch them before it is
    removed. opener: opens engines, in place of the plan's own. Raises TalkiesError for errors that the user can fix;
    faults of single files are in the state.
    """
    pictures, clips = _files(pictures, media.list_pictures), _files(clips, media.list_clips)
    wanted = {
        **of_all,
        "files": {**of_all.get("files", {}), **({path.name: dict(of_clips) for path in clips} if of_clips else {})},
        "results": str(results.absolute()) if results else RESULTS,
    }
    with own_folder("animate") as folder:
        for path in dict.fromkeys([*pictures, *clips]):
            if (folder / path.name).is_symlink():
                raise TalkiesError(f"{printable(path)}: another file has this name too: rename one")
            (folder / path.name).symlink_to(path.absolute())
        inputs = (by_stem(Path(path.name) for path in pictures), by_stem(Path(path.name) for path in clips))
        with chdir(folder), _errors_left_to_us():
            plan, state = planner.make_plan(complete(wanted), stages.table, inputs=inputs)
            if results is None and len(plan.pairs) != 1:
                raise TalkiesError(f"{len(plan.pairs)} films are asked for: name a folder for them, not a file")
            planner.start_run(plan, state)
            engine = opener or load_engine(plan, threads=threads)
            for stage in plan.stages:
                for shard in plan.tasks[stage.name]:
                    work(stage, plan, shard, engine=engine, progress=progress)
            state = look(plan)
            if take:
                take(plan, state)
    return plan, state


def _files(given: Sequence[Path], lister: Callable[[Path], list[Path]]) -> list[Path]:
    """Return the files, with folders replaced by their files; TalkiesError if there are none."""
    found = []
    for path in given:
        if path.is_dir():
            listed = lister(path)
            if not listed:
                raise TalkiesError(f"{printable(path)}: no file in it that can be used: name another folder, or files")
            found += listed
        elif not path.exists():
            raise TalkiesError(f"{printable(path)}: no such file: mend its name")
        else:
            with suppress(OSError):  # the stage that reads it reports it
                open_regular(path).close()
            found.append(path)
    return list(dict.fromkeys(found))


@contextmanager
def _errors_left_to_us() -> Iterator[None]:
    """Let no stage log faults of single files: the caller reports each once for all its pairs."""

    def held(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    log.addFilter(held)
    try:
        yield
    finally:
        log.removeFilter(held)


def program_named(name: str) -> Program:
    """Return a program as an engine: from config.yaml here, else a known one. TalkiesError if there is none."""
    config = read(CONFIG) if CONFIG.exists() else {}
    here = complete({key: config[key] for key in ("engine", "engines") if key in config}).programs
    program = here.get(name) or next(iter(complete({"engine": name}).programs.values()), None)
    if program is None:
        raise TalkiesError(f"{name} is the built-in engine: leave --engine away")
    return program
