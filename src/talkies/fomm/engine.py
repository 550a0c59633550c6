"""The built-in engine: it animates many pairs with one loaded model.

A source's features are computed once, a clip's keypoints come from its saved motion, frames go through the network's
fast form (rewrite.py) in batches, and films are encoded while the next batches are computed. If the network is faster
than an encoder, several films are open at once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..engines import FOMM, FilmJob, Movement
from ..errors import InputError, counted
from ..machine.resources import available_threads
from ..media.film import FILM_SIZE
from ..media.pictures import read_picture
from .device import choose_device, free_batch, keep_compiled, keep_memory
from .first_frame import counted_from
from .kept import load_fast
from .model.first_order import FirstOrderModel
from .model.generator import SourceFeatures
from .model.keypoint_detector import Keypoints
from .motion import Motion, best_frame, detect_motion, frames_to_tensor, transfer_motion

log = logging.getLogger("talkies")

WAITING = 2
"""Batches of a film that may wait for its encoder: they keep it busy without filling the memory."""


@dataclass(frozen=True)
class _Prepared:
    """A source image's features and keypoints: computed once for all its films."""

    features: SourceFeatures
    keypoints: Keypoints


class _Discarded(Exception):
    """The film was discarded."""


class _Film:
    """An open film: its job, the batches to be computed, and the thread that encodes them.

    ended: done when the film is finished, or with its error, and then no file remains. fault: the error in its inputs.
    """

    def __init__(
        self,
        job: FilmJob,
        batches: Iterator[NDArray[np.uint8]],
        pool: ThreadPoolExecutor,
        moved: threading.Event,
        took: Callable[[], float],
    ) -> None:
        self.job, self._batches, self._moved, self._took = job, batches, moved, took
        self._given: queue.SimpleQueue[NDArray[np.uint8] | None] = queue.SimpleQueue()
        self._finished = self._discarded = False
        self.fault: InputError | None = None
        self.ended = pool.submit(self._encode)
        self.ended.add_done_callback(lambda _: moved.set())

    def is_hungry(self) -> bool:
        """Return whether to compute its next batch."""
        return self._given.qsize() < WAITING and not self._finished and not self.ended.done()

    def feed(self) -> None:
        """Compute the next batch and hand it to the encoder."""
        try:
            group = next(self._batches, None)
        except InputError as error:
            self.fault = InputError(self.job.name, error.reason)
            self.discard()
            return
        self._finished = group is None
        self._given.put(group)

    def discard(self) -> None:
        """Discard the film, unless all its frames are computed; wait until it has ended."""
        if not self._finished:
            self._discarded = True
            self._given.put(None)
        wait([self.ended])

    def _encode(self) -> None:
        with self.job.writer as film:
            while (group := self._given.get()) is not None:
                self._moved.set()
                for frame in group:
                    film.write(frame)
                    if self._discarded:
                        raise _Discarded
            if self._discarded:
                raise _Discarded
        self.job.done(self._took())


def open_engine(
    preset: str,
    checkpoint: str | None,
    *,
    device: str,
    precision: str,
    threads: int | None = None,
    layers: bool = True,
) -> Engine:
    """Load a preset's model onto a working device, and return its engine; TalkiesError says why that failed.

    checkpoint: see `load_model`; device: see `choose_device`; precision: see `fast_form`; layers: whether persons may
    move in front of a still background.
    """
    keep_memory()
    keep_compiled()
    chosen = choose_device(device)
    threads = threads or available_threads()
    torch.set_num_threads(threads)
    began = time.monotonic()
    engine = Engine(load_fast(preset, checkpoint, device=chosen, precision=precision), threads=threads)
    if not layers:
        for network in engine.model.networks:
            network.matte = None
    made = str(engine.model.dtype).removeprefix("torch.")
    took = time.monotonic() - began
    log.info("%s on %s, %s, %s, loaded in %.1f s", preset, chosen, made, counted(threads, "thread"), took)
    return engine


