"""Pages that we write: sealed, so that ours can be recognised, and limited to their own contents.

Names and reasons are escaped. If one slips through, its script does not run, and nothing is fetched or sent
(Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import keep_aside, whole
from ..run.folder import CHECK_PAGE

if TYPE_CHECKING:
    from jinja2 import Environment


def write_page(path: Path, text: str) -> None:
    """Write a page (HTML) whole or not at all, with our seal at its end; a file that is not ours is kept aside.

    The seal, a comment with the digest of everything before it, identifies an unchanged page of ours.
    """
    content = text.encode() + _seal(text.encode())
    if is_ours(path):
        if path.read_bytes() == content:
            return
    elif os.path.lexists(path):
        keep_aside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(content)


def is_ours(page: Path) -> bool:
    """Return whether `write_page` wrote this page, and it is unchanged."""
    if page.is_symlink() or not page.is_file():
        return False
    content = page.read_bytes()
    return content.endswith(_seal(content[:-SEAL]))


def _seal(content: bytes) -> bytes:
    return f"\n<!-- written by talkies {hashlib.sha256(content).hexdigest()} -->\n".encode()


SEAL = len(_seal(b""))


HERE = Path(__file__).parent


def fill(template: str, *, style: Sequence[str] = (), script: str | None = None, **words: Any) -> str:
    """Return a page: a template of this folder (jinja2; all extend look.html), filled with these values.

    style, script: files of this folder that the page includes besides those of look.html. Texts are escaped; a
    placeholder in a file name is not filled in.
    """
    styles = "".join(_text(name) for name in ("look.css", *style))
    scripts = [_text("look.js"), *([_text(script)] if script else [])]
    from markupsafe import Markup

    words |= {"style": Markup(styles), "look": Markup(scripts[0]), "script": Markup("".join(scripts[1:]))}
    return _environment().get_template(template).render(policy=_policy(styles, scripts), **words)


def pages(here: str, *, gallery: str | None = None, check: bool = False) -> list[tuple[str, str, bool]]:
    """Return the name and address of each existing page, and whether it is the one at `here`.

    gallery: the gallery's file name; None if there is none.
    """
    found = [("Gallery", gallery)] if gallery else []
    found += [("Check of the files", CHECK_PAGE)] if check else []
    found += [("Times", f"{'' if gallery == here else gallery}#times")] if gallery else []
    return [(name, address, address == here) for name, address in found]


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Return a page's policy, for a meta element.

    It allows the page's own style and scripts, by their digests, and pictures and films in it and beside it (Firefox
    has no 'self' for files of a folder); but no frames of other pages, forms, plugins or connections.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(map(_digest, scripts)),
        "style-src": _digest(style),
        "img-src": "'self' file: data:",
        "media-src": "'self' file:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
