"""The network alone: it imports only torch and numpy, and only when a network is needed.

The presets' names and crops need no torch, for login nodes and the workflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .presets import PRESETS, Opening, Preset

if TYPE_CHECKING:
    from .checkpoint import load_checkpoint, load_model, save_safetensors, weights_digest
    from .dense_motion import DenseMotion, DenseMotionNetwork
    from .first_order import FirstOrderModel, build_model
    from .generator import Generated, Generator, SourceFeatures
    from .keypoint_detector import KeypointDetector, Keypoints

__all__ = [
    "PRESETS",
    "DenseMotion",
    "DenseMotionNetwork",
    "FirstOrderModel",
    "Generated",
    "Generator",
    "KeypointDetector",
    "Keypoints",
    "Opening",
    "Preset",
    "SourceFeatures",
    "build_model",
    "load_checkpoint",
    "load_model",
    "save_safetensors",
    "weights_digest",
]

_HOME = {
    "load_checkpoint": "checkpoint",
    "load_model": "checkpoint",
    "save_safetensors": "checkpoint",
    "weights_digest": "checkpoint",
    "DenseMotion": "dense_motion",
    "DenseMotionNetwork": "dense_motion",
    "FirstOrderModel": "first_order",
    "build_model": "first_order",
    "Generated": "generator",
    "Generator": "generator",
    "SourceFeatures": "generator",
    "KeypointDetector": "keypoint_detector",
    "Keypoints": "keypoint_detector",
}


def __getattr__(name: str) -> Any:  # PEP 562: torch is imported on first use
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
