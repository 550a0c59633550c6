"""Published weights: found on this machine, where `talkies checkpoint fetch` puts them, or fetched from a link.

weights.lock beside them has each file's digest, size and time after its download; a file that has changed is refused.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import TalkiesError, printable
from ...files import beside, file_digest, own_cache, publish, read_json, write_json
from .checkpoint_head import check_head, kind_of
from .presets import PRESETS

VARIABLE = "TALKIES_WEIGHTS"
CARRIED = Path("weights")
"""The folder, in the working folder, that is searched first; `talkies stage push` fills it."""
INSIDE = Path(sys.prefix, "weights")
"""The folder of weights inside an image (scripts/build_container.py --checkpoint PRESET)."""
LOCK = "weights.lock"
RELEASE = "https://github.com/graphemecluster/first-order-model-demo/releases/download/checkpoints"
PAGES = (
    "https://drive.google.com/drive/folders/1PyQJmkdCsAkOYwUyaj_l-l0as-iLDgeH",
    "https://disk.yandex.ru/d/lEw8uRm140L_eQ",
)
"""The authors' own folders, whose pages only a browser can get through."""
MD5 = {"vox-adv-256": "8a45a24037871c045fbb8a6a8aa95ebc"}
"""The md5 sums of the published files; only this one was ever published."""
SECONDS = (20.0, 60.0)
"""Seconds to wait for a host: for the connection, and then for each piece."""


def weights_folder() -> Path | None:
    """Return the folder for fetched weights: $TALKIES_WEIGHTS, else one in the user's cache folder.

    None if there is neither.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    cache = own_cache()
    return cache / "weights" if cache else None


def find_weights(preset: str) -> Path:
    """Return the file of a preset's published weights; TalkiesError names the command that fetches them.

    The order is: `weights` in the working folder, the folder of `weights_folder`, an image's own; and in each,
    safetensors before the published file.
    """
    name = PRESETS[preset].checkpoint
    if name is None:
        raise ValueError(f"the weights of {preset} are in the package")
    places = filter(None, [CARRIED, weights_folder(), INSIDE])
    for path in (place / each for place in places for each in (as_safetensors(name), name)):
        if path.is_file():
            check_unchanged(path)
            return path
    raise TalkiesError(
        f"preset {preset} needs its weights, and they are not here: `talkies checkpoint fetch {preset}` gets them, or "
        f"give the path of {name} (--checkpoint, or model: checkpoint: in config.yaml)"
    )


def as_safetensors(name: str) -> str:
    """Return a published file's name as safetensors."""
    return f"{name.removesuffix('.pth.tar')}.safetensors"


def noted(path: Path) -> dict[str, Any] | None:
    """Return a file's entry in the weights.lock beside it (see `note`); None if there is none."""
    entry = (read_json(path.with_name(LOCK)) or {}).get(path.name)
    return entry if isinstance(entry, dict) and isinstance(entry.get("sha256"), str) else None


def note(path: Path, file: Path, *, sha256: str, source: str) -> None:
    """Write an entry for a path into the weights.lock beside it. file: its current place."""
    lock, status = path.with_name(LOCK), file.stat()
    entry = {"sha256": sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "source": source}
    write_json(lock, (read_json(lock) or {}) | {path.name: entry})


def check_unchanged(path: Path) -> None:
    """Refuse a weights file that does not match the weights.lock beside it. Raises TalkiesError. Its digest is
    computed only if its size or time differ.
    """
    entry = noted(path)
    if entry is None:
        return
    status = path.stat()
    if [status.st_size, status.st_mtime_ns] == [entry.get("size"), entry.get("mtime_ns")]:
        return
    if status.st_size != entry.get("size") or file_digest(path) != entry["sha256"]:
        raise TalkiesError(
            f"{printable(path)}: has changed since it was fetched (the {LOCK} beside it has its sha256): move it away "
            "and fetch it again, or take its entry out of that file"
        )


# --- fetching ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetched:
    """Weights that are here now. source: None if they were here already. checked: how, in words."""

    path: Path
    source: str | None
    size: int
    sha256: str
    checked: str


def fetch(preset: str, *, source: str | None = None, to: Path | None = None, sha256: str | None = None) -> Fetched:
    """Fetch a published preset's weights, unless they are here already.

    source: the link; None: the known one. to: the file to write; None: in the folder where presets look. sha256: of
    the file, in hexadecimal. Raises TalkiesError, one line, if the link does not give the file, or another file is in
    its place.
    """
    name = str(PRESETS[preset].checkpoint)
    folder = to.absolute().parent if to else weights_folder()
    if folder is None:
        raise TalkiesError(f"{preset}: you have no cache folder here: name a folder for weights in {VARIABLE}")
    target = to.absolute() if to else folder / name
    for path in (target,) if to else (folder / as_safetensors(name), target):
        if path.exists():
            try:
                check_unchanged(path)
                digest, checked = _check(path, path, preset, sha256)
            except TalkiesError as error:
                raise TalkiesError(f"{printable(path)}: {error}. Move it away, then fetch them") from None
            return Fetched(path, None, path.stat().st_size, digest, checked)
    link = source or f"{RELEASE}/{name}"
    folder.mkdir(parents=True, exist_ok=True)
    part = beside(target)
    try:
        _download(link, part)
        digest, checked = _check(part, target, preset, sha256)
        if to is None and kind_of(part) == "safetensors":  # a mirror's own conversion
            target = target.with_name(as_safetensors(name))
        note(target, part, sha256=digest, source=link)
        publish(part, target)
    except TalkiesError as error:
        pages = " or ".join(PAGES)
        raise TalkiesError(
            f"{preset}: {printable(link)}: {error}: name another link (--from URL), or save {name} by a browser as "
            f"{printable(target)}, from {pages}"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return Fetched(target, link, target.stat().st_size, digest, checked)


def _download(link: str, part: Path) -> None:
    """Download a link's file. Raises TalkiesError with the host's answer."""
    if find_spec("pooch") is None:
        raise TalkiesError("pooch is not installed, and fetching needs it: fetch outside the image: pip install pooch")
    import pooch
    from requests import HTTPError, RequestException

    get = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 20, timeout=SECONDS)
    try:
        get(link, str(part), None)
    except HTTPError as error:
        raise TalkiesError(f"the host answers {error}".partition(" for url")[0]) from None
    except RequestException as error:
        raise TalkiesError(f"the transfer failed ({printable(str(error))[:200]})") from None


def _check(file: Path, target: Path, preset: str, sha256: str | None) -> tuple[str, str]:
    """Check a file's head and digest; return its sha256, and how it was checked.

    target: its final place, which weights.lock may know. Raises TalkiesError, without the file's name.
    """
    try:
        check_head(file, preset)
    except TalkiesError as error:
        raise TalkiesError(str(error).removeprefix(f"{printable(file)}: ")) from None
    digest = file_digest(file)
    known = noted(target)
    if sha256:
        if digest != sha256:
            raise TalkiesError(f"another file: its sha256 is {digest}, not the one of --sha256")
        return digest, "as asked for"
    if preset in MD5 and kind_of(file) != "safetensors":
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "md5").hexdigest() != MD5[preset]:
                raise TalkiesError(f"another file: its md5 is not {MD5[preset]}, as published (--sha256 lets it pass)")
        return digest, f"md5 {MD5[preset]}, as published"
    if known is None:
        return digest, f"first use: noted in {LOCK}, and another file is refused from now on"
    if digest != known["sha256"]:
        raise TalkiesError(f"another file than the first: its sha256 is {digest}, in {LOCK} {known['sha256']}")
    return digest, f"as in {LOCK}"
