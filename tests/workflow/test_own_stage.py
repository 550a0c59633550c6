"""A stage that a run folder adds, by the page docs/extending.md alone: it is planned, made, shown and forgotten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder, jobs_in

from talkies import media
from talkies.errors import TalkiesError
from talkies.settings import complete
from talkies.stages import table


def test_a_stage_of_ones_own_is_planned_made_shown_and_forgotten(run: RunFolder) -> None:
    page = (REPOSITORY / "docs/extending.md").read_text()
    (run.path / "stages").mkdir()
    for name, code in zip(
        ("caption.py", "caption.smk"), re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True
    ):
        (run.path / "stages" / name).write_text(code)
    assert " 0 to make" in run.talkies("status"), "without its setting it changes nothing"
    run.configure(pairs_per_job=3, own={"caption": "red"})
    said = run.snakemake("-n")
    assert "; 6 to make, 0 of them to animate" in said
    assert [jobs_in(said, rule) for rule in ("animate", "caption", "remux")] == [0, 2, 2]
    assert "6 to make (6 of them animated)" in run.talkies("status")
    run.snakemake()
    assert run.events("animate") == [], "its pictures are taken from the talkies"
    assert len(run.events("caption")) == len(run.events("remux")) == 6
    assert sorted(path.name.partition(".")[0] for path in (run.path / ".talkies/logs/caption").iterdir()) == [
        *("pairs-0001", "pairs-0002"),
    ]
    frame = next(iter(media.read_frames(media.probe(run.film("a/red")))))
    assert frame[-8:, :, 0].mean() > 200 > frame[-8:, :, 1].mean()
    assert ">caption<" in Path(run.path / "results/index.html").read_text().replace("\n", ""), "its time is shown"
    assert "Nothing to be done" in run.snakemake()
    run.forget_events()
    run.talkies("forget", "a/red")
    run.snakemake()
    assert [run.events(stage) for stage in ("animate", "caption", "remux")] == [["a/red"]] * 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import nothing_there",
            "this stage can't be read (ModuleNotFoundError: No module named 'nothing_there'): mend",
        ),
        ("STAGE, AFTER = 1, 'show'", "STAGE must be a talkies.run.plan.Stage, and AFTER a stage's name"),
        ("from talkies.stages.show import STAGE; AFTER = 'remux'", "AFTER must name one of crop, cut, motion, animate"),
    ],
)
def test_a_stage_that_will_not_do_is_named(tmp_path: Path, monkeypatch, code: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stages").mkdir()
    Path("stages/mine.py").write_text(code)
    with pytest.raises(TalkiesError, match=re.escape(f"stages/mine.py: {said}")):
        table(complete({}))
