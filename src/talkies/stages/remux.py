"""Adds the driving video's sound to silent films and moves them to the results: what rule remux runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import media
from ..engines import FOMM
from ..errors import InputError, printable
from ..files import whole
from ..run.pairs import Pair
from ..run.plan import Plan
from ..run.record import Talkie
from ..run.stage import Stage
from .cut import probe_copy, seconds
from .work import Bench, since

log = logging.getLogger("talkies")

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type vocabulary."""
REMUX_SECONDS = 1.0


def provenance(engine: str) -> str:
    """Return the comment tag of an engine's films."""
    name = "First Order Motion Model" if engine == FOMM else engine
    return f"AI-generated: a still picture animated by talkies ({name}); digitalSourceType={SOURCE_TYPE}"


def _asks(plan: Plan, name: str) -> dict[str, Any]:
    audio = plan.pairs[name].audio
    sound = {"file": plan.content(audio)} if isinstance(audio, str) else audio
    return {"audio": sound, "provenance": plan.settings.provenance}


def _make(bench: Bench, names: list[str]) -> Iterator[tuple[str, Talkie | InputError]]:
    clips = _Clips(bench)
    bench.progress.start(len(names), "films")
    for name in names:
        try:
            yield name, _remux(bench, bench.plan.pairs[name], clips)
        except InputError as error:
            yield name, error
        bench.progress.advance(1)


class _Clips:
    """The driving videos of a shard, copied to the scratch disk and probed once for all their pairs, one at a
    time."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._last: media.Clip | None = None

    def of(self, pair: Pair) -> media.Clip | media.SoundFile | None:
        """Return the source of a pair's sound."""
        if isinstance(pair.audio, str):
            return media.probe_sound(pair.audio)
        if not pair.audio:
            return None
        path = Path(self._bench.plan.takes[pair.take].file)
        if self._last is None or self._last.path != path:
            self._bench.scratch.release(but=path)
            self._last = probe_copy(path, self._bench.scratch, self._bench.plan.content(str(path)))
        return self._last


def _remux(bench: Bench, pair: Pair, clips: _Clips) -> Talkie:
    """Make one talkie; return its record."""
    began = time.monotonic()
    plan, talkie, scratch = bench.plan, bench.folder.talkie(pair), bench.scratch
    made, picture = bench.film(pair.name)
    before = plan.before(bench.stage, pair.name)
    assert before is not None, "a talkie shows a film"
    picture = picture.resolve()  # a link is moved aside
    take = plan.takes[pair.take]
    scratch.require(2 * picture.stat().st_size)
    clip = clips.of(pair)
    start, end = (None, None) if isinstance(pair.audio, str) else (seconds(take.start), seconds(take.end))
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
            part=scratch.unfinished("talkie.mp4"),
        )
        # The record first, so that a film under its final name always has one.
        record = talkie.describe(
            Talkie(
                key=bench.key(pair.name),
                picture_key=plan.known_key(before.name, pair.name),
                pair=pair.name,
                picture=made.picture,
                seconds=made.seconds,
                sound=sound,
                remux_seconds=since(began),
                digital_source_type=SOURCE_TYPE,
                facts=made.facts,
            ),
            of=part,
        )
    log.info("%s: done, sound: %s", printable(pair.name), sound.sound or "none")
    return record


STAGE = Stage(
    "remux",
    "pairs",
    file=lambda folder, plan, name: folder.talkie(plan.pairs[name]),
    asks=_asks,
    make=_make,
    seconds=lambda plan, name: REMUX_SECONDS,
)
