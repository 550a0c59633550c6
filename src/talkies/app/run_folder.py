"""The page's choices for a run: as text of config.yaml and commands, or added to a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..engines import FOMM
from ..errors import TalkiesError, printable
from ..files import file_digest, whole
from ..operate.init import PICTURES, VIDEOS, lay_out
from ..run.folder import CONFIG
from ..run.settings import read
from .choices import Choices

COMMANDS = f"""talkies init portraits
cp PICTURES... portraits/{PICTURES}/
cp VIDEOS... portraits/{VIDEOS}/
cd portraits                # write the lines above into config.yaml, in place of its own
snakemake -n                # what would be made
snakemake                   # on this machine
snakemake --profile slurm   # or on a cluster
"""


def for_many(choices: Choices) -> tuple[str, str]:
    """Return the lines of config.yaml and the commands that make films like this one from whole folders."""
    keys = {"images": PICTURES, "driving": VIDEOS, **choices.of_run()}
    return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=1000), COMMANDS


def add(choices: Choices, folder: Path) -> list[str]:
    """Add picture, driving video and their settings to a run folder, which is made if it does not exist.

    It replaces no file of the user's: a file whose name is taken gets a number, and config.yaml keeps its lines and
    gets new ones. Returns what was done, a line each. Raises TalkiesError if the folder's settings contradict the
    choices.
    """
    fresh = not (folder / CONFIG).exists()
    if fresh:
        lay_out(folder)
    config = read(folder / CONFIG)
    text = (folder / CONFIG).read_text(encoding="utf-8")
    if config.get("pairs"):
        raise TalkiesError(f"{printable(folder / CONFIG)}: its pairs are in a table: write a line into it")
    if not fresh:
        _check_engine(choices, config, folder / CONFIG)
    places = [folder / config.get(key, usual) for key, usual in (("images", PICTURES), ("driving", VIDEOS))]
    files = [(choices.picture, choices.of_picture()), (choices.driving, choices.of_clip())]
    targets = [_place(path, place) for (path, _), place in zip(files, places, strict=True)]
    known = config.get("files") or {}
    for target, (_, asked) in zip(targets, files, strict=True):
        if target.name in known and known[target.name] != asked:
            raise TalkiesError(
                f"{printable(folder / CONFIG)}: files: {printable(target.name)} has choices already: set them there"
            )
    changes: dict[tuple[str, ...], Any] = {
        ("files", target.name): asked
        for target, (_, asked) in zip(targets, files, strict=True)
        if asked and target.name not in known
    }
    if fresh:
        engine = choices.of_engine()
        changes |= {("model", key): value for key, value in engine.pop("model", {}).items()}
        changes |= {(key,): value for key, value in engine.items()}
    written = text
    for keys, value in changes.items():
        written = with_key(written, keys, value)
    _check_edit(config, changes, written, folder / CONFIG)
    said = [f"made {printable(folder)}"] if fresh else []
    for target, (path, _) in zip(targets, files, strict=True):
        if target.exists():
            said.append(f"{printable(target)} was there")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as part:
            shutil.copyfile(path, part)
        said.append(f"added {printable(target)}")
    if written != text:
        with whole(folder / CONFIG) as part:
            part.write_text(written, encoding="utf-8")
        said.append(f"wrote the choices into {printable(folder / CONFIG)}")
    return [*said, f"next: cd {printable(folder)}; snakemake -n; snakemake"]


def _check_engine(choices: Choices, config: Mapping[str, Any], path: Path) -> None:
    """Refuse a folder with another engine or network, since config.yaml sets them for all films."""
    model = config.get("model") or {}
    theirs: dict[str, Any] = {"engine": config.get("engine") or FOMM}
    if theirs["engine"] == FOMM:
        theirs |= {"preset": model.get("preset", "demo"), "checkpoint": model.get("checkpoint")}
    ours: dict[str, Any] = {"engine": choices.engine}
    if choices.engine == FOMM:
        ours |= {"preset": choices.network.preset, "checkpoint": choices.network.checkpoint}
    if choices.faceless and config.get("faceless") != "allow":
        raise TalkiesError(f"{printable(path)}: it refuses driving videos without a face: set faceless: allow there")
    if config.get("engines") or theirs != ours:
        told = theirs.get("preset") or theirs["engine"]
        raise TalkiesError(
            f"{printable(path)}: its films are made by {printable(str(told))}: choose that, or another folder"
        )


def _place(path: Path, folder: Path) -> Path:
    """Return a file's name in the folder, with a number if another file has the name."""
    name = path.name.lstrip(".") or "file"
    stem, suffix = Path(name).stem, Path(name).suffix
    taken = {each.stem.casefold(): each for each in folder.iterdir()} if folder.is_dir() else {}
    same = taken.get(stem.casefold())
    if same is not None and same.name == name and same.is_file() and file_digest(same) == file_digest(path):
        return same
    number = 1
    while (stem if number == 1 else f"{stem}-{number}").casefold() in taken:
        number += 1
    return folder / (name if number == 1 else f"{stem}-{number}{suffix}")


def with_key(text: str, path: tuple[str, ...], value: Any) -> str:
    """Return the text of a config.yaml with one key set, at most two levels deep; all other lines stay."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):  # only comments
        return f"{text.rstrip()}\n{_entry(path, value)}\n".lstrip("\n")
    node = _value(root, path[0])
    if node is None:
        return _with_entry(text, root, _entry(path, value))
    if len(path) == 1:
        return _replaced(text, node, _flow(value))
    if not isinstance(node, yaml.MappingNode):  # empty, or null
        return _replaced(text, node, f"{{{_entry(path[1:], value)}}}")
    inner = _value(node, path[1])
    if inner is not None:
        return _replaced(text, inner, _flow(value))
    return _with_entry(text, node, _entry(path[1:], value))


def _with_entry(text: str, node: yaml.MappingNode, entry: str) -> str:
    """Insert an entry before the others of a mapping."""
    start = node.start_mark.index
    if node.flow_style:
        return f"{text[: start + 1]}{entry}{', ' if node.value else ''}{text[start + 1 :]}"
    return f"{text[:start]}{entry}\n{' ' * node.start_mark.column}{text[start:]}"


def _value(node: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for name, value in node.value if name.value == key), None)


def _replaced(text: str, node: yaml.Node, value: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    end = max(start, len(text[:end].rstrip()))  # the end of a block is the start of what follows
    gap = "" if text[:start].endswith((" ", "\n")) else " "
    return f"{text[:start]}{gap}{value}{text[end:]}"


def _entry(path: tuple[str, ...], value: Any) -> str:
    for key in reversed(path[1:]):
        value = {key: value}
    return _flow({path[0]: value})[1:-1]


def _flow(value: Any) -> str:
    """Return a value as YAML on one line, quoted where `{...}` around it needs that."""
    text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return text.strip()[1:-1]


def _check_edit(config: Mapping[str, Any], changes: Mapping[tuple[str, ...], Any], text: str, path: Path) -> None:
    """Check that a new text has the old settings and the changes, and nothing else."""
    expected: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for keys, value in changes.items():
        if len(keys) == 1:
            expected[keys[0]] = value
        else:
            expected[keys[0]] = {**(expected.get(keys[0]) or {}), keys[1]: value}
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if found != expected:
        raise TalkiesError(f"{printable(path)}: it can't be changed without harm: write the lines yourself")
