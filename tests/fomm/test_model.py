"""The network's outputs match the original's, and its parts have the required properties."""

from __future__ import annotations

import copy
from typing import Any

import golden
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import talkies
from talkies.fomm.model.checkpoint import skeleton
from talkies.fomm.model.first_order import FirstOrderModel, build_model
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.model.layers import coordinate_grid, resized, warp
from talkies.fomm.model.presets import PRESETS


class Run:
    """One golden network, run once for all its tests."""

    def __init__(self, name: str) -> None:
        self.golden = golden.load(name)
        self.model = self.golden.model()
        self.kp_source = self.model.keypoints(self.golden.source)
        self.kp_driving = self.model.keypoints(self.golden.driving)
        self.transferred = talkies.transfer_motion(self.kp_source, self.kp_driving, self.kp_driving[0])
        self.generated = self.model.generate(self.golden.source, self.kp_source, self.transferred)

    def wants(self, key: str) -> Tensor | None:
        """Return one of the original's outputs; None where its network has none."""
        expected = self.golden.expected
        return torch.from_numpy(expected[key]) if key in expected and expected[key].size else None


@pytest.fixture(scope="module", params=golden.NAMES)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


@pytest.fixture(scope="module")
def tiny() -> Run:
    return Run("tiny64")


def furthest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def bytes_of(prediction: Tensor) -> Tensor:
    return (prediction * 255).round().to(torch.int16)


def test_images_are_rebuilt(run: Run) -> None:
    assert len(golden.NAMES) == 7
    if [str(d) for d in run.golden.expected["input_sha256"]] != run.golden.input_digests():
        pytest.skip("the golden images to the last bit (this machine's libm rounds otherwise)")


def test_everything_is_as_the_original_computes_it(run: Run) -> None:
    state = {name: [list(t.shape), str(t.dtype)] for name, t in run.model.state_dict().items()}
    assert state == run.golden.entries
    absolute = run.model.generate(run.golden.source, run.kp_source, run.kp_driving[-1])
    logits = run.wants("logits")
    assert logits is not None
    for key, found, tolerance in (
        ("src_value", run.kp_source.value[0], 1e-4),
        ("src_jacobian", None if run.kp_source.jacobian is None else run.kp_source.jacobian[0], 1e-4),
        ("drv_value", run.kp_driving.value, 1e-4),
        ("drv_jacobian", run.kp_driving.jacobian, 1e-4),
        ("norm_value", run.transferred.value, 1e-4),
        ("norm_jacobian", run.transferred.jacobian, 1e-4),
        ("logits", run.generated.logits, 1e-3 * float(logits.abs().max())),
        ("deformation", run.generated.deformation, 1e-4),
        ("mask", run.generated.mask, 1e-4),
        ("sparse_deformed", run.generated.sparse_deformed[-1:], 1e-4),
        ("occlusion", run.generated.occlusion, 1e-4),
    ):
        wanted = run.wants(key)
        assert (found is None) == (wanted is None), key
        if found is not None and wanted is not None:
            assert furthest(found, wanted) < tolerance, key
    for key, out in (("prediction", run.generated), ("prediction_abs", absolute)):
        wanted = run.wants(key)
        assert wanted is not None
        assert furthest(bytes_of(out.prediction), bytes_of(wanted)) <= 1
        assert torch.equal(out.prediction, out.logits.sigmoid())
    assert furthest(run.generated.mask.sum(dim=1), torch.ones(run.generated.mask[:, 0].shape)) < 1e-5


# ---- one source and many frames ------------------------------------------------------------------------------------


def test_features_computed_once_serve_every_frame(run: Run) -> None:
    """One source for all frames, its features, and as many sources as frames give the same frames."""
    count, source = len(run.kp_driving), run.golden.source
    close = 1e-4 * float(run.generated.logits.abs().max())
    many = run.model.generate(source.repeat(count, 1, 1, 1), run.kp_source.expand(count), run.transferred)
    assert furthest(many.logits, run.generated.logits) < close
    assert furthest(many.deformation, run.generated.deformation) < 1e-5
    features = run.model.encode(source)
    for i in range(count):
        one = run.model.generate(features, run.kp_source, run.transferred[i])
        assert furthest(one.logits, run.generated.logits[i : i + 1]) < close


