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
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import yaml

from .. import __version__, media
from ..errors import TalkiesError, counted, printable
from ..files import file_digest
from ..host import container, scratch
from ..program import Command, Program
from ..run import programs
from ..run.folder import HOME
from ..run.outside import folders_outside
from ..settings import Settings, Slurm, load

LEAST_FREE = 2 << 30
"""Free bytes below which a disk counts as full: about 800,000 frames of film."""
PROBE_BYTES = 64 << 20
PROBE_SECONDS = 10
"""A scratch disk's speed is measured with PROBE_BYTES, for at most PROBE_SECONDS."""
ANSWER_SECONDS = 20
"""The time limit of a program."""
FORGOTTEN_SECONDS = 60
"""Below this MinJobAge of SLURM, Snakemake asks sacct instead of squeue: three times its first check's delay."""
GPU_SECONDS = 240
"""How long PyTorch may take to load (cold, from a network disk) and to try the GPU."""

IMAGE_PREFIX = Path("/opt/talkies")
"""Where containers/Dockerfile installs, which identifies the image under Docker too."""

Finding = tuple[str, str, str]
"""Grade (ok, note, MISSING), subject and text."""

PLACES = {
    "image": "in the image",
    "job": "on a compute node",
    "login": "on a login node",
    "machine": "on this machine, without a cluster",
}


def examine(folder: Path, *, as_json: bool = False) -> int:
    """Print one line for each subject (or JSON); return 1 if something needed here is missing."""
    place = find_place()
    findings = list(_findings(folder, place))
    missing = sum(grade == "MISSING" for grade, _, _ in findings)
    if as_json:
        rows = [dict(zip(("grade", "subject", "text"), finding, strict=True)) for finding in findings]
        facts = {"place": place, "host": socket.gethostname(), "missing": missing, "findings": rows}
        print(json.dumps(facts, indent=1))
        return 1 if missing else 0
    print(f"{'':8}{PLACES[place]} ({socket.gethostname()})")
    for grade, subject, text in findings:
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


def _findings(folder: Path, place: str) -> Iterator[Finding]:
    yield "ok", "talkies", f"{__version__}, Python {platform.python_version()} ({sys.executable})"
    yield from _packages(place)
    try:
        yield "ok", "ffmpeg", f"{media.ffmpeg_version()} ({media.ffmpeg_path()})"
    except (TalkiesError, OSError) as error:
        yield "MISSING", "ffmpeg", str(error)
    settings: Settings | None = None
    try:
        if (folder / "config.yaml").exists():
            settings = load(folder / "config.yaml")
    except TalkiesError as error:
        yield "MISSING", "config", str(error)
    yield from _engine(place)
    if place != "image":
        yield from _slurm(place, settings)
        yield from _profile(folder, place)
        needed = place != "machine" and (settings is None or settings.container is not None)
        others = settings.programs if settings else {}
        yield from _runtime(needed or any(program.image for program in others.values()))
        yield from _image(needed, settings)
        yield from _programs(others)
    yield from _outside(place, settings)
    yield from _disks(folder, settings)
    if not (folder / "Snakefile").exists() and settings is None:
        yield "note", "run", f"no Snakefile in {folder}: run snakemake in a clone of talkies or a run folder"
    elif not (folder / HOME).exists():
        yield "note", "run", "none here yet: snakemake starts one"


