"""Folders outside the run folder that its jobs read or write, and that must be bound into an image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .. import media
from ..settings import Settings


def folders_outside(settings: Settings) -> list[Path]:
    """Return the folders outside the run folder (the working folder) that its jobs read or write.

    These are the folders that config.yaml names (images, driving, pairs, results, checkpoint) and the targets of
    links in them, both as named and with links resolved. No folder is inside another of the list. For scratch
    folders, which differ by node, see `container.bind`.
    """
    here = Path.cwd()
    others = [program.checkpoint for program in settings.programs.values()]
    paths = [Path(value) for value in (settings.pairs, settings.model.checkpoint, *others) if value]
    for folder, lister in (
        (Path(settings.images), media.list_pictures),
        (Path(settings.driving), media.list_clips),
    ):
        listed = lister(folder) if folder.is_dir() else ()
        # The stage prepare reports broken links.
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
