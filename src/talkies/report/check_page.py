"""The check's findings, as a table and as a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import counted, printable
from ..files import read_json, write_json
from ..media.film import FILM_SIZE
from ..run.folder import CHECK_PAGE, GALLERY_PAGE
from ..run.pairs import Take, take_name
from ..stages.check import BLURRED, DOUBTFUL, FAILS, LEVELS, NOTE, RESULT, SMALL_SIDE, Finding
from ..stages.check_file import SAMPLES, SeenClip, Unreadable
from .entries import take_words
from .page import fill, pages
from .page import write_page as write_sealed


def summary(findings: Sequence[Finding]) -> str:
    """Return in one line how many files there are and how many of them need a look."""
    count = [sum(finding.level == level for finding in findings) for level in range(len(LEVELS))]
    good = len(findings) - count[0] - count[1]
    return f"{counted(len(findings), 'file')}: {good} good, {count[1]} to look at, {count[0]} unusable"


def facts_line(finding: Finding) -> str:
    """Return an item's facts in a few words."""
    facts = finding.facts
    if isinstance(facts, Unreadable):
        return ""
    cut = facts.crop
    faces = "" if cut.faces is None else f", {counted(cut.faces, 'face')}"
    said = f"{facts.width}x{facts.height}{faces}, crop of {cut.box.side}, sharpness {facts.sharpness:.0f}"
    if isinstance(facts, SeenClip):
        rate = f"{float(Fraction(facts.rate)):.4g}{' (variable)' if facts.variable_rate else ''}"
        said += f", {facts.seconds:.4g} s at {rate} frames/s, sound: {facts.sound or 'none'}"
    return said


def table(findings: Sequence[Finding]) -> Iterable[str]:
    """Yield the lines of the table: one for each file, and below it its problems and what to do."""
    marks = {FAILS: "!!", DOUBTFUL: " ?", NOTE: "  "}
    width = min(40, max((len(printable(f.file_name)) for f in findings), default=0))
    for finding in findings:
        mark = marks[LEVELS[finding.level]] if finding.level < len(LEVELS) else "  "
        yield f"{mark} {printable(finding.file_name):{width}}  {facts_line(finding)}".rstrip()
        for problem in finding.problems:
            yield f"     {printable(problem.text)}{': ' * bool(problem.advice)}{printable(problem.advice)}"


def write_page(findings: Sequence[Finding], results: Path, *, gallery: bool = False, better: str | None = None) -> Path:
    """Write the check's page beside the gallery, problems first, without private files; return its path.

    gallery: the gallery exists or will exist. better: how the run's films get better (`Settings.better`).
    """
    shown = [finding for finding in findings if not finding.private]
    index = GALLERY_PAGE if gallery or (results / GALLERY_PAGE).exists() else None
    kinds = {"Pictures": [f for f in shown if not f.clip], "Driving videos": [f for f in shown if f.clip]}
    page = fill(
        "check.html",
        style=["check.css"],
        title="Check of the files",
        pages=pages(CHECK_PAGE, gallery=index, check=True),
        summary=summary(shown),
        better=better,
        kinds=[(kind, summary(found), map(_card, found)) for kind, found in kinds.items() if found],
        numbers={"film": FILM_SIZE, "small": SMALL_SIDE, "blurred": f"{BLURRED:g}", "samples": SAMPLES},
    )
    path = results / CHECK_PAGE
    write_sealed(path, page)
    return path


def save(findings: Sequence[Finding], path: Path = RESULT) -> None:
    """Write the findings as JSON; equal findings give equal bytes."""
    public = [finding for finding in findings if not finding.private]
    write_json(path, {"summary": summary(public), "files": [finding.plain for finding in findings]})


def check_line(results: Path) -> str | None:
    """Return the last check's findings in one line; None if its page does not exist."""
    found = read_json(RESULT)
    return f"Check of the files: {found['summary']}" if found and (results / CHECK_PAGE).exists() else None


CURVES = {"mouth": (0.0, 0.2), "head": (-0.4, 0.4)}
"""The least and the most that the curves of motion show (`Finding.motion`)."""


def _curve(values: Sequence[float], least: float, most: float) -> str:
    """Return the points of a curve in a square of 100 units, from the top left."""
    shares = [min(1.0, max(0.0, (value - least) / (most - least))) for value in values]
    return " ".join(f"{100 * n / (len(values) - 1):.0f},{100 - 100 * share:.0f}" for n, share in enumerate(shares))


def _card(finding: Finding) -> dict[str, Any]:
    """Return a file's name for the page: with its suffix, and with the part and crop if they are not the usual."""
    wanted, facts = finding.wanted, finding.facts
    start, end, flip = (wanted.start, wanted.end, wanted.flip) if isinstance(wanted, Take) else (None, None, False)
    # A pair's own crop is in the name of its picture or take; the usual crop is not.
    usual = finding.name == take_name(Path(wanted.file).stem, start, end, flip=flip)
    part = take_words(start, end, flip=flip, crop=None if usual else wanted.crop)
    return {
        "level": LEVELS[finding.level] if finding.level < len(LEVELS) else "good",
        "name": printable(finding.file_name),
        "part": printable(part),
        "thumb": None if isinstance(facts, Unreadable) else base64.b64encode(facts.thumb).decode(),
        "facts": facts_line(finding),
        "curves": [(part, _curve(values, *CURVES[part])) for part, values in finding.motion.items() if len(values) > 1],
        "problems": [(printable(problem.text), printable(problem.advice)) for problem in finding.problems],
    }
