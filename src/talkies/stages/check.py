"""Checks every picture and driving video before anything is animated: their crops, and what is wrong with them.

The findings are kept by content (.talkies/check), so that a second check takes no time. No other stage reads them.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .. import media
from ..engines import FOMM
from ..errors import InputError, printable
from ..files import digest, from_json, to_plain, whole, write_json
from ..fomm.first_frame import FEWEST, Usual, measures
from ..fomm.model.presets import PRESETS, FaceParts
from ..media import crop
from ..media.film import FILM_SIZE
from ..run.folder import HOME
from ..run.inputs import Inputs, clip_of
from ..run.pairs import Pair
from ..run.plan import Plan, compared
from .check_file import (
    DOUBTFUL,
    ClipFacts,
    Finding,
    FirstFrame,
    Item,
    Look,
    PictureFacts,
    Problem,
    Unreadable,
    findings_of,
    look,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..fomm.model.first_order import FirstOrderModel
    from ..media.pictures import Frame

FINDINGS = HOME / "check"
RESULT = HOME / "check.json"
"""The findings of the last check, for the gallery and the workflow."""
RECIPE = 7
"""Raised by hand when a check of the same file gives other findings."""


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
    weights = digest([plan.settings.model.preset, plan.weights]) if model and compared(plan) else None
    known = Inputs()
    known.read(item.file for item in items)
    known.save(keep=True)
    looks: dict[Item, Look] = {}
    unseen: dict[Item, Path] = {}
    for item in items:
        path = _path(item, known.content(item.file))
        if kept := _kept(item, path, weights):
            looks[item] = kept
            advance(1)
        else:
            unseen[item] = path
    # Videos take longest. Done first, they leave no core idle at the end.
    for looked in _look_at_all(sorted(unseen, key=lambda item: not item.clip), workers):
        item, facts, crops, thumb = looked
        if model and weights and crops is not None and not isinstance(facts, Unreadable):
            from ..fomm.motion import frames_to_tensor

            network = model().fitting(frames_to_tensor(crops[:1]))
            facts.poses = {weights: find_poses(network, crops)}
            if isinstance(facts, ClipFacts):
                facts.first_frame = {weights: look_at_first_frame(network, item, facts, facts.poses[weights])}
        if thumb:
            with whole(unseen[item].with_suffix(".jpg")) as part:
                part.write_bytes(thumb)
        write_json(unseen[item], to_plain(facts))
        looks[item] = looked
        advance(1)
    preset = PRESETS[plan.settings.model.preset]
    # A picture and a take may have one name.
    animated = {each for pair in plan.pairs.values() if pair.engine == FOMM for each in _inputs(pair)}
    shown = {each for pair in plan.pairs.values() if not pair.private for each in _inputs(pair)}
    findings = []
    for item, looked in looks.items():
        finding = findings_of(
            looked, preset if (item.name, item.clip) in animated else None, plan.settings.faceless == "allow"
        )
        finding.private = (item.name, item.clip) not in shown
        finding.content = known.content(item.file)
        findings.append(finding)
    if weights:
        takes = {
            each.item.name: each for each in findings if isinstance(each.facts, ClipFacts) and not each.facts.faceless
        }
        pictures = {
            each.item.name: each for each in findings if isinstance(each.facts, PictureFacts) and not each.item.clip
        }
        if preset.parts:
            look_at_faces(plan, findings, weights, preset.parts)
        warn_of_first_frames(plan, takes, weights)
        compare_poses(plan, pictures, takes, weights)
    return sorted(findings, key=lambda finding: (finding.level, finding.item.clip, finding.item.name))


def _inputs(pair: Pair) -> tuple[tuple[str, bool], tuple[str, bool]]:
    return (pair.source, False), (pair.take, True)


def _kept(item: Item, path: Path, weights: str | None) -> Look | None:
    """Return what an earlier check has found; None if something is missing, such as this network's poses."""
    try:
        content = path.read_bytes()
        with suppress(ValueError):
            return Look(item, from_json(content, Unreadable))
        facts = from_json(content, ClipFacts if item.clip else PictureFacts)
    except (OSError, ValueError):
        return None
    thumb = _whole_jpeg(path.with_suffix(".jpg"))
    return Look(item, facts, None, thumb) if thumb and (not weights or weights in facts.poses) else None


