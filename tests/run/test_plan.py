"""The plan: which pairs go into which shard and stay there, what is known of the inputs, how fast films will come."""

from __future__ import annotations

import itertools
import json
import os
import threading
from pathlib import Path
from typing import Any

import clips
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folder import draw_picture, make_clip, write_weights

from talkies import media
from talkies.errors import TalkiesError
from talkies.media.crop import Request
from talkies.run import estimate, inputs, planner
from talkies.run import shards as deal
from talkies.run.folder import HOME, INPUTS, LOCKS
from talkies.run.ledger import Failed, Ledger, Made, note
from talkies.run.lock import lock
from talkies.run.pairs import Pair, Source, Take
from talkies.run.plan import Plan
from talkies.run.state import State
from talkies.settings import complete
from talkies.stages import STAGES, table

NONE = Request("none")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and two clips, made once: a has 5 frames, b has 9."""
    folder = tmp_path_factory.mktemp("material")
    draw_picture(folder / "picture.png", (200, 40, 40))
    make_clip(folder / "a.mp4", frames=5)
    make_clip(folder / "b.mp4", frames=9)
    return folder


@pytest.fixture
def folder(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a run folder with three pictures and the two clips."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "driving").mkdir()
    for name in ("blue", "green", "red"):
        add_picture(name, material)
    for name in ("a", "b"):
        os.link(material / f"{name}.mp4", tmp_path / "driving" / f"{name}.mp4")
    return tmp_path


def add_picture(name: str, material: Path) -> None:
    Path(f"images/{name}.png").write_bytes((material / "picture.png").read_bytes())


def planned(previous: Plan | None = None, *, on_cluster: bool = False, **settings: Any) -> Plan:
    """Plan the working folder, after a run with the previous plan if given."""
    base = {"images": "images", "driving": "driving", "crop": "center", "pairs_per_job": 3}
    if previous is not None:
        previous.save()
    planner.nonce.cache_clear()  # as in a new process
    return planner.make_plan(complete(base | settings), table, on_cluster=on_cluster)[0]


def finish(plan: Plan, *shards: str) -> None:
    """Note in the ledger that these shards of pairs, or all, were worked on; every film failed."""
    for shard in shards or plan.shards["pairs"]:
        note(shard, *(Failed(stage="remux", item=name, key="k", reason="x") for name in plan.shards["pairs"][shard]))


# --- folders to shards -------------------------------------------------------------------------------------


def test_every_picture_with_every_video(folder: Path) -> None:
    made = planned()
    assert list(made.pairs) == [f"{clip}/{image}" for clip in "ab" for image in ("blue", "green", "red")]
    assert {take.driving: take.frames for take in made.takes.values()} == {"a": 5, "b": 9}
    assert made.shards["pictures"] == {"pictures-0001": ["blue", "green", "red"]}
    assert made.shards["takes"] == {"clips-0001": ["a", "b"]}
    assert made.shards["pairs"] == {
        "pairs-0001": ["a/blue", "a/green", "a/red"],
        "pairs-0002": ["b/blue", "b/green", "b/red"],
    }
    assert made.shard_of(made.table["crop"], "red") == "pictures-0001"
    assert made.shard_of(made.table["motion"], "b") == "clips-0001"


def test_clips_are_probed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[str] = []
    probe = media.probe
    monkeypatch.setattr(inputs.media, "probe", lambda path: probed.append(path.name) or probe(path))
    planned()
    assert sorted(probed) == ["a.mp4", "b.mp4"]
    assert INPUTS.exists()
    planned()
    assert sorted(probed) == ["a.mp4", "b.mp4"]
    os.utime("driving/b.mp4", (5, 5))
    planned()
    assert sorted(probed) == ["a.mp4", "b.mp4", "b.mp4"]


@pytest.mark.parametrize("name", ["plain.mp4", "phone.mp4", "vorbis.webm", "loop.gif", "late.mp4"])
def test_what_was_found_in_a_clip_is_kept_whole(name: str) -> None:
    clip = media.probe(clips.get(name))
    kept = json.loads(json.dumps(clip.to_dict()))
    assert media.Clip.from_dict(clip.path, kept) == clip


@pytest.mark.parametrize("damage", [{"rate": "x"}, {"rate": 25}, {"frames": "9"}, {"sound": [1]}, {"rate": "1/0"}])
def test_a_damaged_note_of_a_clip_says_nothing(folder: Path, damage: dict) -> None:
    frames = planned().takes["a"].frames
    noted = json.loads(INPUTS.read_text())
    noted["driving/a.mp4"]["clip"] |= damage
    INPUTS.write_text(json.dumps(noted))
    assert inputs.clip_of(Path("driving/a.mp4")) == media.probe(Path("driving/a.mp4"))
    assert planned().takes["a"].frames == frames
    assert json.loads(INPUTS.read_text())["driving/a.mp4"]["clip"]["frames"] == frames, "the cache is repaired"


def test_clips_are_probed_at_once_and_none_fails_the_planning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def probe(path: Path) -> media.Clip:
        both.wait(timeout=60)  # raises another error unless both are here
        raise TalkiesError(f"{path}: took too long")

    monkeypatch.setattr(inputs, "available_threads", lambda: 2)
    monkeypatch.setattr(inputs.media, "probe", probe)
    assert [take.frames for take in planned().takes.values()] == [0, 0]


def test_the_work_of_a_job_is_capped_by_its_minutes(folder: Path) -> None:
    # At one frame a second, a pair with a takes 6 seconds, and one with b 10.
    made = planned(frames_per_second=1, job_minutes=0.22, pairs_per_job=100)
    assert [len(names) for names in made.shards["pairs"].values()] == [2, 1, 1, 1, 1]
    one = planned(frames_per_second=1, job_minutes=0.01, pairs_per_job=100)
    assert [len(names) for names in one.shards["pairs"].values()] == [1] * 6, "a pair that is too long gets its own job"


def test_the_pairs_table_makes_variants_and_takes(folder: Path) -> None:
    Path("pairs.tsv").write_text(
        "image\tdriving\tvariant\tstart\tend\trelative\tadapt_scale\tbest_frame\taudio\n"
        "red\ta\n"
        "red\ta\tfree\t\t\tfalse\tfalse\t\t\n"
        "blue.png\tb.mp4\tlate\t0.08\t0.2\t\t\t2\tfalse\n"
        "blue\tb\topen\t0.2\t\t\t\tauto\t\n"
        "green\tb\tstart\t\t0.1\t\t\t\t\n"
        "blue\tb\tzero\t0\t0.1\t\t\t\t\n"
    )
    made = planned(pairs="pairs.tsv")
    assert list(made.pairs) == ["a/red", "a/red@free", "b/blue@late", "b/blue@open", "b/blue@zero", "b/green@start"]
    assert made.pairs["a/red@free"] == Pair("a", "red", "free", relative=False, adapt_scale=False)
    assert made.pairs["b/blue@late"] == Pair("b", "blue", "late", "0.08", "0.2", best_frame=2, audio=False)
    assert made.pairs["b/blue@open"] == Pair("b", "blue", "open", "0.2", best_frame="auto")
    frames = {name: take.frames for name, take in made.takes.items()}
    assert frames == {"a": 5, "b@0.08-0.2": 3, "b@0.2-end": 4, "b@0-0.1": 2}, "a segment from the start may say so"
    Path("pairs.tsv").write_text("image\tdriving\nred\ta\n")
    assert set(planned(pairs="pairs.tsv").sources) == {"red"}, "no pair uses the others"


def test_crops_by_kind_and_file(folder: Path) -> None:
    files = {"red.png": {"crop": [1, 2, 3, 4]}, "b.mp4": {"crop": "center"}}
    made = planned(crop={"images": "none"}, files=files)
    assert {name: source.crop.plain for name, source in made.sources.items()} == {
        "blue": "none",
        "green": "none",
        "red": [1, 2, 3, 4],
    }
    assert {name: take.crop.plain for name, take in made.takes.items()} == {"a": "face", "b": "center"}


def test_names_that_can_not_be_used_are_refused(folder: Path, material: Path) -> None:
    Path("pairs.tsv").write_text("image\tdriving\tcrop\tstart\nred\ta\t1,2,30,40\t0.1\n")
    for name, rows, said in (
        ("images/red.webp", None, r"red\.png.*red\.webp.*rename|red\.webp.*red\.png.*rename"),
        ("driving/index_files.mp4", None, r"index_files.*rename"),
        (f"images/{'x' * 161}.png", None, "a name of over 160 bytes: shorten it"),
        ("images/red@1-2-30-40.png", "pairs.tsv", "named like a crop of red: rename it"),
    ):
        os.link(material / "picture.png", name)
        with pytest.raises(TalkiesError, match=said):
            planned(pairs=rows)
        Path(name).unlink()
    Path("empty").mkdir()
    with pytest.raises(TalkiesError, match="images: no file in empty"):
        planned(images="empty")


# --- dealt out ---------------------------------------------------------------------------------------------

items = st.dictionaries(st.text("abcdefg", min_size=1, max_size=3), st.floats(0, 10), max_size=12)
caps = st.tuples(st.integers(1, 5), st.floats(0.5, 20))


@given(items, caps, st.integers(1, 6))
def test_every_item_is_in_one_shard_the_caps_hold_and_all_gpus_have_work(
    weights: dict[str, float], cap: tuple[int, float], gpus: int
) -> None:
    most, heaviest = cap
    shards = deal.assign("s", weights, {}, most, lambda _: heaviest, at_least=gpus)
    assert [item for members in shards.values() for item in members] == list(weights)
    assert len(shards) >= min(gpus, len(weights))
    for members in shards.values():
        assert 1 <= len(members) <= most
        assert len(members) == 1 or sum(weights[item] for item in members) <= heaviest * (1 + 1e-9)
    assert shards == deal.assign("s", weights, {}, most, lambda _: heaviest, at_least=gpus)
    assert shards == deal.assign("s", weights, shards, most, lambda _: heaviest)


def test_a_shard_has_items_of_one_kind() -> None:
    """A job loads one engine."""
    weights = dict.fromkeys(("a@x", "a@y", "b@x", "b@y"), 1.0)
    shards = deal.assign("s", weights, {"s-0001": ["a@x", "a@y"]}, 10, lambda _: 100, kind=lambda item: item[-1])
    assert shards == {"s-0001": ["a@x"], "s-0002": ["b@x"], "s-0003": ["a@y", "b@y"]}


@given(st.lists(items, min_size=2, max_size=5), caps)
def test_items_that_come_and_go_move_no_other(rounds: list[dict[str, float]], cap: tuple[int, float]) -> None:
    most, heaviest = cap
    shards: dict[str, list[str]] = {}
    for weights in rounds:
        before = {item: shard for shard, members in shards.items() for item in members}
        known = set(shards)
        shards = deal.assign("s", weights, shards, most, lambda _: heaviest)
        after = {item: shard for shard, members in shards.items() for item in members}
        assert set(after) == set(weights)
        for item, shard in after.items():
            assert shard == before[item] if item in before else shard not in known
        assert all(1 <= len(members) <= most for members in shards.values())


@pytest.mark.parametrize("rate", [10, 40, 100])
@pytest.mark.parametrize(
    ("pictures", "clips", "frames"), [(1, 10_000, 75), (10_000, 1, 250), (100, 100, 500), (2000, 3, 9000)]
)
def test_shards_are_worth_15_to_60_minutes(rate: float, pictures: int, clips: int, frames: int) -> None:
    made = large({"gpus": 8}, pictures, clips, frames, rate)
    deal.deal(made, None, Ledger(), on_cluster=True)
    minutes = spent(made, "pairs")
    assert max(minutes) <= 60
    assert sum(minute < 15 for minute in minutes) <= 1, "only the last one may be shorter"
    assert len(minutes) >= 8
    assert max(spent(made, "pictures") + spent(made, "takes")) <= 60


def large(settings: dict[str, Any], pictures: int, clips: int, frames: int, rate: float) -> Plan:
    """Return a plan of many pairs, not dealt yet."""
    takes = {f"{n:05d}": Take(f"{n:05d}", "", NONE, frames=frames) for n in range(clips)}
    sources = {f"{n:05d}": Source("", NONE) for n in range(pictures)}
    pairs = {pair.name: pair for take in takes for image in sources for pair in [Pair(take, image)]}
    made = Plan(settings=complete(settings), sources=sources, takes=takes, pairs=pairs, rates={"fomm": rate})
    made.stages = STAGES
    return made


def spent(made: Plan, kind: str) -> list[float]:
    """Return the minutes that the stages of each shard of a kind are expected to take."""
    stages = [stage for stage in made.stages if stage.of == kind]
    return [
        sum(stage.seconds(made, item) for stage in stages for item in made.items(stage, shard)) / 60
        for shard in made.shards[kind]
    ]


def test_on_one_machine_the_first_films_come_soon_and_jobs_grow() -> None:
    made = large({"pairs_per_job": 2000}, 1000, 1, 200, 10)
    deal.deal(made, None, Ledger())
    minutes = spent(made, "pairs")
    assert minutes[0] <= 3
    assert all(before <= after <= 30 for before, after in itertools.pairwise(minutes[:-1]))


def test_another_number_of_gpus_deals_out_anew_what_is_not_finished(folder: Path) -> None:
    first = planned(pairs_per_job=6)
    assert list(first.shards["pairs"]) == ["pairs-0001"]
    spread = planned(first, on_cluster=True, pairs_per_job=6, gpus=3)
    assert [len(names) for names in spread.shards["pairs"].values()] == [2, 2, 1, 1]
    assert "pairs-0001" not in spread.shards["pairs"], "a shard's name is not reused"
    finish(first)
    assert planned(first, pairs_per_job=6, gpus=3).shards["pairs"] == first.shards["pairs"]


def test_the_rate_is_learnt_of_films_of_the_same_kind(folder: Path) -> None:
    unknown = planned().rates["fomm"]
    films = [("fomm demo cpu", 1), ("fomm demo cpu", 2), ("fomm demo cpu", 4), ("fomm demo cuda", 0.1), ("x cpu", 50)]
    for number, (by, seconds) in enumerate(films):
        made = {"item": f"a/{number}", "key": "k", "size": 1, "mtime_ns": 1, "frames": 100}
        note("pairs-0001", Made(stage="animate", seconds=seconds, by=by, **made))
    assert planned(model={"device": "cpu"}).rates["fomm"] == 50
    assert planned(model={"device": "cuda"}).rates["fomm"] == 1000
    assert planned(on_cluster=True).rates["fomm"] == 1000, "auto means the GPU that each job requests"
    assert planned(on_cluster=True, slurm={"gpu": {"gpu": 0}}).rates["fomm"] == 50
    assert planned(model={"device": "cpu"}, frames_per_second=7).rates["fomm"] == 7
    weights = {"preset": "vox-256", "checkpoint": "w.safetensors", "device": "cpu"}
    write_weights(Path("w.safetensors"))
    assert planned(model=weights).rates["fomm"] < unknown, "a larger network is expected to be slower"


def test_the_rate_of_a_program_is_its_own_until_films_are_finished_and_its_start_is_counted_by_itself(
    folder: Path,
) -> None:
    own = {"name": "x", "command": "x {source} {driving} {output}", "frames_per_second": 2, "load_seconds": 30}
    fresh = planned(engine=own)
    pair, (name,) = fresh.pairs["a/blue"], fresh.programs
    frames = fresh.takes[pair.take].frames
    assert name == "x"
    assert fresh.first.seconds(fresh, "a/blue") == pytest.approx(0.3 + 30 + frames / 2)
    together = planned(engine={**own, "command": "x {jobs}", "batch": True})
    assert together.first.seconds(together, "a/blue") == pytest.approx(0.3 + frames / 2), "one start for all"
    made = {"item": "a/0", "key": "k", "size": 1, "mtime_ns": 1, "frames": 100}
    note("pairs-0001", Made(stage="animate", seconds=50, by="x cpu", **made))
    assert planned(engine=own).rates["x"] == 5, "100 frames in 20 s after 30 s of loading"


def test_the_estimate_of_a_run_counts_every_stage_and_each_jobs_start(folder: Path) -> None:
    made = planned(frames_per_second=1e6)
    work = sum(task.seconds for tasks in made.tasks.values() for task in tasks.values())
    jobs = sum(map(len, made.tasks.values())) + len(made.pages)
    loads = len(made.tasks["motion"]) + len(made.tasks["animate"])
    least = estimate.RUN_SECONDS + work + jobs * estimate.JOB_SECONDS + loads * estimate.LOAD_SECONDS
    assert least < estimate.run_seconds(made, 1) < least + 6 * len(made.takes) + 3 * len(made.sources)
    assert estimate.run_seconds(made, 8) < estimate.run_seconds(made, 1)


def test_a_pilot_plans_the_first_pairs_to_make_and_those_that_are_done(folder: Path) -> None:
    pilot = planned(first=2)
    assert pilot.shards["pairs"] == {"pairs-0001": ["a/blue", "a/green"]}
    assert set(pilot.takes) == {"a"}
    assert pilot.is_pilot
    everything = planned(pilot)
    assert everything.shards["pairs"]["pairs-0001"] == ["a/blue", "a/green"]
    assert len(everything.pairs) == 6
    again = planned(everything, first=1)
    assert len(again.pairs) == 1


def test_files_that_come_and_go_leave_the_other_shards_as_they_were(folder: Path, material: Path) -> None:
    first = planned()
    add_picture("amber", material)
    second = planned(first)
    assert {shard: second.shards["pairs"][shard] for shard in first.shards["pairs"]} == first.shards["pairs"]
    assert second.shards["pairs"]["pairs-0003"] == ["a/amber", "b/amber"]
    assert second.shards["pictures"] == {"pictures-0001": ["blue", "green", "red"], "pictures-0002": ["amber"]}
    Path("images/green.png").unlink()
    third = planned(second)
    assert third.shards["pairs"] == {
        "pairs-0001": ["a/blue", "a/red"],
        "pairs-0002": ["b/blue", "b/red"],
        "pairs-0003": ["a/amber", "b/amber"],
    }


# --- saved and loaded --------------------------------------------------------------------------------------


# By name it sorts before the built-in engine, which is the default nevertheless.
BEFORE = {"name": "a", "command": "make {source} {driving} {output}", "side": 64}


def test_pairs_of_a_living_worker_are_not_given_to_another_shard(folder: Path) -> None:
    """Two workers could write one film. Shards that keep their pairs may wait for their worker."""
    first = planned()
    first.save()
    again = planned(first, pairs_per_job=2)
    assert set(first.shards["pairs"]["pairs-0001"]) & {
        name for s in list(again.shards["pairs"])[1:] for name in again.shards["pairs"][s]
    }
    with lock(LOCKS / "pairs-0001.lock", say=print):
        planner.start_run(first, State())
        with pytest.raises(TalkiesError, match=r"a worker of an earlier run is still at work \(pairs-0001"):
            planner.start_run(again, State())
        assert Plan.load(table).shards["pairs"] == first.shards["pairs"], "the plan stays that of the worker"
    planner.start_run(again, State())
    assert Plan.load(table).shards["pairs"] == again.shards["pairs"]


@pytest.mark.parametrize("engines", [None, ["fomm", BEFORE]], ids=["one engine", "two engines"])
@pytest.mark.parametrize("by_table", [False, True])
def test_a_plan_is_loaded_as_it_was_saved(folder: Path, by_table: bool, engines: list | None) -> None:
    Path("pairs.tsv").write_text(
        "image\tdriving\tvariant\tstart\tend\trelative\tbest_frame\taudio\tcrop\n"
        "red\ta\nred\ta\tx\t\t\tfalse\t1\ttrue\t\nblue\tb\ty\t0.1\t\ttrue\tauto\tfalse\t1,2,30,40\n"
    )
    made = planned(pairs="pairs.tsv" if by_table else None, audio=False, motion={"best_frame": 1}, engines=engines)
    made.save()
    loaded = Plan.load(table)
    keys = {(stage.name, item): made.key(stage, item) for stage in made.stages for item in made.everything(stage.of)}
    assert {about: loaded.key(loaded.table[about[0]], about[1]) for about in keys} == keys
    assert (loaded.pairs, loaded.shards, loaded.tasks, loaded.settings) == (
        *(made.pairs, made.shards, made.tasks, made.settings),
    )


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 0}'])
def test_what_is_no_plan_is_refused(folder: Path, content: str | None) -> None:
    if content is not None:
        HOME.mkdir()
        (HOME / "plan.json").write_text(content)
    with pytest.raises(TalkiesError, match="snakemake"):
        Plan.load(table)
