"""Exactly `snakemake --profile slurm` on a real SLURM, in a real image, with everything that can go wrong there.

scripts/testcluster provides the cluster: two nodes, four fake GPUs, an ordinary user. The first tests form one story
and run in CI; the slow ones, here and in test_cluster_due.py, are the rest of `make cluster-test`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster_folder import (
    VENV,
    Cluster,
    ClusterRun,
    SameSource,
    decoded,
    draw_inputs,
    own,
    testcluster,
)
from run_folder import wait_for

pytestmark = pytest.mark.cluster

# --- the story: the exact command, killed jobs, and the same results as on this machine ---------------------

PICTURES, CLIPS, FRAMES = 12, 3, 6
SHARDS = {"threads": 1, "gpus": 4, "pairs_per_job": 9}
SMALL = ("--torch", "tqdm", "--notest")
"""An image that differs only in having no PyTorch, and so is small."""


@pytest.fixture(scope="module")
def meanwhile(cluster, tmp_path_factory) -> Iterator[dict[str, Future]]:
    """Start everything that needs no SLURM, so that it runs while the first run waits for its jobs."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            "here": pool.submit(run_here, cluster, tmp_path_factory.mktemp("here") / "run"),
            "two builds": pool.submit(cluster.build, "--check", *SMALL),
            "buildah": pool.submit(build_with_buildah, cluster),
        }


def run_here(cluster: Cluster, path: Path) -> SameSource:
    """Animate the first run's pictures and clips on this machine, with the same source code."""
    here = SameSource(path)
    here.source = cluster.source
    draw_inputs(path, PICTURES, CLIPS, FRAMES)
    (path / "profiles").symlink_to(cluster.source / "profiles")
    here.configure(model={"device": "cpu"}, **SHARDS)
    here.snakemake()
    return here


@pytest.fixture(scope="module")
def first(cluster, meanwhile) -> dict:
    """Run 12 pictures x 3 clips; meanwhile kill one worker and cancel another job; return what happened."""
    run = ClusterRun.clone(cluster, "first", PICTURES, CLIPS, FRAMES, check=True, **SHARDS)
    process = run.start("snakemake", "--profile", "slurm")
    seen: dict[str, dict[str, str]] = {}
    killed = cancelled = None
    while process.poll() is None:
        for job in cluster.jobs():
            if job["user"] == "ada" and job["node"]:
                seen[job["id"]] = job
        progress = {path.stem: len(path.read_text().splitlines()) for path in ledgers(run)}
        working = [shard for shard, lines in progress.items() if 4 <= lines < 15]  # two lines per film
        if killed is None and working:
            killed = working[0]
            run.kill_worker(killed)
        elif killed and cancelled is None and (others := [shard for shard in working if shard != killed]):
            ids = [job["id"] for job in seen.values() if others[0] in job["name"] and job["state"] == "R"]
            if ids:
                cancelled = others[0]
                cluster.run("scancel", *ids)
        time.sleep(0.1)
    output = process.communicate()[0]
    return {"run": run, "output": output, "seen": seen, "code": process.returncode, "gone": (killed, cancelled)}


def ledgers(run: ClusterRun) -> list[Path]:
    return sorted((run.path / ".talkies/ledger").glob("pairs-*.jsonl"))


def test_the_literal_command_makes_everything_though_jobs_die(first):
    assert first["code"] == 0, first["output"][-9000:]
    assert all(first["gone"]), "no worker was killed, or no job cancelled"
    for shard in first["gone"]:
        failed = rf"talkies: animate {shard}: SLURM-job '\d+' failed.*: it is sent again"
        assert re.search(failed, first["output"]), shard
    first["run"].verified()


def test_what_the_check_doubts_is_said_at_the_end_and_afterwards(first):
    said = f"{PICTURES + CLIPS} files: "
    assert said in first["output"]
    assert said in first["run"].run("talkies", "status").stdout


def test_gpus_are_asked_for_and_had_on_both_nodes(first):
    working = [job for job in first["seen"].values() if "animate" in job["name"]]
    assert working
    assert all("gres/gpu" in job["tres"] + job["tres_node"] for job in working), working
    assert {job["node"] for job in working} == {"n1", "n2"}
    others = [job for job in first["seen"].values() if "cut" in job["name"]]
    assert not any("gpu" in job["tres"] + job["tres_node"] for job in others)
    stages = {job["name"].removeprefix("rule_").partition("_")[0] for job in first["seen"].values()}
    assert stages == {"check", "crop", "cut", "motion", "animate"}, "later stages do not wait in the queue"


