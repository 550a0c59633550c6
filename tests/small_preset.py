"""A small published preset, small-64, with a checkpoint of 3 MB. As a program: `talkies` with this preset."""

from __future__ import annotations

import sys
from pathlib import Path

import golden

from talkies.fomm.model import presets

NAME, FILE = "small-64", "small-cpk.pth.tar"
PRESET = presets.Preset(NAME, 64, "center", FILE, golden.load("tiny64").parameters)


def write_checkpoint(path: Path, *, seed: int = 0, legacy: bool = True, more: int = 650_000) -> bytes:
    """Write a checkpoint as the original's trainer does, with different weights for each seed; return its bytes.

    more: how many numbers a discriminator adds to the two networks.
    """
    import torch

    state = golden.load("tiny64").model().state_dict()
    state = {name: t + 0.01 * seed if t.is_floating_point() else t for name, t in state.items()}
    content = {
        network: {name.split(".", 1)[1]: t for name, t in state.items() if name.startswith(network)}
        for network in ("generator", "kp_detector")
    }
    content["discriminator"] = {"weight": torch.rand(more, generator=torch.Generator().manual_seed(seed))}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path.read_bytes()


if __name__ == "__main__":
    from talkies.cli import main

    presets.PRESETS[NAME] = PRESET
    sys.exit(main(sys.argv[1:]))
