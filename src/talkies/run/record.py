"""What a run keeps in files: content keys, the record beside each film, receipts.

A record (JSON) beside a file says what it was made from (its content key) and what it is (size, mtime, sha256). A
receipt says which items of a shard are done or failed, and has nothing that changes from run to run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Raw, Struct

from ..errors import TalkiesError
from ..files import canonical_json, file_digest, from_json, keep_aside, read_json, to_json, write_json, write_whole

T = TypeVar("T")
RECIPE = 1
"""Part of every content key. Raise it by hand when the same inputs give other pixels or samples on purpose."""


def content_key(**parts: Any) -> str:  # any JSON value
    """Return the sha256 (hex) of everything that decides a result, and of the recipe's version."""
    return hashlib.sha256(canonical_json({"recipe": RECIPE, **parts})).hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """Return a file's facts for its record: size in bytes, mtime in nanoseconds, sha256."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": file_digest(path)}


def is_unchanged(path: Path, facts: Mapping[str, Any] | None) -> bool:
    """Return whether a file is the one in its record: by size and time, or by digest if the time differs."""
    if not isinstance(facts, dict):
        return False
    try:
        status = path.stat()
        if status.st_size != facts.get("size"):
            return False
        return status.st_mtime_ns == facts.get("mtime_ns") or file_digest(path) == facts.get("sha256")
    except OSError:
        return False


FACTS = {"size": int, "mtime_ns": int, "sha256": str}
"""The shape of a file's facts in a record."""
KEYS = ("key", "picture_key")


@dataclass(frozen=True)
class Recorded:
    """A file and the record (JSON) beside it, which is authoritative.

    shape: the shape of a record of this kind (`fits`); a record that does not fit counts as missing.
    """

    path: Path
    shape: Any = field(default=dict, compare=False)

    @property
    def record_path(self) -> Path:
        """The JSON beside the file: the same name with the suffix .json."""
        return self.path.with_name(self.path.name.removesuffix(self.path.suffix) + ".json")

    def record(self) -> dict[str, Any]:
        """Return the record; empty if there is none."""
        return read_json(self.record_path, self.shape) or {}

    def fresh(self, key: str, *, name: str = "key") -> dict[str, Any] | None:
        """Return the record if it has this content key and the file matches it, else None."""
        record = self.record()
        if record.get(name) != key or not is_unchanged(self.path, record.get("file")):
            return None
        return record

    def describe(self, record: Mapping[str, Any], *, of: Path | None = None) -> dict[str, Any]:
        """Write the record, with the facts of the file (or of what will be renamed to it, `of`); return it."""
        complete = {**record, "file": file_facts(of or self.path)}
        write_json(self.record_path, complete)
        return complete

    def is_whole(self) -> bool:
        """Return whether the file exists and matches its record."""
        return is_unchanged(self.path, self.record().get("file"))

    def blank(self) -> None:
        """Empty the record's key, so that the file is not fresh for any key; the file stays."""
        if record := self.record():
            write_json(self.record_path, {**record, **{name: None for name in KEYS if name in record}})

    def keep_foreign(self, seen: tuple[int, int] | None = None) -> None:
        """Move aside a file or record that would be replaced but is not ours.

        A file is ours if it matches its record, or has the size and time of `seen`, (bytes, nanoseconds), as a worker
        last saw it.
        """
        if os.path.lexists(self.path):
            status = self.path.lstat()
            ours = self.is_whole() or (status.st_size, status.st_mtime_ns) == seen
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
