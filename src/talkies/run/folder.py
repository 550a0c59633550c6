"""Every path of a run folder. All are relative to it: it is the working folder of every command."""

from __future__ import annotations

import os
from pathlib import Path

from .. import settings
from ..errors import TalkiesError, printable
from ..files import shipped, write_whole

HOME = Path(".talkies")
"""What the run remembers; all of it can be made again."""
PLAN = HOME / "plan.json"
INPUTS = HOME / "inputs.json"
"""What is known of each input file, by path, size and time."""
RUN = HOME / "run.json"
"""Names the Snakemake process that runs in this folder."""
LOCKS = HOME / "locks"
LEDGER = HOME / "ledger"
DONE = HOME / "done"
LOGS = HOME / "logs"
WORKERS_LOG = LOGS / "workers.log"
"""What the workers of the last run on this machine wrote to stderr."""
BENCHMARKS = HOME / "benchmarks"
CONFIG = Path("config.yaml")
OWN_STAGES = Path("stages")
"""Stages that the user adds (docs/extending.md)."""

GALLERY_PAGE, PRIVATE_PAGE, CHECK_PAGE = "index.html", "private.html", "check.html"
TAKEN_NAMES = (GALLERY_PAGE, "index_files", PRIVATE_PAGE, "private_files", CHECK_PAGE)
"""Names that the gallery uses in the results folder: no driving video may have one."""


def done(stage: str, name: str) -> Path:
    """Return the empty file that says that a job's work is done. name: SHARD.NONCE."""
    return DONE / stage / name


def done_path(stage: str, name: str) -> str:
    """Return the same path as text, for Snakemake."""
    return str(done(stage, name))


def shard_of(name: str) -> str:
    """Return the shard of a job's name."""
    return name.partition(".")[0]


def remove_older(stage: str, name: str) -> None:
    """Remove what jobs of the same shard left under other names: done files, logs, benchmarks."""
    for folder in (DONE, LOGS, BENCHMARKS):
        for path in (folder / stage).glob(f"{shard_of(name)}.*"):
            if not path.name.startswith(name):
                path.unlink(missing_ok=True)


# --- for a run folder's Snakefile --------------------------------------------------------------------------


def readable(path: str) -> str:
    """Return the path of a config file for Snakemake, which would print a traceback for a damaged one.

    No key is checked: --config may add more. TalkiesError if it can't be read.
    """
    if Path(path).exists():
        settings.read(Path(path))
    return path


def workflow_folder() -> Path:
    """Return the folder of the workflow, for a Snakefile that uses it as a module."""
    return shipped("workflow")


PICTURES, VIDEOS = "images", "driving"
PROFILE_LINK = "slurm"
"""Snakemake looks for `--profile slurm` under this name beside the Snakefile, not in profiles/."""


def lay_out(folder: Path, *, examples: bool = False) -> tuple[list[str], list[str]]:
    """Make what a run folder lacks; return the names made, and those that existed.

    examples: also copy the example pictures and videos into it. Raises TalkiesError if it can't be a run folder.
    """
    from ..config_docs import as_yaml  # with PyYAML, which no job needs

    if folder.exists() and not folder.is_dir():
        raise TalkiesError(f"{printable(folder)}: this is a file: give a folder's name, new or there already")
    workflow, profiles = shipped("workflow"), shipped("profiles")
    files = {
        "config.yaml": as_yaml(images=PICTURES, driving=VIDEOS).encode(),
        **{path.name: path.read_bytes() for path in (workflow / "run_folder").iterdir()},
    }
    files |= {f"profiles/{path.relative_to(profiles)}": path.read_bytes() for path in sorted(profiles.glob("*/*"))}
    if examples:
        shown = shipped("examples")
        files |= {
            f"{folder}/{path.name}": path.read_bytes()
            for folder in (PICTURES, VIDEOS)
            for path in sorted((shown / folder).iterdir())
        }
    wanted = [f"{PICTURES}/", f"{VIDEOS}/", *files, PROFILE_LINK]
    kept = [name for name in wanted if os.path.lexists(folder / name)]  # a broken link is the user's too
    made = [name for name in wanted if name not in kept]
    for name in made:
        if name in files:
            write_whole(folder / name, files[name])
        elif name == PROFILE_LINK:
            (folder / name).symlink_to(f"profiles/{PROFILE_LINK}")
        else:
            (folder / name).mkdir(parents=True)
    return made, kept
