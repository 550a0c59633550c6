"""Measure what `talkies check` says of first frames, on drawn and rendered people whose poses are known.

    python training/first_frames.py [--assets FOLDER] [--people 20]

Each person performs like the performers of the examples, after a first frame in one of several poses. Each clip is
checked as `talkies check` does. The table shows for each pose how often a better frame was named, since the head is
turned, and how many of those frames really show a straight head. --assets: see docs/demo-model.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from portraits import EYES_AT_REST, Portrait, Pose, sample_identity

from talkies.fomm.model.checkpoint import load_model
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.media import crop
from talkies.run.pairs import Take
from talkies.stages.check_file import SeenClip, look, look_at_poses

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
from make_examples import perform

SIDE, RATE, FRAMES, HELD = 256, 8, 24, 2
SEED = 9_000_000  # not used for training, examples or tests
Draw = Callable[[Pose], np.ndarray]


def beginnings(rng: np.random.Generator, scale: float) -> dict[str, Pose]:
    """Return the poses of the first frames, by name."""

    def rest(**more: float) -> Pose:
        yaw, pitch, roll = rng.normal(0, 4, 3)
        return replace(Pose(scale=scale, yaw=yaw, pitch=pitch, roll=roll, smile=float(rng.uniform(-0.1, 0.4))), **more)

    side = float(rng.choice([-1, 1]))
    return {
        "at rest": rest(),
        "lips apart": rest(mouth=0.1, gaze_x=float(rng.normal(0, 0.4))),
        "glad": rest(smile=0.9),
        "looking down": rest(gaze_y=0.6),
        "nodding": rest(pitch=10 * side, roll=float(rng.normal(0, 8))),
        "turned by 12": rest(yaw=12 * side),
        "eyes half shut": rest(eye_left=EYES_AT_REST / 2, eye_right=EYES_AT_REST / 2),
        "eyes shut": rest(eye_left=0.0, eye_right=0.0),
        "mouth half open": rest(mouth=0.4),
        "mouth open": rest(mouth=0.8),
        "turned by 20": rest(yaw=20 * side),
        "turned by 28": rest(yaw=28 * side),
    }


def write_clip(path: Path, frames: list[np.ndarray]) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{SIDE}x{SIDE}", "-r", str(RATE), "-i", "-", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, str(path)], input=b"".join(f.tobytes() for f in frames), check=True)


def measure(draw: Draw, seed: int, model: FirstOrderModel, folder: Path, said: dict[str, Counter[str]]) -> None:
    """Check one person's clips and add the results to the counts in ``said``."""
    rng = np.random.default_rng(seed)
    scale = float(rng.uniform(0.9, 1.1))
    acts = perform(np.arange(FRAMES) / RATE, FRAMES / RATE, float(rng.uniform(0, 5)), rng)
    poses = [Pose(**{name: float(values[n]) for name, values in acts.items()}) for n in range(HELD, FRAMES)]
    poses = [replace(pose, scale=scale * pose.scale) for pose in poses]
    performance = [draw(pose) for pose in poses]
    for name, pose in beginnings(rng, scale).items():
        path = folder / "clip.mp4"
        write_clip(path, [draw(pose)] * HELD + performance)
        take = Take(name, str(path), crop.parse("face"))
        facts, crops = look(take)
        count = said.setdefault(name, Counter())
        count["clips"] += 1
        if crops is None or not isinstance(facts, SeenClip) or not all(facts.faces_seen[:1]):
            continue
        count["seen"] += 1
        look_at_poses(model, take, facts, crops)
        if facts.better is not None:
            count["named"] += 1
            count["rightly"] += abs(poses[facts.better - HELD].yaw) < 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, help="folder of skins and hair: rendered people, else drawn ones")
    parser.add_argument("--people", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model("demo")
    said: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(SEED, SEED + args.people):
            if args.assets:
                from head_mesh import load_mesh
                from heads import Head, Posture

                head = Head(seed, load_mesh(args.assets), SIDE)
                draw: Draw = lambda pose, head=head: head.render(Posture(pose)).picture  # noqa: E731
            else:
                portrait = Portrait(sample_identity(seed, "human"), SIDE)
                draw = lambda pose, portrait=portrait: portrait.draw(pose)[0]  # noqa: E731
            measure(draw, seed, model, Path(folder), said)
            print(f"{seed - SEED + 1} of {args.people}", file=sys.stderr, flush=True)
    print("| first frame | clips | frame named | rightly |\n|---|---|---|---|")
    for name, count in said.items():
        print(f"| {name} | {count['seen']} | {count['named']} | {count['rightly']} |")


if __name__ == "__main__":
    main()
