"""The package's rooms (its subpackages and modules): each imports only those below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from run_folder import REPOSITORY

PACKAGE = REPOSITORY / "src/talkies"
ORDER = "errors files machine media engines program command fomm run stages report cluster app cli".split()  # noqa: SIM905
FILES = sorted(PACKAGE.rglob("*.py"))


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
