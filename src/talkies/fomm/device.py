"""Chooses a network's device, precision and batch."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import re
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F

from ..errors import TalkiesError
from ..files import digest, file_digest, own_cache, read_json, write_json
from . import rewrite
from .model import FirstOrderModel
from .model.presets import frame_bytes
from .rewrite import rewritten

log = logging.getLogger("talkies")


def keep_compiled() -> None:
    """Let CUDA cache compiled code in `own_cache`, or nowhere; call this before the GPU is first used."""
    folder = own_cache()
    if folder is None:
        os.environ["CUDA_CACHE_DISABLE"] = "1"
    else:
        os.environ["CUDA_CACHE_PATH"] = str(folder / "cuda")


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALF = {"cpu": "bf16", "cuda": "fp16"}
"""The half precision that `auto` may choose, by device."""
VARIANTS = {"cu126": (50, 90), "cu130": (75, 120)}
"""The CUDA variants of the image, with their oldest and newest compute capability (PyTorch 2.13; 10 * X + Y).

PyTorch's builds for CUDA 12.6 support Maxwell to Hopper, those for 13.0 Turing to Blackwell.
"""
FAITHFUL = 45.0
"""The PSNR (dB) between half precision and float32, with the loaded weights, above which `auto` takes the half."""


def choose_device(wanted: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`, after a test computation on it.

    auto takes a GPU if there is one (a driver is loaded, or the scheduler granted one). It fails if that GPU does not
    work or this torch was not built for it, so that a GPU job never runs on the processor unnoticed.
    """
    granted = os.environ.get("CUDA_VISIBLE_DEVICES")
    given = bool(granted) and granted not in ("-1", "NoDevFiles")
    given = given or (granted is None and Path("/proc/driver/nvidia/version").exists())
    if wanted == "cpu" or (wanted == "auto" and not given and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no usable GPU: no driver, another driver, or a torch built without CUDA")
        if reason := unfit():
            raise TalkiesError(f"{reason}; `--device cpu` does without it")
        ones = torch.ones(64, 64, device="cuda")
        if float((ones @ ones).sum()) != 64.0**3:
            raise RuntimeError("it computes wrong results")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        if not given and not torch.cuda.is_available():
            raise TalkiesError(f"there is no GPU here: {reason}; `--device cpu` does without it") from None
        raise TalkiesError(f"the GPU that was given does not work: {reason}; `--device cpu` does without it") from None
    return torch.device("cuda")


def unfit() -> str | None:
    """Return why this torch has no code for the GPU, and which variant has; None if it can compute on it.

    A GPU runs code for its own compute capability, for an older one of the same generation (sm_80 on 8.6), and PTX
    for any older one (compute_80 on 12.0); see CUDA C++ Programming Guide, "Binary Compatibility".
    """
    built = built_for()
    major, minor = torch.cuda.get_device_capability()
    codes = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in built]
    for kind, *capability in (code.groups() for code in codes if code):
        has = (int(capability[0]), int(capability[1]))
        if has <= (major, minor) and (kind == "compute" or has[0] == major):
            return None
    if not built:
        return None  # not known: the test computation will show it
    fitting = [name for name, (first, last) in VARIANTS.items() if first <= 10 * major + minor <= last + 9]
    remedy = f"build the image with --variant {fitting[0]}" if fitting else "no image of ours is for it"
    card = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    return f"this torch (CUDA {torch.version.cuda}) is built for {', '.join(built)}, not for the {card}: {remedy}"


def built_for() -> list[str]:
    """Return the GPU architectures of this torch (sm_90, ...), also without a GPU; empty: a build for processors."""
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()  # get_arch_list needs a GPU
    return flags.split() if flags else torch.cuda.get_arch_list()


def keep_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones; call this before the first.

    Otherwise each large block is returned to the kernel and requested again, about 50,000 pages a frame. Does nothing
    if the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 1 << 30)
    mallopt(top_pad, 64 << 20)


def computes_bf16() -> bool:
    """Return whether this processor has bfloat16 products; without, they are many times slower than float32.

    The flags are Linux's names for AVX-512 BF16, AMX BF16 and Arm's BF16.
    """
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_processor_flags()))


def _processor_flags() -> list[str]:
    """Return this processor's features by Linux's names; empty if the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.split()[2:] for line in lines if line.startswith(("flags", "Features"))), [])


def choose_precision(model: FirstOrderModel, wanted: str) -> str:
    """Return the precision for fp32, bf16, fp16 or auto. model: in float32, on its device, before it is rewritten.

    auto takes the device's half precision if the processor supports it and these weights allow it: a frame of a
    synthetic picture in motion must be closer than FAITHFUL in both precisions.
    """
    if wanted != "auto":
        return wanted
    half = HALF[model.device.type]
    if half == "bf16" and not computes_bf16():
        return "fp32"
    decibels = known_fidelity(model, half)
    if decibels > FAITHFUL:
        return half
    log.info("%s would be %.1f dB from fp32 with these weights, %.0f are asked for: fp32", half, decibels, FAITHFUL)
    return "fp32"


def known_fidelity(model: FirstOrderModel, half: str) -> float:
    """Return the fidelity of a half precision, measured once for these weights, this device, torch and fast form.

    It is kept in the user's cache folder (`own_cache`), since it takes as long as a few frames. Without that folder,
    or if the weights were not loaded from a file, it is measured each time.
    """
    cache = own_cache()
    if model.weights_digest is None or cache is None:
        return fidelity(model, DTYPES[half])
    device = torch.cuda.get_device_name() if model.device.type == "cuda" else _processor_flags()
    parts = [model.weights_digest, half, device, torch.__version__, file_digest(Path(rewrite.__file__))]
    path = cache / f"fidelity-{digest(parts)}.json"
    known = (read_json(path) or {}).get("decibels")
    if isinstance(known, float):
        return known
    decibels = fidelity(model, DTYPES[half])
    with suppress(OSError):
        write_json(path, {"decibels": decibels})
    return decibels


def fidelity(model: FirstOrderModel, dtype: torch.dtype) -> float:
    """Return the PSNR, in decibels, between the fast form's frame in another precision and in float32.

    With two networks, the less faithful one counts.
    """
    return min(_fidelity(network, dtype) for network in model.networks)


@torch.inference_mode()
def _fidelity(model: FirstOrderModel, dtype: torch.dtype) -> float:
    noise = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    side = model.preset.size
    pictures = F.interpolate(noise, size=(side, side), mode="bicubic").clamp(0, 1).to(model.device)
    pictures[1] = pictures[0].roll((side // 16, side // 16), (1, 2)).lerp(pictures[1], 0.1)

    def frame(form: FirstOrderModel) -> torch.Tensor:
        kp, features = form.kp_detector(pictures), form.generator.encode(pictures[:1].to(form.dtype))
        return form.generator.render(features, kp[0], kp[1]).prediction.float()

    error = float(F.mse_loss(frame(rewritten(model, dtype)), frame(rewritten(model, torch.float32))))
    return -10 * math.log10(error) if error > 0 else math.inf if error == 0 else -math.inf  # the last: not a number


def free_batch(side: int, itemsize: int, free: int) -> int:
    """Return how many frames of this side fit into half of the GPU's free memory, at most 64."""
    return max(1, min(64, free // (2 * frame_bytes(side, itemsize))))
