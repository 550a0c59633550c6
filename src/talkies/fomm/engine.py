"""The engine: many pairs through one loaded model, streaming.

A source's features are computed once, a clip's keypoints come from its saved motion, frames go through the
network's fast form (rewrite.py) in batches, and the film of one batch (or pair) is encoded while the next is computed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..engines import FilmJob, Movement
from ..errors import InputError, TalkiesError
from ..host.cores import available_threads
from ..media.film import FILM_SIZE, FrameWriter
from ..media.pictures import read_picture
from .device import DTYPES, choose_precision, free_batch
from .model import FirstOrderModel, Keypoints, SourceFeatures
from .motion import Motion, best_frame, detect_motion, frames_to_tensor, transfer_motion
from .rewrite import rewritten

log = logging.getLogger("talkies")

BATCHES_AHEAD = 2
"""Batches that may wait for the encoder: enough to keep it busy, few enough to keep memory flat."""


@dataclass(frozen=True)
class _Prepared:
    """A source image as the model needs it: computed once, used for each of its films."""

    features: SourceFeatures
    keypoints: Keypoints


class Engine:
    """The fast form of one loaded model, which animates pair after pair.

    A context manager: its encoder thread ends with it. precision: fp32, bf16 or fp16, auto (see
    `choose_precision`), or None for the model's own. batch: frames that go through the network at once; None
    chooses by device and memory. It is halved when a GPU's memory does not hold it. threads: the processor's
    threads for the network and for the encoder. compiled: let torch.compile fuse the generator and, on a GPU,
    replay it as a CUDA graph; the first batch waits for that.
    """

    def __init__(
        self,
        model: FirstOrderModel,
        *,
        precision: str | None = None,
        batch: int | None = None,
        threads: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.threads = threads or available_threads()
        torch.set_num_threads(self.threads)
        dtype = DTYPES[choose_precision(model, precision)] if precision else model.dtype
        self.model = rewritten(model, dtype)
        self.compiled = compiled
        if compiled:
            render = torch.compile(self.model.generator.render, mode="reduce-overhead")
            setattr(self.model.generator, "render", render)  # noqa: B010  # a method, to mypy
        if batch is None and model.device.type == "cuda":
            batch = free_batch(model.preset.size, dtype.itemsize, torch.cuda.mem_get_info()[0])
        self.batch = batch or 8
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._source: tuple[str, _Prepared] | None = None

    @property
    def side(self) -> int:
        """The side of the network's frames, pixels."""
        return self.model.preset.size

    def identity(self) -> dict[str, Any]:
        """Return what decides the network's pixels beside its inputs."""
        return {"preset": self.model.preset.name, "weights": self.model.weights_digest}

    def facts(self) -> dict[str, Any]:
        """Return what a film's record tells of the network and of what it ran on."""
        model = self.model
        return {
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
            "software": {"torch": torch.__version__},
        }

    def find_motion(self, frames: Iterator[NDArray[np.uint8]], rate: Fraction) -> Motion:
        """Return the keypoints of a clip's frames, uint8 RGB [side, side, 3]; rate: frames a second."""
        return detect_motion(self.model, frames, rate, batch=self.batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What waits is the end of a film whose frames are all written: it may come to its end.
        self._encoder.shutdown(wait=True)

    def prepare(self, name: str, image: NDArray[np.uint8]) -> _Prepared:
        """Return a source's features and keypoints; those of the last name asked for are kept.

        image: uint8 RGB [S, S, 3], brought to the network's side where it differs.
        """
        if self._source is None or self._source[0] != name:
            picture = frames_to_tensor(image[None], self.model.device)
            picture = resized(picture, self.model.preset.size)
            self._source = (name, _Prepared(self.model.encode(picture), self.model.keypoints(picture)))
        return self._source[1]

    def predict(
        self,
        source: _Prepared,
        motion: Motion,
        movement: Movement,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield a film's frames in batches, uint8 RGB [n, FILM_SIZE, FILM_SIZE, 3].

        A network of a smaller side has its frames enlarged (bicubic) to it. InputError when the best frame
        asked for is not among the clip's; TalkiesError when other weights made the motion.
        """
        if motion.weights != self.model.weights_digest:
            raise TalkiesError(
                f"this motion was made with other weights ({motion.preset}, {motion.weights[:12]}) than the ones "
                "loaded: make it again with these"
            )
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
        start = 0
        last: _Fetched | None = None
        while start < motion.frames:
            group = driving[start : start + self.batch]
            moved = transfer_motion(
                source.keypoints,
                group,
                driving[first],
                relative=movement.relative,
                adapt_scale=movement.adapt_scale,
                reach=self.model.preset.reach,
                openings=self.model.preset.openings,
            )
            try:
                made = _Fetched(self._render(source, moved))
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch = max(1, min(self.batch, len(group)) // 2)
                log.warning("the GPU's memory does not hold so many frames: now %d at a time", self.batch)
                continue
            # A batch is handed over when the next one is on its way: the GPU never waits for the reader.
            if last is not None:
                yield from last.handed(progress)
            last, start = made, start + len(group)
        if last is not None:
            yield from last.handed(progress)

    def _render(self, source: _Prepared, moved: Keypoints) -> torch.Tensor:
        """Return the frames of these keypoints, uint8 [n, FILM_SIZE, FILM_SIZE, 3] on the device."""
        count = len(moved)
        if self.compiled and count < self.batch:  # a graph is of one shape: the last batch is filled up
            moved = moved[list(range(count)) + [count - 1] * (self.batch - count)]
        prediction = self.model.generate(source.features, source.keypoints, moved).prediction[:count].float()
        prediction = resized(prediction, FILM_SIZE)
        # What the original's writer does with [0, 1]: scale and round to bytes.
        return prediction.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def film(
        self,
        name: str,
        image: NDArray[np.uint8],
        motion: Motion,
        movement: Movement,
        writer: FrameWriter,
        *,
        done: Callable[[], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Future[None]:
        """Animate one pair into the writer's film; return a future that is done when the film stands there.

        The frames are computed before this returns; the encoder ends the film, and then calls `done`, while the
        next pair is computed. An error of either comes out of the future.
        """
        source = self.prepare(name, image)
        with _discarding(writer, self._encoder):
            waiting: list[Future[None]] = []
            for group in self.predict(source, motion, movement, progress):
                waiting.append(self._encoder.submit(_write_all, writer, group))
                if len(waiting) > BATCHES_AHEAD:
                    waiting.pop(0).result()
            for written in waiting:
                written.result()
        return self._encoder.submit(_close, writer, done)

    def films(self, jobs: Iterable[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        """Make films; yield each job when its film stands, or with the reason why its inputs forbid it.

        The encoder ends a film while the next one is computed: it is never more than one behind.
        """
        # Few of them in memory: the motions of many long clips would fill it.
        motion_of = lru_cache(maxsize=4)(lambda path: Motion.load(path, weights=self.model.weights_digest))
        begun: deque[tuple[FilmJob, Future[None]]] = deque()
        for job in jobs:
            image, motion = read_picture(job.picture), motion_of(job.motion)
            try:
                film = self.film(
                    job.source, image, motion, job.movement, job.writer, done=job.done, progress=job.progress
                )
                begun.append((job, film))
            except InputError as error:
                yield job, InputError(job.name, error.reason)
            while len(begun) > 1:
                yield _ended(*begun.popleft())
        while begun:
            yield _ended(*begun.popleft())


def _ended(job: FilmJob, film: Future[None]) -> tuple[FilmJob, None]:
    film.result()
    return job, None


class _Fetched:
    """A batch of frames on its way to the processor's memory, which a GPU writes while it computes on."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.arrived: torch.cuda.Event | None = None
        self.frames = frames
        if frames.device.type == "cuda":
            self.frames = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
            self.frames.copy_(frames, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def handed(self, progress: Callable[[int], None] | None) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames when they are there, and tell how many."""
        if self.arrived is not None:
            self.arrived.synchronize()
        yield self.frames.numpy()
        if progress:
            progress(len(self.frames))


def _write_all(writer: FrameWriter, frames: NDArray[np.uint8]) -> None:
    for frame in frames:
        writer.write(frame)


def _close(writer: FrameWriter, done: Callable[[], None] | None) -> None:
    writer.__exit__(None)
    if done:
        done()


@contextmanager
def _discarding(writer: FrameWriter, encoder: ThreadPoolExecutor) -> Iterator[None]:
    """Throw the unfinished film away when anything goes wrong before its last frame is written."""
    encoder.submit(writer.__enter__).result()
    try:
        yield
    except BaseException as error:
        encoder.submit(writer.__exit__, type(error), error, error.__traceback__).result()
        raise


def resized(frames: torch.Tensor, side: int) -> torch.Tensor:
    """Bring [N, 3, H, W] in [0, 1] to side x side: antialiased downwards, bicubic upwards."""
    if frames.shape[-1] == side and frames.shape[-2] == side:
        return frames
    mode = "bicubic" if frames.shape[-1] < side else "area"
    return F.interpolate(frames, size=(side, side), mode=mode).clamp(0, 1)
