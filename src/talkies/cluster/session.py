"""What a process of Snakemake does for a run besides its jobs: it makes the plan, looks whether the run is possible,
and says what it will make, how far it is, and how it ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError

from .. import stages
from ..engines.program import fetch_images
from ..errors import TalkiesError, printable
from ..machine import container as image
from ..run import console, estimate, folder, planner, progress, snakemake_private
from ..run.pairs import not_used
from ..run.plan import Plan
from ..run.state import State
from ..settings import complete, given
from .jobs import Failures, needs_gpu_image

LOGGER = snakemake_private.LOGGER


class Session:
    """One process: the main one, which makes the plan, or that of a job, which reads it.

    workflow: Snakemake's. Raises TalkiesError if the run is not possible.
    """

    def __init__(self, workflow: Any, config: Mapping[str, Any]) -> None:
        self._workflow = workflow
        self.is_main = bool(workflow.is_main_process)
        self.executor = snakemake_private.executor(workflow)
        self.in_image = snakemake_private.runs_in_image(workflow)
        self.console = console.of_run(is_main=self.is_main, elsewhere=self.executor is not None)
        self._lacks_runtime = self.in_image and image.runtime() is None
        if self._lacks_runtime and self.is_main:
            snakemake_private.leave_image_to_jobs(workflow)
            enough = "only the nodes can run the image" if self.executor else "enough for a dry run (-n), not for a run"
            say(f"neither apptainer nor singularity is here: {enough}")
        self._state = State()
        self._lack: tuple[str, bool] | None = None
        self._over: threading.Event | None = None
        self.plan = self._make_plan(config) if self.is_main else Plan.load(stages.table)
        self.threads = self.plan.settings.threads or (4 if self.executor else workflow.cores) or 1
        self.failures = Failures(say)
        if self.executor:
            snakemake_private.limit(workflow, gpus=self.plan.settings.gpus, threads=self.threads)
        self.bind()  # on a cluster, each job is a process of its own

    def _make_plan(self, config: Mapping[str, Any]) -> Plan:
        if planner.unlock_after_kill():
            say("the last run was killed; its lock of this folder is removed")
        plan, self._state = planner.make_plan(
            complete(config),
            stages.table,
            on_cluster=self.executor is not None,
            given=given(config, Path("config.yaml")),
        )
        settings = plan.settings
        if self.in_image and settings.container is not None:
            image.check_bindable([Path(each) for each in plan.outside])
            self._check_image(plan)
        cores = self._workflow.cores or 1
        say(estimate.describe(plan, self._state, cores=cores, on_cluster=self.executor is not None))
        if self._state.why:
            say(f"{len(self._state.to_make)} to make: {self._state.why}")
        if unused := not_used(plan.settings, plan.pairs.values()):
            say(f"not used: {unused}")
        self._lack = estimate.lack_of_room(plan, self._state)
        if self._lack is not None:
            LOGGER.warning(f"talkies: {self._lack[0]}")
        return plan

    def bind(self) -> None:
        """Bind the folders of config.yaml into the images of the jobs that this process starts."""
        if self.in_image:
            image.bind(self.plan.outside, self.plan.settings.scratch, os.environ)

    def start(self) -> None:
        """Begin the run: a real one, not a dry one. WorkflowError if it is not possible."""
        try:
            self._check_means()
            planner.start_run(self.plan, self._state)
        except TalkiesError as error:
            raise WorkflowError(str(error)) from None
        if self.executor:
            self.failures.retries = self._workflow.execution_settings.retries
            LOGGER.addHandler(self.failures)
        if self.console:
            self.console.follow(folder.WORKERS_LOG)
        self._over = progress.start(
            self.plan,
            self._state,
            _say_progress,
            often=self.console is not None and self.console.is_live,
        )
        self.bind()  # on this machine: the results' folder may be new

    def end(self) -> None:
        """Say the run's results."""
        planner.end_run()
        if self._over is not None:
            for line in progress.end(self.plan, self._over, self.failures.final):
                say(line)

    def _check_means(self) -> None:
        """Check the disk space, and the jobs' image and its version, before any job is sent."""
        if self._lack and self._lack[1]:
            raise TalkiesError(self._lack[0])
        wanted = self.plan.settings.container or ""
        if self._lacks_runtime and not self.executor:
            raise TalkiesError(
                "jobs are to run in an image, and neither apptainer nor singularity is here: load its module, or start "
                "snakemake on a machine that has it"
            )
        fetch_images(self.plan.settings.programs, elsewhere=self.executor is not None)
        if self._lacks_runtime:
            if image.ADDRESS.match(wanted):
                raise TalkiesError(
                    f"config.yaml: container: {printable(wanted)} is pulled where snakemake runs, and neither "
                    "apptainer nor singularity is here: pull it on a node, and name the file"
                )
            image.check_image(wanted, gpus=needs_gpu_image(self.plan.settings))
        elif self.in_image and image.ADDRESS.match(wanted):
            self._check_image(self.plan, next(iter(snakemake_private.pulled_images(self._workflow)), None))

    def _check_image(self, plan: Plan, pulled: Path | None = None) -> None:
        """Check the image of the jobs. pulled: the copy of one with an address.

        Where no image can be run, a dry run plans for another machine, which may have the image.
        """
        try:
            unchecked = image.check_image(plan.settings.container or "", pulled, gpus=needs_gpu_image(plan.settings))
        except TalkiesError as error:
            if not self._lacks_runtime:
                raise
            unchecked = str(error)
        if unchecked:
            LOGGER.warning(f"talkies: {unchecked}")


def say(line: str) -> None:
    """Print a line about the run between Snakemake's own lines."""
    LOGGER.info(f"talkies: {line}")


def _say_progress(line: str) -> None:
    LOGGER.info(f"talkies: {line}", extra={"progress": True})
