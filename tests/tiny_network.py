"""A complete but tiny First Order Motion Model: 64 pixels, few features, seeded weights, 1 ms per frame."""

from __future__ import annotations

import copy

import golden
import numpy as np
from numpy.typing import NDArray
from seeded import driving_frame, seeded_weights, source_image

from talkies.fomm.model.checkpoint import weights_digest
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.presets import Preset

SIDE = 64


def tiny_model(*, jacobians: bool = True) -> FirstOrderModel:
    """Build the network with weights that follow from their names, in inference mode."""
    hourglass = {"block_expansion": 8, "max_features": 16, "num_blocks": 2}
    preset = Preset(
        "tiny",
        SIDE,
        "center",
        None,
        {
            "common_params": {"num_kp": 5, "num_channels": 3, "estimate_jacobian": jacobians},
            "kp_detector_params": {"temperature": 0.1, "scale_factor": 0.5, **hourglass},
            "generator_params": {
                "block_expansion": 8,
                "max_features": 16,
                "num_down_blocks": 1,
                "num_bottleneck_blocks": 1,
                "estimate_occlusion_map": True,
                "dense_motion_params": {"scale_factor": 0.5, **hourglass},
            },
        },
    )
    model = FirstOrderModel(preset)
    model.load_state_dict(seeded_weights(model))
    model.weights_digest = weights_digest(model.state_dict())
    return model.requires_grad_(False).eval()


def many_channels(channels: int = 256) -> FirstOrderModel:
    """Build a network of 64 pixels whose bottleneck is wide enough for Winograd's method."""
    parameters = copy.deepcopy(golden.load("tiny64").parameters)
    parameters["generator_params"] |= {"block_expansion": channels // 4, "max_features": channels}
    model = FirstOrderModel(Preset("wide", SIDE, "center", None, parameters))
    model.load_state_dict(seeded_weights(model))
    model.weights_digest = weights_digest(model.state_dict())
    return model.requires_grad_(False).eval()


def picture(side: int = SIDE) -> NDArray[np.uint8]:
    """Return a source image, uint8 [side, side, 3]."""
    return _bytes(source_image(side, side))


def clip(count: int, side: int = SIDE) -> list[NDArray[np.uint8]]:
    """Return a moving clip's frames, uint8 [side, side, 3] each."""
    return [_bytes(driving_frame(side, side, 5 * t)) for t in range(count)]


def _bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (image * 255).round().astype(np.uint8)
