"""Examines a machine: what talkies needs, what is missing, and what to do about it.

The command is the same on a login node, on a compute node, in the image and on a laptop; the place decides what is
needed. `examine_node` runs it on a compute node, with the requests of this run's jobs.
Every program that it starts has a time limit.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__, media
from ..errors import TalkiesError, counted, printable
from ..machine import container, scratch
from ..run.folder import CONFIG
from ..run.inputs import folders_outside
from ..settings import Settings, SlurmKey, complete, load
from .jobs import needs_gpu_image

LEAST_FREE = 2 << 30
"""Free bytes below which a disk counts as full: about 800,000 frames of film."""
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
ANSWER_SECONDS = 20.0
"""The time limit of a program that is asked."""
Finding = tuple[str, str]
"""Grade (ok, note, MISSING) and text."""


def examine(folder: Path) -> int:
    """Print one line for each finding; return 1 if something needed here is missing."""
    here = Here(folder, find_place())
    found = [
        (grade, subject, " ".join(printable(text).split()))
        for subject, places, check in CHECKS
        if here.place in places.split()
        for grade, text in _checked(check, here)
    ]
    missing = sum(grade == "MISSING" for grade, _, _ in found)
    print(f"{'':8}{PLACES[here.place]} ({socket.gethostname()})")
    for grade, subject, text in found:
        print(f"{grade:8}{subject}: {text}")
    print("all that a run needs here is there" if not missing else f"{counted(missing, 'thing')} to mend")
    return 1 if missing else 0


def find_place() -> str:
    """Return where this runs: image, job (a SLURM job), login (a machine that submits jobs), or machine."""
    named = any(os.environ.get(name) for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"))
    if named or Path("/.singularity.d").exists() or Path(sys.prefix) == IMAGE_PREFIX:
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
    def settings(self) -> Settings:
        """The run folder's settings; the usual ones without an image if it has none, or they are wrong."""
        with suppress(TalkiesError):
            if (self.folder / CONFIG).exists():
                return load(self.folder / CONFIG)
        return Settings(container=None)

    @property
    def image(self) -> str | None:
        """The image of the jobs that a cluster runs."""
        return self.settings.container if self.place != "machine" else None

    @cached_property
    def cards(self) -> list[str]:
        """The GPUs that nvidia-smi sees: name, driver, memory."""
        code, out, _ = ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
        return out.splitlines() if code == 0 else []

    @cached_property
    def trial(self) -> tuple[dict[str, Any] | None, str]:
        """What PyTorch does here (fomm/device.py), in a process of its own, since a driver may hang; or why not."""
        code, out, complaint = ask(sys.executable, "-m", "talkies.fomm.device", seconds=GPU_SECONDS)
        return (json.loads(out.splitlines()[-1]) if code == 0 else None), complaint or f"exit code {code}"


class Answer(NamedTuple):
    """A program's exit code (None: it is missing, or did not answer in time), its output, and why it failed."""

    code: int | None
    out: str = ""
    complaint: str = ""


def ask(*command: str, seconds: float | None = None) -> Answer:
    """Run a program for its answer. seconds: the time limit, usually ANSWER_SECONDS."""
    seconds = seconds or ANSWER_SECONDS
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except OSError as error:
        return Answer(None, complaint=error.strerror or str(error))
    except subprocess.TimeoutExpired:
        return Answer(None, complaint=f"no answer in {seconds:g} s")
    return Answer(done.returncode, done.stdout.strip(), " ".join(done.stderr.split())[-200:])


def _checked(check: Callable[[Here], Iterator[Finding]], here: Here) -> Iterator[Finding]:
    try:
        yield from check(here)
    except (TalkiesError, OSError) as error:
        yield "MISSING", str(error)


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
    if (here.folder / CONFIG).exists():
        load(here.folder / CONFIG)
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
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")
    if here.cards:
        yield "ok", f"{'; '.join(here.cards)} (name, driver, memory)"
    found, _ = here.trial
    if found is None:
        return
    lack = "note" if here.place == "login" else "MISSING"
    if found["fault"] or (here.cards and found["device"] == "cpu" and not hidden):
        why = found["fault"] or "torch is built without CUDA"
        yield lack, f"a GPU is given and does not work ({why}): in an image say --nv; else try another node or torch"
    elif found["device"] == "cpu":
        yield "note", "none given (`talkies doctor --on gpu` looks at a node's); the device is the processor"
    else:
        yield "ok", f"{found['name']}: a convolution came out as on the processor, {1000 * found['seconds']:.0f} ms"


