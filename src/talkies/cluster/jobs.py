"""What jobs ask for (memory, time, a GPU, as Snakemake's standard resources), and what is said of those that failed."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from ..engines import FOMM
from ..errors import printable
from ..run import estimate
from ..run.folder import shard_of
from ..run.plan import Plan
from ..run.planner import ALL
from ..settings import Settings

JOB_ERROR = "job_error"
"""Snakemake's event of a job that failed; not imported, as the image that reads this module has no Snakemake."""
TAIL_BYTES = 20_000
"""How much of a log's end is read for the last error."""
WORDS = 300
"""The longest text of others that a line shows, in characters."""
NO_REASON = re.compile(r"(Detailed failure reason unavailable|Failed nodes will be|For further error details).*")
"""The ends of executors' messages, which say nothing of the job."""
REMEDY = "mend that, or ask for more memory or time (mem_mb, runtime under slurm), then start snakemake again"


class Failures(logging.Handler):
    """The failed jobs of a run, by Snakemake's events. A handler of Snakemake's logger, in its main process.

    Each is reported once, when it happens, with what the executor says of it; `final` has stage, shard and reason of
    those that are not sent again. retries: how often Snakemake sends a failed job again.
    """

    def __init__(self, say: Callable[[str], object], *, retries: int = 0) -> None:
        super().__init__()
        self.final: list[tuple[str, str, str]] = []
        self.retries = retries
        self._say = say
        self._attempts = Counter[tuple[str, str]]()

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
        stage, shard = event.rule_name, shard_of(Path(event.output[0]).name)
        why = NO_REASON.sub("", printable(event.rule_msg.strip().partition("\n")[0]))[:WORDS].rstrip(" :.")
        why = why or f"job {(event.aux or {}).get('external_jobid')} failed"
        if said := last_error(event.log):
            why += f" (the last error in its log: {said})"
        self._attempts[stage, shard] += 1
        if self._attempts[stage, shard] <= self.retries:
            why += ": it is sent again, with more memory and time"
        else:
            why += f": {REMEDY}"
            self.final.append((stage, shard, why))
        self._say(f"{stage} {shard}: {why}")


def last_error(logs: Iterable[str]) -> str:
    """Return the last error that a worker wrote into these logs, for a line; empty if there is none."""
    for log in logs:
        with suppress(OSError), Path(log).open("rb") as file:
            file.seek(max(0, Path(log).stat().st_size - TAIL_BYTES))
            found = re.findall(r"^talkies: error: (.*)", file.read().decode(errors="replace"), re.MULTILINE)
            if found:
                return printable(found[-1])[:WORDS]
    return ""


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


def resources(plan: Plan, stage: str, executor: str | None) -> dict[str, Any]:
    """Return the resources of a stage's jobs: those of config.yaml for their kind, the rest by estimate.

    executor: the chosen one (`snakemake_private.executor`). Each attempt asks for more memory and time.
    """
    settings = plan.settings
    kind: Kind = "gpu" if stage in plan.table and plan.table[stage].on_gpu else "cpu"
    asked = settings.slurm.of(kind)

    def megabytes(wildcards: Any, attempt: int) -> int:
        program = plan.program_of(shard_of(wildcards.name)) if kind == "gpu" else None
        return attempt * (program.mem_mb if program else MEMORY_MB[kind])

    def minutes(wildcards: Any, attempt: int) -> int:
        shard = shard_of(wildcards.get("name", ALL))
        return attempt * estimate.walltime(plan, stage, None if shard == ALL else shard)

    usual: dict[str, Any] = {"runtime": minutes if executor else 0}
    if "mem_mb_per_cpu" not in asked:
        usual["mem_mb"] = megabytes
    if kind == "gpu" and "gres" not in asked and (asks_gpu(settings) if executor else estimate.has_gpu()):
        usual["gpu"] = 1
    if not executor:  # no job of this machine is ended for its time
        asked = {key: value for key, value in asked.items() if key != "runtime"}
    return usual | asked
