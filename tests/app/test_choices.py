"""Choices on the page become keys of config.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from app_page import chosen

from talkies import settings
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
    assert yaml.safe_load(chosen().as_yaml()) == {"images": "images", "driving": "driving"}
    complete = settings.complete(yaml.safe_load(chosen(**MUCH).as_yaml()))
    motion = complete.motion
    assert (motion.relative, motion.adapt_scale, motion.best_frame) == (False, False, "auto")
    assert (complete.audio, complete.paste_back) == (False, True)
    assert complete.crop.driving == parse("face:left")
    assert complete.files["ada.png"].crop == parse([1, 2, 300, 300])
    assert (complete.files["anna.mp4"].start, complete.files["anna.mp4"].end) == (0.5, 2.0)
    other = chosen(maker=Maker("face", "vox-256"), faceless=True)
    lines = yaml.safe_load(other.as_yaml())
    assert (lines["model"], lines["faceless"]) == ({"preset": "vox-256"}, "allow")


def test_a_wrong_crop_is_said() -> None:
    with pytest.raises(TalkiesError, match="is none of these, take one: face"):
        chosen(driving_crop="left-hand")
