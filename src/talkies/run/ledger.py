"""The ledger of a run: .talkies/ledger/SHARD.jsonl, to which the worker of a shard appends a line for each event.

The last line about an item counts. A line that a killed worker left unfinished is no line. The ledger is an index: the
truth about a file is the JSON beside it (`record`), and without the ledger the finished films are found by that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .folder import LEDGER

FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
RUN = "run"
"""The ledger of the main process."""


class _Line(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", gc=False):
    """time: seconds since 1970, set when the line is written."""

    time: float = 0.0


class _About(_Line, frozen=True):
    stage: str
    item: str


class Begun(_About, frozen=True, tag="begun"):
    """The work on an item was begun."""


class Made(_About, frozen=True, tag="made"):
    """An item's file was made, or found as its record says.

    key: of the item. size, mtime_ns: of the file. seconds, frames: what it took. by: the engine, with preset and
    device. shows: the key of the film that a talkie carries. read: an input file's size, time (ns) and content. found:
    it was there already, and only its record told of it.
    """

    key: str
    size: int
    mtime_ns: int
    seconds: float = 0.0
    frames: int = 0
    by: str = ""
    shows: str | None = None
    read: tuple[int, int, str] | None = None
    found: bool = False


class Failed(_About, frozen=True, tag="failed"):
    """An item can't be made under this key. unless: a setting and its value under which it can be tried again."""

    key: str
    reason: str
    unless: tuple[str, str] | None = None
    read: tuple[int, int, str] | None = None


class Forgotten(_About, frozen=True, tag="forgotten"):
    """An item is to be made again, whatever is there."""


class Loaded(_Line, frozen=True, tag="loaded"):
    """A worker has loaded an engine."""

    seconds: float


class Broke(_Line, frozen=True, tag="broke"):
    """A worker ended before its work was done."""

    stage: str
    shard: str
    reason: str


class Checked(_Line, frozen=True, tag="checked"):
    """All inputs were looked at: the summary in words, and the files with something wrong."""

    said: str
    doubtful: int


class Started(_Line, frozen=True, tag="started"):
    """A run began."""


class Ended(_Line, frozen=True, tag="ended"):
    """A run came to its end."""


Event = Begun | Made | Failed | Forgotten | Loaded | Broke | Checked | Started | Ended
Entry = Made | Failed | Forgotten
_decoder = msgspec.json.Decoder(Event)


def path_of(shard: str) -> Path:
    """Return a shard's ledger."""
    return LEDGER / f"{shard}.jsonl"


def note(shard: str, *events: Event) -> None:
    """Append events to a shard's ledger, with the time now."""
    path = path_of(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    now = round(time.time(), 6)
    lines = b"".join(msgspec.json.encode(replace(event, time=now)) + b"\n" for event in events)
    with os.fdopen(os.open(path, FLAGS, 0o666), "ab+") as file:
        # A line that a killed worker left unfinished must not swallow this one.
        torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write(b"\n" * bool(torn) + lines)


def events_of(content: bytes) -> Iterator[Event]:
    """Yield the events of whole lines; those that are no events are left out."""
    for line in content.splitlines():
        with suppress(ValueError, RecursionError):
            yield _decoder.decode(line)


class Ledger:
    """What the ledgers say of each item: its last line, and the shard in whose ledger that is.

    shards: only these; None: all. contents: what each input file contained when it was read, by the item's stage and
    name, with size and time. begun: the items at work, with shard and time. broke: the last end of a worker before its
    work was done, by stage and shard. files: size and time (ns) of items' files when they were last made. loads: what
    loading engines took, by shard. checked: the last check of all inputs. started, ended: when the last run did.
    """

    def __init__(self, shards: Iterable[str] | None = None) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        self.homes: dict[tuple[str, str], str] = {}
        self.contents: dict[tuple[str, str], tuple[int, int, str]] = {}
        self.begun: dict[tuple[str, str], tuple[str, float]] = {}
        self.broke: dict[tuple[str, str], Broke] = {}
        self.files: dict[tuple[str, str], tuple[int, int]] = {}
        self.loads: dict[str, float] = {}
        self.checked: Checked | None = None
        self.shards: set[str] = set()
        self.started: float | None = None
        self.ended: float | None = None
        self._only = None if shards is None else sorted(set(shards))
        self._read: dict[Path, int] = {}

    @classmethod
    def read(cls, shards: Iterable[str] | None = None) -> Ledger:
        """Fold the ledgers of these shards; None: of all."""
        ledger = cls(shards)
        ledger.read_on()
        return ledger

    def read_on(self) -> None:
        """Add the lines that were written since the last read; a line that is not whole yet is read later."""
        for path in self._paths():
            since = self._read.get(path, 0)
            try:
                with path.open("rb") as file:
                    file.seek(since)
                    content = file.read()
            except OSError:
                continue
            whole = content[: content.rfind(b"\n") + 1]
            self._read[path] = since + len(whole)
            for event in events_of(whole):
                self.take(path.stem, event)

    def _paths(self) -> list[Path]:
        if self._only is not None:
            return [path_of(shard) for shard in self._only]
        try:
            return sorted(path for path in LEDGER.iterdir() if path.suffix == ".jsonl")
        except OSError:
            return []

    def take(self, shard: str, event: Event) -> None:
        """Add an event. Of lines about one item in several ledgers, the latest counts."""
        self.shards.add(shard)
        if isinstance(event, Made | Failed | Forgotten):
            about = event.stage, event.item
            before = self.entries.get(about)
            if before is not None and before.time > event.time:
                return
            self.entries[about], self.homes[about] = event, shard
            self.begun.pop(about, None)
            if isinstance(event, Made):
                self.files[about] = event.size, event.mtime_ns
            if not isinstance(event, Forgotten) and event.read:
                self.contents[about] = event.read
        elif isinstance(event, Begun):
            self.begun[event.stage, event.item] = shard, event.time
            self.broke.pop((event.stage, shard), None)
        elif isinstance(event, Broke):
            self.broke[event.stage, event.shard] = event
            self.begun = {about: begun for about, begun in self.begun.items() if begun[0] != event.shard}
        elif isinstance(event, Loaded):
            self.loads[shard] = self.loads.get(shard, 0.0) + event.seconds
        elif isinstance(event, Checked):
            self.checked = event
        elif isinstance(event, Started):
            self.started, self.ended = event.time, None
        else:
            self.ended = event.time

    def get(self, stage: str, item: str) -> Entry | None:
        """Return the last line about an item."""
        return self.entries.get((stage, item))

    def films(self) -> list[Made]:
        """Return the lines about films that an engine made, the earliest first."""
        return sorted((e for e in self.entries.values() if isinstance(e, Made) and e.by), key=lambda e: e.time)
