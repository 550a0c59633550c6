"""What the gallery shows of a run: each pair's files, its differences from others, its warnings; the run's times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from msgspec import Struct

from ..engines import FOMM
from ..files import from_json
from ..media.crop import Request
from ..run.estimate import duration
from ..run.ledger import Ledger, Made
from ..run.pairs import Pair, Source, Take, usual_pair
from ..run.plan import Plan
from ..run.record import Prepared, PreparedTake, Recorded
from ..run.state import State
from ..stages.check import DOUBTFUL, RESULT, Problem


@dataclass(frozen=True)
class Entry:
    """One pair, as the page shows it.

    film, record: the talkie and the JSON beside it, None if it was not made; reason: why not. digest: the film's
    sha256 if known. engine: what makes it. source: the cropped picture (PNG). preview: the cropped driving clip with
    its sound (mp4). Both are outside the results and are copied beside the page.

    crop, part, choices: the pair's own settings, in words: of the picture, of the driving video, and others. sound,
    preview_sound: whether they have sound. doubts: the warnings of the picture and of the driving video. moved: how
    far the driving video's mouth and head move, None if that is not known. model: the built-in engine's network.
    """

    driving: str
    image: str
    variant: str | None
    film: Path | None
    record: Path | None
    source: Path | None
    preview: Path | None
    reason: str | None
    private: bool = False
    crop: str = ""
    part: str = ""
    choices: str = ""
    sound: bool = False
    preview_sound: bool = False
    doubts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    digest: str | None = None
    engine: str = FOMM
    moved: float | None = None
    model: str = ""


def entries_of(plan: Plan, state: State) -> list[Entry]:
    """Return the gallery's entries: every pair with its film or the reason why it has none."""
    usual, found = usual_pair(plan.settings), _findings()
    sources = {name: _Prepared.of(plan, plan.source_file(name), wanted, found) for name, wanted in plan.sources.items()}
    takes = {name: _Prepared.of(plan, plan.driving_file(name), wanted, found) for name, wanted in plan.takes.items()}
    entries = []
    for name, pair in plan.pairs.items():
        talkie = plan.talkie(name)
        source, take = sources[pair.source], takes[pair.take]
        good = name not in state.failed and talkie.path.exists()
        record = talkie.record() if good else None
        entries.append(
            Entry(
                driving=pair.driving,
                image=pair.image,
                variant=pair.variant,
                film=talkie.path if good else None,
                record=talkie.record_path if good else None,
                source=source.path,
                preview=take.path,
                reason=state.failed.get(name, None if good else "not made"),
                private=pair.private,
                crop=_crop_words(pair.crop),
                part=take_words(pair.start, pair.end, flip=pair.flip, crop=pair.driving_crop),
                choices=choice_words(pair, usual),
                sound=record is not None and bool(record.sound.sound),
                preview_sound=take.sound,
                doubts=(source.doubts, take.doubts),
                digest=record.file.sha256 if record else None,
                engine=pair.engine,
                moved=take.moved,
                model=_network(record.facts.get("model")) if record else "",
            )
        )
    return entries


# --- differences between pairs -----------------------------------------------------------------------------


def take_words(start: str | None, end: str | None, *, flip: bool, crop: Request | None = None) -> str:
    """Return in words which part of a driving video is used, and how; empty for all of it, unchanged."""
    segment = f"{start or '0'} to {end} s" if end else f"from {start} s" if start else ""
    return ", ".join(filter(None, [segment, "mirrored" if flip else "", _crop_words(crop)]))


def _crop_words(crop: Request | None) -> str:
    if crop is None:
        return ""
    return f"crop {', '.join(f'{number:g}' for number in crop.box) if crop.box else crop}"


def choice_words(pair: Pair, usual: Pair) -> str:
    """Return the settings in which a pair differs from the run's, in the words of the pairs table."""
    frames: dict[Any, str] = {None: "the first frame", "auto": "the best frame"}
    sounds: dict[Any, str] = {True: "the video's sound", False: "no sound"}
    said = {
        "relative": "relative motion" if pair.relative else "absolute motion",
        "adapt_scale": "scaled to the face" if pair.adapt_scale else "not scaled to the face",
        "best_frame": f"motion from {frames.get(pair.best_frame, f'frame {pair.best_frame}')}",
        "audio": sounds.get(pair.audio) or f"sound of {Path(str(pair.audio)).name}",
        "paste_back": "in its whole picture" if pair.paste_back else "the square alone",
        "engine": "the built-in model" if pair.engine == FOMM else f"engine {pair.engine}",
    }
    return ", ".join(words for name, words in said.items() if getattr(pair, name) != getattr(usual, name))


