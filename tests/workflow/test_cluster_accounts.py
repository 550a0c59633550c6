"""A cluster with accounts and enforced limits, and a second user who tries what she has no right to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster_folder import Cluster, ClusterRun, brought_up
from run_folder import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with brought_up(accounting=True) as made:
        yield made


def slurm(**gpu) -> dict[str, dict[str, object]]:
    return {"gpu": {"slurm_account": "lab", **gpu}, "cpu": {"slurm_account": "lab"}}


def test_jobs_run_under_the_account_and_qos_that_are_named(cluster: Cluster) -> None:
    run = ClusterRun.clone(cluster, "accounted", 2, 1, threads=1, slurm=slurm(qos="short", runtime=10))
    run.snakemake()
    run.verified()
    told = cluster.run("sacct", "-X", "-n", "-P", "-u", "ada", "-o", "Account,QOS,State,JobName").splitlines()
    jobs = [line.split("|") for line in told]
    assert {account for account, *_ in jobs} == {"lab"}
    assert {state for _, _, state, _ in jobs} == {"COMPLETED"}
    assert {qos for _, qos, *_ in jobs} == {"short", "normal"}
    assert all(name.startswith("talkies") for *_, name in jobs)


def test_an_account_that_is_not_the_users_is_refused(cluster: Cluster) -> None:
    run = ClusterRun.clone(cluster, "foreign", 1, 1, threads=1, slurm={"gpu": {"slurm_account": "other"}})
    assert "ended jobs: Snakemake asks squeue" in run.run("talkies", "doctor").stdout
    output = run.snakemake(ok=False)
    assert "The given account other appears to be invalid" in output
    assert run.films() == {}


def test_a_job_over_its_qos_time_waits_with_the_reason(cluster: Cluster) -> None:
    """SLURM keeps the job waiting, and squeue says why."""
    run = ClusterRun.clone(cluster, "long", 1, 1, threads=1, slurm=slurm(qos="short", runtime=40))
    process = run.start("snakemake", "--profile", "slurm")
    try:
        wait_for(lambda: "QOSMaxWallDurationPerJobLimit" in cluster.run("squeue", "-u", "ada", "-h", "-o", "%r"), 300)
        assert ", 1 to make" in run.talkies("status")
    finally:
        cluster.root("pkill -INT -u ada -f '[s]nakemake --profile slurm'")  # like Ctrl-C: snakemake cancels its jobs
        process.communicate(timeout=120)
        wait_for(cluster.idle, 60)


def test_another_user_sees_and_breaks_nothing(cluster: Cluster) -> None:
    run = ClusterRun.clone(cluster, "private", 3, 1, frames=250, scratch="/scratch", threads=1, slurm=slurm())
    process = run.while_animating()
    try:
        (job,) = (job for job in cluster.jobs() if job["name"].startswith("rule_animate") and job["state"] == "R")
        refused = cluster.run("scancel", job["id"], user="bob", ok=False)
        assert "Access/permission denied" in refused
        words = ("srun", f"--nodelist={job['node']}", "--mem=100", "sh", "-c")
        seen = cluster.run(*words, "ls /scratch/talkies-*/ /tmp/talkies-*/ 2>&1 || true", user="bob")
        assert "Permission denied" in seen
        assert ".mp4" not in seen
        assert "can't cd" in cluster.run("true", user="bob", cwd=run.inside, ok=False), "another user's home is closed"
        assert process.poll() is None
    finally:
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-3000:]
    run.verified()
