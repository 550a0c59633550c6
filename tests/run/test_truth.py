"""The truth of a run: after every change, what is said to be made is what is made, each film shows what the settings
ask for, and then there is nothing to do. Plan, state, ledger and worker are the real ones, in this process; the stages
write texts (`toy_run`). tests/workflow runs a few of these rows under Snakemake.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from run_folder import make_clip
from toy_run import Killed, ToyRun

from talkies.errors import TalkiesError
from talkies.run import planner, upkeep
from talkies.run.folder import LOCKS
from talkies.run.lock import lock


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    for number, name in enumerate("abc"):
        make_clip(folder / f"{name}.mp4", frames=3, tone=300 + 100 * number)
    return {name: folder / f"{name}.mp4" for name in "abc"}


@pytest.fixture
def new(tmp_path, monkeypatch, clips) -> ToyRun:
    """A new run folder, with nothing made."""
    monkeypatch.chdir(tmp_path)
    return ToyRun(clips)


@pytest.fixture(scope="session")
def _finished(tmp_path_factory, clips) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "run"
    folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        ToyRun(clips).run()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(_finished, tmp_path, monkeypatch, clips) -> ToyRun:
    """A finished run: three pictures, two clips."""
    shutil.copytree(_finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    toy = ToyRun.__new__(ToyRun)
    toy.start()
    return toy


def is_calm(run: ToyRun) -> None:
    """Nothing is to be made, every film shows what it must, and nothing lies about."""
    assert run.due() == {}
    assert run.is_calm()
    films = run.films()
    for name, text in run.expected().items():
        assert films[name] == text, name
    assert run.debris() == []


def test_a_new_run_makes_each_item_once_in_the_jobs_that_are_said(new: ToyRun) -> None:
    left, write_gallery = [], new.gallery
    new.gallery = lambda: left.extend(new.debris()) or write_gallery()
    assert new.due() == {"crop": 3, "cut": 2, "motion": 2, "animate": 6, "remux": 6}
    assert new.run() == Counter(crop=3, cut=2, motion=2, animate=6, remux=6)
    assert set(new.made.values()) == {1}
    assert left == [], "a silent film goes when its talkie is made, not with the gallery"
    is_calm(new)


def scribble(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(b"X" + content[1:])


def configure(**settings):
    return lambda run: run.settings.update(settings)


def both(*changes):
    return lambda run: [change(run) for change in changes]


def gone(*paths: str):
    def remove(run: ToyRun) -> None:
        for path in paths:
            shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()

    return remove


def forget(*names: str, **options):
    def change(run: ToyRun) -> None:
        plan, state = run.plan()
        upkeep.forget(plan, state, names, **options)

    return change


def copied(run: ToyRun) -> None:
    """Copy the run folder without its files' times, and go on in the copy."""
    shutil.copytree(".", "../copy", copy_function=shutil.copyfile)
    os.chdir("../copy")


def touch(pattern: str):
    return lambda run: [os.utime(path) for path in Path().glob(pattern)]


def torn(run: ToyRun) -> None:
    for path in Path(".talkies/ledger").glob("pairs-*.jsonl"):
        path.write_bytes(path.read_bytes()[:-9])


def instead_of(path: str, what: str):
    """Put something that can't be read in a file's place."""

    def change(run: ToyRun) -> None:
        place = Path(path)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        if what == "folder":
            place.mkdir()
        elif what == "loop":
            place.symlink_to(place.name)
        elif what == "dangling link":
            place.symlink_to("/nowhere")
        else:
            place.write_bytes(b"\xff\x00{")

    return change


