"""What is said of a job that failed, and what its next attempt asks for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from talkies.cluster import jobs
from talkies.cluster.jobs import Failures
from talkies.run.pairs import Pair
from talkies.run.plan import Plan
from talkies.settings import complete
from talkies.stages import STAGES

SBATCH = "SLURM sbatch failed. The error message was 'sbatch: error: Invalid account'.\n    sbatch call:\n  sbatch ..."
FAILED = "SLURM-job '7' failed, SLURM status is: 'FAILED'. For further error details see the cluster/cloud log"
MEMORY = "SLURM-job '9' failed, SLURM status is: 'OUT_OF_MEMORY'. Detailed failure reason unavailable (status command"


def failed(
    job: str | None, message: str | None = FAILED, log: list[str] | None = None, shard: str = "pairs-0001"
) -> logging.LogRecord:
    """Return the record that Snakemake 9.27 logs for a failed job (Job.log_error)."""
    extra = {
        "event": LogEvent.JOB_ERROR,
        "rule_name": "animate",
        "rule_msg": message,
        "output": [f".talkies/done/animate/{shard}.1234abcd"],
        "log": log or [],
        "aux": {"external_jobid": job} if job else {},
    }
    record = logging.LogRecord("snakemake.logging", logging.ERROR, "", 0, "Error in rule animate", None, None)
    record.__dict__.update(extra)
    return record


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_the_executor_says_is_shown_and_the_last_error_beside_it() -> None:
    Path("job.log").write_text("talkies: error: images/bad.png: not a picture\nslurmstepd: error: oom_kill\n")
    said: list[str] = []
    failures = Failures(said.append, retries=1)
    failures.emit(failed("7", log=["gone.log", "job.log"]))
    failures.emit(failed("9", MEMORY))
    failures.emit(failed("8", log=["gone.log"], shard="pairs-0002"))
    assert said == [
        "animate pairs-0001: SLURM-job '7' failed, SLURM status is: 'FAILED' (the last error in its log: "
        "images/bad.png: not a picture): it is sent again, with more memory and time",
        "animate pairs-0001: SLURM-job '9' failed, SLURM status is: 'OUT_OF_MEMORY': mend that, or ask for more memory "
        "or time (mem_mb, runtime under slurm), then start snakemake again",
        "animate pairs-0002: SLURM-job '7' failed, SLURM status is: 'FAILED': it is sent again, with more memory and "
        "time",
    ]
    assert [(stage, shard) for stage, shard, _ in failures.final] == [("animate", "pairs-0001")]


def test_an_executor_that_says_nothing_of_a_job_is_no_fault() -> None:
    said: list[str] = []
    Failures(said.append, retries=1).emit(failed("7", "For further error details see the cluster/cloud log"))
    assert said == ["animate pairs-0001: job 7 failed: it is sent again, with more memory and time"]


def test_a_job_that_could_not_be_sent_is_named_with_the_executors_reason() -> None:
    said: list[str] = []
    failures = Failures(said.append)
    failures.emit(failed(None, SBATCH))
    (line,) = said
    why = "SLURM sbatch failed. The error message was 'sbatch: error: Invalid account': mend that"
    assert line.startswith(f"animate pairs-0001: {why}")
    assert len(failures.final) == 1
    failures.emit(failed(None, None))
    failures.emit(logging.LogRecord("snakemake.logging", logging.INFO, "", 0, "words", None, None))
    assert len(said) == 1, "a failure of this machine's own jobs, and other events, are Snakemake's to tell"


def test_each_attempt_asks_for_more_memory_and_time() -> None:
    settings = complete({"images": ".", "driving": ".", "engine": DANCE | {"mem_mb": 3000}})
    pair = Pair("a", "red", engine="command")
    plan = Plan(settings=settings, sources={}, takes={}, pairs={pair.name: pair}, nonce="0")
    plan.stages = STAGES
    plan.shards["pairs"]["pairs-0001"] = [pair.name]
    job = {"name": "pairs-0001.0"}
    of_gpu, of_cpu = (jobs.resources(plan, stage, "slurm") for stage in ("animate", "remux"))
    wildcards = Wildcards(job)
    assert [of_gpu["mem_mb"](wildcards, attempt) for attempt in (1, 2)] == [3000, 6000]
    assert [of_cpu["mem_mb"](wildcards, attempt) for attempt in (1, 2)] == [2000, 4000]
    first, second = (of_gpu["runtime"](wildcards, attempt) for attempt in (1, 2))
    assert second == 2 * first > 0
    assert (of_gpu.get("gpu"), of_cpu.get("gpu")) == (1, None)
    assert jobs.resources(plan, "animate", None)["runtime"] == 0, "no job of this machine is ended for its time"


class Wildcards(dict[str, str]):
    """Snakemake's: its values are attributes too."""

    __getattr__ = dict.__getitem__


DANCE = {"command": "dance {source} {driving} {output}"}


@pytest.mark.parametrize(
    ("settings", "asks", "needs"),
    [
        ({}, True, True),
        ({"model": {"device": "cpu"}}, False, False),
        ({"model": {"device": "cpu"}, "slurm": {"gpu": {"gpu": 1}}}, True, False),
        ({"slurm": {"gpu": {"gpu": 0}}}, False, False),
        ({"slurm": {"gpu": {"gpu": 0, "gres": "gpu:1"}}}, True, True),
        ({"engine": DANCE}, True, False),
        ({"engines": ["fomm", DANCE], "model": {"device": "cpu"}}, True, False),
    ],
)
def test_which_jobs_ask_for_a_gpu_and_which_image_must_have_one(settings: dict, asks: bool, needs: bool) -> None:
    chosen = complete({"images": ".", "driving": "."} | settings)
    assert (jobs.asks_gpu(chosen), jobs.needs_gpu_image(chosen)) == (asks, needs)
