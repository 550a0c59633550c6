"""What a person sees of a run on this machine: its plan, its stages, its films, each warning once, and the summary.

Snakemake's own lines, several for each job, go into its log file only, and the workers' lines into their logs. This
is a logger plugin of Snakemake, which profiles/default chooses. With `--verbose`, and on a cluster, it prints all.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

from ..errors import counted
from . import snakemake_private
from .estimate import duration
from .folder import shard_of
from .planner import ALL

TICK_SECONDS = 0.5
"""Seconds between two reads of the workers' messages."""
COLOURS = {"error": "\033[31m", "warning": "\033[33m"}
OUR_LOGS = ".talkies/logs/"

NOISE = re.compile(
    r"Assuming unrestricted shared filesystem|Building DAG of jobs|Using shell: |Provided (cores|resources): "
    r"|Rules claiming more threads|(Singularity containers|Conda environments): ignored|Group jobs: inactive"
    r"|Select jobs to execute|Execute \d+ jobs|Activating singularity image|Elapsed time: |Config file .* is extended"
    r"|Reasons:\n|Shutting down, this might|Some jobs were triggered by prov|Rules with provenance triggered"
    r"|\d+ jobs have (missing|outdated) provenance|WorkflowError:\nAt least one job did not complete"
)
"""Snakemake's lines of no kind of their own that a person does not need. Unknown lines are shown."""
SILENT = {"workflow_started", "shellcmd", "job_started", "resources_info", "progress", "rulegraph", "group_info"}
"""Kinds of records that are left out."""
SHOWN = re.compile(r"talkies: (.+: done, sound: .+|.*check\.html|(waiting: |breaking the lock |pulling ).+)")
"""Messages of workers that are shown though nothing is wrong: a finished film, the check page, a wait."""
OURS = re.compile(
    r'(?:(?:TalkiesError|InputError) in file ".*"|WorkflowError in file ".*/workflow/rules/common\.smk"), line \d+:\n'
    r'(?P<said>.*)(?:\n  File ".*)*'
)
"""An error of ours as Snakemake prints it: with its place in the workflow, which does not help the user."""
ENDED = re.compile(
    r"""RuleException:\nCalledProcessError in file ".*", line \d+:\nCommand '(?P<command>.*)' """
    r"(?:returned non-zero (?P<status>exit status \d+)|(?P<signal>died with .*))\.\s*",
    re.DOTALL,
)
"""How a job's command ended. Snakemake prints this before it says which job it was."""

current: Console | None = None
"""The console of this process's run."""


def of_run(*, is_main: bool, elsewhere: bool) -> Console | None:
    """Return the console of this process's run; None where Snakemake prints all its lines.

    That is in jobs, and in a run elsewhere, where it tells what becomes of each job. A dry run's few lines are ours.
    """
    if current is not None and (not is_main or (elsewhere and not current.common_settings.dryrun)):
        current.is_plain = True
        return None
    return current