ONE_FILM, ALL_FILMS = {"animate": 1, "remux": 1}, {"animate": 6, "remux": 6}
A_PICTURE, A_VIDEO = {"crop": 1, "animate": 2, "remux": 2}, {"cut": 1, "motion": 1, "animate": 3, "remux": 3}
MOTION = {"motion": {"relative": False}}
CHANGES = {  # what is done, what is to be made then, and the reasons that are said
    "nothing": (lambda run: None, {}, ""),
    # settings
    "motion": (configure(**MOTION), ALL_FILMS, "motion changed 6"),
    "scale": (configure(motion={"adapt_scale": False}), ALL_FILMS, "motion changed 6"),
    "precision": (configure(model={"precision": "fp32"}), ALL_FILMS, "model changed 6"),
    "quality": (configure(film={"crf": 30}), ALL_FILMS, "film changed 6"),
    "what films have anyway": (configure(film={"encoder": "x264", "preset": None}), {}),
    "network": (configure(model={"preset": "demo-drawings"}), {"motion": 2, **ALL_FILMS}, "model changed 6"),
    "crop of all pictures": (configure(crop={"images": "none", "driving": "center"}), {"crop": 3, **ALL_FILMS}),
    "crop of a picture": (configure(files={"red.png": {"crop": [0, 0, 32, 32]}}), A_PICTURE, "crop changed 2"),
    "crop of a video": (configure(files={"a.mp4": {"crop": [0, 0, 48, 48]}}), A_VIDEO, "crop changed 3"),
    "sound": (configure(audio=False), {"remux": 6}),
    "sound of one video": (configure(files={"a.mp4": {"audio": False}}), {"remux": 3}, "audio changed 3"),
    "tag": (configure(provenance=False), {"remux": 6}),
    "enlarged": (configure(upscale=512), {"show": 6, "remux": 6}, "upscale changed 6"),
    "pasted back": (configure(paste_back=True), {"show": 6, "remux": 6}, "paste_back changed 6"),
    "title": (configure(gallery={"title": "Another", "report": False}), {}),
    "size of jobs": (configure(pairs_per_job=2), {}),
    "rate": (configure(frames_per_second=1000), {}),
    "results elsewhere": (configure(results="other"), ALL_FILMS),
    # films
    "film deleted": (gone("results/a/red.mp4"), ONE_FILM, "film gone 1"),
    "film altered": (lambda run: scribble("results/b/blue.mp4"), ONE_FILM),
    "film of another size": (lambda run: run.write("results/b/blue.mp4", "x"), ONE_FILM, "film altered 1"),
    "record deleted": (gone("results/b/green.json"), ONE_FILM),
    "record damaged": (lambda run: run.write("results/b/green.json", "{"), {}),
    "films touched": (touch("results/*/*.mp4"), {}),
    "pair forgotten": (forget("a/red"), ONE_FILM, "forgotten 1"),
    "video forgotten": (forget("b/"), {"animate": 3, "remux": 3}),
    "pair forgotten and the ledger gone": (both(forget("a/red"), gone(".talkies/ledger")), ONE_FILM),
    # inputs
    "picture replaced": (lambda run: run.write("images/red.png", "red second"), A_PICTURE, "picture changed 2"),
    "video replaced": (lambda run: make_clip(Path("driving/a.mp4"), frames=2, tone=900), A_VIDEO, "video changed 3"),
    "picture added": (lambda run: run.write("images/new.png", "new"), A_PICTURE, "new picture 2"),
    "video added": (lambda run: make_clip(Path("driving/c.mp4"), frames=2, tone=990), A_VIDEO, "new video 3"),
    "variant added": (
        both(
            lambda run: run.write("pairs.tsv", "image\tdriving\tvariant\nred\ta\tx\nred\ta\t\n"),
            configure(pairs="pairs.tsv"),
        ),
        ONE_FILM,
        "new pair 1",
    ),
    "picture removed": (gone("images/red.png"), {}),
    "picture renamed": (lambda run: Path("images/red.png").rename("images/rose.png"), A_PICTURE),
    "inputs touched": (both(touch("images/*"), touch("driving/*")), {}),
    "the folder copied without times": (copied, {}),
    # what the run remembers
    "nothing remembered": (gone(".talkies"), {"crop": 3, "cut": 2}),
    "ledger gone": (gone(".talkies/ledger"), {}),
    "ledger torn": (torn, {}),
    "plan gone": (gone(".talkies/plan.json"), {}, ""),
    "plan damaged": (lambda run: run.write(".talkies/plan.json", "{"), {}),
    "done files gone": (lambda run: shutil.rmtree(".talkies/done", ignore_errors=True), {}),
    "facts of inputs gone": (gone(".talkies/inputs.json"), {}),
    "facts of inputs and the ledger gone": (gone(".talkies/inputs.json", ".talkies/ledger"), {}),
    "prepared pictures gone": (gone(".talkies/sources"), {"crop": 3}),
    "a prepared picture altered": (lambda run: scribble(".talkies/sources/red.png"), {"crop": 1}),
    "motions gone": (gone(".talkies/motion"), {}),
    **{
        f"{what} in the place of {path}": (instead_of(path, what), {})
        for path in (
            ".talkies/ledger",
            ".talkies/plan.json",
            ".talkies/inputs.json",
        )
        for what in ("folder", "loop", "dangling link", "rubbish")
        if path != ".talkies/ledger" or what == "folder"
    },
    "rubbish in a ledger": (instead_of(".talkies/ledger/pairs-0001.jsonl", "rubbish"), {}),
    # several at once
    "motion with a film deleted": (both(configure(**MOTION), gone("results/a/red.mp4")), ALL_FILMS, "motion changed 6"),
    "sound with motions gone": (both(configure(audio=False), gone(".talkies/motion")), {"remux": 6}, "audio changed 6"),
    "enlarged with a film deleted": (
        both(configure(upscale=512), gone("results/a/red.mp4")),
        {"animate": 1, "show": 6, "remux": 6},
    ),
    "ledger gone with a film deleted": (both(gone(".talkies/ledger"), gone("results/a/red.mp4")), ONE_FILM),
    "motion gone and needed": (
        both(gone(".talkies/motion"), gone("results/a/red.mp4")),
        {"motion": 1, "animate": 1, "remux": 1},
    ),
}


