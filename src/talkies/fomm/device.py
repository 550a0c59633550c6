"""What this machine has: a GPU that works, the processor's features, memory.

`talkies doctor` runs this file as a process of its own, since a driver may hang.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import TalkiesError
from ..files import own_cache
from ..machine.resources import available_threads
from .model.checkpoint import load_model
from .model.presets import frame_bytes


def keep_compiled() -> None:
    """Let CUDA cache compiled code in `own_cache`, or nowhere; call this before the GPU is first used."""
    folder = own_cache()
    if folder is None:
        os.environ["CUDA_CACHE_DISABLE"] = "1"
    else:
        os.environ["CUDA_CACHE_PATH"] = str(folder / "cuda")


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
        picture, kernel = torch.rand(4, 16, 64, 64), torch.rand(32, 16, 3, 3) / 144
        if not torch.allclose(F.conv2d(picture.cuda(), kernel.cuda()).cpu(), F.conv2d(picture, kernel), atol=1e-2):
            raise RuntimeError("it computes wrong results")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        if "no kernel image" in reason:
            reason = "this torch has no code for it, but the other --variant of the image may have"
        if not given and not torch.cuda.is_available():
            raise TalkiesError(f"there is no GPU here: {reason}; `--device cpu` does without it") from None
        raise TalkiesError(f"the GPU that was given does not work: {reason}; `--device cpu` does without it") from None
    return torch.device("cuda")


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


def bf16_unit() -> str | None:
    """Return what makes bfloat16 products here, by Linux's names: amx_bf16, avx512_bf16, or bf16 on Arm.

    None: nothing does, and they would be slower than float32. ONEDNN_MAX_CPU_ISA may forbid oneDNN to use a unit.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    free = limit in ("", "ALL", "DEFAULT")
    allowed = {
        "amx_bf16": free or "AMX" in limit,
        "avx512_bf16": free or any(name in limit for name in ("AMX", "BF16", "FP16", "AVX10")),
        "bf16": True,
    }
    flags = processor_flags()
    return next((unit for unit, is_allowed in allowed.items() if is_allowed and unit in flags), None)


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


def main() -> None:
    """Print what PyTorch does here as a line of JSON: the device of `auto`, or a GPU's fault; the packaged weights."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "built_for": built_for()}
    found |= {"threads": available_threads(), "fault": None}
    began = time.monotonic()
    try:
        found["device"] = choose_device("auto").type
        found["seconds"] = time.monotonic() - began
        found["name"] = torch.cuda.get_device_name() if found["device"] == "cuda" else None
    except TalkiesError as error:
        found["fault"] = str(error)
    try:
        found["weights"] = (load_model("demo").weights_digest or "")[:12]
    except TalkiesError as error:
        found["weights_fault"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
