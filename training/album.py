"""Albums of training pictures: drawn portraits or rendered heads, made once, stored in parts, and read in batches.

A group is FAMILY identities, all in the same POSES poses. So one identity can drive another, and the correct result
is known. Groups are made in parts of PART groups. If you ask for more groups, only the missing parts are made.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from covers import coarsen, cover
from landmarks import KEYPOINTS, keypoint_jacobians, keypoint_values, neighbours, regions
from portraits import POSE_NAMES, Portrait, Pose, Trace, sample_identity, sample_pose, spoil
from torch import Tensor

from talkies.fomm.model.keypoint_detector import Keypoints

SIDE = 128  # of the pictures, in pixels; the network's side
FAMILY = 4  # identities in a group, all in the same poses
POSES = 8  # poses in a group; the first NEAR of them look nearly straight ahead
NEAR = 3
MARKS = 192  # points on a drawn figure that are tracked from pose to pose
GROUND = 64  # side of the maps of background, flow and visibility
PART = 40  # groups stored together
SPOILED = 0.5  # share of driving pictures with blur, noise and JPEG
COVERED = 0.2  # share of driving pictures in which a hand or a thing covers part of the face
COARSE = 0.12  # share of driving pictures that look like a small clip, enlarged
SPOILED_SOURCES = 0.15  # share of sources; with more, the generator learns to smooth away texture along with noise
FLOW_UNIT = 8192  # flows are stored as 16-bit integers: this many to one unit of [-1, 1] coordinates, up to 4 units
Group = dict[str, np.ndarray]


def near_pose(rng: np.random.Generator) -> Pose:
    """Draw a random pose as in a portrait or a clip's first frame: nearly straight ahead; mouth and eyes may vary."""
    pose = sample_pose(rng)
    calm = {"yaw": 0.25, "pitch": 0.25, "roll": 0.3, "shift_x": 0.6, "shift_y": 0.6, "brow": 0.4}
    values = dict(zip(POSE_NAMES, pose.as_array().tolist(), strict=True))
    values.update({k: values[k] * f for k, f in calm.items()})
    if rng.random() < 0.6:
        values.update(mouth=0.0)
    if rng.random() < 0.7:
        values.update(eye_left=0.85, eye_right=0.85)
    return Pose(**values)


