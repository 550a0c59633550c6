"""Sets silent films into their whole picture, or enlarges them: what rule show runs. It needs no network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from .. import media
from ..errors import InputError, TalkiesError, printable
from ..media import crop
from ..media.paste import FEATHER, enlarge_film, paste_film
from ..run.asks import encoding
from ..run.pairs import Pair
from ..run.receipts import distrust
from ..run.record import Answer, is_unchanged
from .animate import shown_key
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
        Fraction(made["picture"]["rate"]),
        **encoding(bench.plan.settings),
        part=bench.scratch.unfinished("shown.mp4"),
    )
    facts = {name: value for name, value in made.items() if name not in OF_TALKIE}
    target.describe({**facts, **_show(bench, pair, made, film, writer), "key": key, "show_seconds": since(began)})
    return key


OF_TALKIE = ("key", "file", "picture_key", "sound", "pair", "remux_seconds", "digital_source_type")
"""Keys of a record that are about the talkie, not about its pixels."""


def _show(bench: Bench, pair: Pair, made: dict[str, Any], film: Path, writer: media.FrameWriter) -> dict[str, Any]:
    """Write a pair's film as it is shown; return the facts for its record."""
    if pair.paste_back:
        if reason := mend(bench, [pair.source], []).get((pair.source, False)):
            raise InputError("", reason)
        original = bench.prepared("prepare", pair.source)
        path = Path(bench.plan.sources[pair.source].file)
        if not is_unchanged(path, original["original"]):
            raise TalkiesError(f"{printable(path)}: it has changed since it was animated; run snakemake again")
        box = crop.Crop.from_dict(original["crop"]).box
        size = paste_film(film, media.read_picture(path), box, writer)
        how = {"paste_back": {"box": [box.x, box.y, box.side], "feather": FEATHER}}
    else:
        side = bench.plan.settings.upscale
        assert side is not None, "a film is shown so, or pasted back"
        size = enlarge_film(film, side, writer)
        how = {"upscale": {"from": made["picture"]["size"], "to": side, "how": "ffmpeg lanczos, no detail added"}}
    return {"picture": {**made["picture"], **writer.encoding, "size": list(size)}, "shown": how}
