"""Looks at one picture or driving video: its crop, its sharpness, its poses, and what else is known of it.

A dozen frames of a video are looked at. Its face is searched in some more, and as for its film if none shows one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from .. import media
from ..errors import InputError
from ..fomm.first_frame import measures
from ..fomm.model.looks import is_photograph
from ..media import crop
from ..media.film import FILM_SIZE
from ..run.inputs import clip_of
from ..run.pairs import Source, Take

if TYPE_CHECKING:
    from ..fomm.model.first_order import FirstOrderModel
    from ..media.pictures import Frame

SAMPLES, SEARCHED = 12, 24
"""Frames of a video that are looked at, and in which its face is searched: in fewer, its crop would be tighter than the
film's, and the poses others."""
DECODED_SECONDS = 20
"""Seconds; only key frames are decoded of longer videos, so that a check of an hour takes seconds."""
LARGEST_SIDE = 1280  # pixels of a sampled frame
PICTURE_SIDE = 960
"""Pixels of the longer side that are enough of a picture, which takes less time to decode at half its size."""
THUMB_SIDE = 128
TRIES = 3  # of frames that may be better than the first
FEWEST = 4
"""The fewest frames with a face from which anything is judged."""
TURNED, STRAIGHT = 0.19, 0.12
"""Widths of the face by which the nose lies beside its middle: 20 degrees are 0.16 to 0.25."""


class Seen(Struct, kw_only=True, tag=True):
    """Of a picture. width, height: of the file, in pixels. thumb: its crop, as a small JPEG. sharpness: of the crop.
    photograph: not a drawing. poses: the normalized keypoints of each crop, [n, K, 2]; none where no network looked.
    """

    width: int
    height: int
    crop: crop.Crop
    thumb: bytes
    sharpness: float
    photograph: bool
    poses: list[list[list[float]]] = []


class SeenClip(Seen, kw_only=True, tag=True):
    """Of a driving video. rate, sampled_rate: frames a second of the clip and of those looked at, fractions as text.

    faces_seen: for each of these. face_outside: in how many all faces are outside the crop. seconds, frames: of the
    segment. sound: its codec. remark: what is odd about it. hdr: "PQ" or "HLG", if it has a high dynamic range.
    better: the number of a frame whose head is straight, if it is turned in the first.
    """

    rate: str
    sampled_rate: str
    variable_rate: bool
    truncated: bool
    faces_seen: list[bool]
    face_outside: int
    seconds: float
    frames: int
    sound: str | None
    remark: str | None
    hdr: str | None
    better: int | None = None


class Unreadable(Struct, tag=True):
    """Of a file that can't be used. error: why."""

    error: str


Facts = Seen | SeenClip | Unreadable


def look(wanted: Source | Take, threads: int | None = None) -> tuple[Facts, Frame | None]:
    """Look at one file; return its facts and its crops, uint8 [n, 256, 256, 3]. threads: of a video's decoder."""
    try:
        return _look_at_clip(wanted, threads) if isinstance(wanted, Take) else _look_at_picture(wanted)
    except InputError as error:
        return Unreadable(error.reason), None


def _look_at_picture(wanted: Source) -> tuple[Seen, Frame]:
    picture, (width, height) = media.read_reduced(wanted.file, PICTURE_SIDE)
    square, cut = crop.crop_picture(picture, wanted.crop, name=wanted.file, whole=(width, height))
    scale = picture.shape[1] / width
    if scale < 1 and (not cut.found or cut.box.side * scale < FILM_SIZE):  # look as for its film
        square, cut = crop.crop_picture(media.read_picture(wanted.file), wanted.crop, name=wanted.file)
    return Seen(width=width, height=height, crop=cut, **_seen(square[None])), square[None]


