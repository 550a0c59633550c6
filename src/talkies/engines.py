"""What an engine is: a program that moves a picture like a driving video, many films after one start.

Stages, scratch, receipts and the gallery ask these types alone. The First Order Motion Model (`fomm.engine`) is one
engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from .errors import InputError

if TYPE_CHECKING:
    from .media.film import FrameWriter
    from .media.pictures import Frame


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
class FilmJob:
    """A film to be made of a picture and a clip's motion.

    name: of the pair. source: the picture's name; pictures of one name are one picture. picture: its square, a file.
    motion: the file that `Engine.find_motion` saved of the clip. writer: takes the film's frames. done: called when
    the film stands, before the job is yielded. progress: called with the number of frames made.
    """

    name: str
    source: str
    picture: Path
    motion: Path
    movement: Movement
    writer: FrameWriter
    done: Callable[[], None]
    progress: Callable[[int], None]


class FoundMotion(Protocol):
    """The motion of a clip as an engine found it."""

    @property
    def frames(self) -> int:
        """How many frames it has."""

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""


class Engine(Protocol):
    """An engine that is ready to work; a context manager, at whose end what it started ends."""

    @property
    def threads(self) -> int:
        """Of the processor, for the network and for the encoder."""

    @property
    def side(self) -> int:
        """The side of the square frames in which it looks for motion, pixels."""

    def identity(self) -> dict[str, Any]:
        """Return what decides its pixels beside its inputs, as content keys hold it: preset and weights."""

    def facts(self) -> dict[str, Any]:
        """Return what a film's record tells of it: the sections `model` and `software`."""

    def find_motion(self, frames: Iterator[Frame], rate: Fraction) -> FoundMotion:
        """Find the motion of a clip. frames: uint8 RGB [side, side, 3], one at a time; rate: frames a second."""

    def films(self, jobs: Iterable[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        """Make films; yield each job when its film stands, or with the reason why its inputs forbid it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
