"""What a run remembers in files: content keys, the record beside each film, receipts.

A record (JSON) beside a file tells what it was made from (its content key) and what it is (size, mtime,
sha256). A receipt tells what became of a shard's items and holds nothing that changes from run to run.
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


def content_key(**parts: Any) -> str:  # whatever JSON holds
    """Return the sha256 (hex) of everything that decides a result, and of the recipe's version."""
    return hashlib.sha256(canonical_json({"recipe": RECIPE, **parts})).hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """Return what a record says of a file: size in bytes, mtime in nanoseconds, sha256."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": file_digest(path)}


def is_unchanged(path: Path, facts: Mapping[str, Any] | None) -> bool:
    """Tell whether a file is the one its record describes: by size and time first, by digest where time differs."""
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
"""The shape of what a record says of a file."""
KEYS = ("key", "picture_key")


@dataclass(frozen=True)
class Recorded:
    """A file and the record (JSON) beside it, which is the truth about it.

    shape: what a record of this kind must hold (`fits`); one that does not is none.
    """

    path: Path
    shape: Any = field(default=dict, compare=False)

    @property
    def record_path(self) -> Path:
        """The JSON beside the file: its name with .json for its suffix."""
        return self.path.with_name(self.path.name.removesuffix(self.path.suffix) + ".json")

    def record(self) -> dict[str, Any]:
        """Return the record, empty where there is none."""
        return read_json(self.record_path, self.shape) or {}

    def fresh(self, key: str, *, name: str = "key") -> dict[str, Any] | None:
        """Return the record if it holds this content key and the file is the one it describes, else None."""
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
        """Tell whether the file is there and is the one that its record describes."""
        return is_unchanged(self.path, self.record().get("file"))

    def blank(self) -> None:
        """Have the record claim nothing, so that the file counts as fresh for no key; it stays as it is."""
        if record := self.record():
            write_json(self.record_path, {**record, **{name: None for name in KEYS if name in record}})

    def keep_foreign(self, seen: tuple[int, int] | None = None) -> None:
        """Move out of the way what would be replaced and is not ours: the file or the record.

        A file is ours when it is the one that its record describes, or has the size and time of `seen`, (bytes,
        nanoseconds), as a worker last saw it.
        """
        if os.path.lexists(self.path):
            status = self.path.lstat()
            ours = self.is_whole() or (status.st_size, status.st_mtime_ns) == seen
            if self.path.is_symlink() or not ours:
                keep_aside(self.path)
        if os.path.lexists(self.record_path) and not self.record() and self.record_path.lstat().st_size:
            keep_aside(self.record_path)

    def remove(self) -> None:
        """Remove the file and its record, where they are."""
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
    """What became of a shard's items: facts by item for the good ones, a reason for each that failed.

    asked: the spec of each item, good or failed: what was asked of it when it was answered.
    """

    done: dict[str, Answer] = {}
    failed: dict[str, str] = {}
    asked: dict[str, str] = {}

    def save(self, path: Path) -> None:
        """Write the receipt, items by name: equal receipts are equal bytes."""
        write_whole(path, to_json(Receipt(_by_name(self.done), _by_name(self.failed), _by_name(self.asked))))

    @classmethod
    def read(cls, path: Path) -> Receipt | None:
        """Read a receipt; None where it is missing or damaged, which is the same.

        What is told of an item and is no answer is left out, with all that is told of the item.
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
        """Read a receipt; TalkiesError when it is missing or damaged."""
        found = cls.read(path)
        if found is None:
            raise TalkiesError(f"{path}: this receipt is missing or damaged: run snakemake again")
        return found

    def answers(self, item: str, spec: str) -> bool:
        """Tell whether an item is answered, for good or ill, as it is asked for now."""
        return self.asked.get(item) == spec and (item in self.done or item in self.failed)

    def shown(self, item: str) -> str:
        """Return the content key of what the silent film of an item that is done shows."""
        key = self.done[item].picture_key
        assert key is not None, "receipts are read with what their stage tells"
        return key

    def drop(self, item: str) -> None:
        """Forget what is told of an item."""
        for part in (self.done, self.failed, self.asked):
            part.pop(item, None)

    def doubt(self, item: str) -> bool:
        """Let an item be answered for no spec; tell whether it was for any. What was seen of its file stays known."""
        was = bool(self.asked.get(item))
        if was:
            self.asked[item] = ""
        return was


def _by_name(part: dict[str, T]) -> dict[str, T]:
    return dict(sorted(part.items()))
