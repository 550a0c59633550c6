"""The First Order Motion Model: network, fast form, keypoints of a clip, engine. Nothing else needs torch."""

from __future__ import annotations

import gc
from functools import cache
from typing import Any


@cache
def import_torch() -> Any:
    """Import PyTorch; what it makes then stays, so garbage is not looked for in it: now or at the end, 0.4 s."""
    gc.disable()
    try:
        import torch
    finally:
        gc.enable()
    gc.freeze()
    return torch
