"""Maps high dynamic range (PQ and HLG, ITU-R BT.2100) to the range of our films.

Light is that of BT.2408: a white paper has 203 cd/m², an HLG display reaches 1000. What is up to nine tenths as bright
as the paper stays as it is; brighter light is compressed by the Möbius curve of ffmpeg's tonemap, so that highlights
keep some drawing. The result is for a display of BT.1886 (gamma 2.4) with the primaries of BT.709.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from .ffmpeg import ffmpeg_path

if TYPE_CHECKING:
    from .pictures import Frame

TRANSFERS = {16: "PQ", 18: "HLG"}  # the transfer functions' numbers in ITU-T H.273
WHITE, DISPLAY = 203, 1000  # cd/m²
KNEE, PEAK = 0.9, DISPLAY / WHITE  # of white
BAND_PIXELS = 4_000_000  # mapped at once: its light takes 12 bytes a pixel


def filters(transfer: str) -> str:
    """Return ffmpeg's filters from RGB of 16 bits with this transfer function to RGB of 8 bits."""
    name = {"PQ": "smpte2084", "HLG": "arib-std-b67"}[transfer]
    return (
        f"zscale=tin={name}:pin=bt2020:p=bt2020:t=linear:npl={WHITE}:agamma=0,format=gbrpf32le,zscale=p=bt709,"
        f"tonemap=mobius:param={KNEE}:peak={PEAK:.4f}:desat=0,zscale=t=bt709:agamma=0,format=rgb24"
    )


def map_picture(picture: Frame, transfer: str) -> None:
    """Map a picture, uint8 [H,W,3] with this transfer function and BT.2020's primaries, in its place."""
    import numpy as np

    width = picture.shape[1]
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, len(picture), rows):
        band = picture[top : top + rows]
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
        command = [ffmpeg_path(), "-v", "error", *raw, "-s", f"{width}x{len(band)}", "-i", "pipe:0"]
        command += ["-vf", f"format=gbrp16le,{filters(transfer)}", *raw, "pipe:1"]
        mapped = subprocess.run(command, input=band.tobytes(), stdout=subprocess.PIPE, check=True).stdout
        band[:] = np.frombuffer(mapped, np.uint8).reshape(band.shape)
