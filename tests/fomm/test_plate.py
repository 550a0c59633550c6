"""Two layers: a still background, a person who moves alone, and pictures that are not cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from run_folder import REPOSITORY
from test_close_ups import FACE

import talkies
from talkies.fomm.engine import open_engine
from talkies.fomm.model.dense_motion import DenseMotion
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.model.layers import coordinate_grid
from talkies.fomm.model.matte import MatteNetwork, find_matte, follow_edges
from talkies.fomm.model.plate import BorderNetwork, Layers, cut_out, fill_background, filled, seen_through
from talkies.fomm.motion import frames_to_tensor

SIDE, SMALL = 256, 64
OUTLINE, CARRIED = 1, 2  # numbers of the border network's motions


def keypoints(shift=(0.0, 0.0), count=1):
    value = torch.tensor(FACE)[None].float() / 128 - 1 + torch.tensor(shift)
    return Keypoints(value, torch.eye(2).expand(1, len(FACE), 2, 2)).expand(count)


@pytest.fixture(scope="module")
def scene():
    """A picture of a disc with a texture before a background of noise, and the disc's matte."""
    g = torch.Generator().manual_seed(3)
    place = coordinate_grid(SIDE, SIDE, torch.zeros(1), centred=True)
    away = (place - torch.tensor([0.0, 0.1])).norm(dim=-1)
    alpha = ((0.6 - away) * SIDE / 2 + 0.5).clamp(0, 1)[None, None]
    back = 0.5 * torch.rand(1, 3, SIDE, SIDE, generator=g)
    back[:, 2] += 0.5  # blue
    person = torch.stack([0.8 + 0.2 * torch.sin(12 * place[..., 0]), 0.6 * place[..., 1].abs(), 0 * away])[None]
    return back.lerp(person, alpha), alpha, back


@pytest.fixture
def border():
    """A border network that chooses one motion alone."""
    network = BorderNetwork().eval().requires_grad_(False)
    torch.nn.init.zeros_(network.last.weight)
    choose(network, OUTLINE)
    return network


def choose(network, motion):
    network.last.bias.data = 60.0 * torch.eye(6)[motion].repeat_interleave(4)
    network.last.bias.data[16:] = 0


def made(count, picture, move, background):
    """What a generator makes that moves everything by move, as far as the background's share says."""
    still = coordinate_grid(SMALL, SMALL, picture, centred=True)
    share = background.expand(count, 1, SMALL, SMALL)
    deformation = still + move * (1 - share.permute(0, 2, 3, 1))
    nothing = torch.zeros(count, 1, SMALL, SMALL)
    return DenseMotion(deformation, share, nothing, nothing)


@pytest.mark.parametrize("motion", [OUTLINE, CARRIED])
def test_a_head_moves_whole_and_the_background_stays_still_to_the_pixel(scene, border, motion):
    picture, alpha, _ = scene
    choose(border, motion)
    layers = Layers.of(picture, alpha, SMALL)
    there, here = keypoints(), keypoints((0.125, 0))  # 16 pixels to the right
    half = torch.full((1, 1, SMALL, SMALL), 0.3)  # the generator takes the head for 0.3 background
    shifted = torch.roll(picture, 16, 3)
    frame = layers.frames(border, made(1, picture, torch.tensor([-0.125, 0]), half), shifted, there, here)
    moved, was = torch.roll(alpha, 16, 3), alpha
    far = (torch.nn.functional.max_pool2d(torch.maximum(moved, was), 25, 1, 12) == 0).expand_as(picture)
    assert far.float().mean() > 0.3
    assert torch.equal(frame[far], picture[far])
    upper = torch.zeros_like(far)
    upper[:, :, 100:140] = True  # above the chin, where all is head
    inside = (moved.expand_as(picture) > 0.99) & upper
    assert (frame - shifted)[inside].abs().mean() < 0.02
    uncovered = ((was > 0.99) & (moved == 0)).expand_as(picture) & upper
    assert uncovered.any()
    blue = frame[:, 2:][uncovered[:, :1]]
    assert blue.min() > 0.4  # nothing of the person, who has no blue, is left there


def test_a_head_that_rests_leaves_the_picture_as_it_is(scene, border):
    picture, alpha, _ = scene
    layers = Layers.of(picture, alpha, SMALL)
    still = made(2, picture, torch.zeros(2), torch.zeros(1))
    frames = layers.frames(border, still, picture, keypoints(), keypoints(count=2))
    assert (frames - picture).abs().mean() < 0.01


def test_within_the_face_frames_are_the_generators_own(scene, border):
    picture, alpha, _ = scene
    layers, still = Layers.of(picture, alpha, SMALL), made(1, picture, torch.zeros(2), torch.zeros(1))
    black, white = (torch.full_like(picture, shade) for shade in (0.0, 1.0))
    one, two = (layers.frames(border, still, single, keypoints(), keypoints()) for single in (black, white))
    own = (two - one).mean(1)
    points = ((keypoints().value[0] + 1) * 128).long()
    assert own[0, points[[13, 14], 1], points[[13, 14], 0]].min() > 0.99  # the lips
    assert own[alpha[0] == 0].max() == 0
    assert own.mean() < 0.9 * alpha.mean()


def test_the_plate_looks_like_the_background_beside_it(scene):
    picture, alpha, back = scene
    plate = fill_background(picture, alpha)
    assert torch.equal(plate[..., :20, :], picture[..., :20, :])
    hidden = (alpha == 1).expand_as(plate)
    assert (plate[hidden].mean() - back[hidden].mean()).abs() < 0.05
    assert plate[:, 2:].min() > 0.4
    assert fill_background(picture, torch.ones_like(alpha)).isfinite().all()


