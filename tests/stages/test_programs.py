"""Other programs as engines: a stand-in with the published program's command line runs on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import clips
import numpy as np
import pytest
import yaml
from run_folder import REPOSITORY, RunFolder, make_clip, processes, wait_for

from talkies import media

STAND_IN = shlex.join([sys.executable, str(REPOSITORY / "tests/stand_in.py")])
ONE = f"{STAND_IN} --source_image {{source}} --driving_video {{driving}} --result_video {{output}}"


def engine(*more: str, command: str = ONE, **keys) -> dict:
    return {"name": "stand-in", "side": 64, "command": " ".join([command, "--side 64", *more]), **keys}


def told(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", images=("red", "blue"), clips=("a", "b"))


@pytest.mark.slow
def test_films_of_a_program_that_rounds_the_rate_leaves_files_and_a_child(folder: RunFolder, tmp_path) -> None:
    seen = tmp_path / "told"
    folder.configure(
        engine=engine("{relative:--relative}", "--rate 24", "--do files", "--child 9871", f"--told {seen}")
    )
    folder.snakemake()
    for name, frames in (("a/red", 5), ("a/blue", 5), ("b/red", 6), ("b/blue", 6)):
        film = media.probe(folder.path / f"results/{name}.mp4")
        assert (film.width, film.height, film.frames, film.rate) == (64, 64, frames, 25)
        assert film.sound is not None
        assert abs(film.sound.end - film.sound.start - film.duration) < 0.1
        assert folder.record(name)["engine"]["name"] == "stand-in"
    assert len(told(seen)) == 4
    assert all("--relative" in start["argv"] for start in told(seen))
    assert not processes("sleep 9871"), "a child of the program was left running"
    assert not list(folder.path.rglob("left.txt"))
    red, blue = (next(media.read_frames(media.probe(folder.path / f"results/a/{n}.mp4"))) for n in ("red", "blue"))
    assert np.abs(red.astype(int) - blue).mean() > 3, "each film shows its own picture"
    assert "(stand-in)" in clips.tags(folder.path / "results/a/red.mp4")["comment"]


def test_a_changed_command_makes_its_films_again_and_nothing_else(folder: RunFolder, tmp_path) -> None:
    seen = tmp_path / "told"
    folder.configure(engine=engine(f"--told {seen}", "{relative:--relative}"))
    folder.snakemake()
    assert "0 to make" in folder.talkies("status")
    folder.configure(engine=engine(f"--told {seen}", "{relative:--relative}"), motion={"adapt_scale": False})
    assert "0 to make" in folder.talkies("status"), "without {adapt_scale} in the command no film depends on it"
    folder.configure(engine=engine(f"--told {seen}", "{relative:--relative}"), motion={"relative": False})
    assert "4 to make" in folder.talkies("status")
    folder.configure(engine=engine(f"--told {seen}", "{relative:--relative}", "--frames 9"))
    assert "4 to make" in folder.talkies("status")
    assert len(told(seen)) == 4
    folder.configure(engine=engine(f"--told {seen}", "{relative:--relative}"))
    assert "0 to make" in folder.talkies("status")


def test_what_goes_wrong_is_told_of_its_pair(folder: RunFolder) -> None:
    """Each engine fails in a way of its own."""
    ways = {
        "crash": ({"how": "--do crash"}, "its program failed (exit code 3): ValueError: this picture"),
        "nothing": ({"how": "--do nothing"}, "made no film ({output}), it left nothing"),
        "half": ({"how": "--do half"}, "what it made is no film"),
        "link": ({"how": "--do link"}, "its film is a link that leads out of its folder"),
        "short": ({"how": "--frames 2"}, "its film has 2 frames at 25 a second, where 5 at 25 were asked for"),
        "small": ({"how": "--side 32"}, "32 x 32 pixels, not 64 x 64: give the side it makes as output_side"),
        "endless": (
            {"how": "--do hang", "minutes": 0.05},
            "not done after 0.05 minutes (engine.minutes): it was ended",
        ),
    }
    (folder.path / "pairs.tsv").write_text("image\tdriving\nred\ta\n")
    engines = [engine(keys.pop("how"), **keys) | {"name": name} for name, (keys, _) in ways.items()]
    folder.configure(engines=engines, pairs="pairs.tsv")
    output = folder.snakemake(ok=False)
    failed = re.findall(r"^failed: (.*) \(1 pair: a/red@(\w+)\)$", folder.talkies("status"), re.MULTILINE)
    assert sorted(name for _, name in failed) == sorted(ways)
    for reason, name in failed:
        assert ways[name][1] in output
        assert ways[name][1] in reason
    assert "\x1b" not in output
    logs = [log.read_text() for log in (folder.path / ".talkies/logs/animate").glob("*.log")]
    assert any("| model loaded" in log for log in logs), "the program's output is in the shard's log"


def test_a_machine_that_fails_a_program_ends_its_job_and_is_no_fault_of_its_pairs(folder: RunFolder) -> None:
    ways = {
        "killed": (engine("--do kill"), "killed by signal 9"),
        "full": (engine("--do memory"), "CUDA out of memory"),
        "absent": (engine(command=f"nothing-there {ONE}"), "(nothing-there: No such file or directory)"),
        "nowhere": (engine(workdir="/nowhere"), "can't be started (/nowhere: No such file or directory)"),
    }
    folder.configure(engines=[keys | {"name": name} for name, (keys, _) in ways.items()])
    output = folder.snakemake("--keep-going", ok=False)
    for _, said in ways.values():
        assert said in output
    assert not list((folder.path / ".talkies/done/animate").glob("*"))
    assert " 0 failed, " in folder.talkies("status")


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_nothing_running(folder: RunFolder, tmp_path) -> None:
    seen, here = tmp_path / "told", folder.path.resolve()
    for number in (signal.SIGTERM, signal.SIGKILL):
        seen.unlink(missing_ok=True)
        folder.configure(engine=engine("--do hang", "--child 9872", f"--told {seen}"))
        process = folder.start("snakemake", "--snakefile", str(REPOSITORY / "Snakefile"), "--cores", "1")
        wait_for(lambda: bool(told(seen)) and processes("sleep 9872"), 60)
        (worker,) = processes("shard animate", here)
        os.kill(worker, number)
        wait_for(lambda: not processes("sleep 9872") and not processes(str(seen)), 30)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    folder.configure(engine=engine())
    folder.snakemake()


def test_a_batch_makes_all_films_with_one_start_and_keeps_what_was_finished(folder: RunFolder, tmp_path) -> None:
    seen = tmp_path / "told"
    make_clip(folder.path / "driving/a.mp4", sound=False)
    batch = {"batch": True, "command": f"{STAND_IN} --jobs {{jobs}} --told {seen}"}
    folder.configure(engine=engine("--do stop", f"--calm {tmp_path}/calm", **batch))
    assert "killed by signal 9" in folder.snakemake(ok=False)
    assert len(told(seen)) == 1
    assert len(list((folder.path / ".talkies/films/animate").rglob("*.mp4"))) == 1, "the finished film stays"
    (tmp_path / "calm").touch()
    folder.snakemake()
    starts = told(seen)
    assert len(starts) == 2
    assert [start["films"] for start in starts] == [4, 3], "the finished film is not requested again"
    assert len(list((folder.path / "results").glob("[ab]/*.mp4"))) == 4


def test_two_engines_beside_one_another(folder: RunFolder) -> None:
    folder.configure(engines=["fomm", engine()])
    folder.snakemake()
    films = sorted(
        str(film.relative_to(folder.path / "results")) for film in (folder.path / "results").glob("[ab]/*.mp4")
    )
    wanted = [
        f"{clip}/{image}@{name}.mp4" for clip in "ab" for image in ("blue", "red") for name in ("fomm", "stand-in")
    ]
    assert films == wanted
    assert folder.record("a/red@fomm")["model"]["preset"] == "demo"
    assert "8 done" in folder.talkies("status")


@pytest.mark.slow
def test_a_program_that_listens_and_names_its_film_itself(folder: RunFolder, tmp_path) -> None:
    """ffmpeg's filters in a shell script: a pattern finds the film, which has a different rate and name."""
    (tmp_path / "show.sh").write_text(
        f'exec {media.ffmpeg_path()} -v error -nostdin -i "$2" '
        '-filter_complex "[0:a]showwaves=s=64x64:r=50,format=yuv420p" '
        '"$3/$(date +%s).mp4"\n'
    )
    command = f"sh {tmp_path}/show.sh {{source}} {{audio}} {{folder}}"
    folder.configure(engine={"name": "waves", "command": command, "side": 64, "result": "*.mp4"})
    folder.snakemake()
    film = media.probe(folder.path / "results/b/red.mp4")
    assert (film.frames, film.rate) == (6, 25), "sampled by time"
    log = next((folder.path / ".talkies/logs/animate").glob("*.log")).read_text()
    assert "12 frames at 50 a second sampled as 6 at 25" in log
    assert "; 0 to make" in folder.snakemake("-n")
    with (tmp_path / "show.sh").open("a") as script:
        script.write("# another\n")
    assert "; 0 to make" not in folder.snakemake("-n"), "the program's own script is part of what it is"


