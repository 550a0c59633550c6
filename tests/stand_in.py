"""A stand-in for another animation program, with the command line of demo.py of the First Order Motion Model.

It mixes the picture into the driving video's frames, rounds the frame rate to a whole number as that program does,
and misbehaves as --do says. Run it by its path: it needs only imageio-ffmpeg.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def mixed(source: str, driving: str, output: str, side: int, rate: int | None, frames: int | None) -> None:
    """Write the film: each frame of the driving video half covered by the picture."""
    shape = f"scale={side}:{side}"
    graph = f"[0:v]{shape}[a];[1:v]{shape}[b];[b][a]blend=all_mode=average:shortest=1,format=yuv420p"
    stated = ["-r", str(rate)] if rate else []
    inputs = ["-loop", "1", "-i", source, "-i", driving]
    if rate:  # all frames of the clip, at a whole rate
        graph += f",setpts=N/{rate}/TB"
        inputs = ["-loop", "1", "-framerate", "30", "-i", source, "-r", "30", "-i", driving]
    count = ["-frames:v", str(frames)] if frames else []
    tail = ["-filter_complex", graph, *stated, *count, "-an", "-y", output]
    subprocess.run([FFMPEG, "-v", "error", "-nostdin", *inputs, *tail], check=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source_image")
    parser.add_argument("--driving_video")
    parser.add_argument("--result_video")
    parser.add_argument("--jobs")
    parser.add_argument("--relative", action="store_true")
    parser.add_argument("--adapt_scale", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rate", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--rest", type=float, default=0, help="seconds to wait after each film")
    parser.add_argument("--do", default="")
    parser.add_argument("--child", help="leave a child that sleeps for so many seconds")
    parser.add_argument("--calm", default="", help="a file in whose presence it behaves")
    parser.add_argument("--told", help="a file that each start adds a line to")
    args = parser.parse_args()
    if Path(args.calm or "/nowhere").exists():
        args.do = ""
    films = len(Path(args.jobs).read_text().splitlines()) if args.jobs else 1
    if args.told:
        with Path(args.told).open("a") as told:
            seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "APPTAINER_CONTAINER", "HOME")}
            facts = {"pid": os.getpid(), "argv": sys.argv[1:], "films": films, "folder": str(Path.cwd()), "seen": seen}
            told.write(json.dumps(facts) + "\n")
    print("100%|######| loading\rmodel loaded", flush=True)
    if args.child:
        subprocess.Popen(["sleep", args.child])
    if "hang" in args.do:
        time.sleep(3600)
    if "kill" in args.do:
        os.kill(os.getpid(), signal.SIGKILL)
    if "crash" in args.do:
        print("ValueError: this picture\x1b[31m is too \xe9 for me", file=sys.stderr)
        return 3
    if "memory" in args.do:
        print("torch.cuda.OutOfMemoryError: CUDA out of memory.", file=sys.stderr)
        return 1
    if "nothing" in args.do:
        return 0
    if args.jobs:
        for line in Path(args.jobs).read_text().splitlines():
            job = json.loads(line)
            mixed(job["source"], job["driving"], job["output"], args.side, args.rate, args.frames)
            time.sleep(args.rest)
            if "stop" in args.do:
                time.sleep(12)
                os.kill(os.getpid(), signal.SIGKILL)
        return 0
    film = Path(args.result_video)
    mixed(args.source_image, args.driving_video, str(film), args.side, args.rate, args.frames)
    time.sleep(args.rest)
    if "half" in args.do:
        film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    if "link" in args.do:
        film.rename(film.parents[1] / "elsewhere.mp4")
        film.symlink_to(film.parents[1] / "elsewhere.mp4")
    if "files" in args.do:
        Path("left.txt").write_text("left")
        (Path.home() / "cache").write_text("left")
        Path(args.driving_video).with_suffix(".pkl").write_text("left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
