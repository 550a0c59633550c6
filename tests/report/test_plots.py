"""The plots of a run: there after `snakemake`, in its report, of all films, whatever failed."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from run_folder import REPOSITORY, RunFolder, draw_picture, jobs_in

from talkies.report.plots import Times, draw, measure
from talkies.run.plan import Plan


def title(svg: Path) -> str:
    found = re.search(r"<dc:title>Talkies: (.*?)</dc:title>", svg.read_text())
    assert found, svg
    return found[1]


def times_of(run: RunFolder, monkeypatch) -> Times:
    monkeypatch.chdir(run.path)
    return measure(Plan.load())


def test_a_run_draws_its_times_once(finished: RunFolder, tmp_path) -> None:
    run = finished.copy(tmp_path / "run")
    assert title(run.path / "results/plots.svg") == "6 of 6 pairs made, 0 failed"
    assert jobs_in(run.snakemake(), "plots") == 0
    before = (run.path / "results/plots.svg").read_bytes()
    assert "plots: results/plots.svg" in run.talkies("plots")
    assert (run.path / "results/plots.svg").read_bytes() == before


def test_times_are_those_of_records_and_journal(finished: RunFolder, monkeypatch) -> None:
    times = times_of(finished, monkeypatch)
    records = [finished.record(pair) for pair in finished.films()]
    assert sorted(times.films) == sorted((record["picture"]["frames"], record["seconds"]) for record in records)
    assert times.stages["animate"] == pytest.approx(sum(record["seconds"] for record in records))
    assert times.stages["remux"] == pytest.approx(sum(record["remux_seconds"] for record in records))
    assert all(seconds > 0 for seconds in times.stages.values())
    assert sorted(times.shards) == ["pairs-0001", "pairs-0002"]
    # Each of the two workers loaded the network; those of the motions did so too, for no shard of pairs.
    of_pairs = sum(seconds[0] for seconds in times.shards.values())
    assert 0 < of_pairs < times.stages["load"]
    assert sum(sum(seconds[1:]) for seconds in times.shards.values()) == pytest.approx(
        times.stages["animate"] + times.stages["remux"]
    )


def test_failed_pairs_are_counted_and_break_nothing(run: RunFolder, monkeypatch) -> None:
    (run.path / "images/broken.png").write_bytes(b"no picture")
    draw_picture(run.path / "images/new.png", (0, 90, 0))
    (run.path / ".talkies/sources/red.json").write_text('{"seconds": "damaged"}')
    run.snakemake(ok=False)
    assert title(run.path / "results/plots.svg") == "8 of 10 pairs made, 2 failed"
    assert (run.path / "results/index.html").exists()
    assert len(times_of(run, monkeypatch).films) == 8


def test_a_run_of_which_nothing_could_be_made_is_drawn(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["red"], clips=["a"])
    (run.path / "images/red.png").write_bytes(b"no picture")
    run.snakemake(ok=False)
    assert title(run.path / "results/plots.svg") == "0 of 1 pairs made, 1 failed"
    assert "no film was animated" in spoken(run.path / "results/plots.svg")


def spoken(svg: Path) -> str:
    """Return the texts that an SVG draws: matplotlib writes each as a comment beside its outlines."""
    return "\n".join(text.strip() for text in re.findall(r"<!--(.*?)-->", svg.read_text(), re.DOTALL))


def test_axes_are_labelled_with_units(finished: RunFolder) -> None:
    texts = spoken(finished.path / "results/plots.svg").splitlines()
    assert {"seconds a pair", "pairs", "frames of the film", "shards, the longest first"} <= set(texts)
    assert sum(text in ("seconds of one worker", "minutes of one worker") for text in texts) == 1
    assert {"crop", "find motion", "load the network", "animate", "put the sound on"} <= set(texts)


def test_thousands_of_pairs_stay_a_small_picture(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    films = [(100 + number % 7, 5.0 + number % 97 / 10) for number in range(50_000)] + [(100, 4000.0)]
    stages = {"prepare": 900.0, "motion": 900.0, "load": 9000.0, "animate": 400_000.0, "remux": 20_000.0}
    shards = {f"pairs-{number:04}": [5.0, 160.0 + number % 50, 8.0] for number in range(2500)}
    draw(Times(50_003, 2, films, stages, shards), tmp_path / "plots.svg")
    assert (tmp_path / "plots.svg").stat().st_size < 1_000_000
    assert "50,001 of 50,003 pairs made, 2 failed; 4 days 23 h of work in all" in spoken(tmp_path / "plots.svg")
    assert "hours of one worker" in spoken(tmp_path / "plots.svg")


def test_the_picture_is_whole_and_on_white(finished: RunFolder) -> None:
    svg = ElementTree.parse(finished.path / "results/plots.svg").getroot()
    names = {"svg": "http://www.w3.org/2000/svg"}
    ground = svg.find(".//svg:g[@id='patch_1']/svg:path", names)
    assert ground is not None
    assert "fill: #ffffff" in ground.get("style")
    assert float(svg.get("width").removesuffix("pt")) > 700


def test_the_report_carries_the_plots_by_themselves_and_with_the_gallery(run: RunFolder) -> None:
    run.snakemake("--report", "report.zip")
    with zipfile.ZipFile(run.path / "report.zip") as report:
        held = [name for name in report.namelist() if name.endswith("plots.svg")]
        assert len(held) == 2  # by itself, and where the gallery's link leads
        assert {report.read(name) for name in held} == {(run.path / "results/plots.svg").read_bytes()}


def test_drawing_leaves_nothing_in_the_home_folder(run: RunFolder, tmp_path, monkeypatch) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    monkeypatch.setenv("HOME", str(home))
    (run.path / "results/plots.svg").unlink()
    assert run.talkies("plots").strip() == "talkies: plots: results/plots.svg"
    assert list(home.iterdir()) == []


def test_the_snakefile_starts_without_matplotlib(run: RunFolder) -> None:
    (run.path / "matplotlib.py").write_text("raise SystemExit('matplotlib was imported')")
    (run.path / "Snakefile").write_text(
        "import sys\n"
        "sys.path.insert(0, '.')\n"
        f"include: {json.dumps(str(REPOSITORY / 'Snakefile'))}\n"
        "assert 'matplotlib' not in sys.modules\n"
        "workflow.default_target = 'all'\n"
    )
    result = run.run("snakemake", "-n")
    assert result.returncode == 0, result.stdout
