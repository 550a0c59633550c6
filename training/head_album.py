"""Groups of rendered heads for the album, with the true flow between any two poses of an identity."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
from album import FAMILY, FLOW_UNIT, GROUND, NEAR, POSES, SIDE, Album, Group, assemble, near_pose
from head_mesh import load_mesh
from head_raster import trace_flow
from heads import CANVAS, Head, Posture, View
from portraits import sample_pose

GRINS = 0.2  # share of postures
SLACK = 0.002  # tolerance in depth: a point this close behind the visible surface counts as visible
# The largest value of each face unit in an unusual expression.
UNITS = {
    "mouthFunnel": 0.6, "mouthPucker": 0.7, "mouthUpperUp": 0.5, "mouthLowerDown": 0.5, "mouthStretch": 0.5,
    "mouthPress": 0.5, "mouthRollLower": 0.6, "mouthRollUpper": 0.5, "noseSneer": 0.5, "eyeSquint": 0.6,
    "cheekPuff": 0.6, "jawLeft": 0.5, "jawRight": 0.5, "mouthLeft": 0.5, "mouthRight": 0.5, "mouthDimple": 0.5,
    "jawForward": 0.4, "mouthShrugUpper": 0.4,
}  # fmt: skip


def sample_posture(rng: np.random.Generator, near: bool) -> Posture:
    """Draw a random posture from the range of real clips: faces are larger and move further than in drawings.

    A fifth of the postures grin with closed teeth, a fifth smile and show their teeth, a third are unusual expressions.
    """
    pose = near_pose(rng) if near else sample_pose(rng)
    pose = replace(pose, yaw=1.1 * pose.yaw, pitch=1.1 * pose.pitch, shift_y=pose.shift_y + 0.02)
    pose = replace(pose, scale=float(rng.uniform(1, 1.65) if near else pose.scale * rng.uniform(1.1, 1.5)))
    if not near and rng.random() < 0.4:
        x, y = float(np.clip(rng.normal(0, 0.09), -0.2, 0.2)), float(np.clip(rng.normal(0.02, 0.06), -0.12, 0.15))
        pose = replace(pose, shift_x=x, shift_y=y)
    units: dict[str, float] = {}
    kind = rng.random()
    if kind < GRINS:
        pose = replace(pose, smile=float(rng.uniform(0.3, 1)), mouth=float(rng.uniform(0, 0.12)))
        units = {"mouthUpperUp": 0.3, "mouthLowerDown": 0.7, "mouthStretch": 0.0}
        units = {name: least + float(rng.uniform(0, 0.8)) for name, least in units.items()}
        units["eyeSquint"] = float(rng.uniform(0, 0.6))
    elif kind < GRINS + 0.2:
        pose = replace(pose, smile=float(rng.uniform(0.3, 1)))
        if rng.random() < 0.7:
            pose = replace(pose, mouth=float(rng.uniform(0, 0.25)))
        units = {"mouthUpperUp": float(rng.uniform(0.3, 1.1)), "mouthLowerDown": float(rng.uniform(0, 0.8))}
        units["eyeSquint"] = float(rng.uniform(0, 0.5))
    elif kind < GRINS + 0.53:
        units = {name: float(rng.uniform(0, most)) for name, most in UNITS.items() if rng.random() < 0.18}
        if pose.mouth > 0.1 and rng.random() < 0.3:  # has an effect only if the jaw is open
            units["mouthClose"] = pose.mouth * float(rng.uniform(0.2, 0.8))
    return Posture(pose, units, lean=float(np.clip(rng.normal(0, 0.25), -0.6, 0.6)))


def flows(head: Head, views: list[View]) -> tuple[np.ndarray, np.ndarray]:
    """Return the flow from each target to each source, int16 [POSES, POSES, GROUND, GROUND, 2], and visibility bits."""
    count = len(views)
    flow = np.zeros((count, count, GROUND, GROUND, 2), np.float32)
    visible = np.zeros((count, count, GROUND, GROUND), np.uint8)
    middles = (np.arange(GROUND) + 0.5) * (head.size * CANVAS / GROUND)
    places = np.stack(np.broadcast_arrays(middles, middles[:, None]), axis=-1)
    for j, target in enumerate(views):
        for i, source in enumerate(views):
            trace_flow(
                target.face, target.shares, head.triangles, places, source.screen, source.depth, source.face, SLACK,
                flow[j, i], visible[j, i],
            )  # fmt: skip
    whole = (flow.clip(-3.9, 3.9) * FLOW_UNIT).round().astype(np.int16)
    return whole, np.packbits(visible, axis=-1)


def render_group(group: int, assets: Path, seed: int = 0) -> Group:
    """Render one group of heads. Returns the arrays of Part, without their first axis, and neck (see load_part)."""
    rng = np.random.default_rng([seed, group, 5])
    postures = [sample_posture(rng, k < NEAR) for k in range(POSES)]
    members = []
    for member in range(FAMILY):
        head = Head(seed + group * FAMILY + member, load_mesh(assets), SIDE)
        views = [head.render(posture) for posture in postures]
        flow, visible = flows(head, views)
        ground = [v.ground.reshape(GROUND, SIDE // GROUND, GROUND, -1).mean((1, 3)) for v in views]
        members.append(
            {
                "pictures": np.stack([v.picture for v in views]),
                "points": np.stack([v.landmarks for v in views]),
                "ground": (np.stack(ground) * 255).astype(np.uint8),
                "neck": np.array([p.pose.scale / 1.17 for p in postures], np.float32),
                "flow": flow,
                "visible": visible,
            }
        )
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


def render_album(folder: Path, assets: Path | None, groups: int, seed: int, processes: int | None = None) -> Album:
    """Return an album of rendered heads. Rendering takes about 50 ms a picture on one core.

    assets: see head_mesh.py; not needed if the album exists.
    """
    draw = functools.partial(render_group, assets=assets, seed=seed)
    return assemble(folder, "heads", draw, groups, seed, processes, gentle=True)
