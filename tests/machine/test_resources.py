"""How many threads a job uses: as many as SLURM, a cgroup or the CPU affinity allow, and never more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from talkies.machine import resources
from talkies.machine.resources import available_threads


@pytest.fixture(autouse=True)
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with six cores that we may all use; the folder of its cgroups."""
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)
    monkeypatch.setattr(resources, "OWN", tmp_path / "own")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_a_limit_all_cores_are_taken(cgroups: Path) -> None:
    assert available_threads() == 6, "no cgroups at all"
    write(cgroups / "own", "0::/job\n")
    assert available_threads() == 6, "no quota file"
    write(cgroups / "job/cpu.max", "max 100000\n")
    assert available_threads() == 6


@pytest.mark.parametrize(("quota", "count"), [("450000", 4), ("50000", 1), ("900000", 6)])
@pytest.mark.parametrize("where", ["slice/job", "slice", "."])
def test_the_quota_of_any_cgroup_around_the_job_counts(cgroups: Path, where: str, quota: str, count: int) -> None:
    write(cgroups / "own", "0::/slice/job\n")
    for folder in ("slice/job", "slice", "."):
        write(cgroups / folder / "cpu.max", "max 100000\n")
    write(cgroups / where / "cpu.max", f"{quota} 100000\n")
    assert available_threads() == count


def test_a_containers_own_quota_counts_where_the_path_is_the_machines(cgroups: Path) -> None:
    write(cgroups / "own", "0::/machine/containers/17\n")
    write(cgroups / "cpu.max", "200000 100000\n")
    assert available_threads() == 2


@pytest.mark.parametrize(("word", "count"), [("3", 3), ("64", 6), ("", 6), ("many", 6), ("0", 1)])
def test_slurms_word_counts(monkeypatch: pytest.MonkeyPatch, word: str, count: int) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", word)
    assert available_threads() == count


def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_threads() == 1
    finally:
        os.sched_setaffinity(0, before)
