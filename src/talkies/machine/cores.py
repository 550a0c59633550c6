"""How many cores this job was given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
"""The cgroups of this process: `0::/path` in cgroup v2, `4:cpu,cpuacct:/path` in v1."""


def available_threads() -> int:
    """Return the number of cores of this job: the least of SLURM's variable, the cgroups' quota and the affinity."""
    counts = [len(os.sched_getaffinity(0)), *map(int, _quotas())]
    if os.environ.get("SLURM_CPUS_PER_TASK", "").isdigit():
        counts.append(int(os.environ["SLURM_CPUS_PER_TASK"]))
    return max(1, min(counts))


def _quotas() -> Iterator[float]:
    """Yield the quotas, in cores, of this process's cgroup and its parents.

    In a container the path may be the machine's and not exist; the container's own quota is at the top.
    """
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, kinds, path = line.split(":", 2)
        if number != "0" and "cpu" not in kinds.split(","):
            continue
        top = CGROUPS if number == "0" else CGROUPS / "cpu"
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such file, or `max`: no quota
                if number == "0":
                    quota, period = (folder / "cpu.max").read_text().split()
                else:
                    quota, period = ((folder / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
                if int(quota) > 0:
                    yield int(quota) / int(period)
            if folder == top:
                break
