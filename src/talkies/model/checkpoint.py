"""Weights: the published `.pth.tar` files and safetensors, loaded strictly and without running their code.

A published file is a pickle of a dict whose `generator` and `kp_detector` are used; the discriminator,
optimizer states and epoch that stand beside them are not. A safetensors file holds the same entries under
`generator.` and `kp_detector.` (format: https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TalkiesError
from .first_order import FirstOrderModel, build_model
from .presets import PRESETS, Preset

DEMO_WEIGHTS = Path(__file__).with_name("demo.safetensors")
NETWORKS = ("generator", "kp_detector")
StateDict = dict[str, Tensor]


def load_model(
    preset: str | Preset | Mapping[str, Any],
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> FirstOrderModel:
    """Build a preset's network, load its weights strictly, and set it to inference.

    preset: a name (PRESETS), or a dict in the original yaml's shape. checkpoint: `.pth.tar` or safetensors;
    None takes the package's own weights for `demo` and leaves a dict's network as it was built.
    precision: fp32, bf16 or fp16 for the generator; keypoints and coordinates stay fp32.
    Raises TalkiesError with the file and what is wrong with it; ValueError for an unknown preset.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(dtypes)}")
    model = build_model(preset)
    if checkpoint is None and model.preset.name == "demo":
        checkpoint = DEMO_WEIGHTS
    if checkpoint is not None:
        _load_strictly(model, load_checkpoint(checkpoint), Path(checkpoint))
    elif model.preset.checkpoint is not None:
        raise TalkiesError(
            f"preset {model.preset.name} needs its weights: give the path of {model.preset.checkpoint} "
            "(--checkpoint, or model: checkpoint: in config.yaml)"
        )
    model.weights_digest = weights_digest(model.state_dict())
    model.requires_grad_(False).eval().to(device)
    model.generator.to(dtypes[precision])
    return model


def load_checkpoint(path: str | Path) -> StateDict:
    """Read a checkpoint's entries on the CPU, as `generator.*` and `kp_detector.*`; half precision becomes float32.

    Raises TalkiesError, one line with the file and what to do, for anything that is not such a checkpoint.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise TalkiesError(f"{path}: can't read the checkpoint: {error.strerror}") from None
    if not head:
        raise TalkiesError(f"{path}: the checkpoint is empty: download it again")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise TalkiesError(
            f"{path}: this is a web page, not a checkpoint: the download saved the host's page; "
            "open the link in a browser and confirm, or take another host"
        )
    if head.startswith(b"version https://git-lfs"):
        raise TalkiesError(f"{path}: this is a Git LFS pointer, not the checkpoint: run `git lfs pull`")
    length = int.from_bytes(head[:8], "little")
    entries = _read_safetensors(path) if head[8:9] == b"{" and length < 100000000 else _read_pickle(path)
    # The package's own weights are stored in half precision; every digest and computation starts from float32.
    return {name: t.float() if t.is_floating_point() else t for name, t in entries.items()}


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        entries = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TalkiesError(
            f"{path}: damaged or truncated safetensors file ({_one_line(error)}): copy it again"
        ) from None
    if not all(any(name.startswith(f"{network}.") for name in entries) for network in NETWORKS):
        raise TalkiesError(
            f"{path}: no generator.* and kp_detector.* entries: not a First Order Motion Model checkpoint"
        )
    return {n: t for n, t in entries.items() if n.split(".", 1)[0] in NETWORKS}


def _read_pickle(path: Path) -> StateDict:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            reason = "it holds something other than weights, or is no checkpoint at all; it was not run"
        else:
            reason = "not a PyTorch checkpoint, or damaged"
        raise TalkiesError(f"{path}: {reason}: take the published file again") from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
    ) as error:
        raise TalkiesError(
            f"{path}: not a PyTorch checkpoint, or a truncated download ({_one_line(error)}): download it again"
        ) from None
    if not isinstance(content, Mapping):
        raise TalkiesError(f"{path}: holds a {type(content).__name__}, not a checkpoint's generator and kp_detector")
    missing = [network for network in NETWORKS if not isinstance(content.get(network), Mapping)]
    if missing:
        found = ", ".join(sorted(map(str, content))[:6]) or "nothing"
        raise TalkiesError(
            f"{path}: no {' and no '.join(missing)} in it (found: {found}): not a First Order Motion Model checkpoint"
        )
    return {f"{network}.{name}": value for network in NETWORKS for name, value in content[network].items()}


def _load_strictly(model: FirstOrderModel, entries: StateDict, path: Path) -> None:
    """Load entries into the model, or say in one line how they differ and which preset they fit."""
    difference = _difference(model, entries)
    if difference:
        fits = [name for name in PRESETS if not _difference(_skeleton(name), entries)]
        hint = f"; they fit {' or '.join(fits)}" if fits else ""
        raise TalkiesError(f"{path}: these weights are not for preset {model.preset.name}: {difference}{hint}")
    unfit = next((n for n, t in entries.items() if t.is_floating_point() and not t.isfinite().all()), None)
    if unfit is not None:
        raise TalkiesError(f"{path}: {unfit} holds infinite or undefined numbers: the file is damaged, get it again")
    model.load_state_dict(entries, strict=True)


def _skeleton(preset: str) -> FirstOrderModel:
    with torch.device("meta"):
        return build_model(preset)


def _difference(model: FirstOrderModel, entries: StateDict) -> str:
    """Say the first way in which entries differ from the model's names and shapes, or ''."""
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in entries:
            return f"{name} is missing"
        if not isinstance(entries[name], Tensor) or entries[name].shape != tensor.shape:
            shape = list(getattr(entries[name], "shape", []))
            return f"{name} is {shape}, {list(tensor.shape)} is asked for"
    unknown = next((name for name in entries if name not in wanted), None)
    return f"{unknown} is unknown to it" if unknown else ""


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) of a state dict: names, shapes and float32 bytes, in the names' order.

    The same weights give the same digest from `.pth.tar` and from safetensors. Batch counters, which no
    result depends on, are left out.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):
            continue
        array = state[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(json.dumps([name, list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_safetensors(state: Mapping[str, Tensor], path: str | Path, *, half: bool = False) -> None:
    """Write a state dict as safetensors, whole or not at all; half stores its weights in float16."""
    from safetensors.torch import save_file

    path = Path(path)
    entries = {
        name: (t.half() if half and t.is_floating_point() else t).detach().cpu().contiguous().clone()
        for name, t in state.items()
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(entries, part, metadata={"format": "pt", "weights_digest": weights_digest(entries)})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
