"""The reference: the network run as the First Order Motion Model's published demo runs it. Never tuned, never slowed.

    python benchmarks/reference.py SOURCE DRIVING OUT.mp4 --model vox-adv-256 --checkpoint P

One process makes one pair, one frame at a time, and encodes the source again for each frame. Layout is channels first,
batch norms are not folded, and the C library's memory is not tuned. All frames of the clip and of the film are in
memory, as float64 wherever the demo uses that. Picture and clip are square. tests/project/test_benchmarks.py checks
the loop against the golden data.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from talkies import media
from talkies.fomm.model.checkpoint import load_checkpoint
from talkies.fomm.model.first_order import FirstOrderModel, build_model
from talkies.fomm.model.keypoint_detector import Keypoints
from talkies.fomm.motion import hull_area


def load(preset: str, checkpoint: str | Path) -> FirstOrderModel:
    """Build a preset's network and load its weights."""
    model = build_model(preset)
    model.load_state_dict(load_checkpoint(checkpoint))
    return model.eval()


def normalize(source: Keypoints, driving: Keypoints, initial: Keypoints) -> Keypoints:
    """Transfer motion as the demo does with --relative and --adapt_scale: compute everything again for each frame."""
    scale = np.sqrt(hull_area(source.value[0])) / np.sqrt(hull_area(initial.value[0]))
    value = (driving.value - initial.value) * scale + source.value
    if driving.jacobian is None:
        return Keypoints(value)
    jacobian = torch.matmul(driving.jacobian, torch.inverse(initial.jacobian))
    return Keypoints(value, torch.matmul(jacobian, source.jacobian))


def animate(model: FirstOrderModel, source: NDArray, driving: list[NDArray]) -> list[NDArray[np.float32]]:
    """Return the film's frames. Picture and all frames are [H, W, 3] in [0, 1]."""
    with torch.no_grad():
        predictions = []
        picture = torch.tensor(source[np.newaxis].astype(np.float32)).permute(0, 3, 1, 2)
        clip = torch.tensor(np.array(driving)[np.newaxis].astype(np.float32)).permute(0, 4, 1, 2, 3)
        kp_source = model.kp_detector(picture)
        kp_initial = model.kp_detector(clip[:, :, 0])
        for number in range(clip.shape[2]):
            kp_driving = model.kp_detector(clip[:, :, number])
            made = model.generator(picture, kp_source, normalize(kp_source, kp_driving, kp_initial))
            predictions.append(np.transpose(made.prediction.data.cpu().numpy(), [0, 2, 3, 1])[0])
    return predictions


def tune_malloc() -> None:
    """Make glibc keep freed memory: the only tuning of the reference, for the second ratio of each table."""
    libc = ctypes.CDLL("libc.so.6")
    for parameter, value in ((-4, 0), (-1, 1 << 30), (-2, 64 << 20)):
        libc.mallopt(parameter, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("driving", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="vox-adv-256")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--malloc-tuned", action="store_true")
    args = parser.parse_args()
    if args.malloc_tuned:
        tune_malloc()
    torch.set_num_threads(args.threads)
    begun = time.monotonic()
    model = load(args.model, args.checkpoint)
    loaded = time.monotonic()
    side = model.preset.size
    source = media.read_picture(args.source)
    assert source.shape == (side, side, 3), "a picture of the network's side"
    clip = media.probe(args.driving)
    driving = [frame / 255 for frame in media.read_frames(clip, size=side)]
    film = animate(model, source / 255, driving)
    with media.FrameWriter(args.output, clip.rate, crf=18, preset="medium", threads=args.threads) as writer:
        for frame in film:
            writer.write((frame * 255).round().astype(np.uint8))
    print(json.dumps({"frames": len(film), "load": loaded - begun, "rest": time.monotonic() - loaded}))


if __name__ == "__main__":
    main()
