"""Values of config.yaml and --config: how they are read, and the messages for wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_folder import RunFolder

from talkies.errors import TalkiesError
from talkies.media.crop import parse
from talkies.run.settings import complete, read


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"audio": "false"}, ("audio",), False),
        ({"first": "null"}, ("first",), None),
        ({"motion": {"relative": "false", "best_frame": "5"}}, ("motion", "best_frame"), 5),
        ({"motion": {"relative": "false"}}, ("motion", "relative"), False),
        ({"frames_per_second": "12.5"}, ("frames_per_second",), 12.5),
        ({"crop": ["1", "2", "30", "40.5"]}, ("crop",), dict.fromkeys(("images", "driving"), parse("1,2,30,40.5"))),
        ({"gallery": {"title": "2024"}}, ("gallery", "title"), "2024"),
    ],
)
def test_a_text_where_none_may_stand_is_read_as_yaml_reads_it(given: dict, key: tuple[str, ...], value: object) -> None:
    """Snakemake passes values of --config as texts."""
    found = complete(given)
    for step in key:
        found = getattr(found, step)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"audio": "maybe"}, "audio: 'maybe' is not true or false: write one, for example audio: true"),
        ({"threads": "two"}, "threads: 'two' is not a whole number or null"),
        ({"images": ["a"]}, r"images: \['a'\] is not a text: write one, for example images: \"examples/images\""),
        ({"motion": "much"}, "motion: 'much' is not a section of keys"),
        ({"first": "2.5"}, "first: 2.5 is not a whole number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_with_what_may_stand_there(given: dict, words: str) -> None:
    with pytest.raises(TalkiesError, match=words):
        complete(given)


@pytest.mark.parametrize(
    "text", ["crop: face\ncrop: center\n", "crop: face\nmotion: {relative: true, relative: false}\n"]
)
def test_a_key_given_twice_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(
        TalkiesError, match=r"(crop is given twice, in lines 1 and 2)|(relative is given twice, in lines 2)"
    ):
        read(tmp_path / "config.yaml")


def test_a_merged_key_may_be_given_again(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read(tmp_path / "config.yaml")["b"] == {"x": 3, "y": 2}


def test_values_of_the_command_line_are_the_runs(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=("red",), clips=("a",))
    run.snakemake("--config", "audio=false", "motion={relative: false}")
    assert run.record("a/red")["motion"]["relative"] is False
    assert json.loads(run.talkies("status", "--json"))["to_make"] == [], "the given values stay in effect"
