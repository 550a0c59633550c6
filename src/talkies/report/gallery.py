"""Writes the gallery: results/index.html, a static page that works from a folder without a network; and mosaics.

Its look and behaviour are in look.* and gallery.* beside this file; its contents are collected here. It does not
depend on when or where it was made, so a run that changes nothing leaves the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import media
from ..errors import InputError, TalkiesError, printable
from ..files import LEFT, beside, file_digest, fits, keep_aside, parse_json, publish, whole, write_json
from ..run.folder import CHECK_PAGE, GALLERY_PAGE
from ..run.plan import digest
from ..run.record import Record, Recorded, Talkie, file_facts
from .entries import Entry
from .page import fill, is_ours, pages, write_page
from .posters import draw_poster, moment_of
from .times import Times, drawn

log = logging.getLogger("talkies")

OLD_TIMES = "plots.svg"
"""The page of times of earlier versions, now a part of the gallery."""
FOLDERS = ("sources", "driving", "posters", "mosaics")
"""Of a page's files."""


def build_galleries(
    results: Path,
    entries: Sequence[Entry],
    *,
    title: str,
    check: str | None = None,
    mosaic: int | None = None,
    going: str | None = None,
    times: Times | None = None,
) -> list[Path]:
    """Write results/index.html without private pairs and, if there are any, results/private.html with all.

    Other arguments: see `build_gallery`. Returns the pages' paths. A private page of ours that is no longer needed is
    removed, and so is our old page of times. Raises OSError.
    """
    more: dict[str, Any] = {"check": check, "mosaic": mosaic, "going": going, "times": times}
    public = [entry for entry in entries if not entry.private]
    made = [build_gallery(results, public, title=title, **more)]
    if is_ours(old := results / OLD_TIMES):
        old.unlink()
    if len(public) < len(entries):
        made.append(build_gallery(results, entries, title=f"{title} (all, for yourself)", name="private", **more))
    else:
        if is_ours(private := results / "private.html"):
            private.unlink()
        _Written(results / "private_files").clear()
    return made


def build_gallery(
    results: Path,
    entries: Sequence[Entry],
    *,
    title: str,
    check: str | None = None,
    name: str = "index",
    mosaic: int | None = None,
    going: str | None = None,
    times: Times | None = None,
) -> Path:
    """Write results/NAME.html and its files (NAME_files), and return the page's path. check: the check's line.

    going: the run's progress, while it goes on. times: the times of its work.

    mosaic: the number of talkies of each driving video in its mosaic, None for no mosaic. Only changed files are
    written, each whole or not at all. Files of ours that no entry shows any more are removed. Files that are not ours
    stay, or are kept aside if they are in the way. The entries' order does not matter. Raises OSError.
    """
    results.mkdir(parents=True, exist_ok=True)
    entries = sorted(entries, key=_order)
    written = _Written(results / f"{name}_files")
    sources = _mirror(written, "sources", (entry.source for entry in entries))
    previews = _mirror(written, "driving", (entry.preview for entry in entries))
    posters = _posters(written, previews)
    mosaics = _mosaics(written, entries, mosaic)
    written.save()
    of_clips = {path: _Clip(previews.get(path), posters.get(path), mosaics.get(path)) for path in {*previews, *mosaics}}
    path = results / f"{name}.html"
    page = fill(
        "gallery.html",
        style=["gallery.css"],
        script="gallery.js",
        title=printable(title),
        pages=pages(path.name, gallery=path.name, check=check is not None),
        going=going,
        check=check,
        check_page=CHECK_PAGE,
        data=_page_data(results, entries, sources, of_clips),
        links=[_link(results, entry) for entry in entries],
        times=drawn(times) if times else None,
    )
    write_page(path, page)
    return path


@dataclass(frozen=True)
class _Clip:
    """The page's files of a driving clip."""

    preview: Path | None = None
    poster: Path | None = None
    mosaic: Path | None = None


