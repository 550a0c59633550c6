"""The stages of a run, a file each, in their order. A new one is added to this table, or in the run folder.

A run folder's own stages are the files stages/NAME.py there (docs/extending.md), each of which defines STAGE and, by
AFTER, the stage behind which it comes.
"""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import TalkiesError
from ..run.folder import OWN_STAGES
from ..run.plan import Stage
from . import animate, crop, cut, motion, remux, show

STAGES = (crop.STAGE, cut.STAGE, motion.STAGE, animate.STAGE, show.STAGE, remux.STAGE)


def table(settings: Any) -> Sequence[Stage]:
    """Return the stages of a run in this folder; TalkiesError if one of the folder's own can't be read."""
    stages = list(STAGES)
    for path in sorted(OWN_STAGES.glob("*.py")):
        stage, after = _own(path)
        names = [each.name for each in stages[:-1]]
        if after not in names or stage.name in (*names, stages[-1].name):
            raise TalkiesError(f"{path}: AFTER must name one of {', '.join(names)}, and its own name be another")
        stages.insert(names.index(after) + 1, stage)
    return stages


def own_rules() -> list[str]:
    """Return the rules of the stages that the run folder adds: stages/NAME.smk."""
    return [str(path.absolute()) for path in sorted(OWN_STAGES.glob("*.smk"))]


def _own(path: Path) -> tuple[Stage, str]:
    try:
        found = runpy.run_path(str(path))
        stage, after = found["STAGE"], found["AFTER"]
    except Exception as error:
        raise TalkiesError(f"{path}: this stage can't be read ({type(error).__name__}: {error}): mend it") from None
    if not isinstance(stage, Stage) or not isinstance(after, str):
        raise TalkiesError(f"{path}: STAGE must be a talkies.run.plan.Stage, and AFTER a stage's name")
    return stage, after
