#!/opt/talkies/bin/python
"""Animate a drawn picture with a generated clip and check the film: `talkies-selftest` in the image.

Writes only to a temporary folder. Exit code 0 and one line if the image works, 1 and the reason otherwise.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from talkies import __version__, media

FRAMES = 6


def main() -> int:
    """Return the exit code."""
    with tempfile.TemporaryDirectory(prefix="talkies-selftest-") as name:
        folder = Path(name)
        picture, clip, film = folder / "picture.png", folder / "clip.mp4", folder / "film.mp4"
        y, x = np.mgrid[0:128, 0:128] / 128
        Image.fromarray((255 * np.stack([x, y, (x - 0.5) ** 2 + (y - 0.5) ** 2], -1)).astype(np.uint8)).save(picture)
        made = [media.ffmpeg_path(), "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=size=128x128:rate=25"]
        made += ["-f", "lavfi", "-i", "sine=frequency=440", "-t", str(FRAMES / 25), "-pix_fmt", "yuv420p", str(clip)]
        subprocess.run(made, check=True)
        command = [sys.executable, "-m", "talkies", "animate", "--source", str(picture)]
        command += ["--driving", str(clip), "-o", str(film), "--device", "cpu"]
        command += ["--config", "crop=none", "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"self-test failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return 1
        facts = media.probe(film)
        moved = np.stack(list(media.read_frames(facts)))
    if facts.sound is None or len(moved) != FRAMES or not np.ptp(moved.astype(int), axis=0).any():
        print(f"self-test failed: {len(moved)} frames, sound: {facts.sound}", file=sys.stderr)
        return 1
    print(f"talkies {__version__}: the self-test's film has {FRAMES} moving frames and sound")
    return 0


if __name__ == "__main__":
    sys.exit(main())
