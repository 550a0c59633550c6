"""The reference loop of the benchmarks gives the frames of the original implementation."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import reference
import torch


@pytest.mark.parametrize("name", golden.NAMES)
def test_the_reference_loop_gives_the_originals_frames(name: str) -> None:
    facts = golden.load(name)
    source = facts.source[0].permute(1, 2, 0).numpy()
    driving = list(facts.driving.permute(0, 2, 3, 1).numpy())
    made = np.stack(reference.animate(facts.model(), source, driving))
    # The logits of all frames are stored, because the sigmoid hides differences between saturated pixels.
    expected = torch.from_numpy(facts.expected["logits"]).sigmoid().permute(0, 2, 3, 1).numpy()
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() < 1e-3
    assert np.abs(made - expected).mean() < 1e-5
