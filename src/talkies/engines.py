"""What an engine is: a program that moves a picture like a driving video, many films after one start.

Stages, scratch, receipts and the gallery ask these types alone. The First Order Motion Model (`fomm.engine`) is one
engine, the command of another program (`command`) is the other.
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
    from .media.clip import Clip, SoundFile
    from .media.film import FrameWriter
    from .media.frames import Box
    from .media.pictures import Frame

FOMM = "fomm"
"""The name of the built-in engine."""


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
class Material:
    """What a film is made of, as the user's files are.

    box: the square of the picture. driving_box, start, end, flip: the square of the clip, its segment in seconds after
    the first picture, and whether it is mirrored. sound: what the talkie is to sound like.
    """

    picture: Path
    box: Box | None
    clip: Clip
    driving_box: Box | None
    start: Fraction | None
    end: Fraction | None
    flip: bool
    sound: Clip | SoundFile


@dataclass(frozen=True)
class FilmJob:
    """A film to be made of a picture and a clip's motion.

    name: of the pair. source, take, sound: names of the picture, of the clip's segment and of what is heard; what is
    named alike is the same.
    picture: the prepared square, a file. motion: the file that `Engine.find_motion` saved of the clip, for engines
    that find it. material: looks for what the others are given. frames: of the film. writer: takes them. done: called
    when the film stands, before the job is yielded, with the seconds that it took where that is not the time since
    the job was begun. progress: called with the number of frames made.
    """

    name: str
    source: str
    take: str
    sound: str
    picture: Path
    motion: Path | None
    material: Callable[[], Material]
    frames: int
    movement: Movement
    writer: FrameWriter
    done: Callable[[float | None], None]
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
        """The side of the square that it is given, pixels."""

    def facts(self) -> dict[str, Any]:
        """Return what a film's record tells of it: the sections `engine` and `software`, and more of its own."""

    def films(self, jobs: Iterable[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        """Make films; yield each job when its film stands, or with the reason why its inputs forbid it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class MotionEngine(Engine, Protocol):
    """An engine that finds the motion of a clip once, for all pictures."""

    def identity(self) -> dict[str, Any]:
        """Return what decides a clip's motion beside the clip, as content keys hold it: preset and weights."""

    def network(self, source: str) -> str | None:
        """Return which of its networks made the films of a source (`FilmJob.source`); None where it has one."""

    def find_motion(self, frames: Iterator[Frame], rate: Fraction) -> FoundMotion:
        """Find the motion of a clip. frames: uint8 RGB [side, side, 3], one at a time; rate: frames a second."""
