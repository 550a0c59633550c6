"""Tests of the trained demo preset: drawn, rendered and photographed faces move as their drivers move.

The measures do not depend on the network: drawings and renders (tests/data/heads, made by training/make_test_heads.py)
show the correct result, and each result is compared with that picture and with one of another pose. The photograph's
result is measured by how far patches of it have moved.
"""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from landmarks import regions
from PIL import Image
from portraits import Portrait, Pose, sample_identity
from run_folder import REPOSITORY

import talkies
from talkies.engines import Movement
from talkies.fomm.engine import Engine
from talkies.fomm.motion import detect_motion
from talkies.media import crop

SIDE = 256
HEADS = REPOSITORY / "tests/data/heads"
SOURCES = (8_000_001, 8_000_004, 8_000_005, 8_000_008)  # seeds that training never uses
DRIVER = 8_000_002


@pytest.fixture(scope="module")
def model():
    return talkies.load_model("demo")


def frames(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def draw(portrait, *poses):
    return frames([portrait.draw(pose)[0] for pose in poses])


def rendered(person, *poses):
    return frames([np.asarray(Image.open(HEADS / f"{person}-{pose}.jpg")) for pose in poses])


def rendered_region(person, pose, which):
    points = np.array(json.loads((HEADS / "landmarks.json").read_text())[f"{person}-{pose}"])
    return bounds(regions(points)[which])


def animate(model, source, driving):
    """Return the result for every driving frame [N, 3, H, W], with motion counted from the first one."""
    kp_source, kp = model.keypoints(source), model.keypoints(driving)
    moved = talkies.transfer_motion(kp_source, kp, kp[0], reach=model.preset.reach, openings=model.preset.openings)
    return model.generate(source, kp_source, moved).prediction


def region(portrait, pose, which):
    """Return the bounds (rows, columns) of the left eye (0), right eye (1) or mouth (2), in pixels."""
    return bounds(regions(portrait.draw(pose)[1])[which])


def bounds(ellipse):
    x, y, rx, ry = (ellipse * SIDE / 2).tolist()
    x, y = x + SIDE / 2, y + SIDE / 2
    return slice(max(0, round(y - ry)), round(y + ry) + 1), slice(max(0, round(x - rx)), round(x + rx) + 1)


def share(result, start, end, where=(slice(None), slice(None))):
    """Return how far the result [3, H, W] has moved from one drawing to another: 0 is the start, 1 the end."""
    rows, columns = where
    result, start, end = (x[:, rows, columns] for x in (result, start, end))
    way = end - start
    return float(((result - start) * way).sum() / (way**2).sum())


def test_a_driver_that_opens_its_mouth_opens_the_results(model):
    driver = Portrait(sample_identity(DRIVER, "human", "shaded"), SIDE)
    shut, wide = Pose(), Pose(mouth=0.9)
    driving = draw(driver, shut, wide, shut)
    opened = []
    for seed in SOURCES:
        # A source with a shut mouth does not show its teeth, so the drawings to compare with have none.
        portrait = Portrait(replace(sample_identity(seed), teeth=0.0), SIDE)
        out = animate(model, draw(portrait, shut), driving)
        truth, mouth = draw(portrait, shut, wide), region(portrait, wide, 2)
        before, during, after = (share(frame, *truth, mouth) for frame in out)
        opened.append(during - before)
        assert after == pytest.approx(before, abs=0.02)  # the mouth shuts again
    assert min(opened) > 0.3, opened
    assert np.median(opened) > 0.47, opened


def test_a_still_driver_gives_a_still_result_that_is_the_source(model):
    driver = Portrait(sample_identity(DRIVER), SIDE)
    for seed in SOURCES[:2]:
        source = draw(Portrait(sample_identity(seed), SIDE), Pose())
        out = animate(model, source, draw(driver, *[Pose(yaw=5)] * 3))
        assert float((out[1:] - out[:1]).abs().max()) < 1e-4
        assert float((out[0] - source[0]).abs().mean()) < 0.05


def test_swapped_drivers_swap_the_motion(model):
    left, right = Pose(yaw=-20, roll=-8), Pose(yaw=20, roll=8, mouth=0.8)
    first = draw(Portrait(sample_identity(DRIVER), SIDE), Pose(), left)
    second = draw(Portrait(sample_identity(DRIVER + 1), SIDE), Pose(), right)
    for seed in SOURCES:
        portrait = Portrait(sample_identity(seed), SIDE)
        source, truth = draw(portrait, Pose()), draw(portrait, left, right)
        went_left, went_right = (share(animate(model, source, clip)[1], *truth) for clip in (first, second))
        assert went_left < 0.4 < 0.6 < went_right, (seed, went_left, went_right)


PAIRS = [(source, driver) for source in (1, 2, 3) for driver in (1, 2, 3) if source != driver]


@pytest.mark.slow
@pytest.mark.parametrize(("pose", "which", "least", "median"), [("open", [2], 0, 0.25), ("blink", [0, 1], 0.4, 0.7)])
def test_rendered_people_open_their_mouths_and_shut_their_eyes_as_their_drivers_do(model, pose, which, least, median):
    went = []
    for source, driver in PAIRS:
        out = animate(model, rendered(source, "rest"), rendered(driver, "rest", pose, "rest"))
        truth = rendered(source, "rest", pose)
        for k in which:
            part = rendered_region(source, "open", k)
            before, during, after = (share(frame, *truth, part) for frame in out)
            went.append(during - before)
            assert after == pytest.approx(before, abs=0.02)
    assert min(went) > least, went
    assert np.median(went) > median, went


@pytest.mark.slow
def test_rendered_people_turn_as_their_drivers_do(model):
    for source, driver in PAIRS:
        truth = rendered(source, "left", "right")
        out = animate(model, rendered(source, "rest"), rendered(driver, "rest", "left", "right"))
        still, left, right = (share(frame, *truth) for frame in out)
        assert left < 0.35 < 0.65 < right, (source, driver, left, right)
        assert left < still < right


def moved_down(before, after, row, column, size=36, most=30):
    """Return how many pixels the patch around (row, column) of one picture [3, H, W] is lower in another."""
    half = size // 2
    patch = before[:, row - half : row + half, column - half : column + half]
    found = {
        (dy, dx): float(
            (after[:, row + dy - half : row + dy + half, column + dx - half : column + dx + half] - patch).abs().mean()
        )
        for dy in range(-most, most + 1)
        if row + dy - half >= 0 and row + dy + half <= SIDE
        for dx in range(-4, 5)
    }
    return min(found, key=found.__getitem__)[0]


def test_a_photograph_opens_its_mouth_with_the_drivers(model):
    photograph = crop.crop_picture(
        np.asarray(Image.open(REPOSITORY / "examples/images/astronaut.png")),
        crop.LARGEST_FACE,
        name="astronaut.png",
        size=SIDE,
    )[0]
    chin, nose = (205, 130), (118, 132)  # rows and columns in this crop
    for driver in (1, 2, 3):
        shut, wide, again = animate(model, frames([photograph]), rendered(driver, "rest", "open", "rest"))
        assert moved_down(shut, wide, *chin) >= 6, driver  # the driver's chin goes down by about 16
        assert abs(moved_down(shut, wide, *nose)) <= 2
        assert float((again - shut).abs().mean()) < 0.005


@pytest.mark.parametrize("first", ["blink", "open"])
def test_a_film_follows_the_driver_whatever_the_videos_first_frame_shows(model, first):
    """Lids and lips count from open eyes and a shut mouth, wherever in the video these are."""
    poses = [first, "rest", "rest", "blink", "open", "rest"]
    driving, (rest, blink, wide) = rendered(2, *poses), rendered(1, "rest", "blink", "open")
    with Engine(model, batch=6, threads=1) as engine:
        picture = engine.prepare("1", (rest.permute(1, 2, 0) * 255).round().byte().numpy())
        motion = detect_motion(model, [(x.permute(1, 2, 0) * 255).round().byte().numpy() for x in driving], Fraction(5))
        film = frames(np.concatenate(list(engine.predict(picture, motion, Movement()))))
    eye, mouth = (rendered_region(1, pose, which) for pose, which in (("rest", 0), ("open", 2)))
    for pose, result in zip(poses, film, strict=True):
        assert share(result, rest, blink, eye) == pytest.approx(float(pose == "blink"), abs=0.2)
        assert share(result, rest, wide, mouth) == pytest.approx(float(pose == "open"), abs=0.25)