@pytest.mark.parametrize("row", CHANGES.values(), ids=CHANGES)
def test_what_is_said_is_what_is_made(run: ToyRun, row: tuple) -> None:
    change, due, *why = row
    change(run)
    assert run.due() == due
    assert not why or run.plan()[1].why == why[0]
    assert run.run() == Counter(due)
    is_calm(run)


def test_several_reasons_are_said_the_most_frequent_first(run: ToyRun) -> None:
    both(configure(upscale=512, **MOTION), lambda run: run.write("images/new.png", "new"))(run)
    assert run.plan()[1].why == "motion and upscale changed 6, new picture 2"


BACK = ["motion", "network", "crop of all pictures", "sound", "enlarged", "pasted back", "quality"]


@pytest.mark.parametrize("name", BACK)
def test_a_setting_changed_back_before_a_run_makes_nothing_and_after_one_all_again(run: ToyRun, name: str) -> None:
    change, due, *_ = CHANGES[name]
    change(run)
    run.settings = {}
    is_calm(run)
    change(run)
    run.run()
    run.settings = {}
    again = {stage: count for stage, count in due.items() if stage != "show"}
    if name in ("enlarged", "pasted back"):
        again = {"animate": 6, "remux": 6}
    assert run.due() == again
    assert run.run() == Counter(again)
    is_calm(run)


def test_a_prepared_picture_that_is_touched_before_its_first_film_is_not_prepared_again(new: ToyRun) -> None:
    plan, state = new.plan()
    planner.start_run(plan, state)
    (shard,) = plan.tasks["crop"]
    new.job("crop", plan.name(shard))
    planner.end_run()
    touch("images/*")(new)
    assert new.due() == {"cut": 2, "motion": 2, "animate": 6, "remux": 6}


def test_a_picture_that_is_removed_and_back_is_not_made_again(run: ToyRun) -> None:
    Path("images/red.png").rename("red.png")
    assert run.run() == Counter()
    Path("red.png").rename("images/red.png")
    assert run.run() == Counter(), "the gallery alone is written again"
    is_calm(run)


def test_a_pilot_makes_the_first_pairs_and_takes_nothing_away(new: ToyRun) -> None:
    pilot, everything = configure(first=2), configure(first=None)
    pilot(new)
    assert new.run() == Counter(crop=2, cut=1, motion=1, animate=2, remux=2)
    everything(new)
    assert new.run() == Counter(crop=1, cut=1, motion=1, animate=4, remux=4)
    for change in (lambda run: None, gone(".talkies/done")):  # also as after an interrupted run
        change(new)
        configure(first=1)(new)
        assert new.run() == Counter()
        plan, _ = new.plan()
        assert (list(upkeep.orphans(plan)), upkeep.leftovers(plan)) == ([], [])
    everything(new)
    is_calm(new)


# --- failures ----------------------------------------------------------------------------------------------


