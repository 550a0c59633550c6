"""What this machine has: a GPU that works, the processor's features, memory."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import torch
import torch.nn.functional as F

from ..errors import TalkiesError
from ..files import own_cache
from .model.presets import frame_bytes


def keep_compiled() -> None:
    """Let CUDA cache compiled code in `own_cache`, or nowhere; call this before the GPU is first used."""
    folder = own_cache()
    if folder is None:
        os.environ["CUDA_CACHE_DISABLE"] = "1"
    else:
        os.environ["CUDA_CACHE_PATH"] = str(folder / "cuda")


VARIANTS = {"cu126": (50, 90), "cu130": (75, 120)}
"""The CUDA variants of the image, with their oldest and newest compute capability (PyTorch 2.13; 10 * X + Y).

PyTorch's builds for CUDA 12.6 support Maxwell to Hopper, those for 13.0 Turing to Blackwell.
"""


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
        picture, kernel = torch.rand(4, 16, 64, 64), torch.rand(32, 16, 3, 3) / 144
        if not torch.allclose(F.conv2d(picture.cuda(), kernel.cuda()).cpu(), F.conv2d(picture, kernel), atol=1e-2):
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


def has_bf16() -> bool:
    """Return whether this processor has bfloat16 products; without, they are many times slower than float32.

    The flags are Linux's names for AVX-512 BF16, AMX BF16 and Arm's BF16.
    """
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(processor_flags()))


def has_avx512_bf16_alone() -> bool:
    """Return whether AVX-512 makes the bfloat16 products: the processor has no AMX, or oneDNN is told not to use it."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    flags = processor_flags()
    amx = "amx_bf16" in flags and ("AMX" in limit or limit in ("", "ALL", "DEFAULT"))
    return "avx512_bf16" in flags and not amx


def processor_flags() -> list[str]:
    """Return this processor's features by Linux's names; empty if the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.split()[2:] for line in lines if line.startswith(("flags", "Features"))), [])


def free_batch(side: int, itemsize: int, free: int) -> int:
    """Return how many frames of this side fit into half of the GPU's free memory, at most 64."""
    return max(1, min(64, free // (2 * frame_bytes(side, itemsize))))
