"""Close-ups: their geometry, where they keep away, and their fast form."""

import numpy as np
import pytest
import torch
from PIL import Image
from run_folder import REPOSITORY

import talkies
from talkies.fomm.model.close_ups import EYE, MOUTH, CloseUps, find_region, mirrored, observe, places
from talkies.fomm.model.generator import Generated
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.motion import frames_to_tensor

SIDE = 256
# A face that looks ahead, in pixels of 256; the order of training/landmarks.py.
FACE = [
    (128, 226), (78, 180), (178, 180), (128, 60), (128, 150), (100, 92), (156, 92), (100, 108), (100, 120), (156, 108),
    (156, 120), (106, 185), (150, 185), (128, 182), (128, 190), (100, 114), (156, 114), (128, 24), (128, 250),
]  # fmt: skip


def face(count=1, *, turn=0.0, grow=1.0, shift=0.0):
    value = torch.tensor(FACE)[None].float() / 128 - 1
    rotation = torch.tensor([[0.0, -turn], [turn, 0.0]]).matrix_exp() * grow
    return Keypoints(value @ rotation.T + shift, rotation.expand(1, len(FACE), 2, 2)).expand(count)


def generated(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    axis = (torch.arange(64) + 0.5) / 32 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).expand(count, -1, -1, -1)
    smooth = torch.nn.functional.interpolate(torch.randn(count, 3, 8, 8, generator=g), size=128, mode="bicubic")
    return Generated(
        prediction=torch.rand(count, 3, SIDE, SIDE, generator=g),
        logits=smooth,
        deformation=grid + 0.02 * torch.rand(count, 64, 64, 2, generator=g),
        occlusion=torch.rand(count, 1, 64, 64, generator=g),
        mask=torch.zeros(count, 1, 64, 64),
        sparse_deformed=torch.zeros(count, 1, 3, 64, 64),
    )


def flipped(made):
    places = made.deformation.flip(2) * torch.tensor([-1.0, 1.0])
    pictures = (x.flip(3) for x in (made.prediction, made.logits))
    return Generated(places, made.mask, made.sparse_deformed, made.occlusion.flip(3), *pictures)


@pytest.fixture(scope="module")
def close_ups():
    torch.manual_seed(1)
    network = CloseUps().eval().requires_grad_(False)
    for part in (network.mouth, network.eye):
        torch.nn.init.normal_(part.last.weight, std=0.05)
    return network


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("region", [MOUTH, EYE])
def test_all_carriers_of_a_head_that_moves_as_one_find_the_same_place(region, picture):
    source, driving = face(), face(turn=0.2, grow=1.1, shift=0.05)
    middle, half = find_region(region, driving.value)
    grid = places(region, middle, half)
    nothing = torch.zeros(1, 1, *grid.shape[1:3])
    sight = observe(region, picture, grid, half, (grid, nothing, nothing.expand(-1, 3, -1, -1)), source, driving)
    assert sight.seen.shape == (1, region.inputs, region.height, region.width)
    true = (grid - 0.05) @ torch.linalg.inv(driving.jacobian[0, 0]).T
    for motion in sight.motions[1:]:
        torch.testing.assert_close(motion, true, rtol=0, atol=1e-5)


def test_only_mouth_and_eyes_change(close_ups, picture):
    made = generated(2)
    with torch.no_grad():
        result = close_ups.retouch(made, picture, face(), face(2, turn=0.1))
    changed = (result - made.prediction).abs().amax((0, 1)) > 0
    for x, y in (FACE[k] for k in (8, 10, 13)):
        assert changed[y, x]
    assert 0.05 < changed.float().mean() < 0.35
    assert not changed[:70].any()


def test_the_two_eyes_are_treated_alike(close_ups, picture):
    made, source, driving = generated(1), face(), face(turn=0.1, shift=0.02)
    with torch.no_grad():
        one = close_ups.retouch(made, picture, source, driving)
        other = close_ups.retouch(flipped(made), picture.flip(3), mirrored(source), mirrored(driving)).flip(3)
    torch.testing.assert_close(one[..., :140, :], other[..., :140, :], rtol=0, atol=1e-4)


def profile(keypoints):
    value = keypoints.value.clone()
    value[:, 4, 0] = value[:, 8, 0] - 0.05  # the nose is beyond an eye
    return Keypoints(value, keypoints.jacobian)


@pytest.mark.parametrize(
    ("source", "driving"),
    [(face(), profile(face())), (profile(face()), face()), (face(grow=0.3), face(grow=0.3))],
    ids=["a driver in profile", "a source in profile", "a small face"],
)
def test_frames_they_do_not_know_stay_as_they_are(close_ups, picture, source, driving):
    made = generated(1)
    with torch.no_grad():
        result = close_ups.retouch(made, picture, source, driving)
    assert torch.equal(result, made.prediction)


def test_a_face_at_the_pictures_edge_is_painted_in_place(close_ups, picture):
    made = generated(2)
    with torch.no_grad():
        result = close_ups.retouch(made, picture, face(shift=0.4), face(2, shift=0.4))
    assert result.isfinite().all()
    assert torch.equal(result[..., :100, :100], made.prediction[..., :100, :100])


@pytest.mark.parametrize("change", ["none", "a quarter turn", "cut in halves"])
def test_pictures_without_a_face_that_the_detector_knows_stay_as_they_are(change):
    pixels = np.asarray(Image.open(REPOSITORY / "examples/images/nora.jpg").convert("RGB").resize((SIDE, SIDE)))
    changed = {"none": pixels, "a quarter turn": np.rot90(pixels), "cut in halves": np.roll(pixels, SIDE // 2, 1)}
    picture = frames_to_tensor(changed[change][None].copy())
    model = talkies.load_model("demo-photographs")
    features, keypoints = model.encode(picture), model.keypoints(picture)
    made = model.generate(features, keypoints, keypoints).prediction
    model.close_ups = None
    plain = model.generate(features, keypoints, keypoints).prediction
    assert torch.equal(made, plain) == (change != "none")
