"""Time `talkies check` on hundreds of files made from the examples: the first time, and again with stored results.

python benchmarks/check_files.py [--pictures 300] [--clips 100]

Pictures of 640, 1,200, 2,000 and 3,000 pixels in turn, clips of 4 to 20 seconds and 256, 480, 720 and 1,080 pixels.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from talkies import media

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TALKIES = str(Path(sys.executable).parent / "talkies")


def make_pictures(folder: Path, count: int) -> None:
    """Write JPEGs of the examples in four sizes, no two alike."""
    from PIL import Image, ImageEnhance

    files = sorted(path for path in (EXAMPLES / "images").iterdir() if path.suffix in (".png", ".jpg", ".jpeg"))
    for number in range(count):
        image = Image.open(files[number % len(files)]).convert("RGB")
        side = (640, 1200, 2000, 3000)[number // len(files) % 4]
        image = image.resize((side, round(side * image.height / image.width)))
        brighter = ImageEnhance.Brightness(image).enhance(0.8 + 0.3 * number / count)
        brighter.save(folder / f"picture-{number:04}.jpg", quality=90)


def make_clips(folder: Path, count: int) -> None:
    """Write MP4s of the examples in four sizes, no two alike."""
    files = sorted(path for path in (EXAMPLES / "driving").iterdir() if path.suffix in (".mp4", ".webm", ".mov"))
    for number in range(count):
        side = (256, 480, 720, 1080)[number // len(files) % 4]
        again = str((0, 1, 3)[number % 3])
        source = ["-stream_loop", again, "-i", str(files[number % len(files)])]
        filters = f"scale=-2:{side},eq=brightness={0.1 * number / count}"
        made = ["-vf", filters, "-preset", "veryfast", "-c:a", "aac", str(folder / f"clip-{number:04}.mp4")]
        subprocess.run([media.ffmpeg_path(), "-v", "error", *source, *made], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--clips", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name)
        for folder in ("images", "driving"):
            (run / folder).mkdir()
        (run / "config.yaml").write_text("images: images\ndriving: driving\n")
        make_pictures(run / "images", args.pictures)
        make_clips(run / "driving", args.clips)
        print(f"| {args.pictures} pictures and {args.clips} clips | seconds | CPU s | found |\n|---|---|---|---|")
        for what in ("cold", "again"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begun = time.perf_counter()
            told = subprocess.run([TALKIES, "check"], cwd=run, capture_output=True, text=True, check=True).stdout
            seconds = time.perf_counter() - begun
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found = told.splitlines()[-1].rpartition(": ")[0]
            print(f"| {what} | {seconds:.1f} | {spent:.1f} | {found} |", flush=True)


if __name__ == "__main__":
    main()
