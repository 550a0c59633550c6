"""The page of all talkies: results/index.html, static, readable from a folder without any network; and mosaics.

The page's look and behaviour are gallery.html beside this file; here its contents are gathered. It holds
nothing that depends on when or where it was made, so a run that changes nothing leaves its bytes as they are.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import media
from .errors import InputError, TalkiesError, printable
from .plan import PLOTS
from .policy import content_policy
from .records import Recorded, content_key

log = logging.getLogger("talkies")

PAGE = Path(__file__).with_name("gallery.html")


@dataclass(frozen=True)
class Entry:
    """One pair, as the page shows it.

    film, record: the talkie and the JSON beside it, None where it was not made; reason: why not. source:
    the cropped picture (PNG), preview: the cropped driving clip with its sound (mp4); both live outside
    the results and are copied to the page, so each needs a file name of its own.
    """

    driving: str
    image: str
    variant: str | None
    film: Path | None
    record: Path | None
    source: Path | None
    preview: Path | None
    reason: str | None
    private: bool = False


def build_galleries(
    results: Path, entries: Sequence[Entry], *, title: str, check: str | None = None, mosaic: int | None = None
) -> list[Path]:
    """Write results/index.html without private pairs and, where there are any, results/private.html with all.

    mosaic: as of `build_gallery`. Returns the pages' paths; a private page that is no longer needed is removed. Raises
    OSError.
    """
    public = [entry for entry in entries if not entry.private]
    pages = [build_gallery(results, public, title=title, check=check, mosaic=mosaic)]
    if len(public) < len(entries):
        title = f"{title} (all, for yourself)"
        pages.append(build_gallery(results, entries, title=title, check=check, name="private", mosaic=mosaic))
    else:
        (results / "private.html").unlink(missing_ok=True)
        shutil.rmtree(results / "private_files", ignore_errors=True)
    return pages


def build_gallery(
    results: Path,
    entries: Sequence[Entry],
    *,
    title: str,
    check: str | None = None,
    name: str = "index",
    mosaic: int | None = None,
) -> Path:
    """Write results/NAME.html and its files (NAME_files), and return the page's path. check: what check.html says.

    mosaic: how many talkies of each driving video are shown at once in one film, None for no such film. Only
    what differs from what is there is written, each file whole or not at all; what no entry shows any more is removed.
    The entries' order does not matter. Raises OSError.
    """
    results.mkdir(parents=True, exist_ok=True)
    entries = sorted(entries, key=_order)
    sources = _mirror(results / f"{name}_files" / "sources", (entry.source for entry in entries))
    previews = _mirror(results / f"{name}_files" / "driving", (entry.preview for entry in entries))
    posters = _posters(results / f"{name}_files" / "posters", previews)
    mosaics = _mosaics(results / f"{name}_files" / "mosaics", entries, mosaic)
    of_clips = {path: _Clip(previews.get(path), posters.get(path), mosaics.get(path)) for path in {*previews, *mosaics}}
    template = PAGE.read_text(encoding="utf-8")
    words = {
        "policy": content_policy(template),
        "title": html.escape(printable(title)),
        "data": _script_json(_page_data(results, entries, sources, of_clips)),
        "check": f'<p class="made"><a href="check.html">{html.escape(check)}</a></p>' if check else "",
        "plots": f'<p class="made"><a href="{PLOTS}">Times of the run</a></p>' if (results / PLOTS).exists() else "",
        "links": "\n".join(_link(results, entry) for entry in entries),
    }
    # One pass, so that a mark in somebody's file name is not filled in.
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: words[mark[1]], template)
    path = results / f"{name}.html"
    content = page.encode()
    if not path.exists() or path.read_bytes() != content:
        with _Part(path) as part:
            part.write_bytes(content)
    return path


@dataclass(frozen=True)
class _Clip:
    """The files that the page shows of a driving clip."""

    preview: Path | None = None
    poster: Path | None = None
    mosaic: Path | None = None


def lay_out_report(results: Path, entries: Sequence[Entry], folder: Path) -> None:
    """Make a folder of links to index.html and all that it shows, and nothing private, for `snakemake --report`.

    A link for each file: what gathers the report follows no linked folders. Raises TalkiesError where the folder holds
    anything already, or OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise TalkiesError(f"{printable(folder)}: this folder is not empty: name a new one")
    files = [path for entry in entries if not entry.private for path in (entry.film, entry.record) if path]
    files += [path for path in (results / "index_files").rglob("*") if path.is_file() and path.suffix != ".part"]
    files += [path for path in (results / "index.html", results / "check.html", results / PLOTS) if path.exists()]
    ways: dict[Path, Path] = {}  # from a folder of links to the folder they lead to, whatever is itself a link between
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
    """Gather what the page's script reads: names and addresses once, and the pairs as rows that point to them."""
    clips: dict[tuple[str, Path | None], int] = {}
    pictures: dict[tuple[str, Path | None], int] = {}
    pairs = []
    for entry in entries:
        clip = clips.setdefault((entry.driving, entry.preview), len(clips))
        picture = pictures.setdefault((entry.image, entry.source), len(pictures))
        pairs.append(
            [
                clip,
                picture,
                printable(entry.variant) if entry.variant else None,
                _address(results, entry.film),
                _address(results, entry.record),
                printable(" ".join(entry.reason.split())) if entry.reason else None,
            ]
        )
    return {
        "clips": [
            [printable(name), *_clip_addresses(results, of_clips.get(path) if path else None)] for name, path in clips
        ],
        "pictures": [[printable(n), _address(results, sources.get(path) if path else None)] for n, path in pictures],
        "pairs": pairs,
    }


