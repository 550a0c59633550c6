"""Messages at the terminal: one line that says what to do; the page of cures quotes what the sources say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from run_folder import REPOSITORY

from talkies.cli import main

FIELD = "\0"
TREES = {path: ast.parse(path.read_text()) for path in sorted((REPOSITORY / "src/talkies").rglob("*.py"))}
STEP = re.compile(
    r"(?:^|[:;,.?(] |\b(?:and|or|then|first) |`)"
    r"(?:add|ask|build|call|choose|clean|convert|copy|download|fetch|fill|get|give|go|install|load|make|mend|move|name"
    r"|open|put|reinstall|remove|rename|run|save|say|scale|send|set|shorten|start|stop|take|try|unpack|use|wait|write)\b"
    r"|\bmust\b|--\w",
    re.IGNORECASE,
)
"""A next step: a command at the start of a clause, or an option to give."""


def template(node: ast.expr | None) -> str:
    """Return the text of a string expression, with a mark for each field; empty if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    return FIELD if isinstance(node, ast.FormattedValue) else ""


# --- errors of the system: no permission, no such file, no space ---------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["init", "/proc/new"],
        ["checkpoint", "show", "none.pth.tar"],
        ["crop", "none.png", "-o", "out.png"],
        ["crop", ".", "-o", "out.png"],
        ["status"],
        ["forget"],
        ["animate", "--source", "none.png", "--driving", "none.mp4", "-o", "nowhere/out.mp4"],
    ],
    ids=" ".join,
)
def test_a_mistake_at_the_terminal(words: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("talkies: error: ")
    assert STEP.search(line), line


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e99999999", "9" * 5000, "1/0", "", ".", "0x1", "1e3"])
def test_seconds_at_the_terminal(seconds: str, capsys) -> None:
    words = ["animate", "--source", "a.png", "--driving", "a.mp4", "-o", "o.mp4"]
    for option in ("--start", "--end"):
        with pytest.raises(SystemExit) as ended:
            main([*words, option, seconds])
        assert ended.value.code == 2
        assert "is not a number of seconds" in capsys.readouterr().err


# --- the troubleshooting page --------------------------------------------------------------------------------


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