def lay_out_report(results: Path, entries: Sequence[Entry], folder: Path) -> None:
    """Make a folder of links to index.html and all its files, without private ones, for `snakemake --report`.

    Each file has its own link, since Snakemake's report does not follow linked folders. Raises TalkiesError if the
    folder is not empty, or OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise TalkiesError(f"{printable(folder)}: this folder is not empty: name a new one")
    files = [path for entry in entries if not entry.private for path in (entry.film, entry.record) if path]
    files += _Written(results / "index_files").files()
    files += [path for path in (results / GALLERY_PAGE, results / CHECK_PAGE) if path.exists()]
    ways: dict[Path, Path] = {}  # a relative path between the real folders, whatever links are on the way
    for path in files:
        link = folder / path.relative_to(results)
        if link.parent not in ways:
            link.parent.mkdir(parents=True, exist_ok=True)
            ways[link.parent] = Path(os.path.relpath(path.parent.resolve(), link.parent.resolve()))
        link.symlink_to(ways[link.parent] / path.name)


def _order(entry: Entry) -> tuple[str, ...]:
    return (entry.driving.casefold(), entry.driving, entry.image.casefold(), entry.image, entry.variant or "")


def _page_data(
    results: Path, entries: Sequence[Entry], sources: dict[Path, Path], of_clips: dict[Path, _Clip]
) -> dict[str, Any]:
    """Return the data of the page's script: clips and pictures once, and the pairs as rows that refer to them.

    A clip: name, part, has sound, warnings, addresses of preview, poster and mosaic, the poster's time in seconds. A
    picture: name, crop, warnings, address. A pair: clip, picture, variant, choices, has sound, addresses of film and
    record, the reason if it has none.
    """
    clips: dict[Any, int] = {}
    pictures: dict[Any, int] = {}
    told: dict[str, list[Any]] = {"clips": [], "pictures": [], "pairs": []}
    for entry in entries:
        key: tuple[Any, ...] = (entry.driving, entry.part, entry.preview)
        if key not in clips:
            clips[key] = len(clips)
            clip = of_clips.get(entry.preview, _Clip()) if entry.preview else _Clip()
            files = [_address(results, path) for path in (clip.preview, clip.poster, clip.mosaic)]
            moment = moment_of(clip.poster) if clip.poster else None
            doubts = [printable(doubt) for doubt in entry.doubts[1]]
            named = printable(entry.driving), printable(entry.part)
            told["clips"].append([*named, entry.preview_sound, doubts, *files, moment])
        shown = (entry.image, entry.crop, entry.source)
        if shown not in pictures:
            pictures[shown] = len(pictures)
            copy = sources.get(entry.source) if entry.source else None
            doubts = [printable(doubt) for doubt in entry.doubts[0]]
            named = printable(entry.image), printable(entry.crop)
            told["pictures"].append([*named, doubts, _address(results, copy)])
        told["pairs"].append(
            [
                clips[key],
                pictures[shown],
                printable(entry.variant) if entry.variant else "",
                printable(entry.choices),
                int(entry.sound),
                _address(results, entry.film),
                _address(results, entry.record),
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


def _link(results: Path, entry: Entry) -> tuple[str | None, str, str]:
    """Return a pair's address, name and remarks, for browsers without scripts."""
    driving = f"{entry.driving} ({entry.part})" if entry.part else entry.driving
    name = f"{driving} / {entry.image}{f' @ {entry.variant}' if entry.variant else ''}"
    said = [*entry.doubts[0], *entry.doubts[1]]
    if entry.film is None:
        return None, printable(name), printable(entry.reason or "not made yet")
    return _address(results, entry.film), printable(name), printable("; ".join(said))


