"""The trainers of the matte and of the person's motion: what they read, what their losses say, what they write."""

import json

import numpy as np
import pytest
import torch
import train_border
import train_matte
from landmarks import keypoint_jacobians, keypoint_values
from PIL import Image
from run_folder import REPOSITORY

import talkies
from talkies.fomm.model.checkpoint import load_checkpoint
from talkies.fomm.model.layers import coordinate_grid
from talkies.fomm.model.matte import MatteNetwork
from talkies.fomm.model.plate import BorderNetwork

HEADS = REPOSITORY / "tests/data/heads"
SHIFT = 0.125  # by which the person of the second shot is moved to the right


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """One person in two shots; the second is the first, moved."""
    folder = tmp_path_factory.mktemp("mattes")
    told = json.loads((HEADS / "landmarks.json").read_text())
    name = min(told)
    points = np.array([told[name]])
    value = keypoint_values(points).astype(np.float32)
    front = np.asarray(Image.open(HEADS / f"{name}.jpg").resize((256, 256)))
    axis = np.linspace(-1, 1, 256)
    middle = value[0].mean(0)
    alpha = (np.hypot(axis - middle[0], (axis - middle[1])[:, None]) < 0.75).astype(np.uint8) * 255
    move = round(SHIFT * 128)
    still = coordinate_grid(64, 64, torch.zeros(1), centred=True)[None].numpy()
    np.savez(
        folder / "person-00000.npz",
        front=np.stack([front, np.roll(front, move, 1)]),
        picture=np.stack([front, np.roll(front, move, 1)]),
        alpha=np.stack([alpha, np.roll(alpha, move, 1)]),
        value=np.concatenate([value, value + np.array([SHIFT, 0])]).astype(np.float32),
        jacobian=np.repeat(keypoint_jacobians(points), 2, 0),
        deformation=still - [SHIFT, 0],
        background=np.zeros((1, 1, 64, 64)),
        occlusion=np.ones((1, 1, 64, 64)),
    )
    return folder


def test_a_dressed_person_keeps_the_matte_where_the_face_is(album, monkeypatch):
    monkeypatch.setattr(train_matte, "BACKDROPS", 6)
    people = train_matte.People(sorted(album.iterdir()), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(25):
        picture, alpha, value = people.sample(rng)
        assert picture.shape == (3, train_matte.SIDE, train_matte.SIDE)
        assert alpha.shape == (1, train_matte.SIDE, train_matte.SIDE)
        assert 0 <= picture.min() <= picture.max() <= 1
        column, row = ((value[4] + 1) / 2 * train_matte.SIDE).int().clamp(0, train_matte.SIDE - 1).tolist()
        assert alpha[0, row, column] > 0.99  # at the nose
        shares.append(float(alpha.mean()))
    assert np.std(shares) > 0.03  # clothes, hair and framing vary
    seen, mattes = people.batch(rng, 3)
    assert MatteNetwork().eval()(seen).shape == mattes.shape


def test_the_true_matte_is_the_least_loss():
    true = torch.zeros(1, 1, 64, 64)
    true[..., 20:50, 20:50] = 1
    least = train_matte.matte_loss(12 * true - 6, true)
    for wrong in (true.roll(2, 3), torch.zeros_like(true), true / 2 + 0.25):
        assert train_matte.matte_loss(12 * wrong - 6, true) > 2 * least


def test_the_true_motion_is_the_least_loss(album):
    pairs = train_border.Pairs(sorted(album.iterdir()), talkies.load_model("demo-photographs").matte)
    some = pairs.batch(np.arange(1))
    network = BorderNetwork().eval()
    torch.nn.init.zeros_(network.last.weight)
    losses = {}
    for motion, name in enumerate(("generator", "outline", "carried", "still")):
        network.last.bias.data = 60.0 * torch.eye(6)[motion].repeat_interleave(4)
        network.last.bias.data[16:] = 0
        found, _ = train_border.frame_losses(network, some)
        losses[name] = {each: value.item() for each, value in found.items()}
    for true in ("generator", "outline", "carried"):
        assert losses[true]["silhouette"] < 0.5 * losses["still"]["silhouette"]
        assert losses[true]["colours"] < 0.7 * losses["still"]["colours"]
    wrong = pairs.batch(np.arange(1), np.random.default_rng(0))
    assert wrong["cutout"].shape == some["cutout"].shape
    network.last.bias.data[:] = 0
    torn = {}
    for strength in (0, 0.5):  # of a motion of the network's own, which changes from place to place
        torch.nn.init.normal_(network.last.weight, std=strength)
        torn[strength] = train_border.frame_losses(network, some)[0]["tears"].item()
    assert torn[0.5] > 2 * torn[0]


def test_what_is_shipped_fits_the_packages_network(tmp_path):
    matte, border = MatteNetwork(), BorderNetwork()
    torch.save({"average": matte.state_dict()}, tmp_path / "matte.pt")
    torch.save(border.state_dict(), tmp_path / "border.pt")
    train_border.ship(tmp_path, tmp_path / "new.safetensors")
    entries = load_checkpoint(tmp_path / "new.safetensors")
    assert set(entries) == set(talkies.load_model("demo").state_dict())
    new = entries["photographs.border.last.bias"]
    torch.testing.assert_close(new, border.last.bias.detach().half().float())
