"""The journal of a shard's worker."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import parse_json


class Journal:
    """One line of JSON for each item that a shard's worker finishes, appended at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, event: str, **facts: Any) -> None:
        """Append an event with its time (seconds since 1970)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, sort_keys=True)
        with self.path.open("ab+") as file:
            # A line that a killed worker left unfinished must not swallow this one.
            unfinished = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
            file.write(("\n" * bool(unfinished) + line + "\n").encode())

    @staticmethod
    def read(folder: Path) -> Iterator[dict[str, Any]]:
        """Yield all events of a run's journals; unfinished lines of killed workers are skipped."""
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    event = parse_json(line)
                    if isinstance(event, dict):
                        yield event
