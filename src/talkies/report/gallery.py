"""Writes the gallery: results/index.html, a static page that works from a folder without a network; and mosaics.

Its look and behaviour are in look.* and gallery.* beside this file; its contents are collected here. It does not
depend on when or where it was made, so a run that changes nothing leaves the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..engines import FOMM
from ..errors import TalkiesError, printable
from ..files import PART, beside, file_digest, keep_aside, publish
from ..run.folder import CHECK_PAGE, GALLERY_PAGE, PRIVATE_PAGE
from .entries import Entry, Times
from .overviews import draw_poster, moment_of, write_mosaic
from .page import fill, is_ours, pages, write_page

log = logging.getLogger("talkies")

OURS = "the First Order Motion Model"


def build_galleries(results: Path, entries: Sequence[Entry], *, title: str, **more: Any) -> list[Path]:
    """Write results/index.html without private pairs and, if there are any, results/private.html with all.

    more: see `build_gallery`. Returns the pages' paths. A private page of ours that is no longer needed is removed.
    Raises OSError.
    """
    public = [entry for entry in entries if not entry.private]
    made = [build_gallery(results, public, title=title, **more)]
    if len(public) < len(entries):
        title = f"{title} (all, for yourself)"
        made.append(build_gallery(results, entries, title=title, name=PRIVATE_PAGE, **more))
    else:
        if is_ours(private := results / PRIVATE_PAGE):
            private.unlink()
        _Files(private).drop_unused()
    return made


def build_gallery(
    results: Path,
    entries: Sequence[Entry],
    *,
    title: str,
    name: str = GALLERY_PAGE,
    check: str | None = None,
    better: str | None = None,
    mosaic: int | None = None,
    times: Times | None = None,
) -> Path:
    """Write a page and its files, and return the page's path.

    check: the check's line. better: how films get better (`Settings.better`). times: the times of its work. mosaic: the
    number of talkies of each driving video in its mosaic, None for no mosaic. Only changed files are written, each
    whole or not at all. Files of ours that no entry shows any more are removed; files that are not ours stay, or are
    kept aside if they are in the way. The entries' order does not matter. Raises OSError.
    """
    results.mkdir(parents=True, exist_ok=True)
    files = _Files(results / name)
    page = fill(
        "gallery.html",
        style=["gallery.css"],
        script="gallery.js",
        title=printable(title),
        pages=pages(name, gallery=name, check=check is not None),
        check=check,
        check_page=CHECK_PAGE,
        better=better,
        data=_page_data(results, sorted(entries, key=_order), files, mosaic),
        times=times,
        engines=_engine_words(entries),
    )
    write_page(results / name, page)
    files.drop_unused()
    return results / name


def publish_films(
    results: Path, entries: Sequence[Entry], folder: Path, *, title: str, mosaic: int | None = None, links: bool = False
) -> Path:
    """Make a new folder of what others may see: the films that are not private, their JSON and a gallery of them.

    links: of the films, links, for `snakemake --report`, which does not follow linked folders; else copies that share
    their space on the disk where they can. Returns the page's path. Raises TalkiesError if the folder is not empty, or
    OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise TalkiesError(f"{printable(folder)}: this folder is not empty: remove it first, or name a new one")
    ways: dict[Path, Path] = {}  # a relative path between the real folders, whatever links are on the way

    def placed(path: Path | None, *, link: bool = False) -> Path | None:
        if path is None:
            return None
        copy = folder / path.relative_to(results)
        if copy.parent not in ways:
            copy.parent.mkdir(parents=True, exist_ok=True)
            ways[copy.parent] = Path(os.path.relpath(path.parent.resolve(), copy.parent.resolve()))
        if link:
            copy.symlink_to(ways[copy.parent] / path.name)
            return copy
        try:
            copy.hardlink_to(path.resolve())
        except OSError:  # another disk, or one without such links
            shutil.copy2(path, copy)
        return copy

    for path in _Files(results / GALLERY_PAGE).ours:  # the new page removes those that it does not show
        placed(path)
    shown = [
        replace(entry, film=placed(entry.film, link=links), record=placed(entry.record, link=links))
        for entry in entries
        if not entry.private
    ]
    return build_gallery(folder, shown, title=title, mosaic=mosaic)


def _engine_words(entries: Sequence[Entry]) -> list[str]:
    """Return the engines that made the films, and which networks of the built-in one."""
    made = [entry for entry in entries if entry.film]
    networks = sorted({entry.model for entry in made if entry.engine == FOMM and entry.model})
    ours = f"{OURS} ({', '.join(networks)})" if networks else OURS
    return sorted({ours if entry.engine == FOMM else printable(entry.engine) for entry in made})


def _order(entry: Entry) -> tuple[str, ...]:
    return (entry.driving.casefold(), entry.driving, entry.image.casefold(), entry.image, entry.variant or "")


