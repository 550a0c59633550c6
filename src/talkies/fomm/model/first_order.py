"""The First Order Motion Model as one object: detect keypoints, then generate (Siarohin et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .close_ups import CloseUps, certainty, doubt
from .eye_reader import EyeReader
from .generator import Generated, Generator, SourceFeatures
from .keypoint_detector import KeypointDetector, Keypoints
from .looks import is_photograph
from .matte import UNSURE, MatteNetwork, find_matte
from .plate import BorderNetwork, Layers
from .presets import PRESETS, Preset

LARGER = 0.9, 1.1
"""The share of the picture's side in further views."""
DOUBT = 0.1
"""Where views of a picture disagree by more head sizes, it has no face that the detector knows. Faces that look ahead:
0.01 to 0.05, turned by 65 degrees: 0.16, profiles: 0.2 to 0.5."""


class FirstOrderModel(nn.Module):
    """Generator and keypoint detector of one preset; its state dict has the published names and shapes.

    preset: its hyper-parameters. weights_digest: sha256 of the loaded weights, None before loading. photographs: a
    second network for photographs, with keypoints of the same meaning, or None if the preset has none. Build it with
    `talkies.load_model`, or from a preset for training.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        self.weights_digest: str | None = None
        common = preset.parameters["common_params"]
        self.generator = Generator(**common, **preset.parameters["generator_params"])
        self.kp_detector = KeypointDetector(**common, **preset.parameters["kp_detector_params"])
        self.photographs = FirstOrderModel(preset.photographs) if preset.photographs else None
        self.eye_reader = EyeReader() if preset.eye_reader else None
        self.close_ups = CloseUps() if preset.close_ups else None
        self.matte = MatteNetwork() if preset.layers else None
        self.border = BorderNetwork() if preset.layers else None

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        return next(self.generator.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The generator's precision; keypoints are always computed in float32."""
        return next(self.generator.parameters()).dtype

    @property
    def networks(self) -> list[FirstOrderModel]:
        """This network, and the one for photographs if there is one."""
        return [self, self.photographs] if self.photographs is not None else [self]

    def fitting(self, picture: Tensor) -> FirstOrderModel:
        """Return the network for a picture [1, 3, H, W] in [0, 1]: this one, or the one for photographs."""
        self._check(picture, "picture")
        if self.photographs is None:
            return self
        pixels = picture[0].permute(1, 2, 0).mul(255).round().byte().cpu().numpy()
        return self.photographs if is_photograph(pixels) else self

    @torch.inference_mode()
    def keypoints(self, frames: Tensor) -> Keypoints:
        """Detect the keypoints of frames [N, 3, H, W] in [0, 1], all at once; the first decides which network is
        used."""
        self._check(frames, "frames")
        network, frames = self.fitting(frames[:1]), frames.to(self.device, torch.float32)
        if network.preset.mirror is None:
            return network.kp_detector(frames)
        # The mean has a smaller error than one view.
        values, jacobians = views(network.kp_detector, frames, network.preset.mirror)
        value = values.mean(0)
        if network.eye_reader is not None:
            trust = certainty(value) * (2 - 2 * doubt(values) / DOUBT).clamp(0, 1)
            value = network.eye_reader.read(frames, value, trust)
        return Keypoints(value, jacobians.mean(0))

    @torch.inference_mode()
    def encode(self, source: Tensor) -> SourceFeatures:
        """Encode source images [N, 3, H, W] in [0, 1] for `generate`; the first decides which network is used."""
        self._check(source, "source")
        network = self.fitting(source[:1])
        features = network.generator.encode(source.to(self.device, self.dtype))
        features = replace(features, photograph=network is self.photographs)
        if network.preset.mirror is None or not (network.preset.close_ups or network.preset.layers):
            return features
        picture = source.to(self.device, torch.float32)
        values, _ = views(network.kp_detector, picture, network.preset.mirror)
        if bool((doubt(values) >= DOUBT).any()):
            return features
        return replace(features, close_ups=True, layers=network.cut(picture, values.mean(0), features.small.shape[-1]))

    def cut(self, picture: Tensor, value: Tensor, side: int) -> Layers | None:
        """Return a picture's layers, or None if its matte is not sure. value: its keypoints; side: dense motion's."""
        if self.matte is None or len(picture) > 1:
            return None
        alpha, unsure = find_matte(self.matte, picture, value)
        return Layers.of(picture, alpha, side) if unsure < UNSURE else None

    @torch.inference_mode()
    def generate(self, source: Tensor | SourceFeatures, kp_source: Keypoints, kp_driving: Keypoints) -> Generated:
        """Render N frames with the keypoints kp_driving.

        source: one image [1, 3, H, W] in [0, 1] for all frames, or N images, or the result of `encode`; kp_source:
        its keypoints (one picture's or N). Returns .prediction [N, 3, H, W] in [0, 1], .deformation [N, h, w, 2],
        .occlusion [N, 1, h, w] or None.
        """
        features = source if isinstance(source, SourceFeatures) else self.encode(source)
        network = self.network_of(features)
        made = network.generator.render(features, kp_source, kp_driving)
        if features.layers is not None and network.border is not None:
            single = made.prediction.float()
            frames = features.layers.frames(network.border, made, single, kp_source, kp_driving)
            trust = torch.minimum(certainty(kp_source.value), certainty(kp_driving.value))[:, None, None, None]
            made = replace(made, prediction=single.lerp(frames, trust))
        if network.close_ups is None or features.picture is None or not features.close_ups:
            return made
        return replace(made, prediction=network.close_ups.retouch(made, features.picture, kp_source, kp_driving))

    def network_of(self, features: SourceFeatures) -> FirstOrderModel:
        """Return the network that made these features."""
        return self.photographs if self.photographs is not None and features.photograph else self

    def _check(self, frames: Tensor, name: str) -> None:
        """Raise ValueError unless these are frames that the network can halve as often as it does."""
        common, detector = self.preset.parameters["common_params"], self.preset.parameters["kp_detector_params"]
        step = round(common.get("reduction", 1) / detector.get("scale_factor", 1) * 2 ** detector["num_blocks"])
        fits = isinstance(frames, Tensor) and frames.is_floating_point() and frames.ndim == 4 and frames.shape[1] == 3
        if not fits or frames.shape[2] % step or frames.shape[3] % step:
            found = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__
            size = self.preset.size
            raise ValueError(
                f"{name}: a float tensor [N, 3, H, W] in [0, 1] is asked for, H and W multiples of {step} "
                f"({size} x {size} fits best), got {found}"
            )


