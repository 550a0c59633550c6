# The run's plan, and the functions with which the rules use it.
import gc
import os
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from talkies.errors import TalkiesError
from talkies.cluster import scheduler
from talkies.machine import container as image
from talkies.machine import slurm
from talkies import stages
from talkies.run import console, estimate, folder, planner, programs, progress, snakemake_private
from talkies.run import plan as planning
from talkies.run.folder import shard_of
from talkies.settings import complete, given


def check_image(settings, pulled=None):
    """Check the image of the jobs; say what could not be checked. pulled: the copy of one with an address."""
    if unchecked := image.check_image(settings.container, pulled, gpus=scheduler.needs_gpu_image(settings)):
        if not LACKS_RUNTIME:
            logger.warning(f"talkies: {unchecked}")


def make_plan():
    """Return the plan, its state and the lack of disk space: the main process makes them, jobs read the plan."""
    try:
        if not snakemake_private.is_main_process(workflow):
            return planning.Plan.load(stages.table), None, None
        if planner.unlock_after_kill():
            logger.info("talkies: the last run was killed; its lock of this folder is removed")
        of_command_line = given(config, Path("config.yaml"))
        plan, state = planner.make_plan(complete(config), stages.table, on_cluster=ON_CLUSTER, given=of_command_line)
        if EXECUTOR == "slurm" and scheduler.asks_gpu(plan.settings):
            for megabytes in {estimate.gpu_megabytes(plan, shard) for shard in plan.shards["pairs"]}:
                slurm.check_gpus(megabytes, plan.settings.slurm.gpu.get("slurm_partition", ""))
        if IN_IMAGE and plan.settings.container is not None:
            image.check_bindable(plan.outside)
            check_image(plan.settings)
        logger.info(f"talkies: {estimate.describe(plan, state, on_cluster=ON_CLUSTER)}")
        lack = estimate.lack_of_room(plan, state)
        if lack is not None:
            logger.warning(f"talkies: {lack}")
        return plan, state, lack
    except TalkiesError as error:
        raise WorkflowError(str(error)) from None


# A large plan has many objects that are never freed. Python's garbage collector would visit them again and again, which
# takes a fifth of a dry run's processor time.
gc.set_threshold(50_000, 20, 100)

# Use the `talkies` of this Python, even if its environment is not activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))

EXECUTOR = snakemake_private.executor(workflow)
ON_CLUSTER = EXECUTOR is not None
ON_SLURM = EXECUTOR == "slurm" or (EXECUTOR == "node" and "SLURM_JOB_ID" in os.environ)
CONSOLE = console.of_run(calm=snakemake_private.is_main_process(workflow) and not ON_CLUSTER)
IN_IMAGE = snakemake_private.runs_in_image(workflow)
LACKS_RUNTIME = IN_IMAGE and image.runtime() is None

if LACKS_RUNTIME and snakemake_private.is_main_process(workflow):
    snakemake_private.leave_image_out(workflow)
    logger.info("talkies: neither apptainer nor singularity is here: enough for a dry run (-n), not for a run")

PLAN, STATE, LACK_OF_ROOM = make_plan()
MEMORY_MB = {"gpu": 4000, "cpu": 2000}
THREADS = PLAN.settings.threads or (4 if ON_CLUSTER else snakemake_private.cores(workflow)) or 1
RUNNING = []  # ends this run's progress lines
VERDICT = ".talkies/verdict.json"
SHOWN = ".talkies/report/gallery"
REPORTED = [SHOWN] if PLAN.settings.gallery.report else []


def done(stage, name):
    """Return the path of the empty file that says that a job's work is done."""
    return str(folder.done(stage, name))


def needed(stage):
    """Return a stage's input function: the jobs that make what the due items of a shard are made from."""
    return lambda wildcards: [
        done(above, PLAN.name(shard)) for above, shard in PLAN.needs(stage, shard_of(wildcards.name))
    ]


# Only jobs with something due are asked for, so a finished run asks for none.
CHECKED = [done("check", PLAN.pages["check"])] if PLAN.settings.check else []
GALLERY = done("gallery", PLAN.pages["gallery"])
WORK_DONE = [done(stage.name, name) for stage in PLAN.stages for name in PLAN.jobs(stage.name)]


def bind():
    """Bind the folders of config.yaml into the images of the jobs that this process starts."""
    if IN_IMAGE:
        image.bind(PLAN.outside, PLAN.settings.scratch, os.environ)


bind()  # on a cluster, each job reads this file again on its node


wildcard_constraints:
    name=r"((pictures|clips|pairs)-\d+|all)\.[0-9a-f]+",


