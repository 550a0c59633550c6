"""The ledger: what a killed worker left unfinished is no line, the latest line about an item counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from talkies.run import ledger
from talkies.run.ledger import Failed, Forgotten, Ledger, Made, note


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(item: str, key: str = "k") -> Made:
    return Made(stage="animate", item=item, key=key, size=1, mtime_ns=1)


def keys() -> dict[str, str]:
    return {item: entry.key for (_, item), entry in Ledger.read().entries.items() if isinstance(entry, Made)}


def test_a_torn_line_is_no_line_and_swallows_no_other() -> None:
    note("pairs-0001", made("a/x"))
    path = ledger.path_of("pairs-0001")
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        note("pairs-0001", made("a/y"))
        assert keys() == {"a/x": "k", "a/y": "k"}, cut


def test_the_last_line_counts_in_one_ledger_and_the_latest_among_several() -> None:
    note("pairs-0001", made("a/x", "1"), made("a/x", "2"))
    assert keys() == {"a/x": "2"}
    note("pairs-0002", made("a/x", "3"))
    assert keys() == {"a/x": "3"}
    assert Ledger.read().homes["animate", "a/x"] == "pairs-0002"
    note("pairs-0001", Failed(stage="animate", item="a/x", key="4", reason="why"))
    assert isinstance(Ledger.read().get("animate", "a/x"), Failed)
    note("pairs-0002", Forgotten(stage="animate", item="a/x"))
    assert keys() == {}


def test_lines_that_are_no_events_say_nothing() -> None:
    note("pairs-0001", made("a/x"))
    with ledger.path_of("pairs-0001").open("ab") as file:
        file.write(b'\xff\n[]\n{}\n{"event":"made"}\n{"event":"other"}\n' + b"[" * 9999 + b"\n" + b"null\n")
    note("pairs-0001", made("a/y"))
    assert sorted(keys()) == ["a/x", "a/y"]


def test_a_reader_goes_on_where_it_stopped_and_waits_for_the_end_of_a_line() -> None:
    reader = Ledger()

    def new() -> list[str]:
        before = set(reader.entries)
        reader.read_on()
        return [item for _, item in reader.entries if ("animate", item) not in before]

    assert new() == []
    note("pairs-0001", made("a/x"))
    assert new() == ["a/x"]
    note("pairs-0001", made("a/y"))
    path = ledger.path_of("pairs-0001")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert new() == []
    path.write_bytes(whole)
    assert new() == ["a/y"]


def test_a_link_in_a_ledgers_place_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine\n")
    path = ledger.path_of("pairs-0001")
    path.parent.mkdir(parents=True)
    path.symlink_to(mine)
    with pytest.raises(OSError, match=str(path)):
        note("pairs-0001", made("a/x"))
    assert mine.read_text() == "mine\n"
