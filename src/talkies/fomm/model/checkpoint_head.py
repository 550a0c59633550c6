"""Identifies a weights file by its head, in milliseconds and without PyTorch, before any job is sent.

A `.pth.tar` is PyTorch's zip, or before version 1.6 a sequence of pickles; safetensors starts with a JSON header.
Only the tensors' names and shapes are read, and nothing in the file is run.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ...errors import InputError, TalkiesError, printable
from ...files import open_regular
from .presets import PRESETS

NETWORKS = ("generator", "kp_detector")
SECOND = "photographs"
"""The prefix of a second network's names, which only the package's own file has."""
ZIP_MAGIC = b"PK"
LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")  # follows a pickle's two bytes; torch < 1.6 wrote it
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the format's own bound
MAX_BYTES = 4_000_000_000  # of a file: the published ones are 230 to 730 MB
MAX_NAMES_BYTES = 20_000_000  # of the pickle that names the tensors: the published ones have 0.1 MB
ASK = "give the published .pth.tar or its safetensors"

Shapes = dict[str, tuple[int, ...]]


def kind_of(path: Path) -> str:
    """Return the kind of a weights file by its first bytes: safetensors, zip or legacy.

    Raises TalkiesError, one line with the file and what to do, for anything else.
    """
    name = printable(path)
    try:
        with open_regular(path) as file:
            head = file.read(512)
            size = os.fstat(file.fileno()).st_size
    except InputError as error:
        raise TalkiesError(str(error)) from None  # a wrong setting, not a wrong picture or clip
    except OSError as error:
        raise TalkiesError(
            f"{name}: can't read the checkpoint ({error.strerror}): give its path, or mend its rights"
        ) from error
    if not head:
        raise TalkiesError(f"{name}: the checkpoint is empty: download it again")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise TalkiesError(
            f"{name}: this is a web page, not a checkpoint: the download saved the host's page; "
            "open the link in a browser and confirm, or take another host"
        )
    if head.startswith(b"version https://git-lfs"):
        raise TalkiesError(f"{name}: this is a Git LFS pointer, not the checkpoint: run `git lfs pull`")
    if size > MAX_BYTES:
        raise TalkiesError(f"{name}: {size / 1e9:.1f} GB are too many for weights of this network: {ASK}")
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" or _is_common_zip(path):
        raise TalkiesError(
            f"{name}: this is an archive, not a checkpoint: unpack it and give the file in it "
            "(a published .pth.tar is no archive, whatever its name)"
        )
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_SAFETENSORS_HEADER:
        return "safetensors"
    if head.startswith(ZIP_MAGIC):
        return "zip"
    if head[2:].startswith(LEGACY_MAGIC):
        return "legacy"
    raise TalkiesError(f"{name}: neither a PyTorch nor a safetensors file: {ASK}")


def check_head(path: str | Path, preset: str) -> None:
    """Refuse a file that can't have a preset's weights; TalkiesError says what it is, or which presets it fits."""
    path = Path(path)
    kind = kind_of(path)
    try:
        shapes = _shapes(path, kind)
    except Exception as error:  # a parser may raise anything for a damaged file
        raise TalkiesError(f"{printable(path)}: damaged, or a download cut short: get it again") from error
    missing = [network for network in NETWORKS if not any(key.startswith(f"{network}.") for key in shapes)]
    if missing:
        raise TalkiesError(f"{printable(path)}: no {' and no '.join(missing)} in it: {ASK}")
    if _telling(shapes) != _asked(preset):
        fits = [name for name in PRESETS if _asked(name) == _telling(shapes)]
        advice = f"they fit {', '.join(fits)}: choose that preset" if fits else "give the file made for it"
        raise TalkiesError(f"{printable(path)}: these weights are not for preset {preset}; {advice}")


def _telling(shapes: Shapes) -> list[tuple[int, ...] | None]:
    """Return the shapes in which presets differ: keypoints, their jacobians, first features, a second network."""
    names = (
        *("kp_detector.kp.weight", "kp_detector.jacobian.weight"),
        *("kp_detector.predictor.encoder.down_blocks.0.conv.weight", "generator.first.conv.weight"),
        f"{SECOND}.kp_detector.kp.weight",
    )
    return [shapes.get(name, (0,))[:1] for name in names]


def _asked(preset: str) -> list[tuple[int, ...] | None]:
    parameters = PRESETS[preset].parameters
    keypoints = parameters["common_params"]["num_kp"]
    detector = parameters["kp_detector_params"]
    jacobians = 4 if detector.get("single_jacobian_map") else 4 * keypoints
    features = min(2 * detector["block_expansion"], detector["max_features"])
    second = keypoints if PRESETS[preset].photographs else 0
    return [(keypoints,), (jacobians,), (features,), (parameters["generator_params"]["block_expansion"],), (second,)]


def _is_common_zip(path: Path) -> bool:
    """Return whether a zip is an archive of files (as hosts make of a folder), not PyTorch's with <name>/data.pkl."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("data.pkl") for name in archive.namelist())
    except Exception:  # a damaged zip; reading it reports the fault
        return False


# --- names and shapes --------------------------------------------------------------------------------------


def _shapes(path: Path, kind: str) -> Shapes:
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            record = next(info for info in archive.infolist() if info.filename.endswith("data.pkl"))
            if record.file_size > MAX_NAMES_BYTES:
                raise ValueError("too many names")
            with archive.open(record) as file:
                return _of_pickle(_Reader(file).load())
    with path.open("rb") as file:
        if kind == "safetensors":
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            header.pop("__metadata__", None)
            _check_length(file, max(entry["data_offsets"][1] for entry in header.values()))
            return {name: tuple(entry["shape"]) for name, entry in header.items()}
        for _ in range(3):  # magic number, protocol, the writer's machine
            _Reader(file).load()
        reader = _Reader(file)
        content = reader.load()
        _Reader(file).load()  # the storages' names; then the length and the numbers of each
        _check_length(file, sum(8 + size for size in reader.storages.values()))
        return _of_pickle(content)


def _check_length(file: IO[bytes], left: int) -> None:
    """Refuse a file that is shorter than its head says. left: bytes from here on."""
    if os.fstat(file.fileno()).st_size < file.tell() + left:
        raise ValueError("it ends too soon")


def _of_pickle(content: Any) -> Shapes:
    if not isinstance(content, Mapping):
        return {}
    return {
        f"{network}.{key}": value.shape
        for network in NETWORKS
        if isinstance(content.get(network), Mapping)
        for key, value in content[network].items()
        if isinstance(value, _Tensor)
    }


class _Tensor:
    """Stands for a tensor: only its shape is known."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


class _Anything:
    """Stands for every other name: it accepts any call of a pickle and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild(storage: Any, offset: Any, shape: Any, *_: Any) -> _Tensor:
    return _Tensor(tuple(shape))


class _Reader(pickle.Unpickler):
    """Reads a pickle's names and shapes; only these few classes and functions are ever looked up."""

    KNOWN = {  # noqa: RUF012
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_tensor"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    }

    STORED = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Byte": 1}  # noqa: RUF012

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin-1")
        self.storages: dict[str, int] = {}
        """Bytes of each, by name."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return self.STORED.get(name.removesuffix("Storage"), 0)
        return self.KNOWN.get((module, name), _Anything)

    def persistent_load(self, pid: Any) -> None:
        _, size, name, _, count = pid[:5]
        self.storages[name] = size * count
