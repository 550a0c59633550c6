"""Pages that we write: sealed, so that one of ours is told from any other, and allowed only what is in them.

Names and reasons are escaped where the pages are made. Should one slip through all the same, its script does not run,
and nothing is fetched from or sent to anywhere (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path

from ..files import keep_aside, whole


def write_page(path: Path, text: str) -> None:
    """Write a page (HTML or SVG) whole or not at all, with our seal at its end; what is no such page is kept aside.

    The seal, a comment that holds the digest of all before it, tells a page of ours, as we wrote it, from any other.
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
    """Tell whether a page is one that `write_page` wrote, unchanged since."""
    if page.is_symlink() or not page.is_file():
        return False
    content = page.read_bytes()
    return content.endswith(_seal(content[:-SEAL]))


def _seal(content: bytes) -> bytes:
    return f"\n<!-- written by talkies {hashlib.sha256(content).hexdigest()} -->\n".encode()


SEAL = len(_seal(b""))


INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def content_policy(page: str) -> str:
    """Return the policy, for a meta element, of a page's text with its inline scripts and styles in their last form.

    Scripts and styles are allowed by their digests; pictures and films beside the page (Firefox has no 'self' for files
    of a folder) and in it; no other page's frame, form, plugin or connection.
    """
    digests: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in INLINE.findall(page):
        digests[kind].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    rules = {
        "default-src": "'none'",
        **{f"{kind}-src": " ".join(found) for kind, found in digests.items() if found},
        "img-src": "'self' file: data:",
        "media-src": "'self' file:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def fill(template: Path, **words: str) -> str:
    """Return a page: its template with each {{name}} replaced by the word of that name, HTML, and its policy.

    In one pass, so that a mark in somebody's file name is not filled in.
    """
    page = template.read_text(encoding="utf-8")
    words["policy"] = content_policy(page)
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: words[mark[1]], page)
