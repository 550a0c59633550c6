"""The network's outputs match the original's, and its parts have the required properties."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import talkies
from talkies.fomm.model.first_order import FirstOrderModel, build_model
from talkies.fomm.model.generator import Generated
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.model.layers import AntiAliasDownsample, coordinate_grid, gaussian_heatmap, inverse_2x2, warp
from talkies.fomm.model.presets import PRESETS

KEYPOINT_TOLERANCE = 1e-4
LOGIT_TOLERANCE = 1e-3  # relative to the logits' scale


class Run:
    """One golden network, run once for all its tests."""

    def __init__(self, name: str) -> None:
        self.golden = golden.load(name)
        self.expected = self.golden.expected
        self.model = self.golden.model()
        self.kp_source = self.model.keypoints(self.golden.source)
        self.kp_driving = self.model.keypoints(self.golden.driving)
        self.transferred = talkies.transfer_motion(self.kp_source, self.kp_driving, self.kp_driving[0])
        self.generated = self.model.generate(self.golden.source, self.kp_source, self.transferred)

    def wants(self, key: str) -> Tensor:
        return torch.from_numpy(self.expected[key])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run these small networks on one thread; more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=golden.NAMES)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


@pytest.fixture(scope="module")
def tiny() -> Run:
    return Run("tiny64")


def furthest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def test_there_are_seven_golden_networks() -> None:
    assert len(golden.NAMES) == 7


def test_images_are_rebuilt(run: Run) -> None:
    digests = [str(d) for d in run.expected["input_sha256"]]
    if digests != run.golden.input_digests():
        pytest.skip("this machine's libm rounds the images' last bit otherwise; the other tests say whether it matters")


def test_state_dict_is_the_originals(run: Run) -> None:
    entries = {name: [list(t.shape), str(t.dtype)] for name, t in run.model.state_dict().items()}
    assert entries == run.golden.entries


def test_keypoints(run: Run) -> None:
    assert furthest(run.kp_source.value[0], run.wants("src_value")) < KEYPOINT_TOLERANCE
    assert furthest(run.kp_driving.value, run.wants("drv_value")) < KEYPOINT_TOLERANCE
    if "src_jacobian" in run.expected:
        assert run.kp_source.jacobian is not None
        assert run.kp_driving.jacobian is not None
        assert furthest(run.kp_source.jacobian[0], run.wants("src_jacobian")) < KEYPOINT_TOLERANCE
        assert furthest(run.kp_driving.jacobian, run.wants("drv_jacobian")) < KEYPOINT_TOLERANCE
    else:
        assert run.kp_source.jacobian is None
        assert run.kp_driving.jacobian is None


def test_transferred_motion(run: Run) -> None:
    assert furthest(run.transferred.value, run.wants("norm_value")) < KEYPOINT_TOLERANCE
    if "norm_jacobian" in run.expected:
        assert run.transferred.jacobian is not None
        assert furthest(run.transferred.jacobian, run.wants("norm_jacobian")) < KEYPOINT_TOLERANCE
    else:
        assert run.transferred.jacobian is None


def test_adapted_scale(run: Run) -> None:
    """The transferred movement is the driver's, times sqrt(source hull's area / initial hull's area)."""
    moved = (run.transferred.value - run.kp_source.value).flatten()
    driving = (run.kp_driving.value - run.kp_driving.value[:1]).flatten()
    scale = float(moved @ driving / (driving @ driving))
    assert scale == pytest.approx(float(run.expected["scale"]), abs=1e-4)

    kept = talkies.transfer_motion(run.kp_source, run.kp_driving, run.kp_driving[0], adapt_scale=False)
    assert furthest(kept.value - run.kp_source.value, run.kp_driving.value - run.kp_driving.value[:1]) < 1e-6


def test_absolute_motion_is_the_drivings_own(run: Run) -> None:
    for adapt_scale in (True, False):
        absolute = talkies.transfer_motion(
            run.kp_source, run.kp_driving, run.kp_driving[0], relative=False, adapt_scale=adapt_scale
        )
        assert torch.equal(absolute.value, run.kp_driving.value)
        if run.kp_driving.jacobian is not None:
            assert absolute.jacobian is not None
            assert torch.equal(absolute.jacobian, run.kp_driving.jacobian)


def test_logits(run: Run) -> None:
    wanted = run.wants("logits")
    assert furthest(run.generated.logits, wanted) < LOGIT_TOLERANCE * float(wanted.abs().max())


