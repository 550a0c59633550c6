"""The images of programs: pulled from their addresses, found here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import TalkiesError
from ..machine.container import ADDRESS, check_bindable, pull, runtime
from .program import Program

IMAGES = Path(".talkies/images")
"""Images pulled from addresses, unless APPTAINER_CACHEDIR names another place."""


def fetch_images(programs: Mapping[str, Program], *, elsewhere: bool = False) -> None:
    """Pull images from their addresses when a run starts; TalkiesError if an image could not be run.

    elsewhere: they run on other machines, so only addresses need apptainer here.
    """
    for name, program in programs.items():
        if program.image is not None:
            if runtime() is None and not (elsewhere and not ADDRESS.match(program.image)):
                raise TalkiesError(
                    f"engine {name}: runs in an image, and neither apptainer nor singularity is here: load its module, "
                    "or install it"
                )
            check_bindable([Path(program.checkpoint).resolve()] if program.checkpoint else [])
            if ADDRESS.match(program.image):
                pull(program.image, image_file(program))


def image_file(program: Program) -> Path:
    """Return the path of a program's image, or of its pulled copy: in Apptainer's cache folder, if that is set."""
    assert program.image is not None
    if ADDRESS.match(program.image):
        shared = os.environ.get("APPTAINER_CACHEDIR")  # as Snakemake does with the image of its jobs
        return (Path(shared) if shared else IMAGES) / f"{program.image.rpartition(':')[2]}.sif"
    return Path(os.path.abspath(program.image))  # noqa: PTH100 (Path.absolute keeps "..")
