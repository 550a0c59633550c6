"""Motion: detected in batches of any size, saved without pickles, refused if unfit, transferred by the formula."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_network import SIDE, clip, tiny_model

from talkies.errors import TalkiesError
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.model.presets import Opening
from talkies.fomm.motion import SHUT, Motion, best_frame, detect_motion, frames_to_tensor, hull_area, transfer_motion

NTSC = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def model() -> FirstOrderModel:
    return tiny_model()


def some_motion(*, jacobians: bool = True, frames: int = 3) -> Motion:
    rng = np.random.default_rng(3)
    value = rng.uniform(-1, 1, (frames, 4, 2)).astype(np.float32)
    jacobian = rng.normal(size=(frames, 4, 2, 2)).astype(np.float32) if jacobians else None
    return Motion(value, jacobian, NTSC, 256, "vox-256", "f" * 64)


# --- saved and loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("jacobians", [True, False])
def test_a_motion_is_loaded_as_it_was_saved(tmp_path: Path, jacobians: bool) -> None:
    saved = some_motion(jacobians=jacobians)
    saved.save(tmp_path / "a.npz")
    loaded = Motion.load(tmp_path / "a.npz")
    assert np.array_equal(loaded.value, saved.value)
    assert loaded.value.dtype == np.float32
    assert np.array_equal(loaded.jacobian, saved.jacobian) if jacobians else loaded.jacobian is None
    assert replace(loaded, value=saved.value, jacobian=None) == replace(saved, jacobian=None)  # 30000/1001, not 29.97
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert not any(file[name].dtype.hasobject for name in file.files)


def archive(*, value: object = None, jacobian: object = None, **changes: object) -> bytes:
    """Return a saved motion's file, with other fields or facts."""
    buffer, motion = io.BytesIO(), some_motion()
    facts = {"rate": "30000/1001", "size": 256, "preset": motion.preset, "weights": motion.weights}
    facts = json.dumps({name: fact for name, fact in (facts | changes).items() if fact is not None})
    arrays = {"value": motion.value if value is None else value, "jacobian": motion.jacobian, "facts": facts}
    if jacobian is not None:
        arrays["jacobian"] = jacobian
    np.savez(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
    return buffer.getvalue()


def array(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", ""),
        (b"<html>not found</html>", ""),
        (archive()[:-20], ""),
        (archive()[200:], ""),
        (array(np.zeros((3, 4, 2))), ""),
        (archive(value=np.array([{"a": 1}], dtype=object)), ""),
        (archive(rate="30/0"), ""),
        (archive(rate="fast"), ""),
        (archive(weights=None), "weights"),
    ],
)
def test_a_file_that_is_no_motion_is_refused_in_one_line(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(archive())
    assert Motion.load(path).frames == 3
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(TalkiesError) as caught:
        Motion.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert "make it again" in message
    assert "\n" not in message


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(archive()) - 1), mask=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: int, mask: int
) -> None:
    content = bytearray(archive())
    content[place] ^= mask
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    path.write_bytes(content)
    try:
        loaded = Motion.load(path)
    except TalkiesError:
        return
    expected = some_motion()
    assert np.array_equal(loaded.value, expected.value)
    # A changed name in the archive makes a field unknown; only the jacobians may be missing.
    assert loaded.jacobian is None or np.array_equal(loaded.jacobian, expected.jacobian)
    assert replace(loaded, value=expected.value, jacobian=None) == replace(expected, jacobian=None)


# --- detected ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jacobians", [True, False])
def test_the_batch_changes_nothing(jacobians: bool) -> None:
    model = tiny_model(jacobians=jacobians)
    frames = clip(8)
    motions = [detect_motion(model, iter(frames), NTSC, batch=batch) for batch in (1, 3, 8)]
    for motion in motions:
        assert (motion.frames, motion.size, motion.rate) == (8, SIDE, NTSC)
        assert (motion.preset, motion.weights) == ("tiny", model.weights_digest)
        assert np.allclose(motion.value, motions[0].value, atol=1e-5)
        assert (motion.jacobian is not None) == jacobians
        if jacobians:
            assert np.allclose(motion.jacobian, motions[0].jacobian, atol=1e-4)
    assert np.ptp(motions[0].value, axis=0).max() > 1e-3, "the keypoints move"
    one = model.keypoints(frames_to_tensor(frames[5][None]))
    assert np.allclose(motions[0].value[5], one.value[0].numpy(), atol=1e-5)


def test_no_more_than_the_next_batch_is_read_ahead(model: FirstOrderModel) -> None:
    seen: list[int] = []
    read: list[int] = []

    class Watching:
        device, preset, weights_digest = model.device, model.preset, model.weights_digest

        def keypoints(self, frames: torch.Tensor) -> Keypoints:
            seen.append(len(read))
            return model.keypoints(frames)

        def fitting(self, picture: torch.Tensor) -> Watching:
            return self

    detect_motion(Watching(), (read.append(1) or frame for frame in clip(7)), NTSC, batch=3)
    assert len(seen) == 3
    for number, count in enumerate(seen):
        assert min(7, 3 * (number + 1)) <= count <= min(7, 3 * (number + 2))


