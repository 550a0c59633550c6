"""What check found, as a table and as a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

from ..errors import counted, printable
from ..files import read_json, write_json
from ..run.folder import CHECK_PAGE
from ..stages.check import DOUBTFUL, FAILS, LEVELS, NOTE, RESULT, Finding
from .page import fill
from .page import write_page as write_sealed


def summary(findings: Sequence[Finding]) -> str:
    """Say in a line how many files there are and how many of them need a look."""
    count = [sum(finding.level == level for finding in findings) for level in range(len(LEVELS))]
    good = len(findings) - count[0] - count[1]
    return f"{counted(len(findings), 'file')}: {good} good, {count[1]} to look at, {count[0]} unusable"


def facts_line(finding: Finding) -> str:
    """Say what was seen of an item in a few words."""
    facts = finding.facts
    if "error" in facts:
        return ""
    cut = facts["crop"]
    faces = "" if cut["faces"] is None else f", {cut['faces']} face{'s' * (cut['faces'] != 1)}"
    said = f"{facts['width']}x{facts['height']}{faces}, crop of {cut['box'][2]}, sharpness {facts['sharpness']:.0f}"
    if finding.item.clip:
        rate = f"{float(Fraction(facts['rate'])):.4g}{' (variable)' if facts['variable_rate'] else ''}"
        said += f", {facts['seconds']:.4g} s at {rate} frames/s, sound: {facts['sound'] or 'none'}"
    return said


def table(findings: Sequence[Finding]) -> Iterable[str]:
    """Yield the lines of the table: a line for each file, and below it its problems and what to do."""
    marks = {FAILS: "!!", DOUBTFUL: " ?", NOTE: "  "}
    width = min(40, max((len(printable(f.item.file_name)) for f in findings), default=0))
    for finding in findings:
        mark = marks[LEVELS[finding.level]] if finding.level < len(LEVELS) else "  "
        yield f"{mark} {printable(finding.item.file_name):{width}}  {facts_line(finding)}".rstrip()
        for problem in finding.problems:
            yield f"     {printable(problem.text)}{': ' * bool(problem.advice)}{printable(problem.advice)}"


PAGE = Path(__file__).with_name("check.html")


def write_page(findings: Sequence[Finding], results: Path) -> Path:
    """Write the contact sheet beside the gallery, problems first, without private files; return its path."""
    findings = [finding for finding in findings if not finding.private]
    cards = "\n".join(map(_card, findings))
    path = results / CHECK_PAGE
    write_sealed(path, fill(PAGE, summary=html.escape(summary(findings)), cards=cards))
    return path


def save(findings: Sequence[Finding], path: Path = RESULT) -> None:
    """Write what was found as JSON; equal findings are equal bytes."""
    public = [finding for finding in findings if not finding.private]
    write_json(path, {"summary": summary(public), "files": [finding.to_dict() for finding in findings]})


def check_line(results: Path) -> str | None:
    """Return what the last check found in a line, None where its page is not there."""
    found = read_json(RESULT, {"summary": str})
    return f"Check of the files: {found['summary']}" if found and (results / CHECK_PAGE).exists() else None


def _card(finding: Finding) -> str:
    level = LEVELS[finding.level] if finding.level < len(LEVELS) else "good"
    name = html.escape(printable(finding.item.name))
    picture = '<div class="none"></div>'
    if finding.thumb:
        data = base64.b64encode(finding.thumb).decode()
        picture = f'<img loading="lazy" alt="crop of {name}" src="data:image/jpeg;base64,{data}">'
    lines = [f'<p class="facts">{html.escape(facts_line(finding))}</p>']
    for problem in finding.problems:
        lines.append(f'<p class="text">{html.escape(printable(problem.text))}</p>')
        lines += [f'<p class="advice">{html.escape(printable(problem.advice))}</p>'] * bool(problem.advice)
    return f'<li class="{level}">{picture}<div><h2>{name}</h2>{"".join(lines)}</div></li>'
