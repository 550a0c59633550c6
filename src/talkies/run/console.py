"""What a person sees of a run on this machine: its plan, its films, its progress, each warning once, and the summary.

Snakemake's own lines, several for each job, go into its log file only, and the workers' lines into their logs. This
is a logger plugin of Snakemake, which profiles/default chooses. With `--verbose`, and on a cluster, it prints all.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

from . import snakemake_private
from .folder import LOGS, shard_of
from .planner import ALL

TICK_SECONDS = 0.5
"""Seconds between two reads of the workers' messages."""
COLOURS = {"error": "\033[31m", "warning": "\033[33m"}

NOISE = re.compile(
    r"Assuming unrestricted shared filesystem|Building DAG of jobs|Using shell: |Provided (cores|resources): "
    r"|Rules claiming more threads|(Singularity containers|Conda environments): ignored|Group jobs: inactive"
    r"|Select jobs to execute|Execute \d+ jobs|Activating singularity image|Elapsed time: |Config file .* is extended"
    r"|Reasons:\n|Shutting down, this might|Some jobs were triggered by prov|Rules with provenance triggered"
    r"|\d+ jobs have (missing|outdated) provenance|WorkflowError:\nAt least one job did not complete"
)
"""Snakemake's lines of no kind of their own that a person does not need. Unknown lines are shown."""
SHOWN = re.compile(r"talkies: (.+: done, sound: .+|.*check\.html|(waiting: |breaking the lock |pulling ).+)")
"""Messages of workers that are shown though nothing is wrong: a finished film, the check page, a wait."""
OURS = re.compile(
    r'(?:(?:TalkiesError|InputError) in file ".*"|WorkflowError in file ".*/workflow/rules/common\.smk"), line \d+:\n'
    r'(?P<said>.*)(?:\n  File ".*)*'
)
"""An error of ours as Snakemake prints it: with its place in the workflow, which does not help the user."""
ENDED = re.compile(
    r"""RuleException:\nCalledProcessError in file ".*", line \d+:\nCommand '.* --log (?P<log>\.talkies/logs/\S+).*' """
    r"(?:returned non-zero (?P<status>exit status \d+)|died with <Signals\.(?P<signal>\w+): \d+>)\.\s*",
    re.DOTALL,
)
"""How the command of a job of ours ended."""

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


class Console(LogHandlerBase):
    """Writes lines, and on a terminal below them two live ones: the workers' last words, and the run's progress."""

    has_filter = has_formatter = needs_rulegraph = writes_to_file = False
    """Snakemake adds its filter, so that `--quiet` works, and its formatter, for messages shown unchanged."""
    writes_to_stream = True

    def __post_init__(self) -> None:
        global current
        current = self
        settings = self.common_settings
        self.stream = sys.stdout if settings.stdout else sys.stderr
        self.is_plain = settings.verbose or settings.debug_dag or settings.printshellcmds
        self._failed: set[str] = set()  # the logs of failed jobs of ours
        self._is_stopped = False
        self._said: set[str] = set()
        self._words = self._progress = ""  # the live lines
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
                self._write(self._heard(ended=True))
                self._words = self._progress = ""
                self._write([])
        super().close()

    # --- records of Snakemake ---

    def _lines(self, record: logging.LogRecord) -> list[str]:
        told: Any = record.__dict__
        kind = told.get("event")
        if kind is None or kind == "error":
            return self._text(record)
        if kind == "run_info":  # a dry run logs it twice
            counts = ", ".join(f"{rule} {jobs}" for rule, jobs in told["stats"].items() if rule not in ("total", "all"))
            return self._once(None, f"jobs: {counts}") if counts else []
        if kind == "job_error" and (self._is_stopped or self._failed.intersection(told["log"])):
            return [self.format(record)] if self.common_settings.show_failed_logs else []
        return [self.format(record)] if kind in ("job_error", "group_error") else []

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
        if match := ENDED.fullmatch(text):
            return self._failure(match["log"], match["status"] or f"died with {match['signal']}")
        if NOISE.match(text) or (
            text.startswith("Exiting because a job execution failed") and (self._failed or self._is_stopped)
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

    def _failure(self, log: str, how: str) -> list[str]:
        """Return a line that says that a job has failed, how its command ended, and where its log is."""
        self._failed.add(log)
        stage, _, name = log.removeprefix(f"{LOGS}/").removesuffix(".log").partition("/")
        if self._is_stopped or (stage == "verdict" and how == "exit status 1"):
            return []  # verdict fails so that the run does; it has said why
        which = f"{stage} {shard_of(name)}".removesuffix(f" {ALL}").strip()
        text = f"talkies: error: {which} failed ({how}): see {log}; what is finished stays: run snakemake again"
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
        self._words = text
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
        live = [line for line in (self._words, self._progress) if line and self.is_live]
        if not lines and not live and not self._drawn:
            return
        above = f"\033[{self._drawn}F\033[J" if self._drawn else ""
        # A live line must not wrap, or it would take two lines of the terminal.
        below = "\033[?7l" + "".join(f"{line}\n" for line in live) + "\033[?7h" if live else ""
        self._drawn = len(live)
        self.stream.write(above + "".join(f"{line}\n" for line in lines) + below)
        self.stream.flush()
