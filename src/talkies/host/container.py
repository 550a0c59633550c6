"""The image that jobs run in: its address, its version, and the folders beyond the run folder that it must see."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from .. import __version__
from ..errors import TalkiesError, printable
from . import scratch

VERSION_LABEL = "org.opencontainers.image.version"
BUILD = "build it (in a clone of talkies: python scripts/build_container.py)"
PINNED = re.compile(r"(docker|oras)://[^\s@]+@sha256:[0-9a-f]{64}")
UNBINDABLE = re.compile(r"[,:\\]")
"""What a list of binds would take for its own."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

KEPT = "TALKIES_SLURM_TMPDIR"
"""Carries SLURM_TMPDIR through the job step, whose start takes all variables of SLURM away."""


def runtime() -> str | None:
    """Return the command that runs images here, apptainer before singularity; None where there is neither."""
    return next((name for name in ("apptainer", "singularity") if shutil.which(name)), None)


def check_address(image: str | None) -> None:
    """Refuse an image that is not a file and not pinned by its digest: its name could mean another one tomorrow."""
    if image is None or not ADDRESS.match(image) or PINNED.fullmatch(image):
        return
    if not image.startswith(("docker://", "oras://")):
        raise TalkiesError(
            f"config.yaml: container: {printable(image)}: give a .sif, a docker:// or an oras:// address"
        )
    name = image.partition("@")[0]
    if ":" in name.rpartition("/")[2]:
        name = name.rpartition(":")[0]
    raise TalkiesError(
        f"config.yaml: container: {printable(image)}: not pinned, so it may be another image tomorrow: give its "
        f"digest: {printable(name)}@sha256:... (`skopeo inspect` or the registry's page tells it)"
    )


def check_image(image: str | None, file: Path | None) -> str | None:
    """Compare an image's version with this package's; return why that can't be done, None when they are equal.

    image: as config.yaml has it. file: where it lies, for an address where it was pulled to. Raises TalkiesError
    when there is no such file, or when the versions differ.
    """
    if image is None:
        return None
    file = file or Path(image)
    if not file.exists():
        if ADDRESS.match(image):
            return f"{image} is not here yet: its version is not checked"
        raise TalkiesError(f"config.yaml: container: there is no image {printable(image)}: {BUILD}, or name another")
    try:
        found = labels(file).get(VERSION_LABEL)
    except TalkiesError as error:
        return f"{error}; its version is not checked"
    if not found:
        return f"{printable(image)}: has no label {VERSION_LABEL}: its version is not checked"
    if found != __version__:
        raise TalkiesError(
            f"config.yaml: container: {printable(image)} holds talkies {printable(found)}, and this workflow is "
            f"{__version__}: {BUILD} or install that version here (pip install talkies=={printable(found)})"
        )
    return None


def labels(file: Path) -> dict[str, str]:
    """Return an image's labels; TalkiesError when they can't be read."""
    command = runtime()
    if command is None:
        raise TalkiesError(
            f"{printable(file)}: neither apptainer nor singularity is here to look into it: load its module"
        )
    try:
        answer = subprocess.run(
            [command, "inspect", "--labels", "--json", str(file)], capture_output=True, text=True, timeout=60
        )
        value = json.loads(answer.stdout)["data"]["attributes"]["labels"] or {}
        return {str(name): str(label) for name, label in value.items()}
    except (OSError, subprocess.TimeoutExpired):
        raise TalkiesError(f"{printable(file)}: {command} inspect does not answer: try it by hand") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        said = " ".join(answer.stderr.split())[-200:] or "no labels"
        raise TalkiesError(
            f"{printable(file)}: {command} inspect can't read it ({printable(said)}): build or copy it again"
        ) from None


def check_bindable(folders: Iterable[str | Path]) -> None:
    """Refuse folders that can't be shown to an image; called where jobs run in one, and only there.

    Raises TalkiesError.
    """
    for path in folders:
        if str(path) == "/" or UNBINDABLE.search(str(path)):
            raise TalkiesError(
                f"{printable(path)}: config.yaml, or a link in a folder that it names, leads to this folder, and it "
                "can't be shown to the image (a comma, colon or backslash in its name, or the whole disk): "
                "move or rename it, or run without the image (container: null)"
            )


def bind(folders: Iterable[str | Path], wanted: str | None, environment: MutableMapping[str, str]) -> None:
    """Have apptainer (or singularity) show these folders, and this machine's scratch folders, to the images it runs.

    Adds to the variable of the environment that names binds; a folder that is not there is left out.
    wanted: the scratch folder as config.yaml has it, with its variables.
    """
    if environment.get("SLURM_TMPDIR"):
        environment[KEPT] = environment["SLURM_TMPDIR"]
    elif environment.get(KEPT):
        environment["SLURM_TMPDIR"] = environment[KEPT]
    names = ("APPTAINER_BIND", "SINGULARITY_BIND") if runtime() == "apptainer" else ("SINGULARITY_BIND",)
    name = next((name for name in names if environment.get(name)), names[0])
    bound = [part for part in environment.get(name, "").split(",") if part]
    places = [str(Path(os.path.expandvars(wanted)).expanduser())] if wanted else []
    places += [environment[variable] for variable in scratch.VARIABLES if environment.get(variable)]
    for text in map(str, (*folders, *places)):
        if text not in bound and Path(text).is_absolute() and Path(text).is_dir() and not UNBINDABLE.search(text):
            bound.append(text)
    if bound:
        environment[name] = ",".join(bound)
