"""Measure the demo network on drawn portraits it has never seen, at the network's size, and print the tables.

    python training/evaluate.py [--quick] [--weights FILE] [--folder build/training]

The test set is fixed: 200 held-out identities (seeds from 1,000,000). Each has a source that looks nearly ahead and
two driving poses from the trainer's whole range, without noise. Each measure is given for two baselines too: a copy of
the source, and the mean of source and driving (which contains half of the answer). A regressor reads the landmarks of
results, and an embedding measures likeness. Both are trained here, once, on other seeds, separately from the network.
The tables also show the errors of the regressor and of the embedding.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import imageio_ffmpeg
import numpy as np
import torch
import torch.nn.functional as F
from album import near_pose
from landmarks import (
    eye_opening,
    keypoint_jacobians,
    keypoint_values,
    mouth_opening,
    regions,
    tilt_measure,
    yaw_measure,
)
from losses import region_weight
from PIL import Image
from portraits import FOREHEAD, LANDMARKS, Portrait, Pose, sample_identity, sample_pose, spoil
from torch import Tensor
from train_demo import open_network

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
from make_examples import PICTURES, perform

import talkies
from talkies.fomm.device import keep_memory
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.keypoint_detector import KeypointDetector, Keypoints
from talkies.fomm.model.looks import is_photograph
from talkies.fomm.model.presets import DEMO_WEIGHTS, PRESETS
from talkies.fomm.rewrite import rewritten
from talkies.media.film import FILM_SIZE

SIDE = 128
TEST_SEED, REGRESSOR_SEED, EMBEDDING_SEED = 1_000_000, 5_000_000, 6_000_000
# The landmarks that the regressor reads: outline, brows, nose, all of lids and inner lips, middle and corners of the
# outer lips.
READ = np.array(
    [0, 2, 5, 8, 11, 14, 16, 17, 19, 21, 22, 24, 26, 29, *range(33, 49), 51, 54, 57, 60, *range(63, 71), FOREHEAD]
)


class LandmarkReader:
    """Reads landmarks from pictures. It is trained on drawings, whose landmarks are known."""

    def __init__(self) -> None:
        torch.manual_seed(REGRESSOR_SEED)
        self.network = KeypointDetector(
            num_kp=len(READ), num_channels=3, block_expansion=16, max_features=128, num_blocks=4,
            temperature=0.1, scale_factor=0.5, pad=3,
        )  # fmt: skip

    def train(self, steps: int, batch: int = 16) -> None:
        """Train on new identities in each step. Some pictures are spoiled or blurred, since results are soft."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
        self.network.train()
        begun = time.monotonic()
        losses = []
        for step in range(steps):
            rng = np.random.default_rng([REGRESSOR_SEED, step])
            pictures, points = [], []
            for k in range(batch // 2):
                portrait = Portrait(sample_identity(REGRESSOR_SEED + step * batch // 2 + k), SIDE)
                for _ in range(2):
                    picture, landmarks = portrait.draw(sample_pose(rng))
                    pictures.append(spoil(picture, rng) if rng.random() < 0.4 else picture)
                    points.append(landmarks[READ])
            frames = as_frames(pictures)
            if step % 3 == 0:
                frames = F.interpolate(F.avg_pool2d(frames, 2), scale_factor=2, mode="bilinear")
            loss = (self.network(frames).value - torch.from_numpy(np.stack(points))).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item() * SIDE / 2)
            if step % 100 == 99:
                took = time.monotonic() - begun
                print(f"landmark regressor: step {step + 1}, {np.mean(losses[-100:]):.2f} px, {took:.0f} s", flush=True)
        self.network.eval()

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> np.ndarray:
        """[N, 3, SIDE, SIDE] -> landmarks [N, LANDMARKS, 2]; NaN for landmarks that are not in READ."""
        found = torch.cat([self.network(part).value for part in frames.split(32)]).numpy()
        out = np.full((len(found), LANDMARKS, 2), np.nan, np.float32)
        out[:, READ] = found
        return out


class IdentityReader:
    """Embeds the identity in a picture, in any pose. It is trained to find the same identity among others."""

    VIEWS = 6

    def __init__(self) -> None:
        torch.manual_seed(EMBEDDING_SEED)
        layers: list[torch.nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 96), (96, 128)):
            layers += [
                torch.nn.Conv2d(before, after, 3, padding=1),
                torch.nn.BatchNorm2d(after),
                torch.nn.ReLU(),
                torch.nn.AvgPool2d(2),
            ]
        self.network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(128 * 16, 64))

    @classmethod
    def draw(cls, number: int) -> np.ndarray:
        """Draw one identity in VIEWS poses. About a third of the pictures are spoiled."""
        rng = np.random.default_rng([EMBEDDING_SEED, number])
        portrait = Portrait(sample_identity(EMBEDDING_SEED + number), SIDE)
        pictures = [portrait.draw(sample_pose(rng))[0] for _ in range(cls.VIEWS)]
        return np.stack([spoil(x, rng) if rng.random() < 0.3 else x for x in pictures])

    def train(self, steps: int, identities: int = 800, batch: int = 32) -> None:
        """Train by cross entropy over the batch: a view must be nearest to the other view of its identity.

        Every second step sees softened pictures, since results are soft.
        """
        with multiprocessing.Pool(torch.get_num_threads()) as pool:
            drawn = np.stack(pool.map(self.draw, range(identities), chunksize=8))
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
        self.network.train()
        begun, right = time.monotonic(), []
        for step in range(steps):
            rng = np.random.default_rng([EMBEDDING_SEED, step, 1])
            who = rng.choice(identities, batch, replace=False)
            views = np.stack([rng.choice(self.VIEWS, 2, replace=False) for _ in who])
            pictures = np.concatenate([drawn[who, views[:, 0]], drawn[who, views[:, 1]]])
            frames = as_frames(list(pictures))
            if step % 2:
                frames = F.interpolate(F.avg_pool2d(frames, 2), scale_factor=2, mode="bilinear")
            one, two = self.embed(frames).split(batch)
            likeness = one @ two.T / 0.1
            loss = F.cross_entropy(likeness, torch.arange(batch)) + F.cross_entropy(likeness.T, torch.arange(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right.append(float((likeness.argmax(1) == torch.arange(batch)).float().mean()))
            if step % 50 == 49:
                took = time.monotonic() - begun
                print(f"embedding: step {step + 1}, {np.mean(right[-50:]):.1%} found, {took:.0f} s", flush=True)
        self.network.eval()

    def embed(self, frames: Tensor) -> Tensor:
        """[N, 3, SIDE, SIDE] -> unit vectors [N, 64]."""
        return F.normalize(self.network(F.avg_pool2d(frames, 2) - 0.5))

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        return torch.cat([self.embed(part) for part in frames.split(32)])


Reader = TypeVar("Reader", "LandmarkReader", "IdentityReader")


def load_trained(reader: Reader, name: str, folder: Path, steps: int) -> Reader:
    """Load the trained network from ``folder``. Train it first if there is none."""
    path = folder / f"{name}-{steps}.pt"
    if path.exists():
        reader.network.load_state_dict(torch.load(path, weights_only=True))
        reader.network.eval()
    else:
        reader.train(steps)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(reader.network.state_dict(), path)
    return reader


def as_frames(pictures: list[np.ndarray]) -> Tensor:
    """uint8 [H, W, 3] each -> float [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().contiguous() / 255


def true_keypoints(points: np.ndarray) -> Keypoints:
    """Return the keypoints that the detector should find in drawings with landmarks [N, LANDMARKS, 2]."""
    found = keypoint_values(points), keypoint_jacobians(points)
    return Keypoints(*(torch.from_numpy(x.astype(np.float32)) for x in found))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean distance between the landmarks of READ, in pixels."""
    return float(np.linalg.norm(a[..., READ, :] - b[..., READ, :], axis=-1).mean() * SIDE / 2)


def gradient_energy(frames: Tensor, region: Tensor) -> float:
    """Return the mean absolute difference between neighbouring pixels in a region."""
    across = (frames.diff(dim=3).abs() * region[..., 1:]).sum() + (frames.diff(dim=2).abs() * region[:, :, 1:]).sum()
    return float(across / region.sum())


def evaluate_reconstruction(
    model: FirstOrderModel, reader: LandmarkReader, likeness: IdentityReader, identities: int
) -> list[tuple[str, ...]]:
    """Let each identity drive itself. Returns the rows of the table."""
    faces: list[Tensor] = []
    sums: dict[str, list[float]] = {}

    def note(name: str, *values: float) -> None:
        sums.setdefault(name, []).append(np.array(values))

    for k in range(identities):
        rng = np.random.default_rng([TEST_SEED, k])
        portrait = Portrait(sample_identity(TEST_SEED + k), SIDE)
        source_picture, source_points = portrait.draw(near_pose(rng))
        drawn = [portrait.draw(sample_pose(rng)) for _ in range(2)]
        source, driving = as_frames([source_picture]), as_frames([d[0] for d in drawn])
        points = np.stack([d[1] for d in drawn])
        out = model.generate(source, model.keypoints(source), model.keypoints(driving)).prediction
        guided = model.generate(source, true_keypoints(source_points[None]), true_keypoints(points)).prediction
        copy, mean = source.expand_as(driving), (source + driving) / 2
        note("L1", *(float((x - driving).abs().mean()) for x in (out, copy, mean)))
        note("guided L1", *(float((x - driving).abs().mean()) for x in (guided, copy, mean)))
        akd = [distance(reader(x), points) for x in (out, copy, mean)]
        own = distance(reader(driving), points)
        note("AKD", *akd)
        note("own", own, own, own)
        faces.append(torch.stack([likeness(x) for x in (driving, out, copy, mean)]))
        for name, part in (("eyes", [0, 1]), ("mouth", [2])):
            region = region_weight(torch.from_numpy(regions(points).astype(np.float32))[:, part], SIDE)
            note(
                f"{name} L1",
                *(float(((x - driving).abs() * region).sum() / region.sum() / 3) for x in (out, copy, mean)),
            )
            truth = gradient_energy(driving, region)
            note(f"{name} energy", *(gradient_energy(x, region) / truth for x in (out, copy, mean)))
    m = {name: np.mean(values, axis=0) for name, values in sums.items()}
    rows = []
    for name, label in (
        ("L1", "L1"),
        ("guided L1", "L1, given the true keypoints"),
        ("eyes L1", "L1, eyes"),
        ("mouth L1", "L1, mouth"),
    ):
        a, b, c = m[name]
        rows.append((label, f"{a:.4f}", f"{b:.4f}", f"{c:.4f}", f"{a / b:.2f} of the copy's"))
    a, b, c = m["AKD"]
    own = m["own"][0]
    less = (a - own) / (b - own)
    rows.append(
        (
            f"AKD, pixels (the regressor's own error: {own:.2f})",
            f"{a:.2f}",
            f"{b:.2f}",
            f"{c:.2f}",
            f"{a / b:.2f} of the copy's; {less:.2f} less own error",
        )
    )
    # Distance to a real drawing of the same identity in the same pose; for comparison, to the next identity.
    embedded = torch.cat(faces, 1)
    truth = embedded[0]
    away = [float((x - truth).norm(dim=1).mean()) for x in embedded[1:]]
    others = float((truth - truth.roll(2, 0)).norm(dim=1).mean())
    first, second = truth[::2], truth[1::2]
    found = float(((first @ second.T).argmax(1) == torch.arange(len(first))).float().mean())
    rows.append(
        (
            f"identity distance (another identity: {others:.2f}; the embedding finds {found:.0%} of {len(first)})",
            *(f"{x:.2f}" for x in away),
            f"{away[0] / others:.2f} of another's",
        )
    )
    for name in ("eyes", "mouth"):
        a, b, c = m[f"{name} energy"]
        rows.append((f"gradient energy, {name}, of the driving's", f"{a:.2f}", f"{b:.2f}", f"{c:.2f}", ""))
    return rows


MEASURES = {"mouth": mouth_opening, "eyes": eye_opening, "yaw": yaw_measure, "tilt": tilt_measure}


def correlate(read: np.ndarray, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the correlation over time between the motion in a result and the performer's true motion."""
    truth = {**truth, "eyes": (truth["eye_left"] + truth["eye_right"]) / 2, "tilt": truth["roll"]}
    with np.errstate(all="ignore"):
        return {k: float(np.nan_to_num(np.corrcoef(measure(read), truth[k])[0, 1])) for k, measure in MEASURES.items()}


def animate(model: FirstOrderModel, source: Tensor, driving: Tensor) -> Tensor:
    """Animate with relative motion from the first frame, as `talkies` does by default."""
    kp_source, kp = model.keypoints(source), model.keypoints(driving)
    demo = PRESETS["demo"]
    moved = talkies.transfer_motion(kp_source, kp, kp[0], reach=demo.reach, openings=demo.openings)
    return torch.cat(
        [model.generate(source, kp_source, moved[k : k + 16]).prediction for k in range(0, len(driving), 16)]
    )


def evaluate_transfer(
    model: FirstOrderModel, reader: LandmarkReader, pairs: int, sheet: Path | None
) -> dict[str, list[float]]:
    """Let held-out performers drive held-out pictures. Returns the correlations of each pair.

    sheet: a picture file to write, with source, driving and result of each pair; or None.
    """
    found: dict[str, list[float]] = {k: [] for k in MEASURES}
    cells = []
    for k in range(pairs):
        rng = np.random.default_rng([TEST_SEED, k, 2])
        source = as_frames([Portrait(sample_identity(TEST_SEED + 2 * k), SIDE).draw(calm_pose(rng))[0]])
        performer = Portrait(sample_identity(TEST_SEED + 2 * k + 1), SIDE)
        t = np.arange(0, 4, 0.1)
        acts = perform(t, 4.0, float(rng.uniform(0, 9)), rng)
        driving = as_frames(
            [performer.draw(Pose(**{n: float(v[f]) for n, v in acts.items()}))[0] for f in range(len(t))]
        )
        out = animate(model, source, driving)
        for name, value in correlate(reader(out), acts).items():
            found[name].append(value)
        f = int(rng.integers(6, 32))
        cells.append(torch.cat([source[0], driving[f], out[f]], 2))
    if sheet:
        rows = [torch.cat(cells[k : k + 4], 2) for k in range(0, len(cells) - 3, 4)]
        picture = (torch.cat(rows, 1).permute(1, 2, 0) * 255).round().byte().numpy()
        sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(sheet)
    return found


def calm_pose(rng: np.random.Generator) -> Pose:
    """Return a random pose as in a portrait: nearly straight ahead, eyes open, mouth shut."""
    return replace(near_pose(rng), mouth=0.0, eye_left=0.85, eye_right=0.85)


def read_clip(path: Path) -> list[np.ndarray]:
    """Return the frames of a clip, scaled to SIDE."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(path),
        "-vf",
        f"scale={SIDE}:{SIDE}:flags=area",
    ]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
    return list(np.frombuffer(raw, np.uint8).reshape(-1, SIDE, SIDE, 3))


def evaluate_examples(model: FirstOrderModel, reader: LandmarkReader) -> dict[str, dict[str, float]]:
    """Animate every drawn example picture with every example clip. Returns the correlations of each pair."""
    truth = json.loads((ROOT / "tests/data/driving_truth.json").read_text())
    found = {}
    for clip, acts in truth.items():
        # Every third frame is enough, and takes a third of the time.
        driving = as_frames(read_clip(ROOT / "examples/driving" / clip)[::3])
        curves = {k: np.array(v)[::3] for k, v in acts.items() if isinstance(v, list)}
        for path in sorted((ROOT / "examples/images").iterdir()):
            if path.name not in PICTURES:  # photographs and renders: the regressor is not trained on them
                continue
            image = Image.open(path)
            if image.mode == "RGBA":
                ground = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(ground, image)
            source = as_frames([np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))])
            found[f"{path.stem} by {Path(clip).stem}"] = correlate(reader(animate(model, source, driving)), curves)
    return found


def speed(model: FirstOrderModel) -> float:
    """Return the frames a second at FILM_SIZE: the optimised network, batches of 8, with keypoint detection."""
    frames = torch.rand(8, 3, FILM_SIZE, FILM_SIZE)
    model = rewritten(model)
    kp = model.keypoints(frames)
    features = model.encode(frames[:1])
    model.generate(features, kp[0], kp)
    begun = time.monotonic()
    for _ in range(4):
        model.generate(features, kp[0], model.keypoints(frames))
    return 32 / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 identities and 8 pairs instead of 200 and 40")
    parser.add_argument("--weights", type=Path, help="a checkpoint instead of the shipped one")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build/training", help="keeps what is trained here and the contact sheet"
    )
    parser.add_argument("--regressor-steps", type=int, default=700)
    parser.add_argument("--embedding-steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    weights = args.weights or DEMO_WEIGHTS
    model = open_network(weights)
    reader = load_trained(LandmarkReader(), "landmark-reader", args.folder, args.regressor_steps)
    likeness = load_trained(IdentityReader(), "identity-reader", args.folder, args.embedding_steps)
    identities, pairs = (20, 8) if args.quick else (200, 40)

    print(f"\nReconstruction, {identities} held-out identities, 2 driving poses each\n")
    faces = [Portrait(sample_identity(TEST_SEED + k), FILM_SIZE).draw(Pose())[0] for k in range(identities)]
    print(f"{sum(map(is_photograph, faces))} of them look like photographs to the package\n")
    print("| measure | network | source copied | mean of both | |\n|---|---|---|---|---|")
    for row in evaluate_reconstruction(model, reader, likeness, identities):
        print("| " + " | ".join(row) + " |")
    found = evaluate_transfer(model, reader, pairs, args.folder / "evaluation-pairs.png")
    print(f"\nTransfer between identities, {pairs} held-out pairs, 40 frames each: correlation over time\n")
    print("| | median | lowest tenth |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {np.median(values):.2f} | {np.quantile(values, 0.1):.2f} |")
    examples = evaluate_examples(model, reader)
    print("\nThe shipped examples: correlation over time\n")
    print("| pair | mouth | eyes | yaw | tilt |\n|---|---|---|---|---|")
    for name, values in examples.items():
        print(f"| {name} | " + " | ".join(f"{values[k]:.2f}" for k in MEASURES) + " |")
    medians = {k: np.median([v[k] for v in examples.values()]) for k in MEASURES}
    print("| median | " + " | ".join(f"{medians[k]:.2f}" for k in MEASURES) + " |")
    models = {name: talkies.load_model(name) for name in ("demo-drawings", "demo-photographs") if not args.weights}
    models |= {args.weights.name: open_network(args.weights, reduction=2)} if args.weights else {}
    rates = [f"{speed(model):.0f} ({name})" for name, model in models.items()]
    print(f"\nSpeed: {', '.join(rates)} frames/s of {FILM_SIZE} x {FILM_SIZE}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