def _clip_addresses(results: Path, clip: _Clip | None) -> list[str | None]:
    clip = clip or _Clip()
    return [_address(results, path) for path in (clip.preview, clip.poster, clip.mosaic)]


def _address(results: Path, path: Path | None) -> str | None:
    """Return a file's relative, percent-encoded address from the page; any bytes a file name may hold survive."""
    if path is None:
        return None
    inside = f"{results}{os.sep}"  # the common case, told fast: a run may have 100,000 films
    text = str(path)
    return quote(os.fsencode(text.removeprefix(inside) if text.startswith(inside) else os.path.relpath(path, results)))


def _script_json(value: Any) -> str:
    """Return JSON that may stand in a <script> element: nothing in it can end the element or open a comment."""
    return json.dumps(value, separators=(",", ":")).replace("<", r"\u003c").replace(">", r"\u003e")


def _link(results: Path, entry: Entry) -> str:
    """Return the line of a pair for readers without scripts."""
    name = html.escape(f"{printable(entry.driving)} / {printable(entry.image)}")
    if entry.variant:
        name += html.escape(f" @ {printable(entry.variant)}")
    if entry.film is not None:
        return f'<li><a href="{html.escape(_address(results, entry.film) or "")}">{name}</a></li>'
    return f"<li>{name}: {html.escape(printable(entry.reason or 'not made yet'))}</li>"


def _mirror(folder: Path, paths: Iterable[Path | None]) -> dict[Path, Path]:
    """Make a folder hold copies of these files and nothing else; return each file's copy.

    Raises ValueError for two files of one name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies: dict[Path, Path] = {}
    for path in dict.fromkeys(paths):
        if path is None or not path.is_file():
            continue
        copies[path] = copy = folder / path.name
        if not _same(path, copy):
            with _Part(copy) as part:
                shutil.copyfile(path, part)
    if len({copy.name for copy in copies.values()}) < len(copies):
        raise ValueError(f"{folder}: two files of one name")
    _keep(folder, copies.values())
    return copies


def _keep(folder: Path, wanted: Iterable[Path]) -> None:
    """Remove every file of a folder but these."""
    names = {path.name for path in wanted}
    with os.scandir(folder) as found:
        for stale in found:
            if stale.name not in names and not stale.is_dir(follow_symlinks=False):
                Path(stale.path).unlink(missing_ok=True)


def _posters(folder: Path, previews: dict[Path, Path]) -> dict[Path, Path]:
    """Make a folder hold the first frame (JPEG) of each preview, and nothing else; return the posters by clip.

    With it a page of many clips shows them all without opening a film. A preview that cannot be read has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    posters = {}
    for clip, preview in previews.items():
        poster = folder / f"{preview.stem}.jpg"
        if not poster.exists() or poster.stat().st_mtime_ns < preview.stat().st_mtime_ns:
            try:
                _draw_poster(preview, poster)
            except InputError as error:
                log.warning("%s", error)
                continue
        posters[clip] = poster
    _keep(folder, posters.values())
    return posters


def _draw_poster(film: Path, poster: Path) -> None:
    from PIL import Image

    with closing(media.read_frames(media.probe(film), threads=1)) as frames, _Part(poster) as part:
        Image.fromarray(next(frames)).save(part, "JPEG", quality=85)


def _mosaics(folder: Path, entries: Sequence[Entry], most: int | None) -> dict[Path, Path]:
    """Make a folder hold a mosaic of each driving clip that has several talkies; return the mosaics by clip.

    One is made again when its films are other ones, by the digests in their records. What cannot be made is told, and
    the page goes without it. Without `most` there is no such folder.
    """
    if most is None:
        shutil.rmtree(folder, ignore_errors=True)
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    films: dict[Path, list[Entry]] = {}
    for entry in entries:
        if entry.preview and entry.film:
            films.setdefault(entry.preview, []).append(entry)
    made = {}
    for clip, shown in films.items():
        if len(shown) > 1:
            mosaic = Recorded(folder / f"{clip.stem}.mp4")
            try:
                _make_mosaic(mosaic, shown[:most])
            except TalkiesError as error:
                log.warning("no mosaic of %s: %s", printable(shown[0].driving), error)
                continue
            made[clip] = mosaic
    _keep(folder, [path for mosaic in made.values() for path in (mosaic.path, mosaic.record_path)])
    return {clip: mosaic.path for clip, mosaic in made.items()}


def _make_mosaic(mosaic: Recorded, shown: Sequence[Entry]) -> None:
    """Make one that is missing or shows other films than these."""
    films = [entry.film for entry in shown if entry.film]
    key = content_key(mosaic=[_digest(film) for film in films])
    if not mosaic.fresh(key):
        facts = media.mosaic(films, mosaic.path)
        mosaic.describe({"key": key, "films": [film.stem for film in films], "mosaic": facts})


def _digest(film: Path) -> str:
    """Return a talkie's sha256 as its record has it, else by reading it."""
    return Recorded(film).record().get("file", {}).get("sha256") or media.file_digest(film)


def _same(a: Path, b: Path) -> bool:
    """Tell whether b is there and holds a's bytes."""
    if not b.is_file() or a.stat().st_size != b.stat().st_size:
        return False
    with a.open("rb") as left, b.open("rb") as right:
        while block := left.read(1 << 20):
            if block != right.read(1 << 20):
                return False
    return True


class _Part:
    """A file written beside its place and renamed when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{os.getpid()}.part")  # short: the name itself may be as long as one can be

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                with self.part.open("rb") as file:
                    os.fsync(file.fileno())
                self.part.replace(self.path)
        finally:
            self.part.unlink(missing_ok=True)
