"""The pairs of a run: pictures and takes from the folders and the pairs table, with the settings of each."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import asdict, astuple, replace

from .. import media
from ..engines import FOMM
from ..errors import TalkiesError, printable
from ..media.crop import LARGEST_FACE, Request
from ..settings import BestFrame, Choices, Row, Settings, read_pairs
from .folder import TAKEN_NAMES

MOST_NAMES = 5
LONGEST_NAME = 160
"""Most bytes of a file name's stem, which leaves room for suffixes and temporary names (the usual limit is 255)."""


@dataclass(frozen=True)
class Source:
    """A picture: its path, and how it is cropped (a mode, or a box [x, y, width, height])."""

    file: str
    crop: Request


@dataclass(frozen=True)
class Take:
    """A driving video, or a segment of it (seconds, as text), its crop, and about how many frames it has."""

    driving: str
    file: str
    crop: Request
    start: str | None = None
    end: str | None = None
    frames: int = 0
    flip: bool = False


class Pair(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """One film to make: a source image moved by a take. Small, since there may be a million of them.

    audio: the driving video's own sound, none, or that of another file. crop, driving_crop: only if they differ from
    the file's usual ones. flip: mirror the driving video. private: not in the public gallery. paste_back: the film
    shows the whole picture. engine: its name.
    """

    driving: str
    image: str
    variant: str | None = None
    start: str | None = None
    end: str | None = None
    relative: bool = True
    adapt_scale: bool = True
    best_frame: BestFrame = None
    audio: bool | str = True
    crop: Request | None = None
    driving_crop: Request | None = None
    flip: bool = False
    private: bool = False
    paste_back: bool = False
    engine: str = FOMM

    @property
    def source(self) -> str:
        """The name of its source: the picture's, with the crop if the pair has its own."""
        return f"{self.image}{_crop_tag(self.crop)}"

    @property
    def stem(self) -> str:
        """The film's name without its suffix: image, or image@variant."""
        return f"{self.image}@{self.variant}" if self.variant else self.image

    @property
    def name(self) -> str:
        """The pair's name: driving/image[@variant], its film's path below the results."""
        return f"{self.driving}/{self.stem}"

    @property
    def take(self) -> str:
        """The name of its take: the driving video's, with the segment if there is one."""
        return take_name(self.driving, self.start, self.end, flip=self.flip, crop=self.driving_crop)


def take_name(
    driving: str, start: str | None, end: str | None, *, flip: bool = False, crop: Request | None = None
) -> str:
    """Return a take's name: the video's, the segment's seconds, whether it is mirrored, and its own crop, if any."""
    if start is None and end is None and not flip and crop is None:
        return driving
    segment = "" if start is None and end is None else f"@{start or '0'}-{end or 'end'}"
    return f"{driving}{segment}{'@flip' * flip}{_crop_tag(crop)}"


def _crop_tag(crop: Request | None) -> str:
    if crop is None:
        return ""
    return "@" + ("-".join(f"{number:g}" for number in crop.box) if crop.box else str(crop).replace(":", "-"))


def list_inputs(settings: Settings) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the pictures and the clips of the folders that config.yaml names, by stem.

    Raises TalkiesError for a missing or empty folder, and for a file whose name the results can't use.
    """
    images = _listed(Path(settings.images), "images", media.list_pictures, media.PICTURE_SUFFIXES)
    clips = _listed(Path(settings.driving), "driving", media.list_clips, media.CLIP_SUFFIXES)
    for stem in clips:
        if stem in TAKEN_NAMES:
            raise TalkiesError(f"{printable(clips[stem])}: the gallery uses the name {stem}: rename this video")
    return images, clips


def not_used(settings: Settings, pairs: Iterable[Pair]) -> str:
    """Return in words which files of the folders of pictures and videos are neither, nor a sound; empty for none."""
    sounds = {Path(pair.audio) for pair in pairs if isinstance(pair.audio, str)}
    used = {*media.list_pictures(settings.images), *media.list_clips(settings.driving), *sounds}
    names = [name for folder in (settings.images, settings.driving) for name in media.not_used(folder, used)]
    return ", ".join(names[:MOST_NAMES]) + ", ..." * (len(names) > MOST_NAMES)


def _listed(
    folder: Path, key: str, lister: Callable[[Path], Iterable[Path]], suffixes: Iterable[str]
) -> dict[str, Path]:
    """Return a folder's files by stem; refuse names that the results can't use."""
    if not folder.is_dir():
        raise TalkiesError(f"config.yaml: {key}: there is no folder {printable(folder)}: make it, or name another")
    found = by_stem(lister(folder))
    if not found:
        known = " ".join(sorted(suffixes))
        raise TalkiesError(
            f"config.yaml: {key}: no file in {printable(folder)} that ends in one of {known}: put some there"
        )
    return found


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by stem; TalkiesError for a name that the results can't use."""
    found: dict[str, Path] = {}
    for path in paths:
        stem = path.stem
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in stem):
            raise TalkiesError(f"{printable(path)}: a control or undecodable character in the name: rename this file")
        if len(os.fsencode(stem)) > LONGEST_NAME:
            raise TalkiesError(f"{printable(path)}: a name of over {LONGEST_NAME} bytes: shorten it")
        if stem in found:
            raise TalkiesError(
                f"{printable(found[stem])} and {printable(path.name)} have one name before the suffix, "
                "and so would their films: rename one"
            )
        found[stem] = path
    return found


