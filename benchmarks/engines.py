"""Compare the films of a run's engines with those of one of them: frames, rate, sound, and PSNR.

    python benchmarks/engines.py RUN_FOLDER [--to fomm]

Each film must have the frames and the rate of its clip's segment, and its sound: the correlation with the clip's own
sound is printed. The PSNR (dB, over all frames) is that of the finished films, so it includes every encoder on the way.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from talkies import media, stages
from talkies.run.planner import current_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", default="fomm", metavar="ENGINE", help="the engine to compare with (fomm)")
    chosen = parser.parse_args()
    os.chdir(chosen.run)
    plan, state = current_plan(stages.table)
    films = {name: plan.talkie(name).path for name in state.done}
    print(f"{'film':40} {'frames':>10} {'rate':>12} {'sound':>7} {'PSNR':>7}")
    for name, path in films.items():
        pair, film = plan.pairs[name], media.probe(path)
        take = plan.takes[pair.take]
        clip = media.probe(Path(take.file))
        base = films.get(name.replace(f"@{pair.engine}", f"@{chosen.to}"))
        like = psnr(path, base) if base and base != path else float("nan")
        start = Fraction(take.start) if take.start else None
        alike = correlation(sound(film, None, film.duration), sound(clip, start, film.duration))
        print(f"{name:40} {film.frames:>4} of {take.frames:<3} {film.rate!s:>12} {alike:7.3f} {like:7.1f}")
        assert (film.frames, film.rate) == (take.frames, clip.rate), f"{name}: not its clip's frames and rate"


def psnr(path: Path, base: Path) -> float:
    """Return the PSNR of two films, in dB."""
    frames = [np.stack(list(media.read_frames(media.probe(each)))).astype(float) for each in (path, base)]
    return float(10 * np.log10(255**2 / np.mean((frames[0] - frames[1]) ** 2)))


def sound(film: media.Clip, start: Fraction | None, duration: Fraction) -> NDArray[np.int16]:
    """Return the samples of a clip's sound, 16,000 a second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        media.write_wav(film, path, start=start, duration=duration)
        with wave.open(str(path)) as opened:
            return np.frombuffer(opened.readframes(opened.getnframes()), np.int16)


def correlation(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    """Return the correlation of two sounds: 1 for equal ones."""
    length = min(len(one), len(other))
    return float(np.corrcoef(one[:length], other[:length])[0, 1])


if __name__ == "__main__":
    main()
