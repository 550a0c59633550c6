"""The command line as a user sees it: films, exit codes, and one line on stderr for every error."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
import torch
from PIL import Image
from run_folder import BIN, draw_picture, make_clip, wait_for

from talkies import media
from talkies.cli import build_parser, jobs, main
from talkies.fomm.model.checkpoint import load_model

FRAMES = 5
PLAIN = ("--config", "crop=center", "--threads", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Restore the signal handlers that `main` replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with only a picture and a clip with sound."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    draw_picture(tmp_path / "who.png", (220, 40, 40))
    make_clip(tmp_path / "clip.mp4", frames=FRAMES, rate="30000/1001")
    return tmp_path


def animate(*words: str, output: str = "out.mp4") -> int:
    return main(["animate", "--source", "who.png", "--driving", "clip.mp4", "-o", output, *PLAIN, *words])


# --- animate -----------------------------------------------------------------------------------------------


def test_animate_makes_a_talkie(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "who-clip.json").write_text("mine")
    (folder / "who-clip.mp4").write_text("mine too")
    assert main(["animate", "who.png", "clip.mp4", "--show-crop", "crops.png", *PLAIN]) == 0
    film, clip = media.probe("who-clip.mp4"), media.probe("clip.mp4")
    assert (film.width, film.height, film.frames, film.rate) == (256, 256, FRAMES, Fraction(30000, 1001))
    assert clip.frames == FRAMES
    assert film.sound is not None
    assert film.sound.codec == clip.sound.codec
    assert "AI-generated" in clips.tags("who-clip.mp4")["comment"]
    record = json.loads((folder / "who-clip.json").read_text())
    assert record["file"]["sha256"] == hashlib.sha256((folder / "who-clip.mp4").read_bytes()).hexdigest()
    assert (record["source"]["file"], record["driving"]["file"]) == ("who.png", "clip.mp4")
    assert Image.open("crops.png").size == (512, 256)
    names = sorted(p.name for p in folder.iterdir())
    kept = set(names) - {"clip.mp4", "crops.png", "who-clip.json", "who-clip.mp4", "who.png"}
    assert {(folder / name).read_text() for name in kept} == {"mine", "mine too"}
    said = capsys.readouterr()
    assert said.out == ""
    assert f"talkies: who-clip.mp4: {FRAMES} frames at 30000/1001 a second, sound: copy" in said.err
    assert "then --model vox-adv-256" in said.err
    assert all(line.startswith("talkies: ") for line in said.err.splitlines())


def test_each_option_reaches_its_film(folder: Path) -> None:
    make_clip(folder / "clip.mp4", frames=10, rate="25")
    words = "audio=false provenance=false crop=null crop.images=16,16,32,32 crop.driving=0,0,40,40"
    films = {}
    for name, movement in (
        ("out", "motion.best_frame=2 motion.adapt_scale=false"),
        ("absolute", "motion.relative=false"),
        ("auto", "motion.best_frame=auto"),
    ):
        keys = [word for key in f"{words} {movement}".split() for word in ("--config", key)]
        assert animate("--start", "0.08", "--end", "0.24", *keys, output=f"{name}.mp4") == 0
        films[name] = json.loads(Path(f"{name}.json").read_text())
    film, record = media.probe("out.mp4"), films["out"]
    assert (film.frames, film.sound, "comment" in clips.tags("out.mp4")) == (4, None, False)
    assert (record["source"]["crop"]["box"], record["driving"]["crop"]["box"]) == ([16, 16, 32], [0, 0, 40])
    assert record["driving"]["segment"] == ["0.08", "0.24"]
    assert record["motion"] == {"relative": True, "adapt_scale": False, "best_frame": 2}
    assert films["absolute"]["motion"]["relative"] is False
    assert films["auto"]["motion"]["best_frame"] == "auto"


def test_animate_makes_many_films_in_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options of a run folder apply, and existing films are not made again."""
    (folder / "more").mkdir()
    draw_picture(folder / "more" / "red.png", (200, 40, 40))
    (folder / "more" / "text.jpg").write_text("words")
    make_clip(folder / "sung.mp4", tone=700, frames=FRAMES)
    words = ["animate", "--source", "who.png", "more", "--driving", "clip.mp4", "-o", "films", *PLAIN]
    words += ["--flip", "--upscale", "--audio", "sung.mp4", "--end", "0.1"]
    assert main(words) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "error" in line] == [
        "talkies: error: text.jpg: not a picture that can be read: give a PNG, JPEG, WebP, HEIC, AVIF, TIFF, GIF or "
        "BMP (1 film: clip/text)",
        "talkies: error: 1 of 3 films could not be made, for the reasons above; the others are done. "
        "Mend or remove those files and run it again",
    ]
    made = sorted(str(path) for path in Path("films").rglob("*.mp4"))
    assert made == ["films/clip/red.mp4", "films/clip/who.mp4"]
    film = media.probe(made[0])
    assert (film.width, film.frames) == (512, 3)
    assert film.sound is not None
    assert json.loads(Path("films/clip/red.json").read_text())["driving"]["flip"] is True
    times = [Path(name).stat().st_mtime_ns for name in made]
    assert main(words) == 1
    assert [Path(name).stat().st_mtime_ns for name in made] == times


