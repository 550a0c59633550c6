"""The space for writing into a folder: free disk space, and what the user's quota leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path


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
        try:
            # `quota` exits with 1 if the quota is used up.
            answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            continue
        for line in answer.stdout.splitlines():
            words = line.split()
            numbers = [word.rstrip("*") for word in words[1:4]]
            if words and words[0] == str(mount) and len(numbers) == 3 and all(map(str.isdigit, numbers)):
                used, soft, hard = map(int, numbers)
                if limit := hard or soft:
                    return max(0, limit - used) * 1024
    return None
