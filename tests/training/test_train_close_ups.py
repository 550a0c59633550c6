"""The close-ups' trainer: what it reads of a pair, what its losses say, and that it goes on after a kill."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import train_close_ups
from landmarks import keypoint_jacobians, keypoint_values
from PIL import Image
from run_folder import REPOSITORY

from talkies.fomm.model.close_ups import MIRROR, REGIONS, Look, find_region, places
from talkies.fomm.model.layers import warp

HEADS = REPOSITORY / "tests/data/heads"


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group of one person: pictures are moved by nothing, and the generator found nothing to do."""
    path = tmp_path_factory.mktemp("close-ups") / "group-00000.npz"
    told = json.loads((HEADS / "landmarks.json").read_text())
    names = sorted(told)[:3]
    points = np.array([told[name] for name in names])
    keypoints = [keypoint_values(points), keypoint_jacobians(points).reshape(len(names), -1, 4)]
    flat = np.concatenate(keypoints, axis=-1).astype(np.float32)
    pictures = np.stack([np.asarray(Image.open(HEADS / f"{name}.jpg").resize((256, 256))) for name in names])
    arrays = {"pictures": pictures, "picture": np.arange(3), "kp_source": flat, "kp_driving": flat}
    for region, kinds in train_close_ups.KINDS.items():
        for kind in kinds:
            value, source = torch.from_numpy(flat[..., :2]), train_close_ups.as_tensor(pictures)
            if kind == "other eye":
                value = value[:, MIRROR] * torch.tensor([-1, 1])
                source = source.flip(3)
            grid = places(REGIONS[region], *find_region(REGIONS[region], value))
            target = (warp(source, grid, padding="border").permute(0, 2, 3, 1) * 255).round().byte().numpy()
            one = np.ones(target.shape[:3], np.uint8)
            arrays |= {
                f"{kind} target": target, f"{kind} painted": target, f"{kind} mask": 255 * one,
                f"{kind} motion": grid.numpy().astype(np.float16), f"{kind} truth": grid.numpy().astype(np.float16),
                f"{kind} visible": one, f"{kind} material": 0 * one,
            }  # fmt: skip
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("region", REGIONS)
def test_a_pair_is_read_in_the_same_place_in_any_colours_and_in_the_mirror(group, region):
    pairs = train_close_ups.Pairs([group], region)
    everything = np.arange(len(pairs))
    for seed in (None, 0, 1, 2):
        example = pairs.batch(everything, None if seed is None else np.random.default_rng(seed))
        for motion in example.sight.motions:  # nothing moves, so all carry the target's pixels to their place
            carried = warp(example.source, motion, padding="border")
            assert (carried - example.target).abs().mean() < 0.01


@pytest.mark.parametrize("region", REGIONS)
def test_the_truth_is_the_least_loss(group, region):
    pairs = train_close_ups.Pairs([group], region)
    example = pairs.batch(np.arange(len(pairs)))
    true = Look(example.truth, torch.ones_like(example.sight.mask), example.target)

    def losses(look):
        return train_close_ups.known_losses(region, example, look, example.composed(look))

    least = losses(true)
    worse = {
        "motion": replace(true, motion=true.motion + 0.02),
        "mask": replace(true, mask=true.mask * 0.5),
        "paint": replace(true, paint=1 - true.paint),
    }
    for name, look in worse.items():
        assert losses(look)[name] > least[name] + 1e-3
    assert losses(worse["motion"])["picture"] > least["picture"]


def test_a_training_stopped_and_begun_again_goes_on(group, tmp_path, monkeypatch):
    monkeypatch.setattr(train_close_ups, "BATCH", 2)
    pairs = train_close_ups.Pairs([group], "eye")
    torch.manual_seed(0)
    training = train_close_ups.Training(REGIONS["eye"])
    first = training.step(pairs, np.random.default_rng(0), 0.95)  # with the critic
    assert all(np.isfinite(value) for value in first.values())
    training.save(tmp_path / "state.pt")
    again = train_close_ups.Training(REGIONS["eye"])
    again.load(tmp_path / "state.pt")
    ends = [each.step(pairs, np.random.default_rng(1), 0.95) for each in (training, again)]
    assert again.steps == 2
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)