def items_of(plan: Plan) -> list[Item]:
    """Return the plan's inputs: pictures and takes."""
    pictures = [Item(name, source.file, source.crop) for name, source in plan.sources.items()]
    takes = plan.takes.items()
    return pictures + [Item(name, t.file, t.crop, True, t.start, t.end, t.flip) for name, t in takes]


def _path(item: Item, content: str | None) -> Path:
    looked: dict[str, object] = {
        "content": content,
        "crop": item.crop.plain,
        "segment": [item.start, item.end],
    }
    looked |= {"clip": item.clip, "flip": item.flip}
    return FINDINGS / f"{digest([RECIPE, looked])}.json"


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


def _whole_jpeg(path: Path) -> bytes | None:
    """Return a JPEG's bytes; None if it is missing or cut off."""
    with suppress(OSError):
        content = path.read_bytes()
        if content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9"):
            return content
    return None


TRIES = 3  # of frames that may be better than the first
TURNED_FAR, LIPS_APART = 0.3, 0.035
"""Of a photograph, in widths and heights of the face: shut mouths measure 0.01 to 0.02, smiles with teeth 0.05 to 0.14,
and a head that looks past the camera 0.4."""
HEAD_STILL, LIPS_STILL = 0.04, 0.02
"""The same for the differences within a video: of a still picture 0, of a still head that talks 0.01 and 0.07."""
POSE_FAR, POSE_NEARER = 0.25, 0.5
"""A first frame is called far from a picture's pose if its distance is over this and another frame has half of it.
Similar poses measure 0.02 to 0.16, turned heads 0.25 to 0.6 (the examples, the demo network)."""


def find_poses(network: FirstOrderModel, crops: Frame) -> list[list[list[float]]]:
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


def look_at_first_frame(
    network: FirstOrderModel, item: Item, facts: ClipFacts, poses: list[list[list[float]]]
) -> FirstFrame:
    """Return why a take's first frame is a bad one to start from, and the number of a better one.

    If no better frame is found, nothing is reported: then the keypoints may be wrong. Both frames are decoded again
    exactly, because a sampled frame may be the one before.
    """
    import numpy as np

    seen = [look for look, is_seen in enumerate(facts.faces_seen) if is_seen]
    values, parts = np.array(poses), network.preset.parts
    usual = Usual.of(values[seen], parts) if parts and 0 in seen and not facts.crop.warning else None
    if usual and usual.faults(values[0]):
        with suppress(InputError):  # a clip that can't be read is reported already
            faults = usual.faults(_pose_of_frame(network, item, facts, 0))
            each = Fraction(facts.rate) / Fraction(facts.sampled_rate)
            good = [round(look * each) for look in seen[1:] if usual.is_well(values[look])]
            for number in good[:TRIES] if faults else []:
                if usual.is_well(_pose_of_frame(network, item, facts, number)):
                    return FirstFrame(faults, number)
    return FirstFrame()


def _pose_of_frame(network: FirstOrderModel, item: Item, facts: ClipFacts, number: int) -> NDArray[np.float64]:
    """Return the keypoints of one frame of a take, [K, 2]."""
    import numpy as np

    clip, box = clip_of(Path(item.file)), facts.crop.box
    start = Fraction(item.start or 0) + number / clip.rate
    frames = np.stack(list(media.read_frames(clip, start=start, end=start + 1 / clip.rate, box=box, size=FILM_SIZE)))
    return np.array(find_poses(network, frames[:, :, ::-1].copy() if item.flip else frames)[0])


