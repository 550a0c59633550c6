"""The workflow as users run it: what is made, when and how often, and what happens after failures.

Every test runs the real Snakemake on the shipped Snakefile.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import clips
import pytest
from run_folder import REPOSITORY, RunFolder, draw_picture, jobs_in, make_clip, wait_for

from talkies import media
from talkies.files import file_digest

PAIRS = [f"{clip}/{image}" for clip in ("a", "b") for image in ("blue", "green", "red")]
NOTHING = "Nothing to be done"
SNAKEFILE = REPOSITORY / "Snakefile"


def test_a_run_makes_every_pair_and_other_settings_make_each_again(tmp_path: Path) -> None:
    """With the package's own network."""
    run = RunFolder.create(tmp_path / "run")
    run.configure(engine="fomm")
    run.snakemake()
    run.whole(PAIRS)
    for pair in PAIRS:
        clip = media.probe(run.film(pair))
        assert (clip.width, clip.height) == (256, 256)
        assert clip.frames == {"a": 5, "b": 6}[pair[0]]
        assert clip.sound is not None
        assert "AI-generated" in clips.tags(run.film(pair))["comment"]
        record = run.record(pair)
        assert record["driving"]["sha256"] == file_digest(run.path / "driving" / f"{pair[0]}.mp4")
        assert record["source"]["sha256"] == file_digest(run.path / "images" / f"{pair[2:]}.png")
        assert record["model"]["preset"] == "demo"
        assert record["source"]["crop"]["box"] == [0, 0, 64]
    page = (run.path / "results/index.html").read_text()
    assert all(pair.split("/")[1] in page for pair in PAIRS)
    assert ">load<" in page
    assert ">motion<" in page
    assert len(set(run.films().values())) == len(PAIRS)
    run.forget_events()
    run.configure(engine="fomm", motion={"relative": False})
    assert_made(run, PAIRS)
    assert run.events("motion") == []


def assert_made(run: RunFolder, made: list[str], *arguments: str) -> None:
    """Assert that a dry run and status say what a run then makes, and that nothing else was touched."""
    times = {path: path.stat().st_mtime_ns for path in run.path.glob("results/*/*.mp4")}
    left = run.debris()
    assert f"; {len(made)} to make" in run.snakemake("-n")
    assert run.debris() == left, "a dry run changes nothing"
    assert f", {len(made)} to make" in run.talkies("status")
    run.snakemake(*arguments)
    assert sorted(run.events("animate")) == sorted(run.events("remux")) == made
    others = {path: time for path, time in times.items() if f"{path.parent.name}/{path.stem}" not in made}
    assert {path: path.stat().st_mtime_ns for path in others} == others
    run.whole(sorted({*PAIRS, *made}))
    assert NOTHING in run.snakemake()


def test_what_is_said_is_what_is_made(run: RunFolder) -> None:
    """A few rows of tests/run/test_truth.py under the real Snakemake with the real stages.

    What a killed process left half written goes as the run begins.
    """
    with run.film("b/blue").open("r+b") as film:
        film.seek(200)
        film.write(b"scribble")
    draw_picture(run.path / "images/new.png", (1, 200, 200))
    draw_picture(run.path / "images/red.png", (7, 7, 7))
    os.utime(run.path / "images/red.png", (1_000_000_000, 1_000_000_000))
    run.talkies("forget", "a/")
    make_clip(run.path / "driving/a.mp4", frames=7, tone=900)
    (run.path / ".talkies/.plan.json.77-1.part").write_text("half")
    mine = run.path / ".talkies/notes.part"
    mine.touch()
    assert_made(run, ["a/blue", "a/green", "a/new", "a/red", "b/blue", "b/new", "b/red"])
    assert mine.exists()


