"""Train the eye reader on rendered eyes (eye_album.py), made up, and made small, blurred, dark or noisy.

    python training/train_eye_reader.py --minutes 12 [--album build/eyes] [--folder build/training]
    python training/train_eye_reader.py --ship src/talkies/fomm/model/demo.safetensors

Minutes are of the processor. The mean of the network over its last steps is kept in --folder; a training begins with
what is there.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from landmarks import keypoint_values
from PIL import Image, ImageDraw, ImageFilter
from portraits import EYE_LEFT, EYE_RIGHT
from torch import Tensor, nn
from train_close_ups import as_tensor, follow, set_rate, ship_networks

from talkies.fomm.model.checkpoint_head import SECOND
from talkies.fomm.model.close_ups import LIDS, head_size
from talkies.fomm.model.eye_reader import EYES, REACH, EyeReader, Place
from talkies.fomm.model.layers import coordinate_grid, warp

SQUARES = "left", "right"  # the squares of a view, about each eye
SIDE, HALF = 112, 0.75  # of a square: its side in pixels, and half of it in sizes of the head
ZOOM = SIDE / 2 / HALF  # pixels of a head's size
OUTLINES = EYE_LEFT, EYE_RIGHT
SMALLEST = 16  # pixels of a head's size, in the smallest faces
HELD = 600  # the views at the end of the album are for measuring
BATCH = 64
RATE = 2e-3
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
Rng = np.random.Generator


def squares(value: Tensor, eye: int) -> tuple[Tensor, Tensor]:
    """Return the middle [N, 2] and the half side [N] of an eye's squares, for keypoints [N, K, 2]."""
    return value[:, LIDS[2 * eye : 2 * eye + 2]].mean(1), head_size(value) * HALF


