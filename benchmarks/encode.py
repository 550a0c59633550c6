"""Time x264's presets on a drawn talkie and, if one is given, a real clip: processor time, size, similarity.

    python benchmarks/encode.py [CLIP] [--frames 250] [--rounds 3] [--presets medium faster veryfast]

The talkie is the bundled network's raw output for one of the examples. Processor seconds are those of ffmpeg alone,
which converts and encodes the film and then counts its frames, with one thread. Presets take turns, and the lowest
time of all rounds counts. SSIM is ffmpeg's, of luma and chroma, against the frames that were given.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from talkies import media
from talkies.engines import Movement
from talkies.fomm.engine import Engine
from talkies.fomm.model.checkpoint import load_model
from talkies.fomm.motion import detect_motion
from talkies.fomm.precision import fast_form
from talkies.media import crop
from talkies.media.ffmpeg import SCALING, ffmpeg_path, file_url
from talkies.media.film import FILM_SIZE

EXAMPLES = Path(__file__).parents[1] / "examples"
RATE = Fraction(25)


def talkie(count: int) -> np.ndarray:
    """Return frames of a drawn talkie, uint8 [count, 256, 256, 3], played to and fro until there are enough."""
    picture = media.read_picture(EXAMPLES / "images/ada.png")
    clip = media.probe(EXAMPLES / "driving/anna.mp4")
    square, _ = crop.crop_picture(picture, crop.parse("face"), name="ada.png")
    cut = crop.find_crop(clip, crop.parse("face"))
    with Engine(fast_form(load_model("demo"), "fp32")) as engine:
        driving = list(media.read_frames(clip, box=cut.box, size=engine.side))[:count]
        motion = detect_motion(engine.model, driving, clip.rate, batch=engine.batch)
        made = np.concatenate(list(engine.predict(engine.prepare("ada", square), motion, Movement())))
    return to_and_fro(made, count)


def real(path: Path, count: int) -> np.ndarray:
    """Return a clip's frames, cropped to the middle square, uint8 [count, 256, 256, 3]."""
    clip = media.probe(path)
    box = crop.find_crop(clip, crop.parse("center")).box
    return to_and_fro(np.stack(list(media.read_frames(clip, box=box, size=FILM_SIZE))[:count]), count)


def to_and_fro(frames: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` frames: these, played forwards and backwards as often as needed."""
    turn = np.concatenate([np.arange(len(frames)), np.arange(len(frames) - 2, 0, -1)])
    return frames[np.resize(turn, count)]


def encode(frames: np.ndarray, path: Path, preset: str, crf: int) -> float:
    """Write a film; return the processor seconds of the ffmpeg processes that wrote and checked it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with media.FrameWriter(path, RATE, preset=preset, crf=crf, threads=1) as film:
        for frame in frames:
            film.write(frame)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ssim(frames: np.ndarray, film: Path) -> float:
    """Return ffmpeg's SSIM of a film against the frames that it was made from."""
    given = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{FILM_SIZE}x{FILM_SIZE}"]
    command = [ffmpeg_path(), "-hide_banner", *given, "-framerate", str(RATE), "-i", "pipe:0", "-i", file_url(film)]
    compare = f"[0]scale=flags={SCALING}:out_color_matrix=bt709:out_range=tv,format=yuv420p[given];[given][1]ssim"
    done = subprocess.run(
        [*command, "-lavfi", compare, "-f", "null", "-"], input=frames.tobytes(), capture_output=True, check=True
    )
    return float(done.stderr.decode().rsplit("All:", 1)[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--frames", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=["medium", "fast", "faster", "veryfast", "superfast"])
    parser.add_argument("--crf", type=int, default=18)
    args = parser.parse_args()
    films = {"drawn": talkie(args.frames), **({args.clip.stem: real(args.clip, args.frames)} if args.clip else {})}
    for name, rgb in films.items():
        seconds: dict[str, list[float]] = {preset: [] for preset in args.presets}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(args.rounds):
                for preset, each in seconds.items():
                    each.append(encode(rgb, Path(folder, f"{preset}.mp4"), preset, args.crf))
            print(
                f"\n| {name}, {args.frames} frames, crf {args.crf} | frames a CPU s | bytes | SSIM |\n|---|---|---|---|"
            )
            for preset, each in seconds.items():
                film = Path(folder, f"{preset}.mp4")
                print(f"| {preset} | {args.frames / min(each):.0f} | {film.stat().st_size} | {ssim(rgb, film):.4f} |")


if __name__ == "__main__":
    main()
