"""The First Order Motion Model as one object: detect keypoints, then generate (Siarohin et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .generator import Generated, Generator, SourceFeatures
from .keypoint_detector import KeypointDetector, Keypoints
from .presets import PRESETS, Preset


class FirstOrderModel(nn.Module):
    """Generator and keypoint detector of one preset; its state dict has the published names and shapes.

    preset: what it was built from. weights_digest: sha256 of the loaded weights, None before loading.
    Build it with `talkies.load_model`, or from a preset for training.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.weights_digest: str | None = None
        common = preset.parameters["common_params"]
        self.generator = Generator(**common, **preset.parameters["generator_params"])
        self.kp_detector = KeypointDetector(**common, **preset.parameters["kp_detector_params"])

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        return next(self.generator.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision the generator computes in; keypoints are always found in float32."""
        return next(self.generator.parameters()).dtype

    @torch.inference_mode()
    def keypoints(self, frames: Tensor) -> Keypoints:
        """Find the keypoints of frames [N, 3, H, W] in [0, 1], all at once."""
        _check_frames(frames, "frames")
        return self.kp_detector(frames.to(self.device, torch.float32))

    @torch.inference_mode()
    def encode(self, source: Tensor) -> SourceFeatures:
        """Compute once what `generate` needs of source images [N, 3, H, W] in [0, 1]."""
        _check_frames(source, "source")
        return self.generator.encode(source.to(self.device, self.dtype))

    @torch.inference_mode()
    def generate(self, source: Tensor | SourceFeatures, kp_source: Keypoints, kp_driving: Keypoints) -> Generated:
        """Render the N frames whose keypoints are kp_driving.

        source: one image [1, 3, H, W] in [0, 1] for all frames or N of them, or what `encode` made of it;
        kp_source: its keypoints (one picture's or N). Returns .prediction [N, 3, H, W] in [0, 1],
        .deformation [N, h, w, 2], .occlusion [N, 1, h, w] or None.
        """
        features = source if isinstance(source, SourceFeatures) else self.encode(source)
        return self.generator.render(features, kp_source, kp_driving)


def build_model(preset: str | Preset | Mapping[str, Any]) -> FirstOrderModel:
    """Build an untrained network from a preset, its name, or a dict in the original yaml's shape.

    The dict holds common_params, kp_detector_params and generator_params, or these under model_params.
    ValueError names an unknown preset or what the dict lacks.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    elif isinstance(preset, Mapping):
        parameters = dict(preset.get("model_params", preset))
        for key in ("common_params", "kp_detector_params", "generator_params"):
            if not isinstance(parameters.get(key), Mapping):
                raise ValueError(f"model parameters: {key} is missing (the original yaml's model_params are asked for)")
        preset = Preset("custom", 256, "center", None, parameters)
    try:
        return FirstOrderModel(preset)
    except TypeError as error:
        raise ValueError(f"model parameters: {str(error).split('__init__() ')[-1]}") from None


def _check_frames(frames: Tensor, name: str) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise ValueError(
            f"{name}: a float tensor [N, 3, H, W] in [0, 1] is asked for, got {frames.dtype} {list(frames.shape)}"
        )
