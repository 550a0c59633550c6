"""The times of a run in its gallery: they cover all films, even after failures, and are drawn in the page itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folder import RunFolder

from talkies.report.gallery import build_gallery
from talkies.report.times import HEIGHT, LOAD, WIDTH, Times, drawn, measure
from talkies.run.ledger import Ledger
from talkies.run.plan import Plan
from talkies.stages import table


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
    times = measure(Plan.load(table), Ledger.read())
    records = [finished.record(pair) for pair in finished.films()]
    assert sorted(times.films) == sorted((record["frames"], record["animate_seconds"]) for record in records)
    assert times.stages["animate"] == pytest.approx(sum(record["animate_seconds"] for record in records))
    assert times.stages["remux"] == pytest.approx(sum(record["seconds"] for record in records))
    assert [name for name, seconds in times.stages.items() if not seconds] == ["show"]
    assert sorted(times.shards) == ["pairs-0001", "pairs-0002"]
    # Both workers loaded the network. The motion workers did too, but not for a shard of pairs.
    assert 0 < sum(each[LOAD] for each in times.shards.values()) < times.stages[LOAD]
    assert sum(each[name] for each in times.shards.values() for name in ("animate", "remux")) == pytest.approx(
        times.stages["animate"] + times.stages["remux"]
    )
    texts = section(finished.path / "results/index.html")
    assert {"load", "crop", "cut", "motion", "animate", "remux"} <= set(texts)
    assert any(text.startswith("6 pairs, at most ") for text in texts)
    assert "2 in all" in texts


def test_a_damaged_ledger_keeps_no_gallery_from_coming(run: RunFolder) -> None:
    for ledger in (run.path / ".talkies/ledger").glob("*.jsonl"):
        ledger.write_bytes(b'\xff\xfe{"event": "loaded", "seconds": 1e999}\n{"event": "loaded"}\n')
    run.talkies("gallery")
    assert "red" in (run.path / "results/index.html").read_text()


def test_nothing_made_is_drawn_as_nothing(tmp_path) -> None:
    stages = dict.fromkeys(("load", "crop", "motion", "animate", "remux"), 0.0)
    page = build_gallery(tmp_path / "results", [], title="None", times=Times([], stages, {}))
    texts = section(page)
    assert texts.count("0 s") == 5
    assert not [text for text in texts if "Pairs" in text or "Jobs" in text]


def test_bars_count_every_pair_and_outlines_stay_in_the_drawing() -> None:
    films = [(100 + number % 7, 5.0 + number % 97 / 10) for number in range(50_000)] + [(100, 4000.0)]
    stages = {"load": 9000.0, "crop": 900.0, "motion": 900.0, "animate": 400_000.0, "remux": 20_000.0}
    shards = {
        f"pairs-{number:04}": {"load": 5.0, "animate": 160.0 + number % 50, "remux": 8.0} for number in range(2500)
    }
    told = drawn(Times(films, stages, shards))
    assert told["work"] == "4 days 23 h"
    assert told["pairs"]["logarithmic"], "one is 400 times slower than the others"
    assert all(x >= 0 and x + w <= WIDTH and y + h == HEIGHT for x, y, w, h in told["pairs"]["bars"])
    even = drawn(Times([(1, 1.0), (1, 1.1), (1, 9.9), (1, 10.0)], stages, {}))["pairs"]
    assert [height for *_, height in even["bars"]] == [HEIGHT, HEIGHT]
    assert (even["most"], even["count"], even["median"], even["frame"]) == ("2", "4", "5.5 s", "5.5 s")
    _, _, outline = told["shards"]["outlines"][-1]
    points = [[float(number) for number in step.split()] for step in re.findall(r"M(\S+ [^h]+)", outline)]
    assert len(points) == 2500
    assert points == sorted(points), "longest first: y = 0 is the top of the drawing"
    assert sum(map(len, (outline for *_, outline in told["shards"]["outlines"]))) < 500_000
