"""The package's rooms (its subpackages and modules): each imports only those below it, and no file is too large."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_folder import REPOSITORY

PACKAGE = REPOSITORY / "src/talkies"
ORDER = "errors files machine media engines program command fomm run stages report operate cluster app cli".split()  # noqa: SIM905
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 450


def imported(path: Path) -> Iterator[str]:
    """Yield the rooms that a file imports from, inside functions too."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            whole = [*above, *(node.module or "").split(".")] if node.module else [*above]
            yield from whole[:1] if whole else [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("talkies."):
            yield node.module.split(".")[1]


def test_a_room_knows_only_those_below_it() -> None:
    wrong = []
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ORDER:
            above = {each for each in imported(path) if each in ORDER and ORDER.index(each) > ORDER.index(room)}
            wrong += [f"{path.relative_to(PACKAGE)} imports from {each}" for each in above]
    assert not wrong


def test_only_fomm_imports_torch() -> None:
    lines = {path: path.read_text().splitlines() for path in FILES}
    found = {
        path.relative_to(PACKAGE).parts[0]
        for path, each in lines.items()
        if any(line.startswith(("import torch", "from torch")) for line in each)
    }
    assert found == {"fomm"}


def lines_of_code(path: Path) -> int:
    """Return how many lines a file has without comments, docstrings and empty lines."""
    text = path.read_text()
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(code)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_can_be_read_at_once(path: Path) -> None:
    assert lines_of_code(path) <= LONGEST
