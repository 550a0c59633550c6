"""The golden networks: weights and images rebuilt with numpy alone, and the original implementation's outputs.

Weights follow from each entry's name and shape, images from their size and number, so the files in data/golden hold
only outputs. The original code's forward pass made them (MIT licence, Aliaksandr Siarohin).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from seeded import as_batch, driving_frame, seeded_weights, source_image
from torch import Tensor

from talkies.fomm.model.first_order import FirstOrderModel, build_model

torch.set_num_threads(1)  # more would only wait for each other in these small networks
FOLDER = Path(__file__).parent / "data" / "golden"
NAMES = tuple(sorted(path.stem.removeprefix("golden_") for path in FOLDER.glob("golden_*.npz")))


@dataclass(frozen=True)
class Golden:
    """One network and the outputs of the original implementation.

    parameters: model_params in the yaml's shape. entries: each state-dict entry's [shape, type].
    expected: the original's outputs. source: [1, 3, H, W]; driving: [T, 3, H, W], float32 in (0, 1).
    """

    name: str
    parameters: dict[str, Any]
    entries: dict[str, tuple[list[int], str]]
    expected: dict[str, NDArray[Any]]
    source: Tensor
    driving: Tensor

    def model(self) -> FirstOrderModel:
        """Build the network with the seeded weights, in inference mode."""
        model = build_model(self.parameters)
        model.load_state_dict(seeded_weights(model))
        return model.requires_grad_(False).eval()

    def input_digests(self) -> list[str]:
        """Return the sha256 of each image's bytes, source first, as float32 H x W x 3."""
        images = torch.cat([self.source, self.driving]).permute(0, 2, 3, 1).contiguous().numpy()
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def load(name: str) -> Golden:
    """Read one golden network's data and rebuild its images."""
    with np.load(FOLDER / f"golden_{name}.npz", allow_pickle=False) as file:
        expected = dict(file)
    side = int(np.ravel(expected["size"])[0])
    return Golden(
        name=name,
        parameters=json.loads(str(expected["config_json"])),
        entries=json.loads((FOLDER / f"keys_{name}.json").read_text()),
        expected=expected,
        source=as_batch(source_image(side, side)),
        driving=torch.cat([as_batch(driving_frame(side, side, int(t))) for t in expected["frames"]]),
    )
