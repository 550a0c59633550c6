"""Rendered heads with their mattes, and pairs of postures over a still background, for train_matte.py.

    python training/matte_album.py --assets assets --people 700 [--folder build/mattes]

A person has SHOTS postures, framed like photographs (`talkies prepare`); the pairs are from the first to each other
one. The motion of each pair is made by the package's own network. People are stored one by one; those that exist are
not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from close_up_album import Change, changed, make_missing, sample_base, sample_change
from head_mesh import load_mesh
from heads import Head, Posture
from train_close_ups import SIDE, as_tensor

import talkies
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.rewrite import rewritten

SHOTS = 4
FIRST_PERSON = 9_000_000  # seeds of persons, away from those of the other albums


def sample_postures(rng: np.random.Generator) -> list[Posture]:
    """Draw a person's postures: a portrait, then others with the head moved as far as in lively films."""
    u, n = rng.uniform, rng.normal
    base = sample_base(rng)
    size = base.pose.scale * u(0.72, 1)  # often more of the shoulders than close-ups need
    shift = (0.39 - 0.47 * size) / 2 + np.clip(n(0, 0.04), -0.09, 0.09)
    base = replace(base, pose=replace(base.pose, scale=size, shift_y=float(shift)))
    out = [base]
    for _ in range(SHOTS - 1):
        change = sample_change(rng)
        far = {"yaw": n(0, 9), "pitch": n(0, 5), "roll": n(0, 6), "shift_x": n(0, 0.035), "shift_y": n(0, 0.02)}
        pose = change.pose | {name: change.pose[name] + amount for name, amount in far.items()}
        out.append(changed(base, Change(pose, change.units)))
    return out


def make_person(person: int, assets: Path, model: FirstOrderModel) -> dict[str, np.ndarray]:
    """Render a person. Returns arrays.

    front, picture: uint8 [SHOTS, SIDE, SIDE, 3], the person's colours alone, and before a background. alpha: uint8
    [SHOTS, SIDE, SIDE]. value, jacobian: the keypoints. deformation, background, occlusion: float16, of the
    SHOTS - 1 pairs, as in DenseMotion; background is its mask's first map.
    """
    rng = np.random.default_rng([91, person])
    head = Head(FIRST_PERSON + person, load_mesh(assets), SIDE)
    views = [head.render(posture) for posture in sample_postures(rng)]
    pictures = np.stack([view.picture for view in views])
    keypoints = model.keypoints(as_tensor(pictures))
    made = model.generator.render(
        model.generator.encode(as_tensor(pictures[:1]).to(model.dtype)), keypoints[0], keypoints[1:]
    )
    assert made.occlusion is not None
    assert keypoints.jacobian is not None
    return {
        "front": np.stack([view.front for view in views]),
        "picture": pictures,
        "alpha": np.stack([((1 - view.ground) * 255).round().astype(np.uint8) for view in views]),
        "value": keypoints.value.numpy(),
        "jacobian": keypoints.jacobian.numpy(),
        "deformation": made.deformation.numpy().astype(np.float16),
        "background": made.mask[:, :1].float().numpy().astype(np.float16),
        "occlusion": made.occlusion.float().numpy().astype(np.float16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder with skins/ and hair/ (docs/demo-model.md)")
    parser.add_argument("--folder", type=Path, default=Path("build/mattes"))
    parser.add_argument("--people", type=int, default=700)
    parser.add_argument("--first", type=int, default=0, help="number of the first person")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    model = rewritten(talkies.load_model("demo-photographs"), torch.bfloat16)
    files = {person: args.folder / f"person-{person:05d}.npz" for person in range(args.first, args.first + args.people)}
    make_missing(files, lambda person: make_person(person, args.assets, model))


if __name__ == "__main__":
    main()