def _ask(*command: str, seconds: float = ANSWER_SECONDS) -> tuple[int | None, str, str]:
    """Run a program; return its exit code (None: missing, or no answer in time), its stdout and its stderr."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            # With files and its own session: a child of a hanging program would keep a pipe open.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            return None, "", error.strerror or str(error)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, "", f"no answer in {seconds:g} s"
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace").strip())
        return code, texts[0], _one_line(texts[1])


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))[-200:]


# --- what is installed ------------------------------------------------------------------------------------


def _packages(place: str) -> Iterator[Finding]:
    """Compare Snakemake and its SLURM plugin with the versions that this package requires."""
    wanted = _required()
    for name in ("snakemake", "snakemake-executor-plugin-slurm"):
        plugin = name != "snakemake"
        lack = "note" if place == "image" or (plugin and place == "machine") else "MISSING"
        asked = wanted.get(name, "")
        try:
            found = version(name)
        except PackageNotFoundError:
            yield lack, name, f"not installed: pip install '{name}{asked}'"
            continue
        if _fits(found, asked):
            yield "ok", name, found
        else:
            yield lack, name, f"{found}, but talkies needs {asked}: pip install '{name}{asked}'"


def _required() -> dict[str, str]:
    """Return the versions that the package requires, by name."""
    try:
        lines = requires("talkies") or []
    except PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*)", line) for line in lines)
    return {match[1].lower(): match[2].strip() for match in found if match}


def _fits(found: str, asked: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True  # nothing to compare with
    return found in SpecifierSet(asked, prereleases=True)


def _engine(place: str) -> Iterator[Finding]:
    """Try PyTorch and the GPU in a process of their own, since a driver may hang."""
    granted = os.environ.get("CUDA_VISIBLE_DEVICES")
    code, out, complaint = _ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    cards = out.splitlines() if code == 0 else []
    if cards:
        yield "ok", "GPU", f"{'; '.join(_one_line(card) for card in cards)} (name, driver, memory)"
    elif shutil.which("nvidia-smi"):
        yield "note", "GPU", f"nvidia-smi finds none ({complaint or _one_line(out) or 'exit code ' + str(code)})"
    code, out, complaint = _ask(sys.executable, "-m", "talkies.fomm.trial", seconds=GPU_SECONDS)
    if code != 0:
        if code is None or "ModuleNotFoundError" not in complaint:
            yield (
                "MISSING",
                "torch",
                f"it does not work ({complaint or code}): install it again: pip install 'talkies[engine]'",
            )
        elif place in ("image", "machine"):
            yield "MISSING", "torch", "not installed, and to animate here needs it: pip install 'talkies[engine]'"
        else:
            yield "note", "torch", "not installed: fine here, where the image brings it to the jobs"
        if granted and granted not in ("-1", "NoDevFiles"):
            what = f"granted (CUDA_VISIBLE_DEVICES={granted})"
            if cards:
                yield "note", "GPU", f"{what}, and not tried: there is no torch to try it with"
            else:
                yield "MISSING", "GPU", f"{what}, and nvidia-smi finds none: use another node, tell the admin of this"
        return
    found = json.loads(out.splitlines()[-1])
    built = f"for CUDA {found['cuda']} ({', '.join(found['built_for'])})" if found["cuda"] else "without CUDA"
    yield "ok", "torch", f"{found['torch']}, built {built}, {found['threads']} cores for this job"
    yield from _device(found, cards, granted, place)
    if "weights" in found:
        yield "ok", "demo network", f"weights {found['weights']}"
    else:
        yield "MISSING", "demo network", str(found.get("weights_fault"))


def _device(found: Mapping[str, Any], cards: list[str], granted: str | None, place: str) -> Iterator[Finding]:
    """Report whether the card, its driver and torch fit each other, by a computation on it."""
    what = f"CUDA_VISIBLE_DEVICES={granted}" if granted else "there is one"
    if found["fault"] or (cards and found["device"] == "cpu" and granted not in ("-1", "NoDevFiles")):
        if found.get("unfit"):
            yield "note" if place == "login" else "MISSING", "GPU", printable(found["unfit"])
            return
        if not found["cuda"]:
            remedy = "this torch is built without CUDA: install the ordinary one, or use the image for GPUs"
        elif "too old" in str(found["fault"]):
            remedy = f"the driver is too old for CUDA {found['cuda']}: ask for a newer one, or use a torch for it"
        elif place == "image" and not Path("/dev/nvidiactl").exists():
            remedy = "the image does not see it: start it with --nv, as profiles/slurm does"
        else:
            remedy = "try another node (sbatch --exclude), and tell the admin of this one"
        reason = f" ({printable(found['fault'])})" if found["fault"] else ""
        yield (
            "note" if place == "login" else "MISSING",
            "GPU",
            f"a GPU is given ({what}) and does not work{reason}: {remedy}",
        )
        return
    if found["device"] == "cpu":
        hint = {
            "login": ": usual on a login node; `srun --gpus=1 talkies doctor` looks at a node's",
            "job": ": `srun --gpus=1 talkies doctor` asks for one",
        }.get(place, "")
        yield "note", "GPU", f"none given{hint}; the device is the processor (device auto: cpu)"
    elif found["far"] > 1e-2:
        yield "MISSING", "GPU", f"{found['name']} computes wrong results (off by {found['far']:.2g}): use another node"
    else:
        took = f"{found['seconds'] * 1000:.0f} ms with its start"
        yield "ok", "GPU", f"{found['name']}: a convolution came out as on the processor, {took} (device auto: cuda)"


# --- the cluster ------------------------------------------------------------------------------------------


def _slurm(place: str, settings: Settings | None) -> Iterator[Finding]:
    if not shutil.which("sbatch") or not shutil.which("sinfo"):
        if place == "machine":
            yield "note", "SLURM", "not here: runs stay on this machine"
        elif place == "login":
            yield "MISSING", "SLURM", "sbatch is here, but sinfo is missing: ask the administrator"
        else:
            yield "note", "SLURM", "its commands are not on this node, and jobs do not need them"
        return
    code, out, complaint = _ask("sinfo", "--noheader", "--format=%P")
    if code != 0:
        yield "MISSING", "SLURM", f"sinfo does not answer ({complaint}): is the controller up? ask the admin"
        return
    partitions = sorted({name.strip().rstrip("*") for name in out.splitlines() if name.strip()})
    release = _ask("sinfo", "--version")[1]
    yield "ok", "SLURM", f"{release}, partitions {', '.join(partitions) or 'none'}".removeprefix("slurm ")
    wanted = settings.slurm if settings else Slurm()
    for kind in ("gpu", "cpu"):
        for name in str(wanted.of(kind).get("slurm_partition", "")).split(","):
            if name and name not in partitions:
                yield "MISSING", "SLURM", f"config.yaml: slurm.{kind}.slurm_partition: there is no {printable(name)}"
    yield from _accounts(wanted)


def _accounts(wanted: Slurm) -> Iterator[Finding]:
    _, out, _ = _ask("scontrol", "show", "config")
    storage = re.search(r"AccountingStorageType\s*=\s*(\S+)", out)
    accounted = storage is not None and not storage[1].endswith("none") and storage[1] != "(null)"
    code, _, complaint = _ask("sacct", "--noheader", "--allocations", "--starttime=now") if accounted else (1, "", "")
    why = None if accounted and code == 0 else complaint or ("it fails" if accounted else "accounting is off")
    age = re.search(r"MinJobAge\s*=\s*(\d+)", out)
    if age is not None and int(age[1]) >= FORGOTTEN_SECONDS:
        yield "ok", "squeue", "Snakemake asks it whether jobs have ended, as profiles/slurm says"
        yield (
            "ok" if why is None else "note",
            "sacct",
            f"not usable ({why}), nor needed" if why else "usable, not needed",
        )
    else:
        forgets = f"SLURM forgets ended jobs after {age[1]} s (MinJobAge)" if age else "SLURM does not tell MinJobAge"
        if why is None:
            yield "ok", "sacct", f"usable, and Snakemake asks it whether jobs have ended: {forgets}"
        else:
            remedy = f"ask the admin for a MinJobAge of {FORGOTTEN_SECONDS} s or more"
            yield "MISSING", "sacct", f"{forgets}, and sacct is not usable ({why}): {remedy}"
    accounts = {str(each["slurm_account"]) for each in (wanted.gpu, wanted.cpu) if each.get("slurm_account")}
    if not accounts:
        return
    user = f"user={_user()}"
    code, out, _ = _ask("sacctmgr", "--noheader", "--parsable2", "show", "associations", user, "format=account")
    known = set(out.split())
    if code == 0 and known:
        for name in sorted(accounts - known):
            yield (
                "MISSING",
                "SLURM",
                f"config.yaml: slurm_account: {printable(name)} is none of yours ({', '.join(sorted(known))})",
            )
    else:
        yield "note", "SLURM", f"whether account {', '.join(sorted(accounts))} is yours could not be checked"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _profile(folder: Path, place: str) -> Iterator[Finding]:
    """Find the profile of `snakemake --profile slurm`, and check that it can see when a job has ended."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    for where in (folder / "slurm", home / "snakemake/slurm", Path("/etc/xdg/snakemake/slurm")):
        files = sorted(where.glob("config*.yaml"))
        if files:
            break
    else:
        if place == "login":
            lack = "none that `snakemake --profile slurm` finds: run it in a clone, or scripts/install_profile lays one"
            yield "MISSING", "profile slurm", f"{lack} into {home / 'snakemake'}"
        return
    try:
        value = yaml.safe_load(files[-1].read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        yield "MISSING", "profile slurm", f"{files[-1]}: can't be read ({_one_line(str(error))})"
        return
    yield "ok", "profile slurm", str(files[-1])
    if place == "login" and value.get("slurm-status-command", "sacct") != "squeue":
        storage = re.search(r"AccountingStorageType\s*=\s*(\S+)", _ask("scontrol", "show", "config")[1])
        if storage is None or storage[1].endswith("none"):
            remedy = "accounting is off, so Snakemake would wait for ever: add slurm-status-command: squeue"
            yield "MISSING", "profile slurm", f"{files[-1]}: {remedy}"


def _runtime(needed: bool) -> Iterator[Finding]:
    """Check apptainer, and what it needs of the kernel."""
    command = container.runtime()
    if command is None:
        if needed:
            yield "MISSING", "apptainer", "neither apptainer nor singularity is here: `module load apptainer`, or ask"
        return
    code, out, complaint = _ask(command, "--version")
    if code != 0:
        yield "MISSING" if needed else "note", command, f"does not run ({complaint or _one_line(out)})"
        return
    yield "ok", command, _one_line(out)
    names = _ask("unshare", "--user", "--map-root-user", "true")[0] == 0
    setuid = _setuid_starter(command)
    if names:
        yield "ok", "user namespaces", "usable: images run without setuid"
    elif setuid:
        yield "ok", "user namespaces", f"not usable, but {command} is installed setuid ({setuid})"
    else:
        lack = _namespaces_off() or "unshare --user fails"
        remedy = f"ask the admin to allow them, or to install {command} setuid"
        yield "MISSING" if needed else "note", "user namespaces", f"not usable ({lack}): {remedy}"
    if not setuid and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        yield "note", "fuse", "/dev/fuse is not usable: each start unpacks the image; ask the admin for mode 666"


def _setuid_starter(command: str) -> str | None:
    program = shutil.which(command)
    root = Path(program).resolve().parents[1] if program else Path("/usr")
    for folder in (root, Path("/usr"), Path("/usr/local")):
        for place in (f"libexec/{command}/bin", f"lib/{command}/bin", f"lib/x86_64-linux-gnu/{command}/bin"):
            starter = folder / place / "starter-suid"
            try:
                if starter.stat().st_mode & 0o4000:
                    return str(starter)
            except OSError:
                continue
    return None


def _namespaces_off() -> str | None:
    for name, off in (
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        try:
            if Path("/proc/sys", name).read_text().strip() == off:
                return f"sysctl {name.replace('/', '.')}={off}"
        except OSError:
            continue
    return None


def _image(needed: bool, settings: Settings | None) -> Iterator[Finding]:
    """Check the image of config.yaml: whether it exists, and has this version."""
    image = settings.container if settings else None
    if not image or (not needed and not Path(image).exists()):
        return
    if container.ADDRESS.match(image):
        yield "note", "image", f"{image}: Snakemake fetches it at its first use"
        return
    try:
        doubt = container.check_image(image, None)
        found = f"{printable(image)}, {Path(image).stat().st_size / 1e9:.2f} GB, sha256 {file_digest(image)}"
    except (TalkiesError, OSError) as error:
        yield "MISSING" if needed else "note", "image", printable(str(error))
        return
    yield "ok" if doubt is None else "note", "image", found + (f", version {__version__}" if doubt is None else "")
    if doubt:
        yield "note", "image", doubt


def _programs(others: Mapping[str, Program]) -> Iterator[Finding]:
    """Check the programs that animate here: whether they exist and can be started."""
    for name, program in others.items():
        subject = f"engine {printable(name)}"
        first = Command(program.command).words[0]
        if program.image is None:
            found = shutil.which(first if "/" not in first else Path(program.workdir or "/", first).expanduser())
            if program.workdir is not None and not Path(program.workdir).is_dir():
                yield "MISSING", subject, f"workdir: there is no folder {printable(program.workdir)}: give its path"
            elif "{" not in first and found is None:
                yield "MISSING", subject, f"there is no program {printable(first)} here: install it, or name its path"
            else:
                yield "ok", subject, f"runs on this machine: {printable(str(found or first))}"
            continue
        file = programs.image_file(program)
        if not file.exists():
            yield "note", subject, f"{printable(program.image)} is pulled when a run begins: it needs the network then"
            continue
        network = "" if program.network or container.can_cut_network(str(file)) else "; it can't be cut off the network"
        size = file.stat().st_size / 1e9
        yield "ok", subject, f"{printable(file)}, {size:.2f} GB, sha256 {programs.digest_of(file)}{network}"


def _outside(place: str, settings: Settings | None) -> Iterator[Finding]:
    """List the folders outside the run folder, which must be bound into an image."""
    if settings is None:
        return
    try:
        folders = folders_outside(settings)
        if place != "machine" and settings.container is not None:
            container.check_bindable(folders)
    except (TalkiesError, OSError) as error:
        yield "MISSING", "folders", str(error)
        return
    for folder in folders:
        name = printable(folder)
        if folder.exists():
            yield "ok", "folders", f"{name} is outside the run folder; the workflow binds it into the image"
        elif place == "image":
            yield "MISSING", "folders", f"{name} is not seen in the image: start it with --bind {name}"
        else:
            yield "MISSING", "folders", f"{name}, which config.yaml names, is not there on {socket.gethostname()}"


# --- disks ------------------------------------------------------------------------------------------------


def _disks(folder: Path, settings: Settings | None) -> Iterator[Finding]:
    results = folder / (settings.results if settings else "")
    while not results.exists():
        results = results.parent
    free = shutil.disk_usage(results).free
    if not os.access(results, os.W_OK):
        yield "MISSING", "results", f"{results} is not writable: run in a folder of yours"
    elif free < LEAST_FREE:
        yield "MISSING", "results", f"{results}: only {free / 1e9:.1f} GB free: make room, or name another folder"
    else:
        yield "ok", "results", f"{results}: {free / 1e9:.1f} GB free"
    said: list[str] = []
    try:
        place = scratch.find_place(settings.scratch if settings else None, say=said.append)
        for text in said:
            yield "note", "scratch", text
        if place is None:
            yield "note", "scratch", "none: unfinished films are written beside their final place"
            return
        kind = scratch.file_system(place.folder)
        free = shutil.disk_usage(place.folder).free
        speed = _speed(place.folder)
    except (TalkiesError, OSError) as error:
        yield "MISSING", "scratch", _one_line(str(error))
        return
    memory = ", in memory, which counts as the job's" if kind in scratch.MEMORY else ""
    grade = "ok" if free > LEAST_FREE else "note"
    where = f"{printable(place.folder)} ({place.named}, {kind or 'unknown file system'}{memory})"
    yield grade, "scratch", f"{where}: {free / 1e9:.1f} GB free, {speed}"


def _speed(folder: Path) -> str:
    """Write, sync and read a file, and return how fast; OSError if the disk refuses."""
    piece = os.urandom(1 << 22)
    with tempfile.NamedTemporaryFile(prefix="talkies-doctor-", dir=folder) as file:
        began, size = time.monotonic(), 0
        while size < PROBE_BYTES and time.monotonic() - began < PROBE_SECONDS:
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        wrote = size / (time.monotonic() - began) / 1e6
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, if the system supports it
        began = time.monotonic()
        file.seek(0)
        while file.read(len(piece)):
            pass
        read = size / (time.monotonic() - began) / 1e6
    return f"writes {wrote:.0f} MB/s, reads {read:.0f} MB/s"
