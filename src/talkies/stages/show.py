"""Sets silent films into their whole picture, or enlarges them: what rule show runs. It needs no network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..errors import TalkiesError, printable
from ..media.crop import resize, scaled
from ..media.frames import Box
from ..run.pairs import Pair
from ..run.plan import Plan, Stage
from ..run.record import Film, is_unchanged
from .work import Bench, one_by_one, since

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..media.pictures import Frame

PAIR_SECONDS = 0.3
PASTE_SECONDS = 0.2  # a frame, for a picture of 2,000 pixels a side
ENLARGE_SECONDS = 0.01  # a frame
FEATHER = 0.12  # share of the square's side over which its border is blended
LARGEST_SIDE = 4096  # pixels: the most that players decode; larger pictures are scaled down


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
    with writer:
        for square in media.read_frames(media.probe(film), size=side):
            writer.write(square)
    return {"upscale": {"from": made.picture.size, "to": side, "how": "ffmpeg lanczos, no detail added"}}


def feathered_mask(box: Box, width: int, height: int) -> NDArray[np.uint8]:
    """Return how much of the square shows in a picture of this size: [side, side], 255 for all.

    It is 0 along its border, so that nothing moves there, and 255 from FEATHER inwards; a side on the picture's edge
    has no border.
    """
    import numpy as np

    place = np.arange(box.side, dtype=np.float32)

    def along(before: bool, after: bool) -> NDArray[np.float32]:
        near = np.minimum(place if before else np.inf, place[::-1] if after else np.inf)
        share = np.clip(near / max(1.0, FEATHER * box.side), 0, 1) * np.ones_like(place)
        return np.asarray(share * share * (3 - 2 * share), np.float32)

    across = along(box.x > 0, box.x + box.side < width)
    down = along(box.y > 0, box.y + box.side < height)
    return np.asarray(np.rint(255 * down[:, None] * across), np.uint8)


def paste(square: Frame, picture: Frame, box: Box, mask: NDArray[np.uint8]) -> Frame:
    """Return the picture, uint8 [H,W,3], with the square, scaled to the box, set into it."""
    import numpy as np
    from PIL import Image

    whole = Image.fromarray(picture)
    whole.paste(Image.fromarray(resize(square, box.side)), (box.x, box.y), Image.fromarray(mask))
    return np.array(whole)


def paste_film(film: Path, picture: Frame, box: Box, writer: media.FrameWriter) -> None:
    """Write a film of the whole picture, with `film` playing in its square.

    box: the square's place in the picture, uint8 [H,W,3].
    """
    height, width = picture.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(width, height))
    if scale < 1:
        width, height = round(width * scale), round(height * scale)
        picture = resize(picture, (width, height))
        box = scaled(box, scale)
    mask = feathered_mask(box, width, height)
    with writer:
        for square in media.read_frames(media.probe(film)):
            writer.write(paste(square, picture, box, mask))


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
