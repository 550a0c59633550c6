"""The engine: many pairs through one loaded model, streaming.

A source's features are computed once, a clip's keypoints come from its saved motion, frames go through the
network's fast form (rewrite.py) in batches, and the film of one batch (or pair) is encoded while the next is computed.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from . import rewrite
from .cores import available_threads
from .errors import InputError, TalkiesError
from .media import FILM_SIZE, FrameWriter, file_digest
from .model import FirstOrderModel, Keypoints, SourceFeatures
from .motion import Motion, best_frame, frames_to_tensor, transfer_motion
from .records import digest, read_json, write_json
from .rewrite import rewritten
from .scratch import own_cache

log = logging.getLogger("talkies")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALF = {"cpu": "bf16", "cuda": "fp16"}
"""The half precision that `auto` may take, by device."""
FAITHFUL = 45.0
"""Decibels of PSNR between half precision and float32, on the loaded weights, above which `auto` takes the half."""
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


def keep_memory() -> None:
    """Have the C library keep the memory that freed tensors leave, for the next ones; call it before the first.

    Each large block comes from the kernel and goes back otherwise, page by page, some 50,000 pages a frame.
    Does nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 1 << 30)
    mallopt(top_pad, 64 << 20)


def computes_bf16() -> bool:
    """Tell whether this processor has bfloat16 products of its own; elsewhere they are many times slower than float32.

    The flags are Linux' words for AVX-512 BF16, AMX BF16 and Arm's BF16.
    """
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_processor_flags()))


def _processor_flags() -> list[str]:
    """Return what this processor can do, in Linux' words; nothing where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.split()[2:] for line in lines if line.startswith(("flags", "Features"))), [])


def choose_precision(model: FirstOrderModel, wanted: str) -> str:
    """Return the precision for fp32, bf16, fp16 or auto: a float32 model on its device, before it is rewritten.

    auto takes the device's half precision where the processor computes it and these weights bear it: both
    render a frame of a made-up picture in motion, and differ by less than FAITHFUL allows.
    """
    if wanted != "auto":
        return wanted
    half = HALF[model.device.type]
    if half == "bf16" and not computes_bf16():
        return "fp32"
    decibels = known_fidelity(model, half)
    log.info("precision: %s is %.1f dB from fp32 with these weights (%.0f are asked for)", half, decibels, FAITHFUL)
    return half if decibels > FAITHFUL else "fp32"


def known_fidelity(model: FirstOrderModel, half: str) -> float:
    """Return the fidelity of a half precision, measured once for these weights, this device, torch and fast form.

    It is kept in the user's own cache folder (`scratch.own_cache`), for it takes as long as some frames. Where there is
    none, or the weights were not loaded from a file, it is measured each time.
    """
    cache = own_cache()
    if model.weights_digest is None or cache is None:
        return fidelity(model, DTYPES[half])
    device = torch.cuda.get_device_name() if model.device.type == "cuda" else _processor_flags()
    parts = [model.weights_digest, half, device, torch.__version__, file_digest(Path(rewrite.__file__))]
    path = cache / f"fidelity-{digest(parts)}.json"
    known = (read_json(path) or {}).get("decibels")
    if isinstance(known, float):
        return known
    decibels = fidelity(model, DTYPES[half])
    with suppress(OSError):
        write_json(path, {"decibels": decibels})
    return decibels


def fidelity(model: FirstOrderModel, dtype: torch.dtype) -> float:
    """Return the PSNR, in decibels, between the fast form's frame in another precision and in float32."""
    noise = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    side = model.preset.size
    pictures = F.interpolate(noise, size=(side, side), mode="bicubic").clamp(0, 1).to(model.device)
    pictures[1] = pictures[0].roll((side // 16, side // 16), (1, 2)).lerp(pictures[1], 0.1)

    def frame(form: FirstOrderModel) -> torch.Tensor:
        kp = form.keypoints(pictures)
        return form.generate(pictures[:1], kp[0], kp[1]).prediction.float()

    error = float(F.mse_loss(frame(rewritten(model, dtype)), frame(rewritten(model, torch.float32))))
    return -10 * math.log10(error) if error > 0 else math.inf if error == 0 else -math.inf  # the last: not a number


def free_batch(side: int, itemsize: int, free: int) -> int:
    """Return how many frames of this side fit the GPU's free memory at once, at most 64.

    A frame's largest tensors are of 64 channels at the full side; about eight such stand at a time.
    """
    frame = 8 * 64 * side * side * itemsize
    return max(1, min(64, free // (2 * frame)))


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
            reason = f"{first} is outside the clip's {motion.frames} frames (0 is the first): give one of them, or auto"
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
