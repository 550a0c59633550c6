"""Carry a run folder to a cluster and its results back, by rsync over ssh.

    cd RUN_FOLDER
    talkies stage push HOST:DIR      config.yaml and what it names, and in a clone the program
    talkies stage pull [HOST:DIR]    results, and the run's memory: a `snakemake` here then finds nothing to do

Only changes are transferred, an interrupted transfer continues, and carried files are compared by checksum. -n shows
what would be carried. A pull deletes nothing: files that it replaces are kept in .talkies/replaced/. DIR may also be
on this machine, without HOST.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from .. import media
from ..errors import TalkiesError, counted, printable
from ..files import fits, parse_json, read_json, shipped, write_json
from ..fomm.model.published import CARRIED, LOCK
from ..host.container import ADDRESS
from ..host.scratch import own_folder
from ..run import settings as config
from ..run.folder import HOME
from ..run.keys import Settings
from ..run.planner import at_work

PROGRAM = (
    *("Snakefile", "slurm", "workflow", "profiles", "src", "scripts", "containers", "requirements"),
    *("pyproject.toml", "Makefile", "README.md", "LICENSE"),
)
"""The parts of a clone that run on a cluster."""
MEMORY = (str(HOME), ".snakemake/metadata")
"""A run's memory: receipts, records, and Snakemake's metadata of finished jobs."""
NOT_CARRIED = ("*.part", "/locks", "/run.json", "/stage.json", "/pushed.json", "/replaced", "/cache")
"""The parts of a run's memory that belong to one end only."""
TARGET = HOME / "stage.json"
"""The target of the last push, and the id of this run folder's pushes there."""
BROUGHT = HOME / "pushed.json"
"""At the other end: the id of the run folder, and the files of its pushes, each with its size and time."""
SAFE = "--safe-links"
"""Links in the results that lead out of their folder are not ours."""
OLDEST = (3, 1, 3)
"""The first rsync that compares and keeps times to the nanosecond, as in the records."""
INSTALL = "install it: apt install rsync, dnf install rsync, or on a Mac brew install rsync"
# Times and links, but no owners: those of the cluster apply. Unfinished files are in a hidden folder.
USUAL = [
    *("--recursive", "--links", "--copy-unsafe-links", "--times", "--modify-window=-1", "--executability"),
    *("--compress", "--secluded-args", "--partial-dir=.rsync-partial", "--8-bit-output"),
]


