"""Small files that are expensive to read, and damaged ones that look so; each is made on demand."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import clips
from PIL import Image


def scans(path: Path, side: int = 3000, count: int = 8000) -> Path:
    """A progressive JPEG that repeats its last scan thousands of times; each scan walks over all blocks."""
    written = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 150)).save(written, "JPEG", progressive=True, quality=80)
    data = written.getvalue()
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * count + data[-2:])
    return path


def boxes(data: bytes, kind: bytes) -> list[int]:
    """Return where the content of each mp4 box of a kind begins, after version and flags."""
    found = []
    place = data.find(kind)
    while place >= 0:
        found.append(place + 8)
        place = data.find(kind, place + 1)
    return found


def patched(path: Path, kind: bytes, offset: int, value: int) -> Path:
    """A clip with one four-byte number changed in the first box of a kind."""
    data = bytearray(clips.get("plain.mp4").read_bytes())
    place = boxes(bytes(data), kind)[0] + offset
    data[place : place + 4] = struct.pack(">I", value)
    path.write_bytes(data)
    return path


def endless_times(path: Path) -> Path:
    """A clip whose table of times has 4,294,967,295 entries."""
    return patched(path, b"stts", 0, 0xFFFFFFFF)


def no_time_scale(path: Path) -> Path:
    """A clip whose time scale is 0: ffmpeg uses 1 instead, so each of its 60 frames lasts 1,001 seconds."""
    return patched(path, b"mdhd", 8, 0)


def long_gif(path: Path, frames: int = 500_000) -> Path:
    """A GIF of so many frames of a tenth of a second."""
    written = io.BytesIO()
    Image.new("P", (8, 8)).save(written, "GIF")
    data = written.getvalue()
    head, frame = data[: data.index(b",")], data[data.index(b",") : -1]
    path.write_bytes(head + (b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + frame) * frames + b";")
    return path


def zip_bomb(path: Path, name: str, size: int, head: bytes = b"") -> Path:
    """A zip with one record of zeros, which is packed to a thousandth of its size."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as record,
    ):
        record.write(head)
        for _ in range(size // (1 << 20)):
            record.write(bytes(1 << 20))
    return path
