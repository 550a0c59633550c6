"""The fast form equals the original network for every preset and option, and for networks of other sizes."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import golden
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from seeded import as_batch, driving_frame, seeded_weights, source_image
from tiny_network import many_channels, tiny_model
from torch import Tensor, nn

import talkies
from talkies.fomm import rewrite, winograd
from talkies.fomm.model.first_order import FirstOrderModel, build_model
from talkies.fomm.model.generator import Generated, MaskedWarp
from talkies.fomm.rewrite import MANY_CHANNELS, _MaskedWarp, rewritten
from talkies.fomm.winograd import POINTS, Winograd, minimal_filter


def seeded(parameters: dict[str, Any] | str) -> FirstOrderModel:
    model = build_model(parameters)
    model.load_state_dict(seeded_weights(model))
    return model.requires_grad_(False).eval()


def pictures(side: int, count: int) -> tuple[Tensor, Tensor]:
    source = as_batch(source_image(side, side))
    return source, torch.cat([as_batch(driving_frame(side, side, 7 * t)) for t in range(count)])


def both(model: FirstOrderModel, source: Tensor, driving: Tensor) -> tuple[Generated, Generated]:
    """Check that a network and its fast form find the same keypoints; run both with the network's keypoints."""
    fast = rewritten(model)
    kp, fast_kp = model.keypoints(driving), fast.keypoints(driving)
    assert (kp.value - fast_kp.value).abs().max() < 2e-5
    assert (kp.jacobian is None) == (fast_kp.jacobian is None)
    if kp.jacobian is not None and fast_kp.jacobian is not None:
        assert (kp.jacobian - fast_kp.jacobian).abs().max() < 2e-5
    kp_source = model.keypoints(source)
    moved = talkies.transfer_motion(kp_source, kp, kp[0])
    slow, quick = (each.generate(each.encode(source), kp_source, moved) for each in (model, fast))
    return slow, quick


def assert_same(slow: Generated, quick: Generated) -> None:
    """Assert that frames differ by at most one level of 255, and intermediate results only by rounding."""
    levels = [(each.prediction * 255).round() for each in (slow, quick)]
    assert (levels[0] - levels[1]).abs().max() <= 1
    assert (slow.logits - quick.logits).abs().max() < 1e-3 * max(1.0, float(slow.logits.abs().max()))
    assert (slow.deformation - quick.deformation).abs().max() < 2e-4
    assert (slow.mask - quick.mask).abs().max() < 2e-4
    assert slow.sparse_deformed.shape == quick.sparse_deformed.shape
    assert (slow.sparse_deformed - quick.sparse_deformed).abs().mean() < 1e-5
    assert (slow.occlusion is None) == (quick.occlusion is None)
    if slow.occlusion is not None and quick.occlusion is not None:
        assert (slow.occlusion - quick.occlusion).abs().max() < 2e-4


@pytest.mark.parametrize("name", golden.NAMES)
def test_the_golden_networks_give_the_same_frames(name: str) -> None:
    facts = golden.load(name)
    assert_same(*both(facts.model(), facts.source, facts.driving))


