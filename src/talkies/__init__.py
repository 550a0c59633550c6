"""Talkies makes pictures talk: every picture animated with every driving video, with the video's own sound.

The front door, torch being imported only when one of these is first used:

    model = talkies.load_model("vox-adv-256", checkpoint=PATH, device="cpu", precision="fp32")
    kp = model.keypoints(frames)
    moved = talkies.transfer_motion(kp_source, kp_driving, kp_initial, relative=True, adapt_scale=True)
    out = model.generate(source, kp_source, moved)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "transfer_motion"]

if TYPE_CHECKING:
    from .fomm.model.checkpoint import load_model
    from .fomm.motion import transfer_motion


def __getattr__(name: str) -> Any:  # PEP 562: the names above, on first use
    if name == "load_model":
        from .fomm.model.checkpoint import load_model

        return load_model
    if name == "transfer_motion":
        from .fomm.motion import transfer_motion

        return transfer_motion
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
