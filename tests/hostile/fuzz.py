"""Damage small real pictures and clips of every supported format by a seed, and run `talkies crop` on each.

    python fuzz.py pictures|clips FIRST STEP COUNT FOLDER

prints a line of JSON before and after each file. test_fuzz.py watches this process and limits it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import resource
import struct
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import clips
import numpy as np
from PIL import Image

from talkies import cli, media
from talkies.media import guarded, pictures

CLIPS = "plain.mp4 fragments.mp4 phone.mp4 turned.mp4 late.mp4 plain.mov plain.mkv plain.webm vorbis.webm plain.avi loop.gif plain.ts plain.wmv plain.flv alpha.webm hevc10.mp4".split()  # noqa: E501, SIM905
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def made_pictures() -> dict[str, bytes]:
    """Return a small picture of every format, and one of each kind of pixels that is decoded differently."""
    pictures._register_heif()
    y, x = np.mgrid[:48, :64]
    rgba = np.stack([x * 4, y * 5, (x * y) % 256, 255 - x * 3], -1).astype(np.uint8)
    rgb = Image.fromarray(rgba[..., :3])
    kinds: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "rgb.png": (rgb, "PNG", {}),
        "rgba.png": (Image.fromarray(rgba), "PNG", {}),
        "palette.png": (rgb.quantize(32), "PNG", {"transparency": 3}),
        "deep.png": (Image.fromarray(rgba[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "moving.png": (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}),
        "a.jpg": (rgb, "JPEG", {"quality": 90}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "lossy.webp": (rgb, "WEBP", {}),
        "lossless.webp": (Image.fromarray(rgba), "WEBP", {"lossless": True}),
        "moving.webp": (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "a.gif": (rgb.quantize(32), "GIF", {"save_all": True, "append_images": [rgb.rotate(90).quantize(32)]}),
        "a.bmp": (rgb, "BMP", {}),
        "plain.tif": (rgb, "TIFF", {}),
        "lzw.tif": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "jpeg.tif": (rgb, "TIFF", {"compression": "jpeg"}),
        "float.tif": (Image.fromarray(rgba[..., 0].astype(np.float32)), "TIFF", {}),
        "a.ppm": (rgb, "PPM", {}),
        "a.jp2": (rgb, "JPEG2000", {}),
        "a.heic": (rgb, "HEIF", {}),
        "a.avif": (rgb, "AVIF", {}),
    }
    files = {}
    for name, (image, kind, options) in kinds.items():
        written = io.BytesIO()
        image.save(written, kind, **options)  # type: ignore[arg-type]
        files[name] = written.getvalue()
    return files


def made_clips() -> dict[str, bytes]:
    """Return a small clip in every container, and one of each kind that is read differently."""
    files = {name: clips.get(name).read_bytes() for name in CLIPS}
    for name, options in {
        "a.mpg": ["-c:v", "mpeg2video", "-c:a", "mp2"],
        "a.ogv": ["-c:v", "libtheora", "-c:a", "libvorbis"],
        "a.3gp": ["-c:v", "mpeg4", "-c:a", "aac"],
        "a.apng": ["-an", "-c:v", "apng", "-f", "apng", "-frames:v", "10"],
    }.items():
        path = clips.folder() / name
        clips.ffmpeg("-i", clips.get("plain.avi"), *options, path)
        files[name] = path.read_bytes()
    return files


@cache
def originals(kind: str) -> dict[str, bytes]:
    return made_pictures() if kind == "pictures" else made_clips()


def damage(data: bytes, random: Random) -> tuple[str, bytes]:
    """Return what was done to a file, and the file. Half of the damage hits the first kilobyte, with the headers."""
    made = bytearray(data)

    def place(room: int = 1) -> int:
        most = max(0, len(made) - room)
        return random.randint(0, min(most, 1024) if random.random() < 0.5 else most)

    def flip() -> None:
        for _ in range(random.choice((1, 1, 2, 5, 20, 200))):
            made[place()] ^= 1 << random.randrange(8)

    def number() -> None:
        for _ in range(random.choice((1, 1, 2, 4))):
            where, value, form = place(4), random.choice(EXTREMES), random.choice("<>")
            made[where : where + 4] = struct.pack(f"{form}I", value)

    def cut() -> None:
        del made[place() :]

    def span() -> slice:
        start = place()
        return slice(start, start + random.choice((1, 4, 16, 100, 1000, 5000)))

    def twice() -> None:
        part = span()
        made[part.start : part.start] = made[part] * random.choice((1, 1, 3, 100))

    def without() -> None:
        del made[span()]

    def zeros() -> None:
        part = span()
        made[part] = bytes(len(made[part]))

    def noise() -> None:
        part = span()
        made[part] = random.randbytes(len(made[part]))

    def elsewhere() -> None:
        part = bytes(made[span()])
        made[place() : place()] = part

    blows: list[Callable[[], None]] = [flip, number, cut, twice, without, zeros, noise, elsewhere]
    chosen = random.choices(blows, [4, 4, 2, 2, 1, 1, 1, 1], k=random.choice((1, 1, 1, 2, 3)))
    for blow in chosen:
        if made:
            blow()
    return "+".join(blow.__name__ for blow in chosen), bytes(made)


def peak() -> float:
    """Return the peak memory of this process, its reader or one of its other children, in GB."""
    reader = guarded.children.queue[-1].process
    # Not this process's ru_maxrss: it includes the peak of the parent process.
    own = [Path(f"/proc/{who}/status").read_text() for who in ("self", reader and reader.pid) if who]
    peaks = [int(status.partition("VmHWM:")[2].split()[0]) for status in own]
    return max(*peaks, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e6


def run(kind: str, seed: int, folder: Path) -> None:
    """Damage one file, crop it with the command, and return the outcome."""
    random = Random(f"{kind} {seed}")
    names = sorted(originals(kind))
    name = names[seed % len(names)]
    what, data = damage(originals(kind)[name], random)
    path = folder / f"{seed}-{name}"
    if kind == "pictures" and path.suffix == ".gif":
        path = path.with_suffix(".png")  # the command takes a .gif for a clip; the content decides how the file is read
    path.write_bytes(data)
    facts = {"seed": seed, "file": path.name, "damage": what}
    print(json.dumps(facts), flush=True)
    said = io.StringIO()
    begun = time.monotonic()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        out = folder / ("out.png" if kind == "pictures" else "out.mp4")
        code = cli.main(["crop", str(path), "-o", str(out), "--mode", "center", "--size", "64"])
    lines = [line for line in said.getvalue().splitlines() if "warning: " not in line]
    facts |= {"code": code, "said": lines, "seconds": time.monotonic() - begun, "memory": peak()}
    print(json.dumps(facts), flush=True)
    path.unlink()
    out.unlink(missing_ok=True)


if __name__ == "__main__":
    chosen, first, step, count, where = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    media.ffmpeg_path()
    logging.raiseExceptions = False
    for each in range(first, count, step):
        run(chosen, each, where)
