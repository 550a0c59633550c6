"""The page of cures quotes what the sources say."""

from __future__ import annotations

import ast
import re

from run_folder import REPOSITORY

FIELD = "\0"
TREES = {path: ast.parse(path.read_text()) for path in sorted((REPOSITORY / "src/talkies").rglob("*.py"))}


def template(node: ast.expr | None) -> str:
    """Return the text of a string expression, with a mark for each field; empty if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    return FIELD if isinstance(node, ast.FormattedValue) else ""


def test_the_page_of_cures_quotes_what_is_said() -> None:
    page = (REPOSITORY / "docs/troubleshooting.md").read_text()
    ours, _, _ = page.partition("## From other programs")
    rows = [row.split("|")[1] for row in ours.splitlines() if row.startswith("| `")]
    quoted = [message for row in rows for message in re.findall("`([^`]+)`", row)]
    assert len(quoted) > 10
    known = {template(node) for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.expr)}
    known |= {(REPOSITORY / "Makefile").read_text(), "No space left on device"}
    for message in quoted:
        pattern = re.compile(r"[^\n]*?".join(map(re.escape, message.split("..."))))
        assert any(pattern.search(text) for text in known), f"no source contains {message!r} (any more)"
