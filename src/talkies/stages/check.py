"""Checks every picture and driving video before anything is animated: what is wrong with them, and what to do.

What was seen is kept by content (.talkies/check), so that a second check takes no time. No other stage reads it.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..engines import FOMM
from ..errors import printable
from ..files import digest, from_json, to_json, to_plain, write_whole
from ..fomm.first_frame import measures
from ..fomm.model.presets import PRESETS, FaceParts, Preset
from ..media.crop import FACELESS
from ..media.film import FILM_SIZE
from ..run.folder import HOME
from ..run.inputs import Inputs
from ..run.pairs import Source, Take
from ..run.plan import Plan, compared
from .check_file import FEWEST, SAMPLES, Facts, Seen, SeenClip, Unreadable, look, look_at_poses

if TYPE_CHECKING:
    from ..fomm.model.first_order import FirstOrderModel
    from ..media.pictures import Frame

Key = tuple[str, bool]
"""The name of a picture or (True) a take."""
SEEN = HOME / "check"
RESULT = HOME / "check.json"
"""The findings of the last check, for the gallery and the workflow."""
RECIPE = 12
"""Raised by hand when a look at the same file sees something else."""

SMALL_SIDE = 128
"""Side of a crop in pixels below which the film, at least twice as large, looks soft."""
BLURRED = 8.0
"""Variance of the Laplacian (grey levels 0..255, at 256 pixels): the examples measure 89 to 1,544, and blurred by a
Gaussian of 3 pixels 1 to 7."""
SHORT_SECONDS = 0.5
LONG_SECONDS = 120
SLOW_RATE = 12
TURNED_FAR, LIPS_APART = 0.3, 0.035
"""Of a photograph, in widths and heights of the face: shut mouths measure 0.01 to 0.02, smiles with teeth 0.05 to 0.14,
and a head that looks past the camera 0.4."""
HEAD_STILL, LIPS_STILL = 0.04, 0.02
"""The same for the differences within a video: of a still picture 0, of a still head that talks 0.01 and 0.07."""
POSE_FAR, POSE_NEARER = 0.25, 0.5
"""A first frame is called far from a picture's pose if its distance is over this and another frame has half of it.
Similar poses measure 0.02 to 0.16, turned heads 0.25 to 0.6 (the examples, the demo network)."""

FAILS = "fails"
DOUBTFUL = "look"
NOTE = "note"
LEVELS = (FAILS, DOUBTFUL, NOTE)


@dataclass(frozen=True)
class Problem:
    """A problem (fails), a doubt (look) or a remark (note), and what to do about it."""

    level: str
    text: str
    advice: str = ""


@dataclass
class Finding:
    """The findings of a picture or take.

    motion: of a driving video, how far the lips are apart in the frames looked at (mouth), in heights of the face, and
    how far the nose is beside the middle (head), in widths of it.
    private: all of its pairs are private, so others must not see it. content: the digest of its file.
    """

    name: str
    wanted: Source | Take
    facts: Facts
    problems: list[Problem] = field(default_factory=list)
    motion: dict[str, list[float]] = field(default_factory=dict)
    private: bool = False
    content: str | None = None

    @property
    def clip(self) -> bool:
        """Whether it is a driving video: a picture may have its name."""
        return isinstance(self.wanted, Take)

    @property
    def file_name(self) -> str:
        """The file's name without its folder, as in `files` of config.yaml."""
        return Path(self.wanted.file).name

    @property
    def level(self) -> int:
        """Its place in the order by urgency: 0 is first."""
        return min((LEVELS.index(problem.level) for problem in self.problems), default=len(LEVELS))

    @property
    def plain(self) -> dict[str, object]:
        """The finding as values for JSON."""
        facts = to_plain(self.facts)
        about = {"name": self.name, "clip": self.clip, "content": self.content, "motion": self.motion}
        return {
            **to_plain(self.wanted),
            **about,
            "facts": {name: value for name, value in facts.items() if name not in ("poses", "thumb", "type")},
            "problems": to_plain(self.problems),
        }