def test_different_sources_in_one_batch_stay_apart(tiny: Run) -> None:
    sources = torch.cat([tiny.golden.source, tiny.golden.driving[1:]])
    kp = tiny.model.keypoints(sources)
    together = tiny.model.generate(sources, kp, tiny.transferred)
    for i in range(2):
        alone = tiny.model.generate(sources[i : i + 1], kp[i], tiny.transferred[i])
        assert furthest(alone.logits, together.logits[i : i + 1]) < 1e-4 * float(alone.logits.abs().max())


def test_wrong_frames_are_refused(tiny: Run) -> None:
    frames = torch.zeros(1, 3, 64, 64)
    for wrong in (frames[0], frames.permute(0, 2, 3, 1), frames.byte(), frames.numpy(), torch.zeros(1, 3, 100, 140)):
        for call in (tiny.model.keypoints, lambda x: tiny.model.generate(x, tiny.kp_source, tiny.kp_driving)):
            with pytest.raises(ValueError, match=r"float tensor \[N, 3, H, W\]"):
                call(wrong)


# ---- training ------------------------------------------------------------------------------------------------------


def test_training_reaches_every_parameter_and_statistic_and_lowers_the_loss(run: Run) -> None:
    model = run.golden.model().requires_grad_(True).train()
    source = run.golden.source.repeat(len(run.golden.driving), 1, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999))
    before, losses = copy.deepcopy(model.state_dict()), []
    for _ in range(6 if run.golden.name == "tiny64" else 1):
        out = model.generator(source, model.kp_detector(source), model.kp_detector(run.golden.driving))
        losses.append((out.prediction - run.golden.driving).abs().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert len(losses) == 1 or losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias before batch norm has no effect on the output, so its gradient is only rounding error.
        assert name.endswith(".bias") or parameter.grad.abs().max() > 0, name
    for name, t in model.state_dict().items():
        assert torch.equal(before[name], t) == name.endswith("down.weight"), name


def test_untrained_jacobians_are_the_identity() -> None:
    facts = golden.load("tiny64")
    jacobian = build_model(facts.parameters).eval().keypoints(facts.source).jacobian
    assert jacobian is not None
    assert furthest(jacobian, torch.eye(2).expand_as(jacobian)) < 1e-6


# ---- the presets ---------------------------------------------------------------------------------------------------

PUBLISHED = {
    "generator.first.conv.weight": (64, 3, 7, 7),
    "generator.bottleneck.r5.conv2.weight": (256, 256, 3, 3),
    "generator.final.weight": (3, 64, 7, 7),
    "generator.dense_motion_network.mask.weight": (11, 108, 7, 7),
    "generator.dense_motion_network.occlusion.weight": (1, 108, 7, 7),
    "generator.dense_motion_network.down.weight": (3, 1, 13, 13),
    "kp_detector.kp.weight": (10, 35, 7, 7),
    "kp_detector.predictor.encoder.down_blocks.4.conv.weight": (1024, 512, 3, 3),
    "kp_detector.down.weight": (3, 1, 13, 13),
    "kp_detector.jacobian.weight": (40, 35, 7, 7),
}


def test_the_published_networks_are_two() -> None:
    """All but mgif are the same network at inference; mgif shares one jacobian map between its keypoints."""
    shapes = {name: {key: tuple(t.shape) for key, t in skeleton(name).state_dict().items()} for name in PRESETS}
    vox = shapes["vox-256"]
    assert set(shapes["vox-adv-256"]) == set(golden.load("tiny128").entries), "golden tiny128 has its topology"
    assert PUBLISHED.items() <= vox.items()
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.size == 256
        if not preset.packaged:
            other = {"kp_detector.jacobian.weight", "kp_detector.jacobian.bias"} if name == "mgif-256" else set()
            assert {key for key in vox if vox[key] != shapes[name][key]} == other
    assert shapes["mgif-256"]["kp_detector.jacobian.weight"] == (4, 35, 7, 7)
    names = [PRESETS[name].checkpoint for name in ("vox-adv-256", "fashion-256", "demo")]
    assert names == ["vox-adv-cpk.pth.tar", "fashion.pth.tar", None]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "common_params is missing"),
        ({"common_params": {}, "kp_detector_params": {}, "generator_params": 3}, "generator_params is missing"),
        ({"common_params": {"mouths": 1}, "kp_detector_params": {}, "generator_params": {}}, "mouths"),
        ("vox", r"unknown preset 'vox'.*vox-adv-256"),
        ("without occlusion", "keep_visible needs estimate_occlusion_map"),
    ],
)
def test_wrong_parameters_are_named(parameters: Any, message: str) -> None:
    if parameters == "without occlusion":
        parameters = copy.deepcopy(golden.load("tiny64").parameters)
        parameters["generator_params"] |= {"keep_visible": True, "estimate_occlusion_map": False}
    with pytest.raises(ValueError, match=message):
        build_model(parameters)


