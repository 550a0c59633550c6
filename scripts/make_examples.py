"""Make the example pictures and clips: drawn portraits, rendered people, and clips of drawn performers who speak.

    python scripts/make_examples.py [--astronaut scikit_image-*.whl] [--assets FOLDER]

writes examples/images, examples/driving and tests/data/driving_truth.json (what the performers did in every frame).
Every run writes the same pixels. The astronaut (NASA, public domain) comes from a scikit-image wheel (`pip download
scikit-image --no-deps`). The rendered people do not exist; they need the renderer's assets (docs/demo-model.md).
Without --astronaut or --assets, these pictures stay unchanged.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "training"))
from portraits import EYES_AT_REST, Portrait, Pose, sample_identity

IMAGES, DRIVING = ROOT / "examples/images", ROOT / "examples/driving"
TRUTH = ROOT / "tests/data/driving_truth.json"

# Seeds from two million on are only for the examples; training and evaluation never use them.
SEED = 2_000_000
SOUND_RATE = 48_000
PICTURE = 512  # side of the pictures
FRAME = 256  # side of the clips

# file -> seed, kind, style, pose
PICTURES = {
    "ada.png": (SEED + 1, "human", "shaded", Pose(scale=1.02, smile=0.2)),
    "bruno.jpg": (SEED + 6, "human", "painterly", Pose(yaw=6, smile=0.1)),
    "cat.png": (SEED + 3, "cat", "flat", Pose(roll=-4, smile=0.3)),  # drawn without a background, alpha kept
    "moon.png": (SEED + 4, "moon", "shaded", Pose(smile=0.3)),
    "pencil.png": (SEED + 5, "human", "pencil", Pose(yaw=-5, pitch=2)),
}
WITH_ALPHA = {"cat.png"}
# Rendered people: file -> seed, pose
PEOPLE = {
    "nora.jpg": (SEED + 117, Pose(yaw=-6, scale=0.95, smile=0.3)),
    "yusuf.jpg": (SEED + 122, Pose(yaw=5, roll=2, scale=0.95, smile=0.35)),
}

# file -> seed, style, rate, seconds, pitch of the voice in Hz, shift of the dance in seconds
PERFORMERS = {
    "anna.mp4": (SEED + 11, "shaded", Fraction(25), 4.0, 205.0, 0.0),
    "otto.mp4": (SEED + 13, "flat", Fraction(30000, 1001), 3.6, 118.0, 1.3),
}


def ease(t: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return 0 before ``start``, 1 after ``end``, and a smooth step between."""
    x = np.clip((t - start) / (end - start), 0, 1)
    return x * x * (3 - 2 * x)


def bump(t: np.ndarray, centre: float, half: float) -> np.ndarray:
    """Return a smooth bump of height 1 around ``centre``, ``half`` seconds wide on each side."""
    return np.cos(np.clip((t - centre) / half, -1, 1) * np.pi / 2) ** 2


