"""A run on a cluster also makes what it announces: an example of test_due.py, and what only a cluster has: kills.

All tests use one finished run folder, one after the other. Each changes something, asks `snakemake -n` and `talkies
status` how much there is to make, runs exactly `snakemake --profile slurm`, and counts the computed films, the written
talkies, and the finished jobs by their done files.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from cluster_folder import Cluster, ClusterRun, ended
from run_folder import draw_picture, jobs_in, make_clip, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STAGES = ("crop", "cut", "motion", "animate", "remux")
SETTINGS = {"threads": 1, "gpus": 2, "pairs_per_job": 2, "gallery": {"report": False}}
PICTURES, CLIPS, FRAMES = 3, 2, 40
FIRST_CLIP, SECOND_CLIP = ([f"clip-{clip}/picture-0{number}" for number in range(PICTURES)] for clip in range(CLIPS))
ALL = [*FIRST_CLIP, *SECOND_CLIP]


class Said(NamedTuple):
    """What a dry run says: the pairs to make, how many of them to animate, and the jobs by stage."""

    to_make: int
    to_animate: int
    jobs: dict[str, int]


def said(run: ClusterRun) -> Said:
    """Return what a dry run says it will make; status must say the same."""
    output = run.snakemake("-n")
    told = re.search(r"(\d+) to make(?:, (\d+) of them to animate)?", output)
    assert told, output
    assert f", {told[1]} to make" in run.talkies("status")
    return Said(int(told[1]), int(told[2] or told[1]), {stage: jobs_in(output, stage) for stage in STAGES})


class Made(NamedTuple):
    """What runs have made: how often each pair was animated and written, and the number of jobs by stage."""

    animated: Counter[str]
    remuxed: Counter[str]
    jobs: dict[str, int]
    output: str


class Count:
    """Counts what is made from now on."""

    def __init__(self, run: ClusterRun) -> None:
        self.run = run
        run.forget_events()
        self._films, self._done = self._stamps(), run.done()

    def made(self, output: str = "") -> Made:
        """Return what was made; only films of talkies in the ledger may have changed."""
        run = self.run
        remuxed, films = Counter(run.events("remux")), self._stamps()
        gone = self._films.keys() - films.keys()
        assert {pair for pair, stamp in films.items() if self._films.get(pair) != stamp} == set(remuxed)
        assert not gone - set(remuxed), "a film is gone"
        new = [name.partition("/")[0] for name in run.done() - self._done]
        return Made(run.computed(), remuxed, {stage: new.count(stage) for stage in STAGES}, output)

    def _stamps(self) -> dict[str, tuple[int, int]]:
        films = {pair: self.run.film(pair).stat() for pair in self.run.films() if ".kept-" not in pair}
        return {pair: (status.st_size, status.st_mtime_ns) for pair, status in films.items()}


def once(pairs: Iterable[str]) -> Counter[str]:
    return Counter(dict.fromkeys(pairs, 1))


def run_makes(run: ClusterRun, pairs: Sequence[str], *, animated: Sequence[str] | None = None) -> Made:
    """Assert that a dry run announces exactly these pairs, and that a run makes each of them once, and no others.

    animated: the pairs whose frames are computed; by default all.
    """
    animated = pairs if animated is None else animated
    before = said(run)
    assert (before.to_make, before.to_animate) == (len(pairs), len(animated))
    count = Count(run)
    made = count.made(run.snakemake())
    assert (made.animated, made.remuxed) == (once(animated), once(pairs))
    assert made.jobs == before.jobs
    assert_finished(run)
    return made


def assert_finished(run: ClusterRun, failed: int = 0) -> None:
    pairs = run.pairs()
    expected = f"{len(pairs)} pairs: {len(pairs) - failed} done, {failed} failed, 0 to make"
    assert expected in run.talkies("status")
    assert run.debris() == []


def change(run: ClusterRun, **settings: object) -> None:
    """Change some settings and keep the others."""
    run.configure(**yaml.safe_load((run.path / "config.yaml").read_text()) | settings)


def shards_of(run: ClusterRun) -> dict[str, set[str]]:
    """Return the pairs of each shard, as the plan deals them."""
    plan = json.loads((run.path / ".talkies/plan.json").read_text())
    return {shard: set(pairs) for shard, pairs in plan["shards"]["pairs"].items()}


def shards_made(run: ClusterRun, stage: str, before: Iterable[str]) -> set[str]:
    """Return the shards that have a new done file of a stage."""
    new = run.done() - set(before)
    return {name.removeprefix(f"{stage}/").partition(".")[0] for name in new if name.startswith(f"{stage}/")}


def kill_workers(run: ClusterRun) -> int:
    """Kill only the workers that hold a lock of a shard of pairs; return how many were killed."""
    shards = [path.stem for path in (run.path / ".talkies/locks").glob("pairs-*.lock")]
    for shard in shards:
        run.kill_worker(shard)
    return len(shards)


@pytest.fixture(scope="module")
def finished(cluster: Cluster) -> ClusterRun:
    """The shared folder: three pictures and two clips in three shards of pairs, which share one shard of pictures."""
    run = ClusterRun.clone(cluster, "due", PICTURES, CLIPS, FRAMES, **SETTINGS)
    made = run_makes(run, ALL)
    assert made.jobs == {"crop": 1, "cut": 2, "motion": 2, "animate": 3, "remux": 3}
    run.verified()
    return run


@pytest.fixture
def run(cluster: Cluster, finished: ClusterRun) -> Iterator[ClusterRun]:
    """The shared folder; it is finished again after each test, whatever the test left."""
    yield finished
    cluster.run("scancel", "--user", "ada")
    wait_for(cluster.idle, 60)
    if sorted(finished.films()) != sorted(ALL):
        for number, name in enumerate(FIRST_CLIP):
            picture = finished.path / "images" / f"{Path(name).name}.png"
            if not picture.exists():
                draw_picture(picture, (7, 7, 70 * number))
        (finished.path / "images/new.png").unlink(missing_ok=True)
        finished.talkies("clean")
    if "0 to make" not in finished.talkies("status"):
        finished.snakemake()


# --- files and settings -------------------------------------------------------------------------------------


def test_a_picture_replaced_and_one_added_start_only_the_shards_that_hold_them(run: ClusterRun) -> None:
    """All shards of pairs share the shard that crops the pictures."""
    shards, before = shards_of(run), run.done()
    assert len(shards) == 3
    draw_picture(run.path / "images/picture-01.png", (9, 255, 9))
    draw_picture(run.path / "images/new.png", (1, 200, 200))
    pairs = [f"{clip}/{image}" for clip in ("clip-0", "clip-1") for image in ("new", "picture-01")]
    made = run_makes(run, pairs)
    after = shards_of(run)
    assert {shard: after[shard] for shard in shards} == shards
    holding = {shard for shard, names in after.items() if names.intersection(pairs)}
    assert len(set(shards) - holding) == 1
    for stage in ("animate", "remux"):
        assert shards_made(run, stage, before) == holding
    assert (made.jobs["crop"], made.jobs["cut"], made.jobs["motion"]) == (2, 0, 0), "the new one has its own"
    run.verified()


# --- what is killed -----------------------------------------------------------------------------------------


def test_a_worker_is_killed_and_the_old_picture_never_stands_for_the_new_one(run: ClusterRun) -> None:
    pairs = ["clip-0/picture-00", "clip-1/picture-00"]
    old = {pair: run.film(pair).read_bytes() for pair in pairs}
    draw_picture(run.path / "images/picture-00.png", (250, 250, 3))
    before = said(run)
    assert (before.to_make, before.to_animate) == (2, 2)
    count = Count(run)
    process = run.start("snakemake", "--profile", "slurm", "--retries", "0")
    wait_for(lambda: run.events("animate", "begun"), 600)
    assert kill_workers(run)
    process.communicate(timeout=1500)
    assert process.returncode != 0
    left = [pair for pair in pairs if pair not in run.events("remux")]
    assert left
    after = said(run)
    assert after.to_make == len(left)
    run.snakemake()
    made = count.made()
    assert (made.animated, made.remuxed) == (once(pairs), once(pairs))
    assert all(run.film(pair).read_bytes() != film for pair, film in old.items())
    assert_finished(run)
    run.verified()


def test_a_setting_changed_and_the_workers_killed_for_memory(run: ClusterRun) -> None:
    """The network does not fit into their memory. Work that was done before is not repeated."""
    films = run.films()
    change(run, motion={"relative": False}, slurm={"gpu": {"mem_mb": 450}})
    assert said(run)[:2] == (6, 6)
    count = Count(run)
    output = run.snakemake("--retries", "0", ok=False)
    assert len(re.findall(r"talkies: animate \S+: SLURM-job '\d+' failed.*ask for more memory", output)) == 3
    assert count.made().remuxed == {}
    assert run.films() == films
    change(run, slurm={})
    assert said(run)[:2] == (6, 6)
    run.snakemake()
    made = count.made()
    assert (made.animated, made.remuxed) == (once(ALL), once(ALL))
    assert made.jobs == {"crop": 0, "cut": 0, "motion": 0, "animate": 3, "remux": 3}
    assert_finished(run)
    run.verified()


def test_a_setting_changed_back_and_the_main_process_killed(run: ClusterRun) -> None:
    """Its jobs continue, and add the sound to the films that they have animated."""
    change(run, motion={"relative": True})
    assert said(run)[:2] == (6, 6)
    count = Count(run)
    process = run.while_animating()
    run.cluster.root("pkill -KILL -f 'bin/[s]nakemake --profile slurm'")
    process.communicate()
    wait_for(run.cluster.idle, 300)
    before = said(run)
    assert before.to_make == 6 - len(run.events("remux"))
    assert before.to_animate == 6 - len(run.events("animate"))
    run.snakemake()
    made = count.made()
    assert (made.animated, made.remuxed) == (once(ALL), once(ALL))
    assert_finished(run)
    run.verified()


def test_a_video_replaced_and_both_killed(run: ClusterRun) -> None:
    make_clip(run.path / "driving/clip-0.mp4", frames=FRAMES, tone=900)
    assert said(run)[:2] == (3, 3)
    count = Count(run)
    process = run.while_animating("--retries", "0")
    run.cluster.root("pkill -KILL -f 'bin/[s]nakemake --profile slurm'")
    assert kill_workers(run)
    process.communicate()
    wait_for(run.cluster.idle, 300)
    animated = run.events("animate")
    before = said(run)
    assert before.to_make == 3
    assert 3 - len(animated) <= before.to_animate <= 3  # a film may be finished but not noted
    run.snakemake()
    made = count.made()
    assert (made.animated, made.remuxed) == (once(FIRST_CLIP), once(FIRST_CLIP))
    assert_finished(run)
    run.verified()


def test_a_node_is_lost_and_a_worker_killed_and_both_are_tried_again_while_a_second_snakemake_is_refused(
    cluster: Cluster, run: ClusterRun
) -> None:
    """SLURM itself restarts the lost node's jobs, and Snakemake restarts the killed worker's job."""
    change(run, motion={"best_frame": 2})
    assert said(run)[:2] == (6, 6)
    count = Count(run)
    process = run.while_animating()
    jobs = {job["node"]: job for job in cluster.jobs() if "animate" in job["name"] and job["state"] == "R"}
    (_, killed), (lost, left) = sorted(jobs.items())
    (shard,) = re.findall(r"pairs-\d+", killed["name"])
    run.kill_worker(shard)
    cluster.node(lost, "down")
    try:
        other = run.run("snakemake", "--profile", "slurm")
        assert other.returncode != 0
        assert "lock" in other.stdout.lower()
        # Do not wait for the node's own state: it is "down" only briefly while its job is removed.
        wait_for(lambda: (left["id"], "R") not in [(job["id"], job["state"]) for job in cluster.jobs()], 120)
    finally:
        cluster.node(lost, "up")
    made = count.made(ended(process))
    assert "Trying to restart job" in made.output, made.output[-9000:]
    assert run.loads() >= 5, "two of the three jobs start again"
    assert (made.animated, made.remuxed) == (once(ALL), once(ALL))
    assert_finished(run)
    run.verified()


def test_a_bad_picture_and_the_picture_mended(run: ClusterRun) -> None:
    picture = run.path / "images/picture-02.png"
    picture.write_bytes(b"no picture")
    pairs = ["clip-0/picture-02", "clip-1/picture-02"]
    assert said(run)[:2] == (2, 2)
    count = Count(run)
    output = run.snakemake("--retries", "0", ok=False)
    assert "picture-02.png" in output
    assert count.made().animated == {}
    assert_finished(run, failed=2)
    assert said(run) == (0, 0, dict.fromkeys(STAGES, 0))
    draw_picture(picture, (80, 9, 9))
    made = run_makes(run, pairs)
    assert made.jobs["motion"] == 0
    run.verified()
