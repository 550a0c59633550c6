"""A cluster with another scheduler than SLURM: a queue of a few lines behind Snakemake's executor cluster-generic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from run_folder import REPOSITORY, RunFolder, program
from sif import IMAGE, OTHER

pytestmark = pytest.mark.slow

SUBMIT = """#!/bin/sh
# submit MEMORY MINUTES THREADS GPUS SCRIPT: runs a script in the background, and prints its number
number=$(ls "$(dirname "$0")" | grep -c asked)
echo "$1 $2 $3 $4 $5" > "$0.$number.asked"
{ sh "$5"; echo $? > "$0.$number.ended"; } > "$0.$number.log" 2>&1 < /dev/null &
echo "$number"
"""
STATUS = """#!/bin/sh
ended="$(dirname "$0")/submit.$1.ended"
[ -e "$ended" ] || { echo running; exit; }
[ "$(cat "$ended")" = 0 ] && echo success || echo failed
"""
APPTAINER = """#!/bin/sh
# runs the command that an image's job runs, without the image
[ "$1" = --version ] && { echo apptainer version 1.4.5; exit; }
echo "$@" >> "$(dirname "$0")/used"
while [ "$1" != bash ]; do shift; done
exec "$@"
"""


class Queued(RunFolder):
    """A run folder whose jobs go to the queue."""

    @property
    def queue(self) -> Path:
        return self.path / "queue"

    def send(self, *more: str, image: bool = False, ok: bool = True) -> str:
        """Run Snakemake with the pattern for clusters, and this queue. image: jobs run in the image of config.yaml."""
        pattern = (REPOSITORY / "profiles/cluster/config.v8+.yaml").read_text().splitlines()
        profile = self.path / "far/config.v8+.yaml"
        profile.parent.mkdir(exist_ok=True)
        profile.write_text("\n".join(line for line in pattern if image or "apptainer" not in line))
        command = f"{self.queue}/submit {{resources.mem_mb}} {{resources.runtime}} {{threads}} {{resources.gpu}}"
        return self.snakemake(
            *("--profile", "far", "--executor", "cluster-generic", "--cluster-generic-submit-cmd", command),
            *("--cluster-generic-status-cmd", f"{self.queue}/status"),
            *("--seconds-between-status-checks", "1", "--latency-wait", "1", *more),
            ok=ok,
        )

    def asked(self, stage: str) -> list[list[str]]:
        """Return the memory, minutes, threads and GPUs of each job of a stage, in the order of their submission."""
        files = sorted(self.queue.glob("*.asked"), key=lambda path: int(path.name.split(".")[1]))
        asked = [path.read_text().split() for path in files]
        return [each[:4] for each in asked if f"snakejob.{stage}." in each[4]]


@pytest.fixture
def run(tmp_path: Path) -> Queued:
    RunFolder.create(tmp_path / "run", images=["red", "blue"], clips=["a"])
    made = Queued(tmp_path / "run")
    for name, script in (("submit", SUBMIT), ("status", STATUS)):
        program(made.queue / name, script)
    made.configure(engine="fomm", threads=7, gpus=1, slurm={"gpu": {"gpu": 1}})
    return made


def test_jobs_ask_by_standard_resources_and_a_killed_one_asks_for_more(run: Queued) -> None:
    """The first animating job is killed with its worker, and asks for more of both."""
    script = (run.queue / "submit").read_text()
    kill = 'case $5 in *.animate.*) [ -e "$0.once" ] || { touch "$0.once"; echo "exit 1" > "$5"; } ;; esac\n{ sh "$5"'
    (run.queue / "submit").write_text(script.replace('{ sh "$5"', kill))
    planned = run.send("-n", "-p")
    output = run.send()
    assert re.search(r"talkies: animate pairs-0001: job \d+ failed.*: it is sent again", output)
    first, second = run.asked("animate")
    assert re.search(rf"talkies shard animate \S+ --threads 7 --minutes {first[1]} ", planned), "it stops in time"
    assert first[2:] == second[2:] == ["7", "1"], "threads are not those of this machine"
    assert [2 * int(value) for value in first[:2]] == [int(value) for value in second[:2]]
    assert {tuple(each[2:]) for each in run.asked("cut")} == {("1", "0")}
    run.whole(["a/blue", "a/red"])


def test_only_the_nodes_can_run_the_image(run: Queued) -> None:
    """The jobs are told to use it, the pages are made without it, and its version is checked before any is sent."""
    settings = {"engine": "fomm", "gpus": 1, "slurm": {"gpu": {"gpu": 1}}, "model": {"device": "cpu"}}
    run.configure(container=f"docker://registry.example/talkies@sha256:{'0' * 64}", **settings)
    assert "is pulled where snakemake runs" in run.send(image=True, ok=False)
    run.configure(container="talkies.sif", **settings)
    (run.path / "talkies.sif").write_bytes(OTHER)
    node = program(run.path / "node/apptainer", APPTAINER).parent
    script = (run.queue / "submit").read_text()
    (run.queue / "submit").write_text(script.replace("{ sh", f"export PATH={node}:$PATH\n{{ sh"))
    assert "talkies.sif holds talkies 9.9" in run.send("-n", image=True)
    assert "talkies.sif holds talkies 9.9" in run.send(image=True, ok=False)
    assert not (node / "used").exists()
    (run.path / "talkies.sif").write_bytes(IMAGE)
    output = run.send(image=True)
    assert "neither apptainer nor singularity is here: only the nodes can run the image" in output
    run.whole(["a/blue", "a/red"])
    used = (node / "used").read_text()
    assert all(f"talkies shard {stage}" in used for stage in ("crop", "cut", "motion", "animate"))
    assert "talkies gallery" not in used


def test_a_job_that_can_not_be_sent_is_named(run: Queued) -> None:
    (run.queue / "submit").write_text("#!/bin/sh\necho queue is closed >&2\nexit 1\n")
    output = run.send("--retries", "0", ok=False)
    said = "Error submitting jobscript (exit code 1): mend that"
    lines = [line for line in output.splitlines() if line.startswith(("talkies: crop ", "talkies: cut "))]
    assert len(lines) == 2, "pictures and clips"
    assert all(said in line for line in lines)