def test_a_broken_input_fails_alone_and_is_not_tried_again_until_it_changes(new: ToyRun) -> None:
    new.write("images/red.png", "broken")
    new.run()
    assert new.counts() == Counter(crop=2, cut=2, motion=2, animate=4, remux=4)
    _, state = new.plan()
    assert state.failed == dict.fromkeys(("a/red", "b/red"), "images/red.png: broken: mend it")
    is_calm(new)
    new.write("images/red.png", "mended")
    assert new.run() == Counter(crop=1, animate=2, remux=2)
    is_calm(new)


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (lambda: Path("images/red.png").write_text("broken"), lambda: Path("images/red.png").write_text("red")),
        (
            lambda: (Path("images/red.png").unlink(), Path("images/red.png").symlink_to("/nowhere")),
            lambda: (Path("images/red.png").unlink(), Path("images/red.png").write_text("red")),
        ),
        (lambda: Path("driving/a.mp4").write_text("broken"), None),
    ],
    ids=["broken", "dangling link", "broken clip"],
)
def test_an_input_that_breaks_later_fails_its_pairs_and_no_other(run: ToyRun, spoil, mend) -> None:
    spoil()
    run.run()
    _, state = run.plan()
    assert set(state.failed) == ({"a/red", "b/red"} if mend else {"a/blue", "a/green", "a/red"})
    assert run.counts() == Counter()
    assert run.due() == {}
    if mend:
        mend()
        run.run()
        is_calm(run)
        assert run.plan()[1].failed == {}


def test_forgetting_failed_pairs_reads_their_inputs_again(new: ToyRun) -> None:
    new.write("images/red.png", "broken")
    new.run()
    with pytest.raises(TalkiesError, match=r"^a/ada: no pair of this run: name it driving/image"):
        forget("a/ada")(new)
    with lock(LOCKS / "pairs-0001.lock", say=print), pytest.raises(TalkiesError, match=r"^workers are at work"):
        upkeep.leftovers(new.plan()[0])
    forget(failed=True)(new)
    assert new.due() == {"crop": 1, "animate": 2, "remux": 2}


# --- kills -------------------------------------------------------------------------------------------------


def points(run: ToyRun) -> int:
    run.events = 0
    run.run()
    return run.events


def killed_at(run: ToyRun, number: int) -> None:
    """Run, and kill the worker at an event."""
    run.events, run.kill_at = 0, number
    with pytest.raises(Killed):
        run.run()
    run.kill_at = None


@pytest.mark.parametrize("change", ["first run", "crop of all pictures", "sound", "enlarged"])
def test_a_worker_killed_at_any_event_loses_nothing_and_nothing_is_made_twice(
    change: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: ToyRun = request.getfixturevalue("new")
    for path in (Path("images/blue.png"), Path("driving/a.mp4")):
        path.unlink()
    if change != "first run":
        run.run()
        CHANGES[change][0](run)
    before = tmp_path.with_name(f"{tmp_path.name}-before")
    shutil.copytree(tmp_path, before)
    most = points(run)

    def killed_afresh(number: int) -> None:
        os.chdir(tmp_path.parent)
        shutil.rmtree(tmp_path)
        shutil.copytree(before, tmp_path)
        os.chdir(tmp_path)
        killed_at(run, number)

    for number in range(1, most + 1):
        killed_afresh(number)
        for path in Path("results").glob("*/*.json"):
            assert json.loads(path.read_text()), "a record is whole"
        finished = Counter(run.made)
        said = run.due()
        assert run.run() == Counter(said)
        # What was finished before the kill is made again only if the kill came before its record.
        again = [item for item in run.made if item in finished]
        assert len(again) <= 1, again
        is_calm(run)
        killed_afresh(number)
        run.jobs(planner.Plan.load(lambda _: run.stages))  # the job is tried again in the same run
        is_calm(run)


def test_a_hundred_kills_at_random_moments(new: ToyRun) -> None:
    chance = random.Random(7)
    changes = [
        configure(motion={"relative": False}),
        configure(audio=False),
        configure(upscale=512),
        configure(upscale=None),
    ]
    changes += [configure(motion={"relative": True}), configure(audio=True), gone("results/a/red.mp4")]
    for _ in range(100):
        if Path("results/a/red.mp4").exists():
            chance.choice(changes)(new)
        new.events, new.kill_at = 0, chance.randint(1, 40)
        try:
            new.run()
            is_calm(new)
        except (Killed, TalkiesError):
            # TalkiesError: killed between a talkie's new record and its film, and then asked for the old pixels.
            continue
    new.kill_at = None
    said = new.due()
    assert new.run() == Counter(said)
    is_calm(new)
