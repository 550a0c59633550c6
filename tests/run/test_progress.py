"""A run's progress from the ledger: the rate, the time left, and the summary at the end."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from run_folder import RunFolder, wait_for

from talkies.run import progress
from talkies.run.ledger import Ledger
from talkies.run.lock import claim
from talkies.run.plan import Plan
from talkies.run.state import State
from talkies.stages import table


def note(run: RunFolder, shard: str, *events: tuple[float, dict]) -> None:
    """Append events to a ledger, each as if a worker had written it so many seconds ago."""
    path = run.path / ".talkies/ledger" / f"{shard}.jsonl"
    with path.open("a") as ledger:
        for ago, event in events:
            ledger.write(json.dumps({"time": time.time() - ago, **event}) + "\n")


def made(stage: str, pair: str, seconds: float = 10.0) -> dict:
    told = {"event": "made", "stage": stage, "item": pair, "key": "other", "size": 1, "mtime_ns": 1, "seconds": seconds}
    return {**told, "frames": 5, "by": "fomm demo cpu"} if stage == "animate" else told


def begun(pair: str) -> dict:
    return {"event": "begun", "stage": "animate", "item": pair}


@pytest.fixture
def half_way(run: RunFolder) -> RunFolder:
    """A run that has worked for 30 seconds: of six pairs three are animated, and of these one is done."""
    claim(run.path / ".talkies/run.json")
    shutil.rmtree(run.path / "results")
    shutil.rmtree(run.path / ".talkies/ledger")
    (run.path / ".talkies/ledger").mkdir()
    note(run, "pairs-0001", (400, made("animate", "a/red", 1.0)))  # from an earlier run
    note(run, "run", (30, {"event": "started", "items": {}}))
    note(run, "pairs-0001", (20, begun("a/blue")), (10, made("animate", "a/blue")), (9, begun("a/green")))
    note(run, "pairs-0001", (2, made("remux", "a/blue", 3.0)))
    note(run, "pairs-0002", (20, begun("b/red")))
    note(
        run, "pairs-0002", (8, {"event": "failed", "stage": "animate", "item": "b/red", "key": "", "reason": "cursed"})
    )
    return run


PAIRS = ["a/blue", "a/green", "a/red", "b/blue", "b/green", "b/red"]


class Watch:
    def __init__(self) -> None:
        self.plan, self.ledger = Plan.load(table), Ledger()

    def look(self) -> progress.Outlook:
        self.ledger.read_on()
        return progress.outlook(self.plan, PAIRS, self.ledger)


def watch(run: RunFolder, monkeypatch) -> Watch:
    monkeypatch.chdir(run.path)
    return Watch()


def test_rate_and_time_left_come_from_the_films_of_this_run(half_way: RunFolder, monkeypatch) -> None:
    now = watch(half_way, monkeypatch).look()
    assert now.made == ["a/blue"]
    assert now.running == ["a/green"]
    assert now.failed == {"b/red": "cursed"}
    assert sorted(now.left) == ["a/green", "a/red", "b/blue", "b/green"]
    # Left: 1 s of a/green (9 of 10 s are done), 10 s for a/red, 12 s each for b/blue and b/green; then 3 s each for
    # the sound.
    assert now.seconds_left == pytest.approx(1 + 10 + 2 * 12 + 4 * 3, abs=4)


def test_a_job_that_ends_before_its_work_is_done_is_named_until_it_goes_on(half_way: RunFolder, monkeypatch) -> None:
    watching = watch(half_way, monkeypatch)
    note(
        half_way, "pairs-0001", (0, {"event": "broke", "stage": "animate", "shard": "pairs-0001", "reason": "no room"})
    )
    assert watching.look().broke == {"animate pairs-0001": "no room"}
    assert "1 job not finished (animate pairs-0001): no room" in half_way.talkies("status")
    note(half_way, "pairs-0001", (0, begun("a/green")))
    assert watching.look().broke == {}


def test_status_watches_until_the_run_ends(half_way: RunFolder) -> None:
    watching = half_way.start("talkies", "status", "--watch", "1")
    line = watching.stdout.readline()
    assert line == "6 pairs: 0 done, 0 failed, 6 to make (1 in the making)\n", "there are no films"
    assert " pairs a minute; about " in watching.stdout.readline()
    note(half_way, "run", (0, {"event": "ended"}))
    (half_way.path / ".talkies/run.json").unlink()
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "the last run: 1 made in " in output


def test_a_run_says_how_far_it_is_and_ends_with_a_summary(half_way: RunFolder, monkeypatch) -> None:
    monkeypatch.chdir(half_way.path)
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.05)
    plan, said = Plan.load(table), []
    state = State(done=["b/blue", "b/green", "b/red"], to_make=["a/blue", "a/green", "a/red"])
    over = progress.start(plan, state, said.append)
    wait_for(lambda: said)
    assert said[-1].startswith("4 of 6 pairs done, 1 failed, 1 in the making; ")
    assert " pairs a minute; " in said[-1]
    assert "left (until" in said[-1]
    summary = progress.end(plan, over)
    assert summary[0] == "6 pairs: 0 done, 0 failed, 6 to make", "there are no films"
    assert summary[1].startswith("the last run: 1 made in ")
    assert len(summary) == 2, "there are no films to view"


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.4, "12 s"), (260, "4 min 20 s"), (3900, "1 h 05 min"), (180_000, "2 days 2 h")]
)
def test_times_are_said_in_their_two_largest_units(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words
