"""Checks every picture and driving video before anything is animated: their crops, and what is wrong with them.

A dozen frames of each video are checked. The findings are kept by content (.talkies/check), so that a second check
takes no time. No other stage reads them.
"""

from __future__ import annotations

import io
import logging
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import media
from ..engines import FOMM
from ..errors import InputError, printable
from ..files import NUMBER, digest, file_digest, read_json, read_stamped, whole, write_json
from ..fomm.first_frame import Usual
from ..fomm.model.looks import is_photograph
from ..fomm.model.presets import DEMO_WEIGHTS, PRESETS, Preset
from ..media import crop
from ..media.crop import Request
from ..media.film import FILM_SIZE
from ..run.asks import compared
from ..run.folder import HOME
from ..run.plan import Plan
from ..run.probes import clip_of
from ..run.record import content_key
from ..run.state import FACELESS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..fomm.model import FirstOrderModel
    from ..media.pictures import Frame


FINDINGS = HOME / "check"
RESULT = HOME / "check.json"
"""The findings of the last check, for the gallery and the workflow."""
FILES = FINDINGS / "files.json"
"""Each file's size, time and digest, so that an unchanged one is not read."""
RECIPE = 5
"""Raised by hand when a check of the same file gives other findings."""
SAMPLES = 12
TRIES = 3  # of frames that may be better than the first
DECODED_SECONDS = 20
"""Seconds; only key frames are decoded of longer videos, so that a check of an hour takes seconds."""
LARGEST_SIDE = 1280  # pixels of a sampled frame
THUMB_SIDE = 128
SMALL_SIDE = 128
"""Side of a crop in pixels below which the film, at least twice as large, looks soft."""
BLURRED = 8.0
"""Variance of the Laplacian (grey levels 0..255, at 256 pixels): the examples measure 89 to 1,544, and blurred by a
Gaussian of 3 pixels 1 to 7."""
SHORT_SECONDS = 0.5
LONG_SECONDS = 120
SLOW_RATE = 12
POSE_FAR, POSE_NEARER = 0.25, 0.5
"""A first frame is called far from a picture's pose if its distance is over this and another frame has half of it.
Similar poses measure 0.02 to 0.16, turned heads 0.25 to 0.6 (the examples, the demo network)."""
TEXT = (str, None)
CROP = {"mode": str, "box": [int, int, int], "faces": (int, None), "found": bool, "warning": TEXT}
POSES = {"*": [[[NUMBER]]]}
OF_PICTURE = {"width": int, "height": int, "crop": CROP, "sharpness": NUMBER, "photograph": bool}
OF_PICTURE["poses"] = POSES
OF_CLIP = {
    **OF_PICTURE,
    **dict.fromkeys(("rate", "sampled_rate"), str),
    **dict.fromkeys(("variable_rate", "truncated"), bool),
    "faces_seen": [bool],
    "first_frame": {"*": {"faults": [str], "better": (int, None)}},
    "face_outside": int,
    "faceless": bool,
    "seconds": NUMBER,
    "frames": int,
    "sound": TEXT,
}
"""The shape of the kept facts of a file that could be read (`records.fits`)."""
FAILS = "fails"
DOUBTFUL = "look"
NOTE = "note"
LEVELS = (FAILS, DOUBTFUL, NOTE)


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


@dataclass(frozen=True)
class Problem:
    """A problem (fails), a doubt (look) or a remark (note), and what to do about it."""

    level: str
    text: str
    advice: str


@dataclass
class Finding:
    """The findings of an item: facts as in the JSON, the crop as JPEG, and problems, the worst first.

    private: all of its pairs are private, so others must not see it.
    """

    item: Item
    facts: dict[str, Any]
    thumb: bytes | None
    problems: list[Problem] = field(default_factory=list)
    private: bool = False

    @property
    def level(self) -> int:
        """Its place in the order by urgency: 0 is first."""
        return min((LEVELS.index(problem.level) for problem in self.problems), default=len(LEVELS))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        facts = {name: value for name, value in self.facts.items() if name not in ("poses", "first_frame")}
        return {
            **asdict(self.item),
            "crop": self.item.crop.plain,
            "facts": facts,
            "problems": [asdict(problem) for problem in self.problems],
        }


