"""Examines a machine: what talkies needs, what is missing, and what to do about it.

The command is the same on a login node, on a compute node (`srun talkies doctor`), in the image and on a laptop; the
place decides what is needed. Every program that it starts has a time limit.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from getpass import getuser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from .. import __version__, media
from ..engines.images import image_file
from ..engines.program import Command
from ..errors import TalkiesError, counted, printable
from ..files import file_digest
from ..machine import container, scratch
from ..run.inputs import folders_outside
from ..settings import Settings, Slurm, load
from .scheduler import needs_gpu_image

LEAST_FREE = 2 << 30
"""Free bytes below which a disk counts as full: about 800,000 frames of film."""
ANSWER_SECONDS = 20
"""The time limit of a program."""
FORGOTTEN_SECONDS = 60
"""Below this MinJobAge of SLURM, Snakemake asks sacct instead of squeue: three times its first check's delay."""
GPU_SECONDS = 240
"""How long PyTorch may take to load (cold, from a network disk) and to try the GPU."""
IMAGE_PREFIX = Path("/opt/talkies")
"""Where containers/Dockerfile installs, which identifies the image under Docker too."""
PLACES = {
    "image": "in the image",
    "job": "on a compute node",
    "login": "on a login node",
    "machine": "on this machine, without a cluster",
}
Finding = tuple[str, str]
"""Grade (ok, note, MISSING) and text."""


def examine(folder: Path, *, as_json: bool = False) -> int:
    """Print one line for each finding (or JSON); return 1 if something needed here is missing."""
    here = Here(folder, find_place())
    found = [
        (grade, subject, " ".join(printable(text).split()))
        for subject, places, check in CHECKS
        if here.place in places.split()
        for grade, text in _checked(check, here)
    ]
    missing = sum(grade == "MISSING" for grade, _, _ in found)
    if as_json:
        rows = [dict(zip(("grade", "subject", "text"), each, strict=True)) for each in found]
        facts = {"place": here.place, "host": socket.gethostname(), "missing": missing, "findings": rows}
        print(json.dumps(facts, indent=1))
        return 1 if missing else 0
    print(f"{'':8}{PLACES[here.place]} ({socket.gethostname()})")
    for grade, subject, text in found:
        print(f"{grade:8}{subject}: {text}")
    print("all that a run needs here is there" if not missing else f"{counted(missing, 'thing')} to mend")
    return 1 if missing else 0


