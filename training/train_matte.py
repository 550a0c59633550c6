"""Train the matte on rendered heads (matte_album.py) in other clothes, hair, hats and before other backgrounds.

    python training/train_matte.py --minutes 40 [--album build/mattes] [--folder build/training]

State is saved every few minutes in --folder, and a training that was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from backdrops import as_picture, draw_backdrop, draw_clutter
from PIL import Image
from torch import Tensor, nn
from train_close_ups import follow, set_rate

from talkies.fomm.model.close_ups import MIRROR
from talkies.fomm.model.matte import SIDE, MatteNetwork, grown, head_places, observe, shrunk

HELD = 40  # the first people are for measuring
BATCH = 16
RATE = 3e-3
BACKDROPS = 700
HAIR = ((0.08, 0.06, 0.05), (0.2, 0.13, 0.08), (0.45, 0.32, 0.2), (0.75, 0.62, 0.42), (0.7, 0.7, 0.68), (0.4, 0.2, 0.1))
Rng = np.random.Generator


def soft(x: Tensor, width: float) -> Tensor:
    """Return 0 to 1 as x passes 0."""
    return torch.sigmoid(x / width)


def noise(rng: Rng, cells: int) -> Tensor:
    """Return smooth noise, [SIDE, SIDE] in about [0, 1]."""
    small = torch.from_numpy(rng.random((1, 1, cells, cells)).astype(np.float32))
    return F.interpolate(small, size=(SIDE, SIDE), mode="bicubic")[0, 0]


class People:
    """Rendered people in memory at SIDE x 2, and a stock of backgrounds."""

    def __init__(self, files: list[Path], rng: Rng) -> None:
        parts = [np.load(file) for file in files]
        self.front = np.concatenate([part["front"] for part in parts])
        self.alpha = np.concatenate([part["alpha"] for part in parts])
        self.value = np.concatenate([part["value"] for part in parts]).astype(np.float32)
        self.pictures = np.concatenate([part["picture"][:1] for part in parts])
        draws = draw_clutter, lambda *which: as_picture(draw_backdrop(*which))
        self.backdrops = np.stack([draws[k % 2](rng, SIDE) for k in range(BACKDROPS)])

    def __len__(self) -> int:
        return len(self.front)

    def backdrop(self, rng: Rng) -> Tensor:
        """Return a background, [3, SIDE, SIDE]: a drawn one or, at random, one with other people."""
        u = rng.uniform
        back = tensor(self.backdrops[int(rng.integers(len(self.backdrops)))])
        zoom = u(0.4, 1)
        back = sampled(back, zoom, 0.0, u(zoom - 1, 1 - zoom), u(zoom - 1, 1 - zoom))
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.2 else 0):  # people behind
            k = int(rng.integers(len(self)))
            other = sampled(
                with_alpha(self.front[k], self.alpha[k]), u(0.7, 2.2), u(-0.2, 0.2), u(-1.6, 1.6), u(-0.6, 0.6)
            )
            colours, cover = other[:3], other[3:]
            if rng.random() < 0.7:
                r = int(rng.integers(1, 5))
                colours, cover = (
                    F.avg_pool2d(F.pad(x[None], (r,) * 4, mode="replicate"), 2 * r + 1, 1)[0] for x in (colours, cover)
                )
            back = back.lerp(colours, cover)
        return (back * u(0.5, 1.3) + u(-0.1, 0.1)).clamp(0, 1)

    def sample(self, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """Return a picture [3, SIDE, SIDE], its matte [1, SIDE, SIDE] and its keypoints [K, 2]."""
        u = rng.uniform
        k = int(rng.integers(len(self)))
        zoom, roll = u(0.6, 1.02), float(np.clip(rng.normal(0, 0.12), -0.3, 0.3)) if rng.random() < 0.6 else 0.0
        x, y = u(-0.22, 0.22), u(zoom - 1.05, max(0.0, 1 - zoom) * 0.8)
        value = torch.from_numpy(self.value[k])
        both = sampled(with_alpha(self.front[k], self.alpha[k]), zoom, roll, x, y)
        turn = torch.tensor([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]]) * zoom
        value = (value - torch.tensor([x, y])) @ torch.linalg.inv(turn).T
        if rng.random() < 0.5:
            both, value = both.flip(2), value[list(MIRROR)] * torch.tensor([-1.0, 1.0])
        front, body = both[:3], both[3]
        picture, alpha = dressed(rng, front, body, self.backdrop(rng), value)
        value = value + torch.from_numpy(rng.normal(0, 0.015, value.shape)).float()
        return photographed(rng, picture), alpha[None], value

    def batch(self, rng: Rng, count: int) -> tuple[Tensor, Tensor]:
        """Return what the network sees, and the mattes."""
        pictures, mattes, values = (torch.stack(x) for x in zip(*(self.sample(rng) for _ in range(count)), strict=True))
        return observe(pictures, values), mattes


def tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def with_alpha(front: np.ndarray, alpha: np.ndarray) -> Tensor:
    """Return a rendered person as [4, SIDE, SIDE], at half the rendered side."""
    x = torch.cat([torch.from_numpy(front), torch.from_numpy(alpha)[..., None]], -1).permute(2, 0, 1)
    return F.avg_pool2d(x.float() / 255, 2)


def sampled(x: Tensor, zoom: float, roll: float, dx: float, dy: float) -> Tensor:
    """Return a picture [C, h, w] seen through a frame that is moved, turned and zoomed, [C, SIDE, SIDE]."""
    c, s = zoom * math.cos(roll), zoom * math.sin(roll)
    grid = F.affine_grid(torch.tensor([[[c, -s, dx], [s, c, dy]]]), [1, 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(x[None], grid, padding_mode="border", align_corners=False)[0]


def fabric(rng: Rng, place: Tensor, hair: bool = False) -> Tensor:
    """Return the colours of cloth or hair, [3, SIDE, SIDE]."""
    u = rng.uniform
    if hair:
        colour = torch.tensor(HAIR[int(rng.integers(len(HAIR)))]) * u(0.6, 1.3)
    else:
        colour = torch.full((3,), u(0, 1)) + (
            torch.from_numpy(rng.uniform(-0.35, 0.35, 3)).float() if rng.random() < 0.55 else 0
        )
        colour = colour.clamp(0, 1) * (u(0.03, 0.45) if rng.random() < 0.55 else 1)  # clothes are often dark
    x, y = place.unbind(-1)
    out, kind = colour[:, None, None].expand(3, SIDE, SIDE), rng.random()
    if kind < 0.4 or hair:
        out = out * (
            1
            + (0.6 * noise(rng, int(rng.integers(3, 12))) + 0.4 * noise(rng, int(rng.integers(12, 64))) - 0.5)
            * u(0.3, 1.6)
        )
    elif kind < 0.6:
        wave = torch.sin((x * u(-1, 1) + y * u(-1, 1)) * u(15, 120))
        out = out + torch.from_numpy(rng.normal(0, 0.15, 3)).float()[:, None, None] * (
            wave.sign() if rng.random() < 0.5 else wave
        )
    return (out * (1 + 0.5 * (x * u(-1, 1) + y * u(-1, 1)))).clamp(0, 1)


def dressed(rng: Rng, front: Tensor, body: Tensor, back: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Put a rendered person before a background, in other clothes, hair or a hat. Returns the picture and the matte."""
    u = rng.uniform
    place = head_places(value[None], SIDE)[0]
    x, y = place.unbind(-1)
    size = float((value[0] - (value[3] + value[17]) / 2).norm())
    picture, alpha = back, torch.zeros(SIDE, SIDE)

    def put(colours: Tensor, cover: Tensor) -> None:
        nonlocal picture, alpha
        picture, alpha = picture.lerp(colours, cover[None]), torch.maximum(alpha, cover)

    neck, slope, half, lean = u(-0.14, 0.2), u(-0.4, 0.8), u(0.12, 0.4), u(-0.3, 0.3)
    below = y - 0.5 - neck + lean * x
    side = (x.abs() - half).clamp(min=0)
    shoulders = below - slope * side - u(0, 3) * (x.abs() - u(0.8, 1.4)).clamp(min=0) + (noise(rng, 8) - 0.5) * 0.05
    clothed, wide, over = rng.random() < 0.88, rng.random() < 0.85, rng.random() < 0.5
    cloth = fabric(rng, place)
    if clothed and wide:  # shoulders that are wider than the rendered ones
        put(cloth, soft(shoulders * size, u(0.004, 0.02)))
    hair_cover = None
    if rng.random() < 0.4:  # a mass of hair behind the head, some down over the clothes
        w, up = u(0.4, 0.75), u(0.6, 0.92)
        mass = 1 - (x / w).abs() ** u(1.8, 3) - (y / up).abs() ** 2
        if rng.random() < 0.6:
            mass = torch.maximum(
                mass,
                2
                * torch.minimum(w * u(0.8, 1.15) - x.abs() + u(-0.1, 0.1) * y, torch.minimum(y + 0.1, u(0.3, 1.4) - y)),
            )
        hair_cover = soft(mass + (noise(rng, int(rng.integers(6, 40))) - 0.5) * u(0.05, 0.5), u(0.006, 0.05))
        strands = fabric(rng, place, hair=True)
        if rng.random() < 0.8:  # of the person's own colour
            spot = body * ((y + 0.5).abs() < 0.1) * (x.abs() < 0.25)
            own = (front * spot).sum((1, 2)) / spot.sum().clamp(min=1)
            strands = ((strands - strands.mean((1, 2), keepdim=True)) * u(0.3, 1) + own[:, None, None]).clamp(0, 1)
        put(strands, hair_cover)
    put(front, body)
    if clothed:
        opening = below + u(-0.4, 1.2) * (x.abs() - half)  # a neckline, round or like a V
        worn = torch.where(x.abs() < half, opening, shoulders)
        cover = soft(worn * size, u(0.004, 0.02)) * (1 if wide else alpha)
        if hair_cover is not None and over:
            cover = cover * (1 - hair_cover * soft(x.abs() - u(0.1, 0.3), 0.02))
        shade = F.avg_pool2d(front.mean(0)[None, None], 5, 1, 2)[0] * 0.8 + 0.4
        put((cloth * shade).clamp(0, 1) if rng.random() < 0.3 else cloth, cover)
        if rng.random() < 0.6:  # a shirt under a jacket, or a collar
            inner = torch.where(x.abs() < half, below + u(0, 1) * (x.abs() - half), below - u(0, 0.3) * side)
            collar = (
                soft(inner * size, 0.01) * soft((u(0.1, 0.5) * (1 + u(-0.5, 1) * y) - x.abs()) * size, 0.01) * (y > 0.5)
            )
            put(fabric(rng, place), collar * cover if rng.random() < 0.5 else collar * alpha)
    if rng.random() < 0.13:  # a hat
        brow, w = u(-0.42, -0.2), u(0.4, 0.6)
        hat = torch.minimum(w - x.abs() - u(-0.15, 0.3) * (brow - y), y + u(0.65, 1.1))
        hat = torch.minimum(hat, brow - y + u(-0.1, 0.25) * x**2)
        if rng.random() < 0.4:
            hat = torch.maximum(hat, torch.minimum(w * u(1.1, 1.6) - x.abs(), u(0.03, 0.07) - (y - brow).abs()))
        put(fabric(rng, place), soft(hat * size, u(0.004, 0.02)))
    return picture, alpha


