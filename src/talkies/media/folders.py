"""The pictures and clips of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import TalkiesError, printable

PICTURE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .heic .heif .avif .ppm .pgm .pbm .pnm .jp2".split()  # noqa: SIM905
)
CLIP_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .gif .apng .mpg .mpeg .vob .ts .m2ts .mts .flv .wmv .asf .ogv".split()  # noqa: SIM905
)


def list_pictures(folder: str | Path) -> list[Path]:
    """Return the pictures of a folder, by suffix, sorted by name."""
    return sort_folder(folder, PICTURE_SUFFIXES)[0]


def list_clips(folder: str | Path) -> list[Path]:
    """Return the clips of a folder, by suffix, sorted by name."""
    return sort_folder(folder, CLIP_SUFFIXES)[0]


def sort_folder(folder: str | Path, suffixes: frozenset[str]) -> tuple[list[Path], list[Path]]:
    """Return the files of a folder that have one of the suffixes (any case), and the files that were ignored.

    Hidden files (`.DS_Store`, `._photo.jpg`) and folders are in neither. Broken links are included, so that they fail
    by name instead of vanishing. Raises TalkiesError if `folder` can't be listed.
    """
    folder = Path(folder)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        reason = (error.strerror or "cannot be listed").lower()
        raise TalkiesError(f"{printable(folder)}: {reason}: name another folder, or mend this one") from None
    taken: list[Path] = []
    ignored: list[Path] = []
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith(".") or os.path.isdir(path):  # noqa: PTH112 - of a link to nowhere others raise
            continue
        (taken if path.suffix.lower() in suffixes else ignored).append(path)
    return taken, ignored