def draw_group(group: int, seed: int = 0) -> Group:
    """Draw one group of portraits. Returns the arrays of Part, without their first axis."""
    rng = np.random.default_rng([seed, group, 5])
    poses = [near_pose(rng) if k < NEAR else sample_pose(rng) for k in range(POSES)]
    members = []
    for member in range(FAMILY):
        portrait = Portrait(sample_identity(seed + group * FAMILY + member), SIDE)
        traces = [portrait.trace(pose) for pose in poses]
        marks, seen = follow_marks(traces, rng)
        ground = [
            (trace.labels == 0).reshape(GROUND, len(trace.labels) // GROUND, GROUND, -1).mean((1, 3))
            for trace in traces
        ]
        members.append(
            {
                "pictures": np.stack([trace.picture for trace in traces]),
                "points": np.stack([trace.landmarks for trace in traces]),
                "marks": marks,
                "seen": seen,
                "ground": (np.stack(ground) * 255).astype(np.uint8),
            }
        )
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


def follow_marks(traces: list[Trace], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose points on an identity's shapes and track them through all its drawings.

    Returns their positions, float32 [POSES, MARKS, 2] in [-1, 1], and whether each is visible in each drawing, bool
    [POSES, MARKS]. Most points are on the edges of shapes, where wrong motion is easy to see. Lids and lips are left
    out: they have landmarks.
    """
    common = set.intersection(*({(key, len(s[1])) for key, s in trace.shapes.items()} for trace in traces))
    keys = sorted(key for key, corners in common if corners > 1 and not key[0].startswith(("eye", "mouth")))
    # Longer edges are chosen more often. Lengths are from the first drawing, which looks nearly straight ahead.
    edges = [(key, k) for key in keys for k in range(len(traces[0].shapes[key][1]))]
    steps = [np.diff(c, axis=0, append=c[:1]) for c in (traces[0].shapes[key][1] for key in keys)]
    length = np.linalg.norm(np.concatenate(steps), axis=1).clip(1, len(traces[0].labels) / 4)
    chosen = [edges[k] for k in rng.choice(len(edges), MARKS, p=length / length.sum())]
    share = rng.dirichlet((1, 1, 1), MARKS)
    on_edge = rng.random(MARKS) < 0.6
    share[on_edge] = np.column_stack([share[on_edge, 0], 1 - share[on_edge, 0], np.zeros(on_edge.sum())])
    third = rng.random(MARKS)
    marks = np.empty((len(traces), MARKS, 2), np.float32)
    seen = np.empty((len(traces), MARKS), bool)
    for n, trace in enumerate(traces):
        side = len(trace.labels)
        labels = np.pad(trace.labels, 1)
        for m, (key, first) in enumerate(chosen):
            label, corners = trace.shapes[key]
            three = [first, (first + 1) % len(corners), int(third[m] * len(corners))]
            place = share[m] @ corners[three]
            marks[n, m] = place / side * 2 - 1
            x, y = (int(v) for v in place)
            inside = 0 <= x < side and 0 <= y < side
            seen[n, m] = inside and bool((labels[y : y + 3, x : x + 3] == label).any())
    return marks, seen


@dataclass(frozen=True)
class Part:
    """The pictures of G groups, uint8 [G, FAMILY, POSES, SIDE, SIDE, 3], and their ground truth.

    Drawn figures have marks and seen. Rendered ones have flow and visible. What a part does not have is None.
    """

    pictures: np.ndarray
    points: np.ndarray  # [G, FAMILY, POSES, LANDMARKS, 2]
    ground: np.ndarray  # share of background, 0..255: [G, FAMILY, POSES, GROUND, GROUND]
    values: np.ndarray  # [G, FAMILY, POSES, K, 2]
    jacobians: np.ndarray  # [G, FAMILY, POSES, K, 2, 2]
    regions: np.ndarray  # [G, FAMILY, POSES, 3, 4]
    marks: np.ndarray | None = None  # points on the figure, [G, FAMILY, POSES, MARKS, 2]
    seen: np.ndarray | None = None  # whether each mark is visible, bool [G, FAMILY, POSES, MARKS]
    flow: np.ndarray | None = None  # [G, FAMILY, target pose, source pose, GROUND, GROUND, 2], in 1 / FLOW_UNIT
    visible: np.ndarray | None = None  # whether the source shows this place, as bits: [..., GROUND, GROUND / 8]


LARGE = ("pictures", "flow", "visible")  # each is a separate file, which is memory-mapped


def make_part(stem: Path, draw: Callable[[int], Group], groups: Sequence[int], processes: int) -> None:
    """Make the files of one part, unless they exist. The .npz file is written last, so it marks a complete part."""
    known_path = stem.with_name(stem.name + ".npz")
    if known_path.exists():
        return
    made: dict[str, list[np.ndarray]] = {}
    if processes > 1:
        with multiprocessing.Pool(processes) as pool:
            drawn = pool.map(draw, groups, chunksize=1)
    else:
        drawn = [draw(group) for group in groups]
    for group in drawn:
        for name, value in group.items():
            made.setdefault(name, []).append(value)
    for name in LARGE:
        if name in made:
            np.save(stem.with_name(f"{stem.name}-{name}.npy"), np.stack(made.pop(name)))
    temporary = known_path.with_suffix(".part.npz")
    np.savez(temporary, **{name: np.stack(values) for name, values in made.items()})
    temporary.replace(known_path)


def load_part(stem: Path) -> Part:
    with np.load(stem.with_name(stem.name + ".npz")) as stored:
        arrays = dict(stored)
    for name in LARGE:
        path = stem.with_name(f"{stem.name}-{name}.npy")
        if path.exists():
            arrays[name] = np.load(path, mmap_mode="r")
    jacobians = keypoint_jacobians(arrays["points"]).astype(np.float32)
    # In renders, shoulders grow as the camera comes nearer. In drawings they keep their size.
    if "neck" in arrays:
        jacobians[..., list(KEYPOINTS).index("neck"), :, :] = np.eye(2) * arrays.pop("neck")[..., None, None]
    return Part(
        values=keypoint_values(arrays["points"]).astype(np.float32),
        jacobians=jacobians,
        regions=regions(arrays["points"]).astype(np.float32),
        **arrays,
    )


class Album:
    """All groups of one kind of figure. gentle: change colours as light and cameras do, not as freely as paint."""

    def __init__(self, parts: list[Part], gentle: bool = False) -> None:
        self.parts, self.gentle = parts, gentle
        self._where = [(part, k) for part in parts for k in range(len(part.pictures))]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, group: int) -> tuple[Part, int]:
        """Return the part that holds a group, and the group's index in it."""
        return self._where[group]


def make_album(folder: Path, groups: int, seed: int, processes: int | None = None) -> Album:
    """Return an album of drawn portraits. Drawing takes about 10 ms a picture on one core."""
    return assemble(folder, "drawn", functools.partial(draw_group, seed=seed), groups, seed, processes)


def assemble(
    folder: Path, kind: str, draw: Callable[[int], Group], groups: int, seed: int, processes: int | None = None,
    gentle: bool = False,
) -> Album:  # fmt: skip
    """Return the album of the first ``groups`` groups that ``draw`` makes, stored in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, groups, PART):
        numbers = range(first, min(first + PART, groups))
        stem = folder / f"{kind}-{seed}-{first:05d}-{len(numbers)}x{FAMILY}x{POSES}"
        make_part(stem, draw, numbers, processes or os.cpu_count() or 1)
        parts.append(load_part(stem))
    return Album(parts, gentle)


@dataclass(frozen=True)
class Batch:
    """N examples of one size. Pictures are [N, 3, side, side] in [0, 1]. Keypoints are the true ones.

    A is the identity in the source picture. The performer is A itself, or B, another identity of the same group.
    """

    source: Tensor  # A; some are spoiled, like real inputs
    driving: Tensor  # the performer in the target's pose
    initial: Tensor  # the performer in the source's pose
    target: Tensor  # A in the target's pose, clean
    kp_source: Keypoints
    kp_driving: Keypoints
    kp_initial: Keypoints
    kp_target: Keypoints
    regions: Tensor  # the target's, [N, 3, 4]
    source_regions: Tensor
    source_points: Tensor  # landmarks, and points between them, [N, M, 2]
    target_points: Tensor
    source_marks: Tensor  # points on the figure, [N, MARKS, 2]
    target_marks: Tensor
    both_seen: Tensor  # whether a mark is visible in both pictures, float [N, MARKS]
    source_ground: Tensor  # share of background, [N, 1, GROUND, GROUND] in [0, 1]
    target_ground: Tensor
    flow: Tensor  # the position in the source of each place of the target, [N, GROUND, GROUND, 2] in [-1, 1]
    visible: Tensor  # whether the source shows that place, float [N, 1, GROUND, GROUND]
    rendered: Tensor  # whether flow and visible are known (they are 0 if not), float [N]
    own: np.ndarray  # whether A drives itself, bool [N]


def draw_batch(albums: Sequence[tuple[Album, float]], step: int, size: int, side: int, seed: int) -> Batch:
    """Return the batch of a step. Each example is from an album chosen by its share. Depends only on seed and step."""
    rng = np.random.default_rng([seed, step, 11])
    shares = np.array([share for _, share in albums])
    chosen = [albums[k][0] for k in rng.choice(len(albums), size, p=shares / shares.sum())]
    at = [album[int(rng.integers(0, len(album)))] for album in chosen]
    a = rng.integers(0, FAMILY, size)
    own = rng.random(size) < 0.5
    b = np.where(own, a, (a + rng.integers(1, FAMILY, size)) % FAMILY)
    i = np.where(rng.random(size) < 0.65, rng.integers(0, NEAR, size), rng.integers(0, POSES, size))
    # In some examples nothing moves, so the picture must stay the same.
    j = np.where(rng.random(size) < 0.1, i, (i + rng.integers(1, POSES, size)) % POSES)
    jitters = [_jitter(rng, chosen[n % size].gentle) for n in range(2 * size)]

    def pictures(who: np.ndarray, pose: np.ndarray, performer: bool, spoiled: float) -> Tensor:
        out = np.empty((size, SIDE, SIDE, 3), np.float32)
        for n, (part, group) in enumerate(at):
            picture = part.pictures[group, who[n], pose[n]]
            if performer and rng.random() < COVERED:
                picture = cover(picture, part.points[group, who[n], pose[n]], rng)
            if performer and rng.random() < COARSE:
                picture = coarsen(picture, rng)
            if rng.random() < spoiled:
                picture = spoil(picture, rng)
            matrix, gain, gamma = jitters[n + size * (performer and not own[n])]
            out[n] = np.clip((picture.astype(np.float32) / 255) ** gamma @ matrix * gain, 0, 1)
        tensor = torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()
        return F.avg_pool2d(tensor, SIDE // side) if side != SIDE else tensor

    pairs = neighbours()[rng.integers(0, len(neighbours()), 64)]
    share = rng.random((64, 1)).astype(np.float32)

    def known(name: str, who: np.ndarray, pose: np.ndarray) -> np.ndarray:
        return np.stack([getattr(part, name)[group, who[n], pose[n]] for n, (part, group) in enumerate(at)])

    def points(who: np.ndarray, pose: np.ndarray) -> Tensor:
        marks = known("points", who, pose)
        between = marks[:, pairs[:, 0]] * share + marks[:, pairs[:, 1]] * (1 - share)
        return torch.from_numpy(np.concatenate([marks, between], 1))

    def keypoints(who: np.ndarray, pose: np.ndarray) -> Keypoints:
        return Keypoints(*(torch.from_numpy(known(name, who, pose)) for name in ("values", "jacobians")))

    def ground(pose: np.ndarray) -> Tensor:
        return torch.from_numpy(known("ground", a, pose).astype(np.float32))[:, None] / 255

    marks = np.zeros((2, size, MARKS, 2), np.float32)
    both_seen = np.zeros((size, MARKS), np.float32)
    flow = np.zeros((size, GROUND, GROUND, 2), np.float32)
    visible = np.zeros((size, 1, GROUND, GROUND), np.float32)
    for n, (part, group) in enumerate(at):
        if part.marks is not None and part.seen is not None:
            marks[:, n] = part.marks[group, a[n], [i[n], j[n]]]
            both_seen[n] = part.seen[group, a[n], i[n]] & part.seen[group, a[n], j[n]]
        if part.flow is not None and part.visible is not None:
            flow[n] = part.flow[group, a[n], j[n], i[n]].astype(np.float32) / FLOW_UNIT
            visible[n, 0] = np.unpackbits(part.visible[group, a[n], j[n], i[n]], axis=-1)
    return Batch(
        source=pictures(a, i, False, SPOILED_SOURCES),
        driving=pictures(b, j, True, SPOILED),
        initial=pictures(b, i, True, SPOILED),
        target=pictures(a, j, False, 0),
        kp_source=keypoints(a, i),
        kp_driving=keypoints(b, j),
        kp_initial=keypoints(b, i),
        kp_target=keypoints(a, j),
        regions=torch.from_numpy(known("regions", a, j)),
        source_regions=torch.from_numpy(known("regions", a, i)),
        source_points=points(a, i),
        target_points=points(a, j),
        source_marks=torch.from_numpy(marks[0]),
        target_marks=torch.from_numpy(marks[1]),
        both_seen=torch.from_numpy(both_seen),
        source_ground=ground(i),
        target_ground=ground(j),
        flow=torch.from_numpy(flow),
        visible=torch.from_numpy(visible),
        rendered=torch.tensor([float(part.flow is not None) for part, _ in at]),
        own=own,
    )


def _jitter(rng: np.random.Generator, gentle: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a random change of colour: a matrix for hue and saturation, a gain per channel, and a gamma."""
    channels = np.eye(3)[rng.permutation(3)] if rng.random() < (0.07 if gentle else 0.3) else np.eye(3)
    keep = rng.uniform(0.6, 1.2)
    if gentle and rng.random() < 0.07:
        keep = 0.0  # black and white
    grey = np.full((3, 3), 1 / 3)
    matrix = channels * keep + grey * (1 - keep)
    return matrix.astype(np.float32), rng.uniform(0.8, 1.15, 3).astype(np.float32), float(rng.uniform(0.8, 1.25))
