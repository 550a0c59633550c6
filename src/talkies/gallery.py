"""The page of all talkies: results/index.html, static, readable from a folder without any network.

The page's look and behaviour are gallery.html beside this file; here its contents are gathered. It holds
nothing that depends on when or where it was made, so a run that changes nothing leaves its bytes as they are.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .errors import printable

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


def build_galleries(results: Path, entries: Sequence[Entry], *, title: str, check: str | None = None) -> list[Path]:
    """Write results/index.html without private pairs and, where there are any, results/private.html with all.

    Returns the pages' paths; a private page that is no longer needed is removed. Raises OSError.
    """
    public = [entry for entry in entries if not entry.private]
    pages = [build_gallery(results, public, title=title, check=check)]
    if len(public) < len(entries):
        pages.append(build_gallery(results, entries, title=f"{title} (all, for yourself)", check=check, name="private"))
    else:
        (results / "private.html").unlink(missing_ok=True)
        shutil.rmtree(results / "private_files", ignore_errors=True)
    return pages


def build_gallery(
    results: Path, entries: Sequence[Entry], *, title: str, check: str | None = None, name: str = "index"
) -> Path:
    """Write results/NAME.html and its files (NAME_files), and return the page's path. check: what check.html says.

    Only what differs from what is there is written, each file whole or not at all; pictures and clips that
    no entry shows any more are removed. The entries' order does not matter. Raises OSError.
    """
    results.mkdir(parents=True, exist_ok=True)
    entries = sorted(entries, key=_order)
    sources = _mirror(results / f"{name}_files" / "sources", (entry.source for entry in entries))
    previews = _mirror(results / f"{name}_files" / "driving", (entry.preview for entry in entries))
    words = {
        "title": html.escape(printable(title)),
        "data": _script_json(_page_data(results, entries, sources, previews)),
        "check": f'<p class="made"><a href="check.html">{html.escape(check)}</a></p>' if check else "",
        "links": "\n".join(_link(results, entry) for entry in entries),
    }
    # One pass, so that a mark in somebody's file name is not filled in.
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: words[mark[1]], PAGE.read_text(encoding="utf-8"))
    path = results / f"{name}.html"
    content = page.encode()
    if not path.exists() or path.read_bytes() != content:
        with _Part(path) as part:
            part.write_bytes(content)
    return path


def _order(entry: Entry) -> tuple[str, ...]:
    return (entry.driving.casefold(), entry.driving, entry.image.casefold(), entry.image, entry.variant or "")


def _page_data(
    results: Path, entries: Sequence[Entry], sources: dict[Path, Path], previews: dict[Path, Path]
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
        "clips": [[printable(name), _address(results, previews.get(path) if path else None)] for name, path in clips],
        "pictures": [[printable(n), _address(results, sources.get(path) if path else None)] for n, path in pictures],
        "pairs": pairs,
    }


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
    wanted = {copy.name for copy in copies.values()}
    if len(wanted) < len(copies):
        raise ValueError(f"{folder}: two files of one name")
    with os.scandir(folder) as found:
        for stale in found:
            if stale.name not in wanted and not stale.is_dir(follow_symlinks=False):
                Path(stale.path).unlink(missing_ok=True)
    return copies


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
