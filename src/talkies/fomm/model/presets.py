"""The networks talkies knows by name: hyper-parameters, side, and the crop each was trained on."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

DEMO_WEIGHTS = Path(__file__).with_name("demo.safetensors")
"""The demo preset's weights, which the package carries."""


@cache
def demo_digest() -> str:
    """Return the digest of the demo preset's weights, which their file's header tells."""
    with DEMO_WEIGHTS.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header["__metadata__"]["weights_digest"]


@dataclass(frozen=True)
class Opening:
    """Two keypoints that come apart and together, as lids do: the moving one does it, the still one goes with the head.

    measure: two keypoints whose distance tells how large this eye or mouth is. A wide-eyed driver's lids move further
    than a narrow-eyed source's can; counted in its own measure, each eye shuts when the driver's does.
    """

    still: int
    moving: int
    measure: tuple[int, int]


@dataclass(frozen=True)
class Preset:
    """A network's hyper-parameters in the shape of the original's yaml, and what its pictures look like.

    size: side of the square it works at, in pixels. crop: how pictures and clips are cut for it when nothing
    else is asked. checkpoint: the published file's usual name, or None where the weights are in the package.
    reach: how far relative motion may carry a head from its place (see `transfer_motion`), or None for any way.
    openings: lids and lips among its keypoints, where these are known. recipe: raised by hand when the same weights
    come to make other films; it goes into their keys.
    """

    name: str
    size: int
    crop: str
    checkpoint: str | None
    parameters: dict[str, Any] = field(compare=False)
    reach: float | None = None
    openings: tuple[Opening, ...] = ()
    recipe: int = 1


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

# Trained here (docs/demo-model.md): few features, no halving of the generator's, so that eyes and lips stay
# sharp at the 128 pixels it looks at, and a keypoint for each lid, lip and pupil, for the crown and the neck.
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


# Of the 19: upper lids and pupils, measured by the eye's height, and the lower lip, by the mouth's width.
_LEFT_EYE, _RIGHT_EYE, _MOUTH = (7, 8), (9, 10), (11, 12)
_DEMO_OPENINGS = (
    Opening(8, 7, _LEFT_EYE),
    Opening(8, 15, _LEFT_EYE),
    Opening(10, 9, _RIGHT_EYE),
    Opening(10, 16, _RIGHT_EYE),
    Opening(13, 14, _MOUTH),
)


def _published(stem: str, crop: str, **detector: Any) -> Preset:
    parameters = deepcopy(_PUBLISHED)
    parameters["kp_detector_params"].update(detector)
    checkpoint = f"{stem}.pth.tar" if stem == "fashion" else f"{stem}-cpk.pth.tar"
    return Preset(f"{stem}-256", 256, crop, checkpoint, parameters)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("demo", 256, "face", None, _DEMO, reach=0.35, openings=_DEMO_OPENINGS, recipe=2),
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
