"""Commands for a run folder: make it, check it, show its state, verify and clean it, carry it to a cluster."""

from __future__ import annotations

import argparse
import logging
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import TalkiesError, counted, printable
from .arguments import Commands, count, progress_bar, seconds

log = logging.getLogger("talkies")


def add_commands(commands: Commands) -> None:
    """Add these commands."""
    new = commands.add(
        "init", init, "Make a run folder: config.yaml, folders for pictures and videos, profiles, Snakefile."
    )
    new.add_argument("folder", type=Path, metavar="DIR", help="new or there already; nothing in it is overwritten")
    new.add_argument("--examples", action="store_true", help="with the example pictures and videos in it")
    keys = commands.add("config", configuration, "Print a config.yaml with every key, its default and its meaning.")
    keys.add_argument("--schema", action="store_true", help="print the JSON schema that editors check it by")

    carry = commands.add(
        "stage", stage, "Carry this folder's run to a cluster and its results back, by rsync over ssh."
    )
    ways = carry.add_subparsers(dest="action", metavar="push|pull", required=True)
    there = ways.add_parser("push", help="carry config.yaml and what it names there, and from a clone the program")
    there.add_argument("place", metavar="HOST:DIR", help="or a folder of this machine")
    back = ways.add_parser("pull", help="carry the results here, and what the run remembers")
    back.add_argument("place", metavar="HOST:DIR", nargs="?", help="default: where the last push went")
    for each in (there, back):
        each.add_argument("-n", "--dry-run", action="store_true", help="tell what would be carried, change nothing")

    look = commands.add(
        "check",
        check,
        "Look at every picture and video before anything is animated; say what is wrong (exit code 1).",
        log=True,
    )
    look.add_argument("--threads", type=count, metavar="N", help="files looked at at once (default: one a core)")
    look.add_argument("--job", action="store_true", help=argparse.SUPPRESS)

    state = commands.add("status", status, "Say how far the run in this folder is, what failed, what is superfluous.")
    state.add_argument(
        "--watch", type=seconds, nargs="?", const=Fraction(10), metavar="S", help="again every S seconds (10)"
    )
    commands.add("verify", verify, "Check every film of the run against its record; snakemake makes wrong ones again.")
    again = commands.add("forget", forget, "Let the next snakemake make pairs again.")
    again.add_argument(
        "pairs", nargs="*", metavar="PAIR", help="driving/image[@variant], or driving/ for a whole video"
    )
    again.add_argument("--failed", action="store_true", help="all pairs that failed")
    tidy = commands.add("clean", clean, "Remove films whose pair is gone and what dead workers left.")
    tidy.add_argument("-n", "--dry-run", action="store_true")
    health = commands.add("doctor", doctor, "Say what is installed and working here, and what to do about what is not.")
    health.add_argument("--on", choices=("gpu", "cpu"), help="look at a compute node instead, by srun")


def init(chosen: argparse.Namespace) -> None:
    """Make a run folder; print what was made, what was there, and what comes next."""
    from ..run.folder import PICTURES, PROFILE_LINK, VIDEOS, lay_out

    made, kept = lay_out(chosen.folder, examples=chosen.examples)
    where = printable(chosen.folder)
    for name in made:
        print(f"made {where}/{name}")
    for name in kept:
        print(f"left as it was: {where}/{name}")
    if (chosen.folder / PROFILE_LINK).resolve() != (chosen.folder / "profiles" / PROFILE_LINK).resolve():
        log.warning("%s/%s is in the way: on a cluster say --profile profiles/slurm", where, PROFILE_LINK)
    print(f"Next: pictures into {where}/{PICTURES}, videos into {where}/{VIDEOS}; there, snakemake -n, then snakemake")


def configuration(chosen: argparse.Namespace) -> None:
    """Print every key of config.yaml and every column of the pairs table: default, meaning, kind of value."""
    from .. import config_docs

    print((config_docs.as_schema() if chosen.schema else config_docs.as_yaml()).rstrip())


def stage(chosen: argparse.Namespace) -> None:
    """Carry the run folder to a cluster, or its results back."""
    from ..cluster.carry import stage as carry

    carry(chosen.action, chosen.place, dry=chosen.dry_run)


