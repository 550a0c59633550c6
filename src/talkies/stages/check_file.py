"""Checks one picture or driving video: its crop, its sharpness, what else is known of it, what is wrong, what to do.

A dozen frames of a video are checked.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from msgspec import Struct

from .. import media
from ..errors import InputError
from ..files import to_plain
from ..fomm.model.looks import is_photograph
from ..fomm.model.presets import Preset
from ..media import crop
from ..media.crop import FACELESS, Request
from ..media.film import FILM_SIZE
from ..run.inputs import clip_of

if TYPE_CHECKING:
    from ..media.pictures import Frame

SAMPLES = 12
DECODED_SECONDS = 20
"""Seconds; only key frames are decoded of longer videos, so that a check of an hour takes seconds."""
LARGEST_SIDE = 1280  # pixels of a sampled frame
THUMB_SIDE = 128


@dataclass(frozen=True)
class Item:
    """A picture, or (clip) a driving video or a segment of it, and its crop."""

    name: str
    file: str
    crop: Request
    clip: bool = False
    start: str | None = None
    end: str | None = None
    flip: bool = False

    @property
    def file_name(self) -> str:
        """The file's name without its folder, as in `files` of config.yaml."""
        return Path(self.file).name


class FirstFrame(Struct):
    """What is wrong with a take's first frame, and the number of a better one; None: none is known."""

    faults: list[str] = []
    better: int | None = None


class PictureFacts(Struct, kw_only=True):
    """width, height: of the file, in pixels. sharpness: of its crop (`sharpness`). photograph: not a drawing.
    hdr: "PQ" or "HLG", if it has a high dynamic range.

    poses: by network, the normalized keypoints of each crop, [n, K, 2].
    """

    width: int
    height: int
    crop: crop.Crop
    sharpness: float
    photograph: bool
    hdr: str | None = None
    poses: dict[str, list[list[list[float]]]] = {}


class ClipFacts(PictureFacts, kw_only=True):
    """rate, sampled_rate: frames a second of the clip and of those looked at, fractions as text.

    faces_seen: for each of these. face_outside: in how many all faces are outside the crop. faceless: the clip will
    be refused. seconds, frames: of the segment. sound: its codec. remark: what is odd about it. first_frame: by
    network.
    """

    rate: str
    sampled_rate: str
    variable_rate: bool
    truncated: bool
    faces_seen: list[bool]
    face_outside: int
    faceless: bool
    seconds: float
    frames: int
    sound: str | None
    remark: str | None = None
    first_frame: dict[str, FirstFrame] = {}


class Unreadable(Struct):
    """Of a file that can't be used. error: why."""

    error: str


Facts = PictureFacts | ClipFacts | Unreadable


class Look(NamedTuple):
    """A file's facts; its crops, uint8 [n, 256, 256, 3], and the first one as a small JPEG, where it could be read."""

    item: Item
    facts: Facts
    crops: Frame | None = None
    thumb: bytes | None = None


def look(item: Item) -> Look:
    """Check one file."""
    try:
        facts, crops = _look_at_clip(item) if item.clip else _look_at_picture(item)
    except InputError as error:
        return Look(item, Unreadable(error.reason))
    return Look(item, facts, crops, _jpeg(crops[0]))


def _look_at_picture(item: Item) -> tuple[PictureFacts, Frame]:
    picture = media.read_picture(item.file)
    square, cut = crop.crop_picture(picture, item.crop, name=item.file)
    height, width = picture.shape[:2]
    return PictureFacts(width=width, height=height, crop=cut, **_seen(square[None])), square[None]