def test_the_doctor_looks_at_a_node_and_makes_a_film_there(first):
    done = first["run"].run("talkies", "doctor", "--on", "gpu")
    assert "in the image (n" in done.stdout
    assert "a GPU is given and does not work" in done.stdout, "the given GPU is fake"
    assert "moving frames and sound" in done.stdout
    assert done.returncode == 1


def test_what_was_finished_before_a_job_died_is_not_computed_again(first):
    assert first["run"].computed() == dict.fromkeys(first["run"].pairs(), 1)


def test_the_rerun_finds_nothing_to_do(first):
    run = first["run"]
    before = run.films()
    assert "Nothing to be done" in run.snakemake()
    assert run.films() == before


def test_frames_and_samples_are_those_of_a_run_here(first, meanwhile):
    cluster_run, here = first["run"], meanwhile["here"].result()
    assert sorted(here.films()) == sorted(cluster_run.films())
    for pair in cluster_run.pairs():
        ours, theirs = here.record(pair), cluster_run.record(pair)
        assert ours["key"] == theirs["key"]
        assert ours["model"] == theirs["model"]  # device, precision, threads, batch
        assert decoded(here.film(pair)) == decoded(cluster_run.film(pair))


def test_fetched_results_need_nothing_here(first, tmp_path):
    """A copy of the cluster's folder is a finished run on this machine."""
    copy = first["run"].path
    target = tmp_path / "copy"
    subprocess.run(["cp", "-a", copy, target], check=True)
    here = SameSource(target)
    here.source = first["run"].cluster.source
    here.forget_events()
    here.snakemake()
    assert here.events("animate") == []


def test_a_dry_run_where_apptainer_is_missing(cluster, first):
    """Without apptainer on the login node, a dry run still shows its plan."""
    run = first["run"]
    hidden = "mount --bind /dev/null /usr/bin/apptainer && mount --bind /dev/null /usr/bin/singularity"
    as_ada = f"setpriv --reuid 1000 --regid 1000 --init-groups env HOME=/home/ada PATH={VENV}/bin:/usr/bin:/bin"
    line = f"unshare --mount sh -c '{hidden} && cd {run.inside} && exec {as_ada} snakemake --profile slurm -n'"
    assert "36 pairs" in cluster.root(line)


def test_the_image_alone(cluster):
    """Read-only, as another user, without HOME and with hostile variables, the image's own talkies still runs."""
    image = cluster.image()
    hostile = "env -u HOME PYTHONPATH=/nowhere PYTHONHOME=/nowhere PATH=/home/ada/venv/bin:/usr/bin:/bin"
    told = cluster.run(
        "sh", "-c", f"{hostile} apptainer exec {image} sh -c 'command -v talkies; talkies-selftest'", user="bob"
    )
    assert "/opt/talkies/bin/talkies\n" in told
    assert "moving frames and sound" in told
    labels = cluster.run("apptainer", "inspect", "--labels", image)
    assert "org.opencontainers.image.version: " in labels
    assert "org.opencontainers.image.revision: " in labels
    assert "talkies.gpus: none" in labels