def bytes_of(prediction: Tensor) -> Tensor:
    return (prediction * 255).round().to(torch.int16)


def test_prediction(run: Run) -> None:
    assert furthest(bytes_of(run.generated.prediction), bytes_of(run.wants("prediction"))) <= 1
    assert run.generated.prediction.min() >= 0
    assert run.generated.prediction.max() <= 1


def test_prediction_of_absolute_keypoints(run: Run) -> None:
    out = run.model.generate(run.golden.source, run.kp_source, run.kp_driving[-1])
    assert furthest(bytes_of(out.prediction), bytes_of(run.wants("prediction_abs"))) <= 1


def test_dense_motion(run: Run) -> None:
    assert furthest(run.generated.deformation, run.wants("deformation")) < 1e-4
    assert furthest(run.generated.mask, run.wants("mask")) < 1e-4
    assert furthest(run.generated.sparse_deformed[-1:], run.wants("sparse_deformed")) < 1e-4
    assert furthest(run.generated.mask.sum(dim=1), torch.ones(run.generated.mask[:, 0].shape)) < 1e-5


def test_occlusion(run: Run) -> None:
    if run.expected["occlusion"].size:
        assert run.generated.occlusion is not None
        assert furthest(run.generated.occlusion, run.wants("occlusion")) < 1e-4
    else:
        assert run.generated.occlusion is None


# ---- one source and many frames ------------------------------------------------------------------------------------


def same(a: Generated, b: Generated, tolerance: float) -> None:
    assert furthest(a.logits, b.logits) < tolerance * float(a.logits.abs().max())
    assert furthest(a.deformation, b.deformation) < 1e-5


def test_one_source_for_all_frames_equals_as_many_sources(run: Run) -> None:
    count = len(run.kp_driving)
    many = run.model.generate(
        run.golden.source.repeat(count, 1, 1, 1),
        Keypoints(
            run.kp_source.value.repeat(count, 1, 1),
            None if run.kp_source.jacobian is None else run.kp_source.jacobian.repeat(count, 1, 1, 1),
        ),
        run.transferred,
    )
    same(run.generated, many, 1e-4)


def test_features_computed_once_serve_every_frame(run: Run) -> None:
    features = run.model.encode(run.golden.source)
    for i in range(len(run.kp_driving)):
        one = run.model.generate(features, run.kp_source, run.transferred[i])
        assert one.prediction.shape[0] == 1
        whole = run.generated.logits[i : i + 1]
        assert furthest(one.logits, whole) < 1e-4 * float(whole.abs().max())


def test_different_sources_in_one_batch_stay_apart(tiny: Run) -> None:
    sources = torch.cat([tiny.golden.source, tiny.golden.driving[1:]])
    kp = tiny.model.keypoints(sources)
    together = tiny.model.generate(sources, kp, tiny.transferred)
    for i in range(2):
        alone = tiny.model.generate(sources[i : i + 1], kp[i], tiny.transferred[i])
        assert furthest(alone.logits, together.logits[i : i + 1]) < 1e-4 * float(alone.logits.abs().max())


def test_the_prediction_is_the_logits_sigmoid(tiny: Run) -> None:
    assert torch.equal(tiny.generated.prediction, tiny.generated.logits.sigmoid())


def test_wrong_frames_are_refused(tiny: Run) -> None:
    for wrong in (
        torch.zeros(3, 64, 64),
        torch.zeros(1, 64, 64, 3),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match=r"float tensor \[N, 3, H, W\]"):
            tiny.model.keypoints(wrong)
        with pytest.raises(ValueError, match=r"float tensor \[N, 3, H, W\]"):
            tiny.model.generate(wrong, tiny.kp_source, tiny.kp_driving)


# ---- training ------------------------------------------------------------------------------------------------------


def test_training_reaches_every_parameter(run: Run) -> None:
    model = run.golden.model().requires_grad_(True).train()
    for parameter in model.parameters():
        parameter.grad = None
    count = len(run.golden.driving)
    source = run.golden.source.repeat(count, 1, 1, 1)
    out = model.generator(source, model.kp_detector(source), model.kp_detector(run.golden.driving))
    (out.prediction - run.golden.driving).abs().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias before batch norm has no effect on the output, so its gradient is only rounding error.
        if not name.endswith(".bias"):
            assert parameter.grad.abs().max() > 0, name