class _Written:
    """The files of a page, in folders of NAME_files, and the list of those that we wrote, NAME_files/.written.

    A file is ours if the list has it with its current digest. Nothing else is removed or replaced, and no link is
    followed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.list = folder / ".written"
        self._digests: dict[str, set[str]] = {}
        self._kept: dict[str, str] = {}
        if folder.is_symlink() or self.list.is_symlink() or not self.list.is_file():
            return
        for line in self.list.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                entry = parse_json(line)
                if fits(entry, [str, str]) and re.fullmatch(rf"({'|'.join(FOLDERS)})/[^/]+", entry[0], re.DOTALL):
                    self._digests.setdefault(entry[0], set()).add(entry[1])

    def files(self) -> list[Path]:
        """Return the listed files that exist and are ours."""
        return [path for name in sorted(self._digests) if self._is_ours(path := self.folder / name)]

    def open(self, name: str) -> Path:
        """Return a folder of the page, made if needed; a file or link in its place is kept aside."""
        for folder in (self.folder, self.folder / name):
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                keep_aside(folder)
            folder.mkdir(exist_ok=True)
        return self.folder / name

    def has(self, path: Path, digest: str | None = None) -> bool:
        """Return whether a file of ours is there, or (digest) any file with these contents; if so, keep it."""
        if path.is_symlink() or not path.is_file():
            return False
        found = file_digest(path)
        if found != digest and (digest or found not in self._digests.get(self._name(path), ())):
            return False
        self._kept[self._name(path)] = found
        return True

    def put(self, part: Path, path: Path) -> None:
        """Move a finished file to its place, after adding it to the list, so that it is ours even if we are
        killed."""
        if os.path.lexists(path) and not self._is_ours(path):
            keep_aside(path)
        name, digest = self._name(path), file_digest(part)
        if self.list.is_symlink():
            keep_aside(self.list)
        with self.list.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps([name, digest])}\n")
        self._digests.setdefault(name, set()).add(digest)
        self._kept[name] = digest
        publish(part, path)

    def drop(self, name: str) -> None:
        """Remove our files in a folder that were neither `put` there nor found there by `has`."""
        folder = self.folder / name
        if self.folder.is_symlink() or folder.is_symlink() or not folder.is_dir():
            return
        for path in sorted(folder.iterdir()):
            left = LEFT.fullmatch(path.name) and path.is_file()
            if left or (self._name(path) not in self._kept and self._is_ours(path)):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()

    def save(self) -> None:
        """Reduce the list to the files that are kept."""
        text = "".join(f"{json.dumps(entry)}\n" for entry in sorted(self._kept.items()))
        if self.list.is_symlink() or not self.list.is_file() or self.list.read_text(errors="replace") != text:
            with whole(self.list) as part:
                part.write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """Remove all our files, and the folders that this leaves empty."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return
        for name in FOLDERS:
            self.drop(name)
        if self.list.is_file() and not self.list.is_symlink():
            self.list.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _is_ours(self, path: Path) -> bool:
        digests = self._digests.get(self._name(path))
        return bool(digests) and not path.is_symlink() and path.is_file() and file_digest(path) in (digests or ())


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file, and remove what is left there at the end."""
    part = beside(path)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _mirror(written: _Written, name: str, paths: Iterable[Path | None]) -> dict[Path, Path]:
    """Fill a folder with copies of these files; return each file's copy.

    Raises ValueError for two files with the same name.
    """
    folder = written.open(name)
    copies: dict[Path, Path] = {}
    for path in dict.fromkeys(paths):
        if path is None or not path.is_file():
            continue
        copies[path] = copy = folder / path.name
        if not written.has(copy, file_digest(path)):
            with _part(copy) as part:
                shutil.copyfile(path, part)
                written.put(part, copy)
    if len({copy.name for copy in copies.values()}) < len(copies):
        raise ValueError(f"{folder}: two files of one name")
    written.drop(name)
    return copies


def _posters(written: _Written, previews: dict[Path, Path]) -> dict[Path, Path]:
    """Fill a folder with a frame (JPEG) of each preview, from a moment with motion; return the posters by clip.

    So a page of many clips shows them all without opening a film. A preview that can't be read has none.
    """
    folder = written.open("posters")
    posters = {}
    for clip, preview in previews.items():
        poster = folder / f"{preview.stem}.jpg"
        old = written.has(poster) and poster.stat().st_mtime_ns >= preview.stat().st_mtime_ns
        if not old or moment_of(poster) is None:
            try:
                with _part(poster) as part:
                    draw_poster(preview, part)
                    written.put(part, poster)
            except InputError as error:
                log.warning("%s", error)
                continue
        posters[clip] = poster
    written.drop("posters")
    return posters


def _mosaics(written: _Written, entries: Sequence[Entry], most: int | None) -> dict[Path, Path]:
    """Fill a folder with a mosaic of each driving clip with several talkies; return the mosaics by clip.

    A mosaic is made again if its films have changed, by the digests in their records. A mosaic that can't be made is
    logged and left out. Without `most` there is no such folder.
    """
    films: dict[Path, list[Entry]] = {}
    for entry in entries if most else ():
        if entry.preview and entry.film:
            films.setdefault(entry.preview, []).append(entry)
    folder = written.open("mosaics") if films else written.folder / "mosaics"
    made = {}
    for clip, shown in films.items():
        if len(shown) > 1:
            mosaic = Recorded(folder / f"{clip.stem}.mp4", Record)
            try:
                _make_mosaic(written, mosaic, shown[:most])
            except TalkiesError as error:
                log.warning("no mosaic of %s: %s", printable(shown[0].driving), error)
                continue
            made[clip] = mosaic.path
    written.drop("mosaics")
    return made


def _make_mosaic(written: _Written, mosaic: Recorded[Record], shown: Sequence[Entry]) -> None:
    """Make a mosaic that is missing or shows other films."""
    films = [entry.film for entry in shown if entry.film]
    key = digest([_digest(film) for film in films])
    if mosaic.fresh(key) and written.has(mosaic.path) and written.has(mosaic.record_path):
        return
    with _part(mosaic.path) as part:
        facts = media.mosaic(films, part)
        told: dict[str, object] = {"films": [film.stem for film in films], "mosaic": facts}
        record = Record(key=key, file=file_facts(part), facts=told)
        written.put(part, mosaic.path)
        write_json(part, record.plain)
        written.put(part, mosaic.record_path)


def _digest(film: Path) -> str:
    """Return a talkie's sha256 from its record, else by reading the film."""
    record = Recorded(film, Talkie).record()
    return record.file.sha256 if record else file_digest(film)
