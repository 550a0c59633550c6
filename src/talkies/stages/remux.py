"""Adds the driving video's sound to silent films and moves them to the results: what rule remux runs."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from .. import media
from ..engines import FOMM
from ..errors import printable
from ..files import whole
from ..run.inputs import clip_of
from ..run.plan import Plan, Stage
from ..run.record import Talkie
from .cut import seconds
from .work import Bench, one_by_one, since

log = logging.getLogger("talkies")

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type vocabulary."""
REMUX_SECONDS = 0.1


def provenance(engine: str) -> str:
    """Return the comment tag of an engine's films."""
    name = "First Order Motion Model" if engine == FOMM else engine
    return f"AI-generated: a still picture animated by talkies ({name}); digitalSourceType={SOURCE_TYPE}"


def _asks(plan: Plan, name: str) -> dict[str, Any]:
    audio = plan.pairs[name].audio
    sound = {"file": plan.content(audio)} if isinstance(audio, str) else audio
    return {"audio": sound, "provenance": plan.settings.provenance}


def _remux(bench: Bench, name: str) -> Talkie:
    """Make one talkie; return its record."""
    began = time.monotonic()
    plan, pair = bench.plan, bench.plan.pairs[name]
    talkie = plan.talkie(name)
    made, picture = bench.film(pair.name)
    before = plan.before(bench.stage, pair.name)
    assert before is not None, "a talkie shows a film"
    picture = picture.resolve()  # a link is moved aside
    take = plan.takes[pair.take]
    start, end = seconds(take.start), seconds(take.end)
    clip: media.Clip | media.SoundFile | None = None
    if isinstance(pair.audio, str):
        clip, start, end = media.probe_sound(pair.audio), None, None
    elif pair.audio:
        clip = clip_of(Path(take.file))
    talkie.keep_foreign(bench.look.ledger.files.get((bench.stage.name, pair.name)))
    talkie.path.parent.mkdir(parents=True, exist_ok=True)
    with whole(talkie.path) as part:
        sound = media.remux(
            picture,
            clip,
            part,
            start=start,
            end=end,
            comment=provenance(pair.engine) if plan.settings.provenance else None,
            part=bench.scratch / "talkie.mp4",
        )
        # The record first, so that a film under its final name always has one.
        record = talkie.describe(
            Talkie(
                key=bench.key(pair.name),
                picture_key=plan.known_key(before.name, pair.name),
                pair=pair.name,
                picture=made.picture,
                frames=made.frames,
                seconds=since(began),
                sound=sound,
                facts={**made.facts, "digital_source_type": SOURCE_TYPE},
            ),
            of=part,
        )
    log.info("%s: done, sound: %s", printable(pair.name), sound.sound or "none")
    return record


STAGE = Stage(
    "remux",
    "pairs",
    file=lambda plan, name: plan.talkie(name),
    asks=_asks,
    make=one_by_one(_remux, "films"),
    seconds=lambda plan, name: REMUX_SECONDS,
)