def test_training_moves_the_running_statistics() -> None:
    facts = golden.load("tiny64")
    model = facts.model().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.kp_detector(facts.driving)
    after = model.state_dict()
    statistics = [name for name in after if "running" in name and name.startswith("kp_detector")]
    assert statistics
    assert all(not torch.equal(before[name], after[name]) for name in statistics)
    assert torch.equal(before["kp_detector.down.weight"], after["kp_detector.down.weight"])


def test_a_step_of_training_lowers_the_loss() -> None:
    facts = golden.load("tiny64")
    model = facts.model().requires_grad_(True).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999))
    source = facts.source.repeat(2, 1, 1, 1)
    losses = []
    for _ in range(6):
        out = model.generator(source, model.kp_detector(source), model.kp_detector(facts.driving))
        loss = (out.prediction - facts.driving).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_untrained_jacobians_are_the_identity() -> None:
    facts = golden.load("tiny64")
    jacobian = build_model(facts.parameters).eval().keypoints(facts.source).jacobian
    assert jacobian is not None
    assert furthest(jacobian, torch.eye(2).expand_as(jacobian)) < 1e-6


# ---- the presets ---------------------------------------------------------------------------------------------------


def on_paper(preset: str) -> FirstOrderModel:
    with torch.device("meta"):
        return build_model(preset)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    shapes = {key: list(t.shape) for key, t in on_paper(name).state_dict().items()}
    assert len({*shapes}) == len(shapes)
    if preset.packaged:
        return
    assert preset.size == 256
    assert shapes["generator.first.conv.weight"] == [64, 3, 7, 7]
    assert shapes["generator.bottleneck.r5.conv2.weight"] == [256, 256, 3, 3]
    assert shapes["generator.final.weight"] == [3, 64, 7, 7]
    assert shapes["generator.dense_motion_network.mask.weight"] == [11, 108, 7, 7]
    assert shapes["generator.dense_motion_network.occlusion.weight"] == [1, 108, 7, 7]
    assert shapes["generator.dense_motion_network.down.weight"] == [3, 1, 13, 13]
    assert shapes["kp_detector.kp.weight"] == [10, 35, 7, 7]
    assert shapes["kp_detector.predictor.encoder.down_blocks.4.conv.weight"] == [1024, 512, 3, 3]
    assert shapes["kp_detector.down.weight"] == [3, 1, 13, 13]
    assert shapes["kp_detector.jacobian.weight"] == [4 if name == "mgif-256" else 40, 35, 7, 7]


def test_the_published_networks_are_two() -> None:
    """All but mgif are the same network at inference; mgif shares one jacobian map between its keypoints."""
    shapes = {
        name: {key: tuple(t.shape) for key, t in on_paper(name).state_dict().items()}
        for name, preset in PRESETS.items()
        if not preset.packaged
    }
    vox = shapes["vox-256"]
    assert [name for name, found in shapes.items() if found != vox] == ["mgif-256"]
    assert {key for key in vox if vox[key] != shapes["mgif-256"][key]} == {
        "kp_detector.jacobian.weight",
        "kp_detector.jacobian.bias",
    }


def test_the_full_network_has_the_tiny_ones_names() -> None:
    """The golden tiny128 has vox-adv's topology, but is narrower."""
    assert set(on_paper("vox-adv-256").state_dict()) == set(golden.load("tiny128").entries)


