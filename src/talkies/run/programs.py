"""The engines of a run that are other programs: their images, and what identifies their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from ..errors import TalkiesError
from ..files import file_digest, read_stamped, write_json
from ..machine.container import ADDRESS, check_bindable, pull, runtime
from ..program import Program
from .folder import HOME

IMAGES = HOME / "images"
"""Images pulled from addresses, unless APPTAINER_CACHEDIR names another place."""
DIGESTS = HOME / "digests.json"
"""Digests of images and checkpoints, by path, size and time: the files are large."""
Contents = dict[str, str | list[int] | None]
"""What tells a program's image and checkpoint from others: a digest, or size and time; None where it has none."""


def fetch_images(programs: Mapping[str, Program]) -> None:
    """Pull images from their addresses when a run starts; TalkiesError if an image could not be run."""
    for name, program in programs.items():
        if program.image is not None:
            if runtime() is None:
                raise TalkiesError(
                    f"engine {name}: runs in an image, and neither apptainer nor singularity is here: load its module, "
                    "or install it"
                )
            check_bindable([Path(program.checkpoint).resolve()] if program.checkpoint else [])
            if ADDRESS.match(program.image):
                pull(program.image, image_file(program))


def image_file(program: Program) -> Path:
    """Return the path of a program's image, or of its pulled copy: in Apptainer's cache folder, if that is set."""
    assert program.image is not None
    if ADDRESS.match(program.image):
        shared = os.environ.get("APPTAINER_CACHEDIR")  # as Snakemake does with the image of its jobs
        return (Path(shared) if shared else IMAGES) / f"{program.image.rpartition(':')[2]}.sif"
    return Path(os.path.abspath(program.image))  # noqa: PTH100 (Path.absolute keeps "..")


def stamps(programs: Mapping[str, Program]) -> dict[str, Contents]:
    """Return, by engine, what identifies its image and checkpoint without reading them: digest, size, time."""
    return {name: _contents(program, _stamp) for name, program in programs.items()}


def digests(program: Program) -> Contents:
    """Return the digests of a program's image and checkpoint, for content keys."""
    return _contents(program, digest_of)


def _contents(program: Program, of: Callable[[Path], str | list[int]]) -> Contents:
    image: str | list[int] | None = None
    if program.image is not None:
        pinned = ADDRESS.match(program.image)
        image = program.image.rpartition("@")[2] if pinned else of(Path(program.image))
    return {"image": image, "checkpoint": None if program.checkpoint is None else of(Path(program.checkpoint))}


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def digest_of(path: Path) -> str:
    """Return a large file's sha256; it is read again only if its size or time has changed."""
    return _digest_of(path, tuple(_stamp(path)))


@cache
def _digest_of(path: Path, seen: tuple[int, ...]) -> str:
    noted, stamp = read_stamped(DIGESTS, str), list(seen)
    known = noted.get(str(path))
    if known is not None and known[0] == stamp:
        return known[1]
    found = file_digest(path)
    write_json(DIGESTS, {**noted, str(path): [stamp, found]})
    return found
