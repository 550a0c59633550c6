"""Encodes several films at once, each with a thread and an ffmpeg of its own, while their frames are computed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from .film import FrameWriter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WAITING = 2
"""Batches of a film that may wait for its encoder: they keep it busy without filling the memory."""


class Encoders:
    """Encodes at most `most` films at once. A film stays open until it is finished or discarded."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="encoder")
        self._moved = threading.Event()
        self._shares = _Shares()
        self._open: list[Encoding] = []

    def begin(self, writer: FrameWriter, done: Callable[[float], None] | None = None) -> Encoding:
        """Start a film. done: called by its thread when the film is finished, with its share of the seconds.

        If three films are open, each has a third of every second, so that the films' times add up.
        """
        encoding = Encoding(writer, done, self._pool, self._moved.set, self._shares)
        self._open = [film for film in self._open if not film.ended.done()] + [encoding]
        return encoding

    def wait(self) -> None:
        """Wait until a film has taken a batch or has ended."""
        self._moved.wait()
        self._moved.clear()

    def discard(self) -> None:
        """Discard all films whose frames have not all been put."""
        for film in self._open:
            film.discard()

    def close(self) -> None:
        """Discard these, and wait for the others, of which only the last frames are left to encode."""
        self.discard()
        self._pool.shutdown(wait=True)


class Encoding:
    """A film that is open.

    ended: done when the film is finished, or with its error, and then no file remains. finished: all frames have been
    put.
    """

    def __init__(
        self,
        writer: FrameWriter,
        done: Callable[[float], None] | None,
        pool: ThreadPoolExecutor,
        moved: Callable[[], None],
        shares: _Shares,
    ) -> None:
        self._writer, self._done, self._moved, self._shares = writer, done, moved, shares
        self._groups: deque[NDArray[np.uint8]] = deque()
        self._given = threading.Condition()
        self._discarded = False
        self.finished = False
        self._began = shares.change(+1)
        self.ended: Future[None] = pool.submit(self._encode)
        self.ended.add_done_callback(lambda _: moved())

    @property
    def has_room(self) -> bool:
        """Whether it can take another batch."""
        return len(self._groups) < WAITING

    def put(self, frames: NDArray[np.uint8]) -> None:
        """Hand over a batch of frames, uint8 RGB [n, H, W, 3]."""
        with self._given:
            self._groups.append(frames)
            self._given.notify()

    def finish(self) -> None:
        """Mark that all frames have been put."""
        with self._given:
            self.finished = True
            self._given.notify()

    def discard(self) -> None:
        """Discard the film, unless all its frames have been put; wait until its files are removed."""
        if self.finished or self.ended.done():
            return
        with self._given:
            self._discarded = True
            self._given.notify()
        if self.ended.cancel():
            self._shares.change(-1)
        else:
            with suppress(BaseException):
                self.ended.result()

    def _encode(self) -> None:
        try:
            with self._writer as film:
                while (group := self._next()) is not None:
                    self._moved()
                    for frame in group:
                        film.write(frame)
                        self._check()
        finally:
            share = self._shares.change(-1) - self._began
        if self._done:
            self._done(share)

    def _next(self) -> NDArray[np.uint8] | None:
        """Wait for the next batch and return it; None after the last."""
        with self._given:
            self._given.wait_for(lambda: self._groups or self.finished or self._discarded)
            self._check()
            return self._groups.popleft() if self._groups else None

    def _check(self) -> None:
        if self._discarded:
            raise _Discarded


class _Discarded(Exception):
    """The film was discarded."""


class _Shares:
    """The time of films that are open at once, divided between them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open, self._at, self._seconds = 0, time.monotonic(), 0.0

    def change(self, by: int) -> float:
        """Open (+1) or close (-1) a film; return the seconds of a film that has been open all the time."""
        with self._lock:
            now = time.monotonic()
            if self._open:
                self._seconds += (now - self._at) / self._open
            self._open, self._at = self._open + by, now
            return self._seconds