def examine(
    plan: Plan,
    *,
    model: Callable[[], FirstOrderModel] | None = None,
    workers: int = 1,
    advance: Callable[[int], None] = lambda files: None,
) -> list[Finding]:
    """Check all of a plan's pictures and driving videos; return the findings, the worst first.

    model: returns the network whose keypoints give the poses; None: poses are not compared.
    """
    # A picture and a take may have one name.
    inputs: list[tuple[Key, Source | Take]] = [((name, True), take) for name, take in plan.takes.items()]
    inputs += [((name, False), source) for name, source in plan.sources.items()]
    moved = compared(plan)
    weights = digest([plan.settings.model.preset, plan.weights]) if model and moved else None
    known = Inputs()
    known.read(wanted.file for _, wanted in inputs)
    known.save(keep=True)
    seen: dict[Key, Facts] = {}
    unseen: list[tuple[Key, Source | Take, Path]] = []
    for key, wanted in inputs:  # videos first: they take longest, and so leave no core idle at the end
        path = _path(wanted, known.content(wanted.file), weights)
        try:
            seen[key] = from_json(path.read_bytes(), Facts)  # type: ignore[arg-type]
        except (OSError, ValueError):
            unseen.append((key, wanted, path))
    advance(len(seen))
    looks = _look_at_all([wanted for _, wanted, _ in unseen], workers)
    for (key, wanted, path), (facts, crops) in zip(unseen, looks, strict=True):
        if model and weights and crops is not None and isinstance(facts, Seen):
            look_at_poses(model(), wanted, facts, crops)
        write_whole(path, to_json(facts))
        seen[key] = facts
        advance(1)
    pairs = plan.pairs.values()
    animated = {key for pair in pairs if pair.engine == FOMM for key in ((pair.source, False), (pair.take, True))}
    shown = {key for pair in pairs if not pair.private for key in ((pair.source, False), (pair.take, True))}
    preset = PRESETS[plan.settings.model.preset]
    findings = []
    for key, wanted in inputs:
        used = preset if key in animated else None
        finding = findings_of(key[0], wanted, seen[key], used, plan.settings.faceless == "allow")
        finding.private = key not in shown
        finding.content = known.content(wanted.file)
        findings.append(finding)
    if weights:
        look_at_faces(plan, findings, preset.parts, {take for _, take in moved})
        compare_poses(moved, findings)
    return sorted(findings, key=lambda finding: (finding.level, finding.clip, finding.name))


def _path(wanted: Source | Take, content: str | None, weights: str | None) -> Path:
    """Return where is kept what was seen of a file. weights: of the network that looked at its poses."""
    about = {"clip": isinstance(wanted, Take), "content": content, "weights": weights, **to_plain(wanted)}
    for name in ("file", "driving", "frames"):
        about.pop(name, None)
    return SEEN / f"{digest([RECIPE, about])}.json"


def _look_at_all(files: Sequence[Source | Take], workers: int) -> Iterable[tuple[Facts, Frame | None]]:
    if len(files) < 4 or workers < 2:
        yield from map(look, files)
        return
    # Processes, since the detector of faces lets no other thread work; not forked: a fork copies no threads, and would
    # wait for those of a loaded network.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(files)), mp_context=spawn, initializer=_hush) as pool:
        yield from pool.map(partial(look, threads=1), files)


def _hush() -> None:
    # Only the parent writes messages, and it ends its children when it is stopped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("talkies").setLevel(logging.CRITICAL)


def findings_of(
    name: str, wanted: Source | Take, facts: Facts, preset: Preset | None, faceless: bool = False
) -> Finding:
    """Return the findings of a file, the worst problem first.

    preset: of the network that will animate it; None for a program. faceless: accept a driving video without a face.
    Poses are not compared.
    """
    finding = Finding(name, wanted, facts)
    finding.problems = sorted(_problems(finding, preset, faceless), key=lambda problem: LEVELS.index(problem.level))
    return finding