# ---- keeping what is visible ---------------------------------------------------------------------------------------


def keeping_model(reduction: int = 1) -> FirstOrderModel:
    """A small network that keeps visible parts of the source, and takes every part as visible."""
    parameters = copy.deepcopy(golden.load("tiny64").parameters)
    parameters["common_params"]["reduction"] = reduction
    parameters["generator_params"]["keep_visible"] = True
    parameters["generator_params"]["dense_motion_params"]["centred_grid"] = True
    model = build_model(parameters)
    see(model, 50)
    return model.requires_grad_(False).eval()


def see(model: FirstOrderModel, logit: float) -> None:
    torch.nn.init.constant_(model.generator.dense_motion_network.occlusion.bias, logit)


@pytest.mark.parametrize("reduction", [1, 2])
def test_what_is_visible_stays_as_sharp_as_its_source(reduction: int) -> None:
    """Also where the network works at half the side."""
    model, side = keeping_model(reduction), 64 * reduction
    source = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    small = F.avg_pool2d(source, reduction)
    kp = model.keypoints(source)
    plain = keeping_model()
    plain.load_state_dict(model.state_dict())
    assert furthest(kp.value, plain.keypoints(small).value) < 1e-6
    still = model.generate(source, kp, kp)
    assert still.logits.shape == (1, 3, 64, 64)
    assert furthest(still.prediction, source) < 1e-4
    assert furthest(still.logits.sigmoid(), small) > 0.1  # the painted picture itself differs from the source
    # A head that moves by four pixels is the source moved by four pixels.
    torch.nn.init.constant_(model.generator.dense_motion_network.mask.bias[:1], -50)
    moved = model.generate(source, kp, Keypoints(kp.value - 8 / side, kp.jacobian)).prediction
    assert furthest(moved[..., 16:-16, 16:-16], source[..., 20:-12, 20:-12]) < 1e-3
    see(model, -50)  # hidden parts come from the painted picture
    hidden = model.generate(source, kp, kp)
    far = furthest(F.avg_pool2d(hidden.prediction, reduction), hidden.logits.sigmoid())
    assert far < (1e-6 if reduction == 1 else 0.1)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(12, 18), (24, 9), (48, 36)])
def test_maps_are_resized_as_interpolated(mode: str, sides: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, 12, 18)
    assert furthest(resized(maps, sides, mode), F.interpolate(maps, size=sides, mode=mode)) < 1e-5
    assert resized(maps.bfloat16(), sides, mode).dtype == torch.bfloat16


# ---- keypoints and geometry ----------------------------------------------------------------------------------------

sides = st.integers(2, 40)


@given(sides, sides)
def test_a_grid_runs_from_corner_to_corner_and_a_centred_one_warps_nothing(height: int, width: int) -> None:
    x = torch.rand(1, 2, height, width, dtype=torch.float64)
    grid = coordinate_grid(height, width, x)
    corners = [grid[i, j].tolist() for i, j in ((0, 0), (-1, -1), (0, -1))]
    assert corners == [[-1, -1], [1, 1], [1, -1]]  # x first
    assert furthest(grid.flip(0, 1), -grid) < 1e-6
    assert furthest(warp(x, coordinate_grid(height, width, x, centred=True)[None]), x) < 1e-9


def test_warp_keeps_coordinates_in_full_precision() -> None:
    """At 256 pixels, half-precision coordinates would be wrong by up to a pixel; features may be half precision."""
    x = torch.rand(1, 1, 256, 256)
    grid = coordinate_grid(256, 256, x)[None]
    assert furthest(warp(x.bfloat16(), grid).float(), warp(x.bfloat16().float(), grid)) < 0.005
