"""Time what it costs to decode pictures in a process beside: the same pictures, decoded here and there in turn.

python benchmarks/pictures.py [--pictures 300] [--rounds 3]

Pictures as in check_files.py: JPEGs of 640, 1,200, 2,000 and 3,000 pixels in turn. The process' start counts. Each is
also cropped to its face, as `prepare` does: that is the time of 300 pictures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from check_files import make_pictures

from talkies import crop, picture_decoder, pictures


def here(path: Path) -> np.ndarray:
    """Decode a picture in this process, its pixels through the same shared memory."""
    import mmap
    import os

    with path.open("rb") as file:
        (width, height), shared = picture_decoder.decode(file)
    pixels = mmap.mmap(shared, width * height * 3)
    os.close(shared)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def seconds(files: list[Path], read: Callable[[Path], np.ndarray], *, cropped: bool) -> float:
    begun = time.perf_counter()
    for path in files:
        picture = read(path)
        if cropped:
            crop.crop_picture(picture, "face", name=path)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_pictures(Path(name), args.pictures)
        files = sorted(Path(name).iterdir())
        crop.find_faces(here(files[0]))  # the detector is loaded
        print(f"| {args.pictures} pictures, seconds | in this process | in one beside | more |\n|---|---|---|---|")
        for what, cropped in (("decoded", False), ("decoded and cropped", True)):
            times: dict[str, list[float]] = {"here": [], "there": []}
            for _ in range(args.rounds):
                times["here"].append(seconds(files, here, cropped=cropped))
                pictures._decoder.stop()
                times["there"].append(seconds(files, pictures.read_picture, cropped=cropped))
            inside, beside = (statistics.median(times[which]) for which in ("here", "there"))
            print(f"| {what} | {inside:.2f} | {beside:.2f} | {100 * (beside / inside - 1):+.1f} % |", flush=True)


if __name__ == "__main__":
    main()