def photographed(rng: Rng, x: Tensor) -> Tensor:
    """Change colours, sharpness, noise and compression as cameras do."""
    u = rng.uniform
    x = x * torch.from_numpy(rng.uniform(0.85, 1.15, (3, 1, 1))).float() * u(0.7, 1.25)
    x = ((x - 0.5) * u(0.75, 1.3) + 0.5).clamp(0, 1) ** u(0.75, 1.3)
    if rng.random() < 0.35:
        grey = x.mean(0, keepdim=True)
        x = grey + (x - grey) * u(0, 1.5)
    if rng.random() < 0.35:
        less = int(rng.integers(56, 112))
        x = F.interpolate(F.interpolate(x[None], size=(less, less), mode="area"), size=(SIDE, SIDE), mode="bilinear")[0]
    if rng.random() < 0.5:
        x = x + torch.from_numpy(rng.normal(0, u(0, 0.035), x.shape)).float()
    if rng.random() < 0.3:
        file = io.BytesIO()
        pixels = (x.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(u(40, 95)))
        x = tensor(np.array(Image.open(file)))
    return x.clamp(0, 1)


def edges(alpha: Tensor, radius: int) -> Tensor:
    """Return 1 within radius pixels of the matte's border, else 0; soft where the matte is."""
    return (grown(alpha, radius) - shrunk(alpha, radius)).clamp(0, 1)


