"""Run every key of config.yaml and every column of the pairs table with every kind of value that it allows.

The values come from the schemas, so a new key is tested at once. A key whose rule gives no value fails until the schema
has examples for it, or FILES a file. The n-th run takes the n-th value of every key, so about twenty runs cover all.
Keys that only matter on a cluster are also checked by a dry run with the cluster's profile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from clips import ffmpeg
from PIL import Image
from run_folder import REPOSITORY, RunFolder, write_weights
from seeded import seeded_weights

from talkies.fomm.model import PRESETS, FirstOrderModel, save_safetensors
from talkies.fomm.model.presets import DEMO_WEIGHTS
from talkies.run import settings as config
from talkies.run.planner import make_plan

PICTURE, CLIP, SOUND = "two.png", "talk.mp4", "voice.wav"
RATE, FRAMES = 4, 6


def weights(folder: Path, preset: str) -> str:
    """Write weights that fit a preset; return the file's name."""
    name = f"{preset}.safetensors"
    save_safetensors(seeded_weights(FirstOrderModel(PRESETS[preset])), folder / name, half=True)
    return name


FILES: dict[str, Callable[[Path], list[str]]] = {
    "images": lambda folder: ["images", str(folder / "images")],
    "driving": lambda folder: ["./driving/", "driving"],
    "pairs": lambda folder: ["pairs.tsv"],
    "results": lambda folder: ["results", "out/of the way, é"],
    "model.checkpoint": lambda folder: [str(DEMO_WEIGHTS)],
    "scratch": lambda folder: [str(folder), "$HOME"],
    "files.NAME.audio": lambda folder: [SOUND],
}
"""Keys whose values are files or folders, with those that exist in the run folder."""
ELSEWHERE: dict[str, list[Any]] = {"engine": ["fomm"], "engines": [None, ["fomm"]]}
"""Keys that other tests cover further: other programs are in tests/stages/test_programs.py."""
REVERSED = {"model.precision"}
"""Keys whose values are taken in reverse, so that fp16, slow on a CPU, runs with the smallest network."""


# --- values that a rule allows ---------------------------------------------------------------------------


class NoValue(Exception):
    """A key whose rule gives no value."""


