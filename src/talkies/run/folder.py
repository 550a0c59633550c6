"""Every path of a run folder. All are relative to it: it is the working folder of every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import settings
from ..files import shipped
from .record import Film, FoundMotion, Prepared, PreparedTake, Recorded, Talkie

if TYPE_CHECKING:
    from .pairs import Pair
    from .plan import Plan

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


@dataclass(frozen=True)
class Folder:
    """A run's files, by its plan."""

    results: Path

    @classmethod
    def of(cls, plan: Plan) -> Folder:
        """Return the files of a plan's run."""
        return cls(Path(plan.settings.results))

    @staticmethod
    def source(name: str) -> Recorded[Prepared]:
        """Return a prepared picture: 256 x 256 PNG."""
        return Recorded(HOME / "sources" / f"{name}.png", Prepared)

    @staticmethod
    def driving(take: str) -> Recorded[PreparedTake]:
        """Return a prepared take: the cropped video with sound, for the gallery; its record has the crop."""
        return Recorded(HOME / "driving" / f"{take}.mp4", PreparedTake)

    @staticmethod
    def motion(take: str) -> Recorded[FoundMotion]:
        """Return a take's keypoints."""
        return Recorded(HOME / "motion" / f"{take}.npz", FoundMotion)

    @staticmethod
    def film(stage: str, pair: Pair) -> Recorded[Film]:
        """Return the silent film that a stage makes of a pair; it is kept until the pair's talkie is made."""
        return Recorded(HOME / "films" / stage / pair.driving / f"{pair.stem}.mp4", Film)

    def talkie(self, pair: Pair) -> Recorded[Talkie]:
        """Return a pair's film in the results."""
        return Recorded(self.results / pair.driving / f"{pair.stem}.mp4", Talkie)

    @staticmethod
    def lock(shard: str) -> Path:
        """Return the lock that a shard's worker holds."""
        return LOCKS / f"{shard}.lock"


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
