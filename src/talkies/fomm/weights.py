"""Fetches published weights from a link, and checks them without running them. pooch transfers."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..errors import TalkiesError, printable
from ..files import beside, file_digest, publish
from .model.checkpoint_head import check_head, kind_of
from .model.presets import PRESETS
from .model.published import LOCK, VARIABLE, as_safetensors, check_unchanged, note, noted, weights_folder

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
