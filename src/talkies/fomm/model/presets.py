"""The presets: hyper-parameters, side and crop of the networks with a name."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

DEMO_WEIGHTS = Path(__file__).with_name("demo.safetensors")
"""The demo presets' weights in the package: a network for drawings, and one for photographs."""


@cache
def demo_digest() -> str:
    """Return the digest of the demo preset's weights from their file's header."""
    with DEMO_WEIGHTS.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header["__metadata__"]["weights_digest"]


@dataclass(frozen=True)
class Opening:
    """Two keypoints that open and close, like lids: one moves, and the still one follows the head.

    measure: two keypoints whose distance is the size of this eye or mouth. The lids of a wide-eyed driver move
    further than those of a narrow-eyed source can; with the change scaled by this measure, each eye shuts when the
    driver's does, and no further. gain: how much further than detected it moves; in an eye, how much further it shuts.
    limit: how far a mouth opens at most, in its measure, which runs from left to right; this is approached, never
    reached: a driver's laugh and a picture's smile together would tear it. carried: keypoints that this holds back too.
    """

    still: int
    moving: int
    measure: tuple[int, int]
    gain: float = 1.0
    limit: float | None = None
    carried: tuple[int, ...] = ()


@dataclass(frozen=True)
class FaceParts:
    """Which keypoints are parts of a face.

    cheeks: left and right in the picture. lids, lips: the upper, the lower. pupils: in the order of lids. jaw: what
    moves with the lower lip.
    """

    forehead: int
    chin: int
    nose: int
    cheeks: tuple[int, int]
    lids: tuple[tuple[int, int], tuple[int, int]]
    pupils: tuple[int, int]
    lips: tuple[int, int]
    jaw: tuple[int, ...]


@dataclass(frozen=True)
class Preset:
    """A network's hyper-parameters, like the original's yaml, and facts about its pictures.

    size: side of its square, in pixels. crop: the default crop of pictures and clips. checkpoint: the published
    file's usual name, or None if the weights are in the package. packaged: its part of the weights in the package,
    "all" or one of the two networks; None: none. photographs: the preset of a second network for photographs, or
    None. reach: how far relative motion may carry a head from its place (see `transfer_motion`), or None for no
    limit. openings: lids and lips among its keypoints, if known. parts: which keypoints are which parts of a face, or
    None if not known. mirror: the index of each keypoint in a mirrored picture, if keypoints are the mean over several
    views, or None. eye_reader: whether lids and pupils are read again at the full side (eye_reader.py).
    close_ups: whether mouth and eyes are made again (close_ups.py). layers: whether
    persons move in front of a still background (plate.py). recipe: raised by hand when the
    same weights make other films; part of their content keys.
    """

    name: str
    size: int
    crop: str
    checkpoint: str | None
    parameters: dict[str, Any] = field(compare=False)
    packaged: Literal["all", "drawings", "photographs"] | None = None
    photographs: Preset | None = None
    reach: float | None = None
    openings: tuple[Opening, ...] = ()
    parts: FaceParts | None = None
    mirror: tuple[int, ...] | None = None
    eye_reader: bool = False
    close_ups: bool = False
    layers: bool = False
    recipe: int = 1

    @property
    def knows(self) -> str | None:
        """The faces it was trained on, "drawings" or "photographs"; None: both, or not faces."""
        if self.packaged:
            return None if self.packaged == "all" else self.packaged
        return "photographs" if self.crop == "face" else None


_PUBLISHED: dict[str, Any] = {
    "common_params": {"num_kp": 10, "num_channels": 3, "estimate_jacobian": True},
    "kp_detector_params": {
        "temperature": 0.1,
        "block_expansion": 32,
        "max_features": 1024,
        "scale_factor": 0.25,
        "num_blocks": 5,
    },
    "generator_params": {
        "block_expansion": 64,
        "max_features": 512,
        "num_down_blocks": 2,
        "num_bottleneck_blocks": 6,
        "estimate_occlusion_map": True,
        "dense_motion_params": {
            "block_expansion": 64,
            "max_features": 1024,
            "num_blocks": 5,
            "scale_factor": 0.25,
        },
    },
}

