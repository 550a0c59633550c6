"""Crops are square, around the face, never squeezed, and shifted before they are padded."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folder import REPOSITORY

from talkies.errors import InputError, TalkiesError
from talkies.files import to_plain, typed
from talkies.media import crop
from talkies.media.clip import probe
from talkies.media.crop import Box, Crop, crop_picture, find_crop, fit, parse
from talkies.media.frames import read_frames
from talkies.media.pictures import read_picture

ASTRONAUT = REPOSITORY / "examples" / "images" / "astronaut.png"  # one face at (114, 63), 89 x 112


def astronaut() -> np.ndarray:
    return read_picture(ASTRONAUT)


def still(path: Path, pictures: list[np.ndarray], rate: str = "10") -> Path:
    """Write a clip of these pictures."""
    height, width = pictures[0].shape[:2]
    data = b"".join(picture.tobytes() for picture in pictures)
    clips.ffmpeg(*clips.raw(rate, width, height), *clips.X264, path, stdin=data)
    return path


def moved(across: int, down: int = 0, side: int = 256) -> np.ndarray:
    """The astronaut's head on grey, moved."""
    canvas = np.full((side, side * 3 // 2, 3), 110, np.uint8)
    head = astronaut()[30:200, 70:250]
    canvas[40 + down : 40 + down + 170, across : across + 180] = head
    return canvas


# --- requests ---


def test_parse(subtests: pytest.Subtests) -> None:
    for spec, plain in [
        ("face", "face"),
        (" Center ", "center"),
        ("none", "none"),
        ("Face:Left", "face:left"),
        ("face:12", "face:12"),
        ("10,20,30,40", [10, 20, 30, 40]),
        ("-5, 0, 12.6, 40", [-5, 0, 13, 40]),
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ((1.0, 2, 3, 4), [1, 2, 3, 4]),
    ]:
        with subtests.test(repr(spec)):
            parsed = parse(spec)
            assert parsed.plain == plain
            again = parse(json.loads(json.dumps(parsed.plain)))
            assert (again, hash(again)) == (parsed, hash(parsed))
            assert parsed not in (parse("face:3"), parse("1,1,1,1"))


def test_what_is_no_request_is_named(subtests: pytest.Subtests) -> None:
    for spec in (
        "", "faces", "face:0", "face:top",
        "1,2,3", "1,2,3,4,5", "1,2,0,4", "1,2,3,-4", "a,b,c,d", "nan,0,1,1", "inf,0,1,1", "1e9,0,5,5",
        [1, 2], [], None, 7, [True, 0, 1, 1], {"x": 1}, [[1], 2, 3, 4],
    ):  # fmt: skip
        with subtests.test(repr(spec)), pytest.raises(TalkiesError, match="crop"):
            parse(spec)


# --- geometry ---

sides = st.integers(8, 5000)


@settings(deadline=None)
@given(x=st.floats(-6000, 6000), y=st.floats(-6000, 6000), side=sides, width=sides, height=sides)
def test_fitted_box_is_inside_or_centred(x: float, y: float, side: int, width: int, height: int) -> None:
    box = fit(x, y, side, width, height)
    assert box.side == side
    for start, length, wanted in ((box.x, width, x), (box.y, height, y)):
        if side <= length:
            assert 0 <= start <= length - side
            if side / 2 <= wanted <= length - side / 2:
                assert abs(start + side / 2 - wanted) <= 0.5
        else:  # the picture is too small: equal margins on both sides, each at most half of the box
            left, right = -start, start + side - length
            assert left >= 0
            assert right >= 0
            assert abs(left - right) <= 1
            assert 2 * left <= side


# --- pictures ---


def circle(height: int, width: int, radius: int = 20) -> np.ndarray:
    """A white disc in the middle of black."""
    y, x = np.mgrid[:height, :width]
    inside = (x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 <= radius**2
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("shape", [(120, 60), (60, 120), (100, 100), (61, 97)])
def test_nothing_is_squeezed(shape: tuple[int, int]) -> None:
    """A disc stays as wide as high, scaled like the box."""
    for request_, side in (("none", max(shape)), ("center", min(shape)), ("20,10,30,50", 50)):
        image, made = crop_picture(circle(*shape, radius=12), parse(request_), name="a.png", size=256)
        assert image.shape == (256, 256, 3)
        assert made.box.side == side, request_
        if side != 50:
            inside = image[..., 0] > 127
            across, down = inside.any(0).sum(), inside.any(1).sum()
            assert abs(across - down) <= 3, request_
            assert abs(across - 25 * 256 / side) <= 256 / side + 2, request_


def test_box_is_shifted_before_it_is_padded() -> None:
    image = astronaut()
    for request_, box in {
        (0, 100, 40, 80): Box(0, 100, 80),  # widened over the left edge: shifted
        (300, 300, 20, 20): Box(300, 300, 20),
        (310, 0, 40, 40): Box(280, 0, 40),
        (-20, -20, 40, 40): Box(0, 0, 40),
        (0, 0, 400, 10): Box(-40, -40, 400),  # larger than the picture: padded on both sides
    }.items():
        made = crop_picture(image, parse(request_), name="a.png")[1]
        assert made.box == box
        assert made == Crop("box", box, None, True, None)


def test_padding_repeats_the_edge() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[0], image[-1] = (200, 0, 0), (0, 0, 200)
    padded = crop.cut(image, Box(0, -10, 40))
    assert padded.shape == (40, 40, 3)
    assert (padded[:11] == (200, 0, 0)).all()
    assert (padded[-11:] == (0, 0, 200)).all()


@pytest.mark.parametrize("scale", [0.5, 1, 4, 12])
def test_face_is_found_at_any_size(scale: float) -> None:
    side = round(320 * scale)
    image, made = crop_picture(crop.resize(astronaut(), side), parse("face"), name="a.png")
    assert image.shape == (256, 256, 3)
    assert (made.mode, made.faces, made.found, made.warning) == ("face", 1, True, None)
    box = made.box
    assert box.side == pytest.approx(134 * scale, rel=0.12)
    assert box.x + box.side / 2 == pytest.approx(158 * scale, rel=0.08)
    assert box.y + box.side / 2 == pytest.approx(119 * scale, rel=0.08)


def two_faces() -> np.ndarray:
    """A large face on the left, a small one on the right."""
    small = crop.resize(astronaut()[20:220, 60:260], 90)
    image = np.full((320, 460, 3), 120, np.uint8)
    image[:, :320] = astronaut()
    image[100:190, 350:440] = small
    return image


@pytest.mark.parametrize(
    ("request_", "left"),
    [("face", True), ("face:left", True), ("face:right", False), ("face:1", True), ("face:2", False)],
)
def test_of_several_faces_the_largest_or_the_one_asked_for(tmp_path: Path, request_: str, left: bool) -> None:
    made = crop_picture(two_faces(), parse(request_), name="a.png")[1]
    film = find_crop(probe(still(tmp_path / "two.mp4", [two_faces()])), parse(request_))
    for cut in (made, film):
        assert (cut.mode, cut.faces, cut.found) == (request_, 2, True)
        assert (cut.box.x < 150) == left
        assert typed(to_plain(cut), Crop) == cut


def test_a_face_that_is_not_there_is_an_error_by_name() -> None:
    with pytest.raises(InputError, match=r"a\.png: its crop asks for face 3 from the left, and 2 can be seen"):
        crop_picture(two_faces(), parse("face:3"), name="a.png")
    assert not crop_picture(np.full((60, 100, 3), 90, np.uint8), parse("face:2"), name="wall.png")[1].found


def test_drawn_faces_are_found_at_any_size() -> None:
    for path in sorted(ASTRONAUT.parent.glob("*")):
        image = read_picture(path)
        for side in (min(image.shape[:2]), 900):
            made = crop_picture(crop.resize(image, side), parse("face"), name=path)[1]
            assert made.found, (path.name, side)
            assert made.box.side > 0.35 * side


def test_detector_leaves_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    crop._detector.cache_clear()
    crop.find_faces(astronaut())
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    crop._detector.cache_clear()
    crop.find_faces(astronaut())
    assert "OMP_NUM_THREADS" not in os.environ


# --- clips ---


def test_one_box_holds_the_face_of_every_frame(tmp_path: Path) -> None:
    steps = [0, 10, 20, 30, 20, 10, 0, 5]
    clip = probe(still(tmp_path / "a.mp4", [moved(60 + step) for step in steps], "4"))
    made = find_crop(clip, parse("face"))
    assert (made.found, made.faces, made.warning) == (True, 1, None)
    # in the pasted part the face is at about (44, 33), 89 x 112 pixels
    assert made.box.x <= 60 + 44
    assert made.box.x + made.box.side >= 60 + 30 + 44 + 89
    assert made.box.side == pytest.approx(1.2 * 119, rel=0.15)
    frame = next(read_frames(clip, box=made.box, size=256))
    assert crop.find_faces(frame)


def test_a_face_that_moves_away_ends_its_tube(tmp_path: Path) -> None:
    """Six frames on the left, then two on the right: the box follows the longer stay."""
    clip = probe(still(tmp_path / "a.mp4", [moved(0)] * 6 + [moved(200)] * 2, "4"))
    made = find_crop(clip, parse("face"))
    assert made.faces == 2
    assert made.box.x + made.box.side < 200
    later = find_crop(clip, parse("face"), start=1.5)
    assert later.faces == 1
    assert later.box.x > 150


def close_up(side: int = 640) -> np.ndarray:
    """The astronaut's face, more than half as wide as the picture."""
    return crop.resize(astronaut()[40:200, 80:240], side)


def far_away(across: int, face: int, side: int = 640) -> np.ndarray:
    """The astronaut's head on grey, with a face so many pixels wide."""
    scale = face / 89
    canvas = np.full((side, side, 3), 110, np.uint8)
    head = crop.resize(astronaut()[30:200, 70:250], (round(180 * scale), round(170 * scale)))
    canvas[300 : 300 + head.shape[0], across : across + head.shape[1]] = head
    return canvas


def test_a_small_face_is_found_after_a_large_one_has_left(tmp_path: Path) -> None:
    clip = probe(still(tmp_path / "a.mp4", [close_up()] * 6 + [far_away(500, 24)] * 10, "5"))
    assert find_crop(clip, parse("face")).box.side > 400
    small = find_crop(clip, parse("face:right"))
    assert small.faces == 2
    assert (small.box.side < 60, small.box.x > 480) == (True, True)


def test_of_two_people_of_different_size_in_a_clip_the_one_asked_for(tmp_path: Path) -> None:
    frame = far_away(20, 24)
    frame[100:600, 130:630] = crop.resize(astronaut()[40:200, 80:240], 500)
    frame[300:350, 20:70] = far_away(20, 24)[300:350, 20:70]
    clip = probe(still(tmp_path / "a.mp4", [frame] * 10, "5"))
    sides = [find_crop(clip, parse(request_)).box.side for request_ in ("face", "face:left", "face:2")]
    assert sides[1] < 60 < 300 < sides[0] == sides[2]


@pytest.mark.parametrize(("seen", "said"), [(3, "the chosen face is in 3 of 10 frames looked at"), (6, None)])
def test_face_seen_in_less_than_half_of_the_frames_warns(tmp_path: Path, seen: int, said: str | None) -> None:
    empty = np.full_like(moved(0), 110)
    made = find_crop(probe(still(tmp_path / "a.mp4", [moved(60)] * seen + [empty] * (10 - seen), "5")), parse("face"))
    assert (made.found, made.warning) == (True, said)


def test_no_face_gives_the_centre_and_a_warning() -> None:
    wall = crop_picture(np.full((60, 100, 3), 90, np.uint8), parse("face"), name="dir/wall.png")[1]
    film = find_crop(probe(clips.get("plain.mp4")), parse("face"))
    for made, box in ((wall, Box(20, 0, 60)), (film, Box(16, 0, 64))):
        assert (made.box, made.faces, made.found) == (box, 0, False)
        assert made.warning is not None
        assert "no face" in made.warning


@pytest.mark.parametrize(
    ("name", "request_", "box"),
    [
        ("plain.mp4", "center", Box(16, 0, 64)),
        ("plain.mp4", "none", Box(0, -16, 96)),
        ("turned.mp4", "center", Box(0, 16, 64)),
        ("sar.mp4", "none", Box(0, -40, 144)),
        ("portrait.mp4", "none", Box(-24, 0, 112)),
        ("plain.mp4", "30,10,20,10", Box(30, 5, 20)),
    ],
)
def test_other_modes_need_no_look_at_the_clip(name: str, request_: str, box: Box) -> None:
    clip = probe(clips.get(name))
    made = find_crop(clip, parse(request_))
    assert made == Crop("box" if "," in request_ else request_, box, None, True, None)
    assert next(read_frames(clip, box=made.box, size=128)).shape == (128, 128, 3)


def test_face_in_anamorphic_pixels_is_not_squeezed(tmp_path: Path) -> None:
    """The same face, stored at half its width with pixels twice as wide."""
    squeezed = crop.resize(astronaut(), (160, 320))
    clips.ffmpeg(
        *clips.raw("10", 160, 320), "-vf", "setsar=2", *clips.X264, tmp_path / "a.mp4", stdin=squeezed.tobytes() * 5
    )
    made = find_crop(probe(tmp_path / "a.mp4"), parse("face"))
    assert made.box.side == pytest.approx(134, abs=14)
    assert abs(made.box.x + made.box.side / 2 - 158) <= 12


def test_long_clips_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(crop, "faces_at", lambda side, frame: looked.append(frame) or [(9, 9, 9, 9)])
    path = still(tmp_path / "a.mp4", [clips.frame(0)] * 100, "1")  # 100 s
    find_crop(probe(path), parse("face"))
    assert 0 < len(looked) <= crop.MOST_FRAMES
    looked.clear()
    clip = probe(clips.get("plain.mp4"))
    find_crop(clip, parse("face"))
    assert crop.FEWEST_FRAMES - 1 <= len(looked) <= clip.duration * max(crop.FRAMES_A_SECOND, 8) + 1
    looked.clear()
    find_crop(clip, parse("face"), start=Fraction(1, 2), end=1)
    assert len(looked) <= 16
