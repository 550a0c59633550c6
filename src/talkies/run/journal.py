"""The journals of a run and of its shards' workers: one line of JSON for each event."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace


class _Event(Struct, frozen=True, kw_only=True, tag_field="event"):
    """Fields of every event. time: seconds since 1970, set when it is written."""

    time: float = 0.0


class Started(_Event, frozen=True, tag="started"):
    """A run began, of these shards."""

    shards: list[str]


class Ended(_Event, frozen=True, tag="ended"):
    """A run came to its end."""


class Looked(_Event, frozen=True, tag="looked"):
    """A worker has checked its pairs. fresh: those whose pixels exist already."""

    fresh: list[str]


class Loaded(_Event, frozen=True, tag="loaded"):
    """A worker has loaded an engine."""

    shard: str
    seconds: float


class Found(_Event, frozen=True, tag="motion"):
    """The keypoints of a take were found."""

    take: str
    frames: int
    seconds: float


class Begun(_Event, frozen=True, tag="begun"):
    """A film was begun."""

    pair: str


class Animated(_Event, frozen=True, tag="animated"):
    """A silent film was made."""

    pair: str
    frames: int
    seconds: float


class Remuxed(_Event, frozen=True, tag="remuxed"):
    """A talkie was made. sound: how its sound was put in, None where it has none."""

    pair: str
    sound: str | None = None


class Failed(_Event, frozen=True, tag="failed"):
    """A pair can't be made."""

    pair: str
    reason: str


Event = Started | Ended | Looked | Loaded | Found | Begun | Animated | Remuxed | Failed
_decoder = msgspec.json.Decoder(Event)


class Journal:
    """One line of JSON for each item that a shard's worker finishes, appended at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, event: Event) -> None:
        """Append an event, with the time now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = msgspec.json.encode(replace(event, time=round(time.time(), 3)))
        with self.path.open("ab+") as file:
            # A line that a killed worker left unfinished must not swallow this one.
            unfinished = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(b"\n" * bool(unfinished) + line + b"\n")

    @staticmethod
    def read(folder: Path) -> Iterator[Event]:
        """Yield all events of a run's journals; unfinished lines of killed workers are skipped."""
        for path in sorted(folder.glob("*.jsonl")):
            yield from events_of(path.read_bytes().splitlines())


def events_of(lines: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events of a journal's lines; unfinished or damaged lines are skipped."""
    for line in lines:
        with suppress(ValueError, RecursionError):
            yield _decoder.decode(line)
