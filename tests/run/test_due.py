"""A run makes what it announces: after every change, the dry run's number equals what the workers count.

Every test changes something in a finished run, asks `snakemake -n` and `talkies status`, runs, and counts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder, draw_picture, jobs_in, make_clip, wait_for, write_weights

NOTHING = "Nothing to be done"
STAGES = ("prepare", "motion", "animate", "show", "remux")
ALL = [f"{clip}/{image}" for clip in ("a", "b") for image in ("blue", "green", "red")]


def said_to_make(run: RunFolder, *arguments: str) -> int:
    """Return how many pairs a dry run will make; status must say the same."""
    output = run.snakemake("-n", *arguments)
    told = re.search(r"(\d+) to make", output)
    assert told, output
    if not arguments:
        assert f", {told[1]} to make" in run.talkies("status")
    return int(told[1])


def what_is_made(run: RunFolder, *arguments: str) -> tuple[list[str], list[str]]:
    """Run; return the animated pairs, and the pairs whose talkies were made."""
    run.forget_events()
    run.snakemake(*arguments)
    return run.events("animated"), sorted(run.events("remuxed"))


def configure(**settings: object) -> Callable[[RunFolder], None]:
    return lambda run: run.configure(**{"pairs_per_job": 3, **settings})


def receipts(stage: str) -> Callable[[RunFolder], list[Path]]:
    return lambda run: sorted((run.path / ".talkies/receipts" / stage).glob("*.json"))


def scribble(path: Path) -> None:
    with path.open("r+b") as film:
        film.seek(200)
        film.write(b"scribble")


def remove_snakemakes_memory(change: Callable[[RunFolder], object]) -> Callable[[RunFolder], None]:
    def both(run: RunFolder) -> None:
        shutil.rmtree(run.path / ".snakemake")
        change(run)

    return both


CASES: dict[str, tuple[Callable[[RunFolder], object], int, int]] = {
    "nothing": (lambda run: None, 0, 0),
    "motion": (configure(motion={"relative": False}), 6, 6),
    "best frame": (configure(motion={"best_frame": 2}), 6, 6),
    "precision": (configure(model={"precision": "fp32"}), 6, 6),
    "preset": (configure(film={"preset": "ultrafast"}), 6, 6),
    "the preset of old": (configure(film={"preset": "medium"}), 6, 6),
    "quality": (configure(film={"crf": 30}), 6, 6),
    "what films have anyway": (configure(film={"encoder": "x264", "preset": None}), 0, 0),
    "crop of a picture": (configure(files={"red.png": {"crop": [0, 0, 32, 32]}}), 2, 2),
    "crop of a video": (configure(files={"a.mp4": {"crop": [0, 0, 48, 48]}}), 3, 3),
    "sound": (configure(audio=False), 6, 0),
    "tag": (configure(provenance=False), 6, 0),
    "paste back": (configure(paste_back=True), 6, 0),
    "enlarged": (configure(upscale=512), 6, 0),
    "title": (configure(gallery={"title": "Another"}), 0, 0),
    "size of jobs": (configure(pairs_per_job=2), 0, 0),
    "rate": (configure(frames_per_second=1000), 0, 0),
    "film deleted": (lambda run: run.film("a/red").unlink(), 1, 1),
    "film altered": (lambda run: scribble(run.film("b/blue")), 1, 1),
    "record deleted": (lambda run: (run.path / "results/b/green.json").unlink(), 1, 1),
    "pair forgotten": (lambda run: run.talkies("forget", "a/red"), 1, 1),
    "video forgotten": (lambda run: run.talkies("forget", "b/"), 3, 3),
    "picture replaced": (lambda run: draw_picture(run.path / "images/red.png", (9, 255, 9)), 2, 2),
    "video replaced": (lambda run: make_clip(run.path / "driving/a.mp4", frames=7, tone=900), 3, 3),
    "picture added": (lambda run: draw_picture(run.path / "images/new.png", (1, 200, 200)), 2, 2),
    "picture removed": (lambda run: (run.path / "images/red.png").unlink(), 0, 0),
    "without memory": (remove_snakemakes_memory(lambda run: None), 0, 0),
    "film deleted without memory": (remove_snakemakes_memory(lambda run: run.film("a/red").unlink()), 1, 1),
    "motion without memory": (remove_snakemakes_memory(configure(motion={"relative": False})), 6, 6),
    "picture replaced without memory": (
        remove_snakemakes_memory(lambda run: draw_picture(run.path / "images/red.png", (9, 255, 9))),
        *(2, 2),
    ),
}


@pytest.mark.parametrize(("change", "to_make", "to_animate"), CASES.values(), ids=CASES)
def test_what_is_said_is_what_is_done(
    run: RunFolder, change: Callable[[RunFolder], object], to_make: int, to_animate: int
) -> None:
    change(run)
    assert said_to_make(run) == to_make
    animated, remuxed = what_is_made(run)
    assert (len(remuxed), len(animated)) == (to_make, to_animate)
    assert ", 0 to make" in run.talkies("status")
    assert NOTHING in run.snakemake()


MENDED: dict[str, Callable[[RunFolder], object]] = {
    "receipts deleted": lambda run: shutil.rmtree(run.path / ".talkies/receipts"),
    "last receipts deleted": lambda run: shutil.rmtree(run.path / ".talkies/receipts/remux"),
    "last receipts emptied": lambda run: [path.write_text("{}") for path in receipts("remux")(run)],
    "last receipts cut": lambda run: [path.write_text(path.read_text()[:99]) for path in receipts("remux")(run)],
    "animate's receipts deleted": lambda run: shutil.rmtree(run.path / ".talkies/receipts/animate"),
    "plan deleted": lambda run: (run.path / ".talkies/plan.json").unlink(),
    "plan cut": lambda run: (run.path / ".talkies/plan.json").write_text('{"format": 2,'),
    "all but the films deleted": lambda run: shutil.rmtree(run.path / ".talkies"),
    "pictures touched": lambda run: [os.utime(path) for path in run.path.glob("images/*")],
    "films touched": lambda run: [os.utime(path) for path in run.path.glob("results/*/*.mp4")],
    "prepared pictures deleted": lambda run: shutil.rmtree(run.path / ".talkies/sources"),
    "motions deleted": lambda run: shutil.rmtree(run.path / ".talkies/motion"),
}


@pytest.mark.parametrize("change", MENDED.values(), ids=MENDED)
def test_what_a_run_remembers_may_go_and_no_pair_is_made_again(
    run: RunFolder, change: Callable[[RunFolder], object]
) -> None:
    before = run.films()
    change(run)
    animated, remuxed = what_is_made(run)
    assert (animated, remuxed) == ([], [])
    assert run.films() == before
    assert ", 0 to make" in run.talkies("status")
    assert NOTHING in run.snakemake()
    run.whole(ALL)


def test_a_setting_changed_back_makes_all_again_as_said(run: RunFolder) -> None:
    before = run.films()
    run.configure(pairs_per_job=3, audio=False)
    assert said_to_make(run) == 6
    run.configure(pairs_per_job=3)
    assert said_to_make(run) == 0, "nothing was made with the other setting"
    run.configure(pairs_per_job=3, audio=False)
    what_is_made(run)
    run.configure(pairs_per_job=3)
    assert said_to_make(run) == 6
    assert what_is_made(run) == ([], ALL)
    assert run.films().keys() == before.keys()
    assert NOTHING in run.snakemake()


def test_a_picture_that_comes_back_is_as_it_was(run: RunFolder, tmp_path) -> None:
    (run.path / "images/red.png").rename(tmp_path / "red.png")
    assert what_is_made(run) == ([], [])
    (tmp_path / "red.png").rename(run.path / "images/red.png")
    assert said_to_make(run) == 0
    assert what_is_made(run) == ([], [])
    run.whole(ALL)


def test_a_picture_replaced_and_put_back_shows_what_it_shows_now(run: RunFolder, tmp_path) -> None:
    shutil.copy2(run.path / "images/red.png", tmp_path / "red.png")
    before = run.films()
    draw_picture(run.path / "images/red.png", (9, 255, 9))
    what_is_made(run)
    assert run.film("a/red").read_bytes() != before["a/red"]
    shutil.copy2(tmp_path / "red.png", run.path / "images/red.png")
    assert said_to_make(run) == 2
    assert what_is_made(run)[1] == ["a/red", "b/red"]
    sources = {pair: run.record(pair)["source"]["sha256"] for pair in ("a/red", "b/red")}
    from talkies.files import file_digest

    assert set(sources.values()) == {file_digest(run.path / "images/red.png")}


def test_only_the_shards_that_hold_a_changed_picture_start(run: RunFolder) -> None:
    """Both shards of pairs share one preparing shard, but only the second one holds the picture."""
    (run.path / "pairs.tsv").write_text("image\tdriving\nblue\ta\ngreen\ta\nred\tb\n")
    run.configure(pairs_per_job=2, pairs="pairs.tsv")
    run.snakemake()
    draw_picture(run.path / "images/red.png", (9, 255, 9))
    output = run.snakemake("-n")
    assert jobs_in(output, "animate") == jobs_in(output, "remux") == jobs_in(output, "prepare") == 1
    assert jobs_in(output, "motion") == 0
    assert what_is_made(run) == (["b/red"], ["b/red"])


def test_a_pilot_makes_the_first_that_are_to_make_and_no_other(run: RunFolder) -> None:
    run.film("b/blue").unlink()
    run.configure(pairs_per_job=3)
    before = run.films()
    assert said_to_make(run, "--config", "first=2") == 1
    run.configure(pairs_per_job=3, motion={"relative": False})
    assert said_to_make(run, "--config", "first=2") == 2
    animated, remuxed = what_is_made(run, "--config", "first=2")
    assert sorted(animated) == remuxed == ["a/blue", "a/green"]
    assert {name: film for name, film in run.films().items() if name not in remuxed} == {
        name: film for name, film in before.items() if name not in remuxed
    }
    assert said_to_make(run) == 4
    assert len(what_is_made(run)[1]) == 4
    run.whole(ALL)


@pytest.mark.longest
def test_a_pictures_old_film_never_stands_for_the_new_one(run: RunFolder) -> None:
    """The picture is replaced and its worker killed with SIGKILL; the next run still makes the new film."""
    make_clip(run.path / "driving/a.mp4", frames=60)
    run.snakemake()
    old = run.film("a/red").read_bytes()
    draw_picture(run.path / "images/red.png", (9, 255, 9))
    run.forget_events()
    snakemake = run.start("snakemake", "--snakefile", str(REPOSITORY / "Snakefile"))

    def begun() -> list[str]:
        return run.events("begun")

    wait_for(begun)
    for lock in (run.path / ".talkies/locks").glob("pairs-*.lock"):
        os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    snakemake.communicate(timeout=120)
    assert snakemake.returncode != 0
    assert said_to_make(run) >= 1
    run.snakemake()
    assert run.film("a/red").read_bytes() != old
    run.whole(ALL)
    assert NOTHING in run.snakemake()


# --- what can't work ----------------------------------------------------------------------------------------


def web_page(path: Path) -> None:
    path.write_text("<!doctype html><title>Quota exceeded</title>")


def checkpoint_of_another_preset(path: Path) -> None:
    write_weights(path, "mgif-256")


@pytest.mark.parametrize(
    ("write", "words"),
    [(web_page, "this is a web page"), (checkpoint_of_another_preset, "they fit mgif-256: choose that preset")],
)
def test_weights_that_are_none_are_refused_before_any_job(run: RunFolder, write, words: str) -> None:
    write(run.path / "weights.pth.tar")
    run.configure(pairs_per_job=3, model={"preset": "vox-256", "checkpoint": "weights.pth.tar"})
    for arguments in (["-n"], []):
        output = run.snakemake(*arguments, ok=False)
        assert words in output
        assert "talkies: jobs: " not in output, "no job has started"
    assert words in run.talkies("status", ok=False)


# --- upgraded ------------------------------------------------------------------------------------------------


def test_a_setting_of_ones_own_that_changes_makes_the_films_anew(run: RunFolder) -> None:
    run.configure(pairs_per_job=3, film={"crf": 40})
    run.snakemake()
    sizes = {pair: run.film(pair).stat().st_size for pair in ALL}
    assert {(run.record(pair)["picture"]["crf"], run.record(pair)["picture"]["encoder"]) for pair in ALL} == {
        (40, "x264")
    }
    assert NOTHING in run.snakemake()
    run.configure(pairs_per_job=3, film={"crf": 10})
    assert said_to_make(run) == 6
    run.snakemake()
    assert all(run.film(pair).stat().st_size > size for pair, size in sizes.items())


@pytest.mark.parametrize("stage", ["prepare", "motion", "animate"])
def test_a_damaged_receipt_above_finished_films_is_mended_by_one_run(run: RunFolder, stage: str) -> None:
    for path in receipts(stage)(run):
        path.write_text("{}")
    assert what_is_made(run) == ([], [])
    assert said_to_make(run) == 0
    assert NOTHING in run.snakemake()