def look_at_faces(plan: Plan, findings: Sequence[Finding], weights: str, parts: FaceParts) -> None:
    """Note how videos move, and warn of still ones and of pictures that the package's network makes poor films of."""
    import numpy as np

    for finding in findings:
        facts = finding.facts
        if isinstance(facts, Unreadable) or not facts.crop.faces:
            continue
        poses = np.array(facts.poses[weights])
        if isinstance(facts, ClipFacts):
            _, lips, turn = measures(poses[facts.faces_seen], parts)
            finding.motion = {"mouth": lips.round(3).tolist(), "head": turn.round(3).tolist()}
            if len(lips) >= FEWEST and np.ptp(lips) < LIPS_STILL and np.ptp(turn) < HEAD_STILL:
                advice = "give another part by start and end, or another video"
                finding.problems.append(Problem(DOUBTFUL, "neither mouth nor head moves in it", advice))
        elif plan.settings.better and facts.photograph:
            _, (lips,), (turn,) = measures(poses, parts)
            seen = ["its head is turned far, which smears"] * bool(abs(turn) > TURNED_FAR)
            seen += ["its mouth is open or shows teeth, which blur"] * bool(lips > LIPS_APART)
            advice = "take one that looks ahead with its mouth shut, or published weights"
            finding.problems += [Problem(DOUBTFUL, text, advice) for text in seen]


def warn_of_first_frames(plan: Plan, takes: dict[str, Finding], weights: str) -> None:
    """Warn of takes whose first frame is a bad one to start from, and name a better one."""
    for take in {take for _, take in compared(plan)} & takes.keys():
        item, facts = takes[take].item, takes[take].facts
        assert isinstance(facts, ClipFacts)
        first = facts.first_frame[weights]
        if first.better is None:
            continue
        text = f"{', '.join(first.faults)} in its first frame, from which motion is counted"
        at = float(Fraction(item.start or 0) + first.better / Fraction(facts.rate))
        better = f"{{{item.file_name}: {{best_frame: {first.better}}}}}"
        advice = f"in config.yaml, files: {better} counts from a better one, {{start: {at:.2f}}} begins there"
        takes[take].problems.append(Problem(DOUBTFUL, text, advice))


def compare_poses(plan: Plan, pictures: dict[str, Finding], takes: dict[str, Finding], weights: str) -> None:
    """Add a finding to each take whose first frame is far from pictures' poses, with a nearer frame."""
    import numpy as np

    held = {
        name: np.array(finding.facts.poses[weights][0])
        for name, finding in pictures.items()
        if isinstance(finding.facts, PictureFacts)
    }
    moved: dict[str, list[str]] = {}
    for image, take in compared(plan):
        if image in pictures and take in takes:
            moved.setdefault(take, []).append(image)
    far: dict[str, list[tuple[str, float]]] = {}
    for take, images in moved.items():
        facts = takes[take].facts
        assert isinstance(facts, ClipFacts)
        if facts.first_frame[weights].faults:
            continue  # a better first frame comes first
        poses = np.array(facts.poses[weights])
        for image in images:
            distances = ((poses - held[image]) ** 2).sum((1, 2))
            nearest = int(distances.argmin())
            if distances[0] > POSE_FAR and distances[nearest] < POSE_NEARER * distances[0]:
                far.setdefault(take, []).append((image, nearest / float(Fraction(facts.sampled_rate))))
    for take, those in far.items():
        names = [printable(image) for image, _ in those[:3]] + ["..."] * (len(those) > 3)
        seconds = sorted(when for _, when in those)[len(those) // 2] + float(Fraction(takes[take].item.start or 0))
        count = f"{len(those)} picture{'s' * (len(those) != 1)}"
        text = f"its first frame's pose is far from that of {count} ({', '.join(names)})"
        advice = f"motion: best_frame: auto, or let it start where the head is held alike, about {seconds:.1f} s"
        takes[take].problems.append(Problem(DOUBTFUL, text, advice))
