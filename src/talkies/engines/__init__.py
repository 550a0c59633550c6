"""What an engine is: it moves pictures like driving videos, many films after one start.

Stages use only these types. There are two engines: the First Order Motion Model (`fomm.engine`), and a program by its
command (`command`), whose keys are in `program`. known.yaml has programs by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError

if TYPE_CHECKING:
    from ..media.clip import Clip, SoundFile
    from ..media.film import FrameWriter
    from ..media.frames import Box
    from ..media.pictures import Frame

FOMM = "fomm"
"""The name of the built-in engine."""


@dataclass(frozen=True)
class Movement:
    """How a clip's motion is applied to a source image.

    relative: the motion since the best frame, not the driving keypoints themselves. adapt_scale: scale it by the
    sizes of the two faces. best_frame: the frame that relative motion counts from: an index, "auto" (the pose nearest
    the source's), or None for the first.
    """

    relative: bool = True
    adapt_scale: bool = True
    best_frame: int | str | None = None


@dataclass(frozen=True)
class Material:
    """The user's files for a film, with their crops.

    box: the picture's crop. driving_box, start, end, flip: the clip's crop, its segment in seconds after the first
    picture, and whether it is mirrored. sound: the source of the talkie's sound.
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

    name: of the pair. source, take, sound: names of the picture, the clip's segment and the sound; the same name
    means the same input. picture: the prepared square, a file. motion: the file that `Engine.find_motion` saved, for
    engines that compute motion. material: returns the files for other engines. frames: of the film. writer: takes the
    frames. done: called when the film is finished, before the job is yielded, with the seconds it took, or None for
    the time since the job started. progress: called with the number of frames made.
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
    """The motion of a clip, as an engine computed it."""

    @property
    def frames(self) -> int:
        """The number of frames."""

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """An engine that is ready to work; when it is left, it ends everything that it started."""

    @property
    def threads(self) -> int:
        """Processor threads, for the network and the encoder."""

    @property
    def side(self) -> int:
        """The side of the square that it takes, in pixels."""

    def facts(self) -> dict[str, Any]:
        """Return its facts for a film's record: the sections `engine` and `software`, and others of its own."""

    def films(self, jobs: Iterable[FilmJob]) -> Iterator[tuple[FilmJob, InputError | None]]:
        """Make films; yield each job when its film is finished, or with the error in its inputs."""


class MotionEngine(Engine, Protocol):
    """An engine that computes the motion of a clip once, for all pictures."""

    def identity(self) -> dict[str, Any]:
        """Return what decides a clip's motion besides the clip, for content keys: preset and weights."""

    def network(self, source: str) -> str | None:
        """Return which of its networks made the films of a source (`FilmJob.source`); None if it has only one."""

    def find_motion(self, frames: Iterator[Frame], rate: Fraction) -> FoundMotion:
        """Compute the motion of a clip. frames: uint8 RGB [side, side, 3], one at a time; rate: frames a second."""