# --- what goes wrong ---------------------------------------------------------------------------------------


STEP = re.compile(
    r"(?:^|[:;,.?(] |\b(?:and|or|then|first) |`)"
    r"(?:add|ask|build|call|choose|clean|convert|copy|download|fetch|fill|get|give|go|install|load|make|mend|move|name"
    r"|open|put|reinstall|remove|rename|run|save|say|scale|send|set|shorten|start|stop|take|try|unpack|use|wait|write)\b"
    r"|\bmust\b|--\w",
    re.IGNORECASE,
)
"""A next step: a command at the start of a clause, or an option to give."""


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
    """Assert that a command fails with one line that contains these words and a next step, and changes no file."""
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(arguments) == 1
    said = capsys.readouterr()
    errors = [
        line
        for line in said.err.splitlines()
        if not line.startswith(("talkies: who", "talkies: clip", "talkies: demo", "talkies: motion"))
    ]
    assert len(errors) == 1, said.err
    assert errors[0].startswith("talkies: error: ")
    assert STEP.search(errors[0])
    for word in words:
        assert word in errors[0]
    assert {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()} == before


def whole(source: str = "who.png", driving: str = "clip.mp4", output: str = "out.mp4", *more: str) -> list[str]:
    return ["animate", "--source", source, "--driving", driving, "-o", output, *PLAIN, *more]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (whole(source="nobody.png"), ["nobody.png", "no such file"]),
        (whole(driving="none.mp4"), ["none.mp4", "no such file"]),
        (whole(source="clip.mp4"), ["clip.mp4"]),
        (whole(driving="notes.txt"), ["notes.txt"]),
        (whole(source="new\nline.png"), [r"new\nline.png", "control", "rename"]),
        (whole(output="missing/out.mp4"), ["missing/out.mp4", "no folder"]),
        (whole(output="out.gif"), ["out.gif", ".mp4"]),
        (whole(output="folder.mp4"), ["folder.mp4", "folder"]),
        (whole(output="clip.mp4"), ["clip.mp4", "overwrite", "another name"]),
        (whole(output="./link.mp4"), ["link.mp4", "overwrite"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--model", "vox-256"), ["vox-256", "checkpoint"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--checkpoint", "gone.pth.tar"), ["gone.pth.tar", "no such file"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--checkpoint", "notes.txt"), ["notes.txt", "neither"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--config", "crop=1,2,3"), ["1,2,3", "x,y,width,height"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--config", "crop.driving=ear"), ["ear", "face"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--config", "crop=500,0,9,9"), ["who.png", "outside"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--config", "motion.best_frame=99"), ["99", f"{FRAMES} frames"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--start", "60"), ["clip.mp4"]),
        (whole("who.png", "clip.mp4", "out.mp4", "--start", "2", "--end", "1"), ["--end: 1 s", "a later one"]),
        ([*whole(), "--source", "who.png", "more/who.png"], ["more/who.png", "rename"]),
        ([*whole(), "--source", "who.png", "more/other.png"], ["2 films", "name a folder"]),
        ([*whole(), "--source", "folder.mp4"], ["folder.mp4", "no file in it"]),
        ([*whole(), "--config", "motion.absolute=true"], ["motion.absolute", "unknown key"]),
        ([*whole(), "--audio", "notes.txt"], ["notes.txt"]),
        (["crop", "who.png", "-o", "missing/a.png"], ["missing/a.png", "no folder"]),
        (["crop", "who.png", "-o", "who.png"], ["who.png", "overwrite"]),
        (["crop", "who.png", "-o", "a.jpg"], ["a.jpg", ".png"]),
        (["crop", "clip.mp4", "-o", "clip.mp4"], ["clip.mp4", "overwrite"]),
        (["crop", "nobody.png", "-o", "a.png"], ["nobody.png", "no such file"]),
        (["checkpoint", "show", "gone.pth"], ["gone.pth", "No such file"]),
        (["checkpoint", "convert", "notes.txt", "missing/a.safetensors"], ["missing/a.safetensors", "no folder"]),
        (["status"], ["config.yaml", "run folder", "talkies init"]),
        (["verify"], ["config.yaml", "run folder", "talkies init"]),
        (["clean"], ["config.yaml", "run folder", "talkies init"]),
        (["forget", "a/b"], ["config.yaml", "run folder", "talkies init"]),
        (["forget"], ["--failed"]),
        (["init", "/proc/new"], ["/proc/new"]),
        (["crop", ".", "-o", "out.png"], ["out.png", "must end in .mp4"]),
        (["engine", "show", "nobody"], ["nobody", "write one of"]),
        ([*whole(), "--engine", "fomm"], ["built-in engine", "leave --engine away"]),
        (["gallery", "--log", "notes.txt/a.log"], ["notes.txt"]),
    ],
    ids=lambda value: " ".join(value)[:60].replace("\n", "_") if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    (folder / "notes.txt").write_text("no picture and no film, but words")
    (folder / "folder.mp4").mkdir()
    (folder / "more").mkdir()
    for name in ("who.png", "other.png"):
        shutil.copy(folder / "who.png", folder / "more" / name)
    (folder / "link.mp4").symlink_to("clip.mp4")
    shutil.copy(folder / "who.png", folder / "new\nline.png")
    fails(capsys, arguments, *words)


