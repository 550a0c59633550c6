"""The precision of a network's fast form: half where it is right on this processor and faithful with these weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .device import bf16_unit
from .model.checkpoint import DTYPES
from .model.first_order import FirstOrderModel
from .rewrite import InFloat, in_float, rewritten
from .winograd import Winograd

log = logging.getLogger("talkies")

HALF = {"cpu": "bf16", "cuda": "fp16"}
"""The half precision that `auto` may choose, by device."""
FAITHFUL = 45.0
"""The PSNR (dB) between half precision and float32, with the loaded weights, above which `auto` takes the half."""
WRONG = 0.02
"""The largest error of a convolution in half precision, as a share of its largest result, that is no rounding.

Rounding gives at most 0.004, in Winograd's form 0.007.
"""


def fast_form(model: FirstOrderModel, precision: str) -> FirstOrderModel:
    """Return a network's fast form (`rewritten`) in a precision: fp32, bf16, fp16, or auto.

    model: in float32, on its device. In half precision, each kind of convolution is compared with float32 once, and
    one that this processor computes wrongly is computed in float32. auto takes the device's half precision if the
    processor supports it and these weights allow it: a frame of a synthetic picture in motion must be closer than
    FAITHFUL in both precisions.
    """
    half = HALF[model.device.type] if precision == "auto" else precision
    if half == "fp32" or (precision == "auto" and half == "bf16" and not bf16_unit()):
        return rewritten(model)
    fast = rewritten(model, DTYPES[half])
    frames = [_compared(network, half) for network in fast.networks]
    if precision != "auto":
        return fast
    whole = rewritten(model)
    pairs = zip(frames, map(_frame, whole.networks), strict=True)
    decibels = min(_decibels(frame, wanted) for frame, wanted in pairs)
    if decibels > FAITHFUL:
        return fast
    log.info("%s would be %.1f dB from fp32 with these weights, %.0f are asked for: fp32", half, decibels, FAITHFUL)
    return whole


def _compared(network: FirstOrderModel, half: str) -> Tensor:
    """Compare a fast form's convolutions with float32, mend those that are wrong, and return a frame of the form."""
    errors: dict[str, float] = {}

    def compare(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        kind = _kind(conv)
        if kind not in errors:
            wanted = in_float(conv, inputs[0])
            errors[kind] = float((output.float() - wanted).abs().max() / wanted.abs().max())
        return in_float(conv, inputs[0]).to(output.dtype) if errors[kind] > WRONG else None

    forms = (nn.Conv2d, nn.ConvTranspose2d, Winograd)
    found = {
        name: part
        for name, part in network.generator.named_modules()
        if isinstance(part, forms) and next(part.parameters()).dtype == DTYPES[half]
    }
    hooks = [part.register_forward_hook(compare) for part in found.values()]
    frame = _frame(network)
    for hook in hooks:
        hook.remove()
    mend(network, [name for name, part in found.items() if errors.get(_kind(part), 0) > WRONG])
    return frame


def mend(network: FirstOrderModel, wrong: Sequence[str]) -> None:
    """Let float32 compute these parts of a fast form's generator, convolutions in half precision, and warn of them."""
    parts = {name: network.generator.get_submodule(name) for name in wrong}
    for name, part in parts.items():
        network.generator.set_submodule(name, InFloat(part))
    if parts:
        message = "this machine computes convolutions wrongly in half precision: fp32 computes them, slower: %s"
        log.warning(message, "; ".join(dict.fromkeys(map(_kind, parts.values()))))


def _kind(conv: nn.Module) -> str:
    """Return the facts about a convolution by which a processor's library chooses how to compute it."""
    plain = conv.conv if isinstance(conv, Winograd) else conv
    assert isinstance(plain, (nn.Conv2d, nn.ConvTranspose2d))
    form = "Winograd, " if plain is not conv else "transposed, " if isinstance(plain, nn.ConvTranspose2d) else ""
    height, width = plain.kernel_size
    return f"{form}{plain.in_channels} to {plain.out_channels} channels, {height}x{width}, stride {plain.stride[0]}"


@torch.inference_mode()
def _frame(network: FirstOrderModel) -> Tensor:
    """Return a frame, float32 [1, 3, size, size], of a synthetic picture in motion."""
    noise = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    side = network.preset.size
    pictures = F.interpolate(noise, size=(side, side), mode="bicubic").clamp(0, 1).to(network.device)
    pictures[1] = pictures[0].roll((side // 16, side // 16), (1, 2)).lerp(pictures[1], 0.1)
    kp, features = network.kp_detector(pictures), network.generator.encode(pictures[:1].to(network.dtype))
    return network.generator.render(features, kp[0], kp[1]).prediction.float()


def _decibels(frame: Tensor, wanted: Tensor) -> float:
    """Return the PSNR between two frames; -inf where one has a value that is not a number."""
    error = float(F.mse_loss(frame, wanted))
    return -10 * math.log10(error) if error > 0 else math.inf if error == 0 else -math.inf
