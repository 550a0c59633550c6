"""Fetches published weights from their hosts to where presets find them, and checks them without running them.

gdown transfers: it handles Google Drive's pages, retries, and continues partial files. This module checks whether a
partial file belongs to the host's current file, and whether the result fits the network. If a source fails, a line
says why, and the next is tried.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import TalkiesError, printable, size_text
from ..files import file_digest, publish, read_json, write_json
from ..fomm.model.checkpoint_head import MAX_BYTES, check_head, kind_of
from ..fomm.model.presets import PRESETS
from ..fomm.model.published import VARIABLE, as_safetensors, check_unchanged, note, noted, weights_folder
from ..run.lock import held

log = logging.getLogger("talkies")

RELEASE = "https://github.com/graphemecluster/first-order-model-demo/releases/download/checkpoints"
DRIVE = "https://drive.google.com"
DRIVE_FOLDER = f"{DRIVE}/drive/folders/1PyQJmkdCsAkOYwUyaj_l-l0as-iLDgeH"
YANDEX = "https://disk.yandex.ru/d"
YANDEX_FOLDER = f"{YANDEX}/lEw8uRm140L_eQ"
YANDEX_HOSTS = ("disk.yandex.ru", "disk.yandex.com", "yandex.ru", "yadi.sk")
YANDEX_API = "https://cloud-api.yandex.net/v1/disk/public/resources/download"

LINKS = {
    "vox-adv-256": (f"{DRIVE}/uc?id=1coUCdyRXDbpWnEkA99NLNY60mb9dQ_n3", f"{YANDEX}/M0FWpz2ExBfgAA"),
    "vox-256": (f"{DRIVE}/uc?id=1kZ1gCnpfU0BnpdU47pLM_TQ6RypDDqgw", f"{YANDEX_FOLDER}/vox-cpk.pth.tar"),
}
"""Links to single files besides the release. The other presets' files are in the authors' folders, by name."""
MD5 = {"vox-adv-256": "8a45a24037871c045fbb8a6a8aa95ebc"}
"""The md5 sums of the published files; only this one was ever published."""

SECONDS = (20.0, 60.0)
"""Seconds to wait for a host: for the connection, and then for each piece."""
RETRIES = 5
"""How often an interrupted transfer is continued before the source is given up."""
TRIES = 3
"""How often a transfer that can't be continued starts again."""


class Refused(Exception):
    """The reason, in one line, why a source does not give the file."""


@dataclass(frozen=True)
class Fetched:
    """Weights that are here now.

    source: None if they were here already. sha256: of the downloaded file. sums: how it was checked. weights: the
    digest of the network's weights, None if PyTorch is not installed.
    """

    path: Path
    source: str | None
    size: int
    sha256: str
    sums: str
    weights: str | None


@dataclass(frozen=True)
class _Order:
    """The paths of a fetch: the download under `came`, and the result under the first of `leaves`.

    leaves: files of which any one will do if it exists already. convert: to safetensors.
    """

    preset: str
    came: Path
    leaves: tuple[Path, ...]
    sha256: str | None
    convert: bool


def sources_of(preset: str) -> list[str]:
    """Return the known links to a preset's published file, the likeliest first."""
    name = PRESETS[preset].checkpoint
    return [f"{RELEASE}/{name}", *LINKS.get(preset, (DRIVE_FOLDER, f"{YANDEX_FOLDER}/{name}"))]


def fetch(
    preset: str,
    *,
    source: str | None = None,
    to: Path | None = None,
    sha256: str | None = None,
    convert: bool = False,
    progress: Any = None,
) -> Fetched:
    """Fetch a published preset's weights, unless they are here already.

    source: the only link to try. to: the file to write; None: in the folder where presets look. sha256: of the
    downloaded file, in hexadecimal. convert: write safetensors of the network's own entries. progress: `start`
    (total, unit) and `advance` (count) are called with megabytes. Raises TalkiesError, one line, if no source gives
    the file, or another file is in its place.
    """
    name = PRESETS[preset].checkpoint
    if name is None:
        raise TalkiesError(f"preset {preset} has its weights in the package: choose another to fetch")
    _check_means(convert, to)
    folder = to.absolute().parent if to else weights_folder()
    if folder is None:
        raise TalkiesError(
            f"{preset}: there is no cache folder of your own here: name a folder for weights in {VARIABLE}"
        )
    came = to.absolute() if to and not convert else folder / name
    leaves = (to.absolute(),) if to else (folder / as_safetensors(name), came)[: 1 if convert else 2]
    order = _Order(preset, came, leaves, sha256, convert)
    if found := _found(order):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".fetch.lock", say=log.info, what="fetching weights"):
        return _found(order) or _download(order, [source] if source else sources_of(preset), progress)


def _found(order: _Order) -> Fetched | None:
    """Return the weights that are here already; None if there are none. Raises TalkiesError if they are others."""
    for path in order.leaves:
        if os.path.lexists(path):
            return _here(path, order)
    if order.convert and order.came.is_file():
        return _convert(order.came, order.leaves[0], _here(order.came, order))
    return None


