"""Weights: the published `.pth.tar` files and safetensors, loaded strictly and without running their code.

A published file is a pickle of a dict. Its entries `generator` and `kp_detector` are used; discriminator, optimizer
states and epoch are not. A safetensors file has the same entries under `generator.` and `kp_detector.` (format:
https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...errors import TalkiesError, printable
from ...files import check_zip, whole
from .checkpoint_head import ASK, MAX_BYTES, NETWORKS, SECOND, kind_of
from .first_order import FirstOrderModel, build_model
from .presets import DEMO_WEIGHTS, PRESETS, Preset
from .published import find_weights

StateDict = dict[str, Tensor]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions."""


def load_model(
    preset: str | Preset | Mapping[str, Any],
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> FirstOrderModel:
    """Build a preset's network, load its weights strictly, and set it to inference.

    preset: a name (PRESETS), or a dict like the original's yaml. checkpoint: `.pth.tar` or safetensors. None: the
    package's weights for the demo presets, the fetched ones (`find_weights`) for a published preset, and untrained
    weights for a dict. precision: fp32, bf16 or fp16 for the generator; keypoints and coordinates stay fp32. Raises
    TalkiesError with the file and what is wrong with it; ValueError for an unknown preset.
    """
    if precision not in DTYPES:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(DTYPES)}")
    model = skeleton(preset)
    path = weights_file(model.preset, checkpoint)
    if path is None:
        model = build_model(preset)
    else:
        entries = load_checkpoint(path)
        _load_strictly(model, entries if checkpoint else part_of(entries, model.preset), path)
    model.weights_digest = weights_digest(model.state_dict())
    model.requires_grad_(False).eval().to(device)
    for network in model.networks:
        network.generator.to(DTYPES[precision])
    return model


def weights_file(preset: Preset, checkpoint: str | Path | None) -> Path | None:
    """Return the file with a preset's weights: the given one, the package's, or the fetched one (`find_weights`).

    None if the preset has no weights of its own. Raises TalkiesError if they were not fetched.
    """
    if checkpoint is not None:
        return Path(checkpoint)
    if preset.packaged:
        return DEMO_WEIGHTS
    return find_weights(preset.name) if preset.checkpoint else None


def part_of(entries: StateDict, preset: Preset) -> StateDict:
    """Return a preset's part of the package's weights: all, or one of the two networks, by `Preset.packaged`."""
    second = f"{SECOND}."
    if preset.packaged == "photographs":
        return {name.removeprefix(second): value for name, value in entries.items() if name.startswith(second)}
    return {n: value for n, value in entries.items() if preset.photographs or not n.startswith(second)}


def load_checkpoint(path: str | Path) -> StateDict:
    """Read a checkpoint's entries on the CPU, as `generator.*` and `kp_detector.*`; half precision becomes float32.

    The package's own weights also have those of a second network, `photographs.generator.*` and so on.

    Raises TalkiesError, one line with the file and what to do, for anything that is not such a checkpoint.
    """
    path = Path(path)
    name = printable(path)
    entries = _read_safetensors(path) if kind_of(path) == "safetensors" else _read_pickle(path)
    total = sum(4 * tensor.numel() for tensor in entries.values())
    if total > MAX_BYTES:
        raise TalkiesError(f"{name}: {total / 1e9:.1f} GB are too many for weights of this network: {ASK}")
    # The package's weights are stored in half precision; digests and computations start from float32.
    return {name: t.float() if t.is_floating_point() else t for name, t in entries.items()}


def _read_safetensors(path: Path) -> StateDict:
    from safetensors.torch import load_file

    try:
        entries = load_file(path)
    except Exception as error:  # the parser may raise anything for a damaged file
        raise TalkiesError(f"{printable(path)}: damaged or truncated safetensors file: copy it again") from error
    if not all(any(name.startswith(f"{network}.") for name in entries) for network in NETWORKS):
        raise TalkiesError(
            f"{printable(path)}: no generator.* and kp_detector.* entries, so no First Order Motion Model: {ASK}"
        )
    known = *NETWORKS, "eye_reader", "close_ups", "matte", "border"
    return {n: t for n, t in entries.items() if n.removeprefix(f"{SECOND}.").split(".", 1)[0] in known}


