"""Carry a run folder to a cluster and its results back, by rsync over ssh.

    cd RUN_FOLDER
    talkies stage push HOST:DIR      config.yaml and what it names, and in a clone the program
    talkies stage pull [HOST:DIR]    results, and the run's memory: a `snakemake` here then finds nothing to do

Only what changed goes over the line; a transfer that broke off goes on where it was; what was carried is compared by
checksum afterwards. -n tells what would be carried. A pull deletes nothing: a file here that it replaces is kept in
.talkies/replaced/. DIR may lie on this machine too, and then needs no HOST.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import config, media
from .errors import TalkiesError, printable
from .plan import HOME, RUN
from .records import held_locks, is_abandoned, read_json, write_json
from .scratch import own_folder

PROGRAM = (
    *("Snakefile", "slurm", "workflow", "profiles", "src", "scripts", "containers", "requirements"),
    *("pyproject.toml", "Makefile", "README.md", "LICENSE"),
)
"""What of a clone runs on a cluster."""
MEMORY = (str(HOME), ".snakemake/metadata")
"""What a run remembers: the receipts and records, and by what Snakemake tells that a job need not run again."""
NOT_CARRIED = ("*.part", "/locks", "/run.json", "/stage.json", "/replaced")
"""Of a run's memory: what is each end's own."""
TARGET = HOME / "stage.json"
"""Remembers where the last push went."""
OLDEST = (3, 1, 3)
"""From this rsync on times are compared and kept to the nanosecond, as the records hold them."""
INSTALL = "install it: apt install rsync, dnf install rsync, or on a Mac brew install rsync"
# Times and links, no owners: the cluster's own apply. Unfinished files lie in a hidden folder, never under their name.
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
        """Return what rsync calls the folder, or a folder in it."""
        return f"{self}/{below}"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there; its output is in .stdout."""
        ahead = [*self.shell, self.host, shlex.join(command)] if self.host else command
        return subprocess.run(ahead, stdout=subprocess.PIPE, text=True)


@contextmanager
def connected(place: Place) -> Iterator[Place]:
    """Keep one ssh connection for all transfers, so that a password or a code is asked for once."""
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
    """See that rsync is on both sides and new enough."""
    if not shutil.which("rsync"):
        raise TalkiesError(f"there is no rsync here: {INSTALL}")
    for where, done in (
        ("here", subprocess.run(["rsync", "--version"], stdout=subprocess.PIPE, text=True)),
        *([(f"on {place.host}", place.run("rsync", "--version"))] if place.host else []),
    ):
        if done.returncode == 255 and where != "here":
            raise TalkiesError(f"{place.host}: no connection (ssh's own words stand above): try `ssh {place.host}`")
        found = re.search(r"version v?(\d+)\.(\d+)\.(\d+)", done.stdout)
        if done.returncode or not found:
            raise TalkiesError(f"there is no usable rsync {where}: {INSTALL}")
        if tuple(map(int, found.groups())) < OLDEST:
            raise TalkiesError(f"rsync {where} is {'.'.join(found.groups())}, older than 3.1.3: {INSTALL}")


