"""The GPU's encoder is used only where it opens. Here a stand-in for ffmpeg encodes instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from talkies.media.ffmpeg import ffmpeg_path

WRITTEN = """
import sys
from fractions import Fraction
import numpy as np
from talkies import media
frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
with media.FrameWriter(sys.argv[1], Fraction(25), encoder="nvenc", preset="ultrafast", crf=30) as film:
    for frame in frames:
        film.write(frame)
print(media.probe(sys.argv[1]).frames, film.encoding._asdict())
"""


@pytest.mark.parametrize("has_one", [True, False])
def test_nvenc_is_taken_where_it_opens(tmp_path: Path, has_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in logs its arguments and encodes with x264 instead of nvenc, or fails like an ffmpeg without a GPU."""
    asked = tmp_path / "asked"
    stand_in = tmp_path / "ffmpeg"
    stand_in.write_text(
        f"""#!{sys.executable}
import os, sys
arguments, real = sys.argv[1:], {ffmpeg_path()!r}
with open({str(asked)!r}, "a") as file:
    file.write(" ".join(arguments) + "\\n")
if {has_one} and "h264_nvenc" in arguments:
    at = arguments.index("h264_nvenc")
    tail = arguments[at + 1:]
    for option in ("-preset", "-rc", "-cq", "-b:v"):
        if option in tail:
            place = tail.index(option)
            del tail[place : place + 2]
    arguments = [*arguments[:at], "libx264", *tail]
os.execv(real, [real, *arguments])
"""
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(stand_in))
    done = subprocess.run([sys.executable, "-c", WRITTEN, tmp_path / "a.mp4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = "'preset': 'p5', 'encoder': 'nvenc'" if has_one else "'preset': 'ultrafast', 'encoder': 'x264'"
    assert done.stdout.strip() == f"4 {{'crf': 30, {wanted}}}"
    (written,) = (line for line in asked.read_text().splitlines() if "rawvideo" in line)
    assert ("-c:v h264_nvenc -preset p5 -rc vbr -cq 30 -b:v 0" in written) == has_one
