"""What this job may use of the machine: cores, and space on its disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
"""The cgroup of this process, in a line `0::/path`."""


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
    with suppress(OSError):
        own = next((line[3:] for line in OWN.read_text().splitlines() if line.startswith("0::")), "")
        group = CGROUPS / own.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such file, or `max`: no quota
                quota, period = (folder / "cpu.max").read_text().split()
                yield int(quota) / int(period)
            if folder == CGROUPS:
                break


@cache
def room(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
