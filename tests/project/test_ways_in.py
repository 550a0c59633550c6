"""Ways to a run other than `make` and `talkies init`: snakedeploy, conda, GitHub's runners."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder

from talkies import settings

SNAKEDEPLOY = "snakedeploy==0.17.1"


def test_the_deployed_settings_are_settings() -> None:
    assert settings.complete(settings.read(REPOSITORY / "config/config.yaml")).model.preset == "demo"


@pytest.mark.longest
@pytest.mark.slow
def test_a_folder_made_by_snakedeploy_runs(tmp_path: Path) -> None:
    """Clone the repository and deploy it as the workflow catalog says; Snakemake loads it from the git history."""
    clone, folder = tmp_path / "talkies", tmp_path / "deployed"
    subprocess.run(["git", "clone", "-q", REPOSITORY, clone], check=True)
    subprocess.run(["git", "-C", clone, "tag", "deployed"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", SNAKEDEPLOY], check=True)
    deploy = [python.with_name("snakedeploy"), "deploy-workflow", clone, folder, "--tag", "deployed"]
    subprocess.run(deploy, check=True)
    # For a local clone snakedeploy writes a relative path to the Snakefile, which does not exist.
    snakefile = folder / "workflow/Snakefile"
    written = snakefile.read_text()
    assert '"workflow/Snakefile"' in written
    snakefile.write_text(written.replace('"workflow/Snakefile"', f'"git+file://{clone}/workflow/Snakefile@deployed"'))

    material = RunFolder.create(tmp_path / "material", images=["red"], clips=["a"])
    for name in ("images", "driving"):
        (material.path / name).rename(folder / name)
    run = RunFolder(folder)
    center = ("--config", "crop=center", "check=false")
    assert "1 pair" in run.run("snakemake", "-n", *center).stdout
    done = run.run("snakemake", *center)
    assert done.returncode == 0, done.stdout[-4000:]
    assert (folder / "results/a/red.mp4").stat().st_size > 1000
    assert (folder / "results/index.html").exists()
    assert "1 pair: 1 done" in run.talkies("status")
