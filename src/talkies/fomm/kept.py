"""The fast form of a network, kept in a file beside its weights: the next start maps it and computes nothing again."""

from __future__ import annotations

import glob
import json
import os
from contextlib import suppress
from pathlib import Path

import torch

from ..errors import TalkiesError
from ..files import digest, file_digest, own_cache
from . import precision as choice
from . import rewrite, winograd
from .device import processor_flags
from .model.checkpoint import load_model, skeleton, weights_file, write_entries
from .model.first_order import FirstOrderModel
from .model.presets import PRESETS, Preset
from .precision import fast_form, mend
from .rewrite import InFloat, rewritten


def load_fast(
    preset: str, checkpoint: str | Path | None = None, *, device: str | torch.device = "cpu", precision: str = "auto"
) -> FirstOrderModel:
    """Return the fast form of a preset's network, as `fast_form` makes it of what `load_model` returns.

    It is read from a file beside the weights, or in the user's cache folder, if an earlier start wrote one for the
    same weights, precision, device and versions; else it is made and written there. Raises what `load_model` raises.
    """
    device = torch.device(device)
    weights = weights_file(PRESETS[preset], checkpoint)
    places = _places(weights, PRESETS[preset], device, precision) if weights else []
    for place in places:
        with suppress(Exception):  # there is none, it is damaged, or it can't be read
            if weights and owner(place) in (os.geteuid(), owner(weights)):
                return _read(place, PRESETS[preset], device)
    fast = fast_form(load_model(preset, checkpoint, device=device), precision)
    for place in places:
        with suppress(OSError, TalkiesError):
            _write(fast, place)
            break
    return fast


def owner(path: Path) -> int:
    """Return the user id of a file's owner."""
    return path.stat().st_uid


def _places(weights: Path, preset: Preset, device: torch.device, precision: str) -> list[Path]:
    """Return the files that may hold a fast form: beside the weights, then in the user's cache folder.

    Their name has a digest of the weights' size and times and of the versions, and one of the form.
    """
    try:
        status = weights.stat()
    except OSError:  # those who read the weights report it
        return []
    sources = [file_digest(str(module.__file__)) for module in (rewrite, winograd, choice)]
    made_from = digest([status.st_size, status.st_mtime_ns, status.st_ctime_ns, str(torch.__version__), sources])
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_flags()
    form = digest([preset.name, precision, device.type, machine, os.environ.get("ONEDNN_MAX_CPU_ISA")])
    stem = weights.name.removesuffix(".safetensors").removesuffix(".pth.tar")
    name = f"{stem}.fast-{made_from}-{form}.safetensors"
    folders = [None if preset.packaged else weights.parent, cache / "fast" if (cache := own_cache()) else None]
    return [folder / name for folder in folders if folder]


def _read(place: Path, preset: Preset, device: torch.device) -> FirstOrderModel:
    """Return the fast form in a file, its numbers mapped from there; raises an exception if it is not one."""
    from safetensors import safe_open

    with safe_open(place, "pt", device=str(device)) as file:
        facts = json.loads(file.metadata()["facts"])
        entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fast = rewritten(skeleton(preset), getattr(torch, facts["dtype"]), device.type)
    for network, wrong in zip(fast.networks, facts["in_float"], strict=True):
        mend(network, wrong)
    channels_last = {name: t.permute(0, 3, 1, 2) if t.ndim == 4 else t for name, t in entries.items()}
    fast.load_state_dict(channels_last, strict=True, assign=True)
    fast.weights_digest = facts["weights_digest"]
    return fast.requires_grad_(False).eval()


def _write(fast: FirstOrderModel, place: Path) -> None:
    """Write a fast form, whole or not at all, and remove those of earlier weights and versions."""
    facts = {
        "dtype": str(fast.dtype).removeprefix("torch."),
        "weights_digest": fast.weights_digest,
        "in_float": [
            [name for name, part in network.generator.named_modules() if isinstance(part, InFloat)]
            for network in fast.networks
        ],
    }
    entries = {
        name: (t.permute(0, 2, 3, 1) if t.ndim == 4 else t).detach().cpu().contiguous()
        for name, t in fast.state_dict().items()
    }
    place.parent.mkdir(mode=0o700, exist_ok=True)
    write_entries(entries, place, {"facts": json.dumps(facts)})
    stem, current = place.name.rsplit(".fast-", 1)[0], place.name.rsplit("-", 1)[0]
    for other in place.parent.glob(f"{glob.escape(stem)}.fast-*.safetensors"):
        if not other.name.startswith(f"{current}-"):
            other.unlink(missing_ok=True)
