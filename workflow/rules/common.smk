# The run's plan, and the functions by which the rules ask it. No rule knows a path or a parameter of its own.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from talkies import config as settings_file
from talkies import plan as planning
from talkies.errors import TalkiesError


def make_plan():
    """Return the run's plan: made anew by the main process, read by the jobs it starts."""
    try:
        if not workflow.is_main_process:
            return planning.Plan.load()
        if planning.unlock_after_kill(Path(".snakemake/locks")):
            logger.info("talkies: the last run was killed; its lock of this folder is removed")
        settings = settings_file.complete(config)
        made = planning.make_plan(settings, planning.stored_plan())
        made.generation, missing = planning.check_films(made)
        logger.info(f"talkies: {planning.describe(made, missing)}")
        return made
    except TalkiesError as error:
        raise WorkflowError(str(error)) from None


# `talkies` is the one that belongs to this Python, whether or not its environment is activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))

PLAN = make_plan()
OF_PICTURE = PLAN.shard_of_picture()
OF_TAKE = PLAN.shard_of_take()
CHECKPOINT = PLAN.settings["model"]["checkpoint"]
THREADS = PLAN.settings["threads"] or workflow.cores or 1
GPU_JOB = {"mem_mb": 4000, **PLAN.settings["slurm"]["gpu"]}
CPU_JOB = {"mem_mb": 2000, **PLAN.settings["slurm"]["cpu"]}
PAGE = f"{PLAN.settings['results'].rstrip('/')}/index.html"
VERDICT = ".talkies/verdict.json"
# Wanted by name: Snakemake makes a missing file again only when it is a target or something new needs it.
FILMS_DONE = [f".talkies/receipts/remux/{shard}.json" for shard in PLAN.shards]


wildcard_constraints:
    shard=r"(pictures|clips|pairs)-\d+",


onstart:
    try:
        planning.start_run(PLAN)
    except TalkiesError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    planning.end_run()


onerror:
    planning.end_run()


def pair_preparations(wildcards):
    """Return the receipts of a shard's pictures."""
    shards = {OF_PICTURE[PLAN.pairs[name].image] for name in PLAN.shards[wildcards.shard]}
    return sorted(f".talkies/receipts/prepare/{shard}.json" for shard in shards)


def pair_motions(wildcards):
    """Return the receipts of the motions that move a shard's pictures."""
    shards = {OF_TAKE[PLAN.pairs[name].take] for name in PLAN.shards[wildcards.shard]}
    return sorted(f".talkies/receipts/motion/{shard}.json" for shard in shards)


def weights(wildcards):
    """Return the checkpoint's file; the demo network's is in the package."""
    return CHECKPOINT or []
