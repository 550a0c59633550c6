"""What a run folder's Snakefile imports. Existing folders keep their Snakefile, so these names stay."""

from pathlib import Path

from . import settings
from .files import shipped

__all__ = ["readable", "workflow_folder"]


def readable(path: str) -> str:
    """Return the path of a config file for Snakemake, which would print a traceback for a damaged one.

    A Snakefile calls this first, so the run's console starts here, and an error is shown in one line. No key is
    checked: --config may add more.
    """
    from .run import console

    console.take_over()
    if Path(path).exists():
        settings.read(Path(path))
    return path


def workflow_folder() -> Path:
    """Return the folder of the workflow, for a Snakefile that uses it as a module."""
    return shipped("workflow")
