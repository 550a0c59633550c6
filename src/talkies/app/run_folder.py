"""The page's choices for a run: as text of config.yaml and commands, or added to a run folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from ..engines import FOMM
from ..errors import TalkiesError, printable
from ..files import file_digest, whole
from ..run.folder import CONFIG, PICTURES, VIDEOS, lay_out
from ..settings import Settings, checked, read
from .choices import Choices

COMMANDS = f"""talkies init portraits
cp PICTURES... portraits/{PICTURES}/
cp VIDEOS... portraits/{VIDEOS}/
cd portraits                # write the lines above into config.yaml, in place of its own
snakemake -n                # what would be made
snakemake                   # on this machine
snakemake --profile slurm   # or on a cluster
"""
FILES = re.compile(r"^files:(?: *\{\}| *null)? *\n", re.MULTILINE)
"""The line of config.yaml below which entries of files are written."""
ENGINE_KEYS = ("engine", "engines", "model", "faceless")


def for_many(choices: Choices) -> dict[str, str]:
    """Return the lines of config.yaml and the commands that make films like this one from whole folders."""
    return {"lines": _as_yaml(choices.of_run()), "commands": COMMANDS}


def _as_yaml(keys: dict[str, Any]) -> str:
    keys = {"images": PICTURES, "driving": VIDEOS, **keys}
    return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True, width=1000)


def add(choices: Choices, name: str) -> list[str]:
    """Add picture, driving video and their settings to a run folder, which is made if it does not exist.

    name: of a folder in the working folder, or "." for that.

    It replaces no file of the user's: a file whose name is taken gets a number, and config.yaml only gets lines
    below `files:`. Returns what was done, a line each. Raises TalkiesError if the folder's settings
    contradict the choices, and for another name.
    """
    if name != "." and (not re.fullmatch(r"\w[\w. -]{0,99}", name) or Path(name).is_symlink()):
        raise TalkiesError(f"{printable(name)[:60]}: give the name of a folder in {printable(Path.cwd())}, or .")
    folder = Path(name)
    path = folder / CONFIG
    fresh = not path.exists()
    config = {} if fresh else read(path)
    if config.get("pairs"):
        raise TalkiesError(f"{printable(path)}: its pairs are in a table: write a line into it")
    if not fresh and (wrong := _other_engine(choices.of_engine(), config)):
        raise TalkiesError(f"{printable(path)}: {wrong}")
    places = {
        _place(choices.picture, folder / config.get("images", PICTURES)): choices.of_file("picture"),
        _place(choices.driving, folder / config.get("driving", VIDEOS)): choices.of_file("driving"),
    }
    entries = {place.name: entry for place, entry in places.items() if entry}
    if fresh:
        lay_out(folder)
        written: str | None = _as_yaml(choices.of_engine() | ({"files": entries} if entries else {}))
    else:
        written = _with_files(path, config, entries)
    told = [f"made {printable(folder)}"] if fresh else []
    for place, source in zip(places, (choices.picture, choices.driving), strict=True):
        if place.exists():
            told.append(f"{printable(place)} was there")
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole(place) as part:
            shutil.copyfile(source, part)
        told.append(f"added {printable(place)}")
    if written is not None:
        with whole(path) as part:
            part.write_text(written, encoding="utf-8")
        told.append(f"wrote the choices into {printable(path)}")
    return [*told, f"next: cd {printable(folder)}; snakemake -n; snakemake"]


def _other_engine(keys: dict[str, Any], config: dict[str, Any]) -> str | None:
    """Return why a folder's films are not made as on the page, since config.yaml sets that for all of them."""
    told = [{key: each[key] for key in ENGINE_KEYS if each.get(key) is not None} for each in (keys, config)]
    ours, theirs = (checked(each, Settings, str(CONFIG)) for each in told)
    if [ours.engine, None, ours.model.preset, ours.model.checkpoint] != (
        [theirs.engine, theirs.engines, theirs.model.preset, theirs.model.checkpoint]
    ):
        named = theirs.model.preset if theirs.engine == FOMM and not theirs.engines else "other engines"
        return f"its films are made by {named}: choose that, or another folder"
    if ours.faceless != "refuse" == theirs.faceless:
        return "it refuses driving videos without a face: set faceless: allow there"
    return None


def _with_files(path: Path, config: dict[str, Any], entries: dict[str, Any]) -> str | None:
    """Return the text of a config.yaml with more lines in its files; None if it has all of them already.

    Raises TalkiesError with the lines to write if that can't be done without changing other lines.
    """
    known = config.get("files") or {}
    entries = {name: entry for name, entry in entries.items() if known.get(name) != entry}
    if not entries:
        return None
    lines = "".join(
        f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(entry)}\n" for name, entry in entries.items()
    )
    text, block = path.read_text(encoding="utf-8"), f"files:\n{lines}"
    longer = FILES.sub(lambda _: block, text, count=1) if "files" in config else f"{text.rstrip()}\n{block}"
    try:
        done = yaml.safe_load(longer) == {**config, "files": {**known, **entries}} and not known.keys() & entries.keys()
    except yaml.YAMLError:
        done = False
    if not done:
        told = ", ".join(line.strip() for line in lines.splitlines())
        raise TalkiesError(f"{printable(path)}: it has choices for files already: write into its files: {told}")
    return longer


def _place(path: Path, folder: Path) -> Path:
    """Return a file's name in the folder, with a number if another file has the name."""
    taken = {each.stem.casefold(): each for each in folder.iterdir()} if folder.is_dir() else {}
    same = taken.get(path.stem.casefold())
    if same is not None and same.name == path.name and same.is_file() and file_digest(same) == file_digest(path):
        return same
    stem, number = path.stem, 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{path.stem}-{number}"
    return folder / f"{stem}{path.suffix}"
