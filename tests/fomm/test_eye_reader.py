"""The eye reader: nearer to the truth than the detector, alike for both eyes, and harmless without a face."""

import json

import numpy as np
import pytest
import torch
from landmarks import keypoint_values
from PIL import Image
from run_folder import REPOSITORY

import talkies
from talkies.fomm.model.close_ups import MIRROR, head_size
from talkies.fomm.model.eye_reader import MOST, EyeReader
from talkies.fomm.motion import frames_to_tensor

EYES = [7, 8, 9, 10, 15, 16]  # lids and pupils
HEADS = REPOSITORY / "tests/data/heads"
SHOTS = [f"{person}-{pose}" for person in (1, 2, 3) for pose in ("rest", "blink", "left")]
SIDE = 96  # of the pictures as they were taken


def taken(name):
    picture = Image.open(HEADS / f"{name}.jpg")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX).resize(picture.size))


@pytest.fixture(scope="module")
def pictures():
    """Small pictures of rendered heads, then pictures without a face: noise, one colour, a head upside down."""
    heads = frames_to_tensor(np.stack([taken(name) for name in SHOTS]))
    noise = torch.rand(heads[:1].shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([heads, noise, torch.full_like(noise, 0.5), heads[:1].flip(2)])


@pytest.fixture(scope="module")
def detected(pictures):
    """The pictures' keypoints, with and without the reader."""
    model = talkies.load_model("demo-photographs")
    read = model.keypoints(pictures).value
    model.eye_reader = None
    return read, model.keypoints(pictures).value


@pytest.fixture(scope="module")
def truth():
    told = json.loads((HEADS / "landmarks.json").read_text())
    return torch.from_numpy(keypoint_values(np.array([told[name] for name in SHOTS]))).float()


def error(value, truth, which):
    """Return the mean error of some keypoints, in sizes of the head."""
    return float(((value - truth)[:, which].norm(dim=-1) / head_size(truth)[:, None]).mean())


@pytest.mark.parametrize(("which", "share"), [([7, 8, 9, 10], 1.0), ([15, 16], 0.9)], ids=["lids", "pupils"])
def test_eyes_are_nearer_to_the_truth_than_the_detectors(which, share, detected, truth):
    read, plain = (error(value[: len(truth)], truth, which) for value in detected)
    assert read < share * plain


def test_only_lids_and_pupils_change_and_not_far_with_a_face_or_without(detected):
    read, plain = detected
    assert read.isfinite().all()
    change = (read - plain).norm(dim=-1) / head_size(plain)[:, None]
    assert change.max() <= MOST + 1e-5
    assert (change > 0).any(0).nonzero().flatten().tolist() == EYES


def test_both_eyes_are_read_alike(pictures, truth):
    torch.manual_seed(0)
    reader, heads, trust = EyeReader().eval().requires_grad_(False), pictures[: len(truth)], torch.ones(len(truth))
    turn = torch.tensor([-1.0, 1.0])
    one = reader.read(heads, truth, trust)
    other = reader.read(heads.flip(3), truth[:, MIRROR] * turn, trust)[:, MIRROR] * turn
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert not torch.equal(one[:, EYES], truth[:, EYES])