def _page_data(results: Path, entries: Sequence[Entry], files: _Files, mosaic: int | None) -> dict[str, Any]:
    """Return the data of the page's script: clips and pictures once, and the pairs as rows that refer to them.

    A clip: name, part, has sound, warnings, addresses of preview, poster and mosaic, the poster's time in seconds, how
    far it moves. A picture: name, crop, warnings, address. A pair: clip, picture, variant, choices, has sound,
    addresses of film and record, the reason if it has none.
    """
    clips: dict[Any, int] = {}
    pictures: dict[Any, int] = {}
    told: dict[str, list[Any]] = {"clips": [], "pictures": [], "pairs": []}
    films: dict[Path | None, list[Entry]] = {}
    for entry in entries:
        films.setdefault(entry.preview, []).extend([entry] if entry.film else [])
    for entry in entries:
        clip = (entry.driving, entry.part, entry.preview)
        if clip not in clips:
            clips[clip] = len(clips)
            preview = files.copy(entry.preview)
            poster = preview and files.poster(preview)
            shown = files.mosaic(films[entry.preview][:mosaic]) if mosaic and preview else None
            told["clips"].append(
                [
                    *(printable(entry.driving), printable(entry.part), entry.preview_sound),
                    list(map(printable, entry.doubts[1])),
                    *(_address(results, path) for path in (preview, poster, shown)),
                    moment_of(poster) if poster else None,
                    entry.moved,
                ]
            )
        picture = (entry.image, entry.crop, entry.source)
        if picture not in pictures:
            pictures[picture] = len(pictures)
            named = printable(entry.image), printable(entry.crop), list(map(printable, entry.doubts[0]))
            told["pictures"].append([*named, _address(results, files.copy(entry.source))])
        told["pairs"].append(
            [
                *(clips[clip], pictures[picture]),
                *(printable(entry.variant or ""), printable(entry.choices), int(entry.sound)),
                *(_address(results, entry.film), _address(results, entry.record)),
                printable(" ".join(entry.reason.split())) if entry.reason else None,
            ]
        )
    return told


def _address(results: Path, path: Path | None) -> str | None:
    """Return a file's relative, percent-encoded address from the page, for any bytes in its name."""
    if path is None:
        return None
    inside = f"{results}{os.sep}"  # the common case, made fast: a run may have 100,000 films
    text = str(path)
    return quote(os.fsencode(text.removeprefix(inside) if text.startswith(inside) else os.path.relpath(path, results)))


NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})(\.\w+)")
"""A page's file: from what it was made and what it holds, as the beginnings of two digests. So a file that we wrote is
recognised by itself."""


class _Files:
    """The files of a page, in the folder NAME_files/shown beside it. ours: those that we wrote, unchanged.

    Nothing else is removed or replaced, and no link is followed.
    """

    def __init__(self, page: Path) -> None:
        self._folders = [outer := page.with_name(f"{page.stem}_files"), outer / "shown"]
        self._folder = self._folders[-1]
        there = all(folder.is_dir() and not folder.is_symlink() for folder in self._folders)
        self._there = sorted(self._folder.iterdir()) if there else []
        self.ours = [path for path in self._there if _is_unchanged(path)]
        self._of = {path.name[:16] + path.suffix: path for path in self.ours}
        self._used: set[Path] = set()

    def copy(self, path: Path | None) -> Path | None:
        """Return a copy of a file; None if it is missing."""
        if path is None or not path.is_file():
            return None
        return self._file(file_digest(path), path.suffix, lambda part: shutil.copyfile(path, part))

    def poster(self, preview: Path) -> Path | None:
        """Return a frame (JPEG) of a clip among our files, from a moment with motion; None if it can't be read.

        So a page of many clips shows them all without opening a film.
        """
        try:
            return self._file(preview.name, ".jpg", lambda part: draw_poster(preview, part))
        except TalkiesError as error:
            log.warning("%s", error)
            return None

    def mosaic(self, shown: Sequence[Entry]) -> Path | None:
        """Return a film of several talkies side by side; None for less than two, and if it can't be made."""
        films = [entry.film for entry in shown if entry.film]
        if len(films) < 2:
            return None
        digests = [entry.digest or file_digest(entry.film) for entry in shown if entry.film]
        key = hashlib.sha256(" ".join(digests).encode()).hexdigest()
        try:
            return self._file(key, ".mp4", lambda part: write_mosaic(films, part))
        except TalkiesError as error:
            log.warning("no mosaic of %s: %s", printable(shown[0].driving), error)
            return None

    def drop_unused(self) -> None:
        """Remove our files that were not asked for, leftovers of killed processes, and folders that this empties."""
        left = [path for path in self._there if PART.fullmatch(path.name) and path.is_file()]
        for path in [*left, *(path for path in self.ours if path not in self._used)]:
            path.unlink()
        for folder in reversed(self._folders):
            if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()

    def _file(self, key: str, suffix: str, make: Callable[[Path], object]) -> Path:
        """Return the file with this key (hexadecimal), which `make` writes if it is not there."""
        name = key[:16] + suffix
        if name not in self._of:
            for folder in self._folders:
                if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                    keep_aside(folder)
                folder.mkdir(exist_ok=True)
            part = beside(self._folder / name)
            try:
                make(part)
                path = self._folder / f"{key[:16]}-{file_digest(part)[:16]}{suffix}"
                if os.path.lexists(path):
                    keep_aside(path)
                publish(part, path)
            finally:
                part.unlink(missing_ok=True)
            self._of[name] = path
        self._used.add(self._of[name])
        return self._of[name]


def _is_unchanged(path: Path) -> bool:
    """Return whether a file holds what its name says."""
    named = NAME.fullmatch(path.name)
    return named is not None and not path.is_symlink() and path.is_file() and file_digest(path)[:16] == named[2]
