"""What a run folder's Snakefile imports. Existing folders keep their Snakefile, so these names stay."""

from .run import settings
from .run.settings import workflow_folder

__all__ = ["readable", "workflow_folder"]


def readable(path: str) -> str:
    """Return the path of a config file for Snakemake, as `settings.readable` does: TalkiesError if it is damaged.

    A Snakefile calls this first, so the run's console starts here, and an error is shown in one line.
    """
    from .run import console

    console.take_over()
    return settings.readable(path)
