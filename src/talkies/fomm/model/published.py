"""Finds published weights on this machine, where `talkies checkpoint fetch` puts them.

weights.lock beside them has each file's digest, size and time after its download; a file that has changed is refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ...errors import TalkiesError, printable
from ...files import file_digest, own_cache, read_json, write_json
from .presets import PRESETS

VARIABLE = "TALKIES_WEIGHTS"
CARRIED = Path("weights")
"""The folder, in the working folder, that is searched first; `talkies stage push` fills it."""
INSIDE = Path(sys.prefix, "weights")
"""The folder of weights inside an image (scripts/build_container.py --checkpoint PRESET)."""
LOCK = "weights.lock"


def weights_folder() -> Path | None:
    """Return the folder for fetched weights: $TALKIES_WEIGHTS, else one in the user's cache folder.

    None if there is neither.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    cache = own_cache()
    return cache / "weights" if cache else None


def find_weights(preset: str) -> Path:
    """Return the file of a preset's published weights; TalkiesError names the command that fetches them.

    The order is: `weights` in the working folder, the folder of `weights_folder`, an image's own; and in each,
    safetensors before the published file.
    """
    name = PRESETS[preset].checkpoint
    if name is None:
        raise ValueError(f"the weights of {preset} are in the package")
    places = filter(None, [CARRIED, weights_folder(), INSIDE])
    for path in (place / each for place in places for each in (as_safetensors(name), name)):
        if path.is_file():
            check_unchanged(path)
            return path
    raise TalkiesError(
        f"preset {preset} needs its weights, and they are not here: `talkies checkpoint fetch {preset}` gets them, or "
        f"give the path of {name} (--checkpoint, or model: checkpoint: in config.yaml)"
    )


def as_safetensors(name: str) -> str:
    """Return a published file's name as safetensors."""
    return f"{name.removesuffix('.pth.tar')}.safetensors"


def noted(path: Path) -> dict[str, Any] | None:
    """Return a file's entry in the weights.lock beside it (see `note`); None if there is none."""
    entry = (read_json(path.with_name(LOCK)) or {}).get(path.name)
    return entry if isinstance(entry, dict) and isinstance(entry.get("sha256"), str) else None


def note(path: Path, file: Path, *, sha256: str, source: str) -> None:
    """Write an entry for a path into the weights.lock beside it. file: its current place."""
    lock, status = path.with_name(LOCK), file.stat()
    entry = {"sha256": sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "source": source}
    write_json(lock, (read_json(lock) or {}) | {path.name: entry})


def check_unchanged(path: Path) -> None:
    """Refuse a weights file that does not match the weights.lock beside it. Raises TalkiesError. Its digest is
    computed only if its size or time differ.
    """
    entry = noted(path)
    if entry is None:
        return
    status = path.stat()
    if [status.st_size, status.st_mtime_ns] == [entry.get("size"), entry.get("mtime_ns")]:
        return
    if status.st_size != entry.get("size") or file_digest(path) != entry["sha256"]:
        raise TalkiesError(
            f"{printable(path)}: has changed since it was fetched (the {LOCK} beside it has its sha256): move it away "
            "and fetch it again, or take its entry out of that file"
        )