@pytest.mark.slow
def test_a_copy_without_times_and_memory_makes_the_film_that_is_missing(run: RunFolder) -> None:
    run = run.copy(run.path.parent / "elsewhere/on another disk", times=False)
    for name in (".talkies", ".snakemake"):
        shutil.rmtree(run.path / name)
    run.film("a/red").unlink()
    # Snakemake deletes no film, even if it runs each job again.
    assert_made(run, ["a/red"], "--forcerun", "animate", "remux")


def test_another_sound_takes_the_pictures_from_the_talkies_and_a_removed_picture_leaves_its_films(
    run: RunFolder,
) -> None:
    def pixels(pair: str) -> list:
        return [frame.tobytes() for frame in media.read_frames(media.probe(run.film(pair)))]

    before, drawn = run.films(), pixels("a/blue")
    (run.path / "images/red.png").unlink()
    moved = run.film("b/blue").rename(run.path / "moved.mp4")
    run.film("b/blue").symlink_to(moved)
    run.configure(pairs_per_job=3, audio=False)
    output = run.snakemake()
    assert all(jobs_in(output, rule) == 0 for rule in ("crop", "cut", "animate"))
    kept = [pair for pair in PAIRS if "red" not in pair]
    assert sorted(run.events("remux")) == kept
    assert media.probe(run.film("a/blue")).sound is None
    assert (run.film("b/blue").is_symlink(), moved.read_bytes()) == (False, before["b/blue"])
    assert [kept.readlink() for kept in run.film("b/blue").parent.glob("blue.kept-*.mp4")] == [moved]
    assert {pair: run.films()[pair] for pair in ("a/red", "b/red")} == {p: before[p] for p in ("a/red", "b/red")}
    listing = run.talkies("status")
    assert "4 pairs: 4 done, 0 failed, 0 to make" in listing
    assert listing.count("no longer asked for") == 2
    assert "results/a/red.mp4" in run.talkies("clean", "--dry-run")
    assert run.film("a/red").exists()
    run.talkies("clean")
    run.whole(kept)
    assert not (run.path / ".talkies/sources/red.png").exists()
    run.configure(pairs_per_job=3)
    run.snakemake()
    assert (run.events("animate"), len(run.events("remux"))) == ([], 8)
    assert media.probe(run.film("a/blue")).sound is not None
    assert pixels("a/blue") == drawn
    assert NOTHING in run.snakemake()


def test_broken_files_fail_alone_by_name_and_again_at_once_until_they_are_mended(run: RunFolder) -> None:
    before = run.films()
    (run.path / "images/broken.png").write_bytes((run.path / "images/red.png").read_bytes()[:300])
    (run.path / "driving/c.mp4").write_bytes(b"\0" * 5000)
    output = run.snakemake(ok=False)
    assert "images/broken.png" in output
    assert "driving/c.mp4" in output
    assert "6 of 12 pairs could not be made" in output
    assert "talkies: 12 pairs: 6 done, 6 failed, 0 to make" in output
    assert run.films() == before
    assert "broken" in (run.path / "results/index.html").read_text()
    assert "12 pairs: 6 done, 6 failed, 0 to make" in run.talkies("status")
    again = run.snakemake(ok=False)
    assert "images/broken.png" in again
    rules = ("crop", "cut", "motion", "animate", "remux", "gallery", "verdict")
    assert [jobs_in(again, rule) for rule in rules] == [0, 0, 0, 0, 0, 0, 1]
    assert "6 pairs forgotten" in run.talkies("forget", "--failed")
    (run.path / "driving/c.mp4").unlink()
    draw_picture(run.path / "images/broken.png", (9, 9, 9))
    run.snakemake()
    assert sorted(run.events("animate")) == ["a/broken", "b/broken"]