def test_the_demo_network_gives_the_same_frames() -> None:
    assert_same(*both(talkies.load_model("demo"), *pictures(256, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vox-256", "mgif-256"])  # the other published ones are like the first
def test_the_published_networks_give_the_same_frames(name: str) -> None:
    assert_same(*both(seeded(name), *pictures(256, 1)))


MEASURES = {
    "num_kp": st.integers(1, 7),
    **dict.fromkeys(("jacobians", "single", "occlusion", "keep", "centred"), st.booleans()),
    **dict.fromkeys(("down", "bottleneck"), st.integers(0, 2)),
    "expansion": st.integers(3, 9),
    "blocks": st.integers(1, 3),
    "scale": st.sampled_from([0.5, 1]),
}


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.fixed_dictionaries(MEASURES).map(lambda drawn: SimpleNamespace(**drawn)))
def test_networks_of_any_measure_give_the_same_frames(of: SimpleNamespace) -> None:
    hourglass = {"block_expansion": of.expansion, "max_features": 16, "num_blocks": of.blocks, "scale_factor": of.scale}
    model = seeded(
        {
            "common_params": {"num_kp": of.num_kp, "num_channels": 3, "estimate_jacobian": of.jacobians},
            "kp_detector_params": {"temperature": 0.1, "pad": 3, "single_jacobian_map": of.single, **hourglass},
            "generator_params": {
                "block_expansion": of.expansion,
                "max_features": 12,
                "num_down_blocks": of.down,
                "num_bottleneck_blocks": of.bottleneck,
                "estimate_occlusion_map": of.occlusion,
                "keep_visible": of.keep and of.occlusion,
                "dense_motion_params": {"centred_grid": of.centred, **hourglass},
            },
        }
    )
    assert_same(*both(model, *pictures(32, 3)))


# --- the identities, each alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("points", POINTS.values(), ids=["4x4", "2x4"])
@pytest.mark.parametrize(("height", "width"), [(2, 4), (4, 4), (8, 20), (6, 8), (5, 8), (4, 6)])
@pytest.mark.parametrize("count", [1, 3])
def test_winograds_convolution_is_the_same_convolution(
    monkeypatch: pytest.MonkeyPatch, points: Any, count: int, height: int, width: int
) -> None:
    """In float32, to show that the identity is exact; sizes that tiles do not fill use the usual convolution."""
    monkeypatch.setattr(winograd, "POINTS", {True: points})
    conv = nn.Conv2d(64, 32, 3, padding=1)
    x = torch.randn(count, 64, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made, expected = Winograd(conv, torch.float32)(x), conv(x)
    assert made.shape == expected.shape
    assert (made - expected).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_winograds_transforms_are_exact_in_their_precision(dtype: torch.dtype) -> None:
    made = Winograd(nn.Conv2d(8, 8, 3, padding=1), dtype)
    rows, columns = (minimal_filter(*points) for points in POINTS[dtype == torch.float32])
    assert torch.equal(made.to_tiles.double(), torch.kron(rows[0], columns[0]))
    assert torch.equal(made.from_tiles.double(), torch.kron(rows[2], columns[2]))


def test_a_bottleneck_of_many_channels_gives_the_same_frames() -> None:
    model = many_channels(MANY_CHANNELS[torch.float32])
    assert any(isinstance(part, Winograd) for part in rewritten(model).modules())
    assert_same(*both(model, *pictures(64, 3)))


@pytest.mark.parametrize(("model", "tiled", "more"), [(tiny_model, False, 1.5), (many_channels, True, 2)])
def test_half_precision_is_about_as_close_as_the_network_itself(
    monkeypatch: pytest.MonkeyPatch, model: Any, tiled: bool, more: float
) -> None:
    """It folds before it rounds; with fewer products it rounds more, by at most 3 dB. The network stays as it is."""
    monkeypatch.setattr(rewrite, "bf16_unit", lambda: "avx512_bf16")
    network, (source, driving) = model(), pictures(64, 2)
    before = copy.deepcopy(network.state_dict())
    fast = rewritten(network, torch.bfloat16)
    assert any(isinstance(part, Winograd) for part in fast.modules()) == tiled
    kp = network.keypoints(source), network.keypoints(driving)
    exact, made = (each.generate(source, *kp).prediction for each in (network, fast))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert (network.dtype, fast.dtype) == (torch.float32, torch.bfloat16)
    assert fast.weights_digest == network.weights_digest
    network.generator.to(torch.bfloat16)
    slow = network.generate(source, *kp).prediction.float()
    assert 0 < F.mse_loss(made.float(), exact) < more * F.mse_loss(slow, exact)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 6),
    st.booleans(),
    st.booleans(),
    st.floats(0.2, 30),
)
def test_bags_of_four_are_bilinear_samples(
    count: int, channels: int, height: int, width: int, several: bool, masked: bool, reach: float
) -> None:
    """Also far outside the features, where all is zero, and with one source per frame."""
    generator = torch.Generator().manual_seed(height * width)
    features = torch.rand(count if several else 1, channels, height, width, generator=generator)
    deformation = (torch.rand(count, 5, 4, 2, generator=generator) * 2 - 1) * reach
    occlusion = torch.rand(count, 1, 5, 4, generator=generator) if masked else None
    moved = _MaskedWarp()(features, deformation, occlusion)
    assert (moved - MaskedWarp()(features, deformation, occlusion)).abs().max() < 1e-4


def test_a_motion_without_bounds_does_not_read_outside() -> None:
    """A singular jacobian gives infinite coordinates; the published code gives undefined pixels there."""
    deformation = torch.tensor([float("inf"), float("-inf"), float("nan"), 1e30, 0.0, 0.0]).view(1, 1, 3, 2)
    moved = _MaskedWarp()(torch.ones(1, 2, 4, 4), deformation, None)
    assert moved[0, :, 0, 2].tolist() == [1, 1]