@dataclass(frozen=True)
class Place:
    """The run folder's other end: a folder on a host, or on this machine (host None)."""

    host: str | None
    folder: str
    shell: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read HOST:DIR as rsync does: a colon before the first slash ends a host's name."""
        host, colon, folder = text.partition(":")
        if not colon or "/" in host:
            host, folder = "", str(Path(text).expanduser().resolve())
        folder = re.sub(r"^~(/|$)", "", folder).rstrip("/")
        if not folder:
            raise TalkiesError(f"{printable(text)}: name a folder of the run's own: HOST:DIR")
        if re.search(r"[$*`\n]", folder) or folder.startswith("~"):
            raise TalkiesError(f"{printable(text)}: give the path itself: ssh HOST 'echo $SCRATCH' tells it")
        if host.startswith("-"):
            raise TalkiesError(f"{printable(text)}: {host} is no host's name: give HOST:DIR")
        return cls(host or None, folder)

    def __str__(self) -> str:
        return f"{self.host}:{self.folder}" if self.host else self.folder

    def path(self, below: str = "") -> str:
        """Return the folder, or a folder in it, in rsync's form."""
        return f"{self}/{below}"

    def run(self, *command: str, quiet: bool = False, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a command there; its output is in .stdout. given: its stdin. quiet: its stderr is not shown."""
        ahead = [*self.shell, self.host, shlex.join(command)] if self.host else command
        complaints = subprocess.DEVNULL if quiet else None
        return subprocess.run(ahead, input=given, stdout=subprocess.PIPE, stderr=complaints)


@contextmanager
def connected(place: Place) -> Iterator[Place]:
    """Keep one ssh connection for all transfers, so that ssh asks once for a password or code."""
    if place.host is None:
        yield place
        return
    if own := os.environ.get("RSYNC_RSH"):
        yield Place(place.host, place.folder, tuple(shlex.split(own)))
        return
    if not shutil.which("ssh"):
        raise TalkiesError("there is no ssh here: install it: apt install openssh-client")
    with own_folder("ssh") as folder:
        options = ("-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/c", "-o", "ControlPersist=60")
        try:
            yield Place(place.host, place.folder, ("ssh", *options))
        finally:
            end = ["ssh", *options, "-O", "exit", place.host]
            subprocess.run(end, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)


def check_rsync(place: Place) -> None:
    """Check that rsync is on both sides and new enough."""
    if not shutil.which("rsync"):
        raise TalkiesError(f"there is no rsync here: {INSTALL}")
    for where, done in (
        ("here", subprocess.run(["rsync", "--version"], stdout=subprocess.PIPE)),
        *([(f"on {place.host}", place.run("rsync", "--version"))] if place.host else []),
    ):
        if done.returncode == 255 and where != "here":
            raise TalkiesError(f"{place.host}: no connection (see ssh's message above): try `ssh {place.host}`")
        found = re.search(r"version v?(\d+)\.(\d+)\.(\d+)", done.stdout.decode(errors="replace"))
        if done.returncode or not found:
            raise TalkiesError(f"there is no usable rsync {where}: {INSTALL}")
        if tuple(map(int, found.groups())) < OLDEST:
            raise TalkiesError(f"rsync {where} is {'.'.join(found.groups())}, older than 3.1.3: {INSTALL}")


def rsync(place: Place, *arguments: str, names: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Run rsync; return what it did (with --dry-run: would do) as pairs of itemized code and name.

    names: the files to take, below the source, as --files-from gives them.
    """
    lines = _rsync(place, arguments, names, "%i %n")
    found = (re.fullmatch(r"(?:\S+ \S+ \[\d+\] )?([<>ch.*]\S{8,}) +(.*)", line) for line in lines)
    return [(match[1], match[2]) for match in found if match]


def sizes_there(place: Place, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return the size in bytes and the time, as in `local_time`, of those files that exist there."""
    with own_folder("stage") as nothing:
        only = ("--dry-run", "--ignore-missing-args", "--no-implied-dirs", place.path(), f"{nothing}/")
        lines = _rsync(place, only, names, "%l %M %n") if names else []
    found = (re.fullmatch(r"(\d+) (\S+) (.*)", line) for line in lines)
    return {match[3]: (int(match[1]), match[2]) for match in found if match}


def local_time(seconds: int) -> str:
    """Return a time in the form of rsync's %M."""
    return time.strftime("%Y/%m/%d-%H:%M:%S", time.localtime(seconds))


def _rsync(place: Place, arguments: Sequence[str], names: Sequence[str] | None, form: str) -> list[str]:
    """Run rsync; return its log, or (--dry-run) its output, a line for each file in this form."""
    dry = "--dry-run" in arguments
    with own_folder("stage") as folder:
        log, listed = folder / "log", folder / "names"
        # A dry run writes no log, and a progress bar needs stdout for itself.
        command = [
            "rsync",
            *USUAL,
            *([f"--out-format={form}"] if dry else [f"--log-file={log}", f"--log-file-format={form}"]),
        ]
        if place.host:
            command += ["--rsh", shlex.join(place.shell)]
        if sys.stdout.isatty() and not dry:
            command.append("--info=progress2")
        if names is not None:
            listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
            command += ["--from0", f"--files-from={listed}"]
        ended = subprocess.run([*command, *arguments], stdout=subprocess.PIPE if dry else None)
        # 24: a file vanished meanwhile, as files of a running run do.
        if ended.returncode not in (0, 24):
            raise TalkiesError(
                f"rsync ended with code {ended.returncode} (see its message above): run this again, and it continues"
            )
        said = ended.stdout if dry else log.read_bytes() if log.exists() else b""
    return said.decode("utf-8", "surrogateescape").splitlines()


def carried(done: Sequence[tuple[str, str]]) -> list[str]:
    """Return the files (and links) whose content rsync transferred."""
    return [name for code, name in done if code[0] in "<>c" and code[1] in "fL"]


def verify(place: Place, source: str, target: str, names: Sequence[str], *options: str) -> None:
    """Compare by checksum, on both sides, the files that were carried."""
    if not names:
        return
    done = rsync(place, "--dry-run", "--checksum", *options, source, target, names=names)
    wrong = [name for code, name in done if code[1] in "fL" and (code[0] in "<>c" or "t" in code)]
    if wrong:
        raise TalkiesError(
            f"{printable(wrong[0])} ({counted(len(wrong), 'file')} in all) is not the same on both sides: "
            "it changed meanwhile or was damaged on its way: call it again"
        )


def inside(key: str, path: str | Path | None) -> str | None:
    """Return a path of config.yaml below the run folder; None, with a message, if it is elsewhere."""
    if path is None:
        return None
    below = os.path.relpath(path)
    if below.startswith(".."):
        print(f"stage: {key}: {printable(path)} is outside the run folder and is not carried: give it there yourself")
        return None
    return below


def inputs(settings: Settings) -> list[str]:
    """Return the files that a push carries, as paths below the run folder."""
    names = ["config.yaml"]
    for key, folder, lister in (
        ("images", settings.images, media.list_pictures),
        ("driving", settings.driving, media.list_clips),
    ):
        if inside(key, folder):
            names += [os.path.relpath(path) for path in lister(folder)]
    image = settings.container if Path(settings.container or "").is_file() else None
    for key, path in (("pairs", settings.pairs), ("model.checkpoint", settings.model.checkpoint)):
        names += filter(None, [inside(key, path)])
    names += filter(None, [inside("container", image)])
    names += _of_engines(settings)
    return list(dict.fromkeys(name for name in names if os.path.lexists(name)))


def _of_engines(settings: Settings) -> Iterator[str]:
    """Yield what programs need of the run folder: image, checkpoint, binds.

    Examples in an installed package are not carried: the package at the other end has them.
    """
    examples = shipped("examples")
    for name, program in settings.programs.items():
        image = None if program.image is None or ADDRESS.match(program.image) else program.image
        places = [("image", image), ("checkpoint", program.checkpoint)]
        places += [("binds", bind.partition(":")[0]) for bind in program.binds]
        for key, place in places:
            path = None if place is None else Path(place).expanduser()
            if path and path.is_relative_to(examples) and not examples.is_relative_to(Path.cwd()):
                continue
            if below := inside(f"engine {name}: {key}", path):
                yield below


def weights_elsewhere(stated: Mapping[str, Any], settings: Settings) -> list[Path]:
    """Return the files of the preset's weights, if they are outside the run folder."""
    path = Path(settings.model.checkpoint or "")
    if (stated.get("model") or {}).get("checkpoint") or not path.is_absolute():
        return []
    return [each for each in (path, path.with_name(LOCK)) if each.exists()]


def push(place: Place, *, dry: bool, delete: bool) -> None:
    """Carry a run folder's inputs to its other end."""
    stated = config.read(Path("config.yaml"))
    settings = config.complete(stated)
    weights = weights_elsewhere(stated, settings)
    names = inputs(replace(settings, model=replace(settings.model, checkpoint=None)) if weights else settings)
    if place.host is None and not dry:
        Path(place.folder).mkdir(parents=True, exist_ok=True)
    make = ["--rsync-path", f"mkdir -p {shlex.quote(place.folder)} && rsync"] if place.host and not dry else []
    program = [name for name in PROGRAM if os.path.lexists(name)]
    done: list[tuple[str, str]] = []
    with own_folder("stage") as nothing:
        absent = dry and place.run("test", "-d", place.folder).returncode != 0
        where = Place(None, str(nothing)) if absent else place
        brought = Brought.read(where)
        # Links in the inputs are carried as files; links of the program stay links.
        for chosen, links in ((names, ["--copy-links", "--no-implied-dirs"]), (program, [])):
            if chosen:
                only = [*links, "--exclude=__pycache__", *(["--dry-run"] if dry else make)]
                went = rsync(where, *only, "./", where.path(), names=chosen)
                if not dry:
                    verify(place, "./", place.path(), carried(went), *links)
                    brought.add(carried(went) if chosen is names else [])
                    brought.write(place)
                done += went
        if weights:  # into the run folder there, where the preset looks first
            here, there = f"{weights[0].parent}/", where.path(f"{CARRIED}/")
            only = ["--copy-links", *(["--dry-run"] if dry else [])]
            went = rsync(where, *only, here, there, names=[path.name for path in weights])
            if not dry:
                verify(place, here, there, carried(went), "--copy-links")
            done += [(code, f"{CARRIED}/{name}") for code, name in went]
        tell("push", done, dry, f"to {place}")
        superfluous(where, settings, brought, dry=dry, delete=delete)
    if not dry:
        write_json(TARGET, {"target": str(place), "run": brought.run})


@dataclass
class Brought:
    """The files that this run folder's pushes brought to the other end, by name: size in bytes and time in seconds.

    Only these are ever removed there, and only if they are unchanged.
    """

    run: str
    files: dict[str, list[int]]

    @classmethod
    def read(cls, place: Place) -> Brought:
        """Read the list at the other end; an empty one if it belongs to another run folder, or there is none."""
        run = (read_json(TARGET, {"run": str}) or {"run": uuid.uuid4().hex})["run"]
        there = place.run("cat", f"{place.folder}/{BROUGHT}", quiet=True).stdout
        with suppress(ValueError):
            value = parse_json(there)
            if fits(value, {"run": str, "files": {"*": [int, int]}}) and value["run"] == run:
                return cls(run, value["files"])
        return cls(run, {})

    def add(self, names: Sequence[str]) -> None:
        """Add files that were carried, without those whose name is not UTF-8, which are never removed."""
        for name in names:
            with suppress(UnicodeEncodeError):
                name.encode()
                status = Path(name).stat()
                self.files[os.path.normpath(name)] = [status.st_size, status.st_mtime_ns // 10**9]

    def write(self, place: Place) -> None:
        """Write the list at the other end, whole or not at all."""
        with own_folder("stage") as folder:
            write_json(folder / BROUGHT, {"run": self.run, "files": self.files})
            rsync(place, "--relative", "--no-implied-dirs", f"{folder}/./{BROUGHT}", place.path())

    def unchanged(self, place: Place, names: Sequence[str]) -> list[str]:
        """Return those files that are unchanged there."""
        there = sizes_there(place, names)
        return [name for name in names if there.get(name) == (self.files[name][0], local_time(self.files[name][1]))]


def superfluous(place: Place, settings: Settings, brought: Brought, *, dry: bool, delete: bool) -> None:
    """Remove, or only list, files that a push carried and that are gone here: they would be animated there.

    Never removed are results, files that no push of this run folder carried, and files that have changed there since.
    Other files that would be animated there are listed.
    """
    results = Path(os.path.normpath(settings.results))
    gone = [name for name in brought.files if not os.path.lexists(name) and not Path(name).is_relative_to(results)]
    gone = sorted(brought.unchanged(place, gone))
    if gone and delete and not dry:
        given = b"".join(name.encode() + b"\0" for name in gone)
        if place.run("sh", "-c", 'cd "$1" && xargs -0 rm -f --', "sh", place.folder, given=given).returncode:
            raise TalkiesError(f"{place}: not all files could be removed (see the message above): remove them there")
        for name in gone:
            del brought.files[name]
        brought.write(place)
    if gone and delete:
        for name in gone:
            print(f"{'would be removed there' if dry else 'removed there'}: {printable(name)}")
    elif gone:
        what = "there and not here, and would be animated too: --delete removes them"
        print(f"stage: {counted(len(gone), 'file')} {what} ({printable(gone[0])}{', ...' if gone[1:] else ''})")
    for key, folder, suffixes in (
        ("images", settings.images, media.PICTURE_SUFFIXES),
        ("driving", settings.driving, media.CLIP_SUFFIXES),
    ):
        below = os.path.relpath(folder)
        if below.startswith("..") or not Path(below).is_dir():
            continue
        only = ["--dry-run", "--no-recursive", "--dirs", "--delete", "--existing", "--ignore-existing"]
        done = rsync(place, *only, f"{below}/", place.path(f"{below}/"))
        more = [name for code, name in done if code.startswith("*deleting") and not name.startswith(".")]
        more = [name for name in more if Path(name).suffix.lower() in suffixes]
        if foreign := [name for name in more if os.path.normpath(f"{below}/{name}") not in gone]:
            print(
                f"stage: {key}: {counted(len(foreign), 'file')} there would be animated too; "
                f"no push brought them as they are: they stay ({printable(foreign[0])}{', ...' if foreign[1:] else ''})"
            )


def pull(place: Place, *, dry: bool) -> None:
    """Carry a run's results and memory here; files that they replace are kept aside."""
    if busy := at_work():
        raise TalkiesError(f"a run is at work in this folder ({busy[0]}): wait for it or stop it")
    settings = config.load(Path("config.yaml"))
    results = os.path.relpath(settings.results)
    if results.startswith(".."):
        raise TalkiesError(f"config.yaml: results: {settings.results} is outside the run folder: fetch it by hand")
    if place.run("test", "-d", f"{place.folder}/{results}").returncode:
        raise TalkiesError(f"{place}: there is no folder {printable(results)} yet: run snakemake there first")
    if rsync(place, "--dry-run", "--checksum", "--no-times", place.path("config.yaml"), "./config.yaml"):
        print("stage: config.yaml is not the same there; a snakemake here goes by the one here")
    aside = HOME / "replaced" / time.strftime("%Y-%m-%d-%H%M%S")
    done: list[tuple[str, str]] = []
    # The films first: after an interrupted pull, the memory must not name films that are not here.
    with own_folder("stage") as nothing:
        for part in (results, *MEMORY):
            if not dry:
                Path(part).mkdir(parents=True, exist_ok=True)
            there, here = place.path(f"{part}/"), f"{part}/" if Path(part).is_dir() else f"{nothing}/"
            only = [f"--exclude={pattern}" for pattern in (NOT_CARRIED if part != results else NOT_CARRIED[:1])]
            keep = ["--backup", f"--backup-dir={aside.absolute() / part}", *(["--dry-run"] if dry else [])]
            went = rsync(place, *only, *keep, SAFE, there, here)
            if not dry:
                verify(place, there, here, carried(went), SAFE)
            done += [(code, f"{part}/{name}") for code, name in went]
    tell("pull", done, dry, f"from {place}")
    replaced = sum(1 for path in aside.rglob("*") if path.is_file())
    if replaced:
        print(f"stage: {counted(replaced, 'file')} that differed here: kept in {aside}")


def tell(what: str, done: Sequence[tuple[str, str]], dry: bool, where: str) -> None:
    """Print how many files went, or would go."""
    names = carried(done)
    if dry:
        for name in names:
            print(printable(name))
    print(f"stage: {what}: {counted(len(names), 'file')} {'would go' if dry else 'carried'} {where}")


def stage(action: str, target: str | None, *, dry: bool = False, delete: bool = False) -> None:
    """Push this run folder to a target (HOST:DIR, or DIR on this machine), or pull its results from there.

    Without a target, a pull uses that of the last push. dry: only show what would be carried. delete: a push also
    removes files of earlier pushes that are gone here. Raises TalkiesError.
    """
    text = target or (read_json(TARGET, {"target": str}) or {}).get("target")
    if text is None:
        raise TalkiesError("nothing was pushed from this run folder: name the place: pull HOST:DIR")
    with connected(Place.parse(text)) as place:
        check_rsync(place)
        if action == "push":
            push(place, dry=dry, delete=delete)
        else:
            pull(place, dry=dry)