def find_place() -> str:
    """Return where this runs: image, job (a SLURM job), login (a machine that submits jobs), or machine."""
    if any(os.environ.get(name) for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")):
        return "image"
    if Path("/.singularity.d").exists() or Path(sys.prefix) == IMAGE_PREFIX:
        return "image"
    if os.environ.get("SLURM_JOB_ID"):
        return "job"
    return "login" if shutil.which("sbatch") else "machine"


@dataclass
class Here:
    """The machine and run folder that are examined."""

    folder: Path
    place: str

    @cached_property
    def settings(self) -> Settings | None:
        """The run folder's settings; None if it has none, or they are wrong."""
        try:
            return load(self.folder / "config.yaml") if (self.folder / "config.yaml").exists() else None
        except TalkiesError:
            return None

    @property
    def slurm(self) -> Slurm:
        """What jobs ask of SLURM."""
        return self.settings.slurm if self.settings else Slurm()

    @property
    def image(self) -> str | None:
        """The image of the jobs that a cluster runs."""
        return self.settings.container if self.settings and self.place != "machine" else None

    @cached_property
    def cards(self) -> list[str]:
        """The GPUs that nvidia-smi sees: name, driver, memory."""
        code, out, _ = _ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
        return out.splitlines() if code == 0 else []

    @cached_property
    def trial(self) -> tuple[dict[str, Any] | None, str]:
        """What PyTorch does here (fomm/trial.py), in a process of its own, since a driver may hang; or why not."""
        code, out, complaint = _ask(sys.executable, "-m", "talkies.fomm.trial", seconds=GPU_SECONDS)
        return (json.loads(out.splitlines()[-1]) if code == 0 else None), complaint or f"exit code {code}"


def _checked(check: Callable[[Here], Iterator[Finding]], here: Here) -> Iterator[Finding]:
    try:
        yield from check(here)
    except (TalkiesError, OSError) as error:
        yield "MISSING", str(error)


def _ask(*command: str, seconds: float | None = None) -> tuple[int | None, str, str]:
    """Run a program; return its exit code (None: missing, or no answer in time), its stdout and its stderr's end."""
    seconds = seconds or ANSWER_SECONDS
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            # With files and its own session: a child of a hanging program would keep a pipe open.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
            code = process.wait(seconds)
        except OSError as error:
            return None, "", error.strerror or str(error)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, "", f"no answer in {seconds:g} s"
        out.seek(0)
        err.seek(0)
        texts = [file.read().decode(errors="replace").strip() for file in (out, err)]
    return code, texts[0], " ".join(texts[1].split())[-200:]


# --- what is installed ------------------------------------------------------------------------------------


def _talkies(here: Here) -> Iterator[Finding]:
    yield "ok", f"{__version__}, Python {platform.python_version()} ({sys.executable})"


def _packages(here: Here) -> Iterator[Finding]:
    for name in ("snakemake", *(["snakemake-executor-plugin-slurm"] if here.place == "login" else [])):
        try:
            yield "ok", f"{name} {version(name)}"
        except PackageNotFoundError:
            yield "MISSING", f"not installed: pip install {name}"


def _ffmpeg(here: Here) -> Iterator[Finding]:
    yield "ok", f"{media.ffmpeg_version()} ({media.ffmpeg_path()})"


def _config(here: Here) -> Iterator[Finding]:
    if (here.folder / "config.yaml").exists():
        load(here.folder / "config.yaml")
        yield "ok", "config.yaml"
    elif not (here.folder / "Snakefile").exists():
        yield "note", f"no Snakefile in {here.folder}: run snakemake in a clone of talkies or a run folder"


def _torch(here: Here) -> Iterator[Finding]:
    found, complaint = here.trial
    if found is None:
        if "ModuleNotFoundError" not in complaint:
            yield "MISSING", f"it does not work ({complaint}): install it again: pip install 'talkies[engine]'"
        elif here.place in ("image", "machine"):
            yield "MISSING", "not installed, and to animate here needs it: pip install 'talkies[engine]'"
        else:
            yield "note", "not installed: fine here, where the image brings it to the jobs"
        return
    built = f"for CUDA {found['cuda']} ({', '.join(found['built_for'])})" if found["cuda"] else "without CUDA"
    yield "ok", f"{found['torch']}, built {built}, {found['threads']} cores for this job"
    if "weights" not in found:
        yield "MISSING", f"demo network: {found.get('weights_fault')}"


def _gpu(here: Here) -> Iterator[Finding]:
    """Report the card, and whether its driver and torch fit each other, by a convolution on it."""
    granted = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = granted in ("", "-1", "NoDevFiles")
    if here.cards:
        yield "ok", f"{'; '.join(here.cards)} (name, driver, memory)"
    found, _ = here.trial
    if found is None:
        if granted and not hidden and not here.cards:
            yield "MISSING", f"granted (CUDA_VISIBLE_DEVICES={granted}), and nvidia-smi finds none: use another node"
        return
    lack = "note" if here.place == "login" else "MISSING"
    if found["fault"] or (here.cards and found["device"] == "cpu" and not hidden):
        why = found.get("unfit") or found["fault"] or "torch is built without CUDA"
        yield lack, f"a GPU is given and does not work ({why}): in an image say --nv; else try another node or torch"
    elif found["device"] == "cpu":
        yield "note", "none given (`talkies doctor --on gpu` looks at a node's); the device is the processor"
    else:
        yield "ok", f"{found['name']}: a convolution came out as on the processor, {1000 * found['seconds']:.0f} ms"


# --- the cluster ------------------------------------------------------------------------------------------


def _slurm(here: Here) -> Iterator[Finding]:
    code, out, complaint = _ask("sinfo", "--noheader", "--format=%P")
    if code != 0:
        yield "MISSING", f"sinfo does not answer ({complaint}): is the controller up? ask the admin"
        return
    partitions = sorted({name.strip().rstrip("*") for name in out.splitlines() if name.strip()})
    release = _ask("sinfo", "--version")[1].removeprefix("slurm ")
    yield "ok", f"{release}, partitions {', '.join(partitions) or 'none'}"
    for kind in ("gpu", "cpu"):
        for name in str(here.slurm.of(kind).get("slurm_partition", "")).split(","):
            if name and name not in partitions:
                yield "MISSING", f"config.yaml: slurm.{kind}.slurm_partition: there is no {name}"
    asked = {str(each["slurm_account"]) for each in (here.slurm.gpu, here.slurm.cpu) if each.get("slurm_account")}
    listed = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={getuser()}", "format=account")
    known = set(_ask(*listed)[1].split()) if asked else set()
    for name in sorted(asked - known) if known else ():
        yield "MISSING", f"config.yaml: slurm_account: {name} is none of yours ({', '.join(sorted(known))})"


def _ended_jobs(here: Here) -> Iterator[Finding]:
    """Check that Snakemake can see when a job has ended: by squeue, or where SLURM forgets soon, by sacct."""
    said = _ask("scontrol", "show", "config")[1]
    facts: Mapping[str, str] = dict(re.findall(r"^(\w+)\s*=\s*(\S+)", said, re.MULTILINE))
    off = facts.get("AccountingStorageType", "none").endswith(("none", "(null)"))
    code, _, complaint = (1, "", "accounting is off") if off else _ask("sacct", "--noheader", "--starttime=now")
    age = re.match(r"\d+", facts.get("MinJobAge", "0"))
    if age and int(age[0]) >= FORGOTTEN_SECONDS:
        yield "ok", "Snakemake asks squeue, as profiles/slurm says"
    elif code == 0:
        yield "ok", "Snakemake asks sacct, since SLURM forgets ended jobs soon (MinJobAge)"
    else:
        yield (
            "MISSING",
            f"SLURM forgets ended jobs soon, and sacct is not usable ({complaint}): ask for a MinJobAge of 60",
        )


def _profile(here: Here) -> Iterator[Finding]:
    """Find the profile of `snakemake --profile slurm`."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "snakemake"
    places = (here.folder / "slurm", home / "slurm", Path("/etc/xdg/snakemake/slurm"))
    files = [file for where in places for file in sorted(where.glob("config*.yaml"))[-1:]]
    if not files:
        yield "MISSING", f"none in {here.folder} or {home}: run in a clone, or scripts/install_profile makes one there"
        return
    try:
        value = yaml.safe_load(files[0].read_text(encoding="utf-8")) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        yield "MISSING", f"{files[0]}: can't be read ({error})"
        return
    yield "ok", str(files[0])
    if (
        value.get("slurm-status-command", "sacct") != "squeue"
        and _ask("sacct", "--noheader", "--starttime=now")[0] != 0
    ):
        yield (
            "MISSING",
            f"{files[0]}: sacct does not work here, and Snakemake would wait for ever: "
            "add slurm-status-command: squeue",
        )


def _apptainer(here: Here) -> Iterator[Finding]:
    """Check apptainer, by running the image of the jobs if it is here."""
    command = container.runtime()
    others = here.settings.programs.values() if here.settings else ()
    if command is None:
        if here.image or any(program.image for program in others):
            yield "MISSING", "neither apptainer nor singularity is here: `module load apptainer`, or ask"
        return
    code, out, complaint = _ask(command, "--version")
    yield "ok" if code == 0 else "MISSING", out or complaint
    if here.image and Path(here.image).exists():
        code, _, complaint = _ask(command, "exec", here.image, "true", seconds=GPU_SECONDS)
        if code != 0:
            yield "MISSING", f"can't run {here.image} here ({complaint}): ask the admin about user namespaces"
        elif complaint:
            yield "note", complaint  # for example that it unpacks the image at each start, for want of /dev/fuse


def _image(here: Here) -> Iterator[Finding]:
    """Check the image of config.yaml, as a run does before it sends a job."""
    image = here.image
    if image is None or here.settings is None:
        return
    doubt = container.check_image(image, gpus=needs_gpu_image(here.settings))
    if Path(image).is_file():
        size = Path(image).stat().st_size / 1e9
        yield (
            "ok",
            f"{image}, {size:.2f} GB, sha256 {file_digest(image)}" + ("" if doubt else f", version {__version__}"),
        )
    if doubt:
        yield "note", doubt


def _engines(here: Here) -> Iterator[Finding]:
    """Check the programs that animate: whether they exist and can be started."""
    for name, program in (here.settings.programs if here.settings else {}).items():
        first = Command(program.command).words[0]
        if program.image is not None:
            file = image_file(program)
            if file.exists():
                yield "ok", f"{name}: {file}, sha256 {file_digest(file)}"
            else:
                yield "note", f"{name}: {program.image} is pulled when a run begins: it needs the network then"
        elif program.workdir is not None and not Path(program.workdir).is_dir():
            yield "MISSING", f"{name}: workdir: there is no folder {program.workdir}: give its path"
        elif "{" in first or shutil.which(Path(program.workdir or "/", first) if "/" in first else first):
            yield "ok", f"{name}: runs on this machine: {first}"
        else:
            yield "MISSING", f"{name}: there is no program {first} here: install it, or name its path"


# --- disks ------------------------------------------------------------------------------------------------


def _folders(here: Here) -> Iterator[Finding]:
    """List the folders outside the run folder, which must be bound into an image."""
    folders = folders_outside(here.settings) if here.settings else []
    if here.image:
        container.check_bindable(folders)
    for folder in folders:
        if folder.exists():
            yield "ok", f"{folder} is outside the run folder; the workflow binds it into the image"
        else:
            how = f"start the image with --bind {folder}" if here.place == "image" else "make it, or mend config.yaml"
            yield "MISSING", f"{folder} is not there on {socket.gethostname()}: {how}"


def _results(here: Here) -> Iterator[Finding]:
    results = here.folder / (here.settings.results if here.settings else "")
    while not results.exists():
        results = results.parent
    free = shutil.disk_usage(results).free
    if not os.access(results, os.W_OK) or free < LEAST_FREE:
        yield "MISSING", f"{results} is not writable, or full ({free / 1e9:.1f} GB free): name another folder"
    else:
        yield "ok", f"{results}: {free / 1e9:.1f} GB free"


def _scratch(here: Here) -> Iterator[Finding]:
    said: list[str] = []
    place = scratch.find_place(here.settings.scratch if here.settings else None, say=said.append)
    yield from (("note", text) for text in said)
    if place is None:
        yield "note", "none: unfinished films are written beside their final place"
        return
    kind, free = scratch.file_system(place.folder), shutil.disk_usage(place.folder).free
    memory = ", in memory, which counts as the job's" if kind in scratch.MEMORY else ""
    grade = "ok" if free > LEAST_FREE else "note"
    yield grade, f"{place.folder} ({place.named}, {kind or 'unknown file system'}{memory}): {free / 1e9:.1f} GB free"


EVERYWHERE, OUTSIDE, CLUSTER = "image job login machine", "job login machine", "job login"
CHECKS: tuple[tuple[str, str, Callable[[Here], Iterator[Finding]]], ...] = (
    ("talkies", EVERYWHERE, _talkies),
    ("snakemake", OUTSIDE, _packages),
    ("ffmpeg", EVERYWHERE, _ffmpeg),
    ("config", EVERYWHERE, _config),
    ("torch", EVERYWHERE, _torch),
    ("GPU", EVERYWHERE, _gpu),
    ("SLURM", "login", _slurm),
    ("ended jobs", "login", _ended_jobs),
    ("profile slurm", "login", _profile),
    ("apptainer", OUTSIDE, _apptainer),
    ("image", CLUSTER, _image),
    ("engine", OUTSIDE, _engines),
    ("folders", EVERYWHERE, _folders),
    ("results", EVERYWHERE, _results),
    ("scratch", EVERYWHERE, _scratch),
)
"""Each check: its subject, the places where it is done, its function."""
