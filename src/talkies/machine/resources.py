"""What this job may use of the machine: cores, and space on its disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from .supervise import ask

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


@cache
def room(folder: Path) -> tuple[int, str]:
    """Return the bytes that can be written into a folder (which may not exist yet), and what sets that limit.

    The limit is the disk's free space, or the user's quota if `quota` or `lfs quota` reports one.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    left = quota_left(folder)
    return (free, "free") if left is None or left >= free else (left, "left of the quota")


def quota_left(folder: Path) -> int | None:
    """Return the bytes that the user's quota leaves on a folder's file system; None if no quota is reported.

    Runs `quota` (NFS, local disks) and `lfs quota` (Lustre), whose lines are alike: file system, KiB used, soft and
    hard limit. Quotas of projects and folders are not seen.
    """
    mount = folder.resolve()
    while not mount.is_mount():
        mount = mount.parent
    for command in (
        ["quota", "--no-wrap", "--raw-grace", "--show-mntpoint", "--hide-device"],
        ["lfs", "quota", "-q", "-u", str(os.getuid()), str(mount)],
    ):
        for line in ask(*command).out.splitlines():  # `quota` exits with 1 if the quota is used up
            words = line.split()
            numbers = [word.rstrip("*") for word in words[1:4]]
            if words and words[0] == str(mount) and len(numbers) == 3 and all(map(str.isdigit, numbers)):
                used, soft, hard = map(int, numbers)
                if limit := hard or soft:
                    return max(0, limit - used) * 1024
    return None
