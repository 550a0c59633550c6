"""The pictures and clips of a folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ..errors import TalkiesError, counted, printable

PICTURE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .heic .heif .hif .avif .ppm .pgm .pbm .pnm .jp2".split()  # noqa: SIM905
)
CLIP_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .gif .apng .mpg .mpeg .vob .ts .m2ts .mts .flv .wmv .asf .ogv".split()  # noqa: SIM905
)
SOUND_SUFFIXES = frozenset(".wav .mp3 .m4a .aac .flac .ogg .oga .opus .wma .aif .aiff .amr .caf .ac3".split())  # noqa: SIM905
SHOWN = 4  # suffixes named in one line


class Sorted(NamedTuple):
    """The entries of a folder, sorted by name; hidden ones (`.DS_Store`, `._photo.jpg`) are in none.

    taken: files of a wanted suffix. Of others: sounds, files; odd: files of a wanted suffix whose name has a control or
    undecodable character, which no line of a log can show; folders.
    """

    taken: list[Path]
    sounds: list[Path]
    files: list[Path]
    odd: list[Path]
    folders: list[Path]


def list_pictures(folder: str | Path) -> list[Path]:
    """Return the pictures of a folder, by suffix, sorted by name."""
    return sort_folder(folder, PICTURE_SUFFIXES).taken


def list_clips(folder: str | Path) -> list[Path]:
    """Return the clips of a folder, by suffix, sorted by name."""
    return sort_folder(folder, CLIP_SUFFIXES).taken


def sort_folder(folder: str | Path, suffixes: frozenset[str]) -> Sorted:
    """Return the entries of a folder by what they are; suffixes: those wanted, in any case.

    Broken links are files, so that they fail by name instead of vanishing. Raises TalkiesError if `folder` can't be
    listed.
    """
    folder = Path(folder)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        reason = (error.strerror or "cannot be listed").lower()
        raise TalkiesError(f"{printable(folder)}: {reason}: name another folder, or mend this one") from None
    found = Sorted([], [], [], [], [])
    for entry in entries:
        path, suffix = folder / entry.name, Path(entry.name).suffix.lower()
        if entry.name.startswith("."):
            continue
        if os.path.isdir(path):  # noqa: PTH112 - of a link to nowhere others raise
            found.folders.append(path)
        elif suffix in suffixes:
            (found.odd if _is_odd(entry.name) else found.taken).append(path)
        else:
            (found.sounds if suffix in SOUND_SUFFIXES else found.files).append(path)
    return found


def not_used(folder: str | Path, suffixes: frozenset[str], but: Collection[Path] = ()) -> str:
    """Return in words which entries of a folder are not used ("3 files (.jxl, .txt), 1 folder"); empty for none.

    but: files that are used in another way, as sound.
    """
    found = sort_folder(folder, suffixes)
    used = {Path(os.path.abspath(path)) for path in but}  # noqa: PTH100 (Path.absolute keeps "..")
    sounds, files = ([p for p in each if Path(os.path.abspath(p)) not in used] for each in (found.sounds, found.files))  # noqa: PTH100
    parts = []
    if files:
        parts.append(f"{counted(len(files), 'file')} ({_suffixes(files)})")
    if sounds:
        parts.append(f"{counted(len(sounds), 'sound')} ({_suffixes(sounds)}; the key audio gives a film its sound)")
    if found.odd:
        parts.append(
            f"{counted(len(found.odd), 'file')} to rename (a control character in {printable(found.odd[0].name)})"
        )
    if found.folders:
        parts.append(counted(len(found.folders), "folder"))
    return ", ".join(parts)


def _is_odd(name: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def _suffixes(files: list[Path]) -> str:
    found = sorted({printable(path.suffix.lower()) or "no suffix" for path in files})
    return ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
