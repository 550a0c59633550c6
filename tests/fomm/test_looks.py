"""The choice between the demo preset's two networks: what counts as a photograph, and what depends on that."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from portraits import STYLES, Portrait, Pose, sample_identity
from run_folder import REPOSITORY

import talkies
from talkies.engines import Movement
from talkies.fomm.engine import Engine
from talkies.fomm.model.looks import DRAWN, is_photograph, steepness
from talkies.fomm.model.presets import PRESETS
from talkies.fomm.motion import detect_motion, frames_to_tensor
from talkies.fomm.precision import fast_form
from talkies.media import crop

PHOTOGRAPHS = ("astronaut.png", "nora.jpg", "yusuf.jpg")
DRAWINGS = ("ada.png", "bruno.jpg", "cat.png", "moon.png", "pencil.png")


def face(name: str) -> np.ndarray:
    picture = talkies.media.read_picture(REPOSITORY / "examples/images" / name)
    return crop.crop_picture(picture, crop.LARGEST_FACE, name=name)[0]


def saved(picture: np.ndarray, quality: int) -> np.ndarray:
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "JPEG", quality=quality)
    return np.asarray(Image.open(written))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_is_one_also_when_it_is_small_grey_dark_or_poorly_saved(name: str) -> None:
    picture = face(name)
    small = np.asarray(Image.fromarray(picture).resize((90, 90)).resize((256, 256)))
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    for changed in (picture, saved(picture, 50), small, grey, picture // 2, picture[:, ::-1]):
        assert is_photograph(changed)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_none(name: str) -> None:
    picture = face(name)
    for changed in (picture, saved(picture, 95), picture[:, ::-1]):
        assert not is_photograph(changed)


def test_drawn_portraits_of_every_style_are_told_from_rendered_people() -> None:
    for number, style in enumerate(STYLES * 6):
        drawn = Portrait(sample_identity(1_000_000 + number, "human", style), 256).draw(Pose(scale=1.2))[0]
        assert steepness(drawn) > 1.5 * DRAWN, (number, style)
    for path in sorted((REPOSITORY / "tests/data/heads").glob("*.jpg")):
        assert is_photograph(np.asarray(Image.open(path))), path.name


def test_each_picture_and_clip_has_the_network_that_fits_it() -> None:
    demo, drawings, photographs = (talkies.load_model(name) for name in ("demo", "demo-drawings", "demo-photographs"))
    photograph, drawing = (frames_to_tensor(face(name)[None]) for name in ("nora.jpg", "ada.png"))
    for picture, alone in ((photograph, photographs), (drawing, drawings)):
        kp, expected = demo.keypoints(picture), alone.keypoints(picture)
        assert torch.equal(kp.value, expected.value)
        made = demo.generate(picture, kp, kp).prediction
        assert torch.equal(made, demo.generate(demo.encode(picture), kp, kp).prediction)
        assert torch.equal(made, alone.generate(picture, kp, kp).prediction)
    # The first frame decides a clip's network, whatever the clip shows later.
    clip = [face("nora.jpg"), *[face("ada.png")] * 9]
    value = detect_motion(demo, clip, Fraction(25), batch=4).value
    assert np.array_equal(value, detect_motion(photographs, clip, Fraction(25), batch=4).value)


def test_the_engine_tells_which_network_makes_a_film() -> None:
    with Engine(fast_form(talkies.load_model("demo"), "fp32"), threads=1) as engine:
        for name in ("nora", "ada"):
            engine.prepare(name, face(f"{name}.{'jpg' if name == 'nora' else 'png'}"))
        assert [engine.network(name) for name in ("nora", "ada")] == ["photographs", "drawings"]
    with Engine(fast_form(talkies.load_model("demo-drawings"), "fp32"), threads=1) as engine:
        engine.prepare("nora", face("nora.jpg"))
        assert engine.network("nora") is None


def test_lids_shut_further_than_they_are_seen_to_in_photographs_alone() -> None:
    """The preset that chooses makes the same frames as the network it chose, eyes included."""
    clip = [face("nora.jpg"), np.roll(face("nora.jpg"), 4, 0)]
    for name, only in (("nora.jpg", "demo-photographs"), ("ada.png", "demo-drawings")):
        films = []
        for preset in ("demo", only):
            model = talkies.load_model(preset)
            # The clip's network is not the subject here, so both use one motion.
            motion = detect_motion(talkies.load_model("demo-photographs"), clip, Fraction(25))
            motion = replace(motion, weights=model.weights_digest)
            with Engine(fast_form(model, "fp32"), threads=1) as engine:
                source = engine.prepare("it", face(name))
                films.append(np.concatenate(list(engine.predict(source, motion, Movement()))))
        assert np.array_equal(*films)
    shut = {name: max(opening.gain for opening in PRESETS[name].openings) for name in ("demo", "demo-photographs")}
    assert shut == {"demo": 1.0, "demo-photographs": 1.75}


def test_a_mirrored_photograph_has_the_mirrored_keypoints() -> None:
    photographs = talkies.load_model("demo-photographs")
    mirror = photographs.preset.mirror
    assert mirror is not None
    picture = frames_to_tensor(face("nora.jpg")[None])
    kp, other = photographs.keypoints(picture), photographs.keypoints(picture.flip(3))
    # The tolerance is the difference between input sizes, since the results are not exactly mirrored.
    assert kp.jacobian is not None
    assert other.jacobian is not None
    turn = torch.diag(torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(kp.value, other.value[:, mirror] @ turn, rtol=0, atol=0.02)
    torch.testing.assert_close(kp.jacobian, turn @ other.jacobian[:, mirror] @ turn, rtol=0, atol=0.1)
    left, right = kp.value[0, 11], kp.value[0, 12]  # the mouth's corners, named by the picture's sides
    assert float(left[0]) < float(right[0])
