"""The workflow as users run it: what is made, when and how often, and what happens after failures.

Every test runs the real Snakemake on the shipped Snakefile.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
from PIL import Image
from run_folder import REPOSITORY, RunFolder, draw_picture, jobs_in, make_clip, wait_for

from talkies import media
from talkies.files import file_digest

PAIRS = [f"{clip}/{image}" for clip in ("a", "b") for image in ("blue", "green", "red")]
NOTHING = "Nothing to be done"
SNAKEFILE = REPOSITORY / "Snakefile"


def test_a_run_makes_every_pair_with_sound_record_and_gallery(finished: RunFolder) -> None:
    finished.whole(PAIRS)
    for pair in PAIRS:
        clip = media.probe(finished.film(pair))
        assert (clip.width, clip.height) == (256, 256)
        assert clip.frames == {"a": 5, "b": 6}[pair[0]]
        assert clip.sound is not None
        assert "AI-generated" in media.tags(finished.film(pair))["comment"]
        record = finished.record(pair)
        driving = finished.path / "driving" / f"{pair[0]}.mp4"
        assert record["driving"]["sha256"] == file_digest(driving)
        assert record["source"]["sha256"] == file_digest(finished.path / "images" / f"{pair[2:]}.png")
        assert record["model"]["preset"] == "demo"
        assert record["source"]["crop"]["box"] == [0, 0, 64]
    page = (finished.path / "results/index.html").read_text()
    assert all(pair.split("/")[1] in page for pair in PAIRS)
    assert len(set(finished.films().values())) == len(PAIRS)


def test_receipts_are_small_and_those_written_again_tell_the_same(run: RunFolder) -> None:
    before = run.receipts()
    assert all(len(content) < 1_000_000 for content in before.values())
    assert {name.partition(".")[0] for name in before} == {
        *(f"prepare/{s}" for s in ("pictures-0001", "clips-0001")),
        "motion/clips-0001",
        *(f"{stage}/pairs-000{n}" for stage in ("animate", "remux") for n in (1, 2)),
        "gallery/all",
    }
    shutil.rmtree(run.path / ".talkies/receipts")
    run.snakemake()
    told = {name.partition(".")[0]: content for name, content in before.items() if "gallery" not in name}
    assert {n.partition(".")[0]: c for n, c in run.receipts().items() if "gallery" not in n} == told
    assert run.events("animated") == run.events("remuxed") == run.events("motion") == []


def test_nothing_changed_nothing_to_do(run: RunFolder) -> None:
    assert NOTHING in run.snakemake()


def test_a_dry_run_writes_nothing_and_tells_what_is_to_come(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["one", "two"], clips=["a"])
    output = run.snakemake("-n")
    assert "2 pictures, 1 video: 2 pairs in 1 job; 2 to make" in output
    assert not (run.path / "results").exists()
    assert [p.name for p in (run.path / ".talkies").iterdir()] == ["probes.json"]


def test_an_added_picture_makes_its_pairs_alone_in_a_shard_of_its_own(run: RunFolder) -> None:
    before = run.films()
    draw_picture(run.path / "images/new.png", (1, 200, 200))
    output = run.snakemake()
    assert sorted(run.events("animated")) == ["a/new", "b/new"]
    assert jobs_in(output, "animate") == jobs_in(output, "remux") == jobs_in(output, "prepare") == 1
    assert jobs_in(output, "motion") == 0
    after = run.films()
    assert all(after[pair] == before[pair] for pair in PAIRS)
    run.whole([*PAIRS, "a/new", "b/new"])
    assert NOTHING in run.snakemake()


def test_an_added_clip_makes_its_pairs_alone(run: RunFolder) -> None:
    make_clip(run.path / "driving/c.mp4", frames=4)
    output = run.snakemake()
    assert sorted(run.events("animated")) == ["c/blue", "c/green", "c/red"]
    assert run.events("motion") == ["c"]
    assert jobs_in(output, "animate") == 1
    assert NOTHING in run.snakemake()


def test_a_changed_picture_makes_its_pairs_alone(run: RunFolder) -> None:
    before = run.films()
    draw_picture(run.path / "images/red.png", (255, 255, 0))
    run.snakemake()
    assert sorted(run.events("animated")) == ["a/red", "b/red"]
    after = run.films()
    assert {pair for pair in PAIRS if after[pair] != before[pair]} == {"a/red", "b/red"}
    assert NOTHING in run.snakemake()


def test_a_picture_replaced_by_an_older_file_is_noticed(run: RunFolder) -> None:
    old = run.path / "old.png"
    draw_picture(old, (7, 7, 7))
    os.utime(old, (1_000_000_000, 1_000_000_000))
    old.rename(run.path / "images/red.png")
    run.snakemake()
    assert sorted(run.events("animated")) == ["a/red", "b/red"]
    assert NOTHING in run.snakemake()


def test_a_changed_clip_makes_its_pairs_and_its_motion_alone(run: RunFolder) -> None:
    make_clip(run.path / "driving/a.mp4", frames=7, tone=900)
    run.snakemake()
    assert sorted(run.events("animated")) == ["a/blue", "a/green", "a/red"]
    assert run.events("motion") == ["a"]
    assert NOTHING in run.snakemake()


def test_a_removed_picture_leaves_its_films_until_clean_removes_them(run: RunFolder) -> None:
    before = run.films()
    (run.path / "images/red.png").unlink()
    output = run.snakemake()
    assert run.events("animated") == []
    assert jobs_in(output, "prepare") == jobs_in(output, "motion") == 0, "the other shards have not changed"
    assert run.films() == before
    listing = run.talkies("status")
    assert "4 pairs: 4 done, 0 failed, 0 to make" in listing
    assert listing.count("no longer asked for") == 2
    assert "results/a/red.mp4" in run.talkies("clean", "--dry-run")
    assert run.films() == before
    run.talkies("clean")
    run.whole([pair for pair in PAIRS if "red" not in pair])
    assert not (run.path / ".talkies/sources/red.png").exists()
    assert NOTHING in run.snakemake()


def test_a_touched_file_computes_nothing(run: RunFolder) -> None:
    before = run.films()
    for path in (*run.path.glob("images/*"), *run.path.glob("driving/*"), *run.path.glob("results/*/*.mp4")):
        os.utime(path)
    run.snakemake()
    assert run.events("animated") == run.events("remuxed") == run.events("motion") == []
    assert run.films() == before
    assert NOTHING in run.snakemake()


def test_a_copy_elsewhere_without_file_times_computes_nothing(run: RunFolder, tmp_path) -> None:
    copy = run.copy(tmp_path / "elsewhere/on another disk", times=False)
    shutil.rmtree(copy.path / ".snakemake")
    copy.snakemake()
    assert copy.events("animated") == copy.events("remuxed") == []
    assert copy.films() == run.films()


def test_results_alone_are_enough_to_compute_no_pair(run: RunFolder) -> None:
    shutil.rmtree(run.path / ".talkies")
    shutil.rmtree(run.path / ".snakemake")
    run.snakemake()
    assert run.events("animated") == run.events("remuxed") == []
    run.whole(PAIRS)


def test_a_motion_made_again_computes_no_pair(run: RunFolder) -> None:
    (run.path / ".talkies/motion/a.npz").unlink()
    run.snakemake("--forcerun", "motion")
    assert run.events("motion") == ["a"]
    assert run.events("animated") == []


@pytest.mark.slow
def test_what_a_worker_finds_gone_it_makes_again(run: RunFolder) -> None:
    (run.path / ".talkies/sources/red.json").unlink()
    shutil.rmtree(run.path / ".talkies/motion")
    run.talkies("forget", "a/red")
    assert ".talkies/motion/a.npz: it is gone or damaged and is made again" in run.snakemake()
    assert run.events("animated") == ["a/red"]
    run.whole(PAIRS)
    assert NOTHING in run.snakemake()


def test_sound_settings_take_the_picture_from_the_talkie(run: RunFolder) -> None:
    def pixels(pair: str) -> list:
        return [frame.tobytes() for frame in media.read_frames(media.probe(run.film(pair)))]

    before = pixels("a/red")
    run.configure(pairs_per_job=3, audio=False)
    run.snakemake()
    assert media.probe(run.film("a/red")).sound is None
    run.configure(pairs_per_job=3, audio=True)
    run.snakemake()
    assert media.probe(run.film("a/red")).sound is not None
    assert pixels("a/red") == before
    assert run.events("animated") == []


def test_a_film_deleted_or_altered_by_hand_is_made_again_once(run: RunFolder) -> None:
    good = run.films()
    run.film("a/red").unlink()
    with run.film("b/blue").open("r+b") as film:
        film.seek(200)
        film.write(b"scribble")
    (run.path / "results/b/green.json").unlink()
    assert "3 to make" in run.snakemake("-n")
    run.snakemake()
    assert sorted(run.events("animated")) == ["a/red", "b/blue", "b/green"]
    run.talkies("verify")
    assert set(run.films()) >= set(good)
    assert NOTHING in run.snakemake()


def test_a_users_own_film_in_the_way_is_kept(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["one"], clips=["a"])
    (run.path / "results/a").mkdir(parents=True)
    run.film("a/one").write_bytes(b"holiday")
    run.snakemake()
    assert [p.read_bytes() for p in run.path.glob("results/a/one.kept-*.mp4")] == [b"holiday"]
    assert media.probe(run.film("a/one")).frames == 5


def test_a_broken_picture_fails_alone_by_name_and_again_at_once(run: RunFolder) -> None:
    before = run.films()
    (run.path / "images/broken.png").write_bytes((run.path / "images/red.png").read_bytes()[:300])
    output = run.snakemake(ok=False)
    assert "images/broken.png" in output
    assert "2 of 8 pairs could not be made" in output
    assert run.films() == before
    page = (run.path / "results/index.html").read_text()
    assert "broken" in page
    status = run.talkies("status")
    assert "8 pairs: 6 done, 2 failed, 0 to make" in status
    again = run.snakemake(ok=False)
    assert "images/broken.png" in again
    assert [jobs_in(again, rule) for rule in ("prepare", "motion", "animate", "remux", "gallery", "verdict")] == [
        *(0, 0, 0, 0, 0, 1)
    ]
    for receipt in (run.path / ".talkies/receipts/remux").glob("*.json"):
        receipt.unlink()
    again = run.snakemake(ok=False)
    assert jobs_in(again, "animate") == 2, "the shard of the failed pairs alone is not begun again"
    run.forget_events()
    draw_picture(run.path / "images/broken.png", (9, 9, 9))
    run.snakemake()
    assert sorted(run.events("animated")) == ["a/broken", "b/broken"]
    assert NOTHING in run.snakemake()


def test_a_broken_clip_fails_alone(run: RunFolder) -> None:
    (run.path / "driving/c.mp4").write_bytes(b"\0" * 5000)
    output = run.snakemake(ok=False)
    assert "driving/c.mp4" in output
    assert "3 of 9 pairs could not be made" in output
    run.whole(PAIRS)
    (run.path / "driving/c.mp4").unlink()
    run.snakemake()
    assert NOTHING in run.snakemake()


def test_a_damaged_plan_is_made_anew(run: RunFolder) -> None:
    plan = run.path / ".talkies/plan.json"
    plan.write_text(plan.read_text()[:200])
    run.snakemake()
    assert run.events("animated") == []
    run.whole(PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("file", [".talkies/motion/a.npz", ".talkies/sources/red.png"])
def test_a_damaged_internal_file_is_made_again(run: RunFolder, file) -> None:
    (run.path / file).write_bytes((run.path / file).read_bytes()[:100])
    run.talkies("forget", "a/red")
    assert f"{file}: it is gone or damaged and is made again" in run.snakemake()
    assert run.events("animated") == ["a/red"]
    run.whole(PAIRS)


def test_forget_failed_looks_again(run: RunFolder) -> None:
    (run.path / "images/broken.png").write_bytes(b"no picture")
    run.snakemake(ok=False)
    assert "2 pairs forgotten" in run.talkies("forget", "--failed")
    output = run.snakemake(ok=False)
    assert jobs_in(output, "prepare") == 1
    assert run.events("animated") == []


def test_forget_makes_pairs_anew(run: RunFolder) -> None:
    run.talkies("forget", "a/red")
    run.snakemake()
    assert run.events("animated") == ["a/red"]
    run.forget_events()
    run.talkies("forget", "b/")
    run.snakemake()
    assert sorted(run.events("animated")) == ["b/blue", "b/green", "b/red"]
    assert "no pair of this run" in run.talkies("forget", "a/nobody", ok=False)
    assert NOTHING in run.snakemake()


def test_the_engine_deletes_no_film(run: RunFolder) -> None:
    times = {path: path.stat().st_mtime_ns for path in run.path.glob("results/*/*.mp4")}
    run.snakemake("--forcerun", "animate", "remux")
    assert {path: path.stat().st_mtime_ns for path in run.path.glob("results/*/*.mp4")} == times
    assert run.events("animated") == []


def test_one_pair_a_job(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["one", "two"], clips=["a"])
    run.configure(pairs_per_job=1)
    output = run.snakemake()
    assert jobs_in(output, "animate") == 2
    assert jobs_in(output, "prepare") == 2
    run.whole(["a/one", "a/two"])


def test_a_pairs_table_with_variants_and_segments(run: RunFolder) -> None:
    table = [
        "image\tdriving\tvariant\tstart\tend\trelative\taudio",
        "red.png\ta\t\t\t\t\t",
        "red\ta\tabsolute\t\t\tfalse\t",
        "blue\tb.mp4\tmiddle\t0.08\t0.20\t\tfalse",
    ]
    (run.path / "pairs.tsv").write_text("\n".join(table) + "\n")
    run.configure(pairs_per_job=3, pairs="pairs.tsv")
    run.snakemake()
    assert sorted(run.events("animated")) == ["a/red@absolute", "b/blue@middle"]
    middle = media.probe(run.film("b/blue@middle"))
    assert (middle.frames, middle.sound) == (3, None)
    assert run.film("a/red").read_bytes() != run.film("a/red@absolute").read_bytes()
    assert NOTHING in run.snakemake()


# --- stopped, killed, two at once --------------------------------------------------------------------------


LONG = ["a/blue", "a/green", "a/red"]


def animate(run: RunFolder, *variables: str):
    return run.start("/usr/bin/env", *variables, "talkies", "shard", "animate", "pairs-0001.feed", "--threads", "1")


RECEIPT = ".talkies/receipts/animate/pairs-0001.feed.json"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_stopped_it_discards_the_unfinished_pair_and_leaves_no_debris(long_run: RunFolder, number: int) -> None:
    """It is stopped by a signal, or because its SLURM job has little time left."""
    if number == signal.SIGTERM:
        worker = animate(long_run)
        wait_for(lambda: long_run.events("animated"))
        worker.terminate()
    else:
        worker = animate(long_run, f"SLURM_JOB_END_TIME={time.time() + 12:.0f}")
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 128 + number
    said = "stopped by SIGTERM" if number == signal.SIGTERM else "stopped before the job's time was over"
    assert f"talkies: error: {said}; what was finished stays" in output
    assert not (long_run.path / RECEIPT).exists()
    left = [name for name in long_run.debris() if not name.startswith(".talkies/silent/a/")]
    assert left == []
    done = long_run.events("animated")
    assert {p.stem for p in (long_run.path / ".talkies/silent/a").iterdir()} == {name[2:] for name in done}
    long_run.snakemake()
    assert sorted(long_run.events("animated")) == LONG
    long_run.whole(LONG)


@pytest.mark.slow
def test_a_worker_killed_is_a_failure_without_receipt_and_the_next_run_goes_on(long_run: RunFolder) -> None:
    snakemake = long_run.start("snakemake", "--snakefile", str(SNAKEFILE))
    wait_for(lambda: long_run.events("animated"))
    lock = json.loads((long_run.path / ".talkies/locks/pairs-0001.lock").read_text())
    os.kill(lock["pid"], signal.SIGKILL)
    output, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode != 0, output
    assert not (long_run.path / RECEIPT).exists()
    long_run.snakemake()
    assert sorted(long_run.events("animated")) == LONG
    long_run.whole(LONG)


@pytest.mark.slow
def test_everything_killed_at_once_and_run_again(long_run: RunFolder) -> None:
    snakemake = long_run.start("snakemake", "--snakefile", str(SNAKEFILE))
    wait_for(lambda: long_run.events("animated"))
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.communicate()
    assert "the last run was killed; its lock of this folder is removed" in long_run.snakemake()
    assert sorted(long_run.events("animated")) == LONG
    long_run.whole(LONG)
    assert NOTHING in long_run.snakemake()


def test_what_a_killed_process_left_half_written_goes_as_the_next_run_begins(run: RunFolder) -> None:
    for name in ("receipts/animate/.pairs-0001.12ff2679.json.14191-3d31.part", ".plan.json.77.part"):
        (run.path / ".talkies" / name).write_text("half")
    mine = run.path / ".talkies/receipts/notes.part"
    mine.touch()
    run.snakemake("-n")
    assert len(run.debris()) == 2, "a dry run changes nothing"
    run.film(PAIRS[0]).unlink()
    run.snakemake()
    run.whole(PAIRS)
    assert mine.exists()


@pytest.mark.slow
def test_two_runs_at_once_leave_one_another_alone(long_run: RunFolder) -> None:
    first = long_run.start("snakemake", "--snakefile", str(SNAKEFILE))
    wait_for(lambda: (long_run.path / ".talkies/locks/pairs-0001.lock").exists())
    assert "LockException" in long_run.snakemake(ok=False)
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    long_run.whole(LONG)


@pytest.mark.slow
def test_two_workers_never_make_one_film(long_run: RunFolder) -> None:
    first = animate(long_run)
    wait_for(lambda: (long_run.path / ".talkies/locks/pairs-0001.lock").exists())
    second = animate(long_run)
    outputs = [worker.communicate(timeout=300)[0] for worker in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert "is at work on this shard" in outputs[1]
    assert "3 of 3 pairs are there already" in outputs[1]
    assert sorted(long_run.events("animated")) == LONG


@pytest.mark.slow
def test_the_lock_of_a_dead_worker_is_broken(long_run: RunFolder) -> None:
    worker = animate(long_run)
    wait_for(lambda: (long_run.path / ".talkies/silent/a").exists())
    worker.kill()
    worker.communicate()
    assert (long_run.path / ".talkies/locks/pairs-0001.lock").exists()
    output = long_run.snakemake()
    assert "breaking the lock of a job that is gone" in output
    long_run.whole(LONG)


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_records_nothing(long_run: RunFolder) -> None:
    """A limit on file sizes replaces the full disk: the system refuses the write in the same way."""
    worker = long_run.start("talkies", "shard", "animate", "pairs-0001.feed", "--threads", "1", preexec_fn=tiny_files)
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 1, output
    assert not (long_run.path / RECEIPT).exists()
    assert long_run.debris() == []
    long_run.snakemake()
    long_run.whole(LONG)


def tiny_files() -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


# --- names and settings -----------------------------------------------------------------------------------

ODD_NAMES = [
    "two words",
    'it\'s "quoted"',
    "semi;colon && touch hacked",
    "$(touch hacked)`touch hacked`",
    "ünïcödé 日本語",
    "-dash",
    "logs",
    "motion",
    "{braces}",
    "star*?[x]",
    "a%20b%d",
    "back\\slash",
    "colon:name",
    "dots.in.name",
    "narrow\u202fspace",
]


@pytest.mark.slow
def test_odd_file_names_work(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=[], clips=[])
    for number, name in enumerate(ODD_NAMES):
        draw_picture(run.path / "images" / f"{name}.png", (number * 15, 100, 50))
    for name in ("motion", "-x; rm *", "{clip}'s"):
        make_clip(run.path / "driving" / f"{name}.mp4", frames=1, sound=False)
    run.snakemake()
    run.whole([f"{clip}/{image}" for clip in ("motion", "-x; rm *", "{clip}'s") for image in ODD_NAMES])
    assert not list(run.path.rglob("hacked"))
    assert NOTHING in run.snakemake()
    assert "45 films are whole" in run.talkies("verify")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda run: draw_picture(run.path / "images/new\nline.png", (1, 2, 3)), [r"new\nline.png", "rename"]),
        (lambda run: draw_picture(run.path / "images/red.bmp", (1, 2, 3)), ["red.bmp", "red.png", "rename"]),
        (lambda run: make_clip(run.path / "driving/index_files.mp4"), ["index_files", "rename"]),
        (lambda run: run.configure(imags="x"), ["imags", "unknown key: write images, or take it away"]),
        (lambda run: run.configure(images="nowhere"), ["images", "nowhere", "no folder"]),
        (lambda run: run.configure(images="results"), ["images", "results", "no file"]),
        (lambda run: run.configure(pairs_per_job="many"), ["pairs_per_job", "many", "whole number"]),
        (lambda run: run.configure(model={"preset": "vox"}), ["model.preset", "vox-256"]),
        (lambda run: run.configure(model={"preset": "vox-256"}), ["talkies checkpoint fetch vox-256", "vox-256"]),
        (lambda run: run.configure(model={"checkpoint": "gone.pth.tar"}), ["model.checkpoint", "gone.pth.tar"]),
        (lambda run: run.configure(files={"who.png": {"crop": "face"}}), ["files.who.png", "no such picture"]),
        (lambda run: run.configure(pairs="none.tsv"), ["pairs", "none.tsv"]),
    ],
)
def test_mistakes_are_named_before_anything_runs(finished: RunFolder, tmp_path, prepare, words) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, run.path, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    prepare(run)
    output = run.snakemake("-n", ok=False)
    message = next(line for line in output.splitlines() if words[0] in line)
    assert all(word in message for word in words), message
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("image\tclip\nred\ta\n", ["line 1", "clip"]),
        ("image\tdriving\nred\tz\n", ["line 2", "driving", "z"]),
        ("image\tdriving\nred\ta\nred.png\ta.mp4\n", ["line 3", "line 2", "a/red", "variant"]),
        ("image\tdriving\tstart\nred\ta\tsoon\n", ["line 2", "start", "soon"]),
        ("image\tdriving\tvariant\nred\ta\t../up\n", ["line 2", "variant", "../up"]),
        ("image\tdriving\tstart\tend\nred\ta\t2\t1\n", ["line 2", "end"]),
        ("image\tdriving\n", ["no row"]),
    ],
)
def test_mistakes_in_the_pairs_table_name_the_line(finished: RunFolder, tmp_path, table, words) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, run.path, symlinks=True, ignore=shutil.ignore_patterns(".*"))
    (run.path / "pairs.tsv").write_text(table)
    run.configure(pairs="pairs.tsv")
    output = run.snakemake("-n", ok=False)
    message = next(line for line in output.splitlines() if "pairs.tsv" in line)
    assert all(word in message for word in words), message


def test_slurm_resources_reach_the_jobs(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["one"], clips=["a"])
    run.configure(slurm={"gpu": {"gpu": 1, "slurm_partition": "fast"}, "cpu": {"slurm_partition": "wide"}})
    output = run.snakemake("-n", "-p")
    assert output.count("slurm_partition=fast") == 2
    assert output.count("slurm_partition=wide") == 4  # prepare (twice), remux, gallery; the rest runs here


def test_hidden_and_system_files_are_passed_over(run: RunFolder) -> None:
    for name in (".DS_Store", "._red.png", ".hidden.png", "Thumbs.db", "notes.txt"):
        (run.path / "images" / name).write_bytes(b"x")
    assert NOTHING in run.snakemake()


@pytest.mark.slow
def test_weights_swapped_make_everything_anew(run: RunFolder) -> None:
    from talkies.fomm.model.checkpoint import load_model, save_safetensors

    weights = load_model("demo").state_dict()
    save_safetensors(weights, run.path / "weights.safetensors")
    run.configure(pairs_per_job=3, model={"checkpoint": "weights.safetensors"})
    run.snakemake()
    assert run.events("animated") == [], "the same weights in another file count as the same"
    weights["generator.final.bias"] += 0.5
    save_safetensors(weights, run.path / "weights.safetensors")
    run.snakemake()
    assert len(run.events("animated")) == len(PAIRS)
    assert len(run.events("motion")) == 2
    assert NOTHING in run.snakemake()


def test_films_are_verified_and_a_wrong_one_is_named(run: RunFolder) -> None:
    assert "6 films are whole" in run.talkies("verify")
    film = run.film("a/red")
    film.write_bytes(film.read_bytes()[:-10])
    assert "a/red: altered" in run.talkies("verify", ok=False)


def test_pictures_of_all_kinds_go_through(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["rgb"], clips=["a"])
    picture = Image.open(run.path / "images/rgb.png")
    picture.convert("L").save(run.path / "images/grey.jpg")
    picture.convert("P").save(run.path / "images/palette.gif")
    picture.convert("CMYK").save(run.path / "images/cmyk.jpg")
    picture.convert("RGBA").save(run.path / "images/alpha.webp")
    run.snakemake()
    run.whole([f"a/{stem}" for stem in ("rgb", "grey", "palette", "cmyk", "alpha")])
