"""The published weights, from their hosts to where presets find them: whole, checked, and nothing in them is run.

gdown does the transfer: it knows Google Drive's pages, tries again, and goes on with a partial file. What it can't know
is known here: whether a partial file of an earlier try is of the file that the host has today, and whether what came is
the network's. A source that fails is told in a line, and the next is tried.
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
"""Beside the release: links to single files. The other presets' lie in the authors' folders, under their names."""
MD5 = {"vox-adv-256": "8a45a24037871c045fbb8a6a8aa95ebc"}
"""Of the published files; nobody has published more sums than this one."""

SECONDS = (20.0, 60.0)
"""To wait for a host: until it takes the connection, and then for each piece."""
RETRIES = 5
"""How often a transfer that breaks off goes on, before its source is given up."""
TRIES = 3
"""How often a transfer that can't go on where it broke off begins anew."""


class Refused(Exception):
    """A source does not give the file: why, in a line."""


@dataclass(frozen=True)
class Fetched:
    """Weights that lie here now.

    source: None where they were here. sha256: of the file that came, and sums: how it is known to be the right one.
    weights: the digest of the network's weights, None where PyTorch is not installed.
    """

    path: Path
    source: str | None
    size: int
    sha256: str
    sums: str
    weights: str | None


@dataclass(frozen=True)
class _Order:
    """What is to lie where: the file as it comes under `came`, and in the end under the first of `leaves`.

    leaves: the files that are as good, where one of them is here already. convert: to safetensors.
    """

    preset: str
    came: Path
    leaves: tuple[Path, ...]
    sha256: str | None
    convert: bool


def sources_of(preset: str) -> list[str]:
    """Return the links under which a preset's published file is known, the likeliest first."""
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
    """Bring a published preset's weights here, or find that they are here.

    source: a link that is tried alone. to: the file to write; None takes the folder in which presets find them. sha256:
    of the file as it comes, in hexadecimal. convert: leave safetensors of the network's own entries. progress: `start`
    (total, unit) and `advance` (count) are told of megabytes.
    Raises TalkiesError, one line, where no source gives the file, or another one lies there.
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
    """Return what is here already; None where nothing is. Raises TalkiesError where it is something else."""
    for path in order.leaves:
        if os.path.lexists(path):
            return _here(path, order)
    if order.convert and order.came.is_file():
        return _convert(order.came, order.leaves[0], _here(order.came, order))
    return None


def _download(order: _Order, links: Sequence[str], progress: Any) -> Fetched:
    """Take the file from the first of these links that gives it. Raises TalkiesError where none does."""
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
            if target != order.came:  # a mirror's own form of it
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
    """See that what will be needed is here, before anything is downloaded."""
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
    """Download a file into a folder of its own, going on with what an earlier try left there; return its path.

    certain: the file's digest is known, so that bytes of two files put together would be found out. Raises Refused.
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
                file.chmod(begun.stat().st_mode)  # gdown's files are for their owner alone, whatever the umask
                return file
            reason = "the file changes while it is downloaded"
        except Refused:
            raise
        except Exception as error:  # whatever a host's answer makes gdown raise
            if isinstance(error, OSError) and not isinstance(error, RequestException):
                raise OSError(error.errno, error.strerror or str(error), str(place)) from None  # of this machine
            reason = _why(error)
            if goes_on and "byte range" not in reason:
                raise Refused(reason) from None
        shutil.rmtree(place, ignore_errors=True)  # the host can't go on in the middle of this file: from its beginning
    raise Refused(reason)


def _address(link: str, name: str) -> str:
    """Return the address of the file itself: a link may be a folder of Google Drive, or a public one of Yandex Disk."""
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
    """Return what tells a host's file from another under the same address; None where the host tells nothing."""
    import requests

    with requests.get(url, stream=True, timeout=SECONDS, headers={"Accept-Encoding": "identity"}) as answer:
        answer.raise_for_status()
        tag = answer.headers.get("ETag", "W/")
        tag = answer.headers.get("Last-Modified", "") if tag.startswith("W/") else tag
        return f"{tag} {answer.headers.get('Content-Length', '')}" if tag else None


def _telling(progress: Any) -> Callable[[int, int | None], None]:
    """Return the function that gdown calls with the bytes so far and in all; Refused where they are too many."""
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
    """Return in a line why a transfer failed."""
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
    """Look at a file that was downloaded; Refused, and the file is removed, where it is not what was asked for."""
    try:
        check_head(file, order.preset)
        digest, sums = _known(file, noted(order.came), order.sha256, MD5.get(order.preset))
        return Fetched(order.came, link, file.stat().st_size, digest, sums, _weights(file, order.preset))
    except TalkiesError as error:
        shutil.rmtree(file.parent, ignore_errors=True)
        raise Refused(str(error).removeprefix(f"{printable(file)}: ")) from None


def _here(path: Path, order: _Order) -> Fetched:
    """Look at a file that is here already; note what it is where nothing was noted. Raises TalkiesError."""
    entry = noted(path) or {}
    md5 = MD5.get(order.preset) if path.name == PRESETS[order.preset].checkpoint else None
    try:
        check_head(path, order.preset)
        check_unchanged(path)
        digest, sums = _known(path, entry, order.sha256, md5)
        weights = _weights(path, order.preset)
    except TalkiesError as error:
        said = f"{printable(path)}: {str(error).removeprefix(f'{printable(path)}: ')}"
        raise TalkiesError(f"{said}. It lies where the weights belong: move it away, then fetch them") from None
    with suppress(OSError):  # a folder of others is only read
        note(path, path, sha256=digest, source=entry.get("source"), of=entry.get("of"))
    return Fetched(path, None, path.stat().st_size, digest, sums, weights)


def _known(file: Path, entry: Mapping[str, Any] | None, sha256: str | None, md5: str | None) -> tuple[str, str]:
    """Compare a file with what is known of it; return its sha256, and how it is known to be the right one.

    entry: of weights.lock. sha256: as asked for, of the file or of that which it was converted from. md5: as published.
    Raises TalkiesError for another file.
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
    """Load a file as the network does; return its weights' digest, None where there is no PyTorch to load it with."""
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
