"""What is wrong with a checked file, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from fractions import Fraction

from ..files import to_plain
from ..fomm.model.presets import Preset
from ..media.crop import FACELESS
from ..media.film import FILM_SIZE
from .check_file import SAMPLES, ClipFacts, Facts, Item, Look, Unreadable

SMALL_SIDE = 128
"""Side of a crop in pixels below which the film, at least twice as large, looks soft."""
BLURRED = 8.0
"""Variance of the Laplacian (grey levels 0..255, at 256 pixels): the examples measure 89 to 1,544, and blurred by a
Gaussian of 3 pixels 1 to 7."""
SHORT_SECONDS = 0.5
LONG_SECONDS = 120
SLOW_RATE = 12
FAILS = "fails"
DOUBTFUL = "look"
NOTE = "note"
LEVELS = (FAILS, DOUBTFUL, NOTE)


@dataclass(frozen=True)
class Problem:
    """A problem (fails), a doubt (look) or a remark (note), and what to do about it."""

    level: str
    text: str
    advice: str


@dataclass
class Finding:
    """The findings of an item: facts as in the JSON, the crop as JPEG, and problems, the worst first.

    motion: of a driving video, how far the lips are apart in the frames looked at (mouth), in heights of the face, and
    how far the nose is beside the middle (head), in widths of it.
    private: all of its pairs are private, so others must not see it.
    """

    item: Item
    facts: Facts
    thumb: bytes | None
    problems: list[Problem] = field(default_factory=list)
    motion: dict[str, list[float]] = field(default_factory=dict)
    private: bool = False

    @property
    def level(self) -> int:
        """Its place in the order by urgency: 0 is first."""
        return min((LEVELS.index(problem.level) for problem in self.problems), default=len(LEVELS))

    @property
    def plain(self) -> dict[str, object]:
        """The finding as values for JSON."""
        facts = to_plain(self.facts)
        return {
            **asdict(self.item),
            "crop": self.item.crop.plain,
            "facts": {name: value for name, value in facts.items() if name not in ("poses", "first_frame")},
            "problems": [asdict(problem) for problem in self.problems],
            "motion": self.motion,
        }


def findings_of(looked: Look, preset: Preset | None, faceless: bool = False) -> Finding:
    """Return the findings of a file, the worst problem first.

    preset: of the network that will animate it; None for a program. faceless: accept a driving video without a face.
    Poses are not compared.
    """
    problems = _problems(looked.item, looked.facts, preset, faceless)
    order = sorted(problems, key=lambda problem: LEVELS.index(problem.level))
    return Finding(looked.item, looked.facts, looked.thumb, order)


def _problems(item: Item, facts: Facts, preset: Preset | None, faceless: bool) -> Iterable[Problem]:
    if isinstance(facts, Unreadable):
        yield Problem(FAILS, facts.error, "mend or remove this file; the others are made without it")
        return
    cut, clip = facts.crop, facts if isinstance(facts, ClipFacts) else None
    other = _in_files(item, "crop: ...").lstrip()
    if clip and clip.faceless and preset and preset.crop == "face" and not faceless:
        advice = f"crop it by hand (center, or a box) {other}, or set faceless: allow"
        yield Problem(FAILS, f"{FACELESS}: it is not animated", advice)
    elif cut.faces == 0:
        drawn = "" if facts.photograph else " (drawn ones are missed now and then)"
        yield Problem(DOUBTFUL, f"no face found{drawn}: the centre is cut", f"give a box [x, y, width, height] {other}")
    elif cut.warning:
        yield Problem(DOUBTFUL, cut.warning, "give the part that shows it by start and end, or a box")
    elif clip and clip.faces_seen and not clip.faces_seen[0]:
        seconds = clip.faces_seen.index(True) / Fraction(clip.sampled_rate) + Fraction(item.start or 0)
        advice = (
            f"begin where one is seen, start: {float(seconds):.2f}{_in_files(item, f'start: {float(seconds):.2f}')}"
        )
        yield Problem(DOUBTFUL, "no face in its first frame, from which motion is counted", advice)
    if (cut.faces or 0) > 1 and cut.mode == "face":
        yield Problem(
            NOTE, f"{cut.faces} faces: the largest is taken", f"another: face:left, face:right or face:2 {other}"
        )
    side = cut.box.side
    if side < SMALL_SIDE:
        yield Problem(DOUBTFUL, f"small: {side} pixels become {FILM_SIZE}", "take a larger copy of it")
    elif facts.sharpness < BLURRED:
        yield Problem(DOUBTFUL, f"blurred (sharpness {facts.sharpness:g})", "take a sharper one")
    if preset and cut.faces:
        shown = "photographs" if facts.photograph else "drawings"
        if preset.knows not in (None, shown):
            text = f"it looks like one of the {shown}, and {preset.name} knows {preset.knows}"
            yield Problem(DOUBTFUL if preset.packaged else NOTE, text, "model: preset: demo knows both")
    if facts.hdr:
        yield Problem(NOTE, f"its colours are HDR ({facts.hdr}): mapped to the usual range", "")
    if clip:
        yield from _problems_of_clip(clip)


def _in_files(item: Item, choice: str) -> str:
    """Return the words that tell where to write a setting for a file."""
    return f" in config.yaml, files: {{{item.file_name}: {{{choice}}}}}"


def _problems_of_clip(facts: ClipFacts) -> Iterable[Problem]:
    if facts.truncated:
        yield Problem(DOUBTFUL, "damaged or cut short: what is there is used", "copy or download it again")
    if facts.face_outside:
        text = f"its face leaves the crop, which does not follow it ({facts.face_outside} of about {SAMPLES} looks)"
        yield Problem(
            DOUBTFUL, text, "give a box that holds all its ways, or the part in which it stays, by start and end"
        )
    if facts.seconds < SHORT_SECONDS:
        yield Problem(DOUBTFUL, f"short: {facts.seconds:g} s", "take a longer one")
    if facts.seconds > LONG_SECONDS:
        text = f"long: {facts.frames} frames are made for each picture"
        yield Problem(NOTE, text, "give the part you want by start and end")
    if Fraction(facts.rate) < SLOW_RATE:
        yield Problem(NOTE, f"only {float(Fraction(facts.rate)):g} frames a second: the film jerks", "take another")
    if facts.remark:
        yield Problem(NOTE, facts.remark, "")
    elif facts.sound is None:
        yield Problem(NOTE, "no sound: its films are silent", "")