def perform(t: np.ndarray, seconds: float, shift: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the performer's motion at the times ``t`` (seconds): a curve for each field of Pose.

    The clip starts still, looking straight ahead with the mouth shut, since relative motion is measured from there. It
    ends near that pose.
    """
    awake = ease(t, 0.15, 0.7) * (1 - ease(t, seconds - 0.45, seconds - 0.05))
    w = 2 * np.pi * (t + shift)
    syllables = np.zeros_like(t)
    at = 0.35
    while at < seconds - 0.5:
        long = float(rng.uniform(0.09, 0.17))
        syllables = np.maximum(syllables, float(rng.uniform(0.45, 1.0)) * bump(t, at, long))
        at += float(rng.uniform(0.19, 0.3)) + (0.3 if rng.random() < 0.15 else 0.0)
    blink = np.zeros_like(t)
    for k in np.arange(0.9, seconds - 0.2, 1.15):
        blink = np.maximum(blink, bump(t, k + 0.2 * float(rng.uniform(-1, 1)), 0.17))
    eyes = EYES_AT_REST * (1 - np.clip(1.25 * blink, 0, 1))
    return {
        "shift_x": 0.025 * awake * np.sin(w / 2.9),
        "shift_y": 0.015 * awake * np.sin(w / 1.7),
        "scale": 1 + 0.04 * awake * np.sin(w / 3.1),
        "yaw": 22 * awake * np.sin(w / 2.3),
        "pitch": 9 * awake * np.sin(w / 1.45),
        "roll": 9 * awake * np.sin(w / 2.7 + 1),
        "mouth": syllables,
        "smile": 0.5 * awake * (0.5 + 0.5 * np.sin(w / 2.1)),
        "eye_left": eyes,
        "eye_right": eyes,
        "gaze_x": 0.6 * awake * np.sin(w / 1.9),
        "gaze_y": np.zeros_like(t),
        "brow": 0.9 * awake * np.sin(w / 1.6),
    }


def speak(seconds: float, mouth: np.ndarray, rate: Fraction, voice: float, rng: np.random.Generator) -> np.ndarray:
    """Return speech-like sound, int16 [samples]: harmonics of a gliding voice through two moving formants.

    Loudness and the first formant follow ``mouth`` (one value a frame).
    """
    t = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
    frame_times = (np.arange(len(mouth)) + 0.5) / float(rate)
    opening = np.interp(t, frame_times, mouth)
    glide = voice * (1 + 0.12 * np.sin(2 * np.pi * t / 1.7) + 0.03 * np.sin(2 * np.pi * 5.1 * t))
    phase = 2 * np.pi * np.cumsum(glide) / SOUND_RATE
    first = 350 + 450 * opening
    second = 1300 + 700 * np.sin(2 * np.pi * t / 0.83 + rng.uniform(0, 6))
    sound = np.zeros_like(t)
    for k in range(1, 30):
        f = k * glide
        formants = sum(
            g / (1 + ((f - c) / b) ** 2) for g, c, b in ((1, first, 90), (0.6, second, 130), (0.2, 2800, 250))
        )
        sound += np.sin(k * phase + rng.uniform(0, 6)) * formants / k**0.35 * (f < SOUND_RATE / 2.5)
    sound *= opening**1.2
    return (sound / np.abs(sound).max() * 0.7 * 32767).astype(np.int16)


def write_clip(path: Path, frames: list[np.ndarray], rate: Fraction, sound: np.ndarray) -> None:
    """Write H.264 and AAC in mp4, with one thread and no version stamps, so that every run writes the same bytes."""
    raw_sound = path.with_suffix(".pcm")
    raw_sound.write_bytes(sound.tobytes())
    side = frames[0].shape[0]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{side}x{side}", "-r", str(rate), "-i", "-",
        "-f", "s16le", "-ar", str(SOUND_RATE), "-ac", "1", "-i", str(raw_sound),
        "-c:v", "libx264", "-preset", "slow", "-crf", "20", "-pix_fmt", "yuv420p", "-threads", "1",
        "-c:a", "aac", "-b:a", "96k", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact",
        "-map_metadata", "-1", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    try:
        subprocess.run(command, input=b"".join(f.tobytes() for f in frames), check=True)
    finally:
        raw_sound.unlink()


def make_pictures() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, (seed, kind, style, pose) in PICTURES.items():
        portrait = Portrait(sample_identity(seed, kind, style), PICTURE)
        picture, _ = portrait.draw(pose)
        image = Image.fromarray(picture)
        if name in WITH_ALPHA:
            image.putalpha(Image.fromarray(portrait.mask(pose)))
        path = IMAGES / name
        if path.suffix == ".jpg":
            image.save(path, quality=92)
        else:
            image.save(path, optimize=True)


def make_people(assets: Path) -> None:
    from heads import Posture, sample_head

    for name, (seed, pose) in PEOPLE.items():
        picture = sample_head(seed, assets, PICTURE).render(Posture(pose)).picture
        Image.fromarray(picture).save(IMAGES / name, quality=92)


def make_clips() -> None:
    DRIVING.mkdir(parents=True, exist_ok=True)
    truth = {}
    for name, (seed, style, rate, seconds, voice, shift) in PERFORMERS.items():
        rng = np.random.default_rng(seed)
        count = round(seconds * rate)
        t = np.arange(count) / float(rate)
        acts = perform(t, seconds, shift, rng)
        poses = [Pose(**{k: float(v[n]) for k, v in acts.items()}) for n in range(count)]
        portrait = Portrait(sample_identity(seed, "human", style), FRAME)
        frames = [portrait.draw(pose)[0] for pose in poses]
        sound = speak(count / float(rate), acts["mouth"], rate, voice, rng)
        write_clip(DRIVING / name, frames, rate, sound)
        curves = {k: [round(asdict(p)[k], 4) for p in poses] for k in acts}
        truth[name] = {"rate": str(rate), "frames": count, **curves}
    TRUTH.parent.mkdir(parents=True, exist_ok=True)
    TRUTH.write_text(json.dumps(truth, separators=(",", ":")) + "\n")


def make_astronaut(wheel: Path) -> None:
    """Write the top of scikit-image's astronaut at 320x320: small, and the face fills a third of the width."""
    with zipfile.ZipFile(wheel) as archive:
        image = Image.open(io.BytesIO(archive.read("skimage/data/astronaut.png"))).convert("RGB")
    image.crop((64, 0, 384, 320)).save(IMAGES / "astronaut.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--astronaut", type=Path, help="a scikit-image wheel to take the astronaut from")
    parser.add_argument("--assets", type=Path, help="the folder of skins and hair that people are rendered from")
    args = parser.parse_args()
    make_pictures()
    if args.assets:
        make_people(args.assets)
    make_clips()
    if args.astronaut:
        make_astronaut(args.astronaut)


if __name__ == "__main__":
    main()
