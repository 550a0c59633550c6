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
from pathlib import Path
from typing import TYPE_CHECKING

from ..engines import FOMM
from ..errors import InputError
from ..files import file_digest, from_json, read_stamped, to_plain, whole, write_json
from ..fomm.model.presets import DEMO_WEIGHTS, PRESETS
from ..run.folder import HOME
from ..run.pairs import Pair
from ..run.plan import Plan, compared, digest
from .check_file import ClipFacts, Item, Look, PictureFacts, Unreadable, look
from .check_poses import compare_poses, find_poses, look_at_faces, look_at_first_frame, warn_of_first_frames
from .check_problems import Finding, findings_of

if TYPE_CHECKING:
    from ..fomm.model.first_order import FirstOrderModel

FINDINGS = HOME / "check"
RESULT = HOME / "check.json"
"""The findings of the last check, for the gallery and the workflow."""
FILES = FINDINGS / "files.json"
"""Each file's size, time and digest, so that an unchanged one is not read."""
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
    weights = _weights(plan) if model and compared(plan) else None
    digests = _digests(items)
    looks: dict[Item, Look] = {}
    unseen: dict[Item, Path] = {}
    for item in items:
        path = _path(item, digests[item.file])
        if known := _kept(item, path, weights):
            looks[item] = known
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


def _weights(plan: Plan) -> str:
    """Return what identifies the network without loading it."""
    settings = plan.settings.model
    chosen = settings.checkpoint
    return digest([settings.preset, file_digest(chosen or DEMO_WEIGHTS)])


def _path(item: Item, sha256: str | None) -> Path:
    looked: dict[str, object] = {
        "content": sha256 or item.file,
        "crop": item.crop.plain,
        "segment": [item.start, item.end],
    }
    looked |= {"clip": item.clip, "flip": item.flip}
    return FINDINGS / f"{digest([RECIPE, looked])}.json"


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
