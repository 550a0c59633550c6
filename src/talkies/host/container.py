"""Images: the one that jobs run in (its address, version, binds), and those of other programs (pulled, run)."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from .. import __version__
from ..errors import TalkiesError, printable
from ..files import whole
from . import scratch

log = logging.getLogger("talkies")

VERSION_LABEL = "org.opencontainers.image.version"
BUILD = "build it (in a clone of talkies: python scripts/build_container.py)"
PINNED = re.compile(r"(docker|oras)://[^\s@]+@sha256:[0-9a-f]{64}")
UNBINDABLE = re.compile(r"[,:\\]")
"""Characters with a meaning in a list of binds."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

PASSED = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
"""Variables that a program in its own image gets: its GPUs and threads."""

KEPT = "TALKIES_SLURM_TMPDIR"
"""Carries SLURM_TMPDIR into the job step, which starts without SLURM's variables."""


def runtime() -> str | None:
    """Return the command that runs images here, apptainer before singularity; None if there is neither."""
    return next((name for name in ("apptainer", "singularity") if shutil.which(name)), None)


def check_image(image: str | None, file: Path | None) -> str | None:
    """Compare an image's version with this package's; return why that can't be done, or None if they are equal.

    image: as in config.yaml. file: its path; for an address, that of the pulled copy. Raises TalkiesError if there is
    no such file, or if the versions differ.
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
        if not _holds_talkies(file):
            raise TalkiesError(
                f"config.yaml: container: {printable(image)}: holds no talkies: {BUILD}, or name another"
            )
        return f"{printable(image)}: has no label {VERSION_LABEL}: its version is not checked"
    if found != __version__:
        raise TalkiesError(
            f"config.yaml: container: {printable(image)} holds talkies {printable(found)}, and this workflow is "
            f"{__version__}: {BUILD} or install that version here (pip install talkies=={printable(found)})"
        )
    return None


def _holds_talkies(file: Path) -> bool:
    """Return whether an image has the program that its jobs call; True if that can't be tried."""
    command = runtime()
    if command is None:
        return True
    try:
        tried = [command, "exec", "--containall", str(file), "sh", "-c", "command -v talkies"]
        done = subprocess.run(tried, capture_output=True, stdin=subprocess.DEVNULL, timeout=300)
        return done.returncode not in (1, 127)
    except (OSError, subprocess.TimeoutExpired):
        return True


def labels(file: Path) -> dict[str, str]:
    """Return an image's labels; TalkiesError if they can't be read."""
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
    """Refuse folders that can't be bound into an image; called only if jobs run in one.

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
    """Let apptainer (or singularity) bind these folders, and this machine's scratch folders, into images.

    Adds them to the environment variable for binds, without folders that do not exist. wanted: the scratch folder as
    in config.yaml, with its variables.
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


def gpu_given() -> bool:
    """Return whether this process was given an NVIDIA GPU: by its environment (SLURM sets it), else by the driver."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return named not in ("", "-1", "NoDevFiles")
    return Path("/dev/nvidiactl").exists()


def pull(image: str, file: Path) -> None:
    """Pull an image from its address (docker://, oras://) into a file, whole or not at all, unless it exists.

    Raises TalkiesError.
    """
    if file.exists():
        return
    command = runtime()
    if command is None:
        raise TalkiesError(
            f"{printable(image)}: neither apptainer nor singularity is here to pull it: load its module, or install it"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    log.info("pulling %s", printable(image))
    with whole(file) as part:
        answer = subprocess.run([command, "pull", "--force", str(part), image], capture_output=True, text=True)
        if answer.returncode or not part.exists():
            said = (answer.stderr.strip() or "no reason given").splitlines()[-1][-300:]
            raise TalkiesError(
                f"{printable(image)}: {command} can't pull it ({printable(said)}): look at the address, or pull it by "
                "hand and name the file"
            )


def exec_options(
    folder: Path, *, start: str | None, binds: Iterable[str], writable: bool, network: bool, environment: dict[str, str]
) -> tuple[str, ...]:
    """Return the options of `apptainer exec` for a program, which sees only its own folder and `binds`.

    folder: the program's, at the same path inside, with HOME and temporary files. start: its working folder.
    writable: it may write into its image, which is lost. network: it may use the network. environment: of
    `apptainer`; the program's variables are added as APPTAINERENV_..., and our own binds are removed.
    """
    for name in [name for name in environment if name.endswith(("_BIND", "_BINDPATH", "_CONTAINLIBS"))]:
        if name.startswith(("APPTAINER", "SINGULARITY")):
            del environment[name]
    for name in PASSED:
        if name in environment:
            environment[f"APPTAINERENV_{name}"] = environment[f"SINGULARITYENV_{name}"] = environment[name]
    options = ["--containall", "--home", str(folder / "home"), "--workdir", str(folder / "tmp")]
    for bind in (str(folder), *binds):
        options += ["--bind", bind]
    options += ["--pwd", start or str(folder / "out")]
    if writable:
        options.append("--writable-tmpfs")
    if not network:
        options += ["--net", "--network", "none"]
    return tuple(options)


@cache
def can_cut_network(file: str) -> bool:
    """Return whether this user may run this image without a network (`--net --network none`); sites may forbid it."""
    command = runtime()
    if command is None:
        return False

    def runs(*options: str) -> bool:
        with suppress(OSError, subprocess.TimeoutExpired):
            tried = [command, "exec", "--containall", *options, file, "true"]
            return not subprocess.run(tried, capture_output=True, stdin=subprocess.DEVNULL, timeout=300).returncode
        return False

    if runs("--net", "--network", "none"):
        return True
    if runs():  # else it can't be run at all, and the next call reports why
        log.warning("%s can't be kept from the network here: this apptainer forbids it", printable(file))
    return False
