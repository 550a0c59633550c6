"""What a run folder's Snakefile asks for. Folders that are laid out keep theirs, so these names stay."""

from .run.settings import readable, workflow_folder

__all__ = ["readable", "workflow_folder"]
