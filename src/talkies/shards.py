"""The work of the shards: prepare, motion, animate, remux. Each stage makes what is missing or stale, and no more.

A worker holds its shard's lock, does its items, and writes a receipt. An item whose input is bad (InputError)
is recorded there with its reason and the others go on; any other error (memory, disk, a signal, a GPU) ends
the worker without a receipt, so that the job is run again.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, crop, media
from .errors import InputError, TalkiesError, printable
from .media import FILM_SIZE
from .model.presets import PRESETS
from .paste import FEATHER, LARGEST_SIDE, enlarge_film, paste_film
from .plan import BYTES_PER_FRAME, HOME, Pair, Plan, Take, store_films
from .records import (
    HEARTBEAT_SECONDS,
    Journal,
    Receipt,
    Recorded,
    content_key,
    is_unchanged,
    lock,
    renew,
)
from .scratch import FULL, Scratch, open_scratch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .animate import Engine
    from .motion import Motion

log = logging.getLogger("talkies")

PART = re.compile(r"\.+(.+?)(?:\.\d+(?:-[0-9a-f]+)?\.part)+", re.DOTALL)
"""A temporary file's name, .NAME.PID[-TIME].part, and that of a temporary file's own temporary file."""

FILM_CRF = 18
FILM_PRESET = "medium"
ENCODING = {"size": FILM_SIZE, "crf": FILM_CRF, "preset": FILM_PRESET}
"""How films are encoded (libx264): part of the content key."""
UNFINISHED_BYTES = 4 * BYTES_PER_FRAME
"""A frame's room on the scratch disk, by which it is asked for beforehand: photographs take more than drawings."""