def _problems(finding: Finding, preset: Preset | None, faceless: bool) -> Iterable[Problem]:
    facts = finding.facts
    if isinstance(facts, Unreadable):
        yield Problem(FAILS, facts.error, "mend or remove this file; the others are made without it")
        return
    cut, clip = facts.crop, facts if isinstance(facts, SeenClip) else None
    other = _in_files(finding, "crop: ...")
    if clip and cut.faces == 0 and preset and preset.crop == "face" and not faceless:
        advice = f"crop it by hand (center, or a box) {other}, or set faceless: allow"
        yield Problem(FAILS, f"{FACELESS}: it is not animated", advice)
    elif cut.faces == 0:
        drawn = "" if facts.photograph else " (drawn ones are missed now and then)"
        yield Problem(DOUBTFUL, f"no face found{drawn}: the centre is cut", f"give a box [x, y, width, height] {other}")
    elif cut.warning:
        yield Problem(DOUBTFUL, cut.warning, "give the part that shows it by start and end, or a box")
    elif clip and any(clip.faces_seen) and not clip.faces_seen[0]:
        at = float(clip.faces_seen.index(True) / Fraction(clip.sampled_rate) + _start(finding))
        advice = f"begin where one is seen, start: {at:.2f} {_in_files(finding, f'start: {at:.2f}')}"
        yield Problem(DOUBTFUL, "no face in its first frame, from which motion is counted", advice)
    if (cut.faces or 0) > 1 and cut.mode == "face":
        which = f"another: face:left, face:right or face:2 {other}"
        yield Problem(NOTE, f"{cut.faces} faces: the largest is taken", which)
    if cut.box.side < SMALL_SIDE:
        yield Problem(DOUBTFUL, f"small: {cut.box.side} pixels become {FILM_SIZE}", "take a larger copy of it")
    elif facts.sharpness < BLURRED:
        yield Problem(DOUBTFUL, f"blurred (sharpness {facts.sharpness:g})", "take a sharper one")
    shown = "photographs" if facts.photograph else "drawings"
    if preset and cut.faces and preset.knows not in (None, shown):
        text = f"it looks like one of the {shown}, and {preset.name} knows {preset.knows}"
        yield Problem(DOUBTFUL if preset.packaged else NOTE, text, "model: preset: demo knows both")
    if clip:
        yield from _problems_of_clip(clip)


def _in_files(finding: Finding, choice: str) -> str:
    """Return the words that tell where to write a setting for a file."""
    return f"in config.yaml, files: {{{finding.file_name}: {{{choice}}}}}"


def _start(finding: Finding) -> Fraction:
    return Fraction((isinstance(finding.wanted, Take) and finding.wanted.start) or 0)


def _problems_of_clip(facts: SeenClip) -> Iterable[Problem]:
    if facts.hdr:
        yield Problem(NOTE, f"its colours are HDR ({facts.hdr}): mapped to the usual range")
    if facts.truncated:
        yield Problem(DOUBTFUL, "damaged or cut short: what is there is used", "copy or download it again")
    if facts.face_outside:
        text = f"its face leaves the crop, which does not follow it ({facts.face_outside} of about {SAMPLES} looks)"
        advice = "give a box that holds all its ways, or the part in which it stays, by start and end"
        yield Problem(DOUBTFUL, text, advice)
    if facts.seconds < SHORT_SECONDS:
        yield Problem(DOUBTFUL, f"short: {facts.seconds:g} s", "take a longer one")
    if facts.seconds > LONG_SECONDS:
        text = f"long: {facts.frames} frames are made for each picture"
        yield Problem(NOTE, text, "give the part you want by start and end")
    if Fraction(facts.rate) < SLOW_RATE:
        yield Problem(NOTE, f"only {float(Fraction(facts.rate)):g} frames a second: the film jerks", "take another")
    if facts.remark:
        yield Problem(NOTE, facts.remark)
    elif facts.sound is None:
        yield Problem(NOTE, "no sound: its films are silent")


