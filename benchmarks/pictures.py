"""Time the cost of decoding pictures in a second process: the same pictures are decoded in each process in turn.

python benchmarks/pictures.py [--pictures 300] [--rounds 3]

Pictures are as in check_files.py: JPEGs of 640, 1,200, 2,000 and 3,000 pixels in turn. The start of the process counts.
The second measure also crops each picture to its face, as `prepare` does.
"""

from __future__ import annotations

import argparse
import logging
import mmap
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from check_files import make_pictures

from talkies.media import crop, guarded, pictures

pictures.allow = lambda seconds: None  # never let it end this process
logging.getLogger("talkies").setLevel(logging.ERROR)


def here(path: Path) -> np.ndarray:
    """Decode a picture in this process, and pass its pixels through the same shared memory."""
    with path.open("rb") as file:
        told, shared = pictures.read(file)
    width, height = told["size"]
    pixels = mmap.mmap(shared, width * height * 3)
    os.close(shared)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def measure(files: list[Path], read: Callable[[Path], np.ndarray], *, cropped: bool) -> tuple[float, float]:
    """Return the seconds of wall time, and of processor time in both processes."""
    begun, before = time.perf_counter(), processor_time()
    for path in files:
        picture = read(path)
        if cropped:
            crop.crop_picture(picture, crop.LARGEST_FACE, name=path)
    took = time.perf_counter() - begun
    for child in guarded.children.queue:
        child.stop()  # its processor time is known only after its end
    return took, processor_time() - before


def processor_time() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_pictures(Path(name), args.pictures)
        files = sorted(Path(name).iterdir())
        crop.find_faces(here(files[0]))  # load the detector before timing
        print(f"| {args.pictures} pictures | in this process | in one beside | more |\n|---|---|---|---|")
        for what, cropped in (("decoded", False), ("decoded and cropped", True)):
            times: list[tuple[tuple[float, float], tuple[float, float]]] = []
            for _ in range(args.rounds):
                inside = measure(files, here, cropped=cropped)
                times.append((inside, measure(files, pictures.read_picture, cropped=cropped)))
            for number, unit in enumerate(("s", "processor s")):
                here_, there = (statistics.median(pair[side][number] for pair in times) for side in (0, 1))
                print(
                    f"| {what}, {unit} | {here_:.2f} | {there:.2f} | {100 * (there / here_ - 1):+.1f} % |", flush=True
                )


if __name__ == "__main__":
    main()