def examine(
    plan: Plan,
    *,
    model: Callable[[], FirstOrderModel] | None = None,
    workers: int = 1,
    advance: Callable[[int], None] = lambda files: None,
) -> list[Finding]:
    """Check all of a plan's pictures and driving videos; return the findings, the worst first.

    model: returns the network whose keypoints give the poses; None: poses are not compared.
    """
    items = items_of(plan)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    weights = _weights(plan) if model and compared(plan) else None
    digests = _digests(items)
    findings: dict[Item, Finding] = {}
    unseen: dict[Item, Path] = {}
    for item in items:
        path = _path(item, digests[item.file])
        known = read_json(path, ({"error": str}, OF_CLIP if item.clip else OF_PICTURE))
        failed = known is not None and "error" in known
        thumb = None if failed else _whole_jpeg(path.with_suffix(".jpg"))
        if known is None or not (failed or thumb) or (weights and not failed and weights not in known["poses"]):
            unseen[item] = path
        else:
            findings[item] = Finding(item, known, thumb)
            advance(1)
    for item, facts, crops, thumb_bytes in _look_at_all(list(unseen), workers):
        if model and weights and crops is not None:
            from ..fomm.motion import frames_to_tensor

            network = model().fitting(frames_to_tensor(crops[:1]))
            facts["poses"] = {weights: _poses(network, crops)}
            if item.clip:
                facts["first_frame"] = {weights: _look_at_first_frame(network, item, facts, facts["poses"][weights])}
        if thumb_bytes:
            with whole(unseen[item].with_suffix(".jpg")) as part:
                part.write_bytes(thumb_bytes)
        write_json(unseen[item], facts)
        findings[item] = Finding(item, facts, thumb_bytes)
        advance(1)
    preset = PRESETS[plan.settings.model.preset]
    animated = {name for pair in plan.pairs.values() if pair.engine == FOMM for name in (pair.source, pair.take)}
    shown = {name for pair in plan.pairs.values() if not pair.private for name in (pair.source, pair.take)}
    for finding in findings.values():
        finding.private = finding.item.name not in shown
        _sorted(finding, preset if finding.item.name in animated else None, plan.settings.faceless == "allow")
    if weights:
        usable = {item.name: finding for item, finding in findings.items() if "error" not in finding.facts}
        _warn_of_first_frames(plan, usable, weights)
        _compare_poses(plan, usable, weights)
    return sorted(findings.values(), key=lambda finding: (finding.level, finding.item.clip, finding.item.name))


def items_of(plan: Plan) -> list[Item]:
    """Return the plan's inputs: pictures and takes."""
    pictures = [Item(name, source.file, source.crop) for name, source in plan.sources.items()]
    takes = plan.takes.items()
    return pictures + [Item(name, t.file, t.crop, True, t.start, t.end, t.flip) for name, t in takes]


def _weights(plan: Plan) -> str:
    """Return what identifies the network without loading it."""
    settings = plan.settings.model
    chosen = settings.checkpoint
    return digest([settings.preset, file_digest(chosen or DEMO_WEIGHTS)])


def _path(item: Item, sha256: str | None) -> Path:
    looked: dict[str, Any] = {
        "content": sha256 or item.file,
        "crop": item.crop.plain,
        "segment": [item.start, item.end],
    }
    looked |= {"clip": item.clip, "flip": item.flip}
    return FINDINGS / f"{content_key(kind='check', recipe_of_check=RECIPE, **looked)[:24]}.json"


def _digests(items: Iterable[Item]) -> dict[str, str | None]:
    """Return the files' digests; None for a file that can't be read."""
    known = read_stamped(FILES, str)
    fresh: dict[str, tuple[list[int], str]] = {}
    for file in {item.file for item in items}:
        try:
            status = Path(file).stat()
            stamp = [status.st_size, status.st_mtime_ns]
            before = known.get(file)
            fresh[file] = before if before and before[0] == stamp else (stamp, file_digest(file))
        except (OSError, InputError):
            continue  # the check of the file says what is wrong
    if fresh != known:
        write_json(FILES, fresh)
    return {item.file: fresh[item.file][1] if item.file in fresh else None for item in items}


Look = tuple[Item, dict[str, Any], "Frame | None", bytes | None]


def _look_at_all(items: Sequence[Item], workers: int) -> Iterable[Look]:
    if len(items) < 4 or workers < 2:
        yield from map(look, items)
        return
    # Not forked: children would wait for threads of a loaded network, which a fork does not copy.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(items)), mp_context=spawn, initializer=_hush) as pool:
        yield from pool.map(look, items, chunksize=1)


