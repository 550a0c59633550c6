"""The undocumented parts of Snakemake that we use, checked in the installed version: a change shows here first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SNAKEFILE = """
import json
from pathlib import Path
from talkies.run import snakemake_private as private

private.limit(workflow, gpus=1, threads=config.get("threads", 1))
TOLD = {
    "main": workflow.is_main_process,
    "executor": private.executor(workflow),
    "cores": workflow.cores,
    "image": private.runs_in_image(workflow),
}
if TOLD["image"] and config.get("leave_out"):
    private.leave_image_to_jobs(workflow)
Path("told.json").write_text(json.dumps(TOLD))


container: "image.sif"


rule all:
    input: "one.made", "two.made"


rule make:
    output: "{name}.made"
    threads: 5
    resources: gpu=1
    shell: "mkdir one-at-once; sleep .1; rmdir one-at-once; ls .snakemake/locks > locks; touch {output}"


onstart:
    images = [str(path) for path in private.pulled_images(workflow)]
    Path("started.json").write_text(json.dumps({"images": images, "retries": workflow.execution_settings.retries}))
"""
APPTAINER = """#!/bin/sh
[ "$1" = --version ] && echo apptainer version 1.4.5 && exit
for word; do last=$word; done
exec bash -c "$last"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "image.sif").touch()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> tuple[int, str]:
    command = ["snakemake", "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def told(folder: Path) -> dict:
    return json.loads((folder / "told.json").read_text())


def test_a_run_on_this_machine(folder: Path) -> None:
    code, output = snakemake(folder, "--retries", "2")
    assert code == 0, output
    assert told(folder) == {"main": True, "executor": None, "cores": 2, "image": False}
    assert json.loads((folder / "started.json").read_text()) == {"images": ["image.sif"], "retries": 2}
    locks = (folder / "locks").read_text().split()
    assert locks, "a run locks its folder with files there"
    assert all(name.endswith(".lock") for name in locks)


@pytest.mark.slow
def test_the_locks_of_a_killed_run_are_removed(folder: Path) -> None:
    assert snakemake(folder)[0] == 0
    left = folder / ".snakemake/locks" / (folder / "locks").read_text().split()[0]
    left.parent.mkdir(exist_ok=True)
    left.write_text("one.made\ntwo.made\n")
    (folder / "one.made").unlink()
    code, output = snakemake(folder)
    assert (code, "LockException" in output) == (1, True), "the name identifies a lock"
    remove = "from talkies.run.snakemake_private import remove_locks; print(remove_locks(), remove_locks())"
    done = subprocess.run([sys.executable, "-c", remove], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    assert snakemake(folder)[0] == 0


def test_a_job_on_a_node_and_a_profile_for_a_cluster(folder: Path) -> None:
    assert snakemake(folder, "--mode", "remote", "--nolock", "one.made")[0] == 0
    assert told(folder) == {"main": False, "executor": "node", "cores": 2, "image": False}
    (folder / "profiles/far").mkdir(parents=True)
    (folder / "profiles/far/config.yaml").write_text("executor: slurm\njobs: 3\nretries: 2\n")
    code, output = snakemake(folder, "-n", "--workflow-profile", "profiles/far")
    assert (code, told(folder)["executor"]) == (0, "slurm")
    assert "threads: 2" in output, "Snakemake gives no job more than this machine's --cores"
    assert "threads: 5" in snakemake(folder, "-n", "--workflow-profile", "profiles/far", "--config", "threads=6")[1]
    assert output.count("Using") == 1, "reading the command line again says nothing"


def test_jobs_in_an_image(folder: Path) -> None:
    told_to_use = ("-n", "--software-deployment-method", "apptainer")
    code, output = snakemake(folder, *told_to_use)
    assert (code, told(folder)["image"]) == (1, True)
    assert "apptainer" in output.lower(), "without apptainer even a dry run is refused"
    assert snakemake(folder, *told_to_use, "--config", "leave_out=1")[0] == 0
    starter = folder / "bin/apptainer"
    starter.parent.mkdir()
    starter.write_text(APPTAINER)
    starter.chmod(0o755)
    (folder / "bin/singularity").symlink_to(starter)
    os.environ["PATH"] = f"{starter.parent}:{os.environ['PATH']}"
    code, output = snakemake(folder, *told_to_use[1:])
    assert code == 0, output
    assert json.loads((folder / "started.json").read_text())["images"] == ["image.sif"]


def test_handlers_beside_the_users_own(folder: Path) -> None:
    (folder / "ours").write_text("""
from talkies.run import snakemake_private as private

onstart: print("our start")
onsuccess: print("our success")
onerror: print("our error")

private.add_handlers(workflow, onstart=onstart, onsuccess=onsuccess, onerror=onerror)

rule one:
    output: touch("one")

rule fail:
    shell: "false"
""")
    (folder / "Snakefile").write_text("""
module ours:
    snakefile: "ours"

onstart: print("their start")
onsuccess: print("their success")
onerror: print("their error")

use rule one from ours
use rule fail from ours
""")
    for target, end in (("one", "success"), ("fail", "error")):
        _, output = snakemake(folder, target)
        for word in ("start", end):
            assert [line for line in output.splitlines() if line.endswith(word)] == [f"our {word}", f"their {word}"]
    assert "our start" in snakemake(folder, "--snakefile", "ours", "one", "--force")[1]
