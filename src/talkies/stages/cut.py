"""Cuts driving videos to squares of a constant rate, with their sound: what rule cut runs."""

from __future__ import annotations

import logging
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from .. import media
from ..errors import printable
from ..fomm.model.presets import PRESETS
from ..media import crop
from ..media.film import FILM_SIZE
from ..run.inputs import clip_of
from ..run.plan import Plan, Stage
from ..run.record import PreparedTake
from .crop import read_original
from .work import Bench, one_by_one, since

log = logging.getLogger("talkies")

TAKE_SECONDS = 1.0  # probing, opening and closing its files
TAKE_SECONDS_PER_FRAME = 0.02


def _asks(plan: Plan, name: str) -> dict[str, Any]:
    take = plan.takes[name]
    segment = {"start": take.start, "end": take.end, "flip": take.flip}
    return {"video": plan.content(take.file), "crop": take.crop.plain, **segment, "side": FILM_SIZE}


def _cut(bench: Bench, name: str) -> PreparedTake:
    """Find a take's crop, and write the cropped clip with sound; return its record. InputError if it is unusable."""
    began = time.monotonic()
    take, target, scratch = bench.plan.takes[name], bench.plan.driving_file(name), bench.scratch
    path = Path(take.file)
    original = read_original(bench, path)
    clip = clip_of(path)
    start, end = seconds(take.start), seconds(take.end)
    cut = crop.find_crop(clip, take.crop, start=start, end=end)
    if cut.warning and not why_refused(bench.plan, name, cut):
        log.warning("%s: %s", printable(path), cut.warning)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    frames = media.write_excerpt(
        clip,
        target.path,
        box=cut.box,
        size=FILM_SIZE,
        start=start,
        end=end,
        flip=take.flip,
        preset="veryfast",
        parts=(scratch / "picture.mp4", scratch / "sound.mp4"),
    )
    return target.describe(
        PreparedTake(
            key=bench.key(name),
            original=original,
            crop=cut,
            rate=str(clip.rate),
            frames=frames,
            sound=clip.sound is not None,
            truncated=clip.truncated,
            seconds=since(began),
            facts={"variable_rate": clip.variable},
        )
    )


STAGE = Stage(
    "cut",
    "takes",
    file=lambda plan, name: plan.driving_file(name),
    asks=_asks,
    make=one_by_one(_cut, "files"),
    seconds=lambda plan, name: TAKE_SECONDS + TAKE_SECONDS_PER_FRAME * plan.takes[name].frames,
)


def why_refused(plan: Plan, name: str, cut: crop.Crop) -> str | None:
    """Return why the built-in engine refuses a take; None if it does not, as a face is seen or it was cut by hand.

    A network for faces makes torn films from a video without a face.
    """
    preset = PRESETS[plan.settings.model.preset]
    allowed = name not in plan.moving_takes or preset.crop != "face" or plan.settings.faceless == "allow"
    if allowed or cut.faces != 0:
        return None
    how = "crop it by hand (center, or a box), or set faceless: allow in config.yaml"
    return f"{printable(plan.takes[name].file)}: {crop.FACELESS}, and {preset.name} animates by faces: {how}"


def seconds(text: str | None) -> Fraction | None:
    """Return a segment's start or end in seconds."""
    return None if text is None else Fraction(text)