def test_checkpoint_names() -> None:
    names = {name: preset.checkpoint for name, preset in PRESETS.items()}
    assert names["vox-adv-256"] == "vox-adv-cpk.pth.tar"
    assert names["fashion-256"] == "fashion.pth.tar"
    assert names["demo"] is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "common_params is missing"),
        ({"common_params": {}, "kp_detector_params": {}, "generator_params": 3}, "generator_params is missing"),
        ({"common_params": {"mouths": 1}, "kp_detector_params": {}, "generator_params": {}}, "mouths"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(parameters)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'vox'.*vox-adv-256"):
        build_model("vox")


def test_a_whole_yaml_is_accepted() -> None:
    parameters = golden.load("tiny64").parameters
    whole = {"dataset_params": {"root_dir": "data"}, "model_params": parameters}
    assert build_model(whole).state_dict().keys() == build_model(parameters).state_dict().keys()


# ---- keypoints as a value ------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.data())
def test_keypoints_index_keeps_the_frame_axis(count: int, data: st.DataObject) -> None:
    kp = Keypoints(torch.rand(count, 10, 2), torch.rand(count, 10, 2, 2))
    i = data.draw(st.integers(-count, count - 1))
    assert torch.equal(kp[i].value, kp.value[i][None])
    assert kp.jacobian is not None
    assert torch.equal(kp[i].jacobian, kp.jacobian[i][None])
    assert len(kp) == count
    assert Keypoints(kp.value)[i].jacobian is None


# ---- geometry ------------------------------------------------------------------------------------------------------

numbers = st.floats(-3, 3, allow_nan=False, width=32)


@given(st.tuples(numbers, numbers, numbers, numbers))
def test_inverse_2x2(values: tuple[float, float, float, float]) -> None:
    matrix = torch.tensor(values, dtype=torch.float64).reshape(1, 2, 2)
    if abs(float(torch.linalg.det(matrix))) < 1e-2:
        return
    assert furthest(inverse_2x2(matrix) @ matrix, torch.eye(2, dtype=torch.float64)[None]) < 1e-9


@given(st.integers(2, 40), st.integers(2, 40))
def test_coordinate_grid_runs_from_corner_to_corner(height: int, width: int) -> None:
    grid = coordinate_grid(height, width, torch.zeros(()))
    assert grid.shape == (height, width, 2)
    assert grid[0, 0].tolist() == [-1, -1]
    assert grid[-1, -1].tolist() == [1, 1]
    assert grid[0, -1].tolist() == [1, -1]  # x first
    assert furthest(grid.flip(0, 1), -grid) < 1e-6


def keeping_model(reduction: int = 1) -> FirstOrderModel:
    """A small network that keeps visible parts of the source, and takes every part as visible."""
    parameters = copy.deepcopy(golden.load("tiny64").parameters)
    parameters["common_params"]["reduction"] = reduction
    parameters["generator_params"]["keep_visible"] = True
    parameters["generator_params"]["dense_motion_params"]["centred_grid"] = True
    model = build_model(parameters)
    torch.nn.init.constant_(model.generator.dense_motion_network.occlusion.bias, 50)
    return model.requires_grad_(False).eval()


def test_what_is_visible_and_still_stays_as_it_is() -> None:
    model = keeping_model()
    source = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    kp = model.keypoints(source)
    result = model.generate(source, kp, kp)
    assert furthest(result.prediction, source) < 1e-4
    assert furthest(result.logits.sigmoid(), source) > 0.1  # the painted picture itself differs from the source
    # Hidden parts come from the painted picture.
    torch.nn.init.constant_(model.generator.dense_motion_network.occlusion.bias, -50)
    hidden = model.generate(source, kp, kp)
    assert furthest(hidden.prediction, hidden.logits.sigmoid()) < 1e-6


def test_what_is_visible_is_as_sharp_as_its_source_where_the_network_works_at_half_the_side() -> None:
    model = keeping_model(reduction=2)
    source = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    kp = model.keypoints(source)
    half = keeping_model()
    half.load_state_dict(model.state_dict())
    assert furthest(kp.value, half.keypoints(F.avg_pool2d(source, 2)).value) < 1e-6
    result = model.generate(source, kp, kp)
    assert result.logits.shape == (1, 3, 64, 64)
    assert furthest(result.prediction, source) < 1e-4
    # A head that moves by four pixels is the source moved by four pixels.
    torch.nn.init.constant_(model.generator.dense_motion_network.mask.bias[:1], -50)
    moved = model.generate(source, kp, Keypoints(kp.value - 8 / 128, kp.jacobian)).prediction
    assert furthest(moved[..., 16:-16, 16:-16], source[..., 20:-12, 20:-12]) < 1e-3
    # Hidden parts are painted at half the side.
    torch.nn.init.constant_(model.generator.dense_motion_network.occlusion.bias, -50)
    hidden = model.generate(source, kp, kp).prediction
    assert furthest(F.avg_pool2d(hidden, 2), result.logits.sigmoid()) < 0.1


def test_what_is_visible_is_known_by_the_occlusion_map_alone() -> None:
    parameters = copy.deepcopy(golden.load("tiny64").parameters)
    parameters["generator_params"] |= {"keep_visible": True, "estimate_occlusion_map": False}
    with pytest.raises(ValueError, match="keep_visible needs estimate_occlusion_map"):
        build_model(parameters)


@given(st.integers(2, 40), st.integers(2, 40))
def test_a_centred_grid_warps_nothing(height: int, width: int) -> None:
    x = torch.rand(1, 2, height, width, dtype=torch.float64)
    assert furthest(warp(x, coordinate_grid(height, width, x, centred=True)[None]), x) < 1e-9


@given(st.integers(8, 24), st.integers(8, 24), st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
def test_gaussian_is_the_formula(height: int, width: int, x: float, y: float) -> None:
    point = torch.tensor([[[x, y]]], dtype=torch.float64)
    grid = coordinate_grid(height, width, point)
    squared = ((grid - point[0, 0]) ** 2).sum(dim=-1)
    assert furthest(gaussian_heatmap(point, height, width, 0.01)[0, 0], torch.exp(-squared / 0.02)) < 1e-12


@settings(deadline=None)
@given(st.integers(-3, 3), st.integers(-3, 3))
def test_warp_by_whole_pixels_shifts(dx: int, dy: int) -> None:
    side = 16
    x = torch.rand(1, 2, side, side, dtype=torch.float64)
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1  # sampling's own pixel centres
    grid = torch.stack([centres.expand(side, side), centres[:, None].expand(side, side)], dim=-1)
    moved = warp(x, (grid + torch.tensor([dx, dy], dtype=torch.float64) * 2 / side)[None])
    wanted = torch.zeros_like(x)
    rows, columns = slice(max(0, -dy), min(side, side - dy)), slice(max(0, -dx), min(side, side - dx))
    wanted[..., rows, columns] = torch.roll(x, (-dy, -dx), (2, 3))[..., rows, columns]
    assert furthest(moved, wanted) < 1e-9


def test_warp_keeps_coordinates_in_full_precision() -> None:
    """At 256 pixels, half-precision coordinates would be wrong by up to a pixel; features may be half precision."""
    x = torch.rand(1, 1, 256, 256)
    grid = coordinate_grid(256, 256, x)[None]
    assert furthest(warp(x.bfloat16(), grid).float(), warp(x.bfloat16().float(), grid)) < 0.005


@pytest.mark.parametrize(("scale", "side"), [(0.25, 13), (0.5, 5)])
def test_anti_alias_kernel(scale: float, side: int) -> None:
    layer = AntiAliasDownsample(3, scale)
    assert list(layer.weight.shape) == [3, 1, side, side]
    assert float(layer.weight[0].sum()) == pytest.approx(1, abs=1e-6)
    assert not any(p.requires_grad for p in layer.parameters())
    sigma = (1 / scale - 1) / 2
    offset = np.arange(side) - (side - 1) / 2
    kernel = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
    assert np.abs(layer.weight[0, 0].numpy() - kernel / kernel.sum()).max() < 1e-7
    flat = layer(torch.ones(1, 3, 64, 64))
    assert flat.shape[2:] == (64 * scale, 64 * scale)
    inner = flat[..., 4:-4, 4:-4]
    assert furthest(inner, torch.ones_like(inner)) < 1e-6


@settings(deadline=None, max_examples=10)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-0.4, 0.4))
def test_sparse_motions_follow_both_poses(dx: float, dy: float, turn: float) -> None:
    """Equation 4 is equivariant: T(A z) = A T(z) when both poses are carried by one affine A."""
    generator = torch.Generator().manual_seed(3)
    value = torch.rand(2, 10, 2, generator=generator, dtype=torch.float64) - 0.5
    jacobian = torch.eye(2, dtype=torch.float64) + 0.2 * torch.rand(
        2, 10, 2, 2, generator=generator, dtype=torch.float64
    )
    network = build_model(golden.load("tiny64").parameters).generator.dense_motion_network
    a = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    b = torch.tensor([dx, dy], dtype=torch.float64)

    still = network.sparse_motions(Keypoints(value[:1], jacobian[:1]), Keypoints(value[1:], jacobian[1:]), 8, 8)
    moved_value, moved_jacobian = value @ a.T + b, a @ jacobian
    # A T(z) at the grid's points z, from the motion of the moved poses, which is affine in z.
    grid = coordinate_grid(8, 8, value)
    source, driving = moved_value[0], moved_value[1]
    linear = moved_jacobian[0] @ torch.linalg.inv(moved_jacobian[1])
    at_moved = source[:, None, None] + torch.einsum("kij,khwj->khwi", linear, grid @ a.T + b - driving[:, None, None])
    assert furthest(at_moved, still[0, 1:] @ a.T + b) < 1e-9
    assert furthest(still[0, 0], grid) < 1e-12  # the background does not move
