"""An engine of config.yaml that is another program: its keys, its command, its image, the film that it leaves."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..errors import InputError, TalkiesError, printable
from ..files import shipped
from ..machine.container import ADDRESS, check_bindable, check_file, pull, runtime
from . import FOMM

VALUES = "source driving audio output folder jobs checkpoint threads side best_frame".split()  # noqa: SIM905
SWITCHES = "relative adapt_scale find_best_frame gpu".split()  # noqa: SIM905
OF_A_FILM = {"source", "driving", "audio", "output", "folder", "best_frame", *SWITCHES} - {"gpu"}
"""Values that differ from film to film; a command that makes many reads them from {jobs}."""
IMAGES = Path(".talkies/images")
"""Images pulled from addresses, unless APPTAINER_CACHEDIR names another place."""
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z_]+)(?::([^{}|]*)(?:\|([^{}|]*))?)?\}|[{}]")


@cache
def known() -> dict[str, dict[str, Any]]:
    """Return the known engines by name: about, licence, needs, get, tried, and engine, the keys of config.yaml."""
    import yaml

    entries: dict[str, dict[str, Any]] = yaml.safe_load(
        Path(__file__).with_name("known.yaml").read_text(encoding="utf-8")
    )
    for entry in entries.values():
        if binds := entry["engine"].get("binds"):
            entry["engine"]["binds"] = [bind.replace("EXAMPLES", str(shipped("examples")), 1) for bind in binds]
    return entries


class Command:
    """A command with placeholders, split as a shell would split it; no shell runs it.

    {name} is replaced by a value; {name:text} by the text if the setting is on, else by nothing; {name:text|other} by
    the one or the other; {{ and }} by braces. Words that become empty are left out. Raises TalkiesError, which names
    the placeholder, for an unknown one.
    """

    def __init__(self, text: str) -> None:
        try:
            self.words = shlex.split(text)
        except ValueError as error:
            raise TalkiesError(f"{str(error).lower()} in {printable(text[:80])!r}: mend it") from None
        if not self.words:
            raise TalkiesError(f"{printable(text)!r} is no command: write one")
        self.names: set[str] = set()
        for match in PLACEHOLDER.finditer("\0".join(self.words)):
            if match[0] in ("{{", "}}"):
                continue
            if match[1] is None:
                raise TalkiesError(f"a single {match[0]}: write {match[0] * 2} for a brace")
            if match[1] not in (VALUES if match[2] is None else SWITCHES):
                raise TalkiesError(
                    f"unknown placeholder {match[0]}: write one of {', '.join(VALUES)}, or, as {{name:text}}, one of "
                    f"{', '.join(SWITCHES)}"
                )
            self.names.add(match[1])

    def filled(self, values: Mapping[str, str], switches: Mapping[str, bool]) -> list[str]:
        """Return the words with every placeholder filled in."""

        def fill(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            if match[2] is None:
                return values[match[1]]
            return match[2] if switches[match[1]] else match[3] or ""

        return [word for each in self.words if (word := PLACEHOLDER.sub(fill, each))]


FilePath = Annotated[str, Meta(title="a path", pattern=r"^(?!.*[^/]{256})[^\0\ud800-\udfff]{1,4095}$")]
"""Of a file or folder, as Linux allows it."""
ImageAddress = Annotated[
    str,
    Meta(
        title="a .sif file, or docker:// or oras:// pinned by its digest (...@sha256:...)",
        pattern=r"^((?!.*://)(?!.*[^/]{256})[^\0\ud800-\udfff]{1,4095}|(docker|oras)://[^\s@]+@sha256:[0-9a-f]{64})$",
        examples=["talkies.sif", f"docker://registry.example/talkies@sha256:{'5f70bf18a0860070' * 4}"],
    ),
]
"""Of a container: not by a tag, which may name another image tomorrow."""
EngineName = Annotated[
    str,
    Meta(title="a name of at most 40 letters, digits and . _ -", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$(?!\n)"),
]
Side = Annotated[int, Meta(ge=16, le=4096)]


class Program(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program as an engine of config.yaml; its fields are the keys there (docs/engines.md)."""

    name: EngineName = "command"
    """A known engine, whose keys then hold unless given here; or a name for this one."""
    command: Annotated[str, Meta(title="a command", min_length=1, max_length=10_000)]
    """What makes a film, with placeholders ({source}, {driving}, {output}, ...). No shell runs it."""
    image: ImageAddress | None = None
    """Its image: a .sif, or docker:// or oras:// pinned by digest; null runs it on the machine."""
    workdir: FilePath | None = None
    """Folder that it starts in; null for the film's own."""
    side: Side = 256
    """Side in pixels of the picture and video that it gets."""
    output_side: Side | None = None
    """Side of its film, if another."""
    input: Literal["square", "whole"] = "square"
    """What it gets: the crop, or the whole picture and video."""
    crop: Literal["face", "center", "none"] = "face"
    """How pictures and videos are cut if the key crop is null."""
    result: Annotated[str, Meta(title="a pattern such as *.mp4", min_length=1, max_length=1000)] = "{output}"
    """Its film, as a pattern below {folder} ("*.mp4") that one file matches."""
    checkpoint: FilePath | None = None
    """A file that it reads, {checkpoint}."""
    batch: bool = False
    """Start it once for all films of a job, which {jobs} lists."""
    binds: tuple[FilePath, ...] = ()
    """More folders for the image, FROM:TO or FROM:TO:ro."""
    network: bool = False
    """Let it use the network."""
    writable_tmpfs: bool = False
    """Let it write into its image; what it writes is lost."""
    minutes: Annotated[float, Meta(ge=0.001, le=100_000)] = 60.0
    """Minutes that it may take for a film."""
    mem_mb: Annotated[int, Meta(ge=1, le=10_000_000)] = 4000
    """MB of memory that its jobs ask for on a cluster."""
    frames_per_second: Annotated[float, Meta(ge=0.001, le=1_000_000)] = 5.0
    """Its expected speed, until films are finished."""
    load_seconds: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    """Seconds from its start to its first frame: at each film, with batch once a job."""

    @property
    def load_seconds_a_film(self) -> float:
        """The seconds of a film in which it makes no frames."""
        return 0.0 if self.batch else self.load_seconds

    def uses(self, name: str) -> bool:
        """Return whether its films depend on this placeholder: a batch may use everything in its jobs."""
        return name in self.names or (self.batch and name in OF_A_FILM)

    @property
    def names(self) -> set[str]:
        """The placeholders of its command."""
        return Command(self.command).names

    def here(self, word: str) -> Path | None:
        """Return the file on this machine that a word of its command names; None for any word of one in an image."""
        file = Path(self.workdir or ".").expanduser().absolute() / word
        return file if self.image is None and os.path.isfile(file) else None  # noqa: PTH113 - never raises

    @property
    def files(self) -> dict[str, Path]:
        """Its own files: those that its command names before the first placeholder. It may write later ones."""
        words = takewhile(lambda word: "{" not in word, Command(self.command).words)
        return {word: file for word in words if (file := self.here(word))}

    @property
    def pattern(self) -> str | None:
        """The pattern of the film below {folder}; None: the film is {output}."""
        return None if self.result == "{output}" else self.result.removeprefix("{folder}/")

    def found(self, folder: Path, output: Path) -> Path:
        """Return the film that was made; InputError if there is none, or more than one."""
        pattern = self.pattern
        films = [output] if pattern is None else sorted(folder.glob(pattern))
        films = [film for film in films if film.is_file() and film.stat().st_size]
        if len(films) != 1:
            left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())[:5]
            there = f"it left {', '.join(map(printable, left))}" if left else "it left nothing"
            count = f"{len(films) or 'no'} film{'s' * (len(films) > 1)}"
            raise InputError("", f"made {count} ({self.result}), {there}: mend its command or result")
        if not films[0].resolve().is_relative_to(folder.resolve()):
            raise InputError("", "its film is a link that leads out of its folder: let its command write a file there")
        return films[0]


