"""Runs the doctor on a compute node, with the same requests as this run's jobs, and makes a small film there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import TalkiesError
from ..files import shipped
from ..machine import container
from ..run.folder import CONFIG
from ..run.inputs import folders_outside
from ..settings import Settings, SlurmKey, complete, load

OPTIONS = {
    "slurm_partition": "partition",
    "slurm_account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "clusters": "clusters",
    "gres": "gres",
    "cpus_per_task": "cpus-per-task",
    "cpus_per_gpu": "cpus-per-gpu",
    "mem_mb_per_cpu": "mem-per-cpu",
    "mem_mb": "mem",
}
"""Keys of `slurm` in config.yaml, with the same options of srun."""
LOOK = "talkies doctor; missing=$?; talkies-selftest && exit $missing"
"""The commands in the image: the film is tried even if the doctor finds faults."""
HERE = (
    "{talkies} doctor; missing=$?; made=$(mktemp -d); {talkies} animate {film} -o $made/film.mp4; failed=$?; "
    "rm -r $made; [ $failed = 0 ] && exit $missing"
)
"""The same if jobs run without an image."""
MINUTES = 10
MEMORY_MB = 4000


def examine_node(kind: str) -> int:
    """Run the doctor and a small film on a node like those of this run's jobs; return the exit code.

    kind: gpu or cpu, the keys of `slurm` in config.yaml. Raises TalkiesError if no job can be sent.
    """
    if not shutil.which("srun"):
        raise TalkiesError("there is no srun here: call this in a run folder on a cluster's login node")
    settings = load(CONFIG) if CONFIG.exists() else complete({})
    command = asked(kind, settings.slurm.of(kind)) + within(settings)
    print(f"$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode


def asked(kind: str, wanted: Mapping[SlurmKey, str | int]) -> list[str]:
    """Return the srun command with the same requests as a job of this kind."""
    words = ["srun", "--ntasks=1", "--nodes=1", f"--time={MINUTES}", "--job-name=talkies-doctor"]
    if "mem_mb" not in wanted and "mem_mb_per_cpu" not in wanted:
        words.append(f"--mem={MEMORY_MB}")
    words += [f"--{OPTIONS[key]}={value}" for key, value in wanted.items() if key in OPTIONS]
    gpus = wanted.get("gpu", int(kind == "gpu" and "gres" not in wanted))
    if gpus:
        model = f"{wanted['gpu_model']}:" if "gpu_model" in wanted else ""
        words.append(f"--gpus={model}{gpus}")
    return words


def within(settings: Settings) -> list[str]:
    """Return the command that runs the doctor and makes a film: in the jobs' image, or with this Python."""
    image = settings.container
    container.check_image(image, None)
    if image is None:
        talkies, shown = f"{shlex.quote(sys.executable)} -P -m talkies", shlex.quote(str(shipped("examples")))
        film = f"--source {shown}/images/ada.png --driving {shown}/driving/anna.mp4 --end 0.4"
        return ["sh", "-c", HERE.format(talkies=talkies, film=film)]
    command = container.runtime()
    if command is None:
        raise TalkiesError(
            "neither apptainer nor singularity is here for the image: load its module, or set container: null"
        )
    places = [str(folder) for folder in (Path.cwd(), *folders_outside(settings)) if folder.is_dir()]
    binds = [word for place in dict.fromkeys(places) for word in ("--bind", place)]
    # As with profiles/slurm: with the run folder and the GPU's driver.
    return [
        *(command, "--quiet", "exec", "--nv"),
        *(*binds, "--pwd", str(Path.cwd())),
        *(image, "sh", "-c", LOOK),
    ]
