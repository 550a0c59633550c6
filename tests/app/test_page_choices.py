"""Choices on the page become keys of config.yaml and go into run folders; films are made one after another."""

from __future__ import annotations

import re
import subprocess
import time
import tomllib
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from run_folder import BIN, REPOSITORY, RunFolder, make_clip

from talkies.app import run_folder, studio
from talkies.app.choices import Choices, Network, read_best_frame, read_crop, read_seconds, read_segment
from talkies.engines import FOMM, Movement
from talkies.errors import TalkiesError
from talkies.media.crop import parse
from talkies.run import settings

ADA = REPOSITORY / "examples/images/ada.png"
ANNA = REPOSITORY / "examples/driving/anna.mp4"


def chosen(**more) -> Choices:
    usual = {
        "picture": ADA,
        "driving": ANNA,
        "engine": FOMM,
        "network": Network("demo"),
        "usual": "face",
        "picture_crop": None,
        "driving_crop": None,
        "start": None,
        "end": None,
        "movement": Movement(),
        "paste_back": False,
        "sound": True,
    }
    crops = {key: read_crop(value) for key, value in more.items() if key.endswith("_crop")}
    return Choices(**{**usual, **more, **crops})


MUCH = {
    "picture_crop": "1,2,300,300",
    "driving_crop": "face:left",
    "start": Fraction(1, 2),
    "end": Fraction(2),
    "movement": Movement(False, False, "auto"),
    "paste_back": True,
    "sound": False,
}


def test_what_is_usual_needs_no_line() -> None:
    lines, commands = run_folder.for_many(chosen())
    assert yaml.safe_load(lines) == {"images": "images", "driving": "driving"}
    assert "snakemake --profile slurm" in commands


def test_the_lines_say_what_was_chosen_and_are_settings(tmp_path: Path, monkeypatch) -> None:
    lines, _ = run_folder.for_many(chosen(**MUCH))
    monkeypatch.chdir(tmp_path)
    complete = settings.complete(yaml.safe_load(lines))
    motion = complete.motion
    assert (motion.relative, motion.adapt_scale, motion.best_frame) == (False, False, "auto")
    assert (complete.audio, complete.paste_back) == (False, True)
    assert complete.crop == {"images": parse("face"), "driving": parse("face:left")}
    assert complete.files["ada.png"].crop == parse([1, 2, 300, 300])
    assert (complete.files["anna.mp4"].start, complete.files["anna.mp4"].end) == (0.5, 2.0)


# --- into a run folder ---


