"""Time the reading of a pairs table: its lines are read, checked and turned into pairs; a million by default.

python benchmarks/pairs_table.py --lines 1000000
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from talkies.run.pairs import list_pairs
from talkies.settings import complete, read_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    lines = parser.parse_args().lines
    images = {f"p{number}": Path(f"images/p{number}.png") for number in range(1000)}
    clips = {f"v{number}": Path(f"driving/v{number}.mp4") for number in range(-(-lines // 1000))}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "pairs.tsv")
        with table.open("w") as file:
            file.write("image\tdriving\tvariant\tstart\tend\tcrop\taudio\n")
            for number in range(lines):
                where = f"p{number % 1000}.png\tv{number // 1000}.mp4"
                file.write(f"{where}\t\t{number % 7}.5\t\t{'face' if number % 2 else '0,0,64,64'}\ttrue\n")
        began, worked = time.perf_counter(), time.process_time()
        count = sum(1 for _ in read_pairs(table))
        read = f"{time.perf_counter() - began:.1f} s ({time.process_time() - worked:.1f} of the processor's)"
        began, worked = time.perf_counter(), time.process_time()
        pairs = list_pairs(complete({"pairs": str(table)}), images, clips)
        made = f"{time.perf_counter() - began:.1f} s ({time.process_time() - worked:.1f})"
    assert len(pairs) == count == lines
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{lines:,} lines: read and checked in {read}; as pairs in {made}; {memory:.2f} GB at most")


if __name__ == "__main__":
    main()