class Engine:
    """Animates pairs, one after the other, with one loaded model: its fast form (`load_fast`, `fast_form`).

    A context manager, which discards the films that are open. batch: frames that go through the network at once; None
    chooses by device and memory; it is halved if the GPU's memory is too small. threads: processor threads of the
    network, and the number of films encoded at once.
    """

    def __init__(self, model: FirstOrderModel, *, batch: int | None = None, threads: int | None = None) -> None:
        self.threads = threads or available_threads()
        torch.set_num_threads(self.threads)
        self.model = model
        if batch is None and model.device.type == "cuda":
            batch = free_batch(model.preset.size, model.dtype.itemsize, torch.cuda.mem_get_info()[0])
        self.batch = batch or 8
        self._making: Generator[tuple[FilmJob, InputError | None], None, None] | None = None
        self._source: tuple[str, _Prepared] | None = None
        self._network_of: dict[str, str | None] = {}  # which of two networks makes a source's films

    @property
    def side(self) -> int:
        """The side of the network's frames, pixels."""
        return self.model.preset.size

    def identity(self) -> dict[str, Any]:
        """Return what decides the network's pixels besides its inputs."""
        return {"preset": self.model.preset.name, "weights": self.model.weights_digest}

    def facts(self) -> dict[str, Any]:
        """Return the facts about the network, its device and software for a film's record."""
        model = self.model
        return {
            "engine": {"name": FOMM},
            "model": {
                "preset": model.preset.name,
                "weights_sha256": model.weights_digest,
                "network_size": model.preset.size,
                "enlarged": "bicubic" if model.preset.size < FILM_SIZE else None,
                "precision": str(model.dtype).removeprefix("torch."),
                "device": str(model.device),
                "threads": self.threads,
                "batch": self.batch,
            },
            "software": {"torch": str(torch.__version__)},
        }

    def network(self, source: str) -> str | None:
        """Return which of two networks makes a prepared source's films, by the source's name; None if there is
        one."""
        return self._network_of[source]

    def find_motion(self, frames: Iterator[NDArray[np.uint8]], rate: Fraction) -> Motion:
        """Return the keypoints of a clip's frames, uint8 RGB [side, side, 3]; rate: frames a second."""
        return detect_motion(self.model, frames, rate, batch=self.batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._making is not None:
            self._making.close()

    def prepare(self, name: str, image: NDArray[np.uint8]) -> _Prepared:
        """Return a source's features and keypoints; those of the last source are kept.

        image: uint8 RGB [S, S, 3], scaled to the network's side if it differs.
        """
        if self._source is None or self._source[0] != name:
            picture = frames_to_tensor(image[None], self.model.device)
            picture = resized(picture, self.model.preset.size)
            self._source = (name, _Prepared(self.model.encode(picture), self.model.keypoints(picture)))
            fitting = "photographs" if self._source[1].features.photograph else "drawings"
            self._network_of[name] = fitting if self.model.photographs else None
        return self._source[1]

    def predict(
        self,
        source: _Prepared,
        motion: Motion,
        movement: Movement,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield a film's frames in batches, uint8 RGB [n, FILM_SIZE, FILM_SIZE, 3].

        Frames of a network with a smaller side are enlarged (bicubic). InputError if the requested best frame is not
        in the clip.
        """
        driving = motion.keypoints(self.model.device)
        first = (movement.best_frame or 0) if movement.relative else 0
        if first == "auto":
            first = best_frame(source.keypoints, driving)
        if not isinstance(first, int) or not 0 <= first < motion.frames:
            reason = (
                f"best_frame {first} is outside the clip's {motion.frames} frames (0 is the first): give one of them, "
                "or auto"
            )
            raise InputError("best_frame", reason)
        parts = self.model.preset.parts
        initial = counted_from(source.keypoints, driving, first, parts) if parts else driving[first]
        start = 0
        last: _Fetched | None = None
        while start < motion.frames:
            group = driving[start : start + self.batch]
            moved = transfer_motion(
                source.keypoints,
                group,
                initial,
                relative=movement.relative,
                adapt_scale=movement.adapt_scale,
                reach=self.model.preset.reach,
                openings=self.model.network_of(source.features).preset.openings,
            )
            try:
                made = _Fetched(self._render(source, moved))
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch = max(1, min(self.batch, len(group)) // 2)
                log.warning("the GPU's memory does not hold so many frames: now %d at a time", self.batch)
                continue
            # A batch is passed on when the next one has been started, so that the GPU never waits for the reader.
            if last is not None:
                yield from last.handed(progress)
            last, start = made, start + len(group)
        if last is not None:
            yield from last.handed(progress)

    def _render(self, source: _Prepared, moved: Keypoints) -> torch.Tensor:
        """Return the frames of these keypoints, uint8 [n, FILM_SIZE, FILM_SIZE, 3], on the device."""
        prediction = self.model.generate(source.features, source.keypoints, moved).prediction.float()
        frames = resized(prediction, FILM_SIZE).mul(255).round_()  # as the original's writer does
        return frames.to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def films(self, jobs: Iterable[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        """Make films; yield each job, in order, when its film is finished, or with the error in its inputs.

        The next batch is that of the oldest film whose encoder has room for it. If none has, the next film is
        started, as far as the cores allow. An encoder's error is raised when the other open films have ended.
        """
        self._making = self._films(jobs)
        return self._making

    def _films(self, jobs: Iterable[FilmJob]) -> Generator[tuple[FilmJob, InputError | None], None, None]:
        # Only a few in memory: the motions of many long clips would fill it.
        motion_of = lru_cache(maxsize=4)(Motion.load)
        coming = iter(jobs)
        begun: deque[_Film] = deque()
        broken: BaseException | None = None
        moved, lock, last = threading.Event(), threading.Lock(), time.monotonic()
        most = self.threads + 1  # one for each core, and one more while a film is finished
        pool = ThreadPoolExecutor(most, thread_name_prefix="encoder")

        def took() -> float:
            """Return the time since the last film ended: several are open, and their times add up."""
            nonlocal last
            with lock:
                since, last = last, time.monotonic()
                return last - since

        try:
            while True:
                while begun and begun[0].ended.done():
                    film = begun.popleft()
                    error = None if film.fault else film.ended.exception()
                    if error is None:
                        yield film.job, film.fault
                    broken = broken or error
                hungry = next((film for film in begun if film.is_hungry()), None)
                more = not hungry and not broken and len(begun) < most
                job = next(coming, None) if more else None
                if hungry:
                    hungry.feed()
                elif job:
                    begun.append(_Film(job, self._batches(job, motion_of), pool, moved, took))
                elif begun:
                    moved.wait()
                    moved.clear()
                else:
                    break
        finally:
            for film in begun:
                film.discard()
            pool.shutdown()
        if broken:
            raise broken

    def _batches(self, job: FilmJob, motion_of: Callable[[Path], Motion]) -> Iterator[NDArray[np.uint8]]:
        assert job.motion is not None
        image, motion = read_picture(job.picture), motion_of(job.motion)
        return self.predict(self.prepare(job.source, image), motion, job.movement, job.progress)


class _Fetched:
    """A batch of frames that a GPU copies to the processor's memory while it computes the next."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.arrived: torch.cuda.Event | None = None
        self.frames = frames
        if frames.device.type == "cuda":
            self.frames = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
            self.frames.copy_(frames, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def handed(self, progress: Callable[[int], None] | None) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames when they have arrived, and report how many."""
        if self.arrived is not None:
            self.arrived.synchronize()
        yield self.frames.numpy()
        if progress:
            progress(len(self.frames))


def resized(frames: torch.Tensor, side: int) -> torch.Tensor:
    """Scale [N, 3, H, W] in [0, 1] to side x side: down with antialiasing, up with bicubic."""
    if frames.shape[-1] == side and frames.shape[-2] == side:
        return frames
    mode = "bicubic" if frames.shape[-1] < side else "area"
    return F.interpolate(frames, size=(side, side), mode=mode).clamp(0, 1)
