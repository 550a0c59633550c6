"""Sets silent films into their whole picture, or enlarges them: what rule show runs. It needs no network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from .. import media
from ..errors import InputError, TalkiesError, printable
from ..media.paste import FEATHER, enlarge_film, paste_film
from ..run.asks import encoding
from ..run.pairs import Pair
from ..run.receipts import distrust
from ..run.record import Answer, Film, is_unchanged
from .animate import picture_of, shown_key
from .prepare import mend
from .work import Bench, Outcome, Stage, since


def _make(bench: Bench, names: list[str]) -> Iterator[tuple[str, Outcome]]:
    animated = bench.above["animate", bench.shard]
    bench.progress.start(len(names), "films")
    for name in names:
        try:
            key = show_pair(bench, bench.plan.pairs[name], animated.shown(name))
            yield name, Answer(picture_key=key)
        except InputError as error:
            yield name, error
        bench.progress.advance(1)


STAGE = Stage(
    "show",
    spec=lambda specs, shard, name: specs.shown(name),
    files=lambda bench, name: bench.folder.shown(bench.plan.pairs[name]),
    make=_make,
)


def show_pair(bench: Bench, pair: Pair, picture_key: str) -> str:
    """Make a pair's film as its talkie shows it, unless it exists; return its content key."""
    began = time.monotonic()
    target, talkie = bench.folder.shown(pair), bench.folder.talkie(pair)
    key = shown_key(bench.plan, pair, picture_key)
    if target.fresh(key) is not None or talkie.fresh(key, name="picture_key") is not None:
        return key
    made, film = bench.folder.silent(pair).fresh(picture_key), bench.folder.silent(pair).path
    if made is None:
        made, film = talkie.fresh(picture_key, name="picture_key"), talkie.path
    if made is None:
        distrust("animate", pair.name)
        raise TalkiesError(f"{printable(pair.name)}: its silent film is gone; run snakemake again to make it")
    bench.scratch.require(8 * film.stat().st_size)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    writer = media.FrameWriter(
        target.path,
        Fraction(made.picture.rate),
        **encoding(bench.plan.settings),
        part=bench.scratch.unfinished("shown.mp4"),
    )
    how = _show(bench, pair, made, film, writer)
    target.describe(
        Film(
            key=key,
            picture=picture_of(writer),
            seconds=made.seconds,
            facts={**made.facts, "shown": how, "show_seconds": since(began)},
        )
    )
    return key


def _show(bench: Bench, pair: Pair, made: Film, film: Path, writer: media.FrameWriter) -> dict[str, object]:
    """Write a pair's film as it is shown; return how it was made, for its record."""
    if pair.paste_back:
        if reason := mend(bench, [pair.source], []).get((pair.source, False)):
            raise InputError("", reason)
        original = bench.source(pair.source)
        path = Path(bench.plan.sources[pair.source].file)
        if not is_unchanged(path, original.original):
            raise TalkiesError(f"{printable(path)}: it has changed since it was animated; run snakemake again")
        box = original.crop.box
        paste_film(film, media.read_picture(path), box, writer)
        return {"paste_back": {"box": box, "feather": FEATHER}}
    side = bench.plan.settings.upscale
    assert side is not None, "a film is shown so, or pasted back"
    enlarge_film(film, side, writer)
    return {"upscale": {"from": made.picture.size, "to": side, "how": "ffmpeg lanczos, no detail added"}}