def cut_squares(pictures: np.ndarray, landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """Return the landmarks, [N, LANDMARKS, 2], of N pictures, and both squares, uint8 [N, SIDE, SIDE, 3]."""
    store, value = {"landmarks": landmarks.astype(np.float32)}, torch.from_numpy(keypoint_values(landmarks)).float()
    frames, own = as_tensor(pictures), coordinate_grid(SIDE, SIDE, value, centred=True)
    for eye, name in enumerate(SQUARES):
        middle, half = squares(value, eye)
        grid = middle[:, None, None] + own * half[:, None, None, None]
        store[name] = (warp(frames, grid, padding="border").permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return store


@dataclass(frozen=True)
class Views:
    """All left or all right eyes, in memory: squares, uint8 [N, SIDE, SIDE, 3].

    value, outline: keypoints, [N, K, 2], and the eye's outline, [N, 8, 2], in the squares' own coordinates.
    """

    eye: int
    pictures: np.ndarray
    value: Tensor
    outline: np.ndarray

    def examples(self, which: np.ndarray, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return eyes [N, 3, h, w] as an unsure detector finds them, worsened, and their true keypoints."""
        pairs = zip(self.pictures[which], (self.outline[which] + 1) / 2 * SIDE, strict=True)
        pictures = [as_filmed(rng, made_up(rng, *pair) if rng.random() < 0.6 else pair[0]) for pair in pairs]
        place = unsure(rng, Place.find(self.value[which], self.eye))
        eyes = in_other_light(rng, place.cut(as_tensor(np.stack(pictures))))
        return eyes, place.inside(self.value[which][:, EYES[self.eye]])


def unsure(rng: Rng, place: Place) -> Place:
    """Return places that are shifted, turned and scaled a little."""
    count = len(place.middle)
    shift, angle, size = (
        torch.from_numpy(np.clip(rng.standard_normal(shape), -2.5, 2.5)).float()
        for shape in ((count, 1, 2), count, count)
    )
    scale, angle = torch.exp(0.08 * size), math.radians(4) * angle
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=-1).unflatten(1, (2, 2))
    return Place(place.outside(0.1 * shift)[:, 0], turn @ place.axes * scale[:, None, None])


def made_up(rng: Rng, picture: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Return an eye, uint8 [S, S, 3], with more of what renders lack: lashes, mascara, shadows, creases.

    outline: in pixels, [8, 2] (portraits.py).
    """
    u, side = rng.uniform, len(picture)
    upper, lower = 2 * outline[[0, 1, 2, 3, 4]], 2 * outline[[4, 5, 6, 7, 0]]
    wide = float(np.linalg.norm(upper[4] - upper[0]))
    gap = 2 * (outline[[7, 6, 5]] - outline[[1, 2, 3]])  # from the upper to the lower lid
    opened = float(np.linalg.norm(gap, axis=1).max()) / wide
    out = Image.fromarray(picture)

    def paint(colour: tuple[int, ...], blur: float, draw: Callable[[ImageDraw.ImageDraw], None]) -> None:
        mask = Image.new("L", (2 * side, 2 * side))
        draw(ImageDraw.Draw(mask))
        out.paste(colour, (0, 0), mask.reduce(2).filter(ImageFilter.GaussianBlur(blur)))

    def line(points: np.ndarray, width: float, strength: float) -> Callable[[ImageDraw.ImageDraw], None]:
        flat = [tuple(point) for point in points.tolist()]
        return lambda draw: draw.line(flat, int(255 * strength), max(1, round(width)), "curve")

    def lashes(draw: ImageDraw.ImageDraw) -> None:
        down, length = opened < 0.12 and rng.random() < 0.8, u(0.04, 0.2) * wide
        for _ in range(int(rng.integers(6, 26))):
            at = u(0, 4)
            root = upper[int(at)] + (upper[int(at) + 1] - upper[int(at)]) * (at % 1)
            tip = root + length * np.array([(at - 2) * u(0.1, 0.4) + u(-0.1, 0.1), u(0.4, 1) if down else -u(0.5, 1)])
            draw.line([tuple(root.tolist()), tuple(tip.tolist())], int(u(120, 255)), int(rng.integers(1, 4)))

    dark = tuple(int(level) for level in u(0, 45) + u(0, 15, 3))
    tint = tuple(int(level) for level in u(20, 200) + u(-20, 50, 3))
    if opened > 0.12 and rng.random() < 0.4:  # another eyeball
        corners = [tuple(point) for point in (2 * outline).tolist()]
        strength = int(u(30, 160))
        paint(tint, u(0.5, 1.5), lambda draw: draw.polygon(corners, strength))
    for sign, points in ((-1, upper), (1, lower)):  # creases of the lids
        while rng.random() < 0.4:
            edge = rng.normal(points, 0.02 * wide)
            edge[:, 1] += sign * u(0.05, 0.35) * wide
            paint(dark if rng.random() < 0.7 else tint, u(0.3, 1.5), line(edge, u(0.01, 0.04) * wide, u(0.2, 0.7)))
    if rng.random() < 0.3:  # eye shadow
        paint(tint, 0.03 * wide, line(upper - [0, u(0.05, 0.2) * wide], u(0.1, 0.35) * wide, u(0.1, 0.5)))
    if opened > 0.12 and rng.random() < 0.6:  # the lid's shadow on the eyeball
        middle = upper[1:4] + gap * u(0.08, 0.3)
        edge = np.stack([upper[0], *middle, upper[4]])
        paint(dark, 0.01 * wide, line(edge, u(0.05, 0.3) * opened * wide, u(0.2, 0.7)))
    if rng.random() < 0.7:
        paint(dark, u(0.2, 1), line(upper - [0, u(-0.01, 0.04) * wide], u(0.01, 0.11) * wide, u(0.3, 1)))
    if rng.random() < 0.3:
        paint(dark, u(0.2, 1), line(lower - [0, u(-0.03, 0) * wide], u(0.01, 0.06) * wide, u(0.2, 0.9)))
    if rng.random() < 0.6:
        paint(dark, u(0.1, 0.8), lashes)
    if rng.random() < 0.12:  # a glare, a strand of hair, a frame of glasses
        ends = u(0, 2 * side, (2, 2))
        paint(tint if rng.random() < 0.5 else dark, u(0.3, 4), line(ends, u(0.03, 0.3) * wide, u(0.3, 0.9)))
    return np.asarray(out)


def in_other_light(rng: Rng, regions: Tensor) -> Tensor:
    """Return regions, [N, 3, h, w] in [0, 1], lit more from one side."""
    across, down = torch.from_numpy(rng.uniform(-0.4, 0.4, (2, len(regions), 1, 1, 1))).float()
    x, y = (torch.linspace(-1, 1, side) for side in (regions.shape[3], regions.shape[2]))
    return (regions * (1 + across * x + down * y[:, None])).clamp(0, 1)


def as_filmed(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 [S, S, 3], as another camera and codec would show it.

    It gets other colours and is blurred, made small, given noise, compressed, and enlarged again: each at random.
    """
    u, side, image = rng.uniform, len(picture), Image.fromarray(picture)
    levels = np.linspace(1e-3, 1, 256)
    gamma, gain = u(0.7, 1.5), u(0.5, 1.25)
    curves = [levels ** (gamma * u(0.9, 1.1)) * gain * u(0.85, 1.15) for _ in range(3)]
    image = image.point((np.concatenate(curves) * 255).clip(0, 255).astype(int).tolist())
    if rng.random() < 0.5:
        grey = image.convert("L").convert("RGB")
        image = grey if rng.random() < 0.3 else Image.blend(grey, image, u(0.4, 1.3))
    kind = rng.random()
    if kind < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(u(0.3, 2)))
    elif kind < 0.32:
        image = image.filter(ImageFilter.BoxBlur((u(0, 2.5), u(0, 2.5))))
    elif kind < 0.42:
        image = image.filter(ImageFilter.UnsharpMask(u(0.6, 2), int(u(40, 160)), 0))
    if rng.random() < 0.75:
        small = round(side * math.exp(u(math.log(SMALLEST), math.log(ZOOM))) / ZOOM)
        image = image.resize((small, small), FILTERS[rng.integers(4)])
    if rng.random() < 0.4:
        pixels = np.asarray(image)
        noise = rng.standard_normal(pixels.shape if rng.random() < 0.5 else (*pixels.shape[:2], 1), np.float32)
        image = Image.fromarray((pixels + noise * np.float32(u(1, 9))).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.55:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(u(25, 95)))
        image = Image.open(file)
    return np.asarray(image.resize((side, side), FILTERS[rng.integers(1, 4)]) if image.width != side else image)


def load(album: Path, held: bool) -> list[Views]:
    """Read an album's left and right eyes: the HELD views at its end, or all others."""
    kept = {name: list[np.ndarray]() for name in ("landmarks", *SQUARES)}
    count = 0
    for file in sorted((file for file in album.glob("*.npz") if ".part" not in file.name), reverse=True):
        with np.load(file) as stored:
            if (count < HELD) == held:
                for name, parts in kept.items():
                    parts.append(stored[name])
            count += len(stored["landmarks"])
    whole = {name: np.concatenate(parts) for name, parts in kept.items()}
    landmarks, value = (torch.from_numpy(x) for x in (whole["landmarks"], keypoint_values(whole["landmarks"])))
    out = []
    for eye, name in enumerate(SQUARES):
        middle, half = squares(value, eye)
        own, outline = ((x - middle[:, None]) / half[:, None, None] for x in (value, landmarks[:, OUTLINES[eye]]))
        out.append(Views(eye, whole[name], own, outline.numpy()))
    return out


def draw(views: list[Views], count: int, rng: Rng) -> tuple[Tensor, Tensor]:
    """Return pictures and keypoints of eyes drawn at random, half of them right ones."""
    drawn = [each.examples(rng.integers(len(each.pictures), size=count // 2), rng) for each in views]
    seen, true = zip(*drawn, strict=True)
    return torch.cat(seen), torch.cat(true)


def loss_of(found: Tensor, true: Tensor) -> Tensor:
    """Return the error of keypoints and, since films show these most, of openings."""
    away = found - true
    return away.abs().mean() + (away[:, 1, 1] - away[:, 0, 1]).abs().mean()


@torch.no_grad()
def measure(network: nn.Module, held: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return the mean errors of points and openings in sizes of the head, and the openings' correlation and slope."""
    network.eval()
    found, true = torch.cat([network(part) for part in held[0].split(BATCH)]), held[1]
    network.train()
    is_, should = ((points[:, 1] - points[:, 0]).norm(dim=-1) for points in (found, true))
    correlation = torch.corrcoef(torch.stack([is_, should]))[0, 1]
    told = {
        "points": (found - true).norm(dim=-1).mean() * REACH,
        "opening": (is_ - should).abs().mean() * REACH,
        "correlation": correlation,
        "slope": correlation * is_.std() / should.std(),
    }
    return {key: round(float(value), 4) for key, value in told.items()}


def train(minutes: float, album: Path, folder: Path) -> None:
    torch.manual_seed(0)
    held = draw(load(album, True), 1200, np.random.default_rng(2))
    views = load(album, False)
    network = EyeReader().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = folder / "eye-reader.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
    average = deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    count = sum(len(each.pictures) for each in views)
    print(f"{count} pictures, {sum(p.numel() for p in network.parameters())} parameters", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    rng, losses, steps, began, said = np.random.default_rng(1), list[float](), 0, time.process_time(), 0.0
    done = 0.0
    while done < 1:
        set_rate(optimizer, RATE, steps, done)
        seen, true = draw(views, BATCH, rng)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(seen.contiguous(memory_format=torch.channels_last))
        loss = loss_of(found.float(), true)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), 1)):
            optimizer.step()
        follow(average, network, steps, 0.998)
        steps += 1
        losses.append(float(loss.detach()))
        done = (time.process_time() - began) / 60 / minutes
        if done > said + 0.1 or done >= 1:
            told = {"step": steps, "done": round(done, 2), "loss": round(float(np.mean(losses)), 4)}
            print(json.dumps(told | measure(average, held)), flush=True)
            torch.save(average.state_dict(), path)
            said, losses = done, []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--album", type=Path, default=Path("build/eyes"))
    parser.add_argument("--folder", type=Path, default=Path("build/training"))
    parser.add_argument("--ship", type=Path, help="write the package's weights with this reader")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ship:
        reader = torch.load(args.folder / "eye-reader.pt", weights_only=True)
        ship_networks(args.ship, {f"{SECOND}.eye_reader.": reader})
    else:
        train(args.minutes, args.album, args.folder)


if __name__ == "__main__":
    main()
