"""Crops pictures and takes: what rule prepare runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .. import media
from ..errors import InputError
from ..files import file_digest, whole
from ..machine.scratch import FULL, Scratch
from ..media import crop
from ..media.film import FILM_SIZE
from ..run import asks
from ..run.asks import Specs
from ..run.folder import Folder
from ..run.plan import Plan
from ..run.probes import clip_of
from ..run.record import Answer, Original, Prepared, PreparedTake, Recorded, content_key
from .work import UNFINISHED_BYTES, Bench, Outcome, Stage, holding, say_again, since

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Prepare = Callable[[Bench, str], Prepared]


def _spec(specs: Specs, shard: str, item: str) -> str:
    return specs.source(item) if shard in specs.plan.picture_shards else specs.driving(item)


def _file(bench: Bench, item: str) -> Recorded[Any]:
    folder = bench.folder
    return folder.source(item) if bench.shard in bench.plan.picture_shards else folder.driving(item)


def _make(bench: Bench, items: list[str]) -> Iterator[tuple[str, Outcome]]:
    work: Prepare = prepare_source if bench.shard in bench.plan.picture_shards else prepare_take
    bench.progress.start(len(items), "files")
    for item in items:
        try:
            record = work(bench, item)
            yield item, Answer(sha256=record.original.sha256)
        except InputError as error:
            yield item, error
        bench.scratch.release()
        bench.progress.advance(1)


STAGE = Stage("prepare", _spec, _file, _make)


def mend(bench: Bench, sources: Iterable[str], takes: Iterable[str]) -> dict[tuple[str, bool], str]:
    """Prepare missing or damaged ones of these again; return the failures by name and whether it is a take.

    The lock of the preparing shard makes sure that one worker does it.
    """
    plan, folder, lost = bench.plan, bench.folder, {}
    gone: list[tuple[str, bool, Recorded[Any], Mapping[str, str]]] = [
        (name, False, folder.source(name), plan.shard_of_source) for name in sources if not bench.standing_source(name)
    ]
    gone += [(name, True, folder.driving(name), plan.shard_of_take) for name in takes if not bench.standing_take(name)]
    for name, clip, recorded, shards in gone:
        say_again(recorded)
        again: Prepare = prepare_take if clip else prepare_source
        try:
            with holding(shards[name]):
                again(bench, name)
        except InputError as error:
            lost[name, clip] = str(error)
        finally:
            bench.scratch.release()
    return lost


def mend_shown(plan: Plan, names: Iterable[str]) -> None:
    """Prepare missing or damaged pictures and clips again that the gallery shows beside these films."""
    pairs = [plan.pairs[name] for name in names]
    bench = Bench(plan, STAGE, "", Folder.journal("prepare", "gallery"))
    mend(bench, dict.fromkeys(pair.source for pair in pairs), dict.fromkeys(pair.take for pair in pairs))


def _original(path: Path, record: Prepared | None, scratch: Scratch) -> Original:
    """Return an input file's path, size, time and digest; the digest is that of its record if size and time are
    equal.

    A new file is read to its end, so it is copied to the scratch disk first.
    """
    try:
        status = path.stat()
        now = str(path), status.st_size, status.st_mtime_ns
        if record and (record.original.file, record.original.size, record.original.mtime_ns) == now:
            return record.original
        sha256 = file_digest(scratch.stage_in(path))
        return Original(size=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256, file=str(path))
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(path, f"can't be read ({error.strerror}): copy it again") from None


def prepare_source(bench: Bench, name: str) -> Prepared:
    """Crop one picture to a square PNG unless that is done; return its record. InputError when it is unusable."""
    began = time.monotonic()
    source, target = bench.plan.sources[name], bench.folder.source(name)
    path = Path(source.file)
    original = _original(path, target.record(), Scratch())  # a picture is small and read twice: no copy
    key = content_key(**asks.source(source, original.sha256))
    record = target.fresh(key)
    if record is None:
        picture = media.read_picture(path)
        square, cut = crop.crop_picture(picture, source.crop, name=path, size=FILM_SIZE)
        write_png(target.path, square)
        record = target.describe(Prepared(key=key, original=original, crop=cut, seconds=since(began)))
    elif record.original != original:
        record = target.describe(replace(record, original=original))
    return record


def prepare_take(bench: Bench, name: str) -> PreparedTake:
    """Probe a clip, find its crop, and write the cropped clip with sound, unless that is done; return its record."""
    began = time.monotonic()
    take, target, scratch = bench.plan.takes[name], bench.folder.driving(name), bench.scratch
    path = Path(take.file)
    original = _original(path, target.record(), scratch)
    key = content_key(**asks.driving(take, original.sha256))
    record = target.fresh(key)
    if record is not None:
        return record if record.original == original else target.describe(replace(record, original=original))
    scratch.require(2 * take.frames * UNFINISHED_BYTES)
    clip = probe_copy(path, scratch, original.sha256)
    start, end = seconds(take.start), seconds(take.end)
    cut = crop.find_crop(clip, take.crop, start=start, end=end)
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
        parts=(scratch.unfinished("picture.mp4"), scratch.unfinished("sound.mp4")),
    )
    return target.describe(
        PreparedTake(
            key=key,
            original=original,
            crop=cut,
            rate=str(clip.rate),
            frames=frames,
            sound=clip.sound is not None,
            variable_rate=clip.variable,
            truncated=clip.truncated,
            seconds=since(began),
        )
    )


def probe_copy(path: Path, scratch: Scratch, sha256: str | None) -> media.Clip:
    """Copy a clip to the scratch disk, since it is read several times, and return its facts."""
    copy = scratch.stage_in(path, sha256=sha256)
    return clip_of(path, copy)


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write uint8 RGB [H, W, 3] as PNG, whole or not at all."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        Image.fromarray(picture).save(part, format="PNG")


def seconds(text: str | None) -> Fraction | None:
    """Return a segment's start or end in seconds."""
    return None if text is None else Fraction(text)


def sound_digest(path: str) -> str:
    """Return the digest of a pair's sound file; InputError if it can't be read."""
    try:
        status = Path(path).stat()
        return _digest_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(path, f"its sound can't be read ({error.strerror}): put it back, or name another") from None


@lru_cache(maxsize=256)
def _digest_of(path: str, size: int, mtime_ns: int) -> str:
    return file_digest(path)