# --- the cluster ------------------------------------------------------------------------------------------


def _slurm(here: Here) -> Iterator[Finding]:
    code, out, complaint = ask("sinfo", "--noheader", "--format=%P")
    if code != 0:
        yield "MISSING", f"sinfo does not answer ({complaint}): is the controller up? ask the admin"
        return
    partitions = sorted({name.strip().rstrip("*") for name in out.splitlines() if name.strip()})
    release = ask("sinfo", "--version")[1].removeprefix("slurm ")
    yield "ok", f"{release}, partitions {', '.join(partitions) or 'none'}"
    for kind in ("gpu", "cpu"):
        for name in str(here.settings.slurm.of(kind).get("slurm_partition", "")).split(","):
            if name and name not in partitions:
                yield "MISSING", f"config.yaml: slurm.{kind}.slurm_partition: there is no {name}"


def _ended_jobs(here: Here) -> Iterator[Finding]:
    """Check that Snakemake can see when a job has ended: by squeue, or where SLURM forgets soon, by sacct."""
    said = ask("scontrol", "show", "config")[1]
    facts: Mapping[str, str] = dict(re.findall(r"^(\w+)\s*=\s*(\S+)", said, re.MULTILINE))
    off = facts.get("AccountingStorageType", "none").endswith(("none", "(null)"))
    code, _, complaint = (1, "", "accounting is off") if off else ask("sacct", "--noheader", "--starttime=now")
    age = re.match(r"\d+", facts.get("MinJobAge", "0"))
    if age and int(age[0]) >= FORGOTTEN_SECONDS:
        yield "ok", "Snakemake asks squeue, as profiles/slurm says"
    elif code == 0:
        yield "ok", "Snakemake asks sacct, since SLURM forgets ended jobs soon (MinJobAge)"
    else:
        unusable = f"sacct is not usable ({complaint})"
        yield "MISSING", f"SLURM forgets ended jobs soon, and {unusable}: ask for a MinJobAge of 60"


def _apptainer(here: Here) -> Iterator[Finding]:
    """Check apptainer, by running the image of the jobs if it is here."""
    command = container.runtime()
    others = here.settings.programs.values()
    if command is None:
        if here.image or any(program.image for program in others):
            yield "MISSING", "neither apptainer nor singularity is here: `module load apptainer`, or ask"
        return
    code, out, complaint = ask(command, "--version")
    yield "ok" if code == 0 else "MISSING", out or complaint
    if here.image and Path(here.image).exists():
        code, _, complaint = ask(command, "exec", here.image, "true", seconds=GPU_SECONDS)
        if code != 0:
            yield "MISSING", f"can't run {here.image} here ({complaint}): ask the admin about user namespaces"
        elif complaint:
            yield "note", complaint  # for example that it unpacks the image at each start, for want of /dev/fuse


def _image(here: Here) -> Iterator[Finding]:
    """Check the image of config.yaml, as a run does before it sends a job."""
    image = here.image
    if image is None:
        return
    doubt = container.check_image(image, gpus=needs_gpu_image(here.settings))
    yield ("note", doubt) if doubt else ("ok", f"{image}, version {__version__}")


# --- disks ------------------------------------------------------------------------------------------------


def _folders(here: Here) -> Iterator[Finding]:
    """List the folders outside the run folder, which must be bound into an image."""
    folders = folders_outside(here.settings)
    if here.image:
        container.check_bindable(folders)
    for folder in folders:
        if folder.exists():
            yield "ok", f"{folder} is outside the run folder; the workflow binds it into the image"
        else:
            how = f"start the image with --bind {folder}" if here.place == "image" else "make it, or mend config.yaml"
            yield "MISSING", f"{folder} is not there on {socket.gethostname()}: {how}"


