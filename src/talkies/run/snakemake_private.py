"""Everything that we use of Snakemake beyond its documentation. All of it was seen in Snakemake 9.27.1.

`workflow` is the object of that name in Snakefiles.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("snakemake.logging")
"""All of Snakemake's messages go through it, to the console and the run's log file (snakemake.logging.logger)."""
LOCKS = Path(".snakemake/locks")
"""Where Snakemake keeps a folder's locks, as files NUMBER.KIND.lock."""


def executor(workflow: Any) -> str | None:
    """Return the name of the executor that sends this run's jobs elsewhere, for example slurm; None: they stay here.

    While a Snakefile is read, only the command line and its profiles tell it (snakemake.cli.parse_args, and the
    plugin's common_settings.local_exec). For a job on a node the name is "node" (Workflow.remote_exec).
    """
    if workflow.remote_exec:
        return "node"
    if not workflow.is_main_process:
        return None
    from snakemake.cli import parse_args
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), suppress(SystemExit):  # noqa: PTH123
        name = parse_args(sys.argv[1:])[1].executor
        if name and not ExecutorPluginRegistry().get_plugin(name).common_settings.local_exec:
            return str(name)
    return None


def limit(workflow: Any, *, gpus: int, threads: int) -> None:
    """Let the jobs elsewhere use so many GPUs at once, unless --resources says otherwise, and each so many threads,
    however few cores --cores gives this machine's own jobs (Workflow.global_resources, Workflow.register_resource).
    """
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", gpus)
    workflow.register_resource("_cores", max(threads, workflow.cores or 1))


def runs_in_image(workflow: Any) -> bool:
    """Return whether jobs run in an image: --software-deployment-method apptainer (Workflow.deployment_settings)."""
    from snakemake.settings.types import DeploymentMethod

    return DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method


def leave_image_to_jobs(workflow: Any) -> None:
    """Let this process work without apptainer, which Snakemake requires even for a dry run; jobs sent elsewhere are
    still told to use it (changes the same settings; spawn_jobs.py writes them into the jobs' commands).
    """
    settings = workflow.deployment_settings
    settings.deployment_method = _OfJobs(settings.deployment_method)


class _OfJobs(frozenset[Any]):
    """The deployment methods of jobs sent elsewhere, none of which is used here."""

    def __contains__(self, method: object) -> bool:
        return False


def pulled_images(workflow: Any) -> list[Path]:
    """Return the files of the jobs' images (Workflow.dag.container_imgs)."""
    return [Path(image.path) for image in workflow.dag.container_imgs.values()]


def add_handlers(workflow: Any, **ours: Callable[[], None]) -> None:
    """Call our handlers before those of a Snakefile that uses this workflow by `module`.

    ours: onstart, onsuccess, onerror. Snakemake runs only those of the main Snakefile (Workflow._onstart and so on,
    Workflow.modifier.is_main_snakefile). The user's handlers are kept if they are above `use rule`. A second `use
    rule` reads our Snakefile again, and must not add ours twice.
    """
    if workflow.modifier.is_main_snakefile() or getattr(workflow, "talkies_handlers", False):
        return
    workflow.talkies_handlers = True
    for name, handler in ours.items():
        setattr(workflow, f"_{name}", _both(handler, getattr(workflow, f"_{name}")))


def _both(ours: Callable[[], None], theirs: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def handler(log: Any) -> Any:
        ours()
        return theirs(log)

    return handler


def send_errors_to(path: Path) -> None:
    """Append the stderr of the jobs' shell commands to a file (shell._process_prefix).

    A command that does not see the file, for example in a container, writes to stderr as usual.
    """
    from snakemake.shell import shell

    file = shlex.quote(str(path))
    shell._process_prefix = f"{shell._get_process_prefix()}[ ! -w {file} ] || exec 2>>{file}; "


def remove_locks() -> bool:
    """Remove the locks of this folder; return whether there were any."""
    stale = [path for path in LOCKS.glob("*.lock") if path.is_file()]
    for path in stale:
        path.unlink(missing_ok=True)
    return bool(stale)