def _download(order: _Order, links: Sequence[str], progress: Any) -> Fetched:
    """Download the file from the first of these links that gives it. Raises TalkiesError if none does."""
    name = str(PRESETS[order.preset].checkpoint)
    work = order.came.with_name(f".{order.came.name[:200]}.partial")
    certain = bool(order.sha256 or order.preset in MD5 or noted(order.came))
    for link in links:
        try:
            place = work / hashlib.sha256(link.encode()).hexdigest()[:12]
            file = _transfer(link, place, name, certain=certain, progress=progress)
            fetched = _new(file, link, order)
        except Refused as refused:
            log.warning("%s: %s", printable(link), refused)
            continue
        note(order.came, file, sha256=fetched.sha256, source=link)
        if order.convert:
            fetched = _convert(file, order.leaves[0], fetched)
        else:
            target = order.leaves[0] if kind_of(file) == "safetensors" else order.came
            if target != order.came:  # a mirror's own conversion
                note(target, file, sha256=fetched.sha256, source=link, of=fetched.sha256)
            publish(file, target)
            fetched = replace(fetched, path=target)
        shutil.rmtree(work, ignore_errors=True)
        return fetched
    raise TalkiesError(
        f"{order.preset}: its weights did not come, for the reasons above: call it again later (what came stays), "
        f"name a mirror (--from URL), or save {name} by a browser as {printable(order.came)}"
    )


def _check_means(convert: bool, to: Path | None) -> None:
    """Check the requirements before anything is downloaded."""
    if find_spec("gdown") is None:
        raise TalkiesError("gdown is not installed, and fetching needs it: fetch outside the image: pip install gdown")
    if convert and find_spec("torch") is None:
        raise TalkiesError(
            "--convert loads the network, and PyTorch is not installed: install it: pip install 'talkies[engine]'"
        )
    if convert and to is not None and to.suffix != ".safetensors":
        raise TalkiesError(f"{printable(to)}: give the output of --convert a name that ends in .safetensors")


# --- the transfer --------------------------------------------------------------------------------------------


def _transfer(link: str, place: Path, name: str, *, certain: bool, progress: Any) -> Path:
    """Download a file into a folder of its own, continuing a partial file there; return its path.

    certain: the file's digest is known, so that a mix of two files would be noticed. Raises Refused.
    """
    import gdown
    from gdown.parse_url import is_google_drive_url
    from requests.exceptions import RequestException

    file, begun = place / name, place / "begun.json"
    goes_on, reason = True, ""
    for _ in range(TRIES):
        try:
            url = _address(link, name)
            version = None if is_google_drive_url(url) else _version(url)
            goes_on = bool(version or certain)
            if not goes_on or (read_json(begun) or {}).get("version") != version:
                shutil.rmtree(place, ignore_errors=True)
            write_json(begun, {"source": link, "version": version})
            gdown.download(
                url,
                str(file),
                quiet=True,
                use_cookies=False,
                resume=True,
                timeout=SECONDS,
                retries=RETRIES if goes_on else 0,
                progress=_telling(progress),
            )
            if version is None or _version(url) == version:
                file.chmod(begun.stat().st_mode)  # only the owner may read gdown's files, whatever the umask
                return file
            reason = "the file changes while it is downloaded"
        except Refused:
            raise
        except Exception as error:  # gdown may raise anything for a host's answer
            if isinstance(error, OSError) and not isinstance(error, RequestException):
                raise OSError(error.errno, error.strerror or str(error), str(place)) from None  # of this machine
            reason = _why(error)
            if goes_on and "byte range" not in reason:
                raise Refused(reason) from None
        shutil.rmtree(place, ignore_errors=True)  # the host can't continue in the middle of this file: start again
    raise Refused(reason)


def _address(link: str, name: str) -> str:
    """Return the address of the file itself: a link may be a Google Drive folder, or a public Yandex Disk link."""
    import gdown
    import requests
    from gdown.parse_url import is_google_drive_url

    parts = urlsplit(link)
    if is_google_drive_url(link) and "/folders/" in parts.path:
        listed: Any = gdown.download_folder(
            link, skip_download=True, quiet=True, use_cookies=False, timeout=SECONDS, output="."
        )
        found = [each.id for each in listed if Path(each.path).name == name]
        if not found:
            raise Refused(f"there is no {name} in that folder")
        return f"{DRIVE}/uc?id={found[0]}"
    shared = re.fullmatch(r"/([di]/[^/]+)(/.+)?", unquote(parts.path)) if parts.hostname in YANDEX_HOSTS else None
    if shared:
        asked = {"public_key": f"https://{parts.hostname}/{shared[1]}"} | ({"path": shared[2]} if shared[2] else {})
        answer = requests.get(YANDEX_API, params=asked, timeout=SECONDS)
        answer.raise_for_status()
        return str(answer.json()["href"])
    return link


def _version(url: str) -> str | None:
    """Return what identifies a host's file, since an address may get another one; None if the host does not say."""
    import requests

    with requests.get(url, stream=True, timeout=SECONDS, headers={"Accept-Encoding": "identity"}) as answer:
        answer.raise_for_status()
        tag = answer.headers.get("ETag", "W/")
        tag = answer.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
        return f"{tag} {answer.headers.get('Content-Length', '')}" if tag else None


