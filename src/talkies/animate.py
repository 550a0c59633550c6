"""The engine: many pairs through one loaded model, streaming.

A source's features are computed once, a clip's keypoints come from its saved motion, frames go through the
network in batches, and the film of one batch (or pair) is encoded while the next is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .errors import InputError, TalkiesError
from .media import FILM_SIZE, FrameWriter
from .model import FirstOrderModel, Keypoints, SourceFeatures
from .motion import Motion, best_frame, frames_to_tensor, transfer_motion

BATCHES_AHEAD = 2
"""Batches that may wait for the encoder: enough to keep it busy, few enough to keep memory flat."""


@dataclass(frozen=True)
class Movement:
    """How a clip's motion is given to a source image.

    relative: motion since the best frame, not the driving keypoints themselves. adapt_scale: scaled by the
    size of the two faces. best_frame: the frame relative motion is counted from: an index, "auto" (the pose
    nearest the source's), or None for the first.
    """

    relative: bool = True
    adapt_scale: bool = True
    best_frame: int | str | None = None


@dataclass(frozen=True)
class _Prepared:
    """A source image as the model needs it: computed once, used for each of its films."""

    features: SourceFeatures
    keypoints: Keypoints


def choose_device(wanted: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`, after a computation on it that must come out right.

    auto takes a GPU where one is given (a driver is loaded, or the scheduler granted one) and fails where it
    does not work: a GPU job never goes on in silence on the processor.
    """
    granted = os.environ.get("CUDA_VISIBLE_DEVICES")
    given = bool(granted) and granted not in ("-1", "NoDevFiles")
    given = given or (granted is None and Path("/proc/driver/nvidia/version").exists())
    if wanted == "cpu" or (wanted == "auto" and not given and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no usable GPU: no driver, another driver, or a torch built without CUDA")
        ones = torch.ones(64, 64, device="cuda")
        if float((ones @ ones).sum()) != 64.0**3:
            raise RuntimeError("it computes wrong results")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise TalkiesError(f"the GPU that was given does not work: {reason}; `--device cpu` does without it") from None
    return torch.device("cuda")


def available_threads() -> int:
    """Return the cores this job was given: SLURM's word, the cgroup's quota, the affinity; never more."""
    counts = [len(os.sched_getaffinity(0))]
    if os.environ.get("SLURM_CPUS_PER_TASK", "").isdigit():
        counts.append(int(os.environ["SLURM_CPUS_PER_TASK"]))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            counts.append(int(quota) // int(period))
    except (OSError, ValueError):
        pass
    return max(1, min(counts))


class Engine:
    """One loaded model that animates pair after pair. A context manager: its encoder thread ends with it.

    batch: frames that go through the network at once; None chooses by device. threads: the processor's
    threads for the network and for the encoder.
    """

    def __init__(self, model: FirstOrderModel, *, batch: int | None = None, threads: int | None = None) -> None:
        # The processor's convolutions are fastest with a pixel's channels side by side; no result depends on it.
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.batch = batch or (8 if model.device.type == "cpu" else 32)
        self.threads = threads or available_threads()
        torch.set_num_threads(self.threads)
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._source: tuple[str, _Prepared] | None = None

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
            picture = _resized(picture, self.model.preset.size)
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
            reason = f"{first} is outside the clip's {motion.frames} frames (0 is the first): give one of them, or auto"
            raise InputError("best_frame", reason)
        for start in range(0, motion.frames, self.batch):
            group = driving[start : start + self.batch]
            moved = transfer_motion(
                source.keypoints,
                group,
                driving[first],
                relative=movement.relative,
                adapt_scale=movement.adapt_scale,
            )
            prediction = self.model.generate(source.features, source.keypoints, moved).prediction.float()
            prediction = _resized(prediction, FILM_SIZE)
            # What the original's writer does with [0, 1]: scale and round to bytes.
            yield prediction.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
            if progress:
                progress(len(group))

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


def _resized(frames: torch.Tensor, side: int) -> torch.Tensor:
    """Bring [N, 3, H, W] in [0, 1] to side x side: antialiased downwards, bicubic upwards."""
    if frames.shape[-1] == side and frames.shape[-2] == side:
        return frames
    mode = "bicubic" if frames.shape[-1] < side else "area"
    return F.interpolate(frames, size=(side, side), mode=mode).clamp(0, 1)