def test_a_new_run_folder_makes_the_same_film(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = run_folder.add(chosen(**MUCH), folder)
    assert said[0] == f"made {folder}"
    config = settings.read(folder / "config.yaml")
    assert config["files"]["anna.mp4"]["best_frame"] == "auto"
    assert config["files"]["ada.png"] == {"crop": [1, 2, 300, 300]}
    assert "1 to make" in RunFolder(folder).snakemake("-n")
    again = run_folder.add(chosen(**MUCH), folder)
    assert [line.rpartition(" ")[2] for line in again[:2]] == ["there", "there"]
    assert settings.read(folder / "config.yaml") == config


def test_nothing_of_the_users_is_lost(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/ada.jpg").write_text("mine")
    mine = (
        "# my run\nimages: images # here\nfiles:\n  # the best\n  other.png: {crop: center}\nmotion: {relative: true}\n"
    )
    (tmp_path / "config.yaml").write_text(mine)
    run_folder.add(chosen(**MUCH), tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    assert all(line in text for line in mine.splitlines())
    assert (tmp_path / "images/ada.jpg").read_text() == "mine"
    assert (tmp_path / "images/ada-2.png").read_bytes() == ADA.read_bytes()
    assert set(settings.read(tmp_path / "config.yaml")["files"]) == {"other.png", "ada-2.png", "anna.mp4"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("pairs: pairs.tsv\n", "its pairs are in a table"),
        ("model: {preset: vox-256}\n", "its films are made by vox-256"),
        ("engine: liveportrait\n", "its films are made by liveportrait"),
        ("files: {anna.mp4: {start: 3}}\n", "anna.mp4 has choices already"),
        ("files: &a {anna.mp4: [\n", "not valid YAML"),
    ],
)
def test_a_folder_that_asks_for_something_else_is_left_alone(tmp_path: Path, config: str, reason: str) -> None:
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(TalkiesError, match=reason):
        run_folder.add(chosen(end=Fraction(1)), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


values = st.one_of(st.none(), st.booleans(), st.integers(0, 99), st.text("abc: #'\"{}é", max_size=8))
configs = st.dictionaries(
    st.sampled_from(["images", "audio", "files", "motion"]),
    st.one_of(values, st.dictionaries(st.text("abé.-", min_size=1, max_size=4), values, max_size=3)),
)


@example(config={"images": None, "audio": None}, flow=True, name="x", value="a}a")
@given(config=configs, flow=st.booleans(), name=st.text("xyz'\": .", min_size=1, max_size=6), value=values)
def test_a_key_is_set_and_the_others_stay(config: dict, flow: bool, name: str, value) -> None:
    text = (
        yaml.safe_dump(config, default_flow_style=None if flow else False, allow_unicode=True)
        if config
        else "# empty\n"
    )
    text = "# mine\n" + text
    inner = config.get("files")
    expected = {**config, "files": {**(inner if isinstance(inner, dict) else {}), name: value}}
    set_once = run_folder.with_key(text, ("files", name), value)
    assert yaml.safe_load(set_once) == expected
    assert set_once.startswith("# mine\n")
    assert yaml.safe_load(run_folder.with_key(text, ("audio",), value)) == {**config, "audio": value}


# --- typed values ---


@pytest.mark.parametrize("text", ["-1", "1e9", "x", "nan", "1.2.3", "9" * 30])
def test_what_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(TalkiesError, match=r"start: .* is not a number of seconds"):
        read_seconds(text, "start")


def test_controls_are_read() -> None:
    assert read_segment("", None) == (None, None)
    assert read_segment("0", "2.5") == (None, Fraction(5, 2))
    assert [read_best_frame(text) for text in ("", None, "auto", "7")] == [None, None, "auto", 7]
    assert [read_crop(text) for text in ("", "Face:2", "1,2,3,4")] == [
        None,
        parse("face:2"),
        parse([1, 2, 3, 4]),
    ]
    with pytest.raises(TalkiesError, match="not after the start"):
        read_segment("2", "2")
    with pytest.raises(TalkiesError, match="neither auto nor"):
        read_best_frame("-1")


# --- the studio ---


def finished(job: studio.Job, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while job.is_open:
        assert time.monotonic() < end
        time.sleep(0.05)
    return job.state


def test_films_one_after_another_with_one_model(tmp_path: Path, monkeypatch) -> None:
    loads = []
    real = studio.open_engine
    monkeypatch.setattr(studio, "open_engine", lambda *given, **more: loads.append(given) or real(*given, **more))
    make_clip(tmp_path / "long.mp4", frames=900)
    with studio.open_studio(precision="fp32", threads=1) as open_one:
        short = [open_one.submit(chosen(end=Fraction(1, 10))) for _ in range(2)]
        long = open_one.submit(chosen(driving=tmp_path / "long.mp4", faceless=True))
        waiting = open_one.submit(chosen())
        broken = open_one.submit(chosen(picture_crop="9000,9000,10,10"))
        assert [finished(job) for job in short] == ["done", "done"]
        open_one.cancel(waiting.number)
        assert waiting.state == "cancelled"
        while long.made < 5:
            time.sleep(0.02)
        begun = time.monotonic()
        open_one.cancel(long.number)
        assert finished(long) == "cancelled"
        assert time.monotonic() - begun < 5, "cancelled within a batch"
        assert finished(broken) == "failed"
        assert "lies outside its picture" in broken.reason
        assert loads == [("demo", None)]
        assert sorted(path.name for path in open_one.folder.iterdir()) == ["film-1", "film-2", "uploads"]
        assert finished(open_one.submit(chosen(end=Fraction(1, 10)))) == "done", "later films are still made"
    assert not open_one.folder.exists()


def test_a_video_without_a_face_is_refused_as_a_run_refuses_it_until_it_is_asked_for(tmp_path: Path) -> None:
    make_clip(tmp_path / "wall.mp4", frames=4)
    with studio.open_studio(precision="fp32", threads=1) as open_one:
        refused, anyway, by_hand = (
            open_one.submit(chosen(driving=tmp_path / "wall.mp4", **more))
            for more in ({}, {"faceless": True}, {"driving_crop": "center"})
        )
        assert [finished(job) for job in (refused, anyway, by_hand)] == ["failed", "done", "done"]
        assert re.fullmatch(
            r".*wall\.mp4: no face in any frame looked at, and demo animates by faces: crop it by hand "
            r'\(center, or a box\), or tick "Without a face too"',
            refused.reason,
        )
        assert not refused.folder.exists()

    lines, _ = run_folder.for_many(chosen(faceless=True))
    assert yaml.safe_load(lines)["faceless"] == "allow"
    run_folder.add(chosen(faceless=True), tmp_path / "run")
    assert settings.read(tmp_path / "run/config.yaml")["faceless"] == "allow"
    run_folder.add(chosen(), tmp_path / "other")
    with pytest.raises(TalkiesError, match="refuses driving videos without a face: set faceless: allow there"):
        run_folder.add(chosen(faceless=True), tmp_path / "other")


def test_only_what_was_uploaded_is_read(tmp_path: Path) -> None:
    with studio.open_studio() as open_one:
        link = open_one.uploads / "link.png"
        link.symlink_to(ADA)
        for path in (ADA, "/etc/passwd", open_one.uploads / "../../x", link, open_one.uploads, None, "\0"):
            with pytest.raises(TalkiesError, match="no longer here"):
                open_one.own(path)
        assert open_one.own(open_one.example("images", "ada.png")).read_bytes() == ADA.read_bytes()
        for name in ("../x", "/tmp", "a/b", "", ".hidden", "a\0b"):
            with pytest.raises(TalkiesError, match="give the name of a folder"):
                open_one.run_folder(name)


def test_old_uploads_make_room(tmp_path: Path) -> None:
    with studio.open_studio(largest=1000) as open_one:
        for number in range(30):
            (open_one.uploads / f"{number}.png").write_bytes(b"x" * 1000)
        shown = open_one.uploads / "0.png"
        open_one.remember("0" * 32, [str(shown)])
        assert open_one.has_room()
        left = sum(path.stat().st_size for path in open_one.uploads.iterdir())
        assert left <= 19_000
        assert shown.exists()


# --- the command ---


def talkies(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "talkies", *words], capture_output=True, text=True, timeout=60)


def test_the_extra_is_what_is_locked() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [
        line for line in (REPOSITORY / "requirements/app.in").read_text().splitlines() if not line.startswith("#")
    ]
    assert sorted(extras["app"]) == sorted([*wanted, "talkies[engine]"])


def test_without_the_extra_it_says_what_to_install() -> None:
    ended = talkies("app")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert (
        ended.stderr
        == "talkies: error: gradio is not installed, and the page needs it: install it by pip install 'talkies[app]'\n"
    )


@pytest.mark.parametrize("words", [["--port", "70000"], ["--root-path", "x y"], ["--max-upload", "0"]])
def test_wrong_words_are_wrong_usage(words: list[str]) -> None:
    assert talkies("app", *words).returncode == 2