@pytest.mark.parametrize(
    "words",
    [
        ["dance"],
        ["animate"],
        ["animate", "who.png"],
        ["animate", "who.png", "clip.mp4", "--source", "other.png"],
        [*whole(), "--model", "vox"],
        [*whole(), "--threads", "0"],
        *(
            [*whole(), "--start", text]
            for text in ("-1", "soon", "nan", "1e99999999", "9" * 5000, "1/0", "", ".", "1e3")
        ),
        [*whole(), "--end", "inf"],
        [*whole(), "--config", "audio"],
        [*whole(), "--engine", "wav2lip", "--model", "demo"],
        [*whole(), "--device", "gpu"],
        ["checkpoint"],
        ["crop", "who.png"],
        [*whole(output="films"), "--source", "who.png", "other.png", "--show-crop", "crops.png"],
    ],
    ids=lambda words: " ".join(words[-2:])[:40],
)
def test_wrong_usage_is_exit_2(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["clip.mp4", "who.png"]


def test_debug_shows_where_an_error_came_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*whole(source="nobody.png"), "--debug"]) == 1
    said = capsys.readouterr().err
    assert "talkies: error: nobody.png" in said
    assert "Traceback" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("two\nlines"), "unexpected RuntimeError: two lines (--debug shows where)"),
        (MemoryError(), "out of memory"),
        (ModuleNotFoundError(name="torch"), "torch is not installed"),
        (OSError(28, "No space left on device", "a\nb"), r"a\nb: No space left on device"),
    ],
)
def test_the_unforeseen_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr("talkies.cluster.doctor.examine", fail)
    assert main(["doctor"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("talkies: error: ")
    assert words in line


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    make_clip(folder / "clip.mp4", frames=200)
    temporary = folder / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [str(BIN / "talkies"), *whole()],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    wait_for(lambda: [path for path in temporary.rglob("*.mp4*") if not path.is_symlink()])  # the film has been started
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert f"talkies: error: stopped by {number.name}" in said
    assert "Traceback" not in said
    assert sorted(p.name for p in folder.iterdir()) == ["clip.mp4", "tmp", "who.png"]
    assert [p.name for p in temporary.iterdir() if p.name.startswith("talkies-")] == []


# --- single steps ------------------------------------------------------------------------------------------


def test_crop_cuts_a_picture_and_says_what(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crop", "who.png", "-o", "a.png", "--mode", "8,8,16,16", "--size", "32"]) == 0
    cut = json.loads(capsys.readouterr().out)
    assert (cut["file"], cut["mode"], cut["box"]) == ("who.png", "box", [8, 8, 16])
    with Image.open("a.png") as made, Image.open("who.png") as original:
        assert made.size == (32, 32)
        expected = original.crop((8, 8, 24, 24)).resize((32, 32), Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(made), np.asarray(expected))


def test_crop_cuts_a_clip_with_its_sound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crop", "clip.mp4", "-o", "a.mp4", "--mode", "center", "--size", "32"]) == 0
    assert json.loads(capsys.readouterr().out)["box"] == [0, 0, 64]
    made = media.probe("a.mp4")
    assert (made.width, made.height, made.frames, made.rate) == (32, 32, FRAMES, Fraction(30000, 1001))
    assert made.sound is not None


def test_a_checkpoint_is_shown_and_converted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("demo-drawings")
    parts = {"generator": {}, "kp_detector": {}}
    for name, tensor in model.state_dict().items():
        network, _, entry = name.partition(".")
        parts[network][entry] = tensor
    torch.save({**parts, "epoch": 3}, "own.pth.tar")
    assert main(["checkpoint", "show", "own.pth.tar"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines() == [f"weights sha256 {model.weights_digest}", "fits demo-drawings"]
    assert main(["checkpoint", "convert", "own.pth.tar", "own.safetensors"]) == 0
    assert capsys.readouterr().out == shown
    assert load_model("demo-drawings", "own.safetensors").weights_digest == model.weights_digest
    fails(capsys, ["checkpoint", "convert", "own.safetensors", "own.safetensors"], "overwrite")


def test_the_doctor_finds_all_that_is_needed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("Python", "snakemake", "ffmpeg", "torch", "the device is", "GB free", "no Snakefile"):
        assert word in said
    assert said.splitlines()[-1].startswith("all that a run")
    assert "MISSING" not in said


@pytest.mark.parametrize("command", [[str(BIN / "talkies")], [sys.executable, "-m", "talkies"]])
def test_the_program_and_the_module_are_one(folder: Path, command: list[str]) -> None:
    done = subprocess.run([*command, "status"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("talkies: error: ")
    assert done.stderr.count("\n") == 1
    assert subprocess.run([*command, "--version"], capture_output=True, text=True).stdout.startswith("talkies ")


# --- help --------------------------------------------------------------------------------------------------


def test_help_shows_every_command() -> None:
    parser = build_parser()
    (commands,) = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    shown = [line.split()[0] for line in parser.format_help().splitlines() if re.match("    [a-z]", line)]
    assert shown == list(commands)


@pytest.mark.parametrize(
    ("minutes", "on_slurm", "after"), [(40, None, 2280), (4, None, 180), (40, 600, 480), (0, None, None)]
)
def test_a_worker_stops_before_its_jobs_time_is_over(
    minutes: int, on_slurm: int | None, after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """minutes: that the job asked for. on_slurm: seconds that SLURM says are left. after: when it stops."""
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    if on_slurm:
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + on_slurm))
    try:
        jobs._stop_in_time(minutes)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(after or 0, abs=5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
