"""Images: the one that jobs run in (its address, version, binds), and those of other programs (pulled, run)."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterable, MutableMapping
from pathlib import Path

from .. import __version__
from ..errors import InputError, TalkiesError, printable
from ..files import open_regular, whole
from . import scratch

log = logging.getLogger("talkies")

VERSION_LABEL = "org.opencontainers.image.version"
GPUS_LABEL = "talkies.gpus"
"""Holds the kinds of GPU that the image's PyTorch is built for, or "none"."""
BUILD = "build it (in a clone of talkies: python scripts/build_container.py)"
DESCRIPTOR = struct.Struct("<17x2q40x128s384x")
"""Of a .sif: where the data begins, its bytes, its name; the rest is not needed."""
MOST_DESCRIPTORS, MOST_BYTES = 1000, 10_000_000
"""More than any real image has, of descriptors and of metadata."""
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


def check_image(image: str | None, file: Path | None = None, *, gpus: bool = False) -> str | None:
    """Check the image of a run's jobs before any is sent; return what could not be checked, or None.

    It is read here, so neither apptainer nor singularity is needed. image: as in config.yaml. file: its path; for an
    address, that of the pulled copy. gpus: whether jobs ask for a GPU. Raises TalkiesError if it can't be read, is no
    image, holds another version of this package, or is built without GPUs and jobs ask for one.
    """
    if image is None:
        return None
    file = file or Path(image)
    if ADDRESS.match(image) and not file.exists():
        return f"{image} is not here yet: its version is not checked"
    try:
        check_file(file)
        found = labels(file)
    except TalkiesError as error:
        raise TalkiesError(f"config.yaml: container: {error}: {BUILD}, or name another") from None
    held = found.get(VERSION_LABEL)
    if held != __version__:
        holds = f"talkies {printable(held)}" if held else "no talkies"
        raise TalkiesError(
            f"config.yaml: container: {printable(image)} holds {holds}, and this workflow is {__version__}: {BUILD}"
            + (f", or install that version here (pip install talkies=={printable(held)})" if held else "")
        )
    if gpus and found.get(GPUS_LABEL) == "none":
        raise TalkiesError(
            f"config.yaml: container: {printable(image)} is built without GPUs ({GPUS_LABEL}: none), and jobs ask for "
            "one: build it with --variant cu130, or run on processors (model: {device: cpu})"
        )
    return None


def check_file(file: Path) -> None:
    """Refuse a file that is no image or can't be read; TalkiesError has its name, without what to do."""
    try:
        with open_regular(file) as opened:
            head = opened.read(2048)
    except FileNotFoundError:
        raise TalkiesError(f"there is no image {printable(file)}") from None
    except InputError as error:
        raise TalkiesError(str(error)) from None
    except OSError as error:
        raise TalkiesError(f"{printable(file)}: can't be read ({error.strerror})") from None
    if b"SIF_MAGIC" not in head[:64] and b"hsqs" not in head[:64] and head[1080:1082] != b"\x53\xef":
        raise TalkiesError(f"{printable(file)}: this is no image (empty, or not a .sif)")


def labels(file: Path) -> dict[str, str]:
    """Return the labels of a .sif. Raises TalkiesError if they can't be read.

    A .sif (https://github.com/apptainer/sif) has a header, a table of descriptors and the data they describe; its
    labels are in the data that builders name inspect-metadata.json.
    """
    try:
        with open_regular(file) as opened:
            count, start = struct.unpack_from("<88x2q", opened.read(128))
            opened.seek(start)
            table = opened.read(DESCRIPTOR.size * min(count, MOST_DESCRIPTORS))
            places = {name.partition(b"\0")[0]: (at, size) for at, size, name in DESCRIPTOR.iter_unpack(table)}
            at, size = places[b"inspect-metadata.json"]
            opened.seek(at)
            found = json.loads(opened.read(min(size, MOST_BYTES)))["data"]["attributes"]["labels"] or {}
        return {str(name): str(label) for name, label in found.items()}
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise TalkiesError(f"{printable(file)}: its labels can't be read") from None


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


def exec_command(
    image: Path,
    folder: Path,
    *,
    start: str,
    binds: Iterable[str],
    writable: bool,
    network: bool,
    environment: dict[str, str],
) -> list[str]:
    """Return the command before that of a program which runs in an image, and sees only its own folder and `binds`.

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
    command = [str(runtime()), "--quiet", "exec", "--containall"]  # quiet: its own messages are not the program's
    command += ["--nv"] if gpu_given() else []
    command += ["--home", str(folder / "home"), "--workdir", str(folder / "tmp"), "--pwd", start]
    for bind in (str(folder), *binds):
        command += ["--bind", bind]
    command += ["--writable-tmpfs"] if writable else []
    command += [] if network else ["--net", "--network", "none"]
    return [*command, str(image)]
