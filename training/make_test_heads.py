"""Render the heads for the tests, with their landmarks, into tests/data/heads.

    python training/make_test_heads.py --assets FOLDER

Three people who are not in the training data, all in the same poses. So the correct result is known for each pair.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from head_mesh import load_mesh
from heads import Head, Posture
from PIL import Image
from portraits import Pose

FOLDER = Path(__file__).resolve().parent.parent / "tests/data/heads"
SIDE = 256
SEEDS = (8_100_002, 8_100_010, 8_100_013)
POSES = {
    "rest": Pose(scale=1.15),
    "open": Pose(scale=1.15, mouth=0.8),
    "blink": Pose(scale=1.15, eye_left=0.0, eye_right=0.0),
    "left": Pose(scale=1.15, yaw=-20, roll=-6),
    "right": Pose(scale=1.15, yaw=20, roll=6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder of skins and hair (docs/demo-model.md)")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    landmarks = {}
    for number, seed in enumerate(SEEDS, 1):
        head = Head(seed, load_mesh(args.assets), SIDE)
        for name, pose in POSES.items():
            view = head.render(Posture(pose))
            Image.fromarray(view.picture).save(FOLDER / f"{number}-{name}.jpg", quality=90)
            landmarks[f"{number}-{name}"] = view.landmarks.round(4).tolist()
    (FOLDER / "landmarks.json").write_text(json.dumps(landmarks, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
