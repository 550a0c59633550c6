"""Run every key of config.yaml and every column of the pairs table with every kind of value that it takes.

The values come from the settings' types, so a new key is tried at once; one whose type gives no value fails until GIVEN
has some. The n-th configuration has the n-th value of every key, so about a dozen have all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from clips import ffmpeg
from msgspec import Meta, UnsetType
from PIL import Image
from run_folder import REPOSITORY, RunFolder, write_weights

from talkies.fomm.model.presets import PRESETS
from talkies.media.crop import Request
from talkies.run.planner import make_plan
from talkies.settings import Network, Row, Settings, SlurmKey, complete, fields_of, is_section
from talkies.stages import table

PICTURE, CLIP, SOUND = "two.png", "talk.mp4", "voice.wav"
RATE, FRAMES = 4, 6
DIGEST = f"docker://registry.example/talkies@sha256:{'5f70bf18a0860070' * 4}"

GIVEN: dict[str, list[Any]] = {
    "images": ["images", "./images/"],
    "driving": ["./driving/", "driving"],
    "pairs": [None, "pairs.tsv"],
    "results": ["results", "out/of the way, é"],
    "engine": ["fomm"],
    "engines": [None, ["fomm"]],  # other programs are in tests/stages/test_programs.py
    "model.checkpoint": ["weights"],
    "scratch": [None, "scratch", "$HOME"],
    "files.NAME.audio": [True, False, SOUND],
    "gallery.title": ["Talkies", "“Anna & Bruno” <1>"],
    "container": ["talkies.sif", DIGEST, None],
    "image": [PICTURE, "two"],
    "driving of a row": [CLIP, "talk"],
    "variant": ["closer", "2.second-way_"],
    "audio of a row": ["true", "false", SOUND],
}
"""Values of keys that hold texts, for files in the run folder."""
CROPS = ["face", "face:left", "face:right", "face:2", "center", "none"]
SLURM: dict[str, list[Any]] = {"runtime": [60, "2h"], "gpu": [2, 0], "slurm_extra": ["--mail-type=END"]}


class NoValue(Exception):
    """A key whose type gives no value."""


def values(name: str, kind: Any, limits: Meta | None = None) -> list[Any]:
    """Return values of a type: one of each kind, and the bounds of numbers."""
    found: list[Any] = []
    inside = get_args(kind)
    if name in GIVEN:
        found = GIVEN[name]
    elif get_origin(kind) is Annotated:
        found = values(name, inside[0], inside[1])
    elif get_origin(kind) is Literal:
        found = list(inside)
    elif kind is Request:
        found = [*CROPS, [10, 10, 100, 100], [-5, 0.5, 60.5, 40]]
    elif kind is bool:
        found = [True, False]
    elif kind is type(None):
        found = [None]
    elif kind in (int, float) and limits is not None:
        least = limits.ge if limits.ge is not None else limits.gt + 1
        found = [least, least + (1 if kind is int else 0.5), *([limits.le] if limits.le and limits.le < 10**9 else [])]
    elif is_section(kind):
        found = sections(name, fields_of(kind))
    elif get_origin(kind) is dict and is_section(inside[1]):
        found = [{}, *({PICTURE: entry, CLIP: entry} for entry in values(f"{name}.NAME", inside[1]))]
    elif get_origin(kind) is dict:
        found = [{}, *({key: each} for key in get_args(SlurmKey) for each in SLURM.get(key, ["a100:1"]))]
    elif get_origin(kind) in (Union, UnionType):
        found = [value for each in inside if each is not UnsetType for value in values(name, each)]
    if not found:
        raise NoValue(f"{name}: give it values in GIVEN")
    return found


def sections(name: str, keys: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return sections: the n-th has the n-th value of each key, again from its first where it has fewer."""
    of_key = {key: values(f"{name}.{key}".lstrip("."), kind) for key, kind in keys.items()}
    return [
        {key: found[number % len(found)] for key, found in of_key.items()}
        for number in range(max(map(len, of_key.values())))
    ]


def configurations() -> list[dict[str, Any]]:
    """Return contents for config.yaml that together contain every value of every key."""
    return sections("", fields_of(Settings))