def _look_at_clip(item: Item) -> tuple[ClipFacts, Frame]:
    import numpy as np

    clip = clip_of(Path(item.file))
    start = Fraction(item.start or 0)
    end = Fraction(item.end) if item.end else clip.duration
    seconds = clip.seconds(start, end)
    scale = min(1.0, LARGEST_SIDE / max(clip.width, clip.height))
    size = max(1, round(clip.width * scale)), max(1, round(clip.height * scale))
    rate = clip.sampling(SAMPLES, start, end)
    skip: Literal["noref", "nokey"] = "nokey" if seconds > DECODED_SECONDS else "noref"
    frames = list(media.read_frames(clip, start=start, end=end, size=size, rate=rate, skip=skip))
    faces = [crop.find_faces(frame) for frame in frames] if item.crop.mode == "face" else []
    cut = crop.find_crop(clip, item.crop, start=start, end=end)  # the film's own, from more frames
    box = crop.scaled(cut.box, scale)
    crops = np.stack([crop.resize(crop.cut(frame, box), FILM_SIZE, quick=True) for frame in frames])
    crops = crops[:, :, ::-1].copy() if item.flip else crops
    facts = ClipFacts(
        width=clip.width,
        height=clip.height,
        crop=cut,
        faces_seen=[bool(each) for each in faces],
        face_outside=_outside(faces, box) if (cut.faces or 0) > 1 else 0,
        faceless=cut.faces == 0 and crop.is_faceless(clip, start=start, end=end),
        seconds=round(float(seconds), 3),
        frames=clip.count(start, end),
        rate=str(clip.rate),
        sampled_rate=str(rate),
        variable_rate=clip.variable,
        truncated=clip.truncated,
        hdr=clip.hdr,
        remark=clip.remark,
        sound=clip.sound.codec if clip.sound else None,
        **_seen(crops),
    )
    return facts, crops


class _Seen(TypedDict):
    sharpness: float
    photograph: bool