def _read_pickle(path: Path) -> StateDict:
    name = printable(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            if kind_of(path) == "zip":
                check_zip(file)
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise TalkiesError(f"{name}: damaged, or a download cut short: download it again ({error})") from error
    except pickle.UnpicklingError as error:
        raise TalkiesError(
            f"{name}: it holds something other than weights, or is damaged; nothing in it was run: {ASK}"
        ) from error
    except Exception as error:  # the parser may raise anything for a damaged file
        raise TalkiesError(f"{name}: damaged, or a download cut short: download it again") from error
    if not isinstance(content, Mapping):
        raise TalkiesError(f"{name}: holds a {type(content).__name__}, not a generator and a kp_detector: {ASK}")
    missing = [network for network in NETWORKS if not isinstance(content.get(network), Mapping)]
    if missing:
        found = ", ".join(sorted(map(str, content))[:3]) or "nothing"
        found += ", ..." if len(content) > 3 else ""
        raise TalkiesError(f"{name}: no {' and no '.join(missing)} in it, but {printable(found)}: {ASK}")
    entries = {f"{network}.{key}": value for network in NETWORKS for key, value in content[network].items()}
    for key, value in entries.items():
        if not (isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"):
            raise TalkiesError(f"{name}: {printable(key)} in it is no plain tensor: {ASK}")
    return entries


def _load_strictly(model: FirstOrderModel, entries: StateDict, path: Path) -> None:
    """Load entries into the model; TalkiesError says how they differ and which preset they fit."""
    name = printable(path)
    difference = _difference(model, entries)
    if difference:
        fits = fitting_presets(entries)
        advice = f"they fit {', '.join(fits)}: choose that preset" if fits else "give the file made for it"
        raise TalkiesError(f"{name}: these weights are not for preset {model.preset.name} ({difference}); {advice}")
    unfit = next((key for key, t in entries.items() if t.is_floating_point() and not t.isfinite().all()), None)
    if unfit is not None:
        raise TalkiesError(f"{name}: {unfit} holds infinite or undefined numbers: the file is damaged, get it again")
    model.load_state_dict(entries, strict=True, assign=True)


def fitting_presets(entries: StateDict) -> list[str]:
    """Return the names of the presets whose network these entries are, by names and shapes."""
    return [preset for preset in PRESETS if not _difference(skeleton(preset), entries)]


def skeleton(preset: str | Preset | Mapping[str, Any]) -> FirstOrderModel:
    """Return a network without numbers, for their names and shapes or to be filled."""
    with torch.device("meta"), _Unfilled():
        return build_model(preset)


class _Unfilled(TorchFunctionMode):
    """Fills no tensor with numbers: on the meta device that would import PyTorch's compiler, in two seconds."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if getattr(function, "__module__", "") == "torch.nn.init" else function(*args, **(kwargs or {}))


def _difference(model: FirstOrderModel, entries: StateDict) -> str:
    """Return the first difference of entries from the model's names and shapes, or ''."""
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in entries:
            return f"{name} is missing"
        found = entries[name]
        if found.shape != tensor.shape:
            return f"{name} is {list(found.shape)}, {list(tensor.shape)} is asked for"
        if found.is_floating_point() != tensor.is_floating_point() or found.is_complex():
            return f"{name} is {found.dtype}, {tensor.dtype} is asked for"
    unknown = next((name for name in entries if name not in wanted), None)
    return f"{printable(unknown)} is unknown to it" if unknown else ""


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) of a state dict: names, shapes and float32 bytes, in the names' order.

    The same weights have the same digest as `.pth.tar` and as safetensors. Batch counters, which affect no result,
    are left out.
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
    """Write a state dict as safetensors, whole or not at all; half stores in float16 what float16 can hold.

    Raises TalkiesError if the file can't be written.
    """
    # Copies, since safetensors refuses tensors that share memory.
    entries = {name: (_halved(t) if half else t).detach().cpu().contiguous().clone() for name, t in state.items()}
    write_entries(entries, Path(path), {"format": "pt", "weights_digest": weights_digest(entries)})


def write_entries(entries: StateDict, path: Path, metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all; TalkiesError if that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with whole(path) as part:
            part.touch()
            usual = part.stat().st_mode  # safetensors makes files that only their owner may read
            save_file(entries, part, metadata=metadata)
            part.chmod(usual)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise TalkiesError(f"{printable(path)}: can't write the weights ({reason}): give another place") from error


def _halved(tensor: Tensor) -> Tensor:
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if half.isfinite().all() else tensor  # a running variance may pass 65504, float16's largest