@pytest.mark.slow
def test_whole_pictures_a_checkpoint_a_working_folder_and_a_film_of_another_side(folder: RunFolder, tmp_path) -> None:
    (tmp_path / "weights").write_text("weights")
    (tmp_path / "work").mkdir()
    keys = {"checkpoint": str(tmp_path / "weights"), "workdir": str(tmp_path / "work")}
    (folder.path / "pairs.tsv").write_text("image\tdriving\nred\ta\n")
    command = f"{STAND_IN} --source_image {{source}} --driving_video {{driving}} --result_video {{output}} --side 32"
    whole = {"command": f"{command} --do files --told {{checkpoint}}.told", "input": "whole", **keys}
    folder.configure(engine=whole, pairs="pairs.tsv")
    folder.snakemake()
    assert media.probe(folder.path / "results/a/red.mp4").width == 32
    assert (tmp_path / "work/left.txt").exists(), "the program starts in its working folder"
    assert len(told(tmp_path / "weights.told")) == 1
    (tmp_path / "weights").write_text("others")
    assert "1 to make" in folder.talkies("status")
    folder.configure(engine=whole, pairs="pairs.tsv", paste_back=True)
    assert "has the whole picture (input: whole): take paste_back away" in folder.snakemake("-n", ok=False)
    folder.configure(engine={"command": command, "side": 64, "output_side": 32, "crop": "none"}, pairs="pairs.tsv")
    folder.snakemake()
    assert folder.record("a/red")["picture"]["size"] == 32


def test_engines_are_listed_shown_and_tried(folder: RunFolder, tmp_path) -> None:
    listed = folder.talkies("engine", "list")
    for name in ("fomm", "first-order-model", "liveportrait", "tps-motion-model", "musetalk", "sadtalker", "wav2lip"):
        assert name in listed
        if name != "fomm":
            shown = folder.talkies("engine", "show", name)
            assert "# licence: " in shown
            assert yaml.safe_load(shown)["engine"]["name"] == name
    folder.configure(engine=engine("--rate 24"))
    words = "animate images/red.png driving/a.mp4 --engine stand-in --config crop=center"
    done = folder.run("talkies", *words.split(), "-o", "one.mp4")
    assert done.returncode == 0, done.stdout
    assert media.probe(folder.path / "one.mp4").frames == 5