def filled_in(engine: Any, where: str) -> Any:
    """Return an engine as config.yaml has it with the keys that its name stands for; its own keys go before those.

    A text with a blank or a brace is a command. Raises TalkiesError for a name that stands for nothing.
    """
    if isinstance(engine, str) and re.search(r"[\s{]", engine):
        return {"command": engine}
    given = {"name": engine} if isinstance(engine, str) else engine
    name = given.get("name") if isinstance(given, Mapping) else None
    if given == {"name": FOMM}:
        return FOMM
    if name == FOMM:
        raise TalkiesError(f"{where}: {FOMM} is the built-in engine, with keys under model: name it otherwise")
    if isinstance(name, str) and name in known():
        return {**known()[name]["engine"], **given}
    if isinstance(name, str) and "command" not in given:
        near = get_close_matches(name, [FOMM, *known()], n=1) or [FOMM, *known()]
        raise TalkiesError(
            f"{where}: no engine {printable(name[:80])} is known, and there is no command: write "
            f"{' or '.join(near)}, or its command"
        )
    return engine


def check(engines: Mapping[str, str | Program]) -> None:
    """Refuse engines that contradict themselves, lack a file, or are there twice, before any job is sent.

    engines: by the dotted key where each stands. Raises TalkiesError, which names the key.
    """
    seen: set[str] = set()
    for key, engine in engines.items():
        name = engine if isinstance(engine, str) else engine.name
        if name in seen:
            raise TalkiesError(f"config.yaml: {key}: a second {printable(name)}: give each a name of its own")
        seen.add(name)
        if isinstance(engine, Program) and (fault := _command_fault(engine) or _file_fault(engine)):
            raise TalkiesError(f"config.yaml: {key}.{fault}")


