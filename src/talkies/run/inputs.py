"""What is known of the files of a run, kept in .talkies/inputs.json by path, size and time: content, facts, faces.

A file whose size or time changed is read again, and an entry that is damaged counts as missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from .. import media
from ..errors import InputError, TalkiesError
from ..files import file_digest, from_json, to_json, write_whole
from ..machine.resources import available_threads
from ..media import crop
from ..settings import Settings
from .folder import INPUTS

AT_ONCE = 8
"""Files read at once: most of the time is spent waiting for the disk."""
Stamp = tuple[int, int]
"""A file's size and time (ns), which show that it was replaced, even by an older file."""


def stamp_of(path: Path) -> Stamp:
    """Return a file's size and time; zeros for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def unreadable(stamp: Stamp) -> str:
    """Return what stands for the content of a file that can't be read."""
    return f"unreadable {stamp[0]} {stamp[1]}"


def is_unreadable(content: str | None) -> bool:
    """Return whether a file is to be read, again if it could not be: rights are mended without another size or time."""
    return content is None or content.startswith("unreadable")


class Known(Struct):
    """What is known of a file with this size and time: its digest, its facts as a clip, its number of faces."""

    stamp: Stamp
    sha256: str | None = None
    clip: dict[str, Any] | None = None
    faces: int | None = None


class Inputs:
    """The files of a run. save: write what was learnt; entries of other files are left out, unless `keep`."""

    def __init__(self) -> None:
        self._known = _read(stamp_of(INPUTS))
        self._now: dict[str, Known] = {}

    def entry(self, file: str) -> Known:
        """Return what is known of a file as it is now, to be added to."""
        if file not in self._now:
            stamp, known = stamp_of(Path(file)), self._known.get(file)
            self._now[file] = replace(known) if known and known.stamp == stamp else Known(stamp)
        return self._now[file]

    def content(self, file: str) -> str | None:
        """Return the digest of a file's content, if it is known."""
        return self.entry(file).sha256

    def read(self, files: Iterable[str]) -> None:
        """Read these files' contents, where they are not known."""

        def digest(file: str) -> None:
            entry = self.entry(file)
            try:
                entry.sha256 = file_digest(file)
            except (OSError, InputError):
                entry.sha256 = unreadable(entry.stamp)

        _at_once(digest, sorted(file for file in set(files) if is_unreadable(self.content(file))))

    def clips(self, files: Iterable[str]) -> dict[str, media.Clip | None]:
        """Return the facts about driving videos, probed where they are not known; None for one that can't be used."""
        media.ffmpeg_path()  # a missing ffmpeg is not the clip's fault

        def find(file: str) -> media.Clip | None:
            entry = self.entry(file)
            clip = _clip(file, entry)
            if clip is None:
                with suppress(TalkiesError, OSError):
                    clip = media.probe(Path(file))
                    entry.clip = clip.to_dict()
            return clip

        names = sorted(set(files))
        return dict(zip(names, _at_once(find, names), strict=True))

    def faces(self, file: str) -> int:
        """Return the number of faces in a picture; 0 where it can't be read, which the stage that crops it says."""
        entry = self.entry(file)
        if entry.faces is None:
            with suppress(TalkiesError, OSError, MemoryError):
                entry.faces = len(crop.find_faces(media.read_picture(Path(file))))
        return entry.faces or 0

    def save(self, *, keep: bool = False) -> None:
        """Write what is known, if that is new. keep: with the entries of files that were not asked for."""
        now = {**self._known, **self._now} if keep else self._now
        if now != self._known:
            write_whole(INPUTS, to_json(now))
            self._known = now


def clip_of(path: Path) -> media.Clip:
    """Return the facts about a clip; probe it if they are not known. Raises InputError if it can't be used."""
    entry = _read(stamp_of(INPUTS)).get(str(path))
    known = _clip(str(path), entry) if entry and entry.stamp == stamp_of(path) else None
    return known or media.probe(path)


@lru_cache(maxsize=1)
def _read(stamp: Stamp) -> dict[str, Known]:
    """Return the entries of the file; none if it is damaged. stamp: its size and time, so that it is read once."""
    with suppress(OSError, ValueError):
        return from_json(INPUTS.read_bytes(), dict[str, Known])
    return {}


def _clip(file: str, entry: Known) -> media.Clip | None:
    with suppress(ValueError, ZeroDivisionError):
        return media.Clip.from_dict(Path(file), entry.clip) if entry.clip else None
    return None


def _at_once(work: Callable[[str], Any], files: list[str]) -> list[Any]:
    if len(files) < 2:
        return [work(file) for file in files]
    with ThreadPoolExecutor(min(AT_ONCE, available_threads()), thread_name_prefix="inputs") as pool:
        return list(pool.map(work, files))


def folders_outside(settings: Settings, sounds: Iterable[str] = ()) -> list[Path]:
    """Return the folders outside the run folder (the working folder) that its jobs read or write.

    These are the folders that config.yaml names (images, driving, pairs, results, checkpoint), those of sound
    files, and the targets of links in them, both as named and with links resolved. No folder is inside another of the
    list. For scratch folders, which differ by node, see `container.bind`.
    """
    here = Path.cwd()
    others = [program.checkpoint for program in settings.programs.values()]
    paths = [Path(value) for value in (settings.pairs, settings.model.checkpoint, *others, *sounds) if value]
    for folder, lister in (
        (Path(settings.images), media.list_pictures),
        (Path(settings.driving), media.list_clips),
    ):
        listed = lister(folder) if folder.is_dir() else ()
        # The stages that read them report broken links.
        paths += [path for path in listed if path.is_symlink() and os.path.exists(path)]  # noqa: PTH110 - never raises
    folders = (settings.images, settings.driving, settings.results)
    named = {place for folder in folders for place in _led_to(Path(folder))}
    named |= {place.parent for path in paths for place in _led_to(path)}
    found = {path for path in named if not path.is_relative_to(here)}
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


def _led_to(path: Path) -> Iterator[Path]:
    """Yield an absolute path, each target of its chain of links, and its real path."""
    path = Path(os.path.normpath(Path.cwd() / path))
    passed = {path}
    yield path
    while path.is_symlink():
        path = Path(os.path.normpath(path.parent / path.readlink()))
        if path in passed:
            return
        passed.add(path)
        yield path
    yield Path(os.path.realpath(path))