class _Stage:
    """What is known of a rule's jobs in this run."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.began: float | None = None
        self.done = 0
        self.failed: set[int] = set()
        self.running: set[int] = set()

    @property
    def took(self) -> str:
        """The time since the first of them began, in words."""
        return duration(time.monotonic() - (self.began or time.monotonic()))


class Console(LogHandlerBase):
    """Writes lines, and on a terminal below them one live line for each running stage."""

    has_filter = has_formatter = needs_rulegraph = writes_to_file = False
    """Snakemake adds its filter, so that `--quiet` works, and its formatter, for messages shown unchanged."""
    writes_to_stream = True

    def __post_init__(self) -> None:
        global current
        current = self
        settings = self.common_settings
        self.stream = sys.stdout if settings.stdout else sys.stderr
        self.is_plain = settings.verbose or settings.debug_dag or settings.printshellcmds
        self._stages: dict[str, _Stage] = {}
        self._jobs: dict[int, tuple[str, str]] = {}  # stage and shard, by Snakemake's number
        self._ended: list[tuple[str, str, str]] = []  # command, how it ended, and Snakemake's message
        self._has_failed = self._is_stopped = False
        self._said: set[str] = set()
        self._words = self._progress = ""  # the last of the workers, the last of the run
        self._workers: Path | None = None
        self._read = 0
        self._rest = b""
        self._drawn = 0
        self._over = threading.Event()

    @property
    def is_live(self) -> bool:
        """Return whether the output is a terminal that can redraw a line."""
        return self.stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not self.is_plain

    def follow(self, workers: Path) -> None:
        """Send the workers' messages to this file, and show on the console those that a person needs."""
        if self.is_plain:
            return
        workers.parent.mkdir(parents=True, exist_ok=True)
        workers.write_bytes(b"")
        self._workers = workers
        snakemake_private.send_errors_to(workers)
        threading.Thread(target=self._tick, name="console", daemon=True).start()

    def _tick(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            self.acquire()
            try:
                if not self._over.is_set():
                    self._write(self._heard())
            except OSError:
                pass  # the reader has gone; the next write reports it
            finally:
                self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a person needs of a record, after the workers' messages so far."""
        if getattr(record, "of_worker", False):
            return  # our own, for the log file only
        try:
            lines = [self.format(record)] if self.is_plain else [*self._heard(), *self._lines(record)]
            self._write(lines)
        except BrokenPipeError:
            pass  # the reader has gone
        except Exception:  # a record that this version of Snakemake does not write
            with suppress(OSError):
                self._write([self.format(record)])

    def close(self) -> None:
        """Write the remaining messages, and remove the live lines."""
        self._over.set()
        if not self.is_plain and not self.stream.closed:
            with suppress(OSError):
                for stage in self._stages.values():
                    stage.running.clear()
                self._write([*self._heard(ended=True), *(said for _, _, said in self._ended)])
                self._ended.clear()
        super().close()

    # --- records of Snakemake ---

    def _lines(self, record: logging.LogRecord) -> list[str]:
        told: Any = record.__dict__
        kind = told.get("event")
        if kind is None or kind == "error":
            return self._text(record)
        if kind in SILENT:
            return []
        if kind == "run_info":
            return self._plan(told["stats"])
        if kind == "job_info":
            if not self.common_settings.dryrun:
                self._begin(told["jobid"], told["rule_name"], told["wildcards"].get("name", ALL))
            return []
        if kind == "job_finished":
            return self._finish(told["job_id"], failed=False)
        if kind == "job_error" and self._is_stopped:
            self._ended.clear()
            return []
        if kind == "job_error" and any(OUR_LOGS in log for log in told["log"]):
            shown = [self.format(record)] if self.common_settings.show_failed_logs else self._failure(told)
            return [*shown, *self._finish(told["jobid"], failed=True)]
        return [self.format(record)]

    def _text(self, record: logging.LogRecord) -> list[str]:
        text = record.getMessage()
        if getattr(record, "progress", False):
            self._progress = text
            return [] if self.is_live else [text]
        if text.startswith("talkies: "):
            words = text.removeprefix("talkies: ")
            mark = {logging.WARNING: "warning", logging.ERROR: "error"}.get(record.levelno)
            if mark:
                return self._once(mark, words)
            return self._once(None, words) if words.startswith("failed: ") else [text]
        if match := OURS.fullmatch(text):
            return self._once("error", match["said"])
        if (match := ENDED.fullmatch(text)) and f"--log {OUR_LOGS}" in match["command"]:
            how = match["status"] or re.sub(r"<Signals\.(\w+): \d+>", r"\1", match["signal"])
            self._ended.append((match["command"], how, text))
            return []
        if NOISE.match(text) or (
            text.startswith("Exiting because a job execution failed") and (self._has_failed or self._is_stopped)
        ):
            return []
        if text.startswith("This was a dry-run"):
            return ["talkies: this was a dry run: nothing was made; with -p it also tells each job, and why it is due"]
        if text.startswith("Complete log(s): "):
            return [f"talkies: the whole log: {text.removeprefix('Complete log(s): ')}"]
        if text in self._said:
            return []
        self._said.add(text)
        return [self._coloured(record.levelname.lower(), self.format(record))]

    def _plan(self, jobs: dict[str, int]) -> list[str]:
        """Return the numbers of jobs as a line; a dry run logs them twice."""
        if self._stages:
            return []
        self._stages = {rule: _Stage(count) for rule, count in jobs.items() if rule != "total"}
        counts = ", ".join(f"{rule} {stage.jobs}" for rule, stage in self._stages.items() if rule != "all")
        return [f"talkies: jobs: {counts}"] if counts else []

    def _begin(self, job: int, rule: str, name: str) -> None:
        stage = self._stages.setdefault(rule, _Stage(1))
        stage.began = stage.began or time.monotonic()
        stage.running.add(job)
        stage.failed.discard(job)
        self._jobs[job] = rule, shard_of(name)

    def _finish(self, job: int, *, failed: bool) -> list[str]:
        """Note that a job has ended; return a line about its stage if that was its last job."""
        rule, _ = self._jobs.get(job, ("", ""))
        stage = self._stages.get(rule)
        if stage is None or job not in stage.running:
            return []
        stage.running.discard(job)
        stage.done += not failed
        stage.failed |= {job} if failed else set()
        if rule in ("all", "verdict") or stage.done + len(stage.failed) < stage.jobs:
            return []
        ends = [f"{counted(stage.done, 'job')} done"] * bool(stage.done)
        ends += [f"{counted(len(stage.failed), 'job')} failed"] * bool(stage.failed)
        return [f"talkies: {rule}: {', '.join(ends)} in {stage.took}"]

    def _failure(self, told: dict[str, Any]) -> list[str]:
        """Return a line that says that a job has failed, how its command ended, and where its log is."""
        self._has_failed = True
        log = next(path for path in told["log"] if OUR_LOGS in path)
        found = next((ended for ended in self._ended if f"--log {log}" in ended[0]), None)
        if found:
            self._ended.remove(found)
        if told["rule_name"] == "verdict" and found and found[1] == "exit status 1":
            return []  # verdict fails so that the run does; it has said why
        _, shard = self._jobs.get(told["jobid"], ("", ALL))
        which = told["rule_name"] if shard == ALL else f"{told['rule_name']} {shard}"
        how = f" ({found[1]})" if found else ""
        text = f"talkies: error: {which} failed{how}: see {log}; what is finished stays: run snakemake again"
        return [self._coloured("error", text)]

    # --- words of the workers ---

    def _heard(self, *, ended: bool = False) -> list[str]:
        """Return what to show of the lines that workers have written since the last call."""
        if self._workers is None:
            return []
        try:
            with self._workers.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return []  # removed during the run
        self._read += len(new)
        *whole, self._rest = (self._rest + new).split(b"\n")
        if ended and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        texts = [line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2] for line in whole]
        for text in texts:
            snakemake_private.LOGGER.info(text, extra={"of_worker": True})
        return [line for text in texts for line in self._worker_line(text)]

    def _worker_line(self, text: str) -> Iterable[str]:
        if not text.startswith("talkies: "):
            return [text]  # not in our format, so unexpected: show it
        words = text.removeprefix("talkies: ")
        if words.startswith("error: stopped by SIG"):
            said, self._is_stopped = self._is_stopped, True
            return [] if said else ["talkies: stopped; what is finished stays: run snakemake again to go on"]
        for mark in ("warning", "error"):
            if words.startswith(f"{mark}: "):
                return self._once(mark, words.removeprefix(f"{mark}: "))
        self._words = words
        return [text] if SHOWN.fullmatch(text) else []

    def _once(self, mark: str | None, words: str) -> list[str]:
        """Return a warning or an error that has not been said before."""
        known = words.removeprefix("failed: ")
        if known in self._said:
            return []
        self._said.add(known)
        return [self._coloured(mark, f"talkies: {f'{mark}: ' if mark else ''}{words}")]

    # --- the screen ---

    def _coloured(self, mark: str | None, text: str) -> str:
        colour = COLOURS.get(mark or "")
        plain = not self.is_live or self.common_settings.nocolor or os.environ.get("NO_COLOR")
        return text if plain or not colour else f"{colour}{text}\033[0m"

    def _write(self, lines: list[str]) -> None:
        """Write lines above the live ones."""
        live = self._live() if self.is_live else []
        if not lines and not live and not self._drawn:
            return
        above = f"\033[{self._drawn}F\033[J" if self._drawn else ""
        # A live line must not wrap, or it would take two lines of the terminal.
        below = "\033[?7l" + "".join(f"{line}\n" for line in live) + "\033[?7h" if live else ""
        self._drawn = len(live)
        self.stream.write(above + "".join(f"{line}\n" for line in lines) + below)
        self.stream.flush()

    def _live(self) -> list[str]:
        """Return a line for each running stage, and one for the run."""
        lines = [
            f"talkies: {rule}: {stage.done} of {counted(stage.jobs, 'job')} done, "
            f"{len(stage.running)} at work, {stage.took}"
            for rule, stage in self._stages.items()
            if stage.running
        ]
        if lines:
            lines += [f"talkies: {self._words}"] * bool(self._words) + [self._progress] * bool(self._progress)
        return lines