def _command_fault(program: Program) -> str | None:
    """Return which key does not fit the others, and what to do."""
    try:
        used = Command(program.command).names
    except TalkiesError as error:
        return f"command: {error}: mend it"
    pattern, one = program.pattern, not program.batch
    outside = pattern is not None and (not pattern or pattern.startswith("/") or ".." in Path(pattern).parts)
    own = min(used & OF_A_FILM, default="")
    faults = {
        "checkpoint: the command takes {checkpoint}: name its file": "checkpoint" in used and not program.checkpoint,
        f"result: {printable(program.result)}: must lie below {{folder}}: write {{folder}}/*.mp4": outside,
        "batch: the command must take {jobs}, the file that lists its films": not one and "jobs" not in used,
        f"batch: {{{own}}} is each film's own: take it from the lines of {{jobs}}": not one and own,
        "command: {jobs} needs batch: true: set it, or take {jobs} away": one and "jobs" in used,
        "command: takes no {source}: write it where the picture's path belongs": one and "source" not in used,
        "command: takes neither {driving} nor {audio}: write one of them in": one and not used & {"driving", "audio"},
        "result: the command takes no {output}: name the film by a pattern (*.mp4)": (
            one and pattern is None and "output" not in used
        ),
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


def _file_fault(program: Program) -> str | None:
    """Return which file that it needs is missing or is no image, and what to do."""
    is_known = program.name in known()
    how = f"`talkies engine show {program.name}` says how to get it" if is_known else "give its path"
    if program.image is not None and "://" not in program.image:
        try:
            check_file(Path(program.image))
        except TalkiesError as error:
            return f"image: {error}: {how}"
    if program.checkpoint is not None and not Path(program.checkpoint).is_file():
        return f"checkpoint: there is no file {printable(program.checkpoint)}: {how}"
    folders = (bind.partition(":")[0] for bind in program.binds)
    missing = next((folder for folder in folders if not Path(folder).expanduser().exists()), None)
    return None if missing is None else f"binds: there is no {printable(missing)}: give its path"


# --- images ------------------------------------------------------------------------------------------------


def fetch_images(programs: Mapping[str, Program], *, elsewhere: bool = False) -> None:
    """Pull images from their addresses when a run starts; TalkiesError if an image could not be run.

    elsewhere: they run on other machines, so only addresses need apptainer here.
    """
    for name, program in programs.items():
        if program.image is not None:
            if runtime() is None and not (elsewhere and not ADDRESS.match(program.image)):
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
