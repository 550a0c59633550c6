"""Carry a run folder to a cluster and its results back, by rsync over ssh.

    cd RUN_FOLDER
    talkies stage push HOST:DIR      config.yaml and what it names, and in a clone the program
    talkies stage pull [HOST:DIR]    results, and the run's memory: a `snakemake` here then finds nothing to do

Only changes are transferred, and an interrupted transfer continues. -n shows what would be carried. Nothing is
deleted: files that a pull replaces are kept in .talkies/replaced/. DIR may also be on this machine, without HOST.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import media
from ..errors import TalkiesError, counted, printable
from ..files import read_json, shipped, write_json
from ..fomm.model.published import CARRIED, LOCK
from ..machine.container import ADDRESS
from ..run.folder import HOME
from ..run.planner import at_work
from ..settings import Settings, complete, load, read

PROGRAM = (
    *("Snakefile", "slurm", "workflow", "profiles", "stages", "src", "scripts", "containers", "requirements"),
    *("pyproject.toml", "Makefile", "README.md", "LICENSE"),
)
"""The parts of a clone that run on a cluster."""
NOT_PULLED = ("*.part", "/locks", "/run.json", "/stage.json", "/replaced", "/cache")
"""The parts of a run's memory that belong to one end only."""
TARGET = HOME / "stage.json"
"""The target of the last push."""
CARRIED_FILE = r"[<>c][fL]\S*"
"""rsync's code, as a regular expression, of a file or link that it carries."""
SSH = "ssh -o ControlMaster=auto -o ControlPath=~/.ssh/talkies-%C -o ControlPersist=20"
"""One connection for all calls, so that ssh asks once for a password or code; it ends by itself."""
# Times and links, but no owners: those of the cluster apply. Unfinished files are in a hidden folder.
USUAL = (
    *("rsync", "--recursive", "--links", "--times", "--modify-window=-1", "--executability", "--compress"),
    *("--secluded-args", "--partial-dir=.rsync-partial", "--8-bit-output", "--exclude=__pycache__"),
    "--out-format=%i %n",
)


def stage(action: str, target: str | None, *, dry: bool = False) -> None:
    """Push this run folder to a target (HOST:DIR, or DIR on this machine), or pull its results from there.

    Without a target, a pull uses that of the last push. dry: only show what would be carried. Raises TalkiesError.
    """
    text = target or (read_json(TARGET) or {}).get("target")
    if text is None:
        raise TalkiesError("nothing was pushed from this run folder: name the place: pull HOST:DIR")
    place = _place(str(text))
    if action == "pull":
        pull(place, dry=dry)
        return
    push(place, dry=dry)
    if not dry:
        write_json(TARGET, {"target": place})


def push(place: str, *, dry: bool) -> None:
    """Carry a run folder's inputs to a place, and name what is there and not here."""
    stated = read(Path("config.yaml"))
    settings = complete(stated)
    weights = Path(settings.model.checkpoint or "")
    fetched = weights.is_absolute() and not (stated.get("model") or {}).get("checkpoint")
    names = [*dict.fromkeys(name for name in _inputs(settings, weights=not fetched) if os.path.lexists(name))]
    # Links in the inputs are carried as files; links within the program stay links.
    done = _rsync("./", place, names, "--copy-links", "--no-implied-dirs", dry=dry)
    if program := [name for name in PROGRAM if os.path.lexists(name)]:
        done += _rsync("./", place, program, "--copy-unsafe-links", dry=dry)
    if fetched:  # into the run folder there, where the preset looks first
        files = [path.name for path in (weights, weights.with_name(LOCK)) if path.exists()]
        done += _rsync(f"{weights.parent}/", f"{place}/{CARRIED}", files, "--copy-links", dry=dry)
    _tell("push", done, dry, f"to {place}")
    for key, folder, suffixes in (
        ("images", settings.images, media.PICTURE_SUFFIXES),
        ("driving", settings.driving, media.CLIP_SUFFIXES),
    ):
        if (below := _inside(folder)) and Path(below).is_dir():
            only = ("--no-recursive", "--dirs", "--delete", "--existing", "--ignore-existing")
            there = _rsync(f"./{below}/", f"{place}/{below}", None, *only, dry=True, code=r"\*deleting")
            if more := [name for name in there if Path(name).suffix.lower() in suffixes and name[0] != "."]:
                print(
                    f"stage: {key}: {counted(len(more), 'file')} there and not here, and would be animated too: "
                    f"{printable(more[0])}{', ...' if more[1:] else ''}"
                )


