"""The doctor on a login node, on a compute node and in the image: the real command, with stand-ins for the programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_folder import program
from sif import IMAGE, NO_GPUS, OTHER

from talkies import __version__
from talkies.cli import main
from talkies.cluster import doctor

WORKING = {"torch": "2.9", "cuda": "12.8", "threads": 4, "fault": None, "device": "cuda", "name": "A100"}
WORKING |= {"built_for": ["sm_80"], "seconds": 0.2, "weights": "abc"}
NO_TORCH = "echo \"ModuleNotFoundError: No module named 'torch'\" >&2; exit 1"
CLUSTER = {
    "sbatch": "exit 0",
    "squeue": "exit 0",
    "sinfo": 'case "$*" in *version*) echo slurm 24.11.5 ;; *) printf "gpu*\\ncpu\\n" ;; esac',
    "scontrol": 'echo "AccountingStorageType   = accounting_storage/none"; echo "MinJobAge = 300 sec"',
    "apptainer": 'case "$*" in --version) echo "apptainer version 1.4.5" ;; esac',
}


class Site:
    """A machine: the programs on its path, its variables, a run folder, and what the doctor says about it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.bin, self.run = root / "bin", root / "run"
        self.bin.mkdir()
        self.run.mkdir()
        self.set, self.capsys = monkeypatch.setenv, capsys
        monkeypatch.chdir(self.run)
        for name in [name for name in os.environ if name.startswith(("SLURM_", "APPTAINER_", "SINGULARITY_"))]:
            monkeypatch.delenv(name)
        for name in ("CUDA_VISIBLE_DEVICES", "L_SCRATCH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(root / "config"))
        monkeypatch.setenv("TMPDIR", str(root))
        monkeypatch.setattr(sys, "executable", str(self.bin / "python"))
        self.has("python", NO_TORCH)
        (self.run / "Snakefile").touch()

    def has(self, name: str, script: str) -> None:
        program(self.bin / name, f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")

    def torch(self, **facts: object) -> None:
        self.has("python", f"echo '{json.dumps(WORKING | facts)}'")

    def cluster(self, **others: str | None) -> None:
        for name, script in (CLUSTER | others).items():
            if script is not None:
                self.has(name, script)
        self.configure()
        (self.run / "talkies.sif").write_bytes(IMAGE)

    def configure(self, text: str = "") -> None:
        (self.run / "config.yaml").write_text("images: .\ndriving: .\n" + text)

    def says(self, code: int) -> dict[str, list[tuple[str, str]]]:
        found = main(["doctor"])
        head, *lines, last = self.capsys.readouterr().out.splitlines()
        place = next(place for place, words in doctor.PLACES.items() if head.strip().startswith(f"{words} ("))
        said: dict[str, list[tuple[str, str]]] = {"place": [("", place)]}
        missing = 0
        for line in lines:
            grade, (subject, _, text) = line[:8].strip(), line[8:].partition(": ")
            said.setdefault(subject, []).append((grade, text))
            missing += grade == "MISSING"
        assert found == code, lines
        assert last.startswith(f"{missing} thing" if missing else "all that a run needs")
        return said


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(tmp_path, monkeypatch, capsys)


def test_a_login_node_needs_no_torch(site: Site) -> None:
    site.cluster()
    said = site.says(0)
    assert said["place"] == [("", "login")]
    assert said["torch"] == [("note", "not installed: fine here, where the image brings it to the jobs")]
    assert said["SLURM"] == [("ok", "24.11.5, partitions cpu, gpu")]
    assert said["ended jobs"] == [("ok", "Snakemake asks squeue, as profiles/slurm says")]
    assert said["apptainer"] == [("ok", "apptainer version 1.4.5")]
    assert said["image"] == [("ok", f"talkies.sif, version {__version__}")]
    assert said["scratch"][0][0] == "ok"


OFF = "echo AccountingStorageType = accounting_storage/none; echo MinJobAge = {} sec"
ON = "echo AccountingStorageType = accounting_storage/slurmdbd; echo MinJobAge = 30 sec"
NO_SACCT = "echo 'sacct: error: Connection refused' >&2; exit 1"


@pytest.mark.parametrize(
    ("programs", "config", "subject", "text"),
    [
        ({"sinfo": "exit 1"}, "", "SLURM", "sinfo does not answer"),
        ({"apptainer": None}, "", "apptainer", "neither apptainer nor singularity is here"),
        ({}, "slurm: {gpu: {slurm_partition: fast}}", "SLURM", "slurm.gpu.slurm_partition: there is no fast"),
        ({"scontrol": OFF.format(30)}, "", "ended jobs", "sacct is not usable (accounting is off)"),
        ({"scontrol": ON, "sacct": NO_SACCT}, "", "ended jobs", "sacct is not usable (sacct: error: Connection r"),
        (
            {"apptainer": 'case "$1" in exec) echo "no user namespaces" >&2; exit 1 ;; --version) echo 1 ;; esac'},
            "",
            "apptainer",
            "can't run talkies.sif here (no user namespaces)",
        ),
        ({}, "scratch: /nowhere/at/all", "scratch", "scratch: /nowhere/at/all: there is no such folder"),
        ({}, "sratch: x", "config", "sratch: unknown key"),
    ],
)  # fmt: skip
def test_what_a_login_node_lacks_is_named_with_what_to_do(
    site: Site, programs: dict[str, str | None], config: str, subject: str, text: str
) -> None:
    site.cluster(**programs)
    site.configure(config)
    assert [grade for grade, said in site.says(1)[subject] if text in said] == ["MISSING"]


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "this is no image"), (OTHER, "talkies.sif holds talkies 9.9"), (NO_GPUS, "(talkies.gpus: none)")],
)
def test_the_image_is_looked_at_as_before_a_run(site: Site, content: bytes, text: str) -> None:
    site.cluster()
    (site.run / "talkies.sif").write_bytes(content)
    ((grade, said),) = site.says(1)["image"]
    assert grade == "MISSING"
    assert text in said
    site.configure("model: {device: cpu}\n")
    assert (site.says(content != NO_GPUS)["image"][0][0] == "ok") == (content == NO_GPUS)


