"""Only locked packages are installed: each one's bytes, also PyTorch's, must match a digest."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from run_folder import REPOSITORY

LOCKS = sorted([*REPOSITORY.glob("requirements/*.lock"), *REPOSITORY.glob("containers/*.lock")])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: f"{lock.parent.name}/{lock.name}")
def test_each_package_has_a_version_and_digests(lock: Path) -> None:
    text = re.sub(r"^\s*#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+(\[\S+\])?==\S+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_the_lock_has_what_this_python_takes() -> None:
    import torch

    version = torch.__version__.partition("+")[0]
    python = f"cp3{sys.version_info.minor}"
    names = re.findall(r"# [0-9a-f]{64} (\S+) \(", (REPOSITORY / "requirements/torch.lock").read_text())
    assert any(name.startswith(f"torch-{version}") and f"-{python}-" in name for name in names)
