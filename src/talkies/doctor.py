"""What this machine has for talkies, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__, media
from .errors import TalkiesError
from .plan import HOME

LEAST_FREE = 2 << 30
"""Bytes below which a disk is called full: some 800,000 frames of film."""


def examine(folder: Path) -> int:
    """Print one line a subject (ok, note or MISSING); return 1 when something is missing that a run needs."""
    missing = 0
    for grade, text in _findings(folder):
        print(f"{grade:8}{text}")
        missing += grade == "MISSING"
    print("all that a run on this machine needs is here" if not missing else f"{missing} things to mend")
    return 1 if missing else 0


def _findings(folder: Path) -> Iterator[tuple[str, str]]:
    yield "ok", f"talkies {__version__}, Python {platform.python_version()} ({sys.executable})"
    try:
        yield "ok", f"snakemake {version('snakemake')}"
    except PackageNotFoundError:
        yield "MISSING", "snakemake: pip install snakemake"
    try:
        yield "ok", f"ffmpeg {media.ffmpeg_version()} ({media.ffmpeg_path()})"
    except (TalkiesError, OSError) as error:
        yield "MISSING", str(error)
    yield from _engine()
    for place in dict.fromkeys((folder, Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free
        grade = "ok" if free > LEAST_FREE and os.access(place, os.W_OK) else "MISSING"
        yield grade, f"{place}: {free / 1e9:.1f} GB free{'' if os.access(place, os.W_OK) else ', not writable'}"
    if not (folder / "Snakefile").exists():
        yield "note", f"no Snakefile in {folder}: run snakemake in a clone of talkies or a run folder"
    elif not (folder / HOME).exists():
        yield "note", "no run here yet: snakemake starts one"


def _engine() -> Iterator[tuple[str, str]]:
    try:
        import torch
    except ImportError:
        yield "note", "no torch here: fine on a login node; to animate here, pip install 'talkies[engine]'"
        return
    from .animate import available_threads, choose_device
    from .model import load_model

    yield "ok", f"torch {torch.__version__}, {available_threads()} cores for this job"
    try:
        yield "ok", f"device auto: {choose_device('auto')}"
    except TalkiesError as error:
        yield "MISSING", str(error)
    try:
        yield "ok", f"the demo network's weights: {(load_model('demo').weights_digest or '')[:12]}"
    except TalkiesError as error:
        yield "MISSING", str(error)
