"""All that we use of Snakemake beyond its documentation, and nowhere else. Each was seen in Snakemake 9.27.1.

`workflow` is the object of that name that Snakefiles see. tests/run/test_snakemake_private.py asks a real Snakemake
for each of these: it fails first when one changes.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LOGGER = logging.getLogger("snakemake.logging")
"""What all of Snakemake says goes through it, to the console and to the run's log file (snakemake.logging.logger)."""
LOCKS = Path(".snakemake/locks")
"""Where Snakemake keeps its locks of a folder, as files NUMBER.KIND.lock."""


def is_main_process(workflow: Any) -> bool:
    """Tell whether this is the process that the user started, not one that runs a job (Workflow.is_main_process)."""
    return bool(workflow.is_main_process)


def is_on_cluster(workflow: Any) -> bool:
    """Tell whether jobs go to SLURM, or this is one there (Workflow.remote_exec, resource_settings.default_resources).

    The cluster's profile is known by the key that it alone gives to all jobs; a job on a node by its mode.
    """
    return bool(workflow.remote_exec) or "slurm_extra" in (workflow.resource_settings.default_resources or ())


def cores(workflow: Any) -> int | None:
    """Return the cores that --cores gives to a run (Workflow.cores)."""
    found: int | None = workflow.cores
    return found


def runs_in_image(workflow: Any) -> bool:
    """Tell whether jobs run in an image: --software-deployment-method apptainer (Workflow.deployment_settings)."""
    from snakemake.settings.types import DeploymentMethod

    return DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method


def leave_image_out(workflow: Any) -> None:
    """Have a dry run do without apptainer, which Snakemake asks for even there (the same settings, set)."""
    workflow.deployment_settings.deployment_method = frozenset()


def wildcards_of_jobs(workflow: Any) -> Iterable[dict[str, str]]:
    """Yield the wildcards of each job that a run will run (Workflow.dag.needrun_jobs, Job.wildcards_dict)."""
    return (job.wildcards_dict or {} for job in workflow.dag.needrun_jobs())


def pulled_images(workflow: Any) -> list[Path]:
    """Return the files of the images that jobs would run in (Workflow.dag.container_imgs)."""
    return [Path(image.path) for image in workflow.dag.container_imgs.values()]


def add_handlers(workflow: Any, **ours: Callable[[], None]) -> None:
    """Have a run of a Snakefile that uses this workflow by `module` call our handlers before its own.

    ours: onstart, onsuccess, onerror. Snakemake runs those of the main Snakefile alone (Workflow._onstart and so on,
    Workflow.modifier.is_main_snakefile). The user's own are kept where they stand above `use rule`; a second `use
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


def console() -> Any | None:
    """Return the handler by which Snakemake writes to the console (LoggerManager); None where a plugin does."""
    return next((each for each in LOGGER.handlers if each.name == "DefaultStreamHandler"), None)


def console_settings(handler: Any) -> dict[str, Any]:
    """Return what was asked of that handler, by the names that a plugin finds in its `common_settings`.

    From its filter (DefaultFilter), its formatter (DefaultFormatter) and itself (ColorizingTextHandler).
    """
    asked = next(each for each in handler.filters if hasattr(each, "printshellcmds"))
    names = ("quiet", "debug_dag", "verbose", "dryrun", "printshellcmds")
    return {name: getattr(asked, name) for name in names} | {
        "show_failed_logs": handler.formatter.show_failed_logs,
        "nocolor": handler.nocolor,
        "stdout": asked.dryrun,
    }


def replace_console(old: logging.Handler, new: logging.Handler) -> None:
    """Have another handler write to the console; what `--quiet` filters out stays out."""
    for each in old.filters:
        new.addFilter(each)
    LOGGER.removeHandler(old)
    LOGGER.addHandler(new)


def send_errors_to(path: Path) -> None:
    """Have the jobs' shell commands append what they write to stderr to a file (shell._process_prefix).

    A command that does not see the file, in a container for one, writes to stderr as ever.
    """
    from snakemake.shell import shell

    file = shlex.quote(str(path))
    shell._process_prefix = f"{shell._get_process_prefix()}[ ! -w {file} ] || exec 2>>{file}; "


def remove_locks() -> bool:
    """Remove the locks of this folder; tell whether there were any."""
    stale = [path for path in LOCKS.glob("*.lock") if path.is_file()]
    for path in stale:
        path.unlink(missing_ok=True)
    return bool(stale)