def test_a_clip_without_frames_and_undefined_keypoints_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(TalkiesError, match="no frame"):
        detect_motion(model, [], NTSC)
    next(model.kp_detector.parameters()).fill_(float("nan"))
    with pytest.raises(TalkiesError, match="give it the weights of this preset"):
        detect_motion(model, clip(1), NTSC)


# --- transferred -------------------------------------------------------------------------------------------


def poses(seed: int, frames: int = 1, count: int = 6) -> Keypoints:
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(frames, count, 2, generator=generator) * 2 - 1
    return Keypoints(value, torch.eye(2) + 0.3 * torch.randn(frames, count, 2, 2, generator=generator))


SOURCE, DRIVING, INITIAL = poses(1), poses(2, frames=5), poses(3)


@pytest.mark.parametrize("adapt_scale", [True, False])
def test_motion_follows_the_formula(adapt_scale: bool) -> None:
    """Relative; absolute is the driver's own, and a driver that does not move leaves the source alone."""
    absolute = transfer_motion(SOURCE, DRIVING, INITIAL, relative=False, adapt_scale=adapt_scale)
    assert torch.equal(absolute.value, DRIVING.value)
    assert torch.equal(absolute.jacobian, DRIVING.jacobian)
    still = transfer_motion(SOURCE, INITIAL.expand(4), INITIAL, adapt_scale=adapt_scale)
    assert torch.allclose(still.value, SOURCE.value.expand(4, -1, -1))
    assert torch.allclose(still.jacobian, SOURCE.jacobian.expand(4, -1, -1, -1), atol=1e-5)
    moved = transfer_motion(SOURCE, DRIVING, INITIAL, relative=True, adapt_scale=adapt_scale)
    scale = math.sqrt(fan_area(SOURCE.value[0]) / fan_area(INITIAL.value[0])) if adapt_scale else 1.0
    assert abs(scale - 1) > 0.01 or not adapt_scale, "the scale is far enough from 1 to show"
    assert torch.allclose(moved.value, (DRIVING.value - INITIAL.value) * scale + SOURCE.value, atol=1e-5)
    expected = DRIVING.jacobian.double() @ torch.linalg.inv(INITIAL.jacobian.double()) @ SOURCE.jacobian.double()
    assert torch.allclose(moved.jacobian.double(), expected, atol=1e-4)
    bare = transfer_motion(*(Keypoints(kp.value) for kp in (SOURCE, DRIVING, INITIAL)), adapt_scale=adapt_scale)
    assert bare.jacobian is None
    assert torch.equal(bare.value, moved.value), "without jacobians values alone are moved"


@pytest.mark.parametrize("which", ["source", "initial"])
def test_keypoints_on_a_line_scale_by_one(which: str) -> None:
    line = Keypoints(torch.linspace(-0.9, 0.9, 6)[None, :, None].expand(1, 6, 2), SOURCE.jacobian)
    source, initial = (line, INITIAL) if which == "source" else (SOURCE, line)
    moved = transfer_motion(source, DRIVING, initial, adapt_scale=True)
    assert torch.allclose(moved.value, DRIVING.value - initial.value + source.value, atol=1e-6)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_a_wandering_driver_takes_no_head_further_than_its_reach(x: float, y: float) -> None:
    wandering = Keypoints(INITIAL.value + torch.tensor([x, y]), INITIAL.jacobian)
    moved = transfer_motion(SOURCE, wandering, INITIAL, adapt_scale=False, reach=0.35)
    away = moved.value - SOURCE.value
    assert float(away.abs().max()) < 0.35 + 1e-6
    assert torch.allclose(away, away[:, :1].expand_as(away), atol=1e-5)  # the face keeps its shape
    if max(abs(x), abs(y)) < 0.1:  # small movements are followed closely
        assert torch.allclose(away, torch.tensor([x, y]).expand_as(away), atol=0.01)


@given(st.floats(0.2, 3.0), st.floats(0, 1.2), st.sampled_from([1.0, 1.5]))
def test_an_eye_shuts_as_far_as_its_drivers_whatever_their_sizes(size: float, open_: float, gain: float) -> None:
    """The driver's lids are `size` times as far apart as the source's; then their distance is multiplied by open_."""
    lids = torch.tensor([[[0.2, -0.1], [0.2, 0.1], [-0.5, 0.4], [0.5, 0.4]]])
    wide = lids * torch.tensor([1.0, size])
    wide[:, 2:] = lids[:, 2:]
    driving = wide.clone()
    driving[:, :2, 1] *= open_
    moved = transfer_motion(
        *map(Keypoints, (lids, driving, wide)), adapt_scale=False, openings=[Opening(1, 0, (0, 1), gain)]
    ).value
    factor = min(max(1 / size, 0.5), 1.25)
    gap = float(moved[0, 1, 1] - moved[0, 0, 1])
    change, shut = 0.2 * size * (open_ - 1) * factor, 0.2 * SHUT  # the lids never cross
    assert gap == pytest.approx(max(shut, 0.2 + change * (gain if change < 0 else 1)), abs=1e-5)
    if 0.8 <= size <= 2 and gain == 1:
        assert gap == pytest.approx(max(shut, 0.2 * open_), abs=1e-5)
    assert torch.equal(moved[:, 2:], lids[:, 2:])