# --- poses -------------------------------------------------------------------------------------------------


def look_at_faces(plan: Plan, findings: Sequence[Finding], parts: FaceParts | None, moved: Set[str]) -> None:
    """Note how videos move, and warn of still ones, of bad first frames, and of pictures that make poor films.

    parts: of the network's keypoints. moved: the takes whose motion is counted from their first frame.
    """
    import numpy as np

    for finding in findings:
        facts = finding.facts
        if isinstance(facts, Unreadable) or not facts.crop.faces or parts is None:
            continue
        poses, problems = np.array(facts.poses), finding.problems
        if isinstance(facts, SeenClip):
            _, lips, turn = measures(poses[facts.faces_seen], parts)
            finding.motion = {"mouth": lips.round(3).tolist(), "head": turn.round(3).tolist()}
            if len(lips) >= FEWEST and np.ptp(lips) < LIPS_STILL and np.ptp(turn) < HEAD_STILL:
                advice = "give another part by start and end, or another video"
                problems.append(Problem(DOUBTFUL, "neither mouth nor head moves in it", advice))
            if facts.better is not None and finding.name in moved:
                text = "head turned in its first frame, from which motion is counted"
                at = float(_start(finding) + facts.better / Fraction(facts.rate))
                better = _in_files(finding, f"best_frame: {facts.better}")
                advice = f"{better} counts from a better one, {{start: {at:.2f}}} begins there"
                problems.append(Problem(DOUBTFUL, text, advice))
        elif plan.settings.better and facts.photograph:
            _, (lips,), (turn,) = measures(poses, parts)
            seen = ["its head is turned far, which smears"] * bool(abs(turn) > TURNED_FAR)
            seen += ["its mouth is open or shows teeth, which blur"] * bool(lips > LIPS_APART)
            advice = "take one that looks ahead with its mouth shut, or published weights"
            problems += [Problem(DOUBTFUL, text, advice) for text in seen]


def compare_poses(pairs: Iterable[tuple[str, str]], findings: Sequence[Finding]) -> None:
    """Add a finding to each take whose first frame is far from pictures' poses, with a nearer frame.

    pairs: of picture and take, where poses matter.
    """
    import numpy as np

    seen = {(found.name, found.clip): found for found in findings if isinstance(found.facts, Seen)}
    held = {key: np.array(found.facts.poses) for key, found in seen.items() if isinstance(found.facts, Seen)}
    moved: dict[str, list[str]] = {}
    for image, take in pairs:
        if (image, False) in seen and (take, True) in seen:
            moved.setdefault(take, []).append(image)
    for take, images in moved.items():
        finding = seen[take, True]
        facts = finding.facts
        assert isinstance(facts, SeenClip)
        if facts.better is not None or facts.crop.faces == 0:
            continue  # a better first frame comes first
        pictures = np.stack([held[image, False][0] for image in images])
        distances = ((held[take, True][:, None] - pictures) ** 2).sum((2, 3))
        far = (distances[0] > POSE_FAR) & (distances.min(0) < POSE_NEARER * distances[0])
        if not far.any():
            continue
        those = [printable(image) for image, is_far in zip(images, far, strict=True) if is_far]
        looks = sorted(distances.argmin(0)[far])
        seconds = float(_start(finding) + int(looks[len(looks) // 2]) / Fraction(facts.sampled_rate))
        count = f"{len(those)} picture{'s' * (len(those) != 1)}"
        names = ", ".join([*those[:3], *["..."] * (len(those) > 3)])
        text = f"its first frame's pose is far from that of {count} ({names})"
        advice = f"motion: best_frame: auto, or let it start where the head is held alike, about {seconds:.1f} s"
        finding.problems.append(Problem(DOUBTFUL, text, advice))
