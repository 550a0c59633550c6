"""Make films one after another as the page of `talkies app` does, and print each film's seconds and memory.

python benchmarks/app.py [--films 10] [--seconds 4] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
from talkies.app.choices import Choices, Form, Maker
from talkies.app.studio import open_studio


def memory() -> float:
    """Return the memory that this process uses now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--films", type=int, default=10)
    parser.add_argument("--seconds", type=float, help="of the driving video (default: all 4)")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    pictures = sorted((ROOT / "examples/images").iterdir())
    clip = ROOT / "examples/driving/anna.mp4"
    with open_studio(threads=args.threads) as studio:
        print(f"before the first film: {memory():.0f} MB")
        print("| film | picture | seconds | MB after it | files, MB |\n|---|---|---|---|---|")
        for number in range(args.films):
            picture = pictures[number % len(pictures)]
            job = studio.submit(Choices(picture, clip, Maker("face"), Form(end=args.seconds)))
            while job.is_open:
                time.sleep(0.05)
            assert job.state == "done", job.reason
            files = sum(path.stat().st_size for path in studio.folder.rglob("*") if path.is_file()) / 1e6
            print(f"| {number + 1} | {picture.name} | {job.seconds:.1f} | {memory():.0f} | {files:.1f} |", flush=True)


if __name__ == "__main__":
    main()
