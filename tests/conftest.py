"""Fixtures that the tests of the workflow share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from cluster_folder import Cluster, brought_up
from filelock import FileLock
from run_folder import RunFolder, make_clip


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id: str) -> RunFolder:
    """A finished run of three pictures and two clips in two shards, which the first worker makes for all; tests work on
    copies of it."""
    here = tmp_path_factory.getbasetemp()
    shared = (here if worker_id == "master" else here.parent) / "finished"
    with FileLock(f"{shared}.lock"):
        if not (shared / "whole").exists():
            shutil.rmtree(shared, ignore_errors=True)  # of a worker that failed
            run = RunFolder.create(shared / "run")
            run.configure(pairs_per_job=3)
            run.snakemake()
            (shared / "whole").touch()
    return RunFolder(shared / "run")


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    """A copy of the finished run whose events are past."""
    copy = finished.copy(tmp_path / "run")
    copy.forget_events()
    return copy


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of this session (`brought_up`)."""
    with brought_up() as made:
        yield made


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory) -> RunFolder:
    run = RunFolder.create(tmp_path_factory.mktemp("prepared") / "run", clips=[])
    run.configure(engine="fomm")
    make_clip(run.path / "driving/a.mp4", frames=120)
    run.snakemake("--until", "crop", "motion")
    return run


@pytest.fixture
def long_run(_prepared, tmp_path) -> RunFolder:
    """A run long enough to interrupt: three pictures and a clip of 120 frames whose motion is already detected."""
    return _prepared.copy(tmp_path / "run")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what this machine could not try."""
    skipped = {report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped")}
    if skipped:
        terminalreporter.write_line(f"NOT TESTED: {'; '.join(sorted(skipped))}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no core waits for one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)
