# The run's plan, and the functions with which the rules use it.
import gc
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from talkies import stages
from talkies.cluster.jobs import resources
from talkies.cluster.session import Session
from talkies.errors import TalkiesError
from talkies.run.folder import done_path, shard_of
from talkies.run.snakemake_private import add_handlers

# A large plan has many objects that are never freed. Python's garbage collector would visit them again and again, which
# takes a fifth of a dry run's processor time.
gc.set_threshold(50_000, 20, 100)

# Use the `talkies` of this Python, even if its environment is not activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))

try:
    SESSION = Session(workflow, config)
except TalkiesError as error:
    raise WorkflowError(str(error)) from None

PLAN = SESSION.plan
THREADS = SESSION.threads
VERDICT = ".talkies/verdict.json"
SHOWN = ".talkies/report/gallery"
REPORTED = [SHOWN] if PLAN.settings.gallery.report else []


# Only jobs with something due are asked for, so a finished run asks for none.
CHECKED = [done_path("check", PLAN.pages["check"])] if PLAN.settings.check else []
GALLERY = done_path("gallery", PLAN.pages["gallery"])
WORK_DONE = [done_path(stage.name, name) for stage in PLAN.stages for name in PLAN.jobs(stage.name)]


wildcard_constraints:
    name=r"((pictures|clips|pairs)-\d+|all)\.[0-9a-f]+",


onstart:
    SESSION.start()


onsuccess:
    SESSION.end()


onerror:
    SESSION.end()


def needed(stage):
    """Return a stage's input function: the jobs that make what the due items of a shard are made from."""
    return lambda wildcards: [
        done_path(above, PLAN.name(shard)) for above, shard in PLAN.needs(stage, shard_of(wildcards.name))
    ]


def job(stage):
    """Return the resources of a stage's jobs."""
    return resources(PLAN, stage, SESSION.executor)


def image_to_animate(wildcards):
    """Return the image of an animating job; None if its engine is a program, which has its own image."""
    return None if PLAN.program_of(shard_of(wildcards.name)) else PLAN.settings.container
