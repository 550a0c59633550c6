"""Folders and links that can't be mounted in an image: a problem only if jobs run in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folder import RunFolder, draw_picture


@pytest.fixture
def awkward(tmp_path: Path) -> RunFolder:
    """A run with one picture linked from the folder "Photos, 2020", and one link to a missing file in /."""
    run = RunFolder.create(tmp_path / "run", images=[], clips=["a"])
    (tmp_path / "Photos, 2020").mkdir()
    draw_picture(tmp_path / "Photos, 2020/anna.png", (200, 40, 90))
    (run.path / "images/anna.png").symlink_to(tmp_path / "Photos, 2020/anna.png")
    (run.path / "images/gone.png").symlink_to("/gone.png")
    return run


def test_in_an_image_the_folder_is_refused_before_any_job(awkward: RunFolder) -> None:
    for how in (["--sdm", "apptainer"], ["-n", "--sdm", "apptainer"]):
        output = awkward.snakemake(*how, ok=False)
        (line,) = [line for line in output.splitlines() if "can't be shown to the image" in line]
        assert "Photos, 2020: " in line
        assert not (awkward.path / ".talkies/done").exists()
    awkward.configure(container=None)
    assert "2 pairs" in awkward.snakemake("-n", "--sdm", "apptainer")