def folder_of(path: Path) -> RunFolder:
    """Create a run folder: two pictures and a clip with two faces each, a sound, and a table of the columns' values."""
    run = RunFolder.create(path, images=[], clips=[])
    both = Image.new("RGB", (512, 256))
    both.paste(Image.open(REPOSITORY / "examples/images/ada.png").convert("RGB").resize((256, 256)), (0, 0))
    both.paste(Image.open(REPOSITORY / "examples/images/bruno.jpg").convert("RGB").resize((256, 256)), (256, 0))
    both.save(path / "images" / PICTURE)
    both.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path / "images/turned.png")
    sound = ["-f", "lavfi", "-i", f"sine=frequency=500:duration={FRAMES / RATE}"]
    ffmpeg("-loop", "1", "-framerate", RATE, "-i", path / "images" / PICTURE, *sound, "-frames:v", FRAMES,
           "-vf", "crop=508:252:x=mod(n\\,4):y=mod(n\\,4)", "-pix_fmt", "yuv420p", path / "driving" / CLIP)  # fmt: skip
    ffmpeg(*sound, path / SOUND)
    (path / "scratch").mkdir()
    write_table(path)
    return run


def write_table(path: Path) -> int:
    """Write pairs.tsv with every value of every column; return the number of its rows."""
    kinds = fields_of(Row)
    named = {name: f"{name} of a row" if name in ("driving", "audio") else name for name in kinds}
    of_column = {name: [each for each in values(named[name], kind) if each is not None] for name, kind in kinds.items()}
    of_column |= {name: [*found[:-1], "10,10,100,100"] for name, found in of_column.items() if "crop" in name}
    lines = ["\t".join(of_column)]
    for number in range(max(map(len, of_column.values()))):
        row = {name: found[number % len(found)] for name, found in of_column.items()}
        row["variant"] = f"{row['variant']}{number}"
        row["end"] = row["start"] + max(row["end"], 1)
        cells = [str(value).lower() if isinstance(value, bool) else value for value in row.values()]
        lines.append("\t".join(",".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in cells))
    (path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    return len(lines) - 1


def test_every_value_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder_of(tmp_path / "run")
    monkeypatch.chdir(run.path)
    seen = set()
    for given in configurations():
        assert given.keys() == fields_of(Settings).keys()
        seen.add(given["model"]["preset"])
        write_weights(run.path / "weights", given["model"]["preset"])
        for entry in given["files"].values():
            entry["end"] = entry["start"] + max(entry["end"], 1)
        assert make_plan(complete(given), table)[0].pairs
    assert seen == set(get_args(Network)) == set(PRESETS)


@pytest.mark.slow
def test_every_column_runs(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "run")
    rows = write_table(run.path)
    run.configure(pairs="pairs.tsv", check=True, gallery={"report": False})
    run.snakemake()
    assert f"{rows} films are whole" in run.talkies("verify")


@pytest.mark.longest
@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_values_of_all_keys_run(number: int, tmp_path: Path) -> None:
    """With a table and without, with the package's network; other networks run in tests/fomm."""
    run = folder_of(tmp_path / "run")
    given = configurations()[number]
    given["model"] |= {"preset": "demo", "checkpoint": None, "device": "cpu"}
    for entry in given["files"].values():
        entry["end"] = entry["start"] + max(entry["end"], 1)
    (run.path / "config.yaml").write_text(yaml.safe_dump(given, allow_unicode=True))
    assert "nothing was made" in run.snakemake("-n", "--profile", str(REPOSITORY / "profiles/slurm"))
    run.snakemake()
    told = json.loads(run.talkies("status", "--json"))
    assert told["done"], told
    assert not told["failed"], told
    if given["first"] is None:
        assert not told["to_make"], told
        assert f"{len(told['done'])} films are whole" in run.talkies("verify")
    else:  # the run makes that many, and the next run makes the announced ones
        assert len(told["done"]) == given["first"], told
        run.snakemake()
        now = set(json.loads(run.talkies("status", "--json"))["done"])
        assert now - set(told["done"]) == set(told["to_make"])
