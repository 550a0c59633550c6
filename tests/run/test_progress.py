"""A run's progress from the workers' journals: the rate, the time left, and the summary at the end."""

from __future__ import annotations

import json
import re
import time

import pytest
from run_folder import REPOSITORY, RunFolder, draw_picture, make_clip, wait_for

from talkies.run import progress
from talkies.run.lock import claim
from talkies.run.plan import Plan
from talkies.run.state import State


def note(run: RunFolder, file: str, *events: tuple[float, dict]) -> None:
    """Append events to a journal, each as if a worker had written it so many seconds ago."""
    path = run.path / ".talkies/journal" / f"{file}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as journal:
        for ago, event in events:
            journal.write(json.dumps({"time": time.time() - ago, **event}) + "\n")


def animated(pair: str, seconds: float = 10.0) -> dict:
    return {"event": "animated", "pair": pair, "frames": 5, "seconds": seconds}


@pytest.fixture
def half_way(run: RunFolder) -> RunFolder:
    """A run that has worked for 30 seconds: of six pairs one is made, one has failed and one is in progress."""
    claim(run.path / ".talkies/run.json")
    for receipt in run.path.glob(".talkies/receipts/*/pairs-*.json"):
        receipt.unlink()
    (run.path / "results/a/green.mp4").unlink()
    note(run, "run", (30, {"event": "started", "shards": ["pairs-0001", "pairs-0002"]}))
    note(run, "animate-pairs-0001", (400, animated("a/red", 1.0)))  # from an earlier run
    note(run, "animate-pairs-0001", (29, {"event": "looked", "fresh": ["a/red"]}))
    note(run, "animate-pairs-0001", (20, {"event": "begun", "pair": "a/blue"}), (10, animated("a/blue")))
    note(run, "animate-pairs-0001", (9, {"event": "begun", "pair": "a/green"}))
    note(run, "animate-pairs-0002", (20, {"event": "begun", "pair": "b/red"}))
    note(run, "animate-pairs-0002", (8, {"event": "failed", "pair": "b/red", "reason": "b/red: cursed"}))
    note(run, "remux-pairs-0001", (2, {"event": "remuxed", "pair": "a/blue"}))
    return run


def told(run: RunFolder) -> dict:
    return json.loads(run.talkies("status", "--json"))["run"]


def test_rate_and_time_left_come_from_the_films_of_this_run(half_way: RunFolder) -> None:
    now = told(half_way)
    assert now["made"] == ["a/blue"]
    assert now["running"] == ["a/green"]
    assert now["failed"] == {"b/red": "b/red: cursed"}
    assert sorted(now["left"]) == ["a/green", "a/red", "b/blue", "b/green"]
    assert now["animated"] == ["a/red"]
    assert (now["seconds_per_frame"], now["seconds_per_pair"]) == (2.0, 10.0)
    # Left: 1 s of a/green (9 of 10 s are done), 12 s each for b/blue and b/green; then three times 1 s for sound.
    # The first shard's sound came 8 s after its last film, so the last shard's job is expected to wait as long.
    assert now["seconds_left"] == pytest.approx(1 + 2 * 12 + 3 + 8, abs=3)


def test_shards_that_wait_for_a_place_count_with_their_wait(half_way: RunFolder, monkeypatch) -> None:
    """If one worker makes short films in many shards, most of the time is spent waiting for the next job."""
    monkeypatch.chdir(half_way.path)
    plan = Plan.load()
    later = progress.Watch(plan, ["a/blue", "a/green", "a/red", "b/blue", "b/green", "b/red"]).look().seconds_left
    for journal in (half_way.path / ".talkies/journal").glob("animate-pairs-0002.jsonl"):
        journal.unlink()
    now = progress.Watch(plan, ["a/blue", "a/green", "a/red", "b/blue", "b/green", "b/red"]).look().seconds_left
    # One more film (b/red), and the second shard's own wait of 8 s.
    assert now == pytest.approx(1 + 3 * 12 + 3 + 2 * 8, abs=3)
    assert now > later


