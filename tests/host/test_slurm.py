"""Why jobs ended, according to the logs of SLURM and the worker; limits of partitions; the queue."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkies.errors import TalkiesError
from talkies.host import slurm
from talkies.host.slurm import Cause

STEPD = "slurmstepd-n1: error: "
END = "*** JOB 90 ON n1 CANCELLED AT 2026-11-25T12:31:21"
WORKER = "talkies: error: "


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a script in place of a SLURM command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    forget()

    def write(name: str, script: str) -> None:
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    yield write
    forget()


def forget() -> None:
    for asked in (slurm.limits, slurm._gpus_of_nodes):
        asked.cache_clear()


def log(job: int, text: str, stage: str = "animate", receipt: str = "pairs-0001.1234abcd") -> Path:
    path = Path(f".snakemake/slurm_logs/rule_{stage}/{receipt}/{job}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"talkies: loaded\n{text}\nsrun: error: n1: task 0: Exited with exit code 1\n")
    return path


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (f"{STEPD}StepId=8.batch exceeded memory limit (9 > 1), being killed\n{STEPD}{END}", Cause.MEMORY),
        (f"{STEPD}Detected 1 oom_kill event in StepId=5.batch. Some of the tasks have been OOM Killed.", Cause.MEMORY),
        (f"{STEPD}*** JOB 7 ON n1 CANCELLED AT 2026-11-25T12:31:21 DUE TO TIME LIMIT ***", Cause.TIME),
        (f"{WORKER}stopped before the job's time was over; what was finished stays", Cause.TIME),
        (f"{WORKER}stopped by SIGTERM; what was finished stays", Cause.CANCELLED),
        (f"{WORKER}stopped by SIGTERM; what was finished stays\n{STEPD}{END} ***", Cause.CANCELLED),
        (f"{STEPD}*** JOB 7 ON n1 CANCELLED AT x DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***", Cause.NODE),
        (f"{STEPD}*** JOB 7 ON n1 CANCELLED AT x DUE TO PREEMPTION ***", Cause.PREEMPTED),
        (f"{WORKER}scratch /scratch is full: make room\n    (command exited with non-zero exit code)", Cause.ITSELF),
        ("    shell:\n        (command exited with non-zero exit code)", Cause.KILLED),
        ("talkies: | my own program says: out of memory", None),
    ],
)  # fmt: skip
def test_the_log_tells_why(commands, text: str, cause: Cause | None) -> None:
    log(17, text)
    found = slurm.failures(ask=False)
    assert [failure.cause for failure in found] == ([cause] if cause else [])
    if cause:
        said = str(found[0])
        assert said.startswith("animate pairs-0001: SLURM job 17 failed: ")
        assert ("scratch is full" in said) == (cause is Cause.ITSELF)


def test_slurm_is_asked_about_a_job_whose_log_is_silent(commands) -> None:
    commands("scontrol", 'echo "JobId=$5 JobName=x JobState=NODE_FAIL Reason=None"')
    log(3, "")
    assert [failure.cause for failure in slurm.failures()] == [Cause.NODE]
    commands("scontrol", 'echo "JobId=$5 JobName=x JobState=RUNNING Reason=None"')
    assert slurm.failures() == []
    commands("scontrol", "exit 1")
    assert slurm.failures() == []


def test_each_failure_is_told_once_and_only_of_this_run(commands) -> None:
    old = log(3, f"{WORKER}of yesterday")
    os.utime(old, (time.time() - 99, time.time() - 99))
    watch = slurm.Failures()
    assert watch.news() == []
    log(4, f"{WORKER}of today", "remux")
    (line,) = watch.news()
    assert "remux pairs-0001: SLURM job 4 failed: of today" in line
    assert watch.news() == []


def test_only_the_last_attempts_count(commands) -> None:
    memory = f"{STEPD}StepId=1.0 exceeded memory limit (9 > 1), being killed"
    log(9, memory)
    log(10, f"{STEPD}*** JOB 10 ON n1 CANCELLED AT x DUE TO TIME LIMIT ***")
    log(11, memory)
    assert slurm.causes("animate", "pairs-0001", 0) == {}
    assert slurm.causes("animate", "pairs-0001", 2) == {Cause.MEMORY: 1, Cause.TIME: 1}
    assert slurm.causes("animate", "pairs-0002", 2) == {}


def test_limits_are_those_of_the_partitions_that_are_named(commands) -> None:
    commands("sinfo", "printf 'gpu*|1-00:00:00|16000\\nshort|30:00|64000\\nlong|infinite|8000\\n'")
    assert slurm.limits() == slurm.Limits(1440, 16000)
    assert slurm.limits("short") == slurm.Limits(30, 64000)
    assert slurm.limits("gpu,short") == slurm.Limits(1440, 64000)
    assert slurm.limits("short,long") == slurm.Limits(None, 64000)
    assert slurm.limits("none") == slurm.Limits(None, None)


def test_no_slurm_limits_nothing(commands) -> None:
    assert slurm.limits() == slurm.Limits(None, None)
    assert slurm.queue(Path.cwd()) is None


def test_the_queue_is_this_folders(commands) -> None:
    here = Path.cwd()
    commands("squeue", f"printf 'RUNNING|None|{here}\\nPENDING|Priority|{here}\\nPENDING|Priority|/other\\n'")
    queue = slurm.queue(here)
    assert queue == slurm.Queue(1, {"Priority": 1})
    assert str(queue) == "running 1 job, waiting 1 (1 Priority)"


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_of_slurm_are_read(days: int, hours: int, minutes: int, seconds: int) -> None:
    whole = (days * 24 + hours) * 60 + minutes
    assert slurm.minutes_of(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == whole
    assert slurm.minutes_of(f"{days}-{hours:02}:{minutes:02}") == whole
    assert slurm.minutes_of(f"{days}-{hours}") == whole - minutes
    assert slurm.minutes_of(f"{hours}:{minutes:02}:{seconds:02}") == hours * 60 + minutes
    assert slurm.minutes_of(f"{minutes}:{seconds:02}") == minutes
    assert slurm.minutes_of(f"{minutes}") == minutes


NODES = """gpu*|n1|gpu:t4:2(S:0),shard:8
gpu*|n2|gpu:3g.40gb:4
gpu*|n3|gpu:4
gpu*|n4|(null)
big|n5|gpu:h100:8"""


def test_nodes_whose_gpus_are_too_small_are_left_out(commands) -> None:
    commands("sinfo", f"cat <<END\n{NODES}\nEND")
    assert slurm.nodes_with_less(2000) == []
    assert slurm.nodes_with_less(20_000) == ["n1"]
    assert slurm.nodes_with_less(50_000) == ["n1", "n2"], "n3's GPU memory is unknown, and n4 has no GPU"
    assert slurm.nodes_with_less(50_000, "gpu,big") == ["n1", "n2"]
    assert slurm.nodes_with_less(90_000, "big") == ["n5"]
    slurm.check_gpus(90_000)
    with pytest.raises(TalkiesError, match="90000 MB of memory, and the largest of big has 80000 MB"):
        slurm.check_gpus(90_000, "big")


@pytest.mark.parametrize(
    ("kind", "megabytes"),
    [
        ("a100", 40_000),
        ("nvidia_a100-sxm4-80gb", 80_000),
        ("a100_1g.10gb", 10_000),
        ("rtx_2080_ti", 11_000),
        ("NVIDIA-L40S", 48_000),
        ("v100l", 16_000),
        ("gh200", 96_000),
        ("quadro_rtx_6000", 24_000),
        ("k8000", None),
        ("fast", None),
    ],
)
def test_the_name_of_a_kind_of_gpu_tells_its_memory(kind: str, megabytes: int | None) -> None:
    assert slurm.gpu_megabytes(kind) == megabytes
