"""What `talkies check` says about the frame that motion is counted from, and which better frame it names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import clips
import pytest
from run_folder import REPOSITORY, RunFolder

from talkies import load_model
from talkies.media.crop import parse
from talkies.run.pairs import Take
from talkies.stages import check_file

HEADS = REPOSITORY / "tests/data/heads"
RATE = 12
SAID = "in its first frame, from which motion is counted"
# Each clip is a sequence of stills of a rendered head: a pose and its number of frames.
SHOWN = {
    "well": [("rest", 9), ("open", 4), ("blink", 4), ("rest", 7)],
    "asleep": [("blink", 5), ("open", 5), ("rest", 7), ("left", 7)],
    "talks": [("open", 4), ("blink", 4), ("rest", 9), ("right", 7)],
    "turned": [("left", 5), ("rest", 7), ("open", 5), ("right", 7)],
}


def write_clip(path: Path, shown: list[tuple[str, int]], person: int = 2) -> None:
    stills = [HEADS / f"{person}-{pose}.jpg" for pose, _ in shown]
    entries = [f"file '{still}'\nduration {count / RATE}\n" for still, (_, count) in zip(stills, shown, strict=True)]
    path.with_suffix(".txt").write_text("".join(entries) + f"file '{stills[-1]}'\n")
    listed = ["-f", "concat", "-safe", "0", "-i", path.with_suffix(".txt")]
    clips.ffmpeg(*listed, "-vf", f"fps={RATE}", "-pix_fmt", "yuv420p", path)
    path.with_suffix(".txt").unlink()


def problems(run: RunFolder) -> dict[str, dict[str, str]]:
    """Return what check says about each driving video's first frame: the text and the advice."""
    found = json.loads((run.path / ".talkies/check.json").read_text())["files"]
    videos = [item for item in found if item["clip"]]
    return {item["file"]: {p["text"]: p["advice"] for p in item["problems"] if SAID in p["text"]} for item in videos}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with a picture, and a clip for each way to begin."""
    run = RunFolder.create(tmp_path_factory.mktemp("first") / "run", images=[], clips=[])
    shutil.copy(HEADS / "1-rest.jpg", run.path / "images")
    for name, shown in SHOWN.items():
        write_clip(run.path / f"driving/{name}.mp4", shown)
    run.configure(engine="fomm", crop=None)
    return run


def test_a_turned_head_in_the_first_frame_is_said_and_a_better_frame_is_named(run: RunFolder) -> None:
    output = run.talkies("check")
    said = {Path(file).stem: told for file, told in problems(run).items()}
    ((text, advice),) = said.pop("turned").items()
    assert set(map(len, said.values())) == {0}, "lids and lips count from frames in which they are at rest"
    assert text == f"head turned {SAID}"
    assert advice in output
    number, start = re.search(r"best_frame: (\d+).*start: ([\d.]+)", advice).groups()
    frames = [pose for pose, count in SHOWN["turned"] for _ in range(count)]
    assert frames[int(number)] == frames[round(float(start) * RATE)] == "rest", advice
    assert f"files: {{turned.mp4: {{best_frame: {number}}}}} counts from a better one" in advice

    # The advised frame, the advised start and best_frame: auto each remove the warning.
    for chosen in ({"best_frame": int(number)}, {"start": float(start)}, {"best_frame": "auto"}):
        run.configure(engine="fomm", crop=None, files={"turned.mp4": chosen})
        run.talkies("check")
        assert all(told == {} for told in problems(run).values()), chosen

    # With a start in the middle, the frame's number counts from there, as in best_frame; mirroring changes nothing.
    begins = 3 / RATE
    run.configure(engine="fomm", crop=None, files={"turned.mp4": {"start": begins, "flip": True}})
    run.talkies("check")
    told = next(told for file, told in problems(run).items() if "turned" in file)
    number, start = re.search(r"best_frame: (\d+).*start: ([\d.]+)", *told.values()).groups()
    assert float(start) == pytest.approx(begins + int(number) / RATE, abs=0.01)
    assert frames[int(number) + 3] == "rest"


def test_a_frame_that_is_no_better_when_it_is_decoded_exactly_is_not_named(run: RunFolder, monkeypatch) -> None:
    """A sampled frame may be the one before, so both frames are decoded again; here every one is as the first."""
    take = Take("turned", str(run.path / "driving/turned.mp4"), parse("face"))
    seen, crops = check_file.look(take)
    monkeypatch.setattr(check_file, "_pose_of_frame", lambda network, wanted, facts, number: facts.poses[0])
    check_file.look_at_poses(load_model("demo"), take, seen, crops)
    assert seen.better is None


def test_nothing_is_said_where_motion_is_not_counted_from_it(run: RunFolder) -> None:
    run.configure(engine="fomm", crop=None, motion={"relative": False})
    run.talkies("check")
    assert all(told == {} for told in problems(run).values())


def test_a_picture_whose_head_is_held_otherwise_than_in_a_good_first_frame_is_told(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=[], clips=[])
    shutil.copy(REPOSITORY / "examples/driving/anna.mp4", run.path / "driving")
    clips.ffmpeg("-ss", "1.66", "-i", run.path / "driving/anna.mp4", "-frames:v", "1", run.path / "images/a.png")
    run.configure(engine="fomm", crop=None)
    output = run.talkies("check")
    assert "its first frame's pose is far from that of 1 picture (a): motion: best_frame: auto" in output
    assert SAID not in output
