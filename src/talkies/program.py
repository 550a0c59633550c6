"""An engine of config.yaml that is another program: its keys, its command, and the film that it leaves."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from .errors import InputError, TalkiesError, printable

VALUES = "source driving audio output folder jobs checkpoint threads side best_frame".split()  # noqa: SIM905
SWITCHES = "relative adapt_scale find_best_frame gpu".split()  # noqa: SIM905
OF_A_FILM = {"source", "driving", "audio", "output", "folder", "best_frame", *SWITCHES} - {"gpu"}
"""Values that differ from film to film; a command that makes many reads them from {jobs}."""
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z_]+)(?::([^{}|]*)(?:\|([^{}|]*))?)?\}|[{}]")


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


FilePath = Annotated[str, Meta(extra_json_schema={"format": "path"})]
FileName = Annotated[FilePath, Meta(min_length=1)]
Side = Annotated[int, Meta(ge=16, le=4096)]


class Program(Struct, frozen=True, kw_only=True):
    """A program as an engine of config.yaml; its fields are the keys there (docs/engines.md)."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=40,
            description="A known engine, whose keys then hold unless given here; or a name for this one.",
        ),
    ] = "command"
    command: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=10_000,
            description="What makes a film, with placeholders ({source}, {driving}, {output}, ...). No shell runs it.",
        ),
    ]
    image: Annotated[
        FileName | None,
        Meta(description="Its image: a .sif, or docker:// or oras:// pinned by digest; null runs it on the machine."),
    ] = None
    workdir: Annotated[
        FileName | None,
        Meta(description="Folder that it starts in; null for the film's own."),
    ] = None
    side: Annotated[Side, Meta(description="Side in pixels of the picture and video that it gets.")] = 256
    output_side: Annotated[Side | None, Meta(description="Side of its film, if another.")] = None
    input: Annotated[
        Literal["square", "whole"],
        Meta(description="What it gets: the crop, or the whole picture and video."),
    ] = "square"
    crop: Annotated[
        Literal["face", "center", "none"],
        Meta(
            description="How pictures and videos are cut if the key crop is null.",
            extra_json_schema={"in_order": ["face", "center", "none"]},
        ),
    ] = "face"
    result: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1000,
            description='Its film, as a pattern below {folder} ("*.mp4") that one file matches.',
        ),
    ] = "{output}"
    checkpoint: Annotated[FileName | None, Meta(description="A file that it reads, {checkpoint}.")] = None
    batch: Annotated[
        bool,
        Meta(description="Start it once for all films of a job, which {jobs} lists."),
    ] = False
    binds: Annotated[
        tuple[FileName, ...],
        Meta(
            max_length=50,
            description="More folders for the image, FROM:TO or FROM:TO:ro.",
            examples=[[], ["examples:/models"]],
        ),
    ] = ()
    network: Annotated[bool, Meta(description="Let it use the network.")] = False
    writable_tmpfs: Annotated[bool, Meta(description="Let it write into its image; what it writes is lost.")] = False
    minutes: Annotated[
        Annotated[float, Meta(gt=0, le=100_000)] | Annotated[int, Meta(gt=0, le=100_000)],
        Meta(description="Minutes that it may take for a film."),
    ] = 60
    gpu_mem_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="MB of GPU memory that it needs. On SLURM, nodes whose GPUs have less are excluded.",
        ),
    ] = 0

    def uses(self, name: str) -> bool:
        """Return whether its films depend on this placeholder: a batch may use everything in its jobs."""
        return name in self.names or (self.batch and name in OF_A_FILM)

    @property
    def names(self) -> set[str]:
        """The placeholders of its command."""
        return Command(self.command).names

    def check(self, where: str) -> None:
        """Raise TalkiesError where its keys don't fit each other. where: they are, as messages name it."""
        try:
            used = Command(self.command).names
        except TalkiesError as error:
            raise TalkiesError(f"{where}.command: {error}: mend it") from None
        if self.batch:
            if "jobs" not in used:
                raise TalkiesError(f"{where}.batch: the command must take {{jobs}}, the file that lists its films")
            if wrong := sorted(used & OF_A_FILM):
                raise TalkiesError(
                    f"{where}.batch: {{{wrong[0]}}} is each film's own: take it from the lines of {{jobs}}"
                )
        elif "jobs" in used:
            raise TalkiesError(f"{where}.command: {{jobs}} needs batch: true: set it, or take {{jobs}} away")
        elif "source" not in used:
            raise TalkiesError(f"{where}.command: takes no {{source}}: write it where the picture's path belongs")
        elif not used & {"driving", "audio"}:
            raise TalkiesError(f"{where}.command: takes neither {{driving}} nor {{audio}}: write one of them in")
        if "checkpoint" in used and self.checkpoint is None:
            raise TalkiesError(f"{where}.checkpoint: the command takes {{checkpoint}}: name its file")
        pattern = self._pattern
        if pattern is None and not self.batch and "output" not in used:
            raise TalkiesError(f"{where}.result: the command takes no {{output}}: name the film by a pattern (*.mp4)")
        if pattern is not None and (not pattern or pattern.startswith("/") or ".." in Path(pattern).parts):
            raise TalkiesError(
                f"{where}.result: {printable(self.result)}: must lie below {{folder}}: write {{folder}}/*.mp4"
            )

    @property
    def _pattern(self) -> str | None:
        """The pattern of the film below {folder}; None: the film is {output}."""
        return None if self.result == "{output}" else self.result.removeprefix("{folder}/")

    def found(self, folder: Path, output: Path) -> Path:
        """Return the film that was made; InputError if there is none, or more than one."""
        pattern = self._pattern
        films = [output] if pattern is None else sorted(folder.glob(pattern))
        films = [film for film in films if film.is_file() and film.stat().st_size]
        if len(films) != 1:
            left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())[:5]
            there = f"it left {', '.join(map(printable, left))}" if left else "it left nothing"
            count = f"{len(films) or 'no'} film{'s' * (len(films) > 1)}"
            raise InputError("", f"made {count} ({self.result}), {there}: mend its command or result")
        return films[0]
