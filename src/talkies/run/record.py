"""The record (JSON) beside a file: what it was made from (its key), and what it is (size, mtime, sha256)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..files import (
    file_digest,
    keep_aside,
    read_json,
    to_plain,
    typed,
    write_json,
)
from ..media.crop import Crop
from ..media.film import FilmPicture
from ..media.sound import SoundFacts


class FileFacts(Struct, frozen=True):
    """A file as its record knows it: size in bytes, time of the last change in nanoseconds, sha256 (hex)."""

    size: int
    mtime_ns: int
    sha256: str


class Original(FileFacts, frozen=True):
    """An input file as it was when it was read; file: its path."""

    file: str


UNWRITTEN = FileFacts(-1, -1, "")


class Record(Struct, frozen=True, kw_only=True):
    """The JSON beside a file: what it was made from, and what it is.

    key: the key; None: made again whatever the settings ask. file: the file's own facts. frames: how many were made for
    it; seconds: what that took. facts: what talkies itself does not read, for people and other programs; in JSON they
    stand beside the others.
    """

    key: str | None
    file: FileFacts = UNWRITTEN
    frames: int = 0
    seconds: float = 0.0
    facts: dict[str, object] = {}

    @property
    def plain(self) -> dict[str, object]:
        """The record as values for JSON."""
        own = to_plain(self)
        return {**own.pop("facts"), **own}

    @classmethod
    def of(cls, value: Mapping[str, object]) -> Self:
        """Return a record from values of JSON; ValueError if they are no record of this kind."""
        known = set(cls.__struct_fields__) - {"facts"}
        rest = {name: inner for name, inner in value.items() if name not in known}
        record = typed({**{name: value[name] for name in known & value.keys()}, "facts": rest}, cls)
        if record.file == UNWRITTEN:
            raise ValueError("it tells of no file")
        return record


class Prepared(Record, frozen=True, kw_only=True):
    """Of a cropped picture. original: the input file."""

    original: Original
    crop: Crop


class PreparedTake(Prepared, frozen=True, kw_only=True):
    """Of a cropped take. rate: frames a second, a fraction as text. sound: whether it has any."""

    rate: str
    sound: bool
    truncated: bool


class FoundMotion(Record, frozen=True, kw_only=True):
    """Of a take's keypoints. rate: frames a second, a fraction as text."""

    rate: str


class Film(Record, frozen=True, kw_only=True):
    """Of a silent film. by: the engine that made it (`estimate.maker`)."""

    picture: FilmPicture
    by: str = ""


class Talkie(Film, frozen=True, kw_only=True):
    """Of a film in the results. picture_key: the key of the silent film that it shows; pair: its name."""

    picture_key: str | None
    sound: SoundFacts
    pair: str = ""


def file_facts(path: Path) -> FileFacts:
    """Return a file's facts for its record."""
    status = path.stat()
    return FileFacts(status.st_size, status.st_mtime_ns, file_digest(path))


def is_unchanged(path: Path, facts: FileFacts) -> bool:
    """Return whether a file is the one in its record: by size and time, or by digest if the time differs."""
    try:
        status = path.stat()
        if status.st_size != facts.size:
            return False
        return status.st_mtime_ns == facts.mtime_ns or file_digest(path) == facts.sha256
    except OSError:
        return False


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Recorded(Generic[R]):
    """A file and the record (JSON) beside it, which is authoritative.

    kind: the type of the record. A record that does not fit it counts as missing.
    """

    path: Path
    kind: type[R]

    @property
    def record_path(self) -> Path:
        """The JSON beside the file: the same name with the suffix .json."""
        return self.path.with_name(self.path.name.removesuffix(self.path.suffix) + ".json")

    def record(self) -> R | None:
        """Return the record; None if there is none."""
        try:
            return self.kind.of(read_json(self.record_path) or {})
        except ValueError:
            return None

    def fresh(self, key: str, *, name: str = "key") -> R | None:
        """Return the record if it has this key and the file matches it, else None."""
        record = self.record()
        fits = record is not None and getattr(record, name) == key and is_unchanged(self.path, record.file)
        return record if fits else None

    def describe(self, record: R, *, of: Path | None = None) -> R:
        """Write the record, with the facts of the file (or of what will be renamed to it, `of`); return it."""
        complete = replace(record, file=file_facts(of or self.path))
        write_json(self.record_path, complete.plain)
        return complete

    def whole(self) -> R | None:
        """Return the record if the file exists and matches it, else None."""
        record = self.record()
        return record if record is not None and is_unchanged(self.path, record.file) else None

    def blank(self) -> None:
        """Empty the record's keys, so that the file is not fresh for any key; the file stays."""
        if record := self.record():
            keys = ("key", "picture_key") if isinstance(record, Talkie) else ("key",)
            write_json(self.record_path, replace(record, **dict.fromkeys(keys)).plain)

    def keep_foreign(self, seen: tuple[int, int] | None = None) -> None:
        """Move aside a file or record that would be replaced but is not as talkies made it.

        seen: the file's size and time (ns) when a worker last made it: killed between a new record and its film, it
        leaves a film that does not match its record.
        """
        if os.path.lexists(self.path):
            status = self.path.lstat()
            ours = self.whole() is not None or (status.st_size, status.st_mtime_ns) == seen
            if self.path.is_symlink() or not ours:
                keep_aside(self.path)
        if os.path.lexists(self.record_path) and not self.record() and self.record_path.lstat().st_size:
            keep_aside(self.record_path)

    def remove(self) -> None:
        """Remove the file and its record, if they exist."""
        self.path.unlink(missing_ok=True)
        self.record_path.unlink(missing_ok=True)
