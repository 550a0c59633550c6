"""What a page may do, as its Content-Security-Policy: only what is written in it and beside it, nothing else's code.

Names and reasons are escaped where the pages are made. Should one slip through all the same, its script does not run,
and nothing is fetched from or sent to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import re

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
