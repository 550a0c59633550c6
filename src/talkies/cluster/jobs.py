"""What jobs ask for (memory, time, a GPU, as Snakemake's standard resources), and why they failed.

That a job failed is known from Snakemake, and why from the scheduler and from the lock that a killed worker leaves
behind. The words of a job's log decide nothing; its last error is only shown.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from ..engines import FOMM
from ..errors import printable
from ..files import read_json
from ..machine import slurm
from ..run import estimate
from ..run.folder import LOCKS, shard_of
from ..run.plan import Plan
from ..run.planner import ALL
from ..settings import Settings

JOB_ERROR = "job_error"
"""Snakemake's event of a job that failed; not imported, as the image that reads this module has no Snakemake."""
TAIL_BYTES = 20_000
"""How much of a log's end is read for the last error."""
WORDS = 300
"""The longest text of others that a line shows, in characters."""


class Cause(StrEnum):
    """Why a job failed."""

    MEMORY = "it took more memory than it had asked for"
    TIME = "its time was over"
    NODE = "its node failed"
    PREEMPTED = "it had to make room for another job"
    CANCELLED = "it was cancelled"
    KILLED = "its worker was killed, most often for memory"
    ITSELF = "it failed"
    UNKNOWN = "it ended, and nothing says why"
    NOT_SENT = "it could not be sent"


STATES = {
    "OUT_OF_MEMORY": Cause.MEMORY,
    "TIMEOUT": Cause.TIME,
    "DEADLINE": Cause.TIME,
    "NODE_FAIL": Cause.NODE,
    "BOOT_FAIL": Cause.NODE,
    "PREEMPTED": Cause.PREEMPTED,
    "CANCELLED": Cause.CANCELLED,
}
"""SLURM's states of jobs whose cause they name."""
MORE_MEMORY = (Cause.MEMORY, Cause.KILLED, Cause.UNKNOWN)
MORE_TIME = (Cause.TIME, Cause.UNKNOWN)
"""Causes after which the next attempt asks for more."""
REMEDIES = {
    Cause.MEMORY: "ask for more: mem_mb under slurm in config.yaml",
    Cause.KILLED: "ask for more memory: mem_mb under slurm in config.yaml",
    Cause.TIME: "ask for more: runtime under slurm in config.yaml",
    Cause.ITSELF: "mend that",
    Cause.NOT_SENT: "mend that",
}


@dataclass(frozen=True)
class Failure:
    """A failed attempt of a job. job: its number at the scheduler, if it was sent. said: its last error, to show."""

    stage: str
    shard: str
    job: str
    cause: Cause
    said: str
    again: bool
    """Whether Snakemake sends it again."""

    @property
    def why(self) -> str:
        """The cause and what is shown with it, and what to do if the job is not sent again."""
        why = f"{self.cause.value} ({self.said})" if self.said else self.cause.value
        remedy = REMEDIES.get(self.cause, "look into its log")
        return f"{why}: " + ("it is sent again" if self.again else f"{remedy}, then start snakemake again")

    def __str__(self) -> str:
        return f"{self.stage} {self.shard}{f': job {self.job} failed' if self.job else ''}: {self.why}"


