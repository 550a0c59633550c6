"""The check of every file before animation: what it finds, reports and keeps, and that no film waits for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
from PIL import Image, ImageFilter
from run_folder import REPOSITORY, RunFolder, draw_picture, jobs_in

from talkies import media
from talkies.files import typed
from talkies.fomm.model.presets import BETTER, PRESETS
from talkies.media import crop
from talkies.run.pairs import Source, Take
from talkies.stages.check import SMALL_SIDE, findings_of
from talkies.stages.check_file import Seen, SeenClip, look, sharpness

EXAMPLES = REPOSITORY / "examples"
ANNA = EXAMPLES / "driving/anna.mp4"
TURNED = ("-ss", "1.66")  # from here on the head is turned, unlike in every picture


@pytest.fixture(scope="module")
def looked(tmp_path_factory) -> RunFolder:
    """A folder of good and bad files, after a check."""
    path = tmp_path_factory.mktemp("check") / "run"
    run = RunFolder.create(path, images=[], clips=[])
    run.configure(crop=None, check=True, engine="fomm")
    images, driving = path / "images", path / "driving"
    face = Image.open(EXAMPLES / "images/ada.png").convert("RGB")
    face.save(images / "good.png")
    face.resize((96, 96)).save(images / "small.png")
    face.filter(ImageFilter.GaussianBlur(5)).save(images / "blurred.png")
    both = Image.new("RGB", (1024, 512))
    both.paste(face, (0, 0))
    both.paste(Image.open(EXAMPLES / "images/bruno.jpg"), (512, 0))
    both.save(images / "two.png")
    Image.new("RGB", (200, 200), (90, 90, 90)).save(images / "wall <i>.png")
    (images / "broken.png").write_bytes(b"no picture")
    copy = ["-c:v", "libx264", "-preset", "ultrafast"]
    clips.ffmpeg("-i", ANNA, "-t", "1", *copy, "-c:a", "copy", driving / "plain.mp4")
    clips.ffmpeg("-i", ANNA, *TURNED, *copy, "-an", driving / "turned.mp4")
    run.output = run.talkies("check", ok=False)
    return run


def finding(run: RunFolder, name: str) -> dict:
    found = json.loads((run.path / ".talkies/check.json").read_text())
    return next(item for item in found["files"] if item["name"] == name)


def texts(run: RunFolder, name: str) -> str:
    return "; ".join(f"{p['level']} {p['text']}: {p['advice']}" for p in finding(run, name)["problems"])


def test_a_good_picture_and_clip_are_told_with_what_was_seen(looked: RunFolder) -> None:
    good, plain = finding(looked, "good"), finding(looked, "plain")
    assert good["problems"] == plain["problems"] == []
    assert (good["facts"]["width"], good["facts"]["crop"]["faces"]) == (512, 1)
    assert good["facts"]["sharpness"] > 100
    assert np.ptp(plain["motion"]["mouth"]) > 0.05
    assert np.ptp(plain["motion"]["head"]) > 0.05
    assert (plain["facts"]["seconds"], plain["facts"]["rate"], plain["facts"]["sound"]) == (1.0, "25", "aac")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", ["fails", "not a picture", "mend or remove"]),
        ("wall <i>", ["look", "no face found", "give a box"]),
        ("small", ["look small: ", "pixels become 256", "larger copy"]),
        ("blurred", ["look blurred", "sharper"]),
        ("two", ["note 2 faces: the largest is taken", "face:left"]),
        (
            "turned",
            ["note no sound", "look head turned in its first frame", "files: {turned.mp4: {best_frame: "],
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(looked: RunFolder, name: str, words: list[str]) -> None:
    assert all(word in texts(looked, name) for word in words), texts(looked, name)
    assert all(word.split(" ", 1)[-1] in looked.output for word in words if word not in ("fails", "look"))


def test_problems_come_first_in_the_table_and_on_the_page(looked: RunFolder) -> None:
    lines = looked.output.splitlines()
    assert lines[0].startswith("!! broken.png")
    assert "8 files: 3 good, 4 to look at, 1 unusable: results/check.html" in lines[-1]
    page = (looked.path / "results/check.html").read_text()
    names = ("broken.png", "wall &lt;i&gt;.png", "two.png", "good.png", "turned.mp4", "plain.mp4")
    order = [page.index(f"<h3>{name}</h3>") for name in names]
    order.insert(4, page.index("<h2>Driving videos</h2>"))
    assert order == sorted(order)
    assert '<p class="said">6 files: 2 good, 3 to look at, 1 unusable</p>' in page
    assert '<p class="said">2 files: 1 good, 1 to look at, 0 unusable</p>' in page
    assert f"{SMALL_SIDE} the film looks soft" in page
    assert "index.html" not in page, "there is no gallery yet"
    assert page.count("data:image/jpeg") == 7
    assert "<i>" not in page


def test_what_was_seen_is_kept_by_content(looked: RunFolder, tmp_path: Path) -> None:
    copy = looked.copy(tmp_path / "copy", times=False)
    times = {path: path.stat().st_mtime_ns for path in copy.path.glob(".talkies/check/*.json")}
    (copy.path / "images/good.png").rename(copy.path / "images/renamed.png")
    assert "3 good, 4 to look at, 1 unusable" in copy.talkies("check", ok=False)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(list(copy.path.glob(".talkies/check/*.json"))) == 8
    assert finding(copy, "renamed")["facts"] == finding(looked, "good")["facts"]


@pytest.mark.parametrize("share", [1, 8])
def test_a_large_picture_is_told_of_in_its_own_pixels(tmp_path: Path, share: int) -> None:
    """Also if the face is a small part of the picture, which is stored rotated."""
    face = Image.open(EXAMPLES / "images/ada.png").convert("RGB").resize((3200 // share, 3200 // share))
    large = Image.new("RGB", (3600, 3200), (120, 130, 140))
    large.paste(face, (100, 200))
    exif = Image.Exif()
    exif[0x112] = 6  # shown rotated by 90 degrees
    path = tmp_path / "large.jpg"
    large.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=exif)
    facts, crops = look(Source(str(path), crop.parse("face")))
    picture = media.read_picture(path)
    square, cut = crop.crop_picture(picture, crop.parse("face"), name=path)
    assert isinstance(facts, Seen)
    assert crops is not None
    assert (facts.width, facts.height) == (picture.shape[1], picture.shape[0]) == (3600, 3200)
    assert facts.crop.faces == cut.faces == 1
    off = np.abs(np.subtract(facts.crop.box, cut.box))
    assert off.max() <= 0.03 * cut.box.side
    assert facts.sharpness == pytest.approx(sharpness(square), rel=0.25)
    assert np.abs(crops[0].astype(int) - square).mean() < 8


def doubts_of_pictures(run: RunFolder) -> dict[str, list[str]]:
    """Return the warnings about each picture in the gallery's data."""
    page = (run.path / "results/index.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    return {name: doubts for name, _, doubts, _ in data["pictures"]}


def test_a_run_checks_beside_its_films_and_a_new_picture_checks_again_without_touching_them(run: RunFolder) -> None:
    run.configure(pairs_per_job=3, check=True)
    output = run.snakemake()
    assert [jobs_in(output, rule) for rule in ("check", "gallery", "animate", "remux")] == [1, 1, 0, 0]
    assert 'href="check.html"' in (run.path / "results/index.html").read_text()
    assert (run.path / "results/check.html").exists()
    (run.path / "images/broken.png").write_bytes(b"no picture")
    output = run.snakemake(ok=False)
    assert [jobs_in(output, rule) for rule in ("check", "animate")] == [1, 1]
    assert run.events("animate") == []
    assert "0 good, 5 to look at, 1 unusable" in (run.path / "results/index.html").read_text()
    small = "small: 64 pixels become 256: take a larger copy of it"
    assert doubts_of_pictures(run) == {"red": [small], "green": [small], "blue": [small], "broken": []}
    # Warnings about a replaced picture are not shown for the new one.
    draw_picture(run.path / "images/red.png", (9, 9, 9), size=300)
    run.configure(pairs_per_job=3)
    run.snakemake(ok=False)
    assert doubts_of_pictures(run) == {"red": [], "green": [small], "blue": [small], "broken": []}


def test_a_photograph_for_a_network_of_drawings_and_a_face_that_leaves_its_crop_are_told(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=[], clips=[])
    for name in ("astronaut.png", "ada.png"):
        shutil.copy(EXAMPLES / "images" / name, run.path / "images")
    run.configure(crop=None, check=True, model={"preset": "demo-drawings"})
    walk = "pad=3*iw:ih:iw:0,crop=2*iw/3:ih:if(gt(t\\,0.6)\\,0\\,iw/3):0"  # the face moves from one half to the other
    still = "select=eq(n\\,0),loop=24:1,setpts=N/25/TB"
    for name, filters in (("walk", walk), ("still", still)):
        clips.ffmpeg("-i", ANNA, "-t", "1", "-vf", filters, "-preset", "ultrafast", run.path / f"driving/{name}.mp4")
    run.talkies("check")
    assert "look neither mouth nor head moves in it" in texts(run, "still")
    assert "one of the photographs, and demo-drawings knows drawings: model: preset: demo" in texts(run, "astronaut")
    assert texts(run, "ada") == ""
    assert "look its face leaves the crop" in texts(run, "walk")
    run.configure(crop=None, check=True, model={"preset": "demo"})
    assert BETTER.format("model: {preset: vox-adv-256}") in run.talkies("check").splitlines()
    page = (run.path / "results/check.html").read_text()
    assert "talkies checkpoint fetch vox-adv-256" in page
    assert page.count("<polyline") == 4
    teeth = "look its mouth is open or shows teeth, which blur: take one that looks ahead with its mouth shut"
    assert texts(run, "astronaut").startswith(teeth)
    run.configure(crop=None, check=True, engine="cp {source} {driving} {output}")
    assert "vox-adv-256" not in run.talkies("check"), "the package's network does not make these films"


def test_two_files_of_one_name_or_of_one_content_are_told_apart(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=[], clips=[])
    for name in ("me.png", "copy.png"):
        shutil.copy(EXAMPLES / "images/ada.png", run.path / "images" / name)
    clips.ffmpeg("-i", ANNA, *TURNED, "-preset", "ultrafast", run.path / "driving/me.mp4")
    run.configure(crop=None, check=True, engine="fomm")
    for _ in ("anew", "from what is kept"):
        run.talkies("check")
        files = json.loads((run.path / ".talkies/check.json").read_text())["files"]
        found = {(item["name"], item["clip"]): item["problems"] for item in files}
        assert found["me", False] == found["copy", False] == []
        assert "head turned in its first frame" in found["me", True][0]["text"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop": {"warning": "the chosen face is in 3 of 10 frames"}}, "look the chosen face is in 3 of 10 frames"),
        (
            {"faces_seen": [False, True]},
            "look no face in its first frame, from which motion is counted: begin where one",
        ),
        ({"hdr": "PQ"}, "note its colours are HDR (PQ): mapped to the usual range"),
        ({"truncated": True}, "look damaged or cut short: what is there is used"),
        ({"face_outside": 2}, "look its face leaves the crop, which does not follow it (2 of about 12 looks)"),
        ({"seconds": 0.2}, "look short: 0.2 s"),
        ({"seconds": 200.0, "frames": 5000}, "note long: 5000 frames are made for each picture"),
        ({"rate": "10"}, "note only 10 frames a second: the film jerks"),
        ({"remark": "its sound can't be decoded"}, "note its sound can't be decoded"),
        ({"sound": None}, "note no sound: its films are silent"),
        ({}, ""),
    ],
    ids=str,
)
def test_what_is_said_of_a_clip_by_what_was_seen_of_it(change: dict, words: str) -> None:
    cut = {"mode": "face", "box": [0, 0, 200], "faces": 1, "found": True}
    facts = {"width": 300, "height": 200, "crop": cut, "sharpness": 99.0, "photograph": True, "rate": "25"}
    facts |= {"sampled_rate": "5", "variable_rate": False, "truncated": False, "faces_seen": [True], "face_outside": 0}
    facts |= {"seconds": 4.0, "frames": 100, "sound": "aac", "remark": None, "hdr": None, "thumb": ""}
    seen = typed(facts | change | {"crop": cut | change.get("crop", {})}, SeenClip)
    finding = findings_of("a", Take("a", "a.mp4", crop.parse("face")), seen, PRESETS["demo"])
    said = [f"{problem.level} {problem.text}: {problem.advice}" for problem in finding.problems]
    assert len(said) == bool(words)
    assert not words or said[0].startswith(words)