def _hush() -> None:
    # Only the parent writes messages, and it ends its children when it is stopped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("talkies").setLevel(logging.CRITICAL)


def look(item: Item) -> Look:
    """Check one file; return its facts, its crops, uint8 [n, 256, 256, 3], and the first crop as a small JPEG."""
    try:
        facts, crops = _look_at_clip(item) if item.clip else _look_at_picture(item)
    except InputError as error:
        return item, {"error": error.reason}, None, None
    facts["sharpness"] = round(sorted(map(sharpness, crops))[len(crops) // 2], 1)
    some = crops[::4]
    facts["photograph"] = 2 * sum(map(is_photograph, some)) > len(some)
    facts["poses"] = {}
    return item, facts, crops, _jpeg(crops[0])


def found_in(item: Item, preset: Preset | None, faceless: bool = False) -> Finding:
    """Check one file by itself; return the findings, the worst problem first.

    preset: of the network that will animate it; None for a program. faceless: accept a driving video without a
    face. Poses are not compared.
    """
    _, facts, _, thumb = look(item)
    return _sorted(Finding(item, facts, thumb), preset, faceless)


def _sorted(finding: Finding, preset: Preset | None, faceless: bool = False) -> Finding:
    finding.problems = sorted(_problems(finding, preset, faceless), key=lambda problem: LEVELS.index(problem.level))
    return finding


def _look_at_picture(item: Item) -> tuple[dict[str, Any], Frame]:
    picture, own = media.read_smaller(item.file, crop.DETECT_SIDE)
    cut = crop.find_picture_crop(picture, item.crop, own, name=item.file)
    needed = min(max(own), math.ceil(max(own) * FILM_SIZE / cut.box.side))
    if max(picture.shape[:2]) < needed:  # the crop is a small part of it
        picture, _ = media.read_smaller(item.file, needed)
    square = crop.resize(crop.cut(picture, crop.scaled(cut.box, picture.shape[1] / own[0])), FILM_SIZE)
    return {"width": own[0], "height": own[1], "crop": cut.to_dict()}, square[None]


def _look_at_clip(item: Item) -> tuple[dict[str, Any], Frame]:
    import numpy as np

    clip = clip_of(Path(item.file))
    start = Fraction(item.start or 0)
    end = min(clip.duration, Fraction(item.end)) if item.end else clip.duration
    seconds = max(end - start, 1 / clip.rate)
    scale = min(1.0, LARGEST_SIDE / max(clip.width, clip.height))
    size = max(1, round(clip.width * scale)), max(1, round(clip.height * scale))
    rate = min(clip.rate, SAMPLES / seconds).limit_denominator(100_000)
    skip: Literal["noref", "nokey"] = "nokey" if seconds > DECODED_SECONDS else "noref"
    frames = list(media.read_frames(clip, start=start, end=end, size=size, rate=rate, skip=skip))
    faces: list[list[crop.Face]] = []
    cut = crop.follow(clip, frames, item.crop, faces, quick=True)
    box = crop.scaled(cut.box, scale)
    facts = {
        "width": clip.width,
        "height": clip.height,
        "crop": cut.to_dict(),
        "faces_seen": [bool(each) for each in faces],
        "first_frame": {},
        "face_outside": _outside(faces, box) if (cut.faces or 0) > 1 else 0,
        "faceless": cut.faces == 0 and _is_faceless(clip, item, start, end),
        "seconds": round(float(seconds), 3),
        "frames": max(1, round(seconds * clip.rate)),
        "rate": str(clip.rate),
        "sampled_rate": str(rate),
        "variable_rate": clip.variable,
        "truncated": clip.truncated,
        "sound": clip.sound.codec if clip.sound else None,
    }
    crops = np.stack([crop.resize(crop.cut(frame, box), FILM_SIZE) for frame in frames])
    return facts, crops[:, :, ::-1].copy() if item.flip else crops


def _is_faceless(clip: media.Clip, item: Item, start: Fraction, end: Fraction) -> bool:
    """Return whether a clip without a face in a dozen frames will be refused: looks at as many as prepare does."""
    return crop.find_crop(clip, item.crop, start=start, end=end).faces == 0 and crop.is_faceless(
        clip, start=start, end=end
    )


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


def _whole_jpeg(path: Path) -> bytes | None:
    """Return a JPEG's bytes; None if it is missing or cut off."""
    with suppress(OSError):
        content = path.read_bytes()
        if content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9"):
            return content
    return None


def _jpeg(square: Frame) -> bytes:
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(crop.resize(square, THUMB_SIDE)).save(written, "JPEG", quality=80)
    return written.getvalue()


def _poses(network: FirstOrderModel, crops: Frame) -> list[list[list[float]]]:
    """Return the keypoints of crops, normalized for place and size: n times K times (x, y).

    The network looks once, where for a film it looks four times at photographs: for comparing poses that is enough.
    """
    import numpy as np
    import torch

    from ..fomm.motion import frames_to_tensor, normalized_pose

    size = network.preset.size
    squares = np.stack([crop.resize(square, size) for square in crops])
    with torch.inference_mode():
        values = network.kp_detector(frames_to_tensor(squares, network.device)).value.cpu()
    return [[[round(x, 4) for x in point] for point in normalized_pose(value).tolist()] for value in values]


def _look_at_first_frame(
    network: FirstOrderModel, item: Item, facts: dict[str, Any], poses: list[list[list[float]]]
) -> dict[str, Any]:
    """Return why a take's first frame is a bad one to start from, and the number of a better one.

    If no better frame is found, nothing is reported: then the keypoints may be wrong. Both frames are decoded again
    exactly, because a sampled frame may be the one before.
    """
    import numpy as np

    seen = [look for look, is_seen in enumerate(facts["faces_seen"]) if is_seen]
    values, parts = np.array(poses), network.preset.parts
    usual = Usual.of(values[seen], parts) if parts and 0 in seen and not facts["crop"]["warning"] else None
    if usual and usual.faults(values[0]):
        with suppress(InputError):  # a clip that can't be read is reported already
            faults = usual.faults(_pose_of_frame(network, item, facts, 0))
            each = Fraction(facts["rate"]) / Fraction(facts["sampled_rate"])
            good = [round(look * each) for look in seen[1:] if usual.is_well(values[look])]
            for number in good[:TRIES] if faults else []:
                if usual.is_well(_pose_of_frame(network, item, facts, number)):
                    return {"faults": faults, "better": number}
    return {"faults": [], "better": None}


def _pose_of_frame(network: FirstOrderModel, item: Item, facts: dict[str, Any], number: int) -> NDArray[np.float64]:
    """Return the keypoints of one frame of a take, [K, 2]."""
    import numpy as np

    clip, box = clip_of(Path(item.file)), crop.Crop.from_dict(facts["crop"]).box
    start = Fraction(item.start or 0) + number / clip.rate
    frames = np.stack(list(media.read_frames(clip, start=start, end=start + 1 / clip.rate, box=box, size=FILM_SIZE)))
    return np.array(_poses(network, frames[:, :, ::-1].copy() if item.flip else frames)[0])


def _warn_of_first_frames(plan: Plan, findings: dict[str, Finding], weights: str) -> None:
    """Warn of takes whose first frame is a bad one to start from, and name a better one."""
    for take in {take for _, take in compared(plan)} & findings.keys():
        item, facts = findings[take].item, findings[take].facts
        first = facts["first_frame"][weights]
        if first["better"] is None:
            continue
        text = f"{', '.join(first['faults'])} in its first frame, from which motion is counted"
        at = float(Fraction(item.start or 0) + first["better"] / Fraction(facts["rate"]))
        better = f"{{{item.file_name}: {{best_frame: {first['better']}}}}}"
        advice = f"in config.yaml, files: {better} counts from a better one, {{start: {at:.2f}}} begins there"
        findings[take].problems.append(Problem(DOUBTFUL, text, advice))


def _compare_poses(plan: Plan, findings: dict[str, Finding], weights: str) -> None:
    """Add a finding to each take whose first frame is far from pictures' poses, with a nearer frame."""
    import numpy as np

    far: dict[str, list[tuple[str, float]]] = {}
    for image, take in compared(plan):
        if image not in findings or take not in findings:
            continue
        facts = findings[take].facts
        if facts["first_frame"][weights]["faults"]:
            continue  # a better first frame comes first
        source = np.array(findings[image].facts["poses"][weights][0])
        distances = ((np.array(facts["poses"][weights]) - source) ** 2).sum((1, 2))
        nearest = int(distances.argmin())
        if distances[0] > POSE_FAR and distances[nearest] < POSE_NEARER * distances[0]:
            far.setdefault(take, []).append((image, nearest / float(Fraction(facts["sampled_rate"]))))
    for take, pictures in far.items():
        names = [printable(image) for image, _ in pictures[:3]] + ["..."] * (len(pictures) > 3)
        seconds = sorted(when for _, when in pictures)[len(pictures) // 2] + float(
            Fraction(findings[take].item.start or 0)
        )
        count = f"{len(pictures)} picture{'s' * (len(pictures) != 1)}"
        text = f"its first frame's pose is far from that of {count} ({', '.join(names)})"
        advice = f"motion: best_frame: auto, or let it start where the head is held alike, about {seconds:.1f} s"
        findings[take].problems.append(Problem(DOUBTFUL, text, advice))


def _problems(finding: Finding, preset: Preset | None, faceless: bool) -> Iterable[Problem]:
    item, facts = finding.item, finding.facts
    if "error" in facts:
        yield Problem(FAILS, facts["error"], "mend or remove this file; the others are made without it")
        return
    cut = facts["crop"]
    other = _in_files(item, "crop: ...").lstrip()
    if facts.get("faceless") and preset and preset.crop == "face" and not faceless:
        advice = f"crop it by hand (center, or a box) {other}, or set faceless: allow"
        yield Problem(FAILS, f"{FACELESS}: it is not animated", advice)
    elif cut["faces"] == 0:
        drawn = "" if facts["photograph"] else " (drawn ones are missed now and then)"
        yield Problem(DOUBTFUL, f"no face found{drawn}: the centre is cut", f"give a box [x, y, width, height] {other}")
    elif cut["warning"]:
        yield Problem(DOUBTFUL, cut["warning"], "give the part that shows it by start and end, or a box")
    elif item.clip and facts["faces_seen"] and not facts["faces_seen"][0]:
        seconds = facts["faces_seen"].index(True) / Fraction(facts["sampled_rate"]) + Fraction(item.start or 0)
        advice = (
            f"begin where one is seen, start: {float(seconds):.2f}{_in_files(item, f'start: {float(seconds):.2f}')}"
        )
        yield Problem(DOUBTFUL, "no face in its first frame, from which motion is counted", advice)
    if (cut["faces"] or 0) > 1 and cut["mode"] == "face":
        yield Problem(
            NOTE, f"{cut['faces']} faces: the largest is taken", f"another: face:left, face:right or face:2 {other}"
        )
    side = cut["box"][2]
    if side < SMALL_SIDE:
        yield Problem(DOUBTFUL, f"small: {side} pixels become {FILM_SIZE}", "take a larger copy of it")
    elif facts["sharpness"] < BLURRED:
        yield Problem(DOUBTFUL, f"blurred (sharpness {facts['sharpness']:g})", "take a sharper one")
    if preset and cut["faces"]:
        shown = "photographs" if facts["photograph"] else "drawings"
        if preset.knows not in (None, shown):
            text = f"it looks like one of the {shown}, and {preset.name} knows {preset.knows}"
            yield Problem(DOUBTFUL if preset.packaged else NOTE, text, "model: preset: demo knows both")
    if item.clip:
        yield from _problems_of_clip(facts)


def _in_files(item: Item, choice: str) -> str:
    """Return the words that tell where to write a setting for a file."""
    return f" in config.yaml, files: {{{item.file_name}: {{{choice}}}}}"


def _problems_of_clip(facts: dict[str, Any]) -> Iterable[Problem]:
    if facts["truncated"]:
        yield Problem(DOUBTFUL, "damaged or cut short: what is there is used", "copy or download it again")
    if facts["face_outside"]:
        text = f"its face leaves the crop, which does not follow it ({facts['face_outside']} of about {SAMPLES} looks)"
        yield Problem(
            DOUBTFUL, text, "give a box that holds all its ways, or the part in which it stays, by start and end"
        )
    if facts["seconds"] < SHORT_SECONDS:
        yield Problem(DOUBTFUL, f"short: {facts['seconds']:g} s", "take a longer one")
    if facts["seconds"] > LONG_SECONDS:
        text = f"long: {facts['frames']} frames are made for each picture"
        yield Problem(NOTE, text, "give the part you want by start and end")
    if Fraction(facts["rate"]) < SLOW_RATE:
        yield Problem(NOTE, f"only {float(Fraction(facts['rate'])):g} frames a second: the film jerks", "take another")
    if facts["sound"] is None:
        yield Problem(NOTE, "no sound: its films are silent", "")