class Failures(logging.Handler):
    """The failed jobs of a run, by Snakemake's events. A handler of Snakemake's logger, in its main process.

    Each is reported once, when it happens; `final` has those that are not sent again. retries: how often Snakemake
    sends a failed job again.
    """

    def __init__(self, say: Callable[[str], object], *, on_slurm: bool, retries: int = 0) -> None:
        super().__init__()
        self.final: list[Failure] = []
        self.retries = retries
        self._say, self._on_slurm = say, on_slurm
        self._causes: dict[tuple[str, str], list[Cause]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a job's failure, and report it."""
        event: Any = record
        # A job of this machine (localrule) has no message of an executor.
        if getattr(record, "event", None) != JOB_ERROR or event.rule_msg is None:
            return
        try:
            self._failed(event)
        except Exception:
            self.handleError(record)

    def _failed(self, event: Any) -> None:
        stage, shard = event.rule_name, Path(event.output[0]).name.partition(".")[0]
        job = str((event.aux or {}).get("external_jobid") or "")
        if job:
            cause = cause_of(slurm.ended(job) if self._on_slurm else None, killed=_left_lock(shard, job))
            said = last_error(event.log) if cause is Cause.ITSELF else ""
        else:
            cause, said = Cause.NOT_SENT, _first_line(event.rule_msg)
        known = self._causes.setdefault((stage, shard), [])
        known.append(cause)
        failure = Failure(stage, shard, job, cause, said, again=len(known) <= self.retries)
        if not failure.again:
            self.final.append(failure)
        self._say(str(failure))

    def more(self, stage: str, shard: str, causes: Iterable[Cause]) -> int:
        """Return how often a shard's job asks for its usual memory or time: once, and once for each such failure."""
        found = Counter(self._causes.get((stage, shard), ()))
        return 1 + sum(found[cause] for cause in causes)


def cause_of(ended: slurm.Ended | None, *, killed: bool) -> Cause:
    """Return why a job failed. ended: by SLURM; None where that is not known. killed: its worker left its lock."""
    if ended is not None and ended.state in STATES:
        return STATES[ended.state]
    if killed or (ended is not None and ended.killed):
        return Cause.KILLED
    if ended is None:
        return Cause.UNKNOWN
    return Cause.ITSELF if ended.in_time else Cause.TIME


def _left_lock(shard: str, job: str) -> bool:
    """Return whether a job's worker left its shard's lock behind: one that ends by itself removes it."""
    return (read_json(LOCKS / f"{shard}.lock") or {}).get("slurm_job") == job


def last_error(logs: Iterable[str]) -> str:
    """Return the last error that a worker wrote into these logs, for a line; empty if there is none."""
    for log in logs:
        with suppress(OSError), Path(log).open("rb") as file:
            file.seek(max(0, Path(log).stat().st_size - TAIL_BYTES))
            found = re.findall(r"^talkies: error: (.*)", file.read().decode(errors="replace"), re.MULTILINE)
            if found:
                return printable(found[-1])[:WORDS]
    return ""


def _first_line(message: str) -> str:
    """Return an executor's message about a job that it could not send, for a line."""
    return printable(message.strip().partition("\n")[0].rstrip(":."))[:WORDS]


def asks_gpu(settings: Settings) -> bool:
    """Return whether a cluster's animating jobs ask for a GPU: as slurm.gpu says, else if the engines use one."""
    asked = settings.slurm.gpu
    on_processors = settings.model.device == "cpu" and not settings.programs
    return bool(asked.get("gpu", not on_processors) or asked.get("gres"))


def needs_gpu_image(settings: Settings) -> bool:
    """Return whether the image of the jobs must be built for GPUs: the built-in engine runs on one, in that image."""
    return FOMM in settings.by_engine and settings.model.device != "cpu" and asks_gpu(settings)


# --- what jobs ask for -------------------------------------------------------------------------------------

Kind = Literal["gpu", "cpu"]
MEMORY_MB: dict[Kind, int] = {"gpu": 4000, "cpu": 2000}


class Jobs:
    """What a run's jobs ask for.

    executor: the chosen one (`snakemake_private.executor`). failures: of this run's earlier attempts.
    """

    def __init__(self, plan: Plan, executor: str | None, failures: Failures) -> None:
        self._plan, self._executor, self._failures = plan, executor, failures

    def of(self, stage: str) -> dict[str, Any]:
        """Return the resources of a stage's jobs: those of config.yaml for their kind, the rest by estimate."""
        settings = self._plan.settings
        kind: Kind = "gpu" if stage in self._plan.table and self._plan.table[stage].on_gpu else "cpu"
        asked = settings.slurm.of(kind)
        usual: dict[str, Any] = {"runtime": self._walltime(stage, kind) if self._executor else 0}
        if "mem_mb_per_cpu" not in asked:
            usual["mem_mb"] = self._memory(stage, kind)
        if kind == "gpu" and "gres" not in asked and (asks_gpu(settings) if self._executor else estimate.has_gpu()):
            usual["gpu"] = 1
        on_slurm = self._executor == "slurm" or (self._executor == "node" and "SLURM_JOB_ID" in os.environ)
        if not self._executor:  # no job of this machine is ended for its time
            asked = {key: value for key, value in asked.items() if key != "runtime"}
        return usual | asked | ({"slurm_extra": self._options(kind)} if on_slurm else {})

    def _times(self, stage: str, shard: str, causes: Iterable[Cause], attempt: int) -> int:
        """Return how often a job asks for its usual memory or time.

        On SLURM once more for each failure by one of these causes. Another scheduler names no cause, so there it is
        the attempt, which the job on the node knows too.
        """
        return self._failures.more(stage, shard, causes) if self._executor == "slurm" else attempt

    def _memory(self, stage: str, kind: Kind) -> Callable[[Any, int], int]:
        """Return the function of a job's memory: more after each attempt that lacked memory."""

        def megabytes(wildcards: Any, attempt: int) -> int:
            shard = shard_of(wildcards.name)
            program = self._plan.program_of(shard) if kind == "gpu" else None
            usual = program.mem_mb if program else MEMORY_MB[kind]
            wanted = usual * self._times(stage, shard, MORE_MEMORY, attempt)
            return min(wanted, self._limits(kind).megabytes or wanted)

        return megabytes

    def _walltime(self, stage: str, kind: Kind) -> Callable[[Any, int], int]:
        """Return the function of a job's walltime in minutes: an estimate, more after each attempt that ran out."""

        def minutes(wildcards: Any, attempt: int) -> int:
            expected = estimate.walltime(self._plan, stage, _shard(wildcards))
            wanted = expected * self._times(stage, shard_of(wildcards.name), MORE_TIME, attempt)
            return min(wanted, self._limits(kind).minutes or wanted)

        return minutes

    def _options(self, kind: Kind) -> Callable[[Any], str]:
        """Return the function of other sbatch options: those of config.yaml, and nodes whose GPUs are too small.

        Too small for a program; the built-in engine needs 2 GB, which all have.
        """
        asked = str(self._plan.settings.slurm.of(kind).get("slurm_extra", ""))

        def extra(wildcards: Any) -> str:
            program = self._plan.program_of(_shard(wildcards) or "") if kind == "gpu" else None
            if program is None or self._executor == "node" or "--exclude" in asked:
                return asked
            small = slurm.nodes_with_less(program.gpu_mem_mb, self._partitions(kind))
            return f"{asked} --exclude={','.join(small)}".strip() if small else asked

        return extra

    def _limits(self, kind: Kind) -> slurm.Limits:
        """Return the limits for jobs of a kind: those of its partitions."""
        return slurm.limits(self._partitions(kind)) if self._executor == "slurm" else slurm.Limits()

    def _partitions(self, kind: Kind) -> str:
        """Return the partitions for jobs of a kind, separated by commas; empty: the default one."""
        return str(self._plan.settings.slurm.of(kind).get("slurm_partition", ""))


def _shard(wildcards: Any) -> str | None:
    """Return the shard of a job; None if it is about the whole run."""
    shard = shard_of(wildcards.get("name", ALL))
    return None if shard == ALL else shard
