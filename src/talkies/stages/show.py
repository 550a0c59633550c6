"""Sets silent films into their whole picture, or enlarges them: what rule show runs. It needs no network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .. import media
from ..errors import TalkiesError, printable
from ..media.paste import FEATHER, LARGEST_SIDE, enlarge_film, paste_film
from ..run.pairs import Pair
from ..run.plan import Plan, Stage
from ..run.record import Film, is_unchanged
from .work import Bench, one_by_one, since

PAIR_SECONDS = 0.3
PASTE_SECONDS = 0.2  # a frame, for a picture of 2,000 pixels a side
ENLARGE_SECONDS = 0.01  # a frame


def _asks(plan: Plan, name: str) -> dict[str, Any]:
    if plan.pairs[name].paste_back:
        return {"paste_back": [FEATHER, LARGEST_SIDE]}
    return {"upscale": plan.settings.upscale}


def _seconds(plan: Plan, name: str) -> float:
    pair = plan.pairs[name]
    return PAIR_SECONDS + (PASTE_SECONDS if pair.paste_back else ENLARGE_SECONDS) * plan.takes[pair.take].frames


def _show_film(bench: Bench, name: str) -> Film:
    """Make a pair's film as its talkie shows it; return its record."""
    began, pair = time.monotonic(), bench.plan.pairs[name]
    target = bench.plan.film(bench.stage.name, name)
    made, film = bench.film(pair.name)
    bench.scratch.require(8 * film.stat().st_size)
    writer = bench.writer(pair, made.picture.rate, "shown.mp4")
    how = _show(bench, pair, made, film, writer)
    return target.describe(
        Film(
            key=bench.key(pair.name),
            frames=writer.frames,
            picture=writer.picture,
            seconds=since(began),
            facts={**made.facts, "shown": how},
        )
    )


def _show(bench: Bench, pair: Pair, made: Film, film: Path, writer: media.FrameWriter) -> dict[str, object]:
    """Write a pair's film as it is shown; return how it was made, for its record."""
    if pair.paste_back:
        source = bench.record("crop", pair.source)
        path = Path(bench.plan.sources[pair.source].file)
        if not is_unchanged(path, source.original):
            raise TalkiesError(f"{printable(path)}: it has changed since it was animated; run snakemake again")
        box = source.crop.box
        paste_film(film, media.read_picture(path), box, writer)
        return {"paste_back": {"box": box, "feather": FEATHER}}
    side = bench.plan.settings.upscale
    assert side is not None, "a film is shown so, or pasted back"
    enlarge_film(film, side, writer)
    return {"upscale": {"from": made.picture.size, "to": side, "how": "ffmpeg lanczos, no detail added"}}


STAGE = Stage(
    "show",
    "pairs",
    file=lambda plan, name: plan.film("show", name),
    asks=_asks,
    make=one_by_one(_show_film, "films"),
    seconds=_seconds,
    needs=lambda plan, name: ("crop",) if plan.pairs[name].paste_back else (),
    wanted=lambda plan, name: bool(plan.pairs[name].paste_back or plan.settings.upscale),
)