def _telling(progress: Any) -> Callable[[int, int | None], None]:
    """Return the function that gdown calls with the bytes so far and in all; it raises Refused if they are too
    many."""
    told: list[int] = []

    def tell(so_far: int, total: int | None) -> None:
        if max(so_far, total or 0) > MAX_BYTES:
            raise Refused(f"{size_text(max(so_far, total or 0))} are too many for weights of this network")
        if progress is not None:
            if not told:
                progress.start((total or 0) // 10**6, "MB")
                told.append(0)
            progress.advance(so_far // 10**6 - told[0])
            told[0] = so_far // 10**6

    return tell


def _why(error: Exception) -> str:
    """Return in one line why a transfer failed."""
    from requests.exceptions import HTTPError, Timeout

    cause = error
    while cause.__cause__ is not None and not isinstance(cause, HTTPError | Timeout):
        cause = cause.__cause__  # type: ignore[assignment]
    if isinstance(cause, HTTPError) and cause.response is not None:
        return f"the host answers {cause.response.status_code} {cause.response.reason}"
    if isinstance(cause, Timeout):
        return f"no answer within {SECONDS[1]:g} seconds"
    text = " ".join(str(error).partition("\nThe received bytes")[0].split())
    text = text.removeprefix("Failed to retrieve file url: ").partition(" You may still be able")[0]
    if "timed out" in text:
        return f"no answer within {SECONDS[1]:g} seconds"
    if told := re.search(r"\[Errno -?\d+\] ([^)'\"]+)", text):
        return f"can't reach the host ({told[1].strip()})"
    return printable(text)[:200].rstrip(".") or type(error).__name__


# --- what came -----------------------------------------------------------------------------------------------


def _new(file: Path, link: str, order: _Order) -> Fetched:
    """Check a downloaded file; if it is not the requested one, remove it and raise Refused."""
    try:
        check_head(file, order.preset)
        digest, sums = _known(file, noted(order.came), order.sha256, MD5.get(order.preset))
        return Fetched(order.came, link, file.stat().st_size, digest, sums, _weights(file, order.preset))
    except TalkiesError as error:
        shutil.rmtree(file.parent, ignore_errors=True)
        raise Refused(str(error).removeprefix(f"{printable(file)}: ")) from None


def _here(path: Path, order: _Order) -> Fetched:
    """Check a file that is here already, and note its digest if none was noted. Raises TalkiesError."""
    entry = noted(path) or {}
    md5 = MD5.get(order.preset) if path.name == PRESETS[order.preset].checkpoint else None
    try:
        check_head(path, order.preset)
        check_unchanged(path)
        digest, sums = _known(path, entry, order.sha256, md5)
        weights = _weights(path, order.preset)
    except TalkiesError as error:
        said = f"{printable(path)}: {str(error).removeprefix(f'{printable(path)}: ')}"
        raise TalkiesError(f"{said}. It is where the weights belong: move it away, then fetch them") from None
    with suppress(OSError):  # a folder of another user is only read
        note(path, path, sha256=digest, source=entry.get("source"), of=entry.get("of"))
    return Fetched(path, None, path.stat().st_size, digest, sums, weights)


def _known(file: Path, entry: Mapping[str, Any] | None, sha256: str | None, md5: str | None) -> tuple[str, str]:
    """Compare a file with its known digests; return its sha256, and how it was checked.

    entry: of weights.lock. sha256: the wanted one, of the file or of the file it was converted from. md5: as
    published. Raises TalkiesError for another file.
    """
    entry = entry or {}
    digest = file_digest(file)
    if sha256:
        if sha256 not in (digest, entry.get("of")):
            raise TalkiesError(
                f"another file: its sha256 is {digest}, not the one asked for: fetch it again, or mend --sha256"
            )
        return digest, "as asked for"
    if md5:
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "md5").hexdigest() != md5:
                raise TalkiesError(f"another file: its md5 is not {md5}, as published (--sha256 lets another one pass)")
        return digest, f"md5 {md5}, as published"
    if not entry:
        return digest, "first use: noted in weights.lock, and another file is refused from now on"
    if digest != entry["sha256"]:
        raise TalkiesError(
            f"another file than the first: in weights.lock its sha256 is {entry['sha256']}, and now it is {digest} "
            "(--sha256 lets it pass)"
        )
    return digest, "as in weights.lock"


def _weights(file: Path, preset: str) -> str | None:
    """Load a file as the network does; return its weights' digest, or None without PyTorch."""
    if find_spec("torch") is None:
        return None
    from ..fomm.model import load_model

    return load_model(preset, file).weights_digest


def _convert(file: Path, target: Path, fetched: Fetched) -> Fetched:
    """Write the network's own entries of a file as safetensors."""
    from ..fomm.model import load_checkpoint, save_safetensors

    save_safetensors(load_checkpoint(file), target)
    note(target, target, sha256=file_digest(target), source=fetched.source, of=fetched.sha256)
    return replace(fetched, path=target, size=target.stat().st_size)
