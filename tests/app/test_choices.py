"""Choices on the page become keys of config.yaml and go into run folders."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from app_page import ADA, chosen
from run_folder import RunFolder

from talkies import settings
from talkies.app import run_folder
from talkies.app.choices import Maker
from talkies.errors import TalkiesError
from talkies.media.crop import parse

MUCH = {
    "picture_crop": "1,2,300,300",
    "driving_crop": "face:left",
    "start": 0.5,
    "end": 2,
    "relative": False,
    "adapt_scale": False,
    "best_frame": "auto",
    "paste_back": True,
    "audio": False,
}


def test_the_lines_say_what_was_chosen_and_are_settings(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    usual = run_folder.for_many(chosen())
    assert yaml.safe_load(usual["lines"]) == {"images": "images", "driving": "driving"}
    assert "snakemake --profile slurm" in usual["commands"]
    complete = settings.complete(yaml.safe_load(run_folder.for_many(chosen(**MUCH))["lines"]))
    motion = complete.motion
    assert (motion.relative, motion.adapt_scale, motion.best_frame) == (False, False, "auto")
    assert (complete.audio, complete.paste_back) == (False, True)
    assert complete.crop.driving == parse("face:left")
    assert complete.files["ada.png"].crop == parse([1, 2, 300, 300])
    assert (complete.files["anna.mp4"].start, complete.files["anna.mp4"].end) == (0.5, 2.0)
    other = chosen(maker=Maker("face", "vox-256", "vox.pth"), faceless=True)
    lines = yaml.safe_load(run_folder.for_many(other)["lines"])
    assert (lines["model"], lines["faceless"]) == ({"preset": "vox-256", "checkpoint": "vox.pth"}, "allow")


def test_a_time_is_the_number_that_was_typed_and_a_wrong_crop_is_said() -> None:
    assert chosen(start=0.1).segment == (Fraction(1, 10), None)
    with pytest.raises(TalkiesError, match="is none of these, take one: face"):
        chosen(driving_crop="left-hand")


def test_a_new_run_folder_makes_the_same_film(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder.add(chosen(**MUCH), "run")[0] == "made run"
    config = settings.read(tmp_path / "run/config.yaml")
    assert config["files"]["anna.mp4"]["best_frame"] == "auto"
    assert config["files"]["ada.png"] == {"crop": [1, 2, 300, 300]}
    assert "1 to make" in RunFolder(tmp_path / "run").snakemake("-n")
    again = run_folder.add(chosen(**MUCH), "run")
    assert [line.rpartition(" ")[2] for line in again[:2]] == ["there", "there"]
    assert settings.read(tmp_path / "run/config.yaml") == config
    with pytest.raises(TalkiesError, match="refuses driving videos without a face: set faceless: allow there"):
        run_folder.add(chosen(faceless=True), "run")
    for name in ("../x", "/tmp", "a/b", "", ".hidden", "-x", "a\0b"):
        with pytest.raises(TalkiesError, match="give the name of a folder"):
            run_folder.add(chosen(), name)


@pytest.mark.parametrize(
    "config",
    [
        "# my run\nimages: images # here\nmotion: {relative: true}",
        "# my run\nimages: images\nfiles: {}\n\n# more\naudio: true\n",
        "files:\n  # the best\n  other.png: {crop: center}\nmotion: {relative: true}\n",
        "model: {preset: demo, checkpoint: null}\nengine: fomm\nengines: null\nfaceless: refuse\nfiles: null\n",
    ],
)
def test_nothing_of_the_users_is_lost(tmp_path: Path, monkeypatch, config: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/ada.jpg").write_text("mine")
    (tmp_path / "config.yaml").write_text(config)
    run_folder.add(chosen(**MUCH), ".")
    text = (tmp_path / "config.yaml").read_text()
    assert all(line in text for line in config.splitlines() if not line.startswith("files: "))
    assert (tmp_path / "images/ada.jpg").read_text() == "mine"
    assert (tmp_path / "images/ada-2.png").read_bytes() == ADA.read_bytes()
    before = yaml.safe_load(config)
    added = {"ada-2.png": {"crop": [1, 2, 300, 300]}, "anna.mp4": chosen(**MUCH).of_file("driving")}
    assert settings.read(tmp_path / "config.yaml") == {**before, "files": {**(before.get("files") or {}), **added}}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("pairs: pairs.tsv\n", "its pairs are in a table"),
        ("model: {preset: vox-256}\n", "its films are made by vox-256"),
        ("engine: liveportrait\n", "its films are made by other engines: choose that, or another folder"),
        ("files: {anna.mp4: {start: 3}}\n", 'write into its files: "anna.mp4": {"end": 1.0}'),
        ("files: {a.png: {crop: face}}\n", 'write into its files: "anna.mp4": {"end": 1.0}'),
        ("files: &a {anna.mp4: [\n", "not valid YAML"),
    ],
)
def test_a_folder_that_asks_for_something_else_is_left_alone(
    tmp_path: Path, monkeypatch, config: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(TalkiesError, match=reason):
        run_folder.add(chosen(end=1.0), ".")
    assert (tmp_path / "config.yaml").read_text() == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