def list_pairs(settings: Settings, images: Mapping[str, Path], clips: Mapping[str, Path]) -> list[Pair]:
    """Return the pairs that the settings ask for, in order: of the table, or every picture with every video.

    images, clips: files by stem. Raises TalkiesError that names the file and line, or the key, at fault.
    """
    ordinary = usual_pair(settings)
    own = _files(settings, images, clips)

    def usual(driving: str, image: str) -> Pair:
        """Return a pair's settings in config.yaml: those of its video, its picture and all pairs."""
        said = own.get(images[image].name, {}) | own.get(clips[driving].name, {})
        return replace(ordinary, **said) if said else ordinary

    if settings.pairs is None:
        return [
            Pair(driving, image, *choices_of(usual(driving, image)))
            for driving in sorted(clips)
            for image in sorted(images)
        ]
    table = Path(settings.pairs)
    by_file = {path.name: stem for stem, path in (*images.items(), *clips.items())}
    pairs: dict[tuple[str, str], tuple[Pair, int]] = {}
    # Many rows, of which there may be a million, have the same settings: cache them.
    alike: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    of_row = attrgetter(*OF_A_ROW)
    for number, row in read_pairs(table):
        try:
            image = _stem("image", row.image, images, by_file)
            driving = _stem("driving", row.driving, clips, by_file)
            files = tuple([path.name if path.name in own else None for path in (images[image], clips[driving])])
            asked = (*files, *of_row(row))
            if asked not in alike:
                whole = replace(usual(driving, image), **_said(row, settings, usual(driving, image)))
                alike[asked] = choices_of(whole)[1:]
        except TalkiesError as error:
            raise TalkiesError(f"{_line(table, number)}: {error}") from None
        pair = Pair(driving, image, row.variant, *alike[asked])
        first = pairs.setdefault((driving, pair.stem), (pair, number))
        if first[0] is not pair:
            raise TalkiesError(
                f"{_line(table, number)}: {printable(pair.name)} is in line {first[1]} too: "
                "give one of them a variant name of its own"
            )
    return [pairs[name][0] for name in sorted(pairs)]


OF_A_ROW = [name for name in Row.__struct_fields__ if name not in ("image", "driving", "variant")]
"""The columns of the pairs table that are settings of the pair."""


def _entry(name: str) -> str:
    return f"config.yaml: files.{printable(name)}"


def _line(table: Path, number: int) -> str:
    return f"{printable(table)}: line {number}"


def _stem(column: str, name: str, known: Mapping[str, Path], by_file: Mapping[str, str]) -> str:
    """Return the stem of the file that a row names, with or without its suffix."""
    stem = name if name in known else by_file.get(name, "")
    if stem not in known:
        raise TalkiesError(f"{column}: no file {printable(name)} in the folder that config.yaml names: mend the name")
    return stem


