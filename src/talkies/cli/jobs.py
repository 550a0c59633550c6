"""Commands of the workflow's rules."""

from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path

from ..errors import TalkiesError, counted, printable
from ..machine import slurm
from .arguments import Commands, count, progress_bar

log = logging.getLogger("talkies")


def add_commands(commands: Commands) -> None:
    """Add these commands."""
    work = commands.add("shard", shard, "Do one stage of a shard of the plan (the workflow's own command).")
    work.add_argument("stage", choices=["prepare", "motion", "animate", "show", "remux"])
    work.add_argument("receipt", metavar="RECEIPT", help="the shard and the name of its receipt: SHARD.DUE")
    work.add_argument("--device", choices=["auto", "cpu", "cuda"], help="default: as config.yaml says")
    work.add_argument("--threads", type=count, metavar="N")
    work.add_argument("--scratch", metavar="DIR", help="fast disk of this machine (default: as config.yaml says)")
    work.add_argument("--log", type=Path)
    page = commands.add("gallery", gallery, "Write the gallery of the run in this folder.")
    page.add_argument(
        "--report", type=Path, metavar="DIR", help="lay out in a new folder, as links, what the page for others shows"
    )
    page.add_argument("--going", action="store_true", help="say on the page that the run goes on")
    page.add_argument("--receipt", help=argparse.SUPPRESS)
    page.add_argument("--log", type=Path)
    judge = commands.add("verdict", verdict, "Fail, naming what could not be made (the workflow's last step).")
    judge.add_argument("--receipt", type=Path, required=True)
    judge.add_argument("--log", type=Path)


def shard(chosen: argparse.Namespace) -> None:
    """Do one stage of one shard of the plan, and write its receipt."""
    from importlib import import_module

    from msgspec.structs import replace

    from ..run.plan import Plan
    from ..run.receipts import NAME, shard_of
    from ..stages import remux
    from ..stages.animate import load_engine
    from ..stages.work import work

    plan = Plan.load()
    plan.settings = replace(plan.settings, scratch=chosen.scratch or plan.settings.scratch)
    known = plan.picture_shards | plan.take_shards if chosen.stage in ("prepare", "motion") else plan.pair_shards
    if not NAME.fullmatch(chosen.receipt) or shard_of(chosen.receipt) not in known:
        raise TalkiesError(f"{printable(chosen.receipt)}: no shard of the plan; run snakemake again")
    stage = import_module(f"..stages.{chosen.stage}", __package__).STAGE
    _stop_in_time()
    engine = load_engine(plan, device=chosen.device, threads=chosen.threads)
    with progress_bar() as progress:
        work(stage, plan, chosen.receipt, engine=engine, progress=progress)
        if chosen.stage == "animate" and plan.joined:
            work(remux.STAGE, plan, plan.receipt("remux", shard_of(chosen.receipt)), progress=progress)


def _stop_in_time() -> None:
    """Let this worker stop in order before SLURM kills its job, so that the next attempt continues.

    `sbatch --signal` does not do that: if SLURM tracks processes by cgroups, as most sites do, only the first process
    of a job step gets the signal. That is Snakemake, which lets its job run on.
    """
    left = slurm.seconds_left()
    if left is not None:
        signal.setitimer(signal.ITIMER_REAL, max(left - min(slurm.STOP_SECONDS, left / 4), 1))


def gallery(chosen: argparse.Namespace) -> None:
    """Write results/index.html from the plan and the films, or the folder of it for a report."""
    from ..report.check_page import check_line
    from ..report.entries import entries_of, times_of
    from ..report.gallery import build_galleries, lay_out_report
    from ..run.asks import Specs
    from ..run.folder import Folder
    from ..run.plan import Plan
    from ..run.progress import Watch, status_of
    from ..run.receipts import ALL, Receipts, answer_all
    from ..run.state import look
    from ..stages.prepare import mend_shown
    from ..stages.work import holding

    plan = Plan.load()
    results, wanted = Folder.of(plan).results, plan.settings.gallery
    state = look(plan, Receipts(), "none")
    mend_shown(plan, [name for name in plan.pairs if name not in state.failed])
    entries = entries_of(plan, state)
    if chosen.report:
        lay_out_report(results, entries, chosen.report)
        return
    with holding("gallery"):  # the page of an active run is written repeatedly
        if chosen.going and Folder.receipt("gallery", plan.receipt("gallery", ALL)).exists():
            return  # the run's final page exists
        going = None
        if chosen.going:
            now = status_of(plan, state, Watch(plan, state.to_make).look(), running=True)
            going = f"The run goes on: {now.count}. Reload this page to see more."
        for page in build_galleries(
            results,
            entries,
            title=wanted.title,
            mosaic=None if going else wanted.mosaic,
            times=times_of(plan),
            check=check_line(results),
            going=going,
        ):
            log.info("gallery: %s", printable(page))
        if chosen.receipt:
            answer_all("gallery", chosen.receipt, Specs(plan).gallery(plan.receipts))


def verdict(chosen: argparse.Namespace) -> None:
    """End the workflow: fail, naming every pair that could not be made and why; else write the verdict."""
    from ..files import write_json
    from ..run.folder import GALLERY_PAGE, Folder
    from ..run.plan import Plan
    from ..run.progress import by_reason, some
    from ..run.receipts import Receipts
    from ..run.state import look

    plan = Plan.load()
    state = look(plan, Receipts(), "none")
    if state.failed:
        for reason, names in by_reason(state.failed).items():
            log.error("%s (%s: %s)", reason, counted(len(names), "pair"), some(names))
        raise TalkiesError(
            f"{len(state.failed)} of {counted(len(plan.pairs), 'pair')} could not be made, for the reasons above; "
            f"the others are done. Mend or remove the files and run again"
        )
    if state.to_make:
        raise TalkiesError(f"{some(state.to_make)}: changed while the run was at work: run snakemake again")
    write_json(chosen.receipt, {"pairs": len(plan.pairs), "failed": 0})
    log.info("%s done: %s", counted(len(plan.pairs), "pair"), printable(Folder.of(plan).results / GALLERY_PAGE))
