"""Pairs of rendered heads for close-ups: source and target pictures, and the regions' true motion at full resolution.

    python training/close_up_album.py --assets assets --groups 300 [--folder build/close-ups]

A group is PEOPLE persons. Each has a face of its own in the first shot, as in a portrait: many smile with their teeth.
In the other shots all of them make the same changes, so the relative motion of one person is right for the others too.
Heads are framed like photographs (`talkies prepare`), and the generator's part of each example is made by the package's
own network. Groups are stored one by one; those that exist are not made again.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from head_album import SLACK
from head_mesh import load_mesh
from head_raster import trace_flow
from heads import CANVAS, Head, Posture, View
from portraits import Pose
from train_close_ups import KINDS, SIDE, as_tensor

import talkies
from talkies.fomm.model.close_ups import REGIONS, Region, coarse_motion, find_region, mirrored, places
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.model.layers import warp
from talkies.fomm.rewrite import rewritten

PEOPLE, SHOTS = 3, 8  # of a group
FIRST_PERSON = 5_000_000  # seeds of persons, away from those of the other albums
NOTHING = 255  # the material of background


@dataclass(frozen=True)
class Change:
    """What a shot adds to a person's pose and face units; scale is a factor."""

    pose: dict[str, float] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)


def sample_base(rng: np.random.Generator) -> Posture:
    """Draw a person's own face and place: a portrait whose mouth is at about .7 of the picture's height."""
    u, n = rng.uniform, rng.normal
    size = u(1.15, 1.75)
    far = rng.random() < 0.25  # a turned head
    pose = Pose(
        shift_x=np.clip(n(0, 0.03), -0.08, 0.08),
        shift_y=(0.39 - 0.47 * size) / 2 + np.clip(n(0, 0.03), -0.07, 0.07),
        scale=size,
        yaw=u(-26, 26) if far else n(0, 6),
        pitch=n(0, 5),
        roll=n(0, 4),
        brow=np.clip(n(0, 0.2), -0.5, 0.5),
        gaze_x=n(0, 0.15),
        gaze_y=n(0, 0.1),
    )
    units: dict[str, float] = {}
    kind = rng.random()
    if kind < 0.3:  # a grin: lips apart, teeth shut
        pose = replace(pose, smile=u(0.3, 1), mouth=u(0, 0.05))
        units = {"mouthUpperUp": u(0.3, 1), "mouthLowerDown": u(0.3, 1), "mouthStretch": u(0, 0.6)}
    elif kind < 0.52:  # a smile that shows the upper teeth
        pose = replace(pose, smile=u(0.35, 1), mouth=u(0.02, 0.4))
        units = {"mouthUpperUp": u(0.25, 1), "mouthLowerDown": u(0, 0.4), "mouthStretch": u(0, 0.5)}
    elif kind < 0.85:
        pose = replace(pose, smile=u(-0.3, 0.5))
        if rng.random() < 0.3:
            units = {"mouthPress": u(0, 0.4), "mouthRollLower": u(0, 0.3)}
    else:
        pose = replace(pose, smile=u(-0.2, 0.7), mouth=u(0.03, 0.6))
    if pose.smile > 0.3:
        units["eyeSquint"] = u(0, 0.5)
    eyes = 0.85 if rng.random() < 0.75 else u(0.5, 1.05)
    return Posture(replace(pose, eye_left=eyes, eye_right=eyes), units, lean=float(np.clip(n(0, 0.1), -0.3, 0.3)))