def _seen(crops: Frame) -> _Seen:
    some = crops[::4]
    return {
        "sharpness": round(sorted(map(sharpness, crops))[len(crops) // 2], 1),
        "photograph": 2 * sum(map(is_photograph, some)) > len(some),
    }


def _outside(found: Sequence[Sequence[crop.Face]], box: crop.Box) -> int:
    """Return in how many frames all faces have their centres outside a crop."""
    inside = [
        any(box.x <= x + w / 2 < box.x + box.side and box.y <= y + h / 2 < box.y + box.side for x, y, w, h in faces)
        for faces in found
    ]
    return sum(bool(faces) and not held for faces, held in zip(found, inside, strict=True))


def sharpness(square: Frame) -> float:
    """Return the variance of the Laplacian of a crop's grey levels."""
    import numpy as np

    grey = square.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())


def _jpeg(square: Frame) -> bytes:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(crop.resize(square, THUMB_SIDE)).save(written, "JPEG", quality=80)
    return written.getvalue()


SMALL_SIDE = 128
"""Side of a crop in pixels below which the film, at least twice as large, looks soft."""
BLURRED = 8.0
"""Variance of the Laplacian (grey levels 0..255, at 256 pixels): the examples measure 89 to 1,544, and blurred by a
Gaussian of 3 pixels 1 to 7."""
SHORT_SECONDS = 0.5
LONG_SECONDS = 120
SLOW_RATE = 12
FAILS = "fails"
DOUBTFUL = "look"
NOTE = "note"
LEVELS = (FAILS, DOUBTFUL, NOTE)


@dataclass(frozen=True)
class Problem:
    """A problem (fails), a doubt (look) or a remark (note), and what to do about it."""

    level: str
    text: str
    advice: str


@dataclass
class Finding:
    """The findings of an item: facts as in the JSON, the crop as JPEG, and problems, the worst first.

    motion: of a driving video, how far the lips are apart in the frames looked at (mouth), in heights of the face, and
    how far the nose is beside the middle (head), in widths of it.
    private: all of its pairs are private, so others must not see it. content: the digest of its file.
    """

    item: Item
    facts: Facts
    thumb: bytes | None
    problems: list[Problem] = field(default_factory=list)
    motion: dict[str, list[float]] = field(default_factory=dict)
    private: bool = False
    content: str | None = None

    @property
    def level(self) -> int:
        """Its place in the order by urgency: 0 is first."""
        return min((LEVELS.index(problem.level) for problem in self.problems), default=len(LEVELS))

    @property
    def plain(self) -> dict[str, object]:
        """The finding as values for JSON."""
        facts = to_plain(self.facts)
        return {
            **asdict(self.item),
            "crop": self.item.crop.plain,
            "content": self.content,
            "facts": {name: value for name, value in facts.items() if name not in ("poses", "first_frame")},
            "problems": [asdict(problem) for problem in self.problems],
            "motion": self.motion,
        }


def findings_of(looked: Look, preset: Preset | None, faceless: bool = False) -> Finding:
    """Return the findings of a file, the worst problem first.

    preset: of the network that will animate it; None for a program. faceless: accept a driving video without a face.
    Poses are not compared.
    """
    problems = _problems(looked.item, looked.facts, preset, faceless)
    order = sorted(problems, key=lambda problem: LEVELS.index(problem.level))
    return Finding(looked.item, looked.facts, looked.thumb, order)


def _problems(item: Item, facts: Facts, preset: Preset | None, faceless: bool) -> Iterable[Problem]:
    if isinstance(facts, Unreadable):
        yield Problem(FAILS, facts.error, "mend or remove this file; the others are made without it")
        return
    cut, clip = facts.crop, facts if isinstance(facts, ClipFacts) else None
    other = _in_files(item, "crop: ...").lstrip()
    if clip and clip.faceless and preset and preset.crop == "face" and not faceless:
        advice = f"crop it by hand (center, or a box) {other}, or set faceless: allow"
        yield Problem(FAILS, f"{FACELESS}: it is not animated", advice)
    elif cut.faces == 0:
        drawn = "" if facts.photograph else " (drawn ones are missed now and then)"
        yield Problem(DOUBTFUL, f"no face found{drawn}: the centre is cut", f"give a box [x, y, width, height] {other}")
    elif cut.warning:
        yield Problem(DOUBTFUL, cut.warning, "give the part that shows it by start and end, or a box")
    elif clip and clip.faces_seen and not clip.faces_seen[0]:
        seconds = clip.faces_seen.index(True) / Fraction(clip.sampled_rate) + Fraction(item.start or 0)
        advice = (
            f"begin where one is seen, start: {float(seconds):.2f}{_in_files(item, f'start: {float(seconds):.2f}')}"
        )
        yield Problem(DOUBTFUL, "no face in its first frame, from which motion is counted", advice)
    if (cut.faces or 0) > 1 and cut.mode == "face":
        yield Problem(
            NOTE, f"{cut.faces} faces: the largest is taken", f"another: face:left, face:right or face:2 {other}"
        )
    side = cut.box.side
    if side < SMALL_SIDE:
        yield Problem(DOUBTFUL, f"small: {side} pixels become {FILM_SIZE}", "take a larger copy of it")
    elif facts.sharpness < BLURRED:
        yield Problem(DOUBTFUL, f"blurred (sharpness {facts.sharpness:g})", "take a sharper one")
    if preset and cut.faces:
        shown = "photographs" if facts.photograph else "drawings"
        if preset.knows not in (None, shown):
            text = f"it looks like one of the {shown}, and {preset.name} knows {preset.knows}"
            yield Problem(DOUBTFUL if preset.packaged else NOTE, text, "model: preset: demo knows both")
    if facts.hdr:
        yield Problem(NOTE, f"its colours are HDR ({facts.hdr}): mapped to the usual range", "")
    if clip:
        yield from _problems_of_clip(clip)


def _in_files(item: Item, choice: str) -> str:
    """Return the words that tell where to write a setting for a file."""
    return f" in config.yaml, files: {{{item.file_name}: {{{choice}}}}}"


def _problems_of_clip(facts: ClipFacts) -> Iterable[Problem]:
    if facts.truncated:
        yield Problem(DOUBTFUL, "damaged or cut short: what is there is used", "copy or download it again")
    if facts.face_outside:
        text = f"its face leaves the crop, which does not follow it ({facts.face_outside} of about {SAMPLES} looks)"
        yield Problem(
            DOUBTFUL, text, "give a box that holds all its ways, or the part in which it stays, by start and end"
        )
    if facts.seconds < SHORT_SECONDS:
        yield Problem(DOUBTFUL, f"short: {facts.seconds:g} s", "take a longer one")
    if facts.seconds > LONG_SECONDS:
        text = f"long: {facts.frames} frames are made for each picture"
        yield Problem(NOTE, text, "give the part you want by start and end")
    if Fraction(facts.rate) < SLOW_RATE:
        yield Problem(NOTE, f"only {float(Fraction(facts.rate)):g} frames a second: the film jerks", "take another")
    if facts.remark:
        yield Problem(NOTE, facts.remark, "")
    elif facts.sound is None:
        yield Problem(NOTE, "no sound: its films are silent", "")
