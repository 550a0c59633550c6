"""What a run keeps in files: content keys, the record beside each film, receipts.

A record (JSON) beside a file says what it was made from (its content key) and what it is (size, mtime, sha256). A
receipt says which items of a shard are done or failed, and has nothing that changes from run to run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from msgspec import Raw, Struct
from msgspec.structs import replace

from ..errors import TalkiesError
from ..files import (
    canonical_json,
    file_digest,
    from_json,
    keep_aside,
    read_json,
    to_json,
    to_plain,
    typed,
    write_json,
    write_whole,
)
from ..media.crop import Crop
from ..media.sound import SoundFacts

T = TypeVar("T")
RECIPE = 1
"""Part of every content key. Raise it by hand when the same inputs give other pixels or samples on purpose."""


def content_key(**parts: Any) -> str:  # any JSON value
    """Return the sha256 (hex) of everything that decides a result, and of the recipe's version."""
    return hashlib.sha256(canonical_json({"recipe": RECIPE, **parts})).hexdigest()


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

    key: the content key; None: made again whatever the settings ask. file: the file's own facts. facts: what talkies
    itself does not read, for people and other programs; in JSON they stand beside the others.
    """

    key: str | None
    file: FileFacts = UNWRITTEN
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
    """Of a cropped picture. original: the input file. seconds: what preparing it took."""

    original: Original
    crop: Crop
    seconds: float = 0.0


class PreparedTake(Prepared, frozen=True, kw_only=True):
    """Of a cropped take. rate: frames a second, a fraction as text. sound: whether it has any."""

    rate: str
    frames: int
    sound: bool
    variable_rate: bool
    truncated: bool


class FoundMotion(Record, frozen=True, kw_only=True):
    """Of a take's keypoints. weights: the digest of the network's. rate: frames a second, a fraction as text."""

    weights: str
    frames: int
    rate: str
    seconds: float = 0.0


class FilmPicture(Struct, frozen=True, omit_defaults=True):
    """The pictures of a film. rate: frames a second, a fraction as text. size: the side of a square, or width and
    height in pixels. crf, preset, encoder: how they were encoded (`FrameWriter`)."""

    frames: int
    rate: str
    size: int | tuple[int, int]
    crf: int | None = None
    preset: str | None = None
    encoder: str | None = None


class Film(Record, frozen=True, kw_only=True):
    """Of a silent film. seconds: what animating it took."""

    picture: FilmPicture
    seconds: float = 0.0


class Talkie(Film, frozen=True, kw_only=True):
    """Of a film in the results. picture_key: the content key of the silent film that it shows; pair: its name;
    remux_seconds: what adding the sound took; digital_source_type: as in its tag."""

    picture_key: str | None
    sound: SoundFacts
    pair: str = ""
    remux_seconds: float = 0.0
    digital_source_type: str = ""


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
        """Return the record if it has this content key and the file matches it, else None."""
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
        """Move aside a file or record that would be replaced but is not ours.

        A file is ours if it matches its record, or has the size and time of `seen`, (bytes, nanoseconds), as a worker
        last saw it.
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


class Answer(Struct, frozen=True, omit_defaults=True):
    """What a receipt tells of an item that is done, of each stage its own.

    sha256: of a prepared file. weights: the digest of those by which a motion was found. picture_key: the content key
    of what a silent film shows. file: a talkie's size and time (ns). shows: the spec of what it shows.
    """

    sha256: str | None = None
    weights: str | None = None
    picture_key: str | None = None
    file: tuple[int, int] | None = None
    shows: str | None = None


class _Told(Struct):
    done: dict[str, Raw]
    failed: dict[str, str]
    asked: dict[str, str] = {}


class Receipt(Struct):
    """The results of a shard's items: facts for each good item, a reason for each failed one.

    asked: the spec under which each item was done or failed.
    """

    done: dict[str, Answer] = {}
    failed: dict[str, str] = {}
    asked: dict[str, str] = {}

    def save(self, path: Path) -> None:
        """Write the receipt, items by name: equal receipts are equal bytes."""
        write_whole(path, to_json(Receipt(_by_name(self.done), _by_name(self.failed), _by_name(self.asked))))

    @classmethod
    def read(cls, path: Path) -> Receipt | None:
        """Read a receipt; None if it is missing or damaged, which is treated alike.

        An item whose entry has another shape is left out.
        """
        try:
            told = from_json(path.read_bytes(), _Told)
        except (OSError, ValueError):
            return None
        receipt = cls({}, told.failed, told.asked)
        for item, facts in told.done.items():
            try:
                receipt.done[item] = from_json(facts, Answer)
            except ValueError:
                receipt.drop(item)
        return receipt

    @classmethod
    def load(cls, path: Path) -> Receipt:
        """Read a receipt; TalkiesError if it is missing or damaged."""
        found = cls.read(path)
        if found is None:
            raise TalkiesError(f"{path}: this receipt is missing or damaged: run snakemake again")
        return found

    def answers(self, item: str, spec: str) -> bool:
        """Return whether an item is done or failed under this spec."""
        return self.asked.get(item) == spec and (item in self.done or item in self.failed)

    def shown(self, item: str) -> str:
        """Return the content key of what the silent film of an item that is done shows."""
        key = self.done[item].picture_key
        assert key is not None, "receipts are read with what their stage tells"
        return key

    def drop(self, item: str) -> None:
        """Forget an item."""
        for part in (self.done, self.failed, self.asked):
            part.pop(item, None)

    def doubt(self, item: str) -> bool:
        """Remove an item's spec; return whether it had one. Its file's facts stay."""
        was = bool(self.asked.get(item))
        if was:
            self.asked[item] = ""
        return was


def _by_name(part: dict[str, T]) -> dict[str, T]:
    return dict(sorted(part.items()))