def sample_change(rng: np.random.Generator) -> Change:
    """Draw a change as from one frame of a talking person to another; a quarter also move the head far."""
    u, n = rng.uniform, rng.normal
    far = 2.6 if rng.random() < 0.25 else 1.0
    pose = {
        "yaw": n(0, 4.5) * far, "pitch": n(0, 3) * far, "roll": n(0, 2.5) * far, "shift_x": n(0, 0.015) * far,
        "shift_y": n(0, 0.012) * far, "scale": np.exp(n(0, 0.025) * far),
    }  # fmt: skip
    if rng.random() < 0.5:
        pose["gaze_x"] = n(0, 0.4)
    if rng.random() < 0.35:
        pose["gaze_y"] = n(0, 0.3)
    if rng.random() < 0.5:
        pose["brow"] = n(0, 0.35)
    if rng.random() < 0.78:
        pose["mouth"] = u(0.04, 0.55) if rng.random() < 0.7 else u(0.5, 1)
    units: dict[str, float] = {}
    kind = rng.random()
    if kind < 0.16:
        pose["smile"] = u(-0.5, 0.8)
    elif kind < 0.32:
        units = {"mouthFunnel": u(0, 0.6), "mouthPucker": u(0, 0.6)}
    elif kind < 0.66:  # lips apart, in half of them over shut teeth
        units = {"mouthUpperUp": u(0, 0.9), "mouthLowerDown": u(0, 0.9), "mouthStretch": u(0, 0.5)}
        if rng.random() < 0.7:
            pose["smile"] = u(0, 0.9)
        if rng.random() < 0.5:
            pose["mouth"] = u(0, 0.05)
    elif kind < 0.76:
        units = {"mouthPress": u(0, 0.5), "mouthRollLower": u(0, 0.5)}
    if pose.get("mouth", 0) > 0.04 and rng.random() < 0.5:  # speech shows the upper teeth
        units["mouthUpperUp"] = max(units.get("mouthUpperUp", 0), u(0, 0.6))
    if rng.random() < 0.55:
        lids = -u(0.15, 0.95) if rng.random() < 0.85 else u(0, 0.2)
        pose["eye_left"] = lids
        if rng.random() < 0.9:
            pose["eye_right"] = lids
    return Change(pose, units)


LIMITS = {"mouth": (0, 1), "smile": (-1, 1), "eye_left": (0, 1.1), "eye_right": (0, 1.1), "brow": (-1, 1),
          "gaze_x": (-1, 1), "gaze_y": (-0.8, 0.8)}  # fmt: skip


def changed(base: Posture, change: Change) -> Posture:
    values = {}
    for name, amount in change.pose.items():
        old = getattr(base.pose, name)
        new = old * amount if name == "scale" else old + amount
        values[name] = float(np.clip(new, *LIMITS[name])) if name in LIMITS else float(new)
    units = {name: min(base.units.get(name, 0) + change.units.get(name, 0), 1.1) for name in base.units | change.units}
    return Posture(replace(base.pose, **values), units, base.lean)


