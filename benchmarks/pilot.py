"""Split the wall time of a small run on the test cluster: planning, queue, start of jobs, work, tail.

python benchmarks/pilot.py [--pictures 3] [--clips 1] [--frames 100] [--source CLONE]

It needs the same as scripts/testcluster (root, Debian's packages). The queue there is empty, so the queue's share is
only the time that SLURM needs to start a job. At a busy site each wave of jobs waits again, so the number of waves
matters too. --source runs a clone of another commit with its own tests/, to compare.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOOK_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--source", type=Path, default=ROOT)
    args = parser.parse_args()
    sys.path[:0] = [str(args.source / "tests"), str(args.source / "src")]
    from cluster_folder import Cluster, ClusterRun, testcluster

    folder = Path(tempfile.mkdtemp(prefix="talkies-pilot-"))
    cluster = Cluster(folder)
    cluster.up()
    try:
        cluster.install()
        run = ClusterRun.clone(cluster, "pilot", args.pictures, args.clips, args.frames, threads=1, gpus=2)
        split(cluster, run)
    finally:
        testcluster.bring_down(folder)


def split(cluster, run) -> None:
    """Run the literal command; print the wall time of each phase, and the jobs seen in the queue."""
    began = time.time()
    process = run.start("snakemake", "--profile", "slurm")
    samples: list[tuple[float, str, frozenset[str]]] = []
    jobs: dict[str, str] = {}
    while process.poll() is None:
        listed = [job for job in cluster.jobs() if job["user"] == "ada"]
        jobs |= {job["id"]: job["name"] for job in listed}
        running = {job["id"] for job in listed if job["state"] == "R"}
        waiting = {job["id"] for job in listed if job["state"] == "PD"}
        samples.append((time.time(), "running" if running else "queue" if waiting else "snakemake", frozenset(running)))
        time.sleep(LOOK_SECONDS)
    ended = time.time()
    output = process.communicate()[0]
    assert process.returncode == 0, output[-4000:]
    lines = [json.loads(line) for path in (run.path / ".talkies/ledger").glob("*.jsonl") for line in path.open()]
    whole = max(line["time"] for line in lines if line.get("stage") == "remux")
    works = sorted(line["time"] for line in lines)
    spent: Counter[str] = Counter()
    edges = [*(moment for moment, _, _ in samples[1:]), ended]
    first_work: dict[frozenset[str], bool] = {}
    for (moment, phase, running), end in zip(samples, edges, strict=True):
        if moment >= whole:
            phase = "tail"
        elif phase == "running":
            # Work begins with the first line that a worker of these jobs writes; before that, they start.
            begun = next(at for at, _, these in samples if these & running)
            first_work[running] = first_work.get(running, False) or any(begun <= at <= moment for at in works)
            phase = "work" if first_work[running] else "start"
        spent[phase] += end - moment
    spent["snakemake"] += samples[0][0] - began
    waves = [phase for phase, _ in groupby(phase for _, phase, _ in samples)].count("running")
    stages = Counter(name.partition("_wildcards")[0].removeprefix("rule_").partition(":")[0] for name in jobs.values())
    print("| phase | seconds |\n|---|---|")
    for phase in ("snakemake", "queue", "start", "work", "tail"):
        print(f"| {phase} | {spent[phase]:.0f} |")
    print(f"| all | {ended - began:.0f} |")
    print(f"\n{len(jobs)} jobs in {waves} waves: {dict(stages)}")


if __name__ == "__main__":
    main()