def _said(choices: Choices, settings: Settings, usual: Pair) -> dict[str, Any]:
    """Return what a row of the pairs table, or config.yaml for a file, sets, as fields of a pair. usual: its others."""
    said = {name: value for name, value in asdict(choices).items() if name in OF_A_ROW and value is not UNSET}
    said |= {name: seconds_text(said[name]) for name in ("start", "end") if name in said}
    start, end = said.get("start", usual.start), said.get("end", usual.end)
    if end is not None and Fraction(end) <= Fraction(start or 0):
        raise TalkiesError(f"end: {end} s is not after the start: give a later one")
    if isinstance(choices.audio, str):
        said["audio"] = _sound_file(choices.audio, settings)
    return said


def seconds_text(seconds: float) -> str:
    """Return seconds as the shortest decimal number, as takes are named by it."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def usual_pair(settings: Settings) -> Pair:
    """Return a pair without names: what holds for all pairs, unless the table or a file's own settings differ."""
    return Pair(
        "",
        "",
        audio=settings.audio,
        paste_back=settings.paste_back,
        engine=next(iter(settings.by_engine)),
        **asdict(settings.motion),
    )


def choices_of(pair: Pair) -> tuple[Any, ...]:
    """Return a pair's fields but for the names of its picture and video, in order."""
    return astuple(pair)[2:]


def _files(settings: Settings, images: Mapping[str, Path], clips: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the settings of single files in config.yaml as fields of a pair, by name (without their crops)."""
    known = {path.name for path in (*images.values(), *clips.values())}
    found: dict[str, dict[str, Any]] = {}
    for name, choices in settings.files.items():
        if name not in known:
            raise TalkiesError(f"{_entry(name)}: there is no such picture or video: mend the name")
        try:
            found[name] = _said(replace(choices, crop=UNSET), settings, usual_pair(settings))
        except TalkiesError as error:
            raise TalkiesError(f"{_entry(name)}: {error}") from None
    return found


def _sound_file(name: str, settings: Settings) -> str:
    """Return the path of a sound file, which is in the run folder or among the driving videos."""
    for path in (Path(name), Path(settings.driving) / name):
        if path.is_file():
            return str(path)
    raise TalkiesError(
        f"audio: no file {printable(name[:300])} here or in {printable(settings.driving)}: mend the name"
    )


def each_face(
    pairs: Iterable[Pair], images: Mapping[str, Path], settings: Settings, faces: Callable[[str], int]
) -> list[Pair]:
    """Return the pairs, with one for each face of a picture that is cropped to its face and has several.

    faces: returns the number of faces in a picture.
    """
    files = {
        images[pair.image]
        for pair in pairs
        if (pair.crop or settings.crop_of(images[pair.image], "images")) == LARGEST_FACE
    }
    counts = {path: faces(str(path)) for path in sorted(files)}
    found: list[Pair] = []
    for pair in pairs:
        count = counts.get(images[pair.image], 0) if pair.crop in (None, LARGEST_FACE) else 0
        if count < 2:
            found.append(pair)
            continue
        prefix = f"{pair.variant}-" if pair.variant else ""
        found += [
            replace(pair, crop=Request(f"face:{number}"), variant=f"{prefix}face{number}")
            for number in range(1, count + 1)
        ]
    return found


def by_each_engine(pairs: Iterable[Pair], engines: Iterable[str]) -> list[Pair]:
    """Return the pairs, with one for each engine if there are several; the variant names the engine."""
    names = list(engines)
    return [
        replace(pair, engine=name, variant=f"{pair.variant}-{name}" if pair.variant else name)
        for pair in pairs
        for name in names
    ]


def check_squares(settings: Settings, pairs: Iterable[Pair]) -> None:
    """Refuse pairs with paste_back or upscale whose film is not a square; TalkiesError names one."""
    whole = {name for name, program in settings.programs.items() if program.input == "whole"}
    for pair in pairs if whole else ():
        if pair.engine in whole and (pair.paste_back or settings.upscale):
            key = "paste_back" if pair.paste_back else "upscale"
            raise TalkiesError(
                f"{printable(pair.name)}: engine {pair.engine} has the whole picture (input: whole): take {key} away"
            )