def test_what_a_killed_worker_left_on_a_node_goes_with_its_users_next_there(cluster):
    """Even from another shard's worker. No cache has a name in /tmp that another user could create first."""
    run = ClusterRun.clone(cluster, "killed", 3, 1, frames=400, threads=1)
    here = SameSource(run.path)
    here.source = cluster.source
    here.snakemake("--until", "crop", "motion")
    run.forget_events()
    own(run.path)
    on_n1 = ("--nodelist=n1", "--mem=3000")
    srun = ("srun", "--quiet", *on_n1)

    def worker(stage: str, shard: str) -> list[str]:
        places = ("--home", run.inside, "--bind", "/scratch", "--env", "SLURM_TMPDIR=/scratch")
        return ["apptainer", "exec", *places, cluster.image(), "talkies", "shard", stage, f"{shard}.feed"]

    cluster.run(*srun, "mkdir", "-p", "/tmp/talkies-cache/talkies", user="bob")
    script = f"cd {run.inside} && exec {shlex.join(worker('animate', 'pairs-0001'))}"
    job = cluster.run("sbatch", "--parsable", "--output=/dev/null", *on_n1, "--wrap", script).strip()
    wait_for(run.loads, 300)  # its scratch folder exists, and it has many seconds of work left
    holder = json.loads((run.path / ".talkies/locks/pairs-0001.lock").read_text())
    cluster.run(*srun, "kill", "-KILL", str(holder["pid"]))  # as at the end of a cancelled job
    cluster.run("scancel", job)
    wait_for(cluster.idle, 60)
    left = cluster.run(*srun, "sh", "-c", "ls -d /scratch/talkies-n1-*").split()
    assert left, "nothing was left, so this test shows nothing"
    cluster.run(*srun, *worker("cut", "clips-0001"), cwd=run.inside)
    assert cluster.run(*srun, "sh", "-c", "cd /scratch && ls; cd /tmp && find talkies*").split() == [
        "talkies-cache",
        "talkies-cache/talkies",
    ]
    cache = (run.path / ".talkies/cache").stat()
    assert (cache.st_uid, cache.st_mode & 0o777) == (testcluster.USERS["ada"], 0o700)
    cluster.run(*srun, "rm", "-r", "/tmp/talkies-cache", user="bob")


def test_two_builds_are_equal(meanwhile):
    told = meanwhile["two builds"].result()
    builds = [line.split() for line in told.splitlines() if line.startswith("build ")]
    assert len({words[-1] for words in builds}) == 1, "the digests of the file systems differ"
    same = len({words[3].strip(",") for words in builds}) == 1
    assert told.splitlines()[-1].startswith("equal, byte by byte" if same else "equal file systems;")


def test_buildah_takes_the_dockerfile(meanwhile):
    """As Docker and Podman do, but without a daemon."""
    version, facts = meanwhile["buildah"].result()
    assert version.startswith("talkies ")
    assert "org.opencontainers.image.version" in facts


def build_with_buildah(cluster: Cluster) -> tuple[str, str]:
    """Build the Dockerfile so that another user can run it; return its talkies' output and the image's data."""
    cluster.build("--context", "/home/context", *SMALL[:2])
    base = testcluster.image_base()
    buildah = "buildah --root /home/buildah --storage-driver vfs"
    mirrors = testcluster.local_folders(testcluster.pip_settings())
    shown = " ".join(f"--volume {path}:{path}:ro" for path in sorted(mirrors))
    try:
        cluster.root(
            f"set -e; c=$({buildah} from scratch); {buildah} add --quiet $c {base} /; {buildah} commit -q $c base; "
            f"{buildah} build --isolation chroot {shown} $(cat /home/context/arguments) --build-arg BASE=localhost/base"
            " --timestamp 0 -t talkies /home/context"
        )
        run = f"{buildah} run --isolation chroot --user 1000:1000 $({buildah} from talkies) --"
        return cluster.root(f"{run} talkies --version"), cluster.root(f"{buildah} inspect talkies")
    finally:
        cluster.root("rm -rf /home/buildah /home/context")


# --- the other cases ----------------------------------------------------------------------------------------


LITTLE = {"threads": 1, "gpus": 2, "pairs_per_job": 4}


@pytest.fixture
def small(cluster, request) -> Iterator[ClusterRun]:
    """A clone with 4 pictures and 2 clips, and 4 pairs per job; its jobs are cancelled afterwards."""
    name = request.node.name.removeprefix("test_")[:40]
    yield ClusterRun.clone(cluster, name, 4, 2, **LITTLE)
    cluster.run("scancel", "--user", "ada")
    wait_for(cluster.idle, 60)


