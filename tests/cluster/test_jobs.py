"""Why a job failed, from what Snakemake and SLURM say of it, and what its next attempt asks for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from talkies.cluster import jobs
from talkies.cluster.jobs import MORE_MEMORY, MORE_TIME, Cause, Failures
from talkies.machine import slurm
from talkies.machine.slurm import Ended
from talkies.settings import complete

SBATCH = "SLURM sbatch failed. The error message was 'sbatch: error: Invalid account'.\n    sbatch call:\n  sbatch ..."
FAILED = "SLURM-job '7' failed, SLURM status is: 'FAILED'. For further error details see the cluster/cloud log"


def failed(job: str | None, message: str | None = FAILED, log: list[str] | None = None) -> logging.LogRecord:
    """Return the record that Snakemake 9.27 logs for a failed job (Job.log_error)."""
    extra = {
        "event": LogEvent.JOB_ERROR,
        "rule_name": "animate",
        "rule_msg": message,
        "output": [".talkies/done/animate/pairs-0001.1234abcd"],
        "log": log or [],
        "aux": {"external_jobid": job} if job else {},
    }
    record = logging.LogRecord("snakemake.logging", logging.ERROR, "", 0, "Error in rule animate", None, None)
    record.__dict__.update(extra)
    return record


def lock(job: str) -> None:
    Path(".talkies/locks").mkdir(parents=True, exist_ok=True)
    Path(".talkies/locks/pairs-0001.lock").write_text(json.dumps({"slurm_job": job, "pid": 1, "host": "n1"}))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("ended", "left_lock", "cause", "memory", "time"),
    [
        (Ended("OUT_OF_MEMORY"), True, Cause.MEMORY, 2, 1),
        (Ended("TIMEOUT", in_time=False), True, Cause.TIME, 1, 2),
        (Ended("NODE_FAIL"), True, Cause.NODE, 1, 1),
        (Ended("PREEMPTED", killed=True), True, Cause.PREEMPTED, 1, 1),
        (Ended("CANCELLED"), True, Cause.CANCELLED, 1, 1),
        (Ended("FAILED", killed=True), False, Cause.KILLED, 2, 1),
        (Ended("FAILED"), True, Cause.KILLED, 2, 1),
        (Ended("FAILED", in_time=False), False, Cause.TIME, 1, 2),
        (Ended("FAILED"), False, Cause.ITSELF, 1, 1),
        (None, False, Cause.UNKNOWN, 2, 2),
        (None, True, Cause.KILLED, 2, 1),
    ],
)
def test_the_scheduler_and_the_lock_decide_and_no_word_of_a_log(
    monkeypatch: pytest.MonkeyPatch, ended: Ended | None, left_lock: bool, cause: Cause, memory: int, time: int
) -> None:
    """Each job's log has a bad file's error and a word about memory."""
    Path("job.log").write_text("talkies: error: images/bad.png: not a picture\nslurmstepd: error: oom_kill\n")
    monkeypatch.setattr(slurm, "ended", lambda job: ended)
    lock("7" if left_lock else "6")
    said: list[str] = []
    failures = Failures(said.append, on_slurm=True, retries=1)
    failures.emit(failed("7", log=["gone.log", "job.log"]))
    (line,) = said
    assert line.startswith(f"animate pairs-0001: job 7 failed: {cause.value}")
    assert "it is sent again" in line
    assert ("images/bad.png: not a picture" in line) == (cause is Cause.ITSELF), (
        "shown only where nothing else is known"
    )
    assert failures.more("animate", "pairs-0001", MORE_MEMORY) == memory
    assert failures.more("animate", "pairs-0001", MORE_TIME) == time
    assert failures.more("animate", "pairs-0002", MORE_MEMORY) == failures.more("remux", "pairs-0001", MORE_TIME) == 1
    assert not failures.final
    failures.emit(failed("8"))
    assert said[1].endswith("then start snakemake again")
    assert [failure.job for failure in failures.final] == ["8"], "the second attempt was the last one"


def test_where_the_executor_is_another_slurm_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "ended", lambda job: pytest.fail("asked"))
    said: list[str] = []
    Failures(said.append, on_slurm=False, retries=1).emit(failed("7"))
    assert said == ["animate pairs-0001: job 7 failed: it ended, and nothing says why: it is sent again"]


def test_a_job_that_could_not_be_sent_is_named_with_the_executors_reason() -> None:
    said: list[str] = []
    failures = Failures(said.append, on_slurm=True)
    failures.emit(failed(None, SBATCH))
    assert said == [
        "animate pairs-0001: it could not be sent (SLURM sbatch failed. The error message was 'sbatch: error: Invalid "
        "account'): mend that, then start snakemake again"
    ]
    assert failures.more("animate", "pairs-0001", MORE_MEMORY) == 1
    assert [(failure.stage, failure.shard) for failure in failures.final] == [("animate", "pairs-0001")]
    failures.emit(failed(None, None))
    failures.emit(logging.LogRecord("snakemake.logging", logging.INFO, "", 0, "words", None, None))
    assert len(said) == 1, "a failure of this machine's own jobs, and other events, are Snakemake's to tell"


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


def test_the_record_is_as_snakemake_makes_it() -> None:
    """The names above are those of the installed Snakemake."""
    from snakemake.jobs import Job

    job = SimpleNamespace(
        dag=SimpleNamespace(
            jobid=lambda job: 3,
            workflow=SimpleNamespace(deployment_settings=SimpleNamespace(deployment_method=frozenset())),
        ),
        rule=SimpleNamespace(name="animate"),
        **{"input": [], "output": ["x"], "log": ["y"], "container_img": None, "shellcmd": "z", "conda_env": None},
    )
    made = Job.get_log_error_info(job, msg="m", aux_logs=["slurm.log"], external_jobid="7")
    assert set(failed("7").__dict__) >= {"event", "rule_name", "rule_msg", "output", "log", "aux"}
    assert (made["event"], made["rule_name"], made["rule_msg"]) == (LogEvent.JOB_ERROR, "animate", "m")
    assert made["log"][-1] == "slurm.log"
    assert made["aux"] == {"external_jobid": "7"}