onstart:
    try:
        check_means()
        planner.start_run(PLAN, STATE)
        if ON_CLUSTER:
            FAILURES.retries = snakemake_private.retries(workflow)
            logger.addHandler(FAILURES)
        how = {} if ON_CLUSTER else {"show": show}
        if CONSOLE:
            CONSOLE.follow(folder.WORKERS_LOG)
            how["often"] = CONSOLE.is_live
        RUNNING.append(progress.start(PLAN, STATE, say, say_progress, **how))
        bind()  # on this machine: the results' folder may be new
    except TalkiesError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    end_run()


onerror:
    end_run()


def say(line):
    """Print a line about the run between Snakemake's own lines."""
    logger.info(f"talkies: {line}")


FAILURES = scheduler.Failures(say, on_slurm=EXECUTOR == "slurm")
if ON_CLUSTER:
    snakemake_private.limit(workflow, "gpu", PLAN.settings.gpus)
    snakemake_private.allow_threads(workflow, THREADS)


def say_progress(line):
    """Print the run's progress."""
    logger.info(f"talkies: {line}", extra={"progress": True})


def show():
    """Write the gallery of the finished films during a run on this machine."""
    command = ["nice", "talkies", "gallery", "--going", "--log", ".talkies/logs/gallery-going.log"]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end_run():
    """Print the run's results."""
    planner.end_run()
    progress.note_failures((failure.stage, failure.shard, failure.why) for failure in FAILURES.final)
    while RUNNING:
        for line in progress.end(PLAN, RUNNING.pop()):
            say(line)


def check_means():
    """Check the disk space, and the jobs' image and its version, before any job is sent."""
    if LACK_OF_ROOM and LACK_OF_ROOM.certain:
        raise TalkiesError(str(LACK_OF_ROOM))
    if LACKS_RUNTIME:
        raise TalkiesError(
            "jobs are to run in an image, and neither apptainer nor singularity is here: load its module, or start "
            "snakemake on a node that has it"
        )
    programs.fetch_images(PLAN.settings.programs)
    if IN_IMAGE and image.ADDRESS.match(PLAN.settings.container or ""):
        check_image(PLAN.settings, next(iter(snakemake_private.pulled_images(workflow)), None))


def image_to_animate(wildcards):
    """Return the image of an animating job; None if its engine is a program, which has its own image."""
    return None if PLAN.by_program(shard_of(wildcards.name)) else PLAN.settings.container


def job(stage, kind="cpu"):
    """Return the resources of a stage's jobs: those of config.yaml for this kind (gpu, cpu), the rest by estimate."""
    asked = PLAN.settings.slurm.of(kind)
    usual = {"runtime": walltime(stage, kind)}
    if "mem_mb_per_cpu" not in asked:
        usual["mem_mb"] = memory(stage, kind)
    if kind == "gpu":
        if "gres" not in asked and (scheduler.asks_gpu(PLAN.settings) if ON_CLUSTER else estimate.has_gpu()):
            usual["gpu"] = 1
    more = {"slurm_extra": options(kind)} if ON_SLURM else {}
    return usual | asked | more


def memory(stage, kind):
    """Return the resource function of a job's memory: more after each attempt that lacked memory."""

    def megabytes(wildcards):
        wanted = MEMORY_MB[kind] * FAILURES.more(stage, shard_of(wildcards.name), scheduler.MORE_MEMORY)
        return min(wanted, limits(kind).megabytes or wanted)

    return megabytes


def walltime(stage, kind):
    """Return the resource function of a job's walltime in minutes: an estimate, more after each attempt that ran out."""

    def minutes(wildcards):
        expected = estimate.walltime(PLAN, stage, shard_of_job(wildcards))
        wanted = expected * FAILURES.more(stage, shard_of(wildcards.name), scheduler.MORE_TIME)
        return min(wanted, limits(kind).minutes or wanted)

    return minutes


def options(kind):
    """Return the resource function of other sbatch options: those of config.yaml, and excluded nodes."""
    asked = str(PLAN.settings.slurm.of(kind).get("slurm_extra", ""))

    def extra(wildcards):
        shard = shard_of_job(wildcards)
        if kind == "cpu" or EXECUTOR == "node" or "--exclude" in asked:
            return asked
        small = slurm.nodes_with_less(estimate.gpu_megabytes(PLAN, shard), partitions(kind))
        return f"{asked} --exclude={','.join(small)}".strip() if small else asked

    return extra


def limits(kind):
    """Return the limits for jobs of a kind: those of its partitions in config.yaml."""
    if EXECUTOR != "slurm":
        return slurm.Limits()
    return slurm.limits(partitions(kind))


def partitions(kind):
    """Return the partitions in config.yaml for jobs of a kind, separated by commas; empty: the default one."""
    return PLAN.settings.slurm.of(kind).get("slurm_partition", "")


def shard_of_job(wildcards):
    """Return the shard of a job; None if it is about the whole run."""
    shard = shard_of(wildcards.get("name", planner.ALL))
    return None if shard == planner.ALL else shard