def test_a_door_beside_the_head_is_not_behind_it_again():
    picture, alpha = torch.full((1, 3, SIDE, SIDE), 0.4), torch.zeros(1, 1, SIDE, SIDE)
    alpha[..., 60:, 80:176] = 1
    picture[:, 0, :, 190:210] = 1  # red, 14 pixels from the head
    plate = fill_background(picture, alpha)
    assert plate[:, 0, 100:, 150:170].max() < 0.7


def test_filling_keeps_what_is_known_and_continues_it():
    x = torch.linspace(0, 1, 40).expand(1, 1, 33, 40).contiguous()
    weight = torch.ones(1, 1, 33, 40)
    weight[..., 10:20] = 0
    done = filled(torch.where(weight > 0, x, 9.0), weight)
    assert torch.equal(done[weight > 0], x[weight > 0])
    assert (done - x).abs().max() < 0.15


def test_the_margin_goes_on_below_and_ends_above_and_at_the_sides(scene):
    picture, _, _ = scene
    whole = cut_out(picture, torch.ones(1, 1, SIDE, SIDE))
    margin = (whole.shape[-1] - SIDE) // 2
    assert torch.equal(whole[..., margin:-margin, margin:-margin][:, :3], picture)
    assert whole[0, 3, margin:, margin:-margin].min() == 1
    assert torch.equal(whole[:, :, -1], whole[:, :, -margin])  # a collar is not seen again upside down
    for edge in (whole[0, 3], whole[0, 3].T, whole[0, 3].T.flip(0)):
        assert edge[0, ::8].min() == 0 < edge[margin - 1].max()
    still = coordinate_grid(SMALL, SMALL, picture, centred=True)[None]
    seen = seen_through(whole, still)
    torch.testing.assert_close(seen[:, 3:], torch.ones(1, 1, SMALL, SMALL))


def test_hair_that_a_side_cuts_does_not_go_on_as_a_bar(scene):
    picture, _, _ = scene
    alpha = torch.zeros(1, 1, SIDE, SIDE)
    alpha[..., 60:120, 100:] = 1  # hair that the right side cuts
    alpha[..., 220:, :] = 1  # shoulders
    wide = cut_out(picture, alpha)[0, 3]
    margin = (wide.shape[-1] - SIDE) // 2
    right = wide[margin : margin + SIDE, -margin:]
    assert right[90, 5] == 1
    assert right[60:120, margin // 2 :].max() == 0
    assert wide[-1, -margin // 2] == wide[-1, margin // 2] == 1  # below, shoulders go on


def test_a_matte_follows_the_pictures_edges():
    picture = torch.zeros(1, 3, 64, 64)
    picture[..., 30:] = 0.8
    coarse = torch.sigmoid((torch.arange(64) - 28.0) / 2).expand(1, 1, 64, 64)  # two pixels beside the edge, and soft
    fine = follow_edges(coarse.contiguous(), picture, 3, 1e-4)
    assert (fine[..., 31] - fine[..., 28]).min() > 1.4 * (coarse[..., 31] - coarse[..., 28]).max()


@pytest.mark.parametrize(("bias", "doubtful"), [(0.0, True), (9.0, False)])
def test_a_matte_that_is_undecided_is_doubted(scene, bias, doubtful):
    network = MatteNetwork().eval().requires_grad_(False)
    torch.nn.init.zeros_(network.last.weight)
    torch.nn.init.constant_(network.last.bias, bias)
    _, doubt = find_matte(network, scene[0], keypoints().value)
    assert (doubt > 0.9) == doubtful
    assert (doubt < 0.01) != doubtful


def picture_of(path):
    pixels = np.asarray(Image.open(REPOSITORY / path).convert("RGB").resize((SIDE, SIDE)))
    return frames_to_tensor(pixels[None].copy())


def photograph():
    """A rendered head, which looks like a photograph."""
    return picture_of("tests/data/heads/3-rest.jpg")


@pytest.fixture(scope="module")
def model():
    return talkies.load_model("demo")


def test_drawings_and_pictures_with_a_doubtful_matte_are_not_cut(model, monkeypatch):
    assert model.encode(picture_of("examples/images/ada.png")).layers is None
    assert model.encode(photograph()).layers is not None
    monkeypatch.setattr("talkies.fomm.model.first_order.UNSURE", 0.0)
    assert model.encode(photograph()).layers is None


def test_the_background_of_a_photograph_stays_still_while_its_head_moves(model):
    picture = photograph()
    features, source = model.encode(picture), model.keypoints(picture)
    assert features.layers is not None
    driving = Keypoints(source.value + torch.tensor([0.06, 0.0]), source.jacobian)
    frame = model.generate(features, source, driving).prediction
    cut = features.layers.cutout[:, 3:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    far = (torch.nn.functional.max_pool2d(cut, 41, 1, 20) < 0.01).expand_as(picture)
    assert far.any()
    torch.testing.assert_close(frame[far], picture[far], rtol=0, atol=1e-5)
    plain = model.generate(replace(features, layers=None), source, driving).prediction
    assert not torch.allclose(frame, plain, atol=0.05)


def test_layers_can_be_turned_off(model):
    engine = open_engine("demo", None, device="cpu", precision="fp32", threads=1, layers=False)
    assert engine.model.encode(photograph()).layers is None