def pull(place: str, *, dry: bool) -> None:
    """Carry a run's results and memory here; files that they replace are kept aside."""
    if busy := at_work():
        raise TalkiesError(f"a run is at work in this folder ({busy[0]}): wait for it or stop it")
    results = _inside(load(Path("config.yaml")).results)
    if results is None:
        raise TalkiesError("config.yaml: results: this folder is outside the run folder: fetch it by hand")
    aside = HOME / "replaced" / time.strftime("%Y-%m-%d-%H%M%S")
    done: list[str] = []
    # The films first: after an interrupted pull, the memory must not name films that are not here.
    for part, left_out in ((results, NOT_PULLED[:1]), (str(HOME), NOT_PULLED)):
        keep = ("--safe-links", "--backup", f"--backup-dir={aside.absolute() / part}")
        done += _rsync(
            f"{place}/{part}/", f"./{part}", None, *keep, *(f"--exclude={each}" for each in left_out), dry=dry
        )
    _tell("pull", done, dry, f"from {place}")
    if replaced := sum(1 for path in aside.rglob("*") if path.is_file()):
        print(f"stage: {counted(replaced, 'file')} that differed here: kept in {aside}")


def _place(text: str) -> str:
    """Return a target in rsync's form: HOST:DIR, or an absolute path on this machine."""
    host, colon, folder = text.partition(":")
    if not colon or "/" in host:  # as rsync reads it: a colon before the first slash ends a host's name
        return str(Path(text).expanduser().absolute())
    folder = re.sub(r"^~(/|$)", "", folder).rstrip("/")
    if not folder or host.startswith("-") or re.search(r"[$*`\n]|^~", folder):
        raise TalkiesError(f"{printable(text)}: give HOST:DIR, with the folder's own path (ssh HOST pwd tells it)")
    return f"{host}:{folder}"


def _rsync(
    source: str, target: str, names: Sequence[str] | None, *more: str, dry: bool, code: str = CARRIED_FILE
) -> list[str]:
    """Run rsync; return the files and links that it carried, or with `dry` would carry.

    names: those to take, below the source. code: rsync's code of the files to return, as a regular
    expression. Raises TalkiesError.
    """
    if not shutil.which("rsync"):
        raise TalkiesError(
            "there is no rsync here: install it: apt install rsync, dnf install rsync, brew install rsync"
        )
    command = [*USUAL, f"--rsh={os.environ.get('RSYNC_RSH', SSH)}", *more]
    far = re.match(r"[^/]+:(.*)", target)
    if far and not dry:  # --mkpath is not in every cluster's rsync
        command += ["--rsync-path", f"mkdir -p {shlex.quote(far[1])} && rsync"]
    elif not dry:
        Path(target).mkdir(parents=True, exist_ok=True)
    command += ["--dry-run"] if dry else []
    command += [] if names is None else ["--from0", "--files-from=-"]
    listed = b"".join(os.fsencode(name) + b"\0" for name in names or ())
    ended = subprocess.run([*command, source, f"{target}/"], input=listed, stdout=subprocess.PIPE)
    if ended.returncode not in (0, 24):  # 24: a file vanished meanwhile, as files of a running run do
        raise TalkiesError(
            f"rsync ended with code {ended.returncode} (see its message above): call it again, and it continues"
        )
    found = re.findall(rf"^{code} +(.*)$", os.fsdecode(ended.stdout), re.MULTILINE)
    return [name for name in found if not name.endswith("/")]


def _inputs(settings: Settings, *, weights: bool) -> Iterator[str]:
    """Yield the files that a push carries, as paths below the run folder. weights: also the network's."""
    yield "config.yaml"
    for key, folder, lister in (
        ("images", settings.images, media.list_pictures),
        ("driving", settings.driving, media.list_clips),
    ):
        if _inside(folder, key):
            yield from map(os.path.relpath, lister(folder))
    wanted = [("pairs", settings.pairs), ("container", settings.container)]
    wanted += [("model.checkpoint", settings.model.checkpoint)] if weights else []
    for name, program in settings.programs.items():
        wanted += [(f"engine {name}: image", program.image), (f"engine {name}: checkpoint", program.checkpoint)]
        wanted += [(f"engine {name}: command", str(file)) for file in program.files.values()]
        wanted += [(f"engine {name}: binds", bind.partition(":")[0]) for bind in program.binds]
    examples = shipped("examples")
    for key, text in wanted:
        if text is None or ADDRESS.match(text):
            continue
        path = Path(text).expanduser()
        # Examples in an installed package: the package at the other end has them too.
        if path.is_relative_to(examples) and not examples.is_relative_to(Path.cwd()):
            continue
        if below := _inside(path, key):
            yield below


def _inside(path: str | Path, key: str = "") -> str | None:
    """Return a path of config.yaml below the run folder; None, with a message if it has a key, if it is elsewhere."""
    below = os.path.relpath(path)
    if not below.startswith(".."):
        return below
    if key:
        print(f"stage: {key}: {printable(path)} is outside the run folder and is not carried: give it there yourself")
    return None


def _tell(what: str, names: Sequence[str], dry: bool, where: str) -> None:
    """Print how many files went, or which would go."""
    if dry:
        for name in names:
            print(printable(name))
    print(f"stage: {what}: {counted(len(names), 'file')} {'would go' if dry else 'carried'} {where}")