def values(name: str, rule: Mapping[str, Any], whole: Mapping[str, Any], folder: Path) -> list[Any]:
    """Return values that a rule allows: one of each kind, and the bounds of numbers."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if "$ref" in rule:
        named = whole["$defs"][rule["$ref"].removeprefix("#/$defs/")]
        rule = {**named, **{key: value for key, value in rule.items() if key != "$ref"}}
    if names := rule.get("propertyNames", {}).get("enum"):
        examples = rule.get("examples", [])
        if missing := set(names) - {key for example in examples for key in example}:
            raise NoValue(f"{name}: no example in the schema has {sorted(missing)}")
        return examples
    if "examples" in rule:
        return rule["examples"] + [None] * ("null" in rule.get("type", ""))
    if "enum" in rule:
        return rule["enum"][:: -1 if name in REVERSED else 1]
    if "const" in rule:
        return [rule["const"]]
    if "anyOf" in rule:
        return [value for choice in rule["anyOf"] for value in values(name, choice, whole, folder)]
    kinds = rule.get("type", [])
    found = []
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        found += _values_of(kind, name, rule, whole, folder)
    if not found:
        raise NoValue(f"{name}: its rule tells no value")
    return found


def _values_of(kind: str, name: str, rule: Mapping[str, Any], whole: Mapping[str, Any], folder: Path) -> list[Any]:
    if kind == "null":
        return [None]
    if kind == "boolean":
        return [True, False]
    if kind in ("integer", "number"):
        least = rule["minimum"] if "minimum" in rule else rule["exclusiveMinimum"] + 1
        more = [least + 1] if kind == "integer" else [least + 0.5]
        return [least, *more, *([rule["maximum"]] if "maximum" in rule else [])]
    if kind == "string" and name in FILES:
        return FILES[name](folder)
    if kind == "object" and ("properties" in rule or isinstance(rule.get("additionalProperties"), dict)):
        return _sections(name, rule, whole, folder)
    raise NoValue(f"{name}: give it examples in the schema, or a file in FILES")


def _sections(name: str, rule: Mapping[str, Any], whole: Mapping[str, Any], folder: Path) -> list[Any]:
    """Return sections: the n-th has the n-th value of each key, or the default if the key has fewer values."""
    if "properties" not in rule:  # a section for each file
        entries = values(f"{name}.NAME", rule["additionalProperties"], whole, folder)
        return [{}, *({PICTURE: entry, CLIP: entry} for entry in entries)]
    prefix = f"{name}." * bool(name)
    of_key = {key: values(f"{prefix}{key}", below, whole, folder) for key, below in rule["properties"].items()}
    stated = {key: below.get("default") for key, below in rule["properties"].items()}
    usual = {key: stated[key] if stated[key] in found else found[0] for key, found in of_key.items()}
    return [
        {key: found[number] if number < len(found) else usual[key] for key, found in of_key.items()}
        for number in range(max(map(len, of_key.values())))
    ]


# --- the runs --------------------------------------------------------------------------------------------


def configurations(folder: Path) -> list[dict[str, Any]]:
    """Return contents for config.yaml that together contain every value of every key."""
    whole = config.schema("config")
    return values("", whole, whole, folder)


ALL = configurations(Path("/nowhere"))


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
    write_table(path)
    return run


def write_table(path: Path) -> list[dict[str, str]]:
    """Write pairs.tsv with every value of every column; return its rows."""
    schema = config.schema("pairs")
    fixed = {"image": [PICTURE, "two"], "driving": [CLIP, "talk"]}
    of_column = {
        name: fixed.get(name) or values(name, rule, schema, path) for name, rule in schema["properties"].items()
    }
    of_column["audio"] = [*of_column["audio"], SOUND]
    rows = []
    for number in range(max(map(len, of_column.values()))):
        row = {name: found[number % len(found)] for name, found in of_column.items()}
        row["variant"] = f"{row['variant']}{number}"
        rows.append(row)
    lines = ["\t".join(of_column), *("\t".join(row.values()) for row in rows)]
    (path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    return rows


@pytest.mark.longest
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(ALL)))
def test_every_value_runs(number: int, tmp_path: Path) -> None:
    run = folder_of(tmp_path / "run")
    settings = configurations(run.path)[number]
    if (preset := settings["model"]["preset"]) != "demo":
        settings["model"]["checkpoint"] = weights(run.path, preset)
    asks_for_gpu = settings["model"]["device"] == "cuda"
    write(run, settings)
    assert "This was a dry-run" in run.snakemake("-n", "--profile", str(REPOSITORY / "profiles/slurm"))
    if asks_for_gpu and not torch.cuda.is_available():
        assert "no usable GPU" in run.snakemake("--retries", "0", ok=False)
        settings["model"]["device"] = "cpu"
        write(run, settings)
    run.snakemake()
    told = json.loads(run.talkies("status", "--json"))
    assert told["done"], told
    assert not told["failed"], told
    if settings["first"] is None:
        assert not told["to_make"], told
        assert f"{len(told['done'])} films are whole" in run.talkies("verify")
    else:  # the run makes that many, and the next run makes the announced ones
        assert len(told["done"]) == settings["first"], told
        assert len(told["to_make"]) <= settings["first"], told
        before = set(told["done"])
        run.snakemake()
        now = set(json.loads(run.talkies("status", "--json"))["done"])
        assert now - before == set(told["to_make"])


def write(run: RunFolder, settings: Mapping[str, Any]) -> None:
    (run.path / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))


def test_a_box_for_all_and_for_single_files_runs(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "run")
    boxes = {PICTURE: {"crop": [0, 0, 200, 200]}, CLIP: {"crop": [20.0, 10, 150.5, 180]}}
    run.configure(crop=[10, 10, 100, 100], files=boxes, check=True, first=2)
    run.snakemake()
    boxes_made = {name: run.record(f"talk/{name}")["source"]["crop"]["box"] for name in ("turned", "two")}
    assert boxes_made == {"turned": [10, 10, 100], "two": [0, 0, 200]}
    assert "Nothing to be done" in run.snakemake()
    assert "3 files" in run.talkies("check")
    assert "2 films are whole" in run.talkies("verify")


@pytest.mark.slow
def test_every_column_runs(tmp_path: Path) -> None:
    run = folder_of(tmp_path / "run")
    rows = write_table(run.path)
    run.configure(pairs="pairs.tsv", check=True, gallery={"report": False})
    run.snakemake()
    assert f"{len(rows)} films are whole" in run.talkies("verify")


@pytest.mark.parametrize(
    "rule",
    [{"type": "string"}, {"type": "object"}, {}, {"type": "array"}, {"anyOf": [{"type": "null"}, {"type": "string"}]}],
    ids=str,
)
def test_a_new_key_without_a_value_is_seen(rule: dict[str, Any], tmp_path: Path) -> None:
    whole = config.schema("config")
    with pytest.raises(NoValue, match="new_key"):
        values("", {**whole, "properties": {**whole["properties"], "new_key": rule}}, whole, tmp_path)


def test_every_value_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder_of(tmp_path / "run")
    monkeypatch.chdir(run.path)
    for settings in configurations(run.path):
        assert settings.keys() == config.schema("config")["properties"].keys()
        preset = settings["model"]["preset"]
        settings["model"]["checkpoint"] = str(run.path / "weights")
        write_weights(run.path / "weights", preset)
        assert make_plan(config.complete(settings))[0].pairs
