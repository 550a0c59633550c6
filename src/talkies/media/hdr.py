"""Maps high dynamic range (PQ and HLG, ITU-R BT.2100) to the range of our films.

Light is that of BT.2408: a white paper has 203 cd/m², an HLG display reaches 1000. What is up to nine tenths as bright
as the paper stays as it is; brighter light is compressed by the Möbius curve of ffmpeg's tonemap, so that highlights
keep some drawing. The result is for a display of BT.1886 (gamma 2.4) with the primaries of BT.709.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .pictures import Frame

TRANSFERS = {16: "PQ", 18: "HLG"}  # the transfer functions' numbers in ITU-T H.273
WHITE, DISPLAY = 203, 1000  # cd/m²
KNEE, PEAK = 0.9, DISPLAY / WHITE  # of white
GAMMA = 2.4


def filters(transfer: str) -> str:
    """Return ffmpeg's filters from RGB of 16 bits with this transfer function to RGB of 8 bits."""
    name = {"PQ": "smpte2084", "HLG": "arib-std-b67"}[transfer]
    return (
        f"zscale=tin={name}:pin=bt2020:p=bt2020:t=linear:npl={WHITE}:agamma=0,format=gbrpf32le,zscale=p=bt709,"
        f"tonemap=mobius:param={KNEE}:peak={PEAK:.4f}:desat=0,zscale=t=bt709:agamma=0,format=rgb24"
    )


def to_sdr(pixels: Frame, transfer: str) -> Frame:
    """Return a picture, uint8 [H,W,3] with this transfer function and BT.2020's primaries, as `filters` do."""
    import numpy as np

    steps = np.linspace(0, 1, 256, dtype=np.float32)
    light = (_pq_light(steps) if transfer == "PQ" else _hlg_light(steps))[pixels]
    if transfer == "HLG":  # the display's own gamma, by the luminance of the scene
        light *= (light @ np.array([0.2627, 0.6780, 0.0593], np.float32))[..., None] ** 0.2 * np.float32(PEAK)
    to_bt709 = np.array(
        [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
    )
    light = np.clip(light @ to_bt709.T, 0, PEAK)
    light *= _mobius(brightest := np.maximum(light.max(-1, keepdims=True), 1e-6)) / brightest
    shown: Frame = np.rint(255 * np.clip(light, 0, 1) ** (1 / GAMMA)).astype(np.uint8)
    return shown


def _pq_light(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return light, 1 for WHITE (BT.2100, table 4)."""
    import numpy as np

    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return np.asarray((np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10_000 / WHITE, np.float32)


def _hlg_light(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return light of the scene, 1 for the brightest (BT.2100, table 5)."""
    import numpy as np

    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.asarray(np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12), np.float32)


def _mobius(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return light as it is up to KNEE, and up to PEAK compressed to 1."""
    import numpy as np

    a = -(KNEE**2) * (PEAK - 1) / (KNEE**2 - 2 * KNEE + PEAK)
    b = (KNEE**2 - 2 * KNEE * PEAK + PEAK) / (PEAK - 1)
    bent = (b * b + 2 * b * KNEE + KNEE * KNEE) / (b - a) * (light + a) / (light + b)
    return np.asarray(np.where(light <= KNEE, light, bent), np.float32)