@pytest.mark.slow
def test_what_a_worker_finds_gone_or_damaged_ends_its_job_and_is_made_by_the_next_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["red"], clips=["a"])
    run.configure(engine="fomm")
    run.snakemake("--until", "crop", "motion")
    (run.path / ".talkies/motion/a.npz").write_bytes(b"half")
    worker = run.run("talkies", "shard", "animate", "pairs-0001.feed")
    assert worker.returncode == 1
    assert ".talkies/motion/a.npz: it is gone or damaged; run snakemake again to make it" in worker.stdout
    run.snakemake()
    assert run.events("animate") == ["a/red"]
    run.whole(["a/red"])
    assert NOTHING in run.snakemake()


# --- stopped, killed, two at once --------------------------------------------------------------------------


LONG = ["a/blue", "a/green", "a/red"]


def animate(run: RunFolder, *variables: str):
    return run.start("/usr/bin/env", *variables, "talkies", "shard", "animate", "pairs-0001.feed", "--threads", "1")


DONE = ".talkies/done/animate/pairs-0001.feed"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_stopped_it_discards_the_unfinished_pair_and_leaves_no_debris(
    long_run: RunFolder, number: int, tmp_path: Path
) -> None:
    """It is stopped by a signal, or because its SLURM job has little time left. Its scratch folder is empty then."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if number == signal.SIGTERM:
        worker = animate(long_run, f"TMPDIR={scratch}")
        wait_for(lambda: long_run.events("animate") and list(scratch.glob("*/*.mp4")))
        worker.terminate()
    else:
        worker = animate(long_run, f"TMPDIR={scratch}", f"SLURM_JOB_END_TIME={time.time() + 12:.0f}")
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 128 + number
    said = "stopped by SIGTERM" if number == signal.SIGTERM else "stopped before the job's time was over"
    assert f"talkies: error: {said}; what was finished stays" in output
    assert list(scratch.iterdir()) == []
    assert not (long_run.path / DONE).exists()
    left = [name for name in long_run.debris() if not name.startswith(".talkies/films/animate/a/")]
    assert left == []
    done = long_run.events("animate")
    assert {p.stem for p in (long_run.path / ".talkies/films/animate/a").iterdir()} == {name[2:] for name in done}
    long_run.goes_on(LONG)


@pytest.mark.slow
def test_a_worker_killed_is_a_failure_and_the_next_run_goes_on(long_run: RunFolder) -> None:
    snakemake = long_run.start("snakemake", "--snakefile", str(SNAKEFILE))
    wait_for(lambda: long_run.events("animate"))
    lock = json.loads((long_run.path / ".talkies/locks/pairs-0001.lock").read_text())
    os.kill(lock["pid"], signal.SIGKILL)
    output, _ = snakemake.communicate(timeout=120)
    assert snakemake.returncode != 0, output
    assert not (long_run.path / DONE).exists()
    assert "breaking the lock of a job that is gone" in long_run.goes_on(LONG)


@pytest.mark.slow
def test_everything_killed_at_once_and_run_again(long_run: RunFolder) -> None:
    snakemake = long_run.start("snakemake", "--snakefile", str(SNAKEFILE))
    wait_for(lambda: long_run.events("animate"))
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.communicate()
    assert "the last run was killed; its lock of this folder is removed" in long_run.goes_on(LONG)
    assert NOTHING in long_run.snakemake()


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
    assert sorted(long_run.events("animate")) == LONG


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_records_nothing(long_run: RunFolder) -> None:
    """A limit on file sizes replaces the full disk: the system refuses the write in the same way."""
    worker = long_run.start("talkies", "shard", "animate", "pairs-0001.feed", "--threads", "1", preexec_fn=tiny_files)
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 1, output
    assert not (long_run.path / DONE).exists()
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


def test_films_are_verified_and_a_wrong_one_is_named(run: RunFolder) -> None:
    assert "6 films are whole" in run.talkies("verify")
    film = run.film("a/red")
    times = film.stat()
    film.write_bytes(film.read_bytes()[:-10] + bytes(10))
    os.utime(film, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "a/red: altered" in run.talkies("verify", ok=False)
    assert ", 1 to make" in run.talkies("status")