def sample_pairs(rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Draw the pairs of a group: person, performer, the source's shot, the target's shot."""
    pairs = []
    for person in range(PEOPLE):
        for shot in range(1, SHOTS):
            pairs.append((person, person, 0, shot))
            performer = (person + 1 + shot % (PEOPLE - 1)) % PEOPLE
            pairs.append((person, performer, 0 if rng.random() < 0.6 else int(rng.integers(SHOTS)), shot))
        for _ in range(5):
            i, j = rng.choice(SHOTS, 2, replace=False)
            pairs.append((person, person, int(i), int(j)))
    return pairs


def sample_people(rng: np.random.Generator, group: int, assets: Path) -> list[tuple[Head, list[Posture]]]:
    """Draw the people of a group, and each one's posture in every shot."""
    changes = [Change(), *(sample_change(rng) for _ in range(SHOTS - 1))]
    people = []
    for person in range(PEOPLE):
        head, base = Head(FIRST_PERSON + group * PEOPLE + person, load_mesh(assets), SIDE), sample_base(rng)
        people.append((head, [changed(base, change) for change in changes]))
    return people


def make_group(group: int, assets: Path, model: FirstOrderModel) -> dict[str, np.ndarray]:
    """Render a group. Returns pictures, uint8 [PEOPLE * SHOTS, SIDE, SIDE, 3], and the arrays of its P pairs.

    picture: [P], the source's number. kp_source, kp_driving: [P, K, 6], values and jacobians. For each of KINDS' names:
    target, painted: uint8 [P, h, w, 3]. mask: uint8 [P, h, w]. motion, truth: float16 [P, h, w, 2]. visible, material:
    uint8 [P, h, w]; "other eye" is mirrored.
    """
    rng = np.random.default_rng([77, group])
    heads, views, pictures, keypoints = [], [], [], []
    for head, postures in sample_people(rng, group, assets):
        heads.append(head)
        views.append([head.render(posture) for posture in postures])
        pictures.append(np.stack([view.picture for view in views[-1]]))
        keypoints.append(model.keypoints(as_tensor(pictures[-1])))
    store: dict[str, list[np.ndarray]] = {}
    pairs = sample_pairs(rng)
    for person, first in sorted({(a, i) for a, _, i, _ in pairs}):
        mine = [(b, j) for a, b, i, j in pairs if (a, i) == (person, first)]
        source, kp_source = as_tensor(pictures[person][first : first + 1]), keypoints[person][first]
        moved = [
            keypoints[b][j]
            if b == person
            else talkies.transfer_motion(
                kp_source,
                keypoints[b][j],
                keypoints[b][first],
                reach=model.preset.reach,
                openings=model.preset.openings,
            )
            for b, j in mine
        ]
        kp_driving = Keypoints(*(torch.cat([getattr(m, name) for m in moved]) for name in ("value", "jacobian")))
        made = model.generate(model.encode(source), kp_source, kp_driving)
        targets = as_tensor(np.stack([pictures[person][j] for _, j in mine]))
        rows = {
            "picture": np.full(len(mine), person * SHOTS + first),
            "pair": np.array([(group, person, b, first, j) for b, j in mine]),
            "kp_source": _flat(kp_source.expand(len(mine))),
            "kp_driving": _flat(kp_driving),
        }
        coarse = made.deformation, made.occlusion, made.logits.float().sigmoid(), targets
        told = [views[person][j] for _, j in mine]
        for region, names in KINDS.items():
            for name in names:
                flip = name == "other eye"
                seen = _region(REGIONS[region], kp_driving, coarse, heads[person], told, views[person][first], flip)
                rows |= {f"{name} {key}": value for key, value in seen.items()}
        for key, value in rows.items():
            store.setdefault(key, []).append(value)
    return {"pictures": np.concatenate(pictures), **{key: np.concatenate(rows) for key, rows in store.items()}}


def _region(
    region: Region,
    kp_driving: Keypoints,
    coarse: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    head: Head,
    targets: list[View],
    source: View,
    flip: bool,
) -> dict[str, np.ndarray]:
    deformation, mask, painted, target = coarse
    if flip:
        kp_driving = mirrored(kp_driving)
        deformation = deformation.flip(2) * deformation.new_tensor([-1, 1])
        mask, painted, target = (x.flip(3) for x in (mask, painted, target))
    grid = places(region, *find_region(region, kp_driving.value))
    shape = grid.shape[:3]
    truth = np.zeros((*shape, 2), np.float32)
    visible, material = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    side = head.size * CANVAS
    pixels = ((grid * torch.tensor([-1.0 if flip else 1.0, 1.0]) + 1) / 2 * side).numpy().astype(np.float64)
    of = np.append(head.material, NOTHING).astype(np.uint8)
    for k, view in enumerate(targets):
        trace_flow(
            view.face, view.shares, head.triangles, pixels[k], source.screen, source.depth, source.face, SLACK,
            truth[k], visible[k],
        )  # fmt: skip
        column, row = np.clip(np.floor(pixels[k]).astype(int), 0, side - 1).transpose(2, 0, 1)
        material[k] = of[view.face[row, column]]
    if flip:
        truth[..., 0] *= -1

    def cut(x: torch.Tensor) -> np.ndarray:
        return (warp(x.float(), grid, padding="border").permute(0, 2, 3, 1) * 255).round().byte().numpy()

    return {
        "target": cut(target),
        "painted": cut(painted),
        "mask": cut(mask)[..., 0],
        "motion": coarse_motion(deformation, grid).numpy().astype(np.float16),
        "truth": truth.astype(np.float16),
        "visible": visible,
        "material": material,
    }


def _flat(keypoints: Keypoints) -> np.ndarray:
    assert keypoints.jacobian is not None
    return torch.cat([keypoints.value, keypoints.jacobian.flatten(2)], dim=-1).numpy()


def group_file(folder: Path, group: int) -> Path:
    return folder / f"group-{group:05d}.npz"


def make_missing(
    files: dict[int, Path], make: Callable[[int], dict[str, np.ndarray]], minutes: float = math.inf
) -> None:
    """Make those of an album's numbered files that do not exist, for some time."""
    begun = time.time()
    for number, path in files.items():
        if path.exists():
            continue
        if time.time() - begun > minutes * 60:
            break
        with torch.inference_mode():
            made = make(number)
        part = path.with_suffix(".part.npz")
        np.savez(part, **made)
        part.replace(path)
        print(f"{path.name}: {time.time() - begun:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder with skins/ and hair/ (docs/demo-model.md)")
    parser.add_argument("--folder", type=Path, default=Path("build/close-ups"))
    parser.add_argument("--groups", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first group")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    model = rewritten(talkies.load_model("demo-photographs"), torch.bfloat16)
    files = {group: group_file(args.folder, group) for group in range(args.first, args.first + args.groups)}
    make_missing(files, lambda group: make_group(group, args.assets, model), args.minutes)


if __name__ == "__main__":
    main()
