"""Only locked packages are installed: each one's bytes, also PyTorch's, must match a digest."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
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


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    name = "torch-2.13.0+cpu-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as wheel:
        wheel.writestr("torch/__init__.py", "raise SystemExit('not the one')")
        wheel.writestr(
            "torch-2.13.0+cpu.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(
            "torch-2.13.0+cpu.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n"
        )
        wheel.writestr("torch-2.13.0+cpu.dist-info/RECORD", "")
    lock = REPOSITORY / "requirements/torch.lock"
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "--find-links", str(tmp_path)]
    command += [
        "--ignore-installed",
        "--require-hashes",
        "--no-deps",
        "--target",
        str(tmp_path / "into"),
        "-r",
        str(lock),
    ]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 1
    assert "DO NOT MATCH THE HASHES" in answer.stderr
    assert not (tmp_path / "into/torch").exists()


def test_the_lock_has_what_this_python_takes() -> None:
    import torch

    version = torch.__version__.partition("+")[0]
    python = f"cp3{sys.version_info.minor}"
    names = re.findall(r"# [0-9a-f]{64} (\S+) \(", (REPOSITORY / "requirements/torch.lock").read_text())
    assert any(name.startswith(f"torch-{version}") and f"-{python}-" in name for name in names)
