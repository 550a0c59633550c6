"""Computes the keypoints of each take once for all pictures: what rule motion runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .. import media
from ..engines import FOMM
from ..errors import InputError, printable
from ..run.inputs import clip_of
from ..run.plan import Plan, Stage
from ..run.record import FoundMotion
from .cut import seconds
from .work import Bench, since

if TYPE_CHECKING:
    from ..engines import MotionEngine

log = logging.getLogger("talkies")

TAKE_SECONDS = 1.0


def _asks(plan: Plan, name: str) -> dict[str, Any]:
    return {"take": plan.known_key("cut", name), "model": [plan.settings.model.preset, plan.weights]}


def _make(bench: Bench, takes: list[str]) -> Iterator[tuple[str, FoundMotion | InputError]]:
    bench.progress.start(sum(bench.plan.takes[take].frames for take in takes), "frames")
    for take in takes:
        try:
            yield take, _find(bench, take)
        except InputError as error:
            yield take, error


def _find(bench: Bench, name: str) -> FoundMotion:
    """Compute and save the keypoints of one take; return its record."""
    began = time.monotonic()
    take, target, driving = bench.plan.takes[name], bench.plan.motion_file(name), bench.record("cut", name)
    engine = cast("MotionEngine", bench.engine(FOMM, bench.scratch))
    clip = clip_of(Path(take.file))
    frames = media.read_frames(
        clip,
        box=driving.crop.box,
        size=engine.side,
        start=seconds(take.start),
        end=seconds(take.end),
        flip=take.flip,
    )
    found = engine.find_motion(bench.progress.through(frames), clip.rate)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    found.save(target.path)
    took = since(began)
    log.info("motion of %s: %d frames in %.1f s", printable(name), found.frames, took)
    return target.describe(
        FoundMotion(
            key=bench.key(name), frames=found.frames, rate=str(clip.rate), seconds=took, facts=dict(engine.identity())
        )
    )


STAGE = Stage(
    "motion",
    "takes",
    file=lambda plan, take: plan.motion_file(take),
    asks=_asks,
    make=_make,
    seconds=lambda plan, take: TAKE_SECONDS + plan.takes[take].frames / plan.rates[FOMM],
    needs=lambda plan, take: ("cut",),
    wanted=lambda plan, take: take in plan.moving_takes,
    on_gpu=True,
)
