"""A run is killed at random moments, its whole process group at once, again and again; then every film is whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder, make_clip

from talkies import media

SEED = 24
KILLS = 10
ARGUMENTS = ("snakemake", "--snakefile", str(REPOSITORY / "Snakefile"))


def decoded(film: Path) -> tuple[int, int]:
    """Decode a film without errors; return the number of its frames and of its bytes of sound."""
    clip = media.probe(film)
    frames = sum(1 for _ in media.read_frames(clip))
    command = [media.ffmpeg_path(), "-v", "error", "-xerror", "-nostdin", "-i", str(film), "-map", "0"]
    done = subprocess.run([*command, "-f", "null", "-"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), film
    if clip.sound is None:
        return frames, 0
    sound = subprocess.run([*command, "-vn", "-f", "s16le", "-"], capture_output=True, check=True).stdout
    return frames, len(sound)


def make_run(folder: Path) -> RunFolder:
    """Create a run of four pictures and three clips in shards of three pairs, with a scratch folder beside it."""
    run = RunFolder.create(folder / "run", images=["one", "two", "three", "four"], clips=[])
    for number, name in enumerate("abc"):
        make_clip(run.path / f"driving/{name}.mp4", frames=20 + 10 * number, tone=300 + 200 * number)
    (folder / "scratch").mkdir()
    run.configure(**settings(folder))
    return run


def settings(folder: Path) -> dict:
    scratch = str(folder / "scratch")
    return {"engine": "fomm", "pairs_per_job": 3, "check": True, "scratch": scratch, "gallery": {"mosaic": 4}}


@pytest.mark.longest
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_whole(tmp_path: Path) -> None:
    """The seed chooses the moments. Settings change in between, so some kills happen while films are replaced."""
    chance = random.Random(SEED)
    run = make_run(tmp_path)
    given = settings(tmp_path)
    killed, looked_at = [], 0
    for number in range(KILLS):
        if number and number % 3 == 0:  # from here on the settings ask for other films
            given |= [{"audio": False}, {"motion": {"relative": False}}, {"audio": True}][number // 3 - 1]
            run.configure(**given)
        process = run.start(*ARGUMENTS)
        moment = chance.uniform(1.0, 12.0)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed.append(round(moment, 1))
        for film in run.path.glob("results/*/*.mp4"):
            if ".kept-" not in film.name:
                decoded(film)  # no half-made film ever has a final name
                looked_at += 1
    assert len(killed) > KILLS // 2, killed
    print(f"{len(killed)} kills, after seconds: {killed}; {looked_at} films decoded between them")
    deadline = time.monotonic() + 300
    while run.run(*ARGUMENTS).returncode:  # a Snakemake of the killed group may still hold its lock
        assert time.monotonic() < deadline
    assert "12 films are whole" in run.talkies("verify")
    pairs = [f"{clip}/{image}" for clip in "abc" for image in ("four", "one", "three", "two")]
    films = [film for film in sorted(run.films()) if ".kept-" not in film]
    assert films == pairs
    for pair in pairs:
        frames, sound = decoded(run.film(pair))
        assert frames == {"a": 20, "b": 30, "c": 40}[pair[0]] == run.record(pair)["frames"]
        assert sound > 0
    assert run.debris() == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list((run.path / "results").rglob("*.kept-*")), "our own films are never taken for the user's"
    assert "Nothing to be done" in run.snakemake()
    shown = [decoded(path)[0] for path in (run.path / "results/index_files/shown").glob("*.mp4")]
    assert sorted(shown) == [20, 20, 30, 30, 40, 40], "three clips and their mosaics"
