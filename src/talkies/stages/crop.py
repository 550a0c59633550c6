"""Crops pictures to squares: what rule crop runs."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..errors import InputError, printable
from ..files import file_digest, whole
from ..machine.scratch import FULL
from ..media import crop
from ..media.film import FILM_SIZE
from ..run.plan import Plan, Stage
from ..run.record import Original, Prepared
from .work import Bench, one_by_one, since

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("talkies")

PICTURE_SECONDS = 1.0


def _asks(plan: Plan, name: str) -> dict[str, Any]:
    source = plan.sources[name]
    return {"picture": plan.content(source.file), "crop": source.crop.plain, "side": FILM_SIZE}


def _crop(bench: Bench, name: str) -> Prepared:
    """Crop one picture to a square PNG; return its record. InputError if it is unusable."""
    began = time.monotonic()
    source, target = bench.plan.sources[name], bench.plan.source_file(name)
    path = Path(source.file)
    original = read_original(bench, path)
    square, cut = crop.crop_picture(media.read_picture(path), source.crop, name=path, size=FILM_SIZE)
    if cut.warning:
        log.warning("%s: %s", printable(path), cut.warning)
    write_png(target.path, square)
    return target.describe(Prepared(key=bench.key(name), original=original, crop=cut, seconds=since(began)))


STAGE = Stage(
    "crop",
    "pictures",
    file=lambda plan, name: plan.source_file(name),
    asks=_asks,
    make=one_by_one(_crop, "files"),
    seconds=lambda plan, name: PICTURE_SECONDS,
)


def read_original(bench: Bench, path: Path) -> Original:
    """Return an input file's path, size, time and digest, and tell the plan what it contains.

    InputError if it can't be read.
    """
    plan = bench.plan
    try:
        status = path.stat()
        sha256 = file_digest(path)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(path, f"can't be read ({error.strerror}): copy it again") from None
    if plan.contents.get(str(path)) != sha256:
        plan.contents[str(path)] = sha256
        plan.forget_keys()
    return Original(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256, file=str(path))


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write uint8 RGB [H, W, 3] as PNG, whole or not at all."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        Image.fromarray(picture).save(part, format="PNG")