@pytest.mark.slow
def test_the_walltime_ends_a_job(cluster):
    """A worker stops by itself in time, and each attempt continues where the last one stopped."""
    gpu = {"runtime": 2}
    run = ClusterRun.clone(cluster, "walltime", 12, 1, frames=250, threads=1, gpus=1, slurm={"gpu": gpu})
    told = []
    for _ in range(8):
        result = run.run("snakemake", "--profile", "slurm")
        told.append(result.stdout)
        if result.returncode == 0:
            break
        # Only animated films that wait for their sound may be left.
        assert [name for name in run.debris() if not name.startswith(".talkies/films/animate/")] == []
    assert "stopped before the job's time was over" in "".join(told), "no job hit its walltime"
    assert "it is sent again, with more memory and time" in "".join(told)
    run.verified()
    assert set(run.computed().values()) == {1}


@pytest.mark.slow
def test_after_a_memory_kill_more_is_asked_for(cluster):
    run = ClusterRun.clone(cluster, "memory", 1, 1, frames=60, threads=1)
    common = run.path / "workflow/rules/common.smk"
    less = 'from talkies.cluster import jobs\n\njobs.MEMORY_MB["gpu"] = 300\n'
    common.write_text(less + common.read_text())
    process = run.start("snakemake", "--profile", "slurm")
    asked: dict[str, tuple[str, str]] = {}
    while process.poll() is None:
        columns = "JobID:|,Comment:|,MinMemory:|,TimeLimit:|"
        for line in cluster.run("squeue", "--noheader", "--states=all", "-O", columns).splitlines():
            job, name, memory, limit = (part.strip() for part in line.split("|")[:4])
            if "rule_motion" in name:
                asked[job] = memory, limit
        time.sleep(1)
    output = process.communicate()[0]
    assert process.returncode == 0, output[-6000:]
    assert re.search(r"motion clips-0001: SLURM-job '\d+' failed.*: it is sent again", output)
    memories, limits = zip(*(asked[job] for job in sorted(asked, key=int)[-2:]), strict=True)
    assert memories == ("300M", "600M")
    assert len(set(limits)) == 2, "the time limit is raised too"
    run.verified()


@pytest.mark.slow
def test_a_killed_worker_gets_more_memory_though_a_file_is_bad(cluster, small):
    """The bad file's error in the worker's log decides nothing, and no job is called failed while it runs."""
    (small.path / "images/broken.png").write_text("not a picture")
    process = small.while_animating()
    (shard, *_) = sorted(path.stem for path in (small.path / ".talkies/locks").glob("pairs-*.lock"))
    small.kill_worker(shard)
    asked = set()
    while process.poll() is None:
        columns = "Comment:|,MinMemory:|"
        for line in cluster.run("squeue", "--noheader", "--states=all", "-O", columns).splitlines():
            name, memory = (part.strip() for part in line.split("|")[:2])
            if f"rule_animate_wildcards_{shard}" in name:
                asked.add(memory)
        time.sleep(1)
    output = process.communicate()[0]
    assert re.findall(r"talkies: (\S+ \S+): SLURM-job '\d+' failed", output) == [f"animate {shard}"], output[-4000:]
    assert asked >= {"4000M", "8000M"}, "of this run; jobs of earlier ones may be listed too"
    assert len(small.films()) == 8


@pytest.mark.slow
def test_gpus_are_a_cap(cluster, small):
    small.configure(**LITTLE | {"gpus": 1, "pairs_per_job": 2})
    process = small.start("snakemake", "--profile", "slurm")
    most = 0
    while process.poll() is None:
        jobs = [
            job for job in cluster.jobs() if job["state"] in ("R", "PD") and "gpu" in job["tres"] + job["tres_node"]
        ]
        most = max(most, len(jobs))
        time.sleep(0.3)
    assert process.returncode == 0, process.communicate()[0][-4000:]
    assert most == 1


def test_what_can_not_be_sent_is_named(cluster):
    run = ClusterRun.clone(cluster, "refused", 1, 1, threads=1)
    (run.path / "config.yaml").write_text("images: images\ndriving: driving\n")
    for more in ([], ["-n"]):
        assert "talkies.sif is built without GPUs (talkies.gpus: none)" in run.snakemake(*more, ok=False)
    assert (
        "MISSING image: config.yaml: container: talkies.sif is built without GPUs"
        in run.run("talkies", "doctor").stdout
    )
    run.configure(threads=1, slurm={"cpu": {"slurm_account": "x", "slurm_partition": "nowhere"}})
    lines = run.snakemake("--retries", "0", ok=False).splitlines()
    (said,) = [line for line in lines if line.startswith("talkies: crop pictures-0001: SLURM sbatch failed")]
    assert "partition" in said
    assert cluster.idle()


