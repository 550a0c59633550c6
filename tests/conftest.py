"""What the tests of the workflow share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_folder import Cluster, both, remove, temporary_folder, testcluster
from run_folder import RunFolder


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> RunFolder:
    """A run of three pictures and two clips in two shards, finished once; tests work on copies of it."""
    run = RunFolder.create(tmp_path_factory.mktemp("finished") / "run")
    run.configure(pairs_per_job=3)
    run.snakemake()
    return run


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    """A copy of the finished run with its journal emptied."""
    copy = finished.copy(tmp_path / "run")
    copy.forget_events()
    return copy


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A new cluster, gone afterwards; or the one in the folder that TALKIES_TESTCLUSTER names, which stays up."""
    try:
        testcluster.check()
        both(testcluster.base_root, testcluster.image_base)
    except testcluster.Unfit as error:
        pytest.skip(f"NOT TESTED: SLURM, Apptainer and the image: {error}")
    kept = os.environ.get("TALKIES_TESTCLUSTER")
    folder = Path(kept) if kept else temporary_folder()
    made = Cluster(folder)
    try:
        made.up()
        both(made.install, made.image)
        yield made
    finally:
        if not kept:
            testcluster.bring_down(folder)
            remove(folder)
    if not kept:
        assert not folder.exists(), "the cluster left something"
        assert str(folder) not in Path("/proc/mounts").read_text()
