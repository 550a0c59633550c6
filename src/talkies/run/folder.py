"""Every path of a run folder. All are relative to it: it is the working folder of every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .journal import Journal
from .record import Film, FoundMotion, Prepared, PreparedTake, Recorded, Talkie

if TYPE_CHECKING:
    from .pairs import Pair
    from .plan import Plan

HOME = Path(".talkies")
"""What the run remembers; all of it can be made again."""
PLAN = HOME / "plan.json"
PROBES = HOME / "probes.json"
FACES = HOME / "faces.json"
RUN = HOME / "run.json"
"""Names the Snakemake process that runs in this folder."""
LOCKS = HOME / "locks"
RECEIPTS = HOME / "receipts"
LOGS = HOME / "logs"
WORKERS_LOG = LOGS / "workers.log"
"""What the workers of the last run on this machine wrote to stderr."""
BENCHMARKS = HOME / "benchmarks"
JOURNALS = HOME / "journal"
RUNS = Journal(JOURNALS / "run.jsonl")
"""Starts and ends of the folder's runs."""
CONFIG = Path("config.yaml")

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
    def silent(pair: Pair) -> Recorded[Film]:
        """Return a pair's silent film, which is kept until its talkie is made."""
        return Recorded(HOME / "silent" / pair.driving / f"{pair.stem}.mp4", Film)

    @staticmethod
    def shown(pair: Pair) -> Recorded[Film]:
        """Return a pair's silent film set into its picture or enlarged; it is kept until the talkie is made."""
        return Recorded(HOME / "shown" / pair.driving / f"{pair.stem}.mp4", Film)

    def talkie(self, pair: Pair) -> Recorded[Talkie]:
        """Return a pair's film in the results."""
        return Recorded(self.results / pair.driving / f"{pair.stem}.mp4", Talkie)

    @staticmethod
    def receipt(stage: str, name: str) -> Path:
        """Return the path of a stage's receipt by its name (SHARD.DUE)."""
        return RECEIPTS / stage / f"{name}.json"

    @staticmethod
    def journal(stage: str, shard: str) -> Journal:
        """Return a stage's journal for a shard."""
        return Journal(JOURNALS / f"{stage}-{shard}.jsonl")

    @staticmethod
    def lock(shard: str) -> Path:
        """Return the lock that a shard's worker holds."""
        return LOCKS / f"{shard}.lock"
