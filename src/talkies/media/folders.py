"""The pictures and clips of a folder."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from ..errors import TalkiesError, printable

PICTURE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .heic .heif .hif .avif .ppm .pgm .pbm .pnm .jp2".split()  # noqa: SIM905
)
CLIP_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .gif .apng .mpg .mpeg .vob .ts .m2ts .mts .flv .wmv .asf .ogv".split()  # noqa: SIM905
)


def list_pictures(folder: str | Path) -> list[Path]:
    """Return the pictures of a folder, by suffix, sorted by name."""
    return [path for path in _files(folder) if path.suffix.lower() in PICTURE_SUFFIXES]


def list_clips(folder: str | Path) -> list[Path]:
    """Return the clips of a folder, by suffix, sorted by name."""
    return [path for path in _files(folder) if path.suffix.lower() in CLIP_SUFFIXES]


def not_used(folder: str | Path, used: Collection[Path]) -> list[str]:
    """Return the names of the files of a folder that are not among these."""
    return [printable(path.name) for path in _files(folder) if path not in used]


def _files(folder: str | Path) -> list[Path]:
    """Return the files of a folder, without hidden ones (`.DS_Store`, `._photo.jpg`), sorted by name.

    Broken links are files, so that they fail by name instead of vanishing. Raises TalkiesError if `folder` can't be
    listed.
    """
    try:
        paths = sorted(Path(folder).iterdir(), key=os.fsencode)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        reason = (error.strerror or "cannot be listed").lower()
        raise TalkiesError(f"{printable(folder)}: {reason}: name another folder, or mend this one") from None
    # os.path.isdir, since Path's raises for some links to nowhere.
    return [path for path in paths if not path.name.startswith(".") and not os.path.isdir(path)]  # noqa: PTH112
