"""Measure how the workflow grows: dry runs of many pairs, probing, the look at finished films, jobs of many pairs.

    python benchmarks/workflow_scale.py            # all parts; the real runs take a quarter of an hour
    python benchmarks/workflow_scale.py dry-run    # one of: dry-run, million, films, tail, run

Prints Markdown tables (docs/performance.md). Pictures and videos are links to one of the examples. Planning looks not
inside pictures, and it probes each video separately because its name differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talkies import media
from talkies.run.inputs import Inputs
from talkies.run.ledger import Made, note
from talkies.run.plan import Plan
from talkies.run.planner import make_plan
from talkies.settings import complete
from talkies.stages import table

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = [
    str(Path(sys.executable).with_name("snakemake")),
    *("--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "profiles/default")),
]


@dataclass(frozen=True)
class Cost:
    """The cost of a command: wall and processor seconds, and the largest resident set of one process in MB."""

    wall: float
    cpu: float
    megabytes: float


def measure(command: list[str], folder: Path) -> Cost:
    """Run a command in a separate process. Raises RuntimeError with its last lines if it fails."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit {child.returncode}: {output.read()[-2000:]}")
    return Cost(time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def make_folder(folder: Path, pictures: int, clips: int, clip: Path | None = None, **config: Any) -> Path:
    """Make a run folder of links to one picture and one clip."""
    picture = sorted((ROOT / "examples/images").iterdir())[0]
    clip = clip or sorted((ROOT / "examples/driving").glob("*.mp4"))[0]
    for name, count, original in (("images", pictures, picture), ("driving", clips, clip)):
        (folder / name).mkdir(parents=True)
        first = shutil.copy(original, folder / f"{name}-original{original.suffix}")
        for k in range(count):
            os.link(first, folder / name / f"{name[0]}{k:05d}{original.suffix}")
    (folder / "config.yaml").write_text(json.dumps({"images": "images", "driving": "driving", **config}))
    return folder


def dry_runs(folder: Path) -> None:
    """Measure dry runs of 10,000 and 100,000 pairs, and the time that probing adds to the first run."""
    print("| pairs | pairs_per_job | jobs of pairs | CPU seconds | wall seconds | MB |\n|---|---|---|---|---|---|")
    probing = 0.0
    for pictures, clips, per_job in ((100, 100, 20), (1000, 100, 20), (1000, 100, None)):
        config = {} if per_job is None else {"pairs_per_job": per_job}
        run = make_folder(folder / f"dry-{pictures}-{per_job}", pictures, clips, **config)
        first = measure([*SNAKEMAKE, "-n", "--quiet"], run)
        cost = measure([*SNAKEMAKE, "-n", "--quiet"], run)
        probing = max(probing, first.wall - cost.wall)
        shards = len(planned(run).shards["pairs"])
        print(
            f"| {pictures * clips:,} | {per_job or 'as shipped'} | {shards:,} | {cost.cpu:.1f} | {cost.wall:.1f} "
            f"| {cost.megabytes:.0f} |",
            flush=True,
        )
    print(f"\nThe first dry run probes the 100 videos beside: {probing:.1f} s more, once.\n")


def planned(run: Path) -> Plan:
    """Return the plan of a run folder, as a dry run makes it."""
    before = Path.cwd()
    os.chdir(run)
    try:
        return make_plan(complete(json.loads(Path("config.yaml").read_text())), table)[0]
    finally:
        os.chdir(before)


def million(folder: Path) -> None:
    """Measure a million pairs, as ten run folders of 100,000 and as one."""
    print("| pairs | as | CPU seconds | wall seconds | MB |\n|---|---|---|---|---|")
    for pictures, name in ((1000, "one batch of ten, 1,000 pictures x 100 videos"), (10_000, "all in one run folder")):
        run = make_folder(folder / f"million-{pictures}", pictures, 100)
        measure([*SNAKEMAKE, "-n", "--quiet"], run)  # probes
        cost = measure([*SNAKEMAKE, "-n", "--quiet"], run)
        print(f"| {pictures * 100:,} | {name} | {cost.cpu:.1f} | {cost.wall:.1f} | {cost.megabytes:.0f} |", flush=True)
    print()


def films(folder: Path) -> None:
    """Measure the check for 100,000 finished films at a start. The films are empty files: only folders are listed."""
    run = make_folder(folder / "films", 1000, 100)
    made = finished(run)
    os.chdir(run)
    settings, times = complete(json.loads(Path("config.yaml").read_text())), []
    for _ in range(3):
        begun = time.monotonic()
        _, state = make_plan(settings, table)
        times.append(time.monotonic() - begun)
        assert len(state.done) == len(made.pairs)
    os.chdir(ROOT)
    print(f"Planning {len(made.pairs):,} finished films: {sorted(times)[1]:.1f} s (median of 3).\n")


def finished(run: Path, one: Path | None = None) -> Plan:
    """Return the plan of a run folder whose films are all there: empty files, or links to a film and its record."""
    made = planned(run)
    os.chdir(run)
    known = Inputs()
    known.read(file for _, _, file in made.files())
    known.save()
    made.contents = {file: known.content(file) or "" for _, _, file in made.files()}
    made.forget_keys()
    for shard, names in made.shards["pairs"].items():
        lines = []
        for name in names:
            film = Path("results", f"{name}.mp4")
            film.parent.mkdir(parents=True, exist_ok=True)
            if one is None:
                film.touch()
                film.with_suffix(".json").touch()
            else:
                os.link(one, film)
                os.link(one.with_suffix(".json"), film.with_suffix(".json"))
            status, key = film.stat(), made.key(made.last, name) or ""
            lines.append(
                Made(stage=made.last.name, item=name, key=key, size=status.st_size, mtime_ns=status.st_mtime_ns)
            )
        note(shard, *lines)
    made.save()
    os.chdir(ROOT)
    return made


def tail(folder: Path) -> None:
    """Measure the rules beside Snakemake at a run's end, with 10,000 films: links to one film and its record."""
    small = make_folder(folder / "one", 1, 1)
    measure([*SNAKEMAKE, "--quiet"], small)
    (one,) = (small / "results").glob("*/*.mp4")
    run = make_folder(folder / "tail", 100, 100)
    finished(run, one)
    print("| step | CPU seconds | wall seconds | MB |\n|---|---|---|---|")
    talkies = str(Path(sys.executable).with_name("talkies"))
    verdict = ["verdict", "--output", ".talkies/verdict.json"]
    for step in (["gallery"], ["gallery", "--report", ".talkies/report/gallery"], verdict):
        cost = measure([talkies, *step], run)
        print(f"| {' '.join(step[:2])} | {cost.cpu:.1f} | {cost.wall:.1f} | {cost.megabytes:.0f} |", flush=True)
    print()


def runs(folder: Path) -> None:
    """Measure real runs of a one-frame clip with the demo preset: 2,000 pairs, many per job, and 40, one per job."""
    clip = folder / "one-frame.mp4"
    original = sorted((ROOT / "examples/driving").glob("*.mp4"))[0]
    cut = ["-y", "-v", "error", "-i", str(original), "-frames:v", "1", "-an", str(clip)]
    subprocess.run([media.ffmpeg_path(), *cut], check=True)
    print("| pairs | pairs_per_job | wall seconds | pairs a second |\n|---|---|---|---|")
    rates = []
    for pictures, per_job in ((2000, None), (40, 1)):
        config = {} if per_job is None else {"pairs_per_job": per_job}
        run = make_folder(folder / f"run-{pictures}", pictures, 1, clip, crop="none", **config)
        cost = measure([*SNAKEMAKE, "--quiet"], run)
        made = len(list((run / "results").glob("*/*.mp4")))
        assert made == pictures, f"{made} films of {pictures}"
        rates.append(pictures / cost.wall)
        print(f"| {pictures:,} | {per_job or 'as shipped'} | {cost.wall:.0f} | {rates[-1]:.2f} |", flush=True)
    print(f"\nThe ratio of the rates: {rates[0] / rates[1]:.1f}\n")


PARTS = {"dry-run": dry_runs, "million": million, "films": films, "tail": tail, "run": runs}


def main() -> None:
    """Measure the given parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in args.parts or PARTS:
            print(f"### {name}\n", flush=True)
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
