"""The engines of a run: their keys in config.yaml, the known engines (engines.yaml), their images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ..engines import FOMM
from ..errors import TalkiesError, printable
from ..files import shipped
from ..host.container import ADDRESS, check_address, check_bindable, pull, runtime
from ..program import Program
from .folder import HOME

ENGINES = "engines.yaml"
"""Beside the package's modules."""
IMAGES = HOME / "images"
"""Images pulled from addresses, unless APPTAINER_CACHEDIR names another place."""
UNNAMED = "command"
"""The name of an engine without a name."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@cache
def known() -> dict[str, dict[str, Any]]:
    """Return the known engines by name: about, licence, needs, get, tried, and engine, the keys of config.yaml."""
    import yaml

    entries: dict[str, dict[str, Any]] = yaml.safe_load(
        (Path(__file__).resolve().parents[1] / ENGINES).read_text(encoding="utf-8")
    )
    for entry in entries.values():
        if binds := entry["engine"].get("binds"):
            entry["engine"]["binds"] = [bind.replace("EXAMPLES", str(shipped("examples")), 1) for bind in binds]
    return entries


def choose(engine: Any, engines: Any) -> dict[str, Program | None]:
    """Return each engine that a run uses, by name, None for the built-in one.

    engine, engines: as in config.yaml. Raises TalkiesError, which names the key.
    """
    if engines is not None and engine not in (None, FOMM):
        raise TalkiesError("config.yaml: engine: is given besides engines: write it into that list, and remove it here")
    chosen: dict[str, Program | None] = {}
    for number, each in enumerate([engine or FOMM] if engines is None else engines):
        where = "config.yaml: engine" if engines is None else f"config.yaml: engines.{number}"
        name, program = _named(each, where)
        if name in chosen:
            raise TalkiesError(f"{where}: a second {printable(name)}: give each a name of its own")
        chosen[name] = program
        if program is not None:
            program.check(where)
    return chosen


def _named(engine: Any, where: str) -> tuple[str, Program | None]:
    given = {"name": engine} if isinstance(engine, str) else dict(engine)
    name = given.pop("name", UNNAMED)
    if not NAME.fullmatch(name):
        raise TalkiesError(f"{where}: name: {printable(name)!r} can't be part of a file's name: take letters, digits")
    if name == FOMM:
        if given:
            raise TalkiesError(f"{where}: {FOMM} is the built-in engine, with keys under model: name it otherwise")
        return FOMM, None
    if name in known():
        given = {**known()[name]["engine"], **given}
    elif "command" not in given:
        raise TalkiesError(
            f"{where}: no engine {printable(name)} is known, and there is no command: write one of {FOMM}, "
            f"{', '.join(known())}, or its command"
        )
    try:
        return name, msgspec.convert({**given, "name": name}, Program)
    except ValueError as error:
        raise TalkiesError(f"{where}: {error}: mend it") from None


def check_files(programs: Mapping[str, Program]) -> None:
    """Refuse an engine without its image or checkpoint, before any job is sent; TalkiesError names the key."""
    for name, program in programs.items():
        where = f"config.yaml: engine {printable(name)}"
        how = f": `talkies engine show {name}` says how to get it" if name in known() else ": give its path"
        check_address(program.image, f"engine {printable(name)}: image")
        files = [("image", program.image if program.image and not ADDRESS.match(program.image) else None)]
        for key, file in [*files, ("checkpoint", program.checkpoint)]:
            if file is not None and not Path(file).is_file():
                raise TalkiesError(f"{where}: {key}: there is no file {printable(file)}{how}")
        for bind in program.binds:
            if not Path(bind.partition(":")[0]).expanduser().exists():
                raise TalkiesError(f"{where}: binds: there is no {printable(bind.partition(':')[0])}: give its path")


def fetch_images(programs: Mapping[str, Program]) -> None:
    """Pull images from their addresses when a run starts; TalkiesError if an image could not be run."""
    for name, program in programs.items():
        if program.image is not None:
            if runtime() is None:
                raise TalkiesError(
                    f"engine {name}: runs in an image, and neither apptainer nor singularity is here: load its module, "
                    "or install it"
                )
            check_bindable([Path(program.checkpoint).resolve()] if program.checkpoint else [])
            if ADDRESS.match(program.image):
                pull(program.image, image_file(program))


def image_file(program: Program) -> Path:
    """Return the path of a program's image, or of its pulled copy: in Apptainer's cache folder, if that is set."""
    assert program.image is not None
    if ADDRESS.match(program.image):
        shared = os.environ.get("APPTAINER_CACHEDIR")  # as Snakemake does with the image of its jobs
        return (Path(shared) if shared else IMAGES) / f"{program.image.rpartition(':')[2]}.sif"
    return Path(os.path.abspath(program.image))  # noqa: PTH100 (Path.absolute keeps "..")
