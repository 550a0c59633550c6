"""The image: its definition follows from the Dockerfile, two builds are equal, buildah takes the Dockerfile too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from run_folder import REPOSITORY

BUILD = REPOSITORY / "scripts/build_container.py"


def test_the_definition_is_what_the_dockerfile_gives() -> None:
    import build_container

    committed = build_container.DEFINITION.read_text()
    assert build_container.make_definition() == committed, "python scripts/build_container.py --definition"


def test_the_image_is_locked_to_what_is_tested_here() -> None:
    inside = (REPOSITORY / "containers/requirements.lock").read_text().splitlines()
    here = (REPOSITORY / "requirements/dev.lock").read_text().splitlines()
    # A name and its version; what else needs a package decides on which systems, after the semicolon.
    pins, known = (
        {line.rstrip("\\ ").partition(" ;")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))}
        for lines in (inside, here)
    )
    assert pins
    assert pins <= known, "make lock"
    assert not [line for line in pins if line.startswith(("torch", "snakemake"))]


def test_the_base_is_pinned() -> None:
    (base,) = [line for line in (REPOSITORY / "containers/Dockerfile").read_text().splitlines() if "ARG BASE=" in line]
    assert len(base.rpartition("@sha256:")[2]) == 64


def test_two_contexts_are_equal(tmp_path: Path) -> None:
    """The wheel too: it is built for the image, twice, and has the same bytes."""
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        done = subprocess.run([sys.executable, BUILD, "--context", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append({path.name: path.read_bytes() for path in (folder / "context").iterdir()})
    assert found[0] == found[1]
    assert any(name.startswith("talkies-") and name.endswith(".whl") for name in found[0])