def _look_at_clip(wanted: Take, threads: int | None) -> tuple[SeenClip, Frame]:
    import numpy as np

    clip = clip_of(Path(wanted.file))
    start = Fraction(wanted.start or 0)
    end = Fraction(wanted.end) if wanted.end else clip.duration
    seconds = clip.seconds(start, end)
    scale = min(1.0, LARGEST_SIDE / max(clip.width, clip.height))
    size = max(1, round(clip.width * scale)), max(1, round(clip.height * scale))
    rate = clip.sampling(SEARCHED, start, end)
    skip: Literal["noref", "nokey"] = "nokey" if seconds > DECODED_SECONDS else "noref"
    frames = list(media.read_frames(clip, start=start, end=end, size=size, rate=rate, skip=skip, threads=threads))
    faces = crop.search(frames) if wanted.crop.mode == "face" else []
    if any(faces):
        cut = crop.crop_of(clip, wanted.crop, faces)  # nearly the film's own, for which more frames are searched
    else:
        cut = crop.find_crop(clip, wanted.crop, start=start, end=end)
    box, step = crop.scaled(cut.box, scale), max(1, len(frames) // SAMPLES)
    crops = np.stack([crop.resize(crop.cut(frame, box), FILM_SIZE, quick=True) for frame in frames[::step]])
    faces = faces[::step]
    crops = crops[:, :, ::-1].copy() if wanted.flip else crops
    facts = SeenClip(
        width=clip.width,
        height=clip.height,
        crop=cut,
        faces_seen=[bool(each) for each in faces],
        face_outside=_outside(clip, faces, cut.box) if (cut.faces or 0) > 1 else 0,
        seconds=round(float(seconds), 3),
        frames=clip.count(start, end),
        rate=str(clip.rate),
        sampled_rate=str(rate / step),
        variable_rate=clip.variable,
        truncated=clip.truncated,
        hdr=clip.hdr,
        remark=clip.remark,
        sound=clip.sound.codec if clip.sound else None,
        **_seen(crops),
    )
    return facts, crops


def _seen(crops: Frame) -> dict[str, Any]:
    from PIL import Image

    written, some = io.BytesIO(), crops[::4]
    Image.fromarray(crop.resize(crops[0], THUMB_SIDE)).save(written, "JPEG", quality=80)
    return {
        "thumb": written.getvalue(),
        "sharpness": round(sorted(map(sharpness, crops))[len(crops) // 2], 1),
        "photograph": 2 * sum(map(is_photograph, some)) > len(some),
    }


def _outside(clip: media.Clip, found: Sequence[Sequence[crop.Face]], box: crop.Box) -> int:
    """Return in how many frames all faces have their centres outside a crop."""

    def is_inside(x: float, y: float, w: float, h: float) -> bool:
        across, down = (x + w / 2) * clip.width - box.x, (y + h / 2) * clip.height - box.y
        return 0 <= across < box.side and 0 <= down < box.side

    return sum(bool(faces) and not any(is_inside(*face) for face in faces) for faces in found)


def sharpness(square: Frame) -> float:
    """Return the variance of the Laplacian of a crop's grey levels."""
    import numpy as np

    grey = square.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())


# --- poses -------------------------------------------------------------------------------------------------


def look_at_poses(model: FirstOrderModel, wanted: Source | Take, facts: Seen, crops: Frame) -> None:
    """Add the poses, and for a video whose first frame shows a turned head the number of one that shows it straight.

    If none is found, nothing is reported: then the keypoints may be wrong. Both frames are decoded again exactly,
    because a sampled frame may be the one before.
    """
    import numpy as np

    from ..fomm.motion import frames_to_tensor

    network = model.fitting(frames_to_tensor(crops[:1]))
    facts.poses, parts = find_poses(network, crops), network.preset.parts
    if parts is None or facts.crop.warning or not isinstance(facts, SeenClip) or not isinstance(wanted, Take):
        return
    turns = abs(measures(np.array(facts.poses), parts)[2])
    seen = [look for look, is_seen in enumerate(facts.faces_seen) if is_seen]

    def turn(number: int) -> float:
        pose = np.array(_pose_of_frame(network, wanted, facts, number))
        return float(abs(measures(pose[None], parts)[2][0]))

    if len(seen) >= FEWEST and seen[0] == 0 and turns[0] > TURNED:
        with suppress(InputError):  # a clip that can't be read is reported already
            each = Fraction(facts.rate) / Fraction(facts.sampled_rate)
            straight = [round(look * each) for look in seen if turns[look] < STRAIGHT]
            tried = straight[:TRIES] if turn(0) > TURNED else []
            facts.better = next((number for number in tried if turn(number) < STRAIGHT), None)


def find_poses(network: FirstOrderModel, crops: Frame) -> list[list[list[float]]]:
    """Return the keypoints of crops, normalized for place and size: n times K times (x, y).

    The network looks once, where for a film it looks four times at photographs: for comparing poses that is enough.
    """
    import numpy as np
    import torch

    from ..fomm.motion import frames_to_tensor, normalized_pose

    squares = frames_to_tensor(np.stack([crop.resize(square, network.preset.size) for square in crops]), network.device)
    with torch.inference_mode():
        values = network.kp_detector(squares).value.cpu()
    return [[[round(x, 4) for x in point] for point in normalized_pose(value).tolist()] for value in values]


def _pose_of_frame(network: FirstOrderModel, wanted: Take, facts: SeenClip, number: int) -> list[list[float]]:
    """Return the keypoints of one frame of a take, [K, 2]."""
    import numpy as np

    clip = clip_of(Path(wanted.file))
    start = Fraction(wanted.start or 0) + number / clip.rate
    end, box = start + 1 / clip.rate, facts.crop.box
    frames = media.read_frames(clip, start=start, end=end, box=box, size=FILM_SIZE, flip=wanted.flip)
    return find_poses(network, np.stack(list(frames)))[0]
