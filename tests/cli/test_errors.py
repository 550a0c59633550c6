"""Every message that asks a user to act names the file or key and says what to do; the docs quote real messages.

The messages are read from the source: every raised TalkiesError or InputError, with a mark for each field of an
f-string. So a new message is checked as soon as it is written.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_folder import REPOSITORY

from talkies.cli import main

FIELD = "\0"
SOURCES = sorted((REPOSITORY / "src/talkies").rglob("*.py"))
RAISED = ("TalkiesError", "InputError")
EXPLAINING = ("_why_not_", "_explain")
"""Functions that return a reason: their messages are checked separately."""
STEP = re.compile(
    r"(?:^|[:;,.?(] |\b(?:and|or|then|first) |`)"
    r"(?:build|call|choose|clean|convert|copy|download|fetch|fill|get|give|go|install|load|make|mend|move|name|open|put|reinstall|remove"
    r"|rename|run|save|scale|set|shorten|stop|take|try|unpack|wait|write)\b|\bmust\b|--\w",
    re.IGNORECASE,
)
"""A next step: a command at the start of a clause, or an option to give."""
NAMES = re.compile(
    rf"{FIELD}|config\.yaml|run folder|\b(?:clip|network|motion|workers?|GPU|pairs|ffmpeg|rsync|ssh)\b|docker|image"
)
"""What is at fault: a filled-in file or key, or a thing of which there is only one."""


def template(node: ast.expr, known: dict[str, str]) -> str:
    """Return the text of a string expression, with a mark for each field and the values of module constants."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return template(node.value, known)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith(EXPLAINING):
        return ": give what its own messages say"
    if isinstance(node, ast.Name):
        return known.get(node.id, FIELD)
    return FIELD


def constants(tree: ast.Module) -> dict[str, str]:
    """Return a module's string constants."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = template(node.value, found)
            if text != FIELD and isinstance(node.value, ast.Constant | ast.JoinedStr):
                found[node.targets[0].id] = text
    return found


def reasons(function: ast.AST, name: str) -> Iterator[ast.expr]:
    """Return the values that a function assigns to a variable; both sides of a conditional expression."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            yield from (node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else (node.value,)


def local_texts(function: ast.FunctionDef, known: dict[str, str]) -> dict[str, str]:
    """Return a function's local variables that hold a text with words, each with its last text."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            for value in reasons(function, node.targets[0].id):
                text = template(value, known)
                if " " in text.strip(FIELD):
                    found[node.targets[0].id] = text
    return found


EVERYWHERE = {name: text for path in SOURCES for name, text in constants(ast.parse(path.read_text())).items()}
"""Constants that one module may import from another."""


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Return the location and text of each message that a module raises or gives as a reason."""
    tree = ast.parse(path.read_text())
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        known = EVERYWHERE | constants(tree) | local_texts(function, constants(tree))
        if function.name.startswith(EXPLAINING):
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value is not None:
                    yield f"{path.name}:{node.lineno}", FIELD + template(node.value, known)
        for node in ast.walk(function):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED):
                continue
            ahead = FIELD if node.func.id == "InputError" else ""  # InputError puts the file's name before the reason
            given = node.args[-1]
            values = list(reasons(function, given.id)) if isinstance(given, ast.Name) else [given]
            for value in values:
                if isinstance(value, ast.IfExp):
                    yield from (
                        (f"{path.name}:{node.lineno}", ahead + template(v, known)) for v in (value.body, value.orelse)
                    )
                else:
                    yield f"{path.name}:{node.lineno}", ahead + template(value, known)


ALL = [message for path in SOURCES for message in messages(path)]
ASKED = [(place, text) for place, text in ALL if text.strip(FIELD + " :")]


def test_the_messages_are_found() -> None:
    assert len(ASKED) > 100
    texts = [text for _, text in ASKED]
    assert any("the file is empty" in text for text in texts)


@pytest.mark.parametrize(("place", "text"), ASKED, ids=[f"{place} {text[:40]!r}" for place, text in ASKED])
def test_a_message_names_the_fault_and_a_next_step(place: str, text: str) -> None:
    shown = text.replace(FIELD, "...")
    assert "\n" not in text, f"{place}: more than one line: {shown}"
    assert NAMES.search(text), f"{place}: names neither a file nor a key: {shown}"
    assert STEP.search(text), f"{place}: does not say what to do: {shown}"


def test_the_check_sees_what_is_missing() -> None:
    assert not STEP.search("\0: it cannot be read")
    assert not NAMES.search("it cannot be read: give another")
    assert STEP.search("\0: it cannot be read: give another")


# --- errors of the system: no permission, no such file, no space ---------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["init", "/proc/new"],
        ["remux", "none.mp4", "none.mp4", "-o", "out.mp4"],
        ["checkpoint", "show", "none.pth.tar"],
        ["crop", "none.png", "-o", "out.png"],
        ["crop", ".", "-o", "out.png"],
        ["status"],
        ["forget"],
        ["motion", "none.mp4", "-o", "out.npz"],
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


def strings() -> set[str]:
    """Return every string in the sources, f-strings with marks, and the Makefile's text."""
    found = {(REPOSITORY / "Makefile").read_text()}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        known = constants(tree)
        found |= {
            template(node, known)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        }
    return found


def test_the_page_of_cures_quotes_what_is_said() -> None:
    page = (REPOSITORY / "docs/troubleshooting.md").read_text()
    ours, _, _ = page.partition("## From other programs")
    quoted = [row.split("|")[1].strip().strip("`") for row in ours.splitlines() if row.startswith("| `")]
    assert len(quoted) > 20
    known = strings() | {"No space left on device"}
    for message in quoted:
        parts = [re.escape(part) for part in message.split("...")]
        pattern = re.compile(r"[^\n]*?".join(parts))
        assert any(pattern.search(text) for text in known), f"no source contains {message!r} (any more)"
