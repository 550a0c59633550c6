"""What the jobs of a run ask for: memory, time, a GPU, as Snakemake's standard resources."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

from ..machine import slurm
from ..run import estimate
from ..run.folder import shard_of
from ..run.plan import Plan
from ..run.planner import ALL
from .scheduler import MORE_MEMORY, MORE_TIME, Cause, Failures, asks_gpu

Kind = Literal["gpu", "cpu"]
MEMORY_MB: dict[Kind, int] = {"gpu": 4000, "cpu": 2000}


class Jobs:
    """executor: the chosen one (`snakemake_private.executor`). failures: of this run's earlier attempts."""

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
            of_program = kind == "gpu" and self._plan.by_program(shard)
            usual = estimate.megabytes(self._plan, shard) if of_program else MEMORY_MB[kind]
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
        """Return the function of other sbatch options: those of config.yaml, and nodes with too small GPUs."""
        asked = str(self._plan.settings.slurm.of(kind).get("slurm_extra", ""))

        def extra(wildcards: Any) -> str:
            if kind == "cpu" or self._executor == "node" or "--exclude" in asked:
                return asked
            megabytes = estimate.gpu_megabytes(self._plan, _shard(wildcards) or "")
            small = slurm.nodes_with_less(megabytes, self._partitions(kind))
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