def check(chosen: argparse.Namespace) -> int:
    """Check every picture and driving video before anything is animated; print what is wrong and what to do."""
    from ..machine.resources import available_threads
    from ..report import check_page
    from ..run import ledger
    from ..run.pairs import not_used
    from ..run.plan import Plan
    from ..run.planner import current_files, finish_page
    from ..stages import table
    from ..stages.check import FAILS, NOTE, examine

    plan = Plan.load(table) if chosen.job else current_files(table)
    workers = chosen.threads or available_threads()
    with progress_bar() as progress:
        progress.start(len(plan.sources) + len(plan.takes), "files")
        model = _network(plan)
        findings = examine(plan, model=model, workers=workers, advance=progress.advance)
    check_page.save(findings)
    better = plan.settings.better
    page = check_page.write_page(findings, Path(plan.settings.results), gallery=chosen.job, better=better)
    doubtful = sum(any(problem.level != NOTE for problem in finding.problems) for finding in findings)
    ledger.note(ledger.RUN, ledger.Checked(said=check_page.summary(findings), doubtful=doubtful))
    if chosen.job:  # in a run, the gallery and the verdict report what is wrong
        finish_page(plan, "check", plan.page_keys["check"])
        log.info("%s: %s", check_page.summary(findings), printable(page))
        return 0
    for line in check_page.table(findings):
        print(line)
    if unused := not_used(plan.settings, plan.pairs.values()):
        print(f"not used: {unused}")
    if better:
        print(better)
    print(f"{check_page.summary(findings)}: {printable(page)}")
    return int(any(problem.level == FAILS for finding in findings for problem in finding.problems))


def _network(plan: Any) -> Any:
    """Return the function that loads the plan's network on the processor; None if PyTorch is not installed."""
    from functools import cache
    from importlib.util import find_spec

    if find_spec("torch") is None:
        log.info("poses are not compared: PyTorch is not installed here (pip install 'talkies[engine]')")
        return None

    @cache
    def load() -> Any:
        from ..fomm import import_torch

        torch = import_torch()
        from ..fomm.kept import load_fast

        # The other cores check files: threads that wait for one would take more time than the network.
        torch.set_num_threads(1)
        model = plan.settings.model
        return load_fast(model.preset, model.checkpoint)

    return load


def status(chosen: argparse.Namespace) -> None:
    """Print the run's progress and speed, what failed and why, and which films are no longer wanted."""
    import time

    from ..run.planner import current_plan, is_running
    from ..run.progress import status_of
    from ..stages import table

    while True:
        plan, state = current_plan(table)
        for line in status_of(plan, state, running=is_running()):
            print(line)
        if chosen.watch is None or not is_running():
            return
        sys.stdout.flush()
        time.sleep(max(1, chosen.watch))


def verify(chosen: argparse.Namespace) -> None:
    """Compare every film with its record: digest, frames, sound."""
    from ..run import upkeep
    from ..run.planner import at_work, current_plan
    from ..stages import table

    plan, state = current_plan(table)
    wrong = upkeep.verify(plan, state, busy=bool(at_work()))
    for name, reason in wrong.items():
        print(f"{printable(name)}: {reason}")
    if wrong:
        raise TalkiesError(
            f"{len(wrong)} of {counted(len(plan.pairs), 'film')} {'is' if len(wrong) == 1 else 'are'} not as they "
            "should be: run snakemake again, which makes them"
        )
    print(f"{counted(len(plan.pairs), 'film')} {'is' if len(plan.pairs) == 1 else 'are'} whole")


def forget(chosen: argparse.Namespace) -> None:
    """Let the next run make pairs again."""
    from ..run import upkeep
    from ..run.planner import current_plan
    from ..stages import table

    if not chosen.pairs and not chosen.failed:
        raise TalkiesError("name the pairs to forget (driving/image, or driving/ for all of a video), or give --failed")
    names = upkeep.forget(*current_plan(table), chosen.pairs, failed=chosen.failed)
    print(f"{counted(len(names), 'pair')} forgotten: the next snakemake makes them again")


def clean(chosen: argparse.Namespace) -> None:
    """Remove films whose pair is gone, and leftovers of killed workers."""
    from ..run import upkeep
    from ..run.planner import current_plan
    from ..stages import table

    paths = upkeep.leftovers(current_plan(table)[0])
    for path in paths:
        print(printable(path))
    if not chosen.dry_run:
        upkeep.remove(paths)
    print(f"{counted(len(paths), 'file')} {'would be ' if chosen.dry_run else ''}removed")


def doctor(chosen: argparse.Namespace) -> int:
    """Print what is there, what is missing, and what to do."""
    if chosen.on:
        from ..cluster.doctor import examine_node

        return examine_node(chosen.on)
    from ..cluster.doctor import examine

    return examine(Path.cwd())
