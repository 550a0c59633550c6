"""Rendered eyes with their true landmarks, for training the eye reader (train_eye_reader.py).

    python training/eye_album.py --assets assets --groups 100 [--folder build/eyes]

A group is PEOPLE persons in SHOTS postures each, framed like photographs. Only squares around the eyes are stored.
The close-ups' album has other people, whose postures are drawn again from its seeds. Groups are stored one by one;
those that exist are not made again.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from close_up_album import LIMITS, changed, group_file, make_missing, sample_base, sample_change, sample_people
from head_mesh import load_mesh
from heads import Head, Posture
from train_close_ups import SIDE
from train_eye_reader import cut_squares

PEOPLE, SHOTS = 25, 4  # of a group
FIRST_PERSON = 6_000_000  # seeds of persons, away from those of the other albums


def sample_posture(rng: np.random.Generator, base: Posture) -> Posture:
    """Draw a posture in which lids are anywhere between shut and wide open, looking anywhere."""
    u = rng.uniform
    posture = changed(base, sample_change(rng))
    kind = rng.random()
    left = right = base.pose.eye_left if kind < 0.2 else 0.0 if kind < 0.33 else u(0, 1.05)
    if rng.random() < 0.15:
        right = u(0, 1.05)
    pose = replace(posture.pose, eye_left=left, eye_right=right)
    if rng.random() < 0.6:
        pose = replace(pose, gaze_x=u(-0.9, 0.9), gaze_y=u(*LIMITS["gaze_y"]) if rng.random() < 0.5 else pose.gaze_y)
    squint = {"eyeSquint": u(0, 0.6)} if rng.random() < 0.25 else {}
    return replace(posture, pose=pose, units={**posture.units, **squint})


def make_group(group: int, assets: Path) -> dict[str, np.ndarray]:
    """Render a group."""
    rng = np.random.default_rng([78, group])
    pictures, landmarks = [], []
    for person in range(PEOPLE):
        head, base = Head(FIRST_PERSON + group * PEOPLE + person, load_mesh(assets), SIDE), sample_base(rng)
        for _ in range(SHOTS):
            view = head.render(sample_posture(rng, base))
            pictures.append(view.picture)
            landmarks.append(view.landmarks)
    return cut_squares(np.stack(pictures), np.stack(landmarks))


def reuse_group(file: Path, assets: Path) -> dict[str, np.ndarray]:
    """Return the squares of a group of the close-ups' album, whose keypoints are known without rendering it again."""
    with np.load(file) as stored:
        pictures, group = stored["pictures"], int(stored["pair"][0, 0])
    people = sample_people(np.random.default_rng([77, group]), group, assets)
    landmarks = [head.landmarks(posture) for head, postures in people for posture in postures]
    return cut_squares(pictures, np.stack(landmarks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder with skins/ and hair/ (docs/demo-model.md)")
    parser.add_argument("--folder", type=Path, default=Path("build/eyes"))
    parser.add_argument("--groups", type=int, default=100)
    parser.add_argument("--close-ups", type=Path, metavar="FOLDER", help="use the close-ups' album in a folder too")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    files = {group: group_file(args.folder, group) for group in range(args.groups)}
    make_missing(files, lambda group: make_group(group, args.assets), args.minutes)
    if args.close_ups:
        others = {int(file.stem.split("-")[1]): file for file in args.close_ups.glob("group-?????.npz")}
        files = {group: args.folder / f"close-ups-{group:05d}.npz" for group in sorted(others)}
        make_missing(files, lambda group: reuse_group(others[group], args.assets), args.minutes)


if __name__ == "__main__":
    main()