# Trained here (docs/demo-model.md): few features, no downsampling in the generator, so that eyes and lips stay sharp
# at its 128 pixels, and a keypoint for each lid, lip and pupil, for the crown and the neck.
_DEMO: dict[str, Any] = {
    "common_params": {"num_kp": 19, "num_channels": 3, "estimate_jacobian": True, "reduction": 2},
    "kp_detector_params": {
        "temperature": 0.1,
        "block_expansion": 16,
        "max_features": 128,
        "scale_factor": 0.5,
        "num_blocks": 4,
        "single_jacobian_map": True,
        "pad": 3,
    },
    "generator_params": {
        "block_expansion": 24,
        "max_features": 64,
        "num_down_blocks": 0,
        "num_bottleneck_blocks": 3,
        "estimate_occlusion_map": True,
        "keep_visible": True,
        "dense_motion_params": {
            "block_expansion": 16,
            "max_features": 128,
            "num_blocks": 4,
            "scale_factor": 0.5,
            "centred_grid": True,
        },
    },
}


# Rendered heads and photographs vary more than drawings, so the detector has twice the features.
_PHOTOGRAPHS = deepcopy(_DEMO)
_PHOTOGRAPHS["kp_detector_params"] |= {"block_expansion": 32, "max_features": 256}

# Of the 19: upper lids and pupils, measured by the eye's height, and the lower lip, by the mouth's width.
_LEFT_EYE, _RIGHT_EYE, _MOUTH = (7, 8), (9, 10), (11, 12)
_DEMO_OPENINGS = (
    Opening(8, 7, _LEFT_EYE),
    Opening(8, 15, _LEFT_EYE),
    Opening(10, 9, _RIGHT_EYE),
    Opening(10, 16, _RIGHT_EYE),
    Opening(13, 14, _MOUTH),
)


_DEMO_PARTS = FaceParts(
    forehead=3, chin=0, nose=4, cheeks=(1, 2), lids=(_LEFT_EYE, _RIGHT_EYE), pupils=(15, 16), lips=(13, 14),
    jaw=(0, 11, 12),
)  # fmt: skip
_DEMO_MIRROR = (0, 2, 1, 3, 4, 6, 5, 9, 10, 7, 8, 12, 11, 13, 14, 16, 15, 17, 18)


# The network for photographs underestimates the motion of lids and lips, most of all in small or blurred videos.
_PHOTOGRAPHS_OPENINGS = (
    Opening(8, 7, _LEFT_EYE, gain=1.75),
    Opening(8, 15, _LEFT_EYE),
    Opening(10, 9, _RIGHT_EYE, gain=1.75),
    Opening(10, 16, _RIGHT_EYE),
    Opening(13, 14, _MOUTH, gain=1.25, limit=0.85, carried=(0,)),
)


BETTER = (
    "the package's network is small; published weights make better films of photographs: "
    "talkies checkpoint fetch vox-adv-256, then {}"
)
"""What to do about films of the package's networks. {}: how the weights are then named."""


def frame_bytes(side: int, itemsize: int) -> int:
    """Return the bytes of memory for a frame in a network of this side and number size.

    The largest tensors have 64 channels at the full side; about eight of them exist at a time.
    """
    return 8 * 64 * side * side * itemsize


def _demo(name: str, parameters: dict[str, Any], packaged: Any, **more: Any) -> Preset:
    usual: dict[str, Any] = {"reach": 0.35, "openings": _DEMO_OPENINGS, "parts": _DEMO_PARTS, "recipe": 6}
    return Preset(name, 256, "face", None, parameters, packaged, **(usual | more))


_ONLY_PHOTOGRAPHS = _demo(
    "demo-photographs",
    _PHOTOGRAPHS,
    "photographs",
    mirror=_DEMO_MIRROR,
    openings=_PHOTOGRAPHS_OPENINGS,
    eye_reader=True,
    close_ups=True,
    layers=True,
)


def _published(stem: str, crop: str, **detector: Any) -> Preset:
    parameters = deepcopy(_PUBLISHED)
    parameters["kp_detector_params"].update(detector)
    checkpoint = f"{stem}.pth.tar" if stem == "fashion" else f"{stem}-cpk.pth.tar"
    return Preset(f"{stem}-256", 256, crop, checkpoint, parameters)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _demo("demo", _DEMO, "all", photographs=_ONLY_PHOTOGRAPHS),
        _demo("demo-drawings", _DEMO, "drawings"),
        _ONLY_PHOTOGRAPHS,
        _published("vox", "face"),
        _published("vox-adv", "face"),
        _published("taichi", "center"),
        _published("taichi-adv", "center"),
        _published("fashion", "center"),
        _published("mgif", "center", single_jacobian_map=True),
        _published("nemo", "face"),
        _published("bair", "center"),
    )
}
