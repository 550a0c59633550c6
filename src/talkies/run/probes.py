"""Facts about each driving video, probed once for a whole run and kept in .talkies/probes.json.

An entry holds a file's path, size and time. If it is damaged or does not match the file, the file is probed again.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import media
from ..errors import InputError, TalkiesError
from ..files import read_json, write_json
from ..machine.cores import available_threads
from .folder import PROBES
from .pairs import stamp_of

AT_ONCE = 8
"""Clips probed at once: most of the time is spent waiting for the disk."""


def clip_of(path: Path, copy: Path | None = None) -> media.Clip:
    """Return the facts about a clip; probe it if they are not known. copy: a copy on a faster disk, read instead.

    Messages name the file itself. Raises InputError if it can't be used.
    """
    known = _known(path, _entries(tuple(stamp_of(PROBES))), stamp_of(path))
    if known is not None:
        return replace(known, copy=copy)
    try:
        return replace(media.probe(copy or path), path=path, copy=copy)
    except InputError as error:
        raise InputError(path, error.reason) from None


def probe_all(files: Iterable[str], *, keep: bool) -> dict[str, media.Clip | None]:
    """Return the facts about these files, and keep them; None for a file that can't be read.

    keep: also keep the entries of other files.
    """
    media.ffmpeg_path()  # a missing ffmpeg is not the clip's fault
    noted = read_json(PROBES) or {}
    stamps = {file: stamp_of(Path(file)) for file in sorted(files)}

    def found_in(file: str) -> media.Clip | None:
        known = _known(Path(file), noted, stamps[file])
        with suppress(TalkiesError, OSError):
            return known or media.probe(Path(file))
        return None

    with ThreadPoolExecutor(min(AT_ONCE, available_threads()), thread_name_prefix="probe") as pool:
        clips = dict(zip(stamps, pool.map(found_in, stamps), strict=True))
    entries = {
        file: {"stamp": stamps[file], "clip": clip.to_dict()} for file, clip in clips.items() if clip is not None
    }
    if any(noted.get(file) != entry for file, entry in entries.items()):
        write_json(PROBES, {**noted, **entries} if keep else entries)
    return clips


@lru_cache(maxsize=1)
def _entries(stamp: tuple[int, ...]) -> dict[str, Any]:
    """Return the entries of the file. stamp: its size and time, so that it is read once."""
    return read_json(PROBES) or {} if stamp else {}


def _known(path: Path, noted: dict[str, Any], stamp: list[int]) -> media.Clip | None:
    entry: Any = noted.get(str(path))
    if not stamp or not isinstance(entry, dict) or entry.get("stamp") != stamp:
        return None
    with suppress(KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        clip = media.Clip.from_dict(path, entry["clip"])
        if clip.rate > 0 and clip.frames >= 0:
            return clip
    return None