@pytest.mark.slow
def test_a_full_scratch_is_named_and_loses_nothing(cluster, small):
    cluster.on_nodes("mkdir -p /mnt/tiny && mount -t tmpfs -o size=64k,mode=1777 tmpfs /mnt/tiny")
    small.configure(**LITTLE, scratch="/mnt/tiny")
    output = small.snakemake("--retries", "0", ok=False)
    assert "/mnt/tiny" in output
    assert "full" in output or "No space left" in output
    small.configure(**LITTLE)
    small.snakemake()
    small.verified()
    cluster.on_nodes('test -z "$(ls /mnt/tiny)" && umount /mnt/tiny')


@pytest.mark.slow
def test_a_full_results_disk_is_named_and_loses_nothing(cluster, small):
    """A disk that is too small is reported before any job is submitted; one that fills up later ends the jobs."""
    disk = f"{small.inside}/disk"
    cluster.root(f"mkdir {disk} && mount -t tmpfs -o size=96k,mode=1777 tmpfs {disk}")
    try:
        small.configure(**LITTLE, results="disk/results")
        assert "make room" in small.snakemake(ok=False)
        assert small.loads() == 0
        cluster.root(f"mount -o remount,size=16m {disk}")
        process = small.while_animating("--retries", "0")
        cluster.root(f"cat /dev/zero >{disk}/others 2>&1; true")
        output = process.communicate(timeout=1500)[0]
        assert process.returncode != 0
        assert "No space left" in output, output[-6000:]
        cluster.root(f"rm {disk}/others")
        small.snakemake()
        small.talkies("verify")
        assert set(small.computed().values()) == {1}
    finally:
        cluster.root(f"umount -l {disk}")


@pytest.mark.slow
def test_a_home_that_is_read_only(cluster, small):
    """The run folder is elsewhere, and home is read-only, here and on the nodes."""
    closed = "mount -o remount,ro,bind /home/ada"
    cluster.root(f"mkdir -p /data && cp -a {small.inside} /data/run && mount --bind /home/ada /home/ada && {closed}")
    try:
        cluster.on_nodes(closed)
        cluster.run("sh", "-c", "! touch /home/ada/written")
        # Snakemake itself needs a cache, as docs/cluster.md says.
        begin = f"cd /data/run && export XDG_CACHE_HOME=/data/run/.cache PATH={VENV}/bin:$PATH && exec"
        cluster.run("sh", "-c", f"{begin} snakemake --profile slurm")
        assert "8 done" in cluster.run("sh", "-c", f"cd /data/run && {VENV}/bin/talkies status")
    finally:
        cluster.root("umount -l /home/ada; rm -rf /data/run")


@pytest.mark.slow
def test_a_swapped_checkpoint(small):
    """New weights with the same file name: everything is made again, once."""
    from safetensors.numpy import load_file, save_file

    weights = small.path / "weights.safetensors"
    demo = small.path / "src/talkies/fomm/model/demo.safetensors"
    weights.write_bytes(demo.read_bytes())
    model = {"device": "cpu", "checkpoint": "weights.safetensors"}
    small.configure(**LITTLE, model=model)
    small.snakemake()
    before = {pair: small.record(pair)["model"]["weights_sha256"] for pair in small.pairs()}
    small.forget_events()
    changed = {name: value * 1.01 if value.dtype.kind == "f" else value for name, value in load_file(demo).items()}
    save_file(changed, weights)
    weights.chmod(0o644)  # so that the cluster's user can read the file
    small.snakemake()
    assert small.computed() == dict.fromkeys(small.pairs(), 1)
    assert all(small.record(pair)["model"]["weights_sha256"] != before[pair] for pair in small.pairs())
    small.verified()


@pytest.mark.slow
def test_a_gpu_that_is_granted_and_does_not_work(small):
    """SLURM grants /dev/fakegpu: the job fails with one line, and does not silently compute on the CPU."""
    small.configure(**LITTLE, model={"device": "auto"})
    output = small.snakemake("--retries", "0", ok=False)
    assert "GPU" in output
    assert small.events("animate") == []
    assert small.films() == {}
