"""Commands of the workflow's rules."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from pathlib import Path

from ..errors import TalkiesError, counted, printable
from .arguments import Commands, check_output, count, progress_bar

log = logging.getLogger("talkies")

STOP_SECONDS = 120
"""A worker stops this long before its job's time is over, and at the latest after three quarters of it."""


def add_commands(commands: Commands) -> None:
    """Add these commands."""
    work = commands.add("shard", shard, "Do one stage of a shard of the plan (the workflow's own command).", log=True)
    work.add_argument("stage")
    work.add_argument("name", metavar="NAME", help="of the job: SHARD.NONCE")
    work.add_argument("--threads", type=count, metavar="N")
    work.add_argument("--minutes", type=int, metavar="N", help="stop in order before they are over; 0: never")
    page = commands.add("gallery", gallery, "Write the gallery of the run in this folder.", log=True)
    page.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    public = commands.add(
        "publish",
        publish,
        "Make a new folder of what others may see: the gallery and its films, without private ones.",
        log=True,
    )
    public.add_argument("folder", type=Path, metavar="DIR", help="for a web server, or to give away")
    public.add_argument("--links", action="store_true", help=argparse.SUPPRESS)
    contact = commands.add("sheet", sheet, "Draw a contact sheet (PNG) of the films, without private ones.")
    contact.add_argument("out", type=Path, metavar="OUT.png")
    contact.add_argument("--side", type=count, default=192, metavar="N", help="pixels of a frame's side (192)")
    judge = commands.add(
        "verdict", verdict, "Fail, naming what could not be made (the workflow's last step).", log=True
    )
    judge.add_argument("--output", type=Path, required=True)


def shard(chosen: argparse.Namespace) -> None:
    """Do one stage of one shard of the plan."""
    from ..run.folder import shard_of
    from ..run.plan import Plan
    from ..stages import table
    from ..stages.animate import load_engine
    from ..stages.work import do_job

    plan = Plan.load(table)
    stage = plan.table.get(chosen.stage)
    if stage is None or shard_of(chosen.name) not in plan.shards[stage.of]:
        raise TalkiesError(
            f"{printable(chosen.stage)} {printable(chosen.name)}: no job of the plan: run snakemake again"
        )
    _stop_in_time(chosen.minutes)
    with progress_bar() as progress:
        do_job(stage, plan, chosen.name, engine=load_engine(plan, threads=chosen.threads), progress=progress)


def _stop_in_time(minutes: int | None) -> None:
    """Let this worker stop in order before its scheduler kills its job, so that the next attempt continues.

    minutes: what the job asked for; SLURM itself says more exactly when it ends. `sbatch --signal` does not do that:
    if SLURM tracks processes by cgroups, as most sites do, only the first process of a job step gets the signal. That
    is Snakemake, which lets its job run on.
    """
    ends = os.environ.get("SLURM_JOB_END_TIME")
    left = float(ends) - time.time() if ends else 60.0 * (minutes or 0)
    if left:
        signal.setitimer(signal.ITIMER_REAL, max(left - min(STOP_SECONDS, left / 4), 1))


def gallery(chosen: argparse.Namespace) -> None:
    """Write results/index.html from the plan and the films, or the folder of it for a report."""
    from ..report.check_page import check_line
    from ..report.entries import entries_of, measure
    from ..report.gallery import build_galleries
    from ..run.ledger import Ledger
    from ..run.plan import Plan
    from ..run.planner import finish_gallery
    from ..run.state import look
    from ..stages import table
    from ..stages.work import holding

    plan = Plan.load(table)
    results, wanted, ledger = plan.results, plan.settings.gallery, Ledger.read()
    state = look(plan, ledger)
    entries = entries_of(plan, state)
    with holding("gallery"):
        for page in build_galleries(
            results,
            entries,
            title=wanted.title,
            mosaic=wanted.mosaic,
            times=measure(plan, ledger),
            check=check_line(results),
            better=plan.settings.better if state.done else None,
        ):
            log.info("gallery: %s", printable(page))
        if chosen.job:
            finish_gallery(plan, state)


def publish(chosen: argparse.Namespace) -> None:
    """Make a folder of what others may see."""
    from ..report.entries import entries_of
    from ..report.gallery import publish_films
    from ..run.planner import current_plan
    from ..stages import table

    plan, state = current_plan(table)
    results, wanted, entries = plan.results, plan.settings.gallery, entries_of(plan, state)
    publish_films(results, entries, chosen.folder, title=wanted.title, mosaic=wanted.mosaic, links=chosen.links)
    films = [entry.private for entry in entries if entry.film]
    hidden = f", {sum(films)} private not among them" if any(films) else ""
    log.info("%s: %s%s", printable(chosen.folder), counted(len(films) - sum(films), "film"), hidden)


def sheet(chosen: argparse.Namespace) -> None:
    """Draw a contact sheet of the films."""
    from ..report.entries import entries_of
    from ..report.overviews import draw_sheet
    from ..run.planner import current_plan
    from ..stages import table

    entries = [entry for entry in entries_of(*current_plan(table)) if not entry.private]
    check_output(chosen.out, ".png", *(entry.source for entry in entries if entry.source))
    rows, columns = draw_sheet(entries, chosen.out, side=chosen.side)
    log.info("%s: %s x %s", printable(chosen.out), counted(rows, "picture"), counted(columns, "video"))


def verdict(chosen: argparse.Namespace) -> None:
    """End the workflow: fail, naming every pair that could not be made and why; else write the verdict."""
    from ..files import write_json
    from ..run.folder import GALLERY_PAGE
    from ..run.plan import Plan
    from ..run.progress import report_failures, some
    from ..run.state import look
    from ..stages import table

    plan = Plan.load(table)
    state = look(plan)
    report_failures(plan, state, "pair")
    if state.to_make:
        raise TalkiesError(f"{some(state.to_make)}: changed while the run was at work: run snakemake again")
    write_json(chosen.output, {"pairs": len(plan.pairs), "failed": 0})
    log.info("%s done: %s", counted(len(plan.pairs), "pair"), printable(plan.results / GALLERY_PAGE))
