"""What a run folder's Snakefile asks for. Folders that are laid out keep theirs, so these names stay."""

from .run import settings
from .run.settings import workflow_folder

__all__ = ["readable", "workflow_folder"]


def readable(path: str) -> str:
    """Return the path of a config file for Snakemake, as `settings.readable` does: TalkiesError where it is damaged.

    It is the first that a Snakefile asks of us, so the run's console begins here, and an error is told in one line.
    """
    from .run import console

    console.take_over()
    return settings.readable(path)
