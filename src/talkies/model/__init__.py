"""The network and nothing else: torch and numpy alone are imported here."""

from .checkpoint import load_checkpoint, load_model, save_safetensors, weights_digest
from .dense_motion import DenseMotion, DenseMotionNetwork
from .first_order import FirstOrderModel, build_model
from .generator import Generated, Generator, SourceFeatures
from .keypoint_detector import KeypointDetector, Keypoints
from .presets import PRESETS, Preset

__all__ = [
    "PRESETS",
    "DenseMotion",
    "DenseMotionNetwork",
    "FirstOrderModel",
    "Generated",
    "Generator",
    "KeypointDetector",
    "Keypoints",
    "Preset",
    "SourceFeatures",
    "build_model",
    "load_checkpoint",
    "load_model",
    "save_safetensors",
    "weights_digest",
]
