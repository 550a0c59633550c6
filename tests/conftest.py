"""Fixtures that the tests of the workflow share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster_folder import Cluster, brought_up
from run_folder import RunFolder, make_clip


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> RunFolder:
    """A finished run of three pictures and two clips in two shards, made once; tests work on copies of it."""
    run = RunFolder.create(tmp_path_factory.mktemp("finished") / "run")
    run.configure(pairs_per_job=3)
    run.snakemake()
    return run


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
    make_clip(run.path / "driving/a.mp4", frames=120)
    run.snakemake("--until", "crop", "motion")
    return run


@pytest.fixture
def long_run(_prepared, tmp_path) -> RunFolder:
    """A run long enough to interrupt: three pictures and a clip of 120 frames whose motion is already detected."""
    return _prepared.copy(tmp_path / "run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no core waits for one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)
