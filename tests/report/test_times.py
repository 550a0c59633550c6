"""The times of a run in its gallery: they cover all films, even after failures, and nothing made takes none."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from run_folder import RunFolder

from talkies.report.entries import measure
from talkies.report.gallery import build_gallery
from talkies.run.estimate import duration
from talkies.run.ledger import Ledger
from talkies.run.plan import Plan
from talkies.settings import complete
from talkies.stages import STAGES, table


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.texts += [" ".join(data.split())] if data.strip() else []


def section(page: Path) -> list[str]:
    """Return the texts of a gallery's times."""
    parser = _Texts()
    parser.feed(re.findall(r'<section class="times.*?</section>', page.read_text(), re.DOTALL)[0])
    return parser.texts


def test_times_are_those_of_the_ledger(finished: RunFolder, monkeypatch) -> None:
    monkeypatch.chdir(finished.path)
    rows = {row.name: row for row in measure(Plan.load(table), Ledger.read()).rows}
    records = [finished.record(pair) for pair in finished.films()]
    animated = [record["animate_seconds"] for record in records]
    assert (rows["animate"].items, rows["animate"].total) == (6, duration(sum(animated)))
    assert rows["animate"].most == f"{max(animated):.3g} s"
    assert rows["remux"].total == duration(sum(record["seconds"] for record in records))
    assert [name for name, row in rows.items() if not row.items] == ["load", "motion", "show"]
    assert max(row.width for row in rows.values()) == 100
    texts = section(finished.path / "results/index.html")
    assert {"crop", "cut", "animate", "remux"} <= set(texts)
    assert "A frame took " in " ".join(texts)


def test_nothing_made_takes_no_time(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan(settings=complete({}), sources={}, takes={}, pairs={})
    plan.stages = STAGES
    page = build_gallery(tmp_path / "results", [], title="None", times=measure(plan, Ledger()))
    texts = section(page)
    assert texts.count("0 s") == 1 + len(STAGES)
    assert "A frame took " not in " ".join(texts)
