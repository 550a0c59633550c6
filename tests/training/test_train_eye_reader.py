"""The eye reader's trainer: its pictures show lids where it says, and differ."""

import numpy as np
import pytest
import torch
import train_eye_reader
from portraits import LANDMARKS

from talkies.fomm.model.eye_reader import HEIGHT, WIDTH
from talkies.fomm.model.layers import warp

SPOTS = {35: (-0.3, -0.3), 39: (-0.32, -0.2), 43: (0.3, -0.3), 47: (0.32, -0.2)}  # lids


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Grey pictures with a white spot on each lid."""
    folder, axis = tmp_path_factory.mktemp("eyes"), (np.arange(256) + 0.5) / 128 - 1
    landmarks = np.zeros((6, LANDMARKS, 2))
    landmarks[:, list(SPOTS)] = list(SPOTS.values())
    landmarks += np.random.default_rng(0).uniform(-0.1, 0.1, (6, 1, 2))
    near = [np.hypot(axis - x, axis[:, None] - y) < 0.02 for face in landmarks for x, y in face[list(SPOTS)]]
    pictures = np.where(np.stack(near).reshape(6, -1, 256, 256).any(1), 255, 90).astype(np.uint8)
    cut = train_eye_reader.cut_squares(np.repeat(pictures[..., None], 3, -1), landmarks)
    np.savez(folder / "group-00000.npz", **cut)
    return folder


def test_pictures_have_their_lids_where_examples_say(album, monkeypatch):
    for name in ("made_up", "as_filmed"):
        monkeypatch.setattr(train_eye_reader, name, lambda rng, picture, *_: picture)
    monkeypatch.setattr(train_eye_reader, "in_other_light", lambda rng, pictures: pictures)
    seen, true = train_eye_reader.draw(train_eye_reader.load(album, True), 24, np.random.default_rng(0))
    at = true[:, :2] * torch.tensor([1, WIDTH / HEIGHT])
    assert warp(seen, at[:, :, None]).min() > 0.8
    assert true[:, :2].std(0).min() > 0.03  # the detector is unsure
    assert seen.median() < 0.5


def test_worsened_eyes_keep_their_side_and_differ(album):
    views = train_eye_reader.load(album, True)[0]
    outline = np.array([(30, 56), (40, 50), (56, 48), (72, 50), (82, 56), (72, 62), (56, 64), (40, 62)])
    made = []
    for k in range(12):
        rng = np.random.default_rng(k)
        made.append(train_eye_reader.as_filmed(rng, train_eye_reader.made_up(rng, views.pictures[0], outline)))
    assert {each.shape for each in made} == {views.pictures[0].shape}
    assert len({each.tobytes() for each in made}) == len(made)
