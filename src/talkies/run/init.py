"""Makes a run folder from the installed package: settings, folders, profiles, and a Snakefile.

The Snakefile uses the package's workflow as a module, so that an update of the package also updates the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..config_docs import EXAMPLE_TABLE, as_yaml
from ..errors import TalkiesError, printable
from ..files import shipped, whole

PICTURES, VIDEOS = "images", "driving"
PROFILE_LINK = "slurm"
"""Snakemake looks for `--profile slurm` under this name beside the Snakefile, not in profiles/."""


def lay_out(folder: Path, *, examples: bool = False) -> tuple[list[str], list[str]]:
    """Make what a run folder lacks; return the names made, and those that existed.

    examples: also copy the example pictures and videos into it. Raises TalkiesError if it can't be a run folder.
    """
    if folder.exists() and not folder.is_dir():
        raise TalkiesError(f"{printable(folder)}: this is a file: give a folder's name, new or there already")
    workflow, profiles = shipped("workflow"), shipped("profiles")
    files = {
        "config.yaml": as_yaml(images=PICTURES, driving=VIDEOS).encode(),
        "Snakefile": (workflow / "run_folder" / "Snakefile").read_bytes(),
        "pairs.tsv": (workflow / EXAMPLE_TABLE).read_bytes(),
    }
    files |= {f"profiles/{path.relative_to(profiles)}": path.read_bytes() for path in sorted(profiles.glob("*/*"))}
    if examples:
        shown = shipped("examples")
        files |= {
            f"{folder}/{path.name}": path.read_bytes()
            for folder in (PICTURES, VIDEOS)
            for path in sorted((shown / folder).iterdir())
        }
    steps: dict[str, Callable[[Path], None]] = {f"{name}/": Path.mkdir for name in (PICTURES, VIDEOS)}
    steps |= {name: _writer(content) for name, content in files.items()}
    steps[PROFILE_LINK] = lambda path: path.symlink_to(f"profiles/{PROFILE_LINK}")
    made, kept = [], []
    for name, step in steps.items():
        path = folder / name
        if os.path.lexists(path):  # a broken link is the user's too
            kept.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        step(path)
        made.append(name)
    return made, kept


def _writer(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with whole(path) as part:
            part.write_bytes(content)

    return write