def views(detector: KeypointDetector, frames: Tensor, mirror: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Detect keypoints in V views of frames [N, 3, H, W]: unchanged, mirrored, smaller and larger.

    mirror: the index of each keypoint in a mirrored picture. Returns values [V, N, K, 2] and jacobians
    [V, N, K, 2, 2], all in the unchanged picture's coordinates.
    """
    found, other = detector(frames), detector(frames.flip(3))
    assert found.jacobian is not None
    assert other.jacobian is not None
    turn = frames.new_tensor([-1, 1]).diag()
    values = [found.value, other.value[:, mirror] @ turn]
    jacobians = [found.jacobian, turn @ other.jacobian[:, mirror] @ turn]
    for factor in LARGER:
        look = frames.new_tensor([[factor, 0, 0], [0, factor, 0]]).expand(len(frames), 2, 3)
        grid = F.affine_grid(look, list(frames.shape), align_corners=False)
        other = detector(F.grid_sample(frames, grid, padding_mode="border", align_corners=False))
        assert other.jacobian is not None
        values.append(other.value * factor)
        jacobians.append(other.jacobian * factor)
    return torch.stack(values), torch.stack(jacobians)


def build_model(preset: str | Preset | Mapping[str, Any]) -> FirstOrderModel:
    """Build an untrained network from a preset, its name, or a dict like the original's yaml.

    The dict has common_params, kp_detector_params and generator_params, or these under model_params. ValueError names
    an unknown preset or a missing key.
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
