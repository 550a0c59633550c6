"""Anything in .talkies may be damaged or removed at any time: no command crashes, and the next run repairs it."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_folder import RunFolder

from talkies.cli import main

SEED = 13
PAIRS = [f"{clip}/{image}" for clip in ("a", "b") for image in ("blue", "green", "red")]
NOTHING = "Nothing to be done"


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run whose .talkies holds a file of every kind."""
    run = RunFolder.create(tmp_path_factory.mktemp("full") / "run")
    run.configure(pairs_per_job=3, check=True, multi_face=True, files={"red.png": {"crop": "face"}})
    run.snakemake()
    return run


def state(run: RunFolder) -> list[Path]:
    """Return all files in .talkies, except the report's links, which lead to the results."""
    files = sorted((run.path / ".talkies").rglob("*"))
    return [path for path in files if path.is_file() and not path.is_symlink()]


def twisted(value: Any, *, leaves: bool) -> Any:
    """Return a JSON value with its type changed, or (leaves) with the type of every value in it changed."""
    if leaves and isinstance(value, dict) and value:
        return {name: twisted(inner, leaves=True) for name, inner in value.items()}
    if leaves and isinstance(value, list) and value:
        return [twisted(inner, leaves=True) for inner in value]
    others: dict[type, Any] = {dict: [1], list: {"x": 1}, str: 7, bool: "yes", type(None): [], int: "7", float: {}}
    return others[type(value)]


def wrong_types(path: Path, *, leaves: bool) -> None:
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    try:
        values = [json.loads(line) for line in lines]
    except ValueError:
        path.write_bytes(random.Random(SEED).randbytes(path.stat().st_size))
        return
    if not leaves:
        values = [{name: twisted(inner, leaves=False) for name, inner in value.items()} for value in values]
    else:
        values = [twisted(value, leaves=True) for value in values]
    path.write_text("\n".join(map(json.dumps, values)) + "\n")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "an empty object": lambda path: path.write_text("{}\n"),
    "a list": lambda path: path.write_text("[]\n"),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "deeply nested": lambda path: path.write_text("[" * 200_000 + "]" * 200_000 + "\n"),
    "other types": lambda path: wrong_types(path, leaves=False),
    "other leaves": lambda path: wrong_types(path, leaves=True),
}


def command(run: RunFolder, *words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a talkies command here; if it fails, it must say why in one line."""
    monkeypatch.chdir(run.path)
    code = main(words)
    told = "".join(capsys.readouterr())
    assert code in (0, 1), told
    assert "Traceback" not in told
    assert "unexpected " not in told, told
    if code:
        assert len([line for line in told.splitlines() if line.startswith("talkies: error: ")]) == 1, told
    return told


def mended(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, goes_on: bool = True
) -> None:
    """Assert that no command crashes, that the next run repairs the damage, and (goes_on) that later work succeeds."""
    films = run.films()

    def talkies(*words: str) -> str:
        return command(run, *words, monkeypatch=monkeypatch, capsys=capsys)

    talkies("status")
    talkies("clean", "-n")
    run.snakemake()
    assert "6 films are whole" in talkies("verify")
    assert "6 pairs: 6 done, 0 failed, 0 to make" in talkies("status")
    talkies("clean")
    assert run.films() == films, "no film was touched"
    assert run.events("animated") == []
    if goes_on:
        talkies("forget", "a/red")
        run.snakemake()
        assert run.events("animated") == ["a/red"]
        assert "6 films are whole" in talkies("verify")
    run.whole(PAIRS)
    assert NOTHING in run.snakemake("-n")


@pytest.mark.parametrize("seed", [1, 2])
def test_every_file_damaged_in_some_way(
    full: RunFolder, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, chance = full.copy(tmp_path / "run"), random.Random(seed)
    run.forget_events()
    for path in state(run):
        DAMAGE[chance.choice(list(DAMAGE))](path)
    mended(run, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["removed", "emptied", "other types"])
def test_all_of_the_runs_memory_at_once(
    full: RunFolder, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = full.copy(tmp_path / "run")
    run.forget_events()
    for path in state(run):
        DAMAGE[damage](path)
    mended(run, monkeypatch, capsys)


def kinds(run: RunFolder) -> dict[str, Path]:
    """Return one file for each folder and suffix, and every file directly in .talkies."""
    found: dict[str, Path] = {}
    for path in state(run):
        below = path.relative_to(run.path / ".talkies")
        name = below.name if below.parent == Path() else f"{below.parent}/*{below.suffix}"
        found.setdefault(name, path)
    return found


@pytest.mark.longest
@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_each_kind_of_file_alone(
    full: RunFolder, tmp_path: Path, half: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of file gets one damage, in turn: all combinations would take an hour."""
    assert len(kinds(full)) > 20
    for number, path in enumerate(kinds(full).values()):
        damage = list(DAMAGE)[(number // 2) % len(DAMAGE)]
        place = tmp_path / str(number) / path.relative_to(full.path)
        if number % 2 != half or path.suffix == ".jsonl":  # the journal is empty anyway
            continue
        run = full.copy(tmp_path / str(number))
        run.forget_events()
        DAMAGE[damage](place)
        try:
            mended(run, monkeypatch, capsys, goes_on=False)
        except AssertionError as error:
            raise AssertionError(f"{damage}: {place.relative_to(run.path)}: {error}") from error
        shutil.rmtree(run.path)


# --- what verify finds -------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    """Change a byte, but keep the file's size and time."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_verify_finds_the_next_run_makes_again(run: RunFolder) -> None:
    """A film with one changed byte, and records that are empty, a list, or of other types."""
    good = run.films()
    flip(run.film("a/red"), 2000)
    run.film("a/green").with_suffix(".json").write_bytes(b"")
    run.film("a/blue").with_suffix(".json").write_text("[]")
    wrong_types(run.film("b/red").with_suffix(".json"), leaves=False)
    wrong_types(run.film("b/green").with_suffix(".json"), leaves=True)
    assert NOTHING in run.snakemake(), "the damage shows only when films and records are read"
    told = run.talkies("verify", ok=False)
    assert "5 of 6 films are not as they should be: run snakemake again, which makes them" in told
    assert "a/red: altered since it was made" in told
    assert "unexpected" not in told
    run.snakemake()
    assert "6 films are whole" in run.talkies("verify")
    assert sorted(run.events("animated")) == ["a/blue", "a/green", "a/red", "b/green", "b/red"]
    assert run.films() == good
    assert NOTHING in run.snakemake()


def test_verify_marks_nothing_while_a_run_is_at_work(run: RunFolder) -> None:
    flip(run.film("a/red"), 2000)
    before = run.receipts()
    lock = run.path / ".talkies/locks/pairs-0001.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text('{"host": "elsewhere", "pid": 1, "started": "x", "namespace": "n"}')
    assert "a/red: altered" in run.talkies("verify", ok=False)
    assert run.receipts() == before