def test_a_mouth_opens_further_than_it_is_seen_to_by_its_gain() -> None:
    """A mouth is measured by its width, keypoints 2 and 3; the driver's is twice as wide."""
    mouth = torch.tensor([[[0.0, 0.0], [0.0, 0.02], [-0.2, 0.0], [0.2, 0.0]]])
    wide = mouth * torch.tensor([2.0, 1.0])
    driving = wide.clone()
    driving[:, :2, 1] += torch.tensor([-0.02, 0.1])  # the upper lip rises too
    moved = transfer_motion(
        *map(Keypoints, (mouth, driving, wide)), adapt_scale=False, openings=[Opening(0, 1, (2, 3), gain=1.25)]
    ).value
    gap = float(moved[0, 1, 1] - moved[0, 0, 1])
    assert gap == pytest.approx(0.02 + 0.12 / 2 * 1.25, abs=1e-6)


@given(own=st.floats(0, 0.3), opened=st.floats(-0.3, 2), turn=st.floats(-180, 180))
def test_a_mouth_opens_no_further_than_its_limit_and_its_chin_stays_below_it(
    own: float, opened: float, turn: float
) -> None:
    """The mouth is 1 wide; its lips are `own` apart, and the driver's move apart by `opened`."""
    angle = math.radians(turn)
    rotation = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])

    def face(apart: float, chin: float) -> Keypoints:
        return Keypoints(torch.tensor([[[0.0, 0], [0, apart], [-0.5, 0], [0.5, 0], [0, chin]]]) @ rotation)

    limited = Opening(0, 1, (2, 3), limit=0.8, carried=(4,))
    faces = face(own, 0.6), face(opened, 0.6 + opened), face(0, 0.6)
    moved = transfer_motion(*faces, adapt_scale=False, openings=[limited]).value[0] @ rotation.T
    apart, chin = float(moved[1, 1] - moved[0, 1]), float(moved[4, 1] - moved[1, 1])
    assert chin == pytest.approx(0.6 - own, abs=1e-4)
    assert apart <= max(0.8, own) + 2e-3
    if opened < 0.1:  # what is small stays as it is
        assert apart == pytest.approx(own + opened, abs=0.02)


# --- hulls and best frames ---------------------------------------------------------------------------------

coordinate = st.integers(-64, 64).map(lambda n: n / 64)  # exact in float32, so that collinear means collinear
points = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=9).map(
    lambda rows: torch.tensor(rows, dtype=torch.float32)
)


def fan_area(value: torch.Tensor) -> float:
    """The hull's area by brute force: the shoelace formula over all point pairs with no point on their right."""
    rows = sorted({(float(x), float(y)) for x, y in value.double()})
    twice = 0.0
    for a in rows:
        for b in rows:
            if a == b:
                continue
            turns = [(b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) for p in rows]
            # An edge with points on it counts only through its parts.
            on = [p for p, turn in zip(rows, turns, strict=True) if turn == 0 and min(a, b) < p < max(a, b)]
            if min(turns) >= 0 and max(turns) > 0 and not on:
                twice += a[0] * b[1] - a[1] * b[0]
    return twice / 2


def turned(value: torch.Tensor, angle: float, size: float, x: float, y: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return size * value.double() @ torch.tensor([[c, -s], [s, c]], dtype=torch.float64) + torch.tensor([x, y])


@given(points, st.randoms(use_true_random=False), st.floats(0, 6.28), st.floats(0.1, 5), coordinate, coordinate)
def test_the_hulls_area_is_what_brute_force_finds(
    value: torch.Tensor, random, angle: float, size: float, x: float, y: float
) -> None:
    """Whatever the points' order, and with points inside; it grows by the square, and ignores place and turn."""
    area, rows = hull_area(value), value.tolist()
    assert area == pytest.approx(fan_area(value), abs=1e-9)
    mixed = [*rows, [sum(column) / len(rows) for column in zip(*rows, strict=True)], rows[0]]
    random.shuffle(mixed)
    assert hull_area(torch.tensor(mixed, dtype=torch.float64)) == pytest.approx(area, abs=1e-9)
    assert hull_area(turned(value, angle, size, x, y)) == pytest.approx(size**2 * area, abs=1e-8)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7), st.floats(0.3, 2), coordinate, coordinate)
def test_the_best_frame_is_the_sources_pose_wherever_and_however_large(
    seed: int, place: int, size: float, x: float, y: float
) -> None:
    source, driving = poses(seed), poses(seed + 20_000, frames=8)
    assume(hull_area(source.value[0]) > 0.05)
    value = driving.value.clone()
    value[place] = turned(source.value[0], 0.0, size, x, y).float()
    assert best_frame(source, Keypoints(value, driving.jacobian)) == place
