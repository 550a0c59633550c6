"""How SLURM says that jobs ended; limits of partitions; the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkies.errors import TalkiesError
from talkies.machine import slurm
from talkies.machine.slurm import Ended


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


JOB = "JobId=7 JobName=x JobState={} Reason=None ExitCode={} DerivedExitCode={} RunTime={} TimeLimit={}"


@pytest.mark.parametrize(
    ("told", "ended"),
    [
        (("OUT_OF_MEMORY", "0:125", "0:0", "00:01:00", "00:15:00"), Ended("OUT_OF_MEMORY")),
        (("FAILED", "1:0", "0:0", "00:01:00", "00:15:00"), Ended("FAILED")),
        (("FAILED", "0:9", "0:0", "00:01:00", "00:15:00"), Ended("FAILED", killed=True)),
        (("FAILED", "1:0", "0:9", "00:01:00", "1-00:00:00"), Ended("FAILED", killed=True)),
        (("FAILED", "1:0", "0:0", "00:13:01", "00:15:00"), Ended("FAILED", in_time=False)),
        (("FAILED", "1:0", "0:0", "00:12:59", "00:15:00"), Ended("FAILED")),
        (("FAILED", "1:0", "0:0", "00:01:20", "00:02:00"), Ended("FAILED")),
        (("FAILED", "1:0", "0:0", "00:13:01", "UNLIMITED"), Ended("FAILED")),
        (("RUNNING", "0:0", "0:0", "00:01:00", "00:15:00"), None),
    ],
)
def test_how_a_job_ended_is_known_from_slurm(commands, told: tuple[str, ...], ended: Ended | None) -> None:
    commands("scontrol", f'[ "$*" = "show job --oneliner 7" ] && echo "{JOB.format(*told)}"')
    assert slurm.ended("7") == ended
    commands("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm.ended("7") is None
    commands("sacct", f"echo '{told[0]} by 1000|{'|'.join(told[1:])}'")
    assert slurm.ended("7") == ended, "scontrol has forgotten it"


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
    assert slurm.seconds_of(f"{minutes}:{seconds:02}") == 60 * minutes + seconds
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