def matte_loss(logits: Tensor, alpha: Tensor) -> Tensor:
    found, near = logits.sigmoid(), edges(alpha, 3)
    crossed = F.binary_cross_entropy_with_logits(logits, alpha, reduction="none")
    steep = sum((found.diff(dim=d) - alpha.diff(dim=d)).abs().mean() for d in (2, 3))
    return (crossed * (1 + 2 * near)).mean() + ((found - alpha).abs() * (1 + 4 * near)).mean() + steep


@torch.no_grad()
def measure(network: nn.Module, held: tuple[Tensor, Tensor]) -> dict[str, float]:
    network.eval()
    found, alpha = network(held[0]).float().sigmoid(), held[1]
    network.train()
    both, either = ((found > 0.5) & (alpha > 0.5)).sum(), ((found > 0.5) | (alpha > 0.5)).sum()
    return {"error": round(float((found - alpha).abs().mean()), 4), "agreement": round(float(both / either), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--album", type=Path, default=Path("build/mattes"))
    parser.add_argument("--folder", type=Path, default=Path("build/training"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    files = sorted(file for file in args.album.glob("person-*.npz") if ".part" not in file.name)
    held = People(files[:HELD], np.random.default_rng(1)).batch(np.random.default_rng(2), 96)
    people = People(files[HELD:], np.random.default_rng(3))
    network = MatteNetwork().to(memory_format=torch.channels_last)
    average = deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    args.folder.mkdir(parents=True, exist_ok=True)
    path, steps, seconds = args.folder / "matte.pt", 0, 0.0
    parts = {"network": network, "average": average, "optimizer": optimizer}
    if path.exists():
        state = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        steps, seconds = state["steps"], state["seconds"]
    print(f"{len(people)} pictures, {sum(p.numel() for p in network.parameters())} parameters", flush=True)

    def save() -> None:
        state = {name: part.state_dict() for name, part in parts.items()} | {"steps": steps, "seconds": seconds}
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        print(json.dumps({"step": steps, "minutes": round(seconds / 60, 1), **measure(average, held)}), flush=True)

    rng, losses = np.random.default_rng(steps + 10), []
    last = saved = time.time()
    while seconds < 60 * args.minutes:
        set_rate(optimizer, RATE, steps, seconds / 60 / args.minutes)
        seen, alpha = people.batch(rng, BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(seen.to(memory_format=torch.channels_last))
        loss = matte_loss(logits.float(), alpha)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(network.parameters(), 1)):
            optimizer.step()
        follow(average, network, steps, 0.998)
        steps += 1
        losses.append(float(loss.detach()))
        now = time.time()
        seconds, last = seconds + now - last, now
        if steps % 100 == 0:
            print(
                json.dumps({"step": steps, "minutes": round(seconds / 60, 1), "loss": round(np.mean(losses), 4)}),
                flush=True,
            )
            losses = []
        if now - saved > 180:
            save()
            saved = last = time.time()
    save()


if __name__ == "__main__":
    main()