def test_where_slurm_forgets_soon_sacct_is_asked(site: Site) -> None:
    site.cluster(scontrol=ON, sacct="exit 0")
    assert site.says(0)["ended jobs"] == [
        ("ok", "Snakemake asks sacct, since SLURM forgets ended jobs soon (MinJobAge)")
    ]


def test_a_node_is_looked_at_as_a_job_would_find_it(site: Site) -> None:
    site.cluster(srun="exit 3")
    site.configure("slurm: {gpu: {slurm_partition: 'a,b', gpu_model: a100, mem_mb: 9000}, cpu: {gres: 'x:1'}}\n")
    assert main(["doctor", "--on", "gpu"]) == 3
    said = site.capsys.readouterr().out
    asked = "--time=10 --job-name=talkies-doctor --partition=a,b --mem=9000 --gpus=a100:1 apptainer --quiet exec --nv"
    assert f"$ srun --ntasks=1 --nodes=1 {asked} --bind {site.run}" in said
    assert "talkies-selftest" in said
    assert main(["doctor", "--on", "cpu"]) == 3
    assert "--mem=4000 --gres=x:1 apptainer" in site.capsys.readouterr().out
    (site.bin / "srun").unlink()
    assert main(["doctor", "--on", "gpu"]) == 1
    assert "there is no srun here" in site.capsys.readouterr().err


# --- compute nodes and the image ---------------------------------------------------------------------------


def test_a_compute_node(site: Site) -> None:
    site.cluster()
    site.set("SLURM_JOB_ID", "7")
    said = site.says(0)
    assert said["place"] == [("", "job")]
    assert said["torch"][0][0] == "note"
    assert "SLURM" not in said, "jobs do not need its commands"
    assert said["apptainer"][0][0] == "ok"
    site.has("nvidia-smi", "echo 'A100, 570.12, 81920 MiB'")
    assert [grade for grade, _ in site.says(0)["GPU"]] == ["ok"]


def test_in_the_image_torch_is_needed_and_apptainer_is_not(site: Site) -> None:
    site.set("APPTAINER_CONTAINER", "/x/talkies.sif")
    site.configure()
    assert site.says(1)["torch"] == [
        ("MISSING", "not installed, and to animate here needs it: pip install 'talkies[engine]'")
    ]
    site.torch()
    site.set("CUDA_VISIBLE_DEVICES", "0")
    site.has("nvidia-smi", "echo 'A100, 570.12, 81920 MiB'")
    said = site.says(0)
    assert said["place"] == [("", "image")]
    assert said["torch"] == [("ok", "2.9, built for CUDA 12.8 (sm_80), 4 cores for this job")]
    assert said["GPU"][1][1].startswith("A100: a convolution came out as on the processor, 200 ms")
    assert "apptainer" not in said


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"fault": "The NVIDIA driver on your system is too old (found version 11040)"}, "system is too old"),
        ({"device": "cpu", "cuda": None}, "torch is built without CUDA"),
        ({"fault": "the GPU that was given does not work: it computes wrong results"}, "it computes wrong results"),
    ],
)  # fmt: skip
def test_a_gpu_that_was_given_and_does_not_work_is_missing(site: Site, facts: dict[str, object], why: str) -> None:
    site.set("APPTAINER_CONTAINER", "/x/talkies.sif")
    site.set("CUDA_VISIBLE_DEVICES", "0")
    site.has("nvidia-smi", "echo 'A100, 570.12, 81920 MiB'")
    site.torch(**facts)
    grade, text = site.says(1)["GPU"][1]
    assert grade == "MISSING"
    assert "a GPU is given and does not work" in text
    assert why in text


def test_a_folder_that_the_image_does_not_see(site: Site, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (site.run / "config.yaml").write_text(f"images: {tmp_path}/pictures\ndriving: {tmp_path}/gone\n")
    site.torch(device="cpu")
    site.set("APPTAINER_CONTAINER", "/x/talkies.sif")
    said = {text.split(" ")[0]: (grade, text) for grade, text in site.says(1)["folders"]}
    assert said[f"{tmp_path}/pictures"][0] == "ok"
    assert "start the image with --bind" in said[f"{tmp_path}/gone"][1]


# --- this machine ------------------------------------------------------------------------------------------


def test_this_machine_needs_torch(site: Site) -> None:
    said = site.says(1)
    assert said["place"] == [("", "machine")]
    assert said["torch"][0][0] == "MISSING"
    site.torch(device="cpu", cuda=None)
    assert "SLURM" not in site.says(0)


def test_the_image_needs_no_snakemake(tmp_path: Path) -> None:
    """Its doctor and the commands of the rules start where only what makes films is installed."""
    packages = "snakemake snakemake_interface_logger_plugins snakemake_interface_executor_plugins"
    without = f"import sys; sys.modules.update(dict.fromkeys({packages!r}.split())); from talkies.cli import main; "
    jobs = ("doctor", "shard animate pairs-0001.x", "check --job", "gallery --job", "publish x", "verdict --output x")
    for words in map(str.split, jobs):
        command = [sys.executable, "-c", f"{without}main({words})"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert not re.search("is not installed|Traceback|SyntaxError", done.stderr), (words, done.stderr)
