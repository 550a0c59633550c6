"""On the test cluster, another program in its own image is the engine of `snakemake --profile slurm`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_folder import VENV, Cluster, ClusterRun, ended, own, testcluster
from run_folder import REPOSITORY, wait_for

from talkies import media

pytestmark = pytest.mark.cluster

ONE = "python3 stand_in.py --source_image {source} --driving_video {driving} --result_video {output} --rest 4"
MANY = "python3 stand_in.py --jobs {jobs} --rest 12"  # rest longer than SLURM takes to end a job
REST = "{gpu:|--cpu} --side 64 --told /told/starts"
PAIRS = 6


@pytest.fixture(scope="module")
def program(cluster: Cluster) -> Path:
    """The stand-in's image, without talkies and PyTorch."""
    context = cluster.home / "program"
    context.mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "tests/stand_in.py", context)
    packages = f"{VENV}/lib/python3*/site-packages/imageio_ffmpeg"
    (context / "Definition").write_text(
        f"Bootstrap: localimage\nFrom: {testcluster.image_base()}\n%files\n  /home/program/stand_in.py /app/\n"
        "  /home/program/imageio_ffmpeg /app/\n"
    )
    cluster.root(
        f"cd /home/program && rm -rf imageio_ffmpeg && cp -r {packages} . && "
        "apptainer build --force --mksquashfs-args='-comp lz4' program.sif Definition"
    )
    return context / "program.sif"


@pytest.fixture(scope="module")
def address(cluster: Cluster, program: Path) -> Iterator[str]:
    """The address of the same image in a registry."""
    shutil.copy(REPOSITORY / "tests/oci_registry.py", program.parent)
    words = ("python3", "/home/program/oci_registry.py", f"/home/program/{program.name}")
    command = testcluster.entering(cluster.folder, *words, user="root")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as registry:
        assert registry.stdout is not None
        yield f"oras://localhost:5000/who/what@{registry.stdout.readline().strip()}"
        cluster.root("pkill -f '[o]ci_registry.py'")


def folder(cluster: Cluster, program: Path, name: str, command: str, gpu: dict | None = None, **keys) -> ClusterRun:
    """Make a clone of 3 pictures and 2 clips whose films that image makes, in two jobs with a GPU each.

    gpu: further SLURM settings of these jobs. keys: settings of the engine.
    """
    told = cluster.home / "ada" / f"told-{name}"
    told.mkdir(exist_ok=True)
    (told / "starts").unlink(missing_ok=True)
    keys = {"image": "program.sif", "workdir": "/app", "side": 64, "command": f"{command} {REST}"} | keys
    engine = {"name": "stand-in", "binds": [f"/home/ada/{told.name}:/told"], **keys}
    settings = {"threads": 1, "gpus": 2, "pairs_per_job": 3, "engine": engine, "slurm": {"gpu": gpu or {}}}
    run = ClusterRun.clone(cluster, name, 3, 2, frames=20, **settings)
    shutil.copy(program, run.path / "program.sif")
    own(run.path)
    own(told)
    return run


def starts(run: ClusterRun) -> list[dict]:
    file = run.path.parent / f"told-{run.path.name}" / "starts"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def nothing_left(run: ClusterRun) -> None:
    wait_for(run.cluster.idle, 60)
    run.cluster.root("! pgrep -f '[s]tand_in.py'")
    # The next process that makes a folder on a node removes that of a killed worker.
    sweep = f"{VENV}/bin/python -c 'from talkies.machine.scratch import own_folder as own; own(\"test\").__enter__()'"
    run.cluster.run("srun", "--nodes=2", "--ntasks=2", "--mem=500", "sh", "-c", sweep)
    run.cluster.on_nodes('test -z "$(ls -d /tmp/talkies-*-*-* /scratch/talkies-*-* 2>/dev/null)"')


def made(run: ClusterRun) -> None:
    """Assert that every film exists, comes from that image, and has its clip's frames and sound."""
    run.whole(run.pairs())
    run.talkies("verify")
    for pair in run.pairs():
        film, clip = (
            media.probe(run.film(pair)),
            media.probe(next((run.path / "driving").glob(f"{Path(pair).parent}.*"))),
        )
        assert (film.width, film.frames, film.rate) == (64, clip.frames, clip.rate)
        assert film.sound is not None
        assert run.record(pair)["engine"]["name"] == "stand-in"
        assert run.record(pair)["engine"]["device"] == "cuda"


def test_a_program_in_its_image_whose_worker_is_killed(cluster: Cluster, program: Path, address: str) -> None:
    """The image is pulled when the run begins, and no job needs the registry."""
    run = folder(cluster, program, "single", ONE, image=address)
    assert f"{PAIRS} to make" in run.snakemake("-n")
    earlier = {job["id"] for job in cluster.jobs()}
    process = run.while_animating()
    jobs = [job for job in cluster.jobs() if job["id"] not in earlier and "animate" in job["name"]]
    assert all("gres/gpu" in job["tres"] + job["tres_node"] for job in jobs), jobs
    assert jobs
    first = len(starts(run))
    run.kill_worker(max(run.path.glob(".talkies/ledger/pairs-*.jsonl"), key=os.path.getmtime).stem)
    output = ended(process)
    made(run)
    assert len(starts(run)) > first
    assert set(run.computed().values()) == {1}, output[-3000:]
    for start in starts(run):
        assert start["seen"]["CUDA_VISIBLE_DEVICES"], "the program gets the job's GPU"
        assert "--cpu" not in start["argv"]
        assert start["seen"]["APPTAINER_CONTAINER"].endswith(f"{address.rpartition(':')[2]}.sif")
        assert start["folder"] == "/app"
        assert start["seen"]["HOME"].endswith("/home")
        assert start["seen"]["HOME"] != "/home/ada"
    nothing_left(run)
    assert "Nothing to be done" in run.snakemake()


@pytest.mark.slow
def test_a_batch_in_its_image_whose_run_is_killed_goes_on(cluster: Cluster, program: Path) -> None:
    """Each job has a share of a GPU."""
    run = folder(cluster, program, "batch", MANY, {"gres": "shard:1"}, batch=True)
    process = run.while_animating()
    cluster.root("pkill -KILL -f 'bin/[s]nakemake --profile slurm'")
    process.communicate()
    cluster.run("scancel", "--signal=KILL", "--user=ada")  # without grace time, so that they cannot finish
    nothing_left(run)
    before, first = run.computed(), len(starts(run))
    assert 0 < len(before) < PAIRS
    assert "Nothing to be done" not in run.snakemake()
    made(run)
    assert set(run.computed().values()) == {1}, "finished films stay"
    assert sum(start["films"] for start in starts(run)[first:]) == PAIRS - len(before)
    nothing_left(run)