def _results(here: Here) -> Iterator[Finding]:
    results = here.folder / here.settings.results
    while not results.exists():
        results = results.parent
    free = shutil.disk_usage(results).free
    if not os.access(results, os.W_OK) or free < LEAST_FREE:
        yield "MISSING", f"{results} is not writable, or full ({free / 1e9:.1f} GB free): name another folder"
    else:
        yield "ok", f"{results}: {free / 1e9:.1f} GB free"


def _scratch(here: Here) -> Iterator[Finding]:
    folder = scratch.find_place(here.settings.scratch)
    free = shutil.disk_usage(folder).free
    yield "ok" if free > LEAST_FREE else "note", f"{folder}: {free / 1e9:.1f} GB free"


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
    ("apptainer", OUTSIDE, _apptainer),
    ("image", CLUSTER, _image),
    ("folders", EVERYWHERE, _folders),
    ("results", EVERYWHERE, _results),
    ("scratch", EVERYWHERE, _scratch),
)
"""Each check: its subject, the places where it is done, its function."""


# --- on a compute node --------------------------------------------------------------------------------------

NOT_SRUNS = ("runtime", "gpu", "gpu_model", "nodes", "tasks", "tasks_per_gpu", "slurm_extra")
"""Keys of `slurm` in config.yaml that are no options of srun, or are others here."""
LOOK = "talkies doctor; missing=$?; talkies-selftest && exit $missing"
"""The commands in the image: the film is tried even if the doctor finds faults."""
NODE_MINUTES, NODE_MEMORY_MB = 10, 4000


def examine_node(kind: str) -> int:
    """Run the doctor on a node like those of this run's jobs; return the exit code.

    kind: gpu or cpu, the keys of `slurm` in config.yaml. Raises TalkiesError if no job can be sent.
    """
    if not shutil.which("srun"):
        raise TalkiesError("there is no srun here: call this in a run folder on a cluster's login node")
    settings = load(CONFIG) if CONFIG.exists() else complete({})
    command = _asked(kind, settings.slurm.of(kind)) + _within(settings)
    print(f"$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


def _asked(kind: str, wanted: Mapping[SlurmKey, str | int]) -> list[str]:
    """Return the srun command with the same requests as a job of this kind."""
    words = ["srun", "--ntasks=1", "--nodes=1", f"--time={NODE_MINUTES}", "--job-name=talkies-doctor"]
    if "mem_mb" not in wanted and "mem_mb_per_cpu" not in wanted:
        words.append(f"--mem={NODE_MEMORY_MB}")
    for key, value in wanted.items():  # slurm_partition is --partition, mem_mb_per_cpu is --mem-per-cpu
        if key not in NOT_SRUNS:
            words.append(f"--{key.removeprefix('slurm_').replace('_mb', '').replace('_', '-')}={value}")
    gpus = wanted.get("gpu", int(kind == "gpu" and "gres" not in wanted))
    if gpus:
        model = f"{wanted['gpu_model']}:" if "gpu_model" in wanted else ""
        words.append(f"--gpus={model}{gpus}")
    return words


def _within(settings: Settings) -> list[str]:
    """Return the command that runs the doctor: in the jobs' image, where it also makes a film, or with this Python."""
    image = settings.container
    container.check_image(image, None)
    if image is None:
        return [sys.executable, "-P", "-m", "talkies", "doctor"]
    command = container.runtime()
    if command is None:
        raise TalkiesError(
            "neither apptainer nor singularity is here for the image: load its module, or set container: null"
        )
    places = [str(folder) for folder in (Path.cwd(), *folders_outside(settings)) if folder.is_dir()]
    binds = [word for place in dict.fromkeys(places) for word in ("--bind", place)]
    # As with profiles/slurm: with the run folder and the GPU's driver.
    return [
        *(command, "--quiet", "exec", "--nv"),
        *(*binds, "--pwd", str(Path.cwd())),
        *(image, "sh", "-c", LOOK),
    ]
