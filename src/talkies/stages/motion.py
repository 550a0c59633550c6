"""Computes the keypoints of each take once for all pictures: what rule motion runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .. import media
from ..engines import FOMM
from ..errors import InputError, printable
from ..run import asks
from ..run.journal import Found
from ..run.record import Answer, FoundMotion, content_key
from .prepare import probe_copy, seconds
from .work import Bench, Outcome, Progress, Stage, since

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..engines import MotionEngine

log = logging.getLogger("talkies")


def _make(bench: Bench, takes: list[str]) -> Iterator[tuple[str, Outcome]]:
    bench.progress.start(sum(bench.plan.takes[take].frames for take in takes), "frames")
    for take in takes:
        try:
            record = detect_take(bench, take)
            yield take, Answer(weights=record.weights)
        except InputError as error:
            yield take, error
        finally:
            bench.scratch.release()


STAGE = Stage(
    "motion",
    spec=lambda specs, shard, take: specs.motion(take),
    files=lambda bench, take: bench.folder.motion(take),
    make=_make,
)


def detect_take(bench: Bench, name: str) -> FoundMotion:
    """Compute and save the keypoints of one take, unless that is done; return its record."""
    take, target = bench.plan.takes[name], bench.folder.motion(name)
    driving = bench.take(name)
    engine = cast("MotionEngine", bench.engine(FOMM, None))
    content, box = driving.original.sha256, driving.crop.box
    asked = asks.motion(take, content=content, box=box, **engine.identity())
    key = content_key(**asked)
    record = target.fresh(key)
    if record is not None:
        return record
    began = time.monotonic()
    clip = probe_copy(Path(take.file), bench.scratch, content)
    frames = media.excerpt_frames(
        clip,
        box=driving.crop.box,
        size=engine.side,
        start=seconds(take.start),
        end=seconds(take.end),
        flip=take.flip,
    )
    found = engine.find_motion(_counted(frames, bench.progress), clip.rate)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    found.save(target.path)
    took = since(began)
    bench.journal.note(Found(take=name, frames=found.frames, seconds=took))
    log.info("motion of %s: %d frames in %.1f s", printable(name), found.frames, took)
    facts = dict(engine.identity())
    weights = str(facts.pop("weights"))
    return target.describe(
        FoundMotion(key=key, weights=weights, frames=found.frames, rate=str(clip.rate), seconds=took, facts=facts)
    )


def _counted(frames: Iterator[NDArray[np.uint8]], progress: Progress) -> Iterator[NDArray[np.uint8]]:
    for frame in frames:
        yield frame
        progress.advance(1)