def rsync(place: Place, *arguments: str, names: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Run rsync; return what it did (with --dry-run: would do) as pairs of its itemized code and the name.

    names: the files to take, below the source, as --files-from gives them.
    """
    dry = "--dry-run" in arguments
    with own_folder("stage") as folder:
        log, listed = folder / "log", folder / "names"
        # A dry run writes no log, and a progress bar must have the output for itself.
        command = [
            "rsync",
            *USUAL,
            *(["--out-format=%i %n"] if dry else [f"--log-file={log}", "--log-file-format=%i %n"]),
        ]
        if place.host:
            command += ["--rsh", shlex.join(place.shell)]
        if sys.stdout.isatty() and not dry:
            command.append("--info=progress2")
        if names is not None:
            listed.write_bytes(b"".join(os.fsencode(name) + b"\0" for name in names))
            command += ["--from0", f"--files-from={listed}"]
        ended = subprocess.run([*command, *arguments], stdout=subprocess.PIPE if dry else None)
        # 24: a file has gone meanwhile, as a run that is at work replaces its own.
        if ended.returncode not in (0, 24):
            raise TalkiesError(
                f"rsync ended with code {ended.returncode} (its own words stand above); call it again: it goes on"
            )
        said = ended.stdout if dry else log.read_bytes() if log.exists() else b""
    lines = said.decode("utf-8", "surrogateescape").splitlines()
    found = (re.fullmatch(r"(?:\S+ \S+ \[\d+\] )?([<>ch.*]\S{8,}) +(.*)", line) for line in lines)
    return [(match[1], match[2]) for match in found if match]


def carried(done: Sequence[tuple[str, str]]) -> list[str]:
    """Return the files (and links) among what rsync did whose content went over."""
    return [name for code, name in done if code[0] in "<>c" and code[1] in "fL"]


def verify(place: Place, source: str, target: str, names: Sequence[str], *options: str) -> None:
    """Compare by checksum, on both sides, the files that were carried."""
    if not names:
        return
    done = rsync(place, "--dry-run", "--checksum", *options, source, target, names=names)
    wrong = [name for code, name in done if code[1] in "fL" and (code[0] in "<>c" or "t" in code)]
    if wrong:
        raise TalkiesError(
            f"{printable(wrong[0])} ({len(wrong)} files in all) is not the same on both sides: it changed meanwhile "
            "or was damaged on its way: call it again"
        )


def inside(key: str, path: str | Path | None) -> str | None:
    """Return a path of config.yaml below the run folder; None, said in a line, where it lies elsewhere."""
    if path is None:
        return None
    below = os.path.relpath(path)
    if below.startswith(".."):
        print(f"stage: {key}: {printable(path)} lies outside the run folder and is not carried: give it there yourself")
        return None
    return below


def inputs(settings: dict) -> list[str]:
    """Return the files that a push carries, as paths below the run folder."""
    names = ["config.yaml"]
    for key, lister in (("images", media.list_pictures), ("driving", media.list_clips)):
        if inside(key, settings[key]):
            names += [os.path.relpath(path) for path in lister(settings[key])]
    image = settings["container"] if Path(settings["container"] or "").is_file() else None
    for key, path in (("pairs", settings["pairs"]), ("model.checkpoint", settings["model"]["checkpoint"])):
        names += filter(None, [inside(key, path)])
    names += filter(None, [inside("container", image)])
    return list(dict.fromkeys(name for name in names if os.path.lexists(name)))


def push(place: Place, *, dry: bool, delete: bool) -> None:
    """Carry a run folder's inputs to its other end."""
    settings = config.load(Path("config.yaml"))
    names = inputs(settings)
    if place.host is None and not dry:
        Path(place.folder).mkdir(parents=True, exist_ok=True)
    make = ["--rsync-path", f"mkdir -p {shlex.quote(place.folder)} && rsync"] if place.host and not dry else []
    program = [name for name in PROGRAM if os.path.lexists(name)]
    done: list[tuple[str, str]] = []
    with own_folder("stage") as nothing:
        absent = dry and place.run("test", "-d", place.folder).returncode != 0
        where = Place(None, str(nothing)) if absent else place
        # What config.yaml names goes as files, wherever links lead; the program's own links stay links.
        for chosen, links in ((names, ["--copy-links", "--no-implied-dirs"]), (program, [])):
            if chosen:
                only = [*links, "--exclude=__pycache__", *(["--dry-run"] if dry else make)]
                went = rsync(where, *only, "./", where.path(), names=chosen)
                if not dry:
                    verify(place, "./", place.path(), carried(went), *links)
                done += went
    tell("push", done, dry, f"to {place}")
    if not dry:
        write_json(TARGET, {"target": str(place)})
        superfluous(place, settings, delete=delete)


def superfluous(place: Place, settings: dict, *, delete: bool) -> None:
    """Remove, or only count, the pictures and videos there that are no more here: there they would be animated."""
    for key in ("images", "driving"):
        below = os.path.relpath(settings[key])
        if below.startswith(".."):
            continue
        only = ["--delete", "--existing", "--ignore-existing", "--exclude=.*", *([] if delete else ["--dry-run"])]
        done = rsync(place, *only, f"{below}/", place.path(f"{below}/"))
        gone = [name for code, name in done if code.startswith("*deleting")]
        if gone:
            what = "removed there" if delete else "there and not here, and would be animated too: --delete removes them"
            print(f"stage: {key}: {len(gone)} files {what} ({printable(gone[0])}{', ...' if gone[1:] else ''})")


def pull(place: Place, *, dry: bool) -> None:
    """Carry a run's results and memory here; what they replace is kept aside."""
    at_work = held_locks(HOME / "locks")
    if at_work or (read_json(RUN) and not is_abandoned(RUN)):
        raise TalkiesError(f"a run is at work in this folder ({(at_work or ['snakemake'])[0]}): wait for it or stop it")
    settings = config.load(Path("config.yaml"))
    results = os.path.relpath(settings["results"])
    if results.startswith(".."):
        raise TalkiesError(f"config.yaml: results: {settings['results']} lies outside the run folder: fetch it by hand")
    if place.run("test", "-d", f"{place.folder}/{results}").returncode:
        raise TalkiesError(f"{place}: there is no folder {printable(results)} yet: run snakemake there first")
    if rsync(place, "--dry-run", "--checksum", "--no-times", place.path("config.yaml"), "./config.yaml"):
        print("stage: config.yaml is not the same there; a snakemake here goes by the one here")
    aside = HOME / "replaced" / time.strftime("%Y-%m-%d-%H%M%S")
    done: list[tuple[str, str]] = []
    # The films first: a pull that breaks off leaves no memory of what is not here.
    with own_folder("stage") as nothing:
        for part in (results, *MEMORY):
            if not dry:
                Path(part).mkdir(parents=True, exist_ok=True)
            there, here = place.path(f"{part}/"), f"{part}/" if Path(part).is_dir() else f"{nothing}/"
            only = [f"--exclude={pattern}" for pattern in (NOT_CARRIED if part != results else NOT_CARRIED[:1])]
            keep = ["--backup", f"--backup-dir={aside.absolute() / part}", *(["--dry-run"] if dry else [])]
            went = rsync(place, *only, *keep, there, here)
            if not dry:
                verify(place, there, here, carried(went))
            done += [(code, f"{part}/{name}") for code, name in went]
    tell("pull", done, dry, f"from {place}")
    replaced = sum(1 for path in aside.rglob("*") if path.is_file())
    if replaced:
        print(f"stage: {replaced} files that were other ones here are kept in {aside}")


def tell(what: str, done: Sequence[tuple[str, str]], dry: bool, where: str) -> None:
    """Say how many files went, or would go."""
    names = carried(done)
    if dry:
        for name in names:
            print(printable(name))
    print(f"stage: {what}: {len(names)} files {'would go' if dry else 'carried'} {where}")


def stage(action: str, target: str | None, *, dry: bool = False, delete: bool = False) -> None:
    """Push this run folder to a target (HOST:DIR, or DIR on this machine), or pull its results from there.

    Without a target a pull goes to where the last push went. dry: only tell what would be carried. delete: a push also
    removes pictures and videos there that are not here. Raises TalkiesError.
    """
    text = target or (read_json(TARGET) or {}).get("target")
    if text is None:
        raise TalkiesError("nothing was pushed from this run folder: name the place: pull HOST:DIR")
    with connected(Place.parse(text)) as place:
        check_rsync(place)
        if action == "push":
            push(place, dry=dry, delete=delete)
        else:
            pull(place, dry=dry)
