"""The demo network's trainer: the same seed gives the same training, and it continues after a kill."""

from dataclasses import replace

import album
import landmarks
import losses
import numpy as np
import pytest
import torch
import train_demo

import talkies
from talkies.fomm.model.dense_motion import DenseMotion
from talkies.fomm.model.presets import DEMO_WEIGHTS


@pytest.fixture(scope="module")
def schedule():
    return train_demo.parse_schedule("64:3:2:1e-3:true:2,128:2:2:5e-4:found:1")


@pytest.mark.slow
def test_a_training_stopped_and_begun_again_takes_the_same_course(tmp_path, schedule):
    albums = [(album.make_album(tmp_path, 2, 3), 1.0)]
    whole = train_demo.Trainer(tmp_path / "whole", schedule, albums, seed=3)
    for _ in range(5):
        losses = whole.advance()
        assert all(np.isfinite(value) for value in losses.values())
    for _ in range(3):  # started three times, with one or two steps each
        part = train_demo.Trainer(tmp_path / "part", schedule, albums, seed=3)
        for _ in range(min(2, 5 - part.step)):
            part.advance()
        part.save()
    assert part.step == whole.step == 5
    for name, value in whole.average.state_dict().items():
        torch.testing.assert_close(part.average.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_shipped_weights_can_be_trained_further(tmp_path, schedule):
    trainer = train_demo.Trainer(tmp_path, schedule, [(album.make_album(tmp_path, 2, 3), 1.0)], 3, start=DEMO_WEIGHTS)
    shipped = talkies.load_model("demo-drawings", device="cpu", precision="fp32").state_dict()
    for name, value in trainer.average.state_dict().items():
        torch.testing.assert_close(value, shipped[name], check_dtype=False)
    trainer.advance()
    trainer.save()
    train_demo.ship(tmp_path, tmp_path / "further.safetensors")
    further = talkies.load_model("demo-drawings", tmp_path / "further.safetensors").state_dict()
    assert any(not torch.equal(value, shipped[name]) for name, value in further.items())
    # With the packaged network for photographs, they form weights of the preset that has both.
    train_demo.ship(tmp_path, tmp_path / "both.safetensors", "drawings")
    both = talkies.load_model("demo", tmp_path / "both.safetensors")
    for name, value in further.items():
        assert torch.equal(value, both.state_dict()[name])
    photographs = talkies.load_model("demo-photographs").state_dict()
    for name, value in both.photographs.state_dict().items():
        assert torch.equal(value, photographs[name])


def test_a_widened_detector_finds_the_same_keypoints():
    narrow = train_demo.open_network(DEMO_WEIGHTS)
    width = len(narrow.state_dict()["kp_detector.predictor.encoder.down_blocks.0.conv.weight"]) // 2
    wide = train_demo.network(2 * width)
    wide.load_state_dict(train_demo.widened(narrow.state_dict(), wide))
    frames = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, same = wide.eval().kp_detector(frames), narrow.kp_detector(frames)
    torch.testing.assert_close(found.value, same.value, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.jacobian, same.jacobian, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", [64, 32])
def test_a_renders_true_flow_and_visibility_are_the_least_loss(tmp_path, side):
    batch = album.draw_batch([(album.make_album(tmp_path, 1, 3), 1.0)], 0, 2, 128, 3)
    axis = (torch.arange(64) + 0.5) / 32 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).expand(2, -1, -1, -1)
    visible = (grid[..., :1] < 0.25).float().permute(0, 3, 1, 2)
    batch = replace(batch, flow=grid * 0.9 + 0.05, visible=visible, rendered=torch.tensor([1.0, 0.0]))

    def loss(shift=0.0, shown=visible):
        small = torch.nn.functional.adaptive_avg_pool2d(batch.flow.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
        occlusion = torch.nn.functional.adaptive_avg_pool2d(shown, side)
        motion = DenseMotion(small + shift * torch.tensor([1.0, 0.0])[:, None, None, None], small, small, occlusion)
        return float(losses.dense_loss(motion, batch))

    assert loss() < 0.01
    assert loss(shift=0.1) > loss() + 0.1
    assert loss(shown=1 - visible) > loss() + 0.1
    # Drawings have no true flow, so they add no loss.
    batch = replace(batch, rendered=torch.zeros(2))
    assert loss(shift=0.1, shown=1 - visible) == 0


def test_a_wrong_opening_costs_more_than_lids_that_are_both_off_alike():
    names, true = list(landmarks.KEYPOINTS), train_demo.Keypoints(torch.zeros(1, 19, 2), torch.zeros(1, 19, 2, 2))

    def loss(**off):
        value = torch.zeros(1, 19, 2)
        for name, by in off.items():
            value[0, names.index(name), 1] = by
        return float(losses.keypoint_loss(replace(true, value=value), true))

    assert loss() == 0
    for upper, lower in losses.OPENINGS:
        alike, apart = loss(**{upper: 0.02, lower: 0.02}), loss(**{upper: 0.02, lower: -0.02})
        assert 0 < alike < apart / 2
    assert loss(brow_left=0.02, brow_right=0.02) == pytest.approx(loss(brow_left=0.02, brow_right=-0.02))