def _network(model: Any) -> str:
    """Return which network made a film, by its record."""
    named = model if isinstance(model, dict) else {}
    return str(named.get("network") or named.get("preset") or "")


# --- pictures and driving videos ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    path: Path | None
    sound: bool
    doubts: tuple[str, ...]
    moved: float | None

    @classmethod
    def of(
        cls,
        plan: Plan,
        file: Recorded[Prepared] | Recorded[PreparedTake],
        wanted: Source | Take,
        findings: Mapping[tuple[str, bool], _Finding],
    ) -> _Prepared:
        record = file.record()
        finding = findings.get((file.path.stem, isinstance(wanted, Take)))
        doubts = list(_of_check(plan, finding, wanted))
        ranges = [max(each) - min(each) for each in finding.motion.values() if each] if finding else []
        take = record if isinstance(record, PreparedTake) else None
        doubts += [record.crop.warning] if record and record.crop.warning else []
        doubts += ["damaged or cut short: what is there is used"] if take and take.truncated else []
        path = file.path if file.path.exists() else None
        moved = sum(ranges) if ranges else None
        return cls(path, take is not None and take.sound, tuple(_once(doubts)), moved)


def _once(doubts: Iterable[str]) -> Iterable[str]:
    """Yield each warning once. The check reads fewer frames than the cut, and may give the same with other
    numbers."""
    seen = set()
    for doubt in doubts:
        kind = re.sub(r"\d+", "", re.split("[:;(]", doubt)[0]).strip()
        if kind not in seen:
            seen.add(kind)
            yield doubt


class _Finding(Struct):
    """What a check has found about a file: a part of its JSON."""

    name: str
    file: str
    clip: bool
    crop: object
    content: str | None
    problems: list[Problem]
    motion: dict[str, list[float]]


class _Findings(Struct):
    files: list[_Finding]


def _findings() -> dict[tuple[str, bool], _Finding]:
    """Return the last check's findings, by name and whether it is a driving video."""
    with suppress(OSError, ValueError):
        found = from_json(RESULT.read_bytes(), _Findings)
        return {(each.name, each.clip): each for each in found.files}
    return {}


def _of_check(plan: Plan, finding: _Finding | None, wanted: Source | Take) -> Iterable[str]:
    """Yield the check's warnings, if the file and its crop have not changed since.

    Files that can't be used are left out: a pair without a film has its reason, and a finished film was made anyway.
    """
    now = wanted.file, plan.contents.get(wanted.file), wanted.crop.plain
    if finding is not None and (finding.file, finding.content, finding.crop) == now:
        for problem in finding.problems:
            if problem.level == DOUBTFUL:
                yield f"{problem.text}{': ' * bool(problem.advice)}{problem.advice}"


# --- times ---------------------------------------------------------------------------------------------------

LOAD = "load"
"""The loading of engines, beside the stages."""
COLOURS = 7
"""Of stages, in gallery.css; the same for the same place in the table."""


class Row(NamedTuple):
    """A stage, in words. colour, width: of its bar, the width in percent of the longest. median, most: of one item."""

    colour: str
    name: str
    width: int
    total: str
    share: str
    items: int
    median: str
    most: str


class Times(NamedTuple):
    """work: of all stages together. frame: what a frame of an animated film took on average; None without films."""

    work: str
    frame: str | None
    rows: list[Row]


def measure(plan: Plan, ledger: Ledger) -> Times:
    """Return what the stages of a plan took, by the ledger, whichever run it was; items without a time are left out."""
    seconds = {LOAD: [load for load in ledger.loads.values() if 0 < load < float("inf")]}
    for stage in plan.stages:
        entries = (ledger.get(stage.name, item) for item in plan.everything(stage.of))
        seconds[stage.name] = [e.seconds for e in entries if isinstance(e, Made) and 0 < e.seconds < float("inf")]
    totals = {name: sum(each) for name, each in seconds.items()}
    work, longest = sum(totals.values()) or 1.0, max(totals.values()) or 1.0
    films = [film for film in ledger.films() if film.item in plan.pairs and film.frames]
    frame = sum(film.seconds for film in films) / sum(film.frames for film in films) if films else None
    rows = [
        Row(
            f"c{number % COLOURS}",
            name,
            round(100 * totals[name] / longest),
            duration(totals[name]),
            f"{totals[name] / work:.0%}",
            len(each),
            f"{median(each):.3g} s" if each else "",
            f"{max(each):.3g} s" if each else "",
        )
        for number, (name, each) in enumerate(seconds.items())
    ]
    return Times(duration(sum(totals.values())), None if frame is None else f"{frame:.2g} s", rows)
