"""Make docs/talkies.gif, the moving picture of the README, from the finished examples (`make demo`).

    python scripts/make_readme_film.py [--clip anna] [--images yusuf nora ada cat] [--seconds 3]

The cropped driving video is on the left. Beside it are the talkies of some pictures, all in step.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from talkies import media
from talkies.run.plan import Plan
from talkies.stages import table

SIDE = 144  # pixels of each film in the picture
RATE = Fraction(25, 2)  # frames a second: half of the examples', for a small file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", default="anna")
    parser.add_argument("--images", nargs="+", default=["yusuf", "nora", "ada", "cat"])
    parser.add_argument("--start", type=Fraction, default=Fraction(0))
    parser.add_argument("--seconds", type=Fraction, default=Fraction(3))
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/talkies.gif"))
    chosen = parser.parse_args()
    plan = Plan.load(table)
    films = [plan.driving_file(chosen.clip).path, *(plan.talkie(f"{chosen.clip}/{i}").path for i in chosen.images)]
    segment = {"start": chosen.start, "end": chosen.start + chosen.seconds}
    readers = [media.read_frames(media.probe(film), size=SIDE, rate=RATE, **segment) for film in films]
    frames = [Image.fromarray(np.hstack(row)) for row in zip(*readers, strict=True)]
    # One palette for all frames: separate ones flicker.
    strip = Image.fromarray(np.vstack([np.asarray(frame) for frame in frames[:: max(1, len(frames) // 8)]]))
    palette = strip.quantize(colors=160, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    indexed[0].save(
        chosen.output, save_all=True, append_images=indexed[1:], duration=round(1000 / RATE), loop=0, optimize=True
    )
    print(f"{chosen.output}: {len(frames)} frames, {chosen.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