def test_a_line_left_unfinished_is_passed_over_and_read_when_it_is_whole(half_way: RunFolder, monkeypatch) -> None:
    monkeypatch.chdir(half_way.path)
    watch = progress.Watch(Plan.load(), ["a/blue", "a/red"])
    journal = half_way.path / ".talkies/journal/remux-pairs-0001.jsonl"
    line = json.dumps({"time": time.time(), "event": "remuxed", "pair": "a/red"})
    with journal.open("a") as file:
        file.write(line[:20])
    assert watch.look().made == ["a/blue"]
    with journal.open("a") as file:
        file.write(line[20:] + "\n")
    assert watch.look().made == ["a/blue", "a/red"]


def test_status_watches_until_the_run_ends(half_way: RunFolder) -> None:
    watching = half_way.start("talkies", "status", "--watch", "1")
    line = watching.stdout.readline()
    assert line == "6 pairs: 1 done, 1 failed, 4 to make (1 of them animated, 1 in the making)\n"
    assert "s a frame" in watching.stdout.readline()
    note(half_way, "run", (0, {"event": "ended"}))
    (half_way.path / ".talkies/run.json").unlink()
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "the last run: 1 made in 3" in output


def test_a_run_says_how_far_it_is_and_ends_with_a_summary(half_way: RunFolder, monkeypatch) -> None:
    monkeypatch.chdir(half_way.path)
    monkeypatch.setattr(progress, "SAY_SECONDS", (0.05,))
    plan, said = Plan.load(), []
    state = State(done=["b/blue", "b/green", "b/red"], to_make=["a/blue", "a/green", "a/red"])
    over = progress.start(plan, state, ["pairs-0001"], said.append, said.append)
    wait_for(lambda: said)
    assert said[-1] == "3 of 6 pairs done"
    note(half_way, "animate-pairs-0001", (-1, animated("a/green")))
    wait_for(lambda: any("2 s a frame, 10 s a pair" in line and "left (until" in line for line in said))
    summary = progress.end(plan, over)
    assert summary[0] == "6 pairs: 0 done, 0 failed, 6 to make", "there are no receipts"
    assert summary[1].startswith("the last run: 0 made in ")
    assert len(summary) == 2, "there are no films to view"


def test_snakemake_ends_with_a_summary_that_names_failures_and_the_gallery(run: RunFolder) -> None:
    (run.path / "images/broken.png").write_bytes(b"no picture")
    draw_picture(run.path / "images/new.png", (0, 90, 0))
    output = run.snakemake(ok=False)
    assert "talkies: 10 pairs: 8 done, 2 failed, 0 to make\ntalkies: the last run: 2 made in " in output
    assert "(2 pairs: a/broken, b/broken)" in output
    assert "the films: results/index.html" in output
    status = run.talkies("status")
    assert "s a frame" in status
    # Failures were reported as errors already, and are not repeated.
    summary = [re.sub("^talkies: (error: (?=images))?", "", line) for line in output.splitlines()]
    told = {line.removeprefix("failed: ") for line in status.splitlines()}
    assert told <= set(summary), "status uses the same words"


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.4, "12 s"), (260, "4 min 20 s"), (3900, "1 h 05 min"), (180_000, "2 days 2 h")]
)
def test_times_are_said_in_their_two_largest_units(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


def test_the_gallery_shows_the_films_that_there_are_while_the_run_goes_on(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["one", "two", "three"], clips=["a"])
    make_clip(run.path / "driving/a.mp4", frames=60)
    run.configure(pairs_per_job=1)
    page = run.path / "results/index.html"
    snakemake = run.start("snakemake", "--snakefile", str(REPOSITORY / "Snakefile"))
    wait_for(lambda: page.exists() and "The run goes on: 3 pairs: " in page.read_text())
    text = page.read_text()
    assert re.search(r"3 pairs: [12] done, 0 failed, [12] to make", text)
    assert "not made" in text
    assert snakemake.poll() is None, "the run still goes on"
    output, _ = snakemake.communicate(timeout=300)
    assert snakemake.returncode == 0, output
    assert "The run goes on" not in page.read_text()
    run.whole(["a/one", "a/three", "a/two"])
