"""Folders beyond the run folder that its jobs read or write: what an image must be shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .. import media
from .keys import Settings


def folders_outside(settings: Settings) -> list[Path]:
    """Return the folders beyond the run folder (the working folder) that its jobs read or write.

    Those that config.yaml names (images, driving, pairs, results, checkpoint) and those that links in them lead to,
    as they are named and, where links are passed on the way, as they are. None lies in another. Scratch folders
    are each node's own: see `container.bind`.
    """
    here = Path.cwd()
    others = [program.checkpoint for program in settings.programs.values()]
    paths = [Path(value) for value in (settings.pairs, settings.model.checkpoint, *others) if value]
    for folder, lister in (
        (Path(settings.images), media.list_pictures),
        (Path(settings.driving), media.list_clips),
    ):
        listed = lister(folder) if folder.is_dir() else ()
        # Of a link that leads nowhere its preparation says so.
        paths += [path for path in listed if path.is_symlink() and os.path.exists(path)]  # noqa: PTH110 - never raises
    folders = (settings.images, settings.driving, settings.results)
    named = {place for folder in folders for place in _led_to(Path(folder))}
    named |= {place.parent for path in paths for place in _led_to(path)}
    found = {path for path in named if not path.is_relative_to(here)}
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


def _led_to(path: Path) -> Iterator[Path]:
    """Yield a path, absolute, where it leads as a link, link by link, and what it is in the end."""
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