PROVENANCE = (
    "AI-generated: a still picture animated by talkies (First Order Motion Model); "
    "digitalSourceType=http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
"""The films' comment tag (IPTC digital source type vocabulary)."""


@dataclass(frozen=True)
class Progress:
    """Where a worker tells how far it is: `start` with all frames, `advance` by some, both may do nothing."""

    start: Callable[[int, str], None] = lambda frames, what: None
    advance: Callable[[int], None] = lambda frames: None


@dataclass(frozen=True)
class Run:
    """A run folder's files, by its plan."""

    plan: Plan

    def source(self, image: str) -> Recorded:
        """Return the prepared picture: 256 x 256 PNG."""
        return Recorded(HOME / "sources" / f"{image}.png")

    def driving(self, take: str) -> Recorded:
        """Return the prepared take: its cropped film with sound, for the gallery; its record tells the crop."""
        return Recorded(HOME / "driving" / f"{take}.mp4")

    def motion(self, take: str) -> Recorded:
        """Return the take's keypoints."""
        return Recorded(HOME / "motion" / f"{take}.npz")

    def silent(self, pair: Pair) -> Recorded:
        """Return the pair's film without sound, which is there until its talkie is."""
        return Recorded(HOME / "silent" / pair.driving / f"{pair.stem}.mp4")

    def talkie(self, pair: Pair) -> Recorded:
        """Return the pair's film in the results."""
        return Recorded(Path(self.plan.settings["results"]) / pair.driving / f"{pair.stem}.mp4")

    @staticmethod
    def receipt(stage: str, shard: str) -> Path:
        """Return the path of a stage's receipt for a shard."""
        return HOME / "receipts" / stage / f"{shard}.json"

    @staticmethod
    def journal(stage: str, shard: str) -> Journal:
        """Return a stage's journal for a shard."""
        return Journal(HOME / "journal" / f"{stage}-{shard}.jsonl")

    def made(self, stage: str, item: str, *, clip: bool = False) -> dict[str, Any]:
        """Return the record of a prepared picture, or (clip) of a prepared take or its motion.

        Where the file is gone or damaged, so must be the receipt that speaks of it: then the next run makes it again.
        """
        recorded = self.source(item) if not clip else self.driving(item) if stage == "prepare" else self.motion(item)
        record = recorded.record()
        if not is_unchanged(recorded.path, record.get("file")):
            shard = (self.plan.shard_of_take() if clip else self.plan.shard_of_picture())[item]
            self.receipt(stage, shard).unlink(missing_ok=True)
            raise TalkiesError(f"{printable(recorded.path)}: it is gone or damaged; run snakemake again to make it")
        return record

    def picture_key(self, pair: Pair, weights: str) -> str:
        """Return the content key of a pair's pixels.

        By content, not by name, place or time; the source and driving records tell the contents' digests.
        """
        source, take = self.plan.sources[pair.source], self.plan.takes[pair.take]
        model = self.plan.settings["model"]
        return content_key(
            source=self.made("prepare", pair.source)["original"]["sha256"],
            source_crop=source.crop,
            driving=self.made("prepare", pair.take, clip=True)["original"]["sha256"],
            driving_crop=take.crop,
            segment=[take.start, take.end],
            # Of the driving keypoints themselves nothing is scaled, nor counted from a frame.
            motion=[pair.adapt_scale, pair.best_frame or 0] if pair.relative else "absolute",
            preset=model["preset"],
            precision=model["precision"],
            weights=weights,
            film=ENCODING,
            **_flipped(take),
            **_preset_recipe(model["preset"]),
        )

    def shown_key(self, pair: Pair, picture_key: str) -> str:
        """Return the content key of what a talkie shows: the square itself, or it set into its picture, or enlarged."""
        if pair.paste_back:
            return content_key(picture=picture_key, paste_back=FEATHER, largest=LARGEST_SIDE)
        side = self.plan.settings["upscale"]
        return content_key(picture=picture_key, upscale=side) if side else picture_key

    def talkie_key(self, pair: Pair, shown_key: str) -> str:
        """Return the content key of a talkie: its pixels, its sound, its tag. InputError for a lost sound file."""
        audio = {"file": _sound_digest(pair.audio)} if isinstance(pair.audio, str) else pair.audio
        return content_key(picture=shown_key, audio=audio, provenance=self.plan.settings["provenance"])


def _flipped(take: Take) -> dict[str, bool]:
    """Return a mirrored take's part of content keys; others have none, so that theirs are what they always were."""
    return {"flip": True} if take.flip else {}


def _preset_recipe(preset: str) -> dict[str, int]:
    """What a picture's key holds of a preset whose films changed while its weights did not; nothing of the others."""
    recipe = PRESETS[preset].recipe
    return {"preset_recipe": recipe} if recipe > 1 else {}


def _sound_digest(path: str) -> str:
    try:
        status = Path(path).stat()
        return _digest_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(path, f"its sound can't be read ({error.strerror}): put it back, or name another") from None


@lru_cache(maxsize=256)
def _digest_of(path: str, size: int, mtime_ns: int) -> str:
    return media.file_digest(path)


@contextmanager
def _working(plan: Plan, shard: str, receipt: Path, films: Sequence[Path]) -> Iterator[Scratch]:
    """Hold the shard's lock, and see that neither an older receipt nor a killed worker's parts stay.

    Yields the worker's own folder on the scratch disk.
    """
    path = HOME / "locks" / f"{shard}.lock"
    with lock(path, say=log.info):
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                if not renew(path):
                    os.kill(os.getpid(), signal.SIGTERM)  # as an order to stop: the other worker goes on
                    return

        threading.Thread(target=beat, daemon=True).start()
        receipt.unlink(missing_ok=True)
        sweep(films)
        try:
            with open_scratch(plan.settings["scratch"], shard) as scratch:
                yield scratch
        finally:
            done.set()
            sweep(films)


def sweep(films: Sequence[Path]) -> None:
    """Remove the temporary files of these films, their records and their encoder's, wherever a worker died."""
    names: dict[Path, set[str]] = {}
    for film in films:
        record = Recorded(film).record_path
        names.setdefault(film.parent, set()).update((film.name, record.name))
    for folder, wanted in names.items():
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            part = PART.fullmatch(path.name)
            if part and part[1] in wanted:
                path.unlink(missing_ok=True)


# --- prepare ---------------------------------------------------------------------------------------------


def prepare(plan: Plan, shard: str, receipt: Path, progress: Progress) -> Receipt:
    """Crop a shard's pictures, or look at its clips and crop them; write the receipt."""
    run = Run(plan)
    images, takes = plan.pictures.get(shard, []), plan.clips.get(shard, [])
    targets = [run.source(i).path for i in images] + [run.driving(t).path for t in takes]
    result = Receipt()
    with _working(plan, shard, receipt, targets) as scratch:
        progress.start(len(targets), "files")
        for image in images:
            _record(result, image, prepare_source, run, scratch)
            progress.advance(1)
        for take in takes:
            _record(result, take, prepare_take, run, scratch)
            scratch.release()
            progress.advance(1)
        result.save(receipt)
    return result


def _record(
    result: Receipt, item: str, work: Callable[[Run, str, Scratch], dict[str, Any]], run: Run, scratch: Scratch
) -> None:
    """Do an item's work; a bad input becomes its reason in the receipt."""
    try:
        record = work(run, item, scratch)
        result.done[item] = {"sha256": record["original"]["sha256"], "crop": record["crop"]}
    except InputError as error:
        log.error("%s", error)
        result.failed[item] = str(error)


def _original(path: Path, record: dict[str, Any], scratch: Scratch) -> dict[str, Any]:
    """Return an input file's path, size, time and digest, the digest from its record where size and time are equal.

    A file that is new is looked at through and through: it is staged in.
    """
    try:
        status = path.stat()
        facts = {"file": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        known = record.get("original", {})
        if all(known.get(key) == facts[key] for key in facts):
            return dict(known)
        return {**facts, "sha256": media.file_digest(scratch.stage_in(path))}
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(path, f"can't be read ({error.strerror}): copy it again") from None


def prepare_source(run: Run, image: str, scratch: Scratch) -> dict[str, Any]:
    """Crop one picture to a square PNG unless that is done; return its record. InputError when it is unusable."""
    began = time.monotonic()
    source, target = run.plan.sources[image], run.source(image)
    path = Path(source.file)
    original = _original(path, target.record(), Scratch())  # a picture is read twice, and small: no copy
    key = content_key(kind="source", content=original["sha256"], crop=source.crop, size=FILM_SIZE)
    record = target.fresh(key)
    if record is None:
        picture = media.read_picture(path)
        square, cut = crop.crop_picture(picture, crop.parse(source.crop), name=path, size=FILM_SIZE)
        write_png(target.path, square)
        facts = {"key": key, "original": original, "crop": cut.to_dict()}
        record = target.describe({**facts, "seconds": _since(began)})
    elif record["original"] != original:
        record = target.describe({**record, "original": original})
    return record


def prepare_take(run: Run, take: str, scratch: Scratch) -> dict[str, Any]:
    """Probe a clip, find its crop, and write its cropped film with sound, unless that is done; return its record."""
    began = time.monotonic()
    wanted, target = run.plan.takes[take], run.driving(take)
    path = Path(wanted.file)
    start, end = _segment(wanted.start), _segment(wanted.end)
    original = _original(path, target.record(), scratch)
    key = content_key(
        kind="driving",
        content=original["sha256"],
        crop=wanted.crop,
        segment=[wanted.start, wanted.end],
        size=FILM_SIZE,
        **_flipped(wanted),
    )
    record = target.fresh(key)
    if record is not None:
        return record if record["original"] == original else target.describe({**record, "original": original})
    scratch.require(2 * wanted.frames * UNFINISHED_BYTES)
    clip = probe_copy(path, scratch, original["sha256"])
    cut = crop.find_crop(clip, crop.parse(wanted.crop), start=start, end=end)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    beside = target.path.with_name(f".{target.path.name}.{os.getpid()}.part")
    picture = scratch.unfinished("picture.mp4") or beside
    try:
        with media.FrameWriter(picture, clip.rate, preset="veryfast") as writer:
            for frame in take_frames(clip, wanted, cut, FILM_SIZE):
                writer.write(frame)
            frames = writer.frames
        media.remux(picture, clip, target.path, start=start, end=end, part=scratch.unfinished("sound.mp4"))
    finally:
        picture.unlink(missing_ok=True)
    return target.describe(
        {
            "key": key,
            "original": original,
            "crop": cut.to_dict(),
            "rate": str(clip.rate),
            "frames": frames,
            "sound": clip.sound is not None,
            "variable_rate": clip.variable,
            "truncated": clip.truncated,
            "seconds": _since(began),
        }
    )


def take_frames(clip: media.Clip, take: Take, cut: crop.Crop, size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield a take's frames as the network sees them: its segment, cut, scaled, and mirrored where that is asked."""
    frames = media.read_frames(clip, start=_segment(take.start), end=_segment(take.end), box=cut.box, size=size)
    return (frame[:, ::-1] for frame in frames) if take.flip else frames


def probe_copy(path: Path, scratch: Scratch, sha256: str | None) -> media.Clip:
    """Stage a clip in and probe it there; what is said of it names the user's own file. It is read several times."""
    copy = scratch.stage_in(path, sha256=sha256)
    try:
        return replace(media.probe(copy), path=path, copy=copy)
    except InputError as error:
        raise InputError(path, error.reason) from None


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write uint8 RGB [H, W, 3] as PNG, whole or not at all."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(picture).save(part, format="PNG")
        media.publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def _since(began: float) -> float:
    """Return the seconds since a monotonic time, as records and journals tell them."""
    return round(time.monotonic() - began, 3)


def _segment(seconds: str | None) -> Fraction | None:
    return None if seconds is None else Fraction(seconds)


# --- motion ----------------------------------------------------------------------------------------------


def motion(plan: Plan, shard: str, receipt: Path, engine: Callable[[], Engine], progress: Progress) -> Receipt:
    """Find the keypoints of a shard's takes; write the receipt."""
    run = Run(plan)
    takes = plan.clips[shard]
    prepared = Receipt.load(run.receipt("prepare", shard))
    journal = run.journal("motion", shard)
    engine = _noting(engine, journal, shard)
    result = Receipt(failed=dict(prepared.failed))
    with _working(plan, shard, receipt, [run.motion(take).path for take in takes]) as scratch:
        progress.start(sum(plan.takes[take].frames for take in takes), "frames")
        for take in takes:
            if take in result.failed:
                continue
            try:
                record = detect_take(run, take, engine(), journal, progress, scratch)
            except InputError as error:
                log.error("%s", error)
                result.failed[take] = str(error)
            else:
                result.done[take] = {key: record[key] for key in ("key", "weights", "frames", "rate")}
            finally:
                scratch.release()
        result.save(receipt)
    return result


def detect_take(
    run: Run, take: str, engine: Engine, journal: Journal, progress: Progress, scratch: Scratch
) -> dict[str, Any]:
    """Find and save the keypoints of one take unless that is done; return its record."""
    from .motion import detect_motion

    wanted, target = run.plan.takes[take], run.motion(take)
    driving = run.made("prepare", take, clip=True)
    model = engine.model
    key = content_key(
        kind="motion",
        driving=driving["original"]["sha256"],
        crop=driving["crop"]["box"],
        segment=[wanted.start, wanted.end],
        preset=model.preset.name,
        weights=model.weights_digest,
        size=model.preset.size,
        **_flipped(wanted),
    )
    record = target.fresh(key)
    if record is not None:
        return record
    began = time.monotonic()
    clip = probe_copy(Path(wanted.file), scratch, driving["original"]["sha256"])
    cut = crop.Crop.from_dict(driving["crop"])
    size = model.preset.size
    frames = take_frames(clip, wanted, cut, size)
    found = detect_motion(model, _counted(frames, progress), clip.rate, batch=engine.batch)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    found.save(target.path)
    seconds = _since(began)
    journal.note("motion", take=take, frames=found.frames, seconds=seconds)
    log.info("motion of %s: %d frames in %.1f s", printable(take), found.frames, seconds)
    return target.describe(
        {
            "key": key,
            "preset": found.preset,
            "weights": found.weights,
            "frames": found.frames,
            "rate": str(found.rate),
            "seconds": seconds,
        }
    )


def _counted(frames: Iterator[NDArray[np.uint8]], progress: Progress) -> Iterator[NDArray[np.uint8]]:
    for frame in frames:
        yield frame
        progress.advance(1)


# --- animate ---------------------------------------------------------------------------------------------


def animate(plan: Plan, shard: str, receipt: Path, engine: Callable[[], Engine], progress: Progress) -> Receipt:
    """Make a shard's silent films, but for those whose pixels stand already, here or in a talkie; write the receipt.

    The model is loaded (`engine` is called) only when there is something to make.
    """
    run = Run(plan)
    pairs = [plan.pairs[name] for name in plan.shards[shard]]
    result = Receipt(failed=failures(run, pairs))
    with _working(plan, shard, receipt, [run.silent(pair).path for pair in pairs]) as scratch:
        missing: list[tuple[Pair, str]] = []
        for pair in pairs:
            if pair.name in result.failed:
                continue
            key = run.picture_key(pair, run.made("motion", pair.take, clip=True)["weights"])
            result.done[pair.name] = {"picture_key": key}
            if run.silent(pair).fresh(key) is None and not _shows(run, pair, key):
                missing.append((pair, key))
        journal = run.journal("animate", shard)
        wanted = {pair.name for pair, _ in missing}
        journal.note("looked", fresh=[name for name in result.done if name not in wanted])
        for name, reason in result.failed.items():
            journal.note("failed", pair=name, reason=reason)
        if missing:
            # Pictures in turn: a picture's features are kept from one film to the next.
            missing.sort(key=lambda item: (item[0].source, item[0].name))
            frames = [int(run.motion(pair.take).record()["frames"]) for pair, _ in missing]
            progress.start(sum(frames), "frames")
            scratch.require(2 * max(frames) * UNFINISHED_BYTES)
            failed = _animate_pairs(run, missing, _noting(engine, journal, shard)(), journal, progress, scratch)
            result.failed |= failed
            result.done = {name: facts for name, facts in result.done.items() if name not in failed}
        log.info(
            "%s: %d pairs: %d made, %d were there, %d failed",
            *(shard, len(pairs), len(missing), len(result.done) - len(missing), len(result.failed)),
        )
        result.save(receipt)
    return result


def _shows(run: Run, pair: Pair, picture_key: str) -> bool:
    """Tell whether the pair's talkie holds these pixels, either as it is to show them or bare."""
    keys = {run.shown_key(pair, picture_key), picture_key}
    return any(run.talkie(pair).fresh(key, name="picture_key") is not None for key in keys)


def failures(run: Run, pairs: Sequence[Pair]) -> dict[str, str]:
    """Return why pairs can't be made, by name: what the receipts of their pictures and takes say."""
    plan = run.plan
    receipts: dict[tuple[str, str], Receipt] = {}
    of_picture, of_take = plan.shard_of_picture(), plan.shard_of_take()
    reasons: dict[str, str] = {}
    for pair in pairs:
        for stage, shard, item in (
            ("prepare", of_picture[pair.source], pair.source),
            ("motion", of_take[pair.take], pair.take),
        ):
            if (stage, shard) not in receipts:
                receipts[stage, shard] = Receipt.load(run.receipt(stage, shard))
            reason = receipts[stage, shard].failed.get(item)
            if reason:
                reasons.setdefault(pair.name, reason)
    return reasons


def _animate_pairs(
    run: Run,
    missing: Sequence[tuple[Pair, str]],
    engine: Engine,
    journal: Journal,
    progress: Progress,
    scratch: Scratch,
) -> dict[str, str]:
    """Make the silent films; return the reasons of those that their inputs forbid."""
    from .animate import Movement
    from .motion import Motion

    def staged(recorded: Recorded) -> Path:
        return scratch.stage_in(recorded.path, sha256=recorded.record()["file"]["sha256"])

    # All before the first film, so that from here on the shared disk is only written to.
    sources = {source: staged(run.source(source)) for source in {pair.source for pair, _ in missing}}
    takes = {take: staged(run.motion(take)) for take in {pair.take for pair, _ in missing}}

    # Few of them in memory: the motions of many long clips would fill it.
    @lru_cache(maxsize=4)
    def motion_of(take: str) -> Motion:
        return Motion.load(takes[take], weights=engine.model.weights_digest)

    failed: dict[str, str] = {}
    films: list[Future[None]] = []
    with engine:
        for number, (pair, key) in enumerate(missing):
            driving, silent = motion_of(pair.take), run.silent(pair)
            silent.path.parent.mkdir(parents=True, exist_ok=True)
            writer = media.FrameWriter(
                silent.path,
                driving.rate,
                crf=FILM_CRF,
                preset=FILM_PRESET,
                threads=engine.threads,
                part=scratch.unfinished(f"{number}.mp4"),
            )
            movement = Movement(pair.relative, pair.adapt_scale, pair.best_frame)
            journal.note("begun", pair=pair.name)
            image = media.read_picture(sources[pair.source])
            done = partial(_record_film, run, engine, journal, pair, key, driving, time.monotonic())
            try:
                films.append(
                    engine.film(pair.source, image, driving, movement, writer, done=done, progress=progress.advance)
                )
            except InputError as error:
                failed[pair.name] = f"{printable(pair.name)}: {error.reason}"
                journal.note("failed", pair=pair.name, reason=failed[pair.name])
                log.error("%s", failed[pair.name])
            # The encoder ends a film while the next one is computed: it is never more than one behind.
            while len(films) > 1:
                films.pop(0).result()
        for film in films:
            film.result()
    return failed


def _record_film(
    run: Run, engine: Engine, journal: Journal, pair: Pair, key: str, driving: Motion, began: float
) -> None:
    seconds = _since(began)
    run.silent(pair).describe({"key": key, **_facts_of_making(run, pair, driving, engine, seconds)})
    journal.note("animated", pair=pair.name, frames=driving.frames, seconds=seconds)
    log.info("%s: %d frames in %.1f s", printable(pair.name), driving.frames, seconds)


def _facts_of_making(run: Run, pair: Pair, driving: Motion, engine: Engine, seconds: float) -> dict[str, Any]:
    """Return what a film's record tells of how its pixels were made."""
    import torch

    model = engine.model
    source, take = run.source(pair.source).record(), run.driving(pair.take).record()
    return {
        "source": {"crop": source["crop"], **_public(source["original"])},
        "driving": {
            "crop": take["crop"],
            "segment": [pair.start, pair.end],
            **_flipped(run.plan.takes[pair.take]),
            **_public(take["original"]),
        },
        "motion": {
            "relative": pair.relative,
            "adapt_scale": pair.adapt_scale,
            "best_frame": pair.best_frame,
        },
        "model": {
            "preset": model.preset.name,
            "weights_sha256": model.weights_digest,
            "network_size": model.preset.size,
            "enlarged": "bicubic" if model.preset.size < FILM_SIZE else None,
            "precision": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "threads": engine.threads,
            "batch": engine.batch,
        },
        "picture": {"frames": driving.frames, "rate": str(driving.rate), **ENCODING},
        "software": {
            "talkies": __version__,
            "torch": torch.__version__,
            "ffmpeg": media.ffmpeg_version(),
            "python": platform.python_version(),
        },
        "seconds": seconds,
    }


def _public(original: dict[str, Any]) -> dict[str, Any]:
    """Return an input's name and digest: a film's record may be shown to others, the folders are not theirs to know."""
    return {"file": Path(original["file"]).name, "sha256": original["sha256"]}


# --- remux -----------------------------------------------------------------------------------------------


def remux(plan: Plan, shard: str, receipt: Path, generation: int, progress: Progress) -> Receipt:
    """Put the sound onto a shard's films and set them into the results, but for those that stand; write the receipt.

    The picture comes from the silent film, or where that is gone from the talkie itself (other sound settings).
    """
    run = Run(plan)
    animated_path = run.receipt("animate", shard)
    animated = Receipt.load(animated_path)
    pairs = [plan.pairs[name] for name in plan.shards[shard]]
    result = Receipt(failed=dict(animated.failed))
    journal = run.journal("remux", shard)
    with _working(plan, shard, receipt, [run.talkie(pair).path for pair in pairs]) as scratch:
        clips = Clips(run, scratch)
        progress.start(len(pairs), "films")
        for pair in pairs:
            if pair.name not in result.failed:
                picture_key = animated.done[pair.name]["picture_key"]
                try:
                    key = remux_pair(run, pair, picture_key, journal, clips)
                except InputError as error:
                    log.error("%s", error)
                    result.failed[pair.name] = str(error)
                    journal.note("failed", pair=pair.name, reason=str(error))
                except FileNotFoundError:
                    # The films the receipt speaks of are gone: without it the next run makes them again.
                    animated_path.unlink(missing_ok=True)
                    raise TalkiesError(
                        f"{printable(pair.name)}: its silent film is gone; run snakemake again to make it"
                    ) from None
                else:
                    result.done[pair.name] = {"key": key}
            progress.advance(1)
        store_films(plan, shard, generation, result.done)
        result.save(receipt)
    return result


class Clips:
    """The driving videos of a shard, each staged in and looked at once for all its pairs, one at a time."""

    def __init__(self, run: Run, scratch: Scratch) -> None:
        self.run, self.scratch = run, scratch
        self._last: media.Clip | None = None

    def of(self, pair: Pair) -> media.Clip | media.SoundFile | None:
        """Return what gives a pair its sound."""
        if isinstance(pair.audio, str):
            return media.probe_sound(pair.audio)
        if not pair.audio:
            return None
        path = Path(self.run.plan.takes[pair.take].file)
        if self._last is None or self._last.path != path:
            self.scratch.release(but=path)
            digest = self.run.driving(pair.take).record().get("original", {}).get("sha256")
            self._last = probe_copy(path, self.scratch, digest)
        return self._last


def remux_pair(run: Run, pair: Pair, picture_key: str, journal: Journal, clips: Clips) -> str:
    """Make one talkie unless it stands; return its content key. FileNotFoundError when its picture is nowhere."""
    began = time.monotonic()
    talkie, silent = run.talkie(pair), run.silent(pair)
    shown_key = run.shown_key(pair, picture_key)
    key = run.talkie_key(pair, shown_key)
    record = talkie.fresh(key)
    if record is not None:
        if record["file"]["mtime_ns"] != talkie.path.stat().st_mtime_ns:
            talkie.describe({name: value for name, value in record.items() if name != "file"})
        silent.remove()
        return key
    # The stream that is copied, or bare pixels that are set into their picture or enlarged first.
    made, picture = talkie.fresh(shown_key, name="picture_key"), talkie.path
    bare = made is None and shown_key != picture_key
    if made is None:
        made, picture = silent.fresh(picture_key), silent.path
    if made is None:
        made, picture = talkie.fresh(picture_key, name="picture_key"), talkie.path
    if made is None:
        raise FileNotFoundError(picture)
    take = run.plan.takes[pair.take]
    clips.scratch.require(2 * picture.stat().st_size)
    clip = clips.of(pair)
    start, end = (None, None) if isinstance(pair.audio, str) else (_segment(take.start), _segment(take.end))
    shown = clips.scratch.unfinished("shown.mp4") or silent.path.with_name(f".{silent.path.name}.{os.getpid()}.part")
    _keep_foreign(talkie)
    talkie.path.parent.mkdir(parents=True, exist_ok=True)
    part = talkie.path.with_name(f".{talkie.path.name}.{os.getpid()}.part")
    try:
        if bare:
            made |= _show(run, pair, made, picture, shown)
            picture = shown
        sound = media.remux(
            picture,
            clip,
            part,
            start=start,
            end=end,
            comment=PROVENANCE if run.plan.settings["provenance"] else None,
            part=clips.scratch.unfinished("talkie.mp4"),
        )
        facts = {name: value for name, value in made.items() if name not in ("key", "file", "picture_key", "sound")}
        # The record first: a film under its final name is then always one that a record tells of.
        talkie.describe(
            {
                "key": key,
                "picture_key": shown_key,
                "pair": pair.name,
                **facts,
                "sound": sound,
                "remux_seconds": _since(began),
                "digital_source_type": PROVENANCE.rpartition("=")[2],
            },
            of=part,
        )
        media.publish(part, talkie.path)
    finally:
        part.unlink(missing_ok=True)
        shown.unlink(missing_ok=True)
    silent.remove()
    journal.note("remuxed", pair=pair.name, sound=sound["sound"])
    log.info("%s: done, sound: %s", printable(pair.name), sound["sound"] or "none")
    return key


def _show(run: Run, pair: Pair, made: dict[str, Any], film: Path, target: Path) -> dict[str, Any]:
    """Write a pair's film as it is to be shown: set into its picture, or enlarged; return what its record says."""
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = media.FrameWriter(target, Fraction(made["picture"]["rate"]), crf=FILM_CRF, preset=FILM_PRESET)
    if pair.paste_back:
        original = run.made("prepare", pair.source)
        path = Path(original["original"]["file"])
        if not is_unchanged(path, original["original"]):
            raise TalkiesError(f"{printable(path)}: it has changed since it was animated; run snakemake again")
        box = crop.Crop.from_dict(original["crop"]).box
        size = paste_film(film, media.read_picture(path), box, writer)
        how = {"paste_back": {"box": [box.x, box.y, box.side], "feather": FEATHER}}
    else:
        side = run.plan.settings["upscale"]
        size = enlarge_film(film, side, writer)
        how = {"upscale": {"from": made["picture"]["size"], "to": side, "how": "ffmpeg lanczos, no detail added"}}
    return {"picture": {**made["picture"], "size": list(size)}, "shown": how}


def _keep_foreign(talkie: Recorded) -> None:
    """Move a film that no record of ours tells of out of the way: it is the user's own."""
    if talkie.path.exists() and not talkie.record_path.exists():
        aside = talkie.path.with_name(f"{talkie.path.stem}.kept-{int(time.time())}{talkie.path.suffix}")
        talkie.path.rename(aside)
        log.warning("%s was no film of this run: kept as %s", printable(talkie.path), printable(aside.name))


# --- what the model is loaded for ------------------------------------------------------------------------


def load_engine(plan: Plan, *, device: str | None = None, threads: int | None = None) -> Callable[[], Engine]:
    """Return the function that loads the plan's model, on its first call, and gives the engine."""
    loaded: list[Engine] = []

    def load() -> Engine:
        if not loaded:
            settings = plan.settings["model"]
            loaded.append(
                open_engine(
                    settings["preset"],
                    settings["checkpoint"],
                    device=device or settings["device"],
                    precision=settings["precision"],
                    threads=threads,
                )
            )
        return loaded[0]

    return load


def _noting(engine: Callable[[], Engine], journal: Journal, shard: str) -> Callable[[], Engine]:
    """Return the same, with a note in the journal of how long the first call took: the model is loaded then."""

    @cache
    def load() -> Engine:
        began = time.monotonic()
        loaded = engine()
        journal.note("loaded", shard=shard, seconds=_since(began))
        return loaded

    return load


def open_engine(
    preset: str, checkpoint: str | None, *, device: str, precision: str, threads: int | None = None
) -> Engine:
    """Load a model onto a device that works, and return its engine; TalkiesError says what stands in the way."""
    from .animate import Engine, choose_device, keep_memory
    from .model import load_model

    if preset not in PRESETS:
        raise TalkiesError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    keep_memory()
    chosen = choose_device(device)
    began = time.monotonic()
    engine = Engine(load_model(preset, checkpoint, device=chosen), precision=precision, threads=threads)
    precision = str(engine.model.dtype).removeprefix("torch.")
    log.info(
        "%s on %s, %s, %d threads, loaded in %.1f s",
        *(preset, chosen, precision, engine.threads, time.monotonic() - began),
    )
    return engine
