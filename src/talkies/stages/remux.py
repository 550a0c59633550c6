"""Adds the driving video's sound to silent films and moves them to the results: what rule remux runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from .. import media
from ..engines import FOMM
from ..errors import InputError, TalkiesError, printable
from ..files import whole
from ..run import asks
from ..run.asks import Specs
from ..run.journal import Remuxed
from ..run.pairs import Pair
from ..run.receipts import Receipts, distrust
from ..run.record import Answer, Film, Talkie, content_key
from .prepare import probe_copy, seconds, sound_digest
from .work import Bench, Outcome, Stage, since

log = logging.getLogger("talkies")

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type vocabulary."""


def provenance(engine: str) -> str:
    """Return the comment tag of an engine's films."""
    name = "First Order Motion Model" if engine == FOMM else engine
    return f"AI-generated: a still picture animated by talkies ({name}); digitalSourceType={SOURCE_TYPE}"


def _make(bench: Bench, names: list[str]) -> Iterator[tuple[str, Outcome]]:
    clips, specs = Clips(bench), Specs(bench.plan)
    before = Receipts().read("remux", bench.shard)
    bench.progress.start(len(names), "films")
    for name in names:
        pair = bench.plan.pairs[name]
        ((stage, shard, _),) = bench.plan.comes_from("remux", bench.shard, name)
        shown = bench.above[stage, shard].shown(name)
        try:
            remux_pair(bench, pair, shown, clips, before.done.get(name, Answer()).file)
            status = bench.folder.talkie(pair).path.stat()
            yield name, Answer(file=(status.st_size, status.st_mtime_ns), shows=specs.shown(name))
        except InputError as error:
            yield name, error
        bench.progress.advance(1)


STAGE = Stage(
    "remux",
    spec=lambda specs, shard, name: specs.talkie(name),
    files=lambda bench, name: bench.folder.talkie(bench.plan.pairs[name]),
    make=_make,
)


class Clips:
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
            known = self._bench.folder.driving(pair.take).record()
            self._last = probe_copy(path, self._bench.scratch, known.original.sha256 if known else None)
        return self._last


def remux_pair(bench: Bench, pair: Pair, picture_key: str, clips: Clips, seen: tuple[int, int] | None = None) -> None:
    """Make one talkie, unless it exists.

    picture_key: the content key of the film it shows. seen: the talkie's size and time as a worker last saw it.
    """
    began = time.monotonic()
    folder, settings = bench.folder, bench.plan.settings
    talkie, scratch = folder.talkie(pair), bench.scratch
    sound_file = sound_digest(pair.audio) if isinstance(pair.audio, str) else None
    key = content_key(**asks.talkie(pair, settings, picture=picture_key, sound=sound_file))
    record = talkie.fresh(key)
    if record is not None:
        if record.file.mtime_ns != talkie.path.stat().st_mtime_ns:
            talkie.describe(record)
        _remove_silent(bench, pair)
        return
    silent = folder.shown(pair) if bench.plan.is_shown(pair.name) else folder.silent(pair)
    made: Film | None = silent.fresh(picture_key)
    picture = silent.path
    if made is None:  # only sound or tags differ: the pictures are copied from the talkie itself
        made, picture = talkie.fresh(picture_key, name="picture_key"), talkie.path
    if made is None:
        ((stage, _, _),) = bench.plan.comes_from("remux", bench.shard, pair.name)
        distrust(stage, pair.name)
        raise TalkiesError(f"{printable(pair.name)}: its silent film is gone; run snakemake again to make it")
    picture = picture.resolve()  # a link is moved aside
    take = bench.plan.takes[pair.take]
    scratch.require(2 * picture.stat().st_size)
    clip = clips.of(pair)
    start, end = (None, None) if isinstance(pair.audio, str) else (seconds(take.start), seconds(take.end))
    talkie.keep_foreign(seen)
    talkie.path.parent.mkdir(parents=True, exist_ok=True)
    with whole(talkie.path) as part:
        sound = media.remux(
            picture,
            clip,
            part,
            start=start,
            end=end,
            comment=provenance(pair.engine) if settings.provenance else None,
            part=scratch.unfinished("talkie.mp4"),
        )
        # The record first, so that a film under its final name always has one.
        talkie.describe(
            Talkie(
                key=key,
                picture_key=picture_key,
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
    _remove_silent(bench, pair)
    bench.journal.note(Remuxed(pair=pair.name, sound=sound.sound))
    log.info("%s: done, sound: %s", printable(pair.name), sound.sound or "none")


def _remove_silent(bench: Bench, pair: Pair) -> None:
    bench.folder.silent(pair).remove()
    bench.folder.shown(pair).remove()
