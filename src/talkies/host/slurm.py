"""What SLURM tells: the limits of its partitions, this run's jobs, and why a job ended.

Everything is asked by SLURM's own commands, in one call and with a time limit; where there is none of them, or no
answer, nothing is known.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from ..errors import TalkiesError, counted, printable

LOGS = Path(".snakemake/slurm_logs")
"""Where the executor keeps the output of jobs: rule_STAGE/RECEIPT/JOB.log. Those of jobs that succeeded are removed."""
GPU_GIGABYTES = {
    card: size
    for size, cards in {
        6: "a2000",
        8: "m60 p4 gtx1070 gtx1080 rtx2070 rtx2080 rtx3070",
        10: "rtx3080",
        11: "gtx1080ti rtx2080ti 2080ti",
        12: "k80 m40 p100 titanv titanx rtx4070",
        16: "v100 t4 a2 a16 a4000 rtx4080 rtx5000 rtx5080",
        20: "a4500",
        24: "p40 a10 a30 l4 a5000 rtx3090 rtx4090 rtx6000",
        32: "rtx5090",
        40: "a100",
        48: "a40 l40 l40s a6000 rtx8000",
        80: "h100",
        96: "h20 gh200 rtxpro6000",
        141: "h200",
        180: "b200 gb200",
    }.items()
    for card in cards.split()
}
"""Memory of cards by the names that sites give their types, from NVIDIA's data sheets."""
ANSWER_SECONDS = 20
TAIL_BYTES = 20_000
"""Of a log that are read: what ended the job stands last."""


class Cause(StrEnum):
    """Why a job ended without its receipt."""

    MEMORY = "it took more memory than it had asked for"
    TIME = "its time was over"
    NODE = "its node failed"
    PREEMPTED = "it had to make room for another job"
    CANCELLED = "it was cancelled"
    KILLED = "its worker was killed, and nothing says why: most often for memory"
    ITSELF = "it failed"
    UNKNOWN = "it ended without a word"


AGAIN = "finished films stay, and it is sent again, or start snakemake again"
REMEDIES = {
    Cause.MEMORY: "the next attempt asks for more (mem_mb under slurm in config.yaml sets it)",
    Cause.TIME: "finished films stay, and the next attempt asks for more time (runtime under slurm sets it)",
    Cause.NODE: AGAIN,
    Cause.PREEMPTED: AGAIN,
    Cause.CANCELLED: AGAIN,
    Cause.KILLED: "the next attempt asks for more memory",
    Cause.ITSELF: "mend that; " + AGAIN,
    Cause.UNKNOWN: "the admin may know more; " + AGAIN,
}

STATES = {
    "OUT_OF_MEMORY": Cause.MEMORY,
    "TIMEOUT": Cause.TIME,
    "DEADLINE": Cause.TIME,
    "NODE_FAIL": Cause.NODE,
    "BOOT_FAIL": Cause.NODE,
    "PREEMPTED": Cause.PREEMPTED,
    "CANCELLED": Cause.CANCELLED,
}
"""Of `scontrol show job`."""

# What slurmstepd, srun and the worker write into a job's log, in the order in which they count.
WORDS = (
    (Cause.MEMORY, r"^slurmstepd.*(?:exceeded .*memory limit|oom[-_ ]?kill|out[- ]of[- ]memory)"),
    (Cause.TIME, r"^(?:slurmstepd|srun).*DUE TO TIME LIMIT"),
    (Cause.NODE, r"^(?:slurmstepd|srun).*DUE TO NODE FAIL"),
    (Cause.PREEMPTED, r"^(?:slurmstepd|srun).*DUE TO (?:JOB )?(?:PREEMPTION|REQUEUE)"),
    (Cause.CANCELLED, r"^slurmstepd.*\*\*\* JOB \d+ ON .* CANCELLED AT"),
    (Cause.TIME, r"^talkies: error: stopped before the job's time was over"),
    (Cause.CANCELLED, r"^talkies: error: stopped by SIGTERM"),
    (Cause.ITSELF, r"^talkies: error: (?P<said>.*)"),
    # Snakemake's words; a worker that ends by itself has said why.
    (Cause.KILLED, r"^\s*\(command exited with non-zero exit code\)"),
)


@dataclass(frozen=True)
class Failure:
    """A job that ended without its receipt. said: the worker's own words, where it had some."""

    stage: str
    receipt: str
    job: int
    cause: Cause
    said: str = ""

    def __str__(self) -> str:
        shard = self.receipt.partition(".")[0]
        why = self.said or self.cause.value
        return f"{self.stage} {shard}: SLURM job {self.job} failed: {printable(why)}: {REMEDIES[self.cause]}"


def seconds_left() -> float | None:
    """Return how much of the time of the SLURM job that this process is in is left; None outside of one."""
    try:
        return float(os.environ["SLURM_JOB_END_TIME"]) - time.time()
    except (KeyError, ValueError):
        return None


def cause_of(log: str) -> tuple[Cause, str] | None:
    """Return why a job ended, by its log, and what its worker said of it; None where nothing tells."""
    for cause, pattern in WORDS:
        if found := list(re.finditer(pattern, log, re.MULTILINE | re.IGNORECASE)):
            return cause, found[-1].groupdict().get("said") or ""
    return None


def failures(stage: str = "*", receipt: str = "*", *, since: float = 0.0, ask: bool = True) -> list[Failure]:
    """Return the jobs that have failed, by their logs, the oldest first; jobs that are not known to have ended are not.

    since: logs written after this time (seconds since 1970). ask: SLURM too, about a job whose log says nothing.
    """
    found = []
    for path in LOGS.glob(f"rule_{stage}/{receipt}/*.log"):
        with suppress(OSError, ValueError):
            if path.stat().st_mtime < since:
                continue
            job, tail = int(path.stem), _tail(path)
            cause, said = cause_of(tail) or (_state(job) if ask else None, "")
            if cause is not None:
                found.append(Failure(path.parts[-3].removeprefix("rule_"), path.parts[-2], job, cause, said))
    return sorted(found, key=lambda failure: failure.job)


class Failures:
    """The jobs of a run that fail: each is told once."""

    def __init__(self) -> None:
        self._since = time.time()
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def news(self, *, ask: bool = False) -> list[str]:
        """Return a line for each job that has failed since the last call, or, at first, since this was made.

        ask: SLURM too, about jobs whose logs say nothing, when none is at work any more.
        """
        with self._lock:
            new = [each for each in failures(since=self._since, ask=ask) if each.job not in self._told]
            self._told |= {failure.job for failure in new}
        return list(map(str, new))


def causes(stage: str, shard: str, attempts: int) -> Counter[Cause]:
    """Return why the last so many attempts of a shard's job have failed; shard "": of a job about the whole run."""
    if not attempts:
        return Counter()
    found = failures(stage, f"{shard}.*") if shard else failures(stage)
    return Counter(failure.cause for failure in found[-attempts:])


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def _state(job: int) -> Cause | None:
    """Return what SLURM says of a job that has ended; None where it has not, or SLURM no longer knows it."""
    state = re.search(r"\bJobState=(\w+)", _ask("scontrol", "show", "job", "--oneliner", str(job)))
    if state is None or state[1] in ("RUNNING", "PENDING", "COMPLETING", "COMPLETED", "CONFIGURING", "SUSPENDED"):
        return None
    return STATES.get(state[1], Cause.UNKNOWN)


def _ask(*command: str) -> str:
    """Return what a command of SLURM's prints; nothing where it is not there, fails, or does not answer in time."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS
        )
        return done.stdout if done.returncode == 0 else ""
    return ""


# --- limits ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The most that a job may ask for in some partitions, or None where there is no limit or it is not known."""

    minutes: int | None = None
    megabytes: int | None = None


@cache
def limits(partitions: str = "") -> Limits:
    """Return the limits of partitions, named with commas between them, or of the default one: the largest of them.

    By `sinfo`: the time limit of the partition, and the memory of its largest node.
    """
    times: list[int | None] = []
    memories = []
    for line in _of_partitions("%l|%m", partitions):
        time, _, memory = line.partition("|")
        times.append(minutes_of(time))
        memories.append(int(re.sub(r"\D", "", memory) or 0))
    longest = None if None in times else max((time for time in times if time is not None), default=None)
    return Limits(longest, max(memories, default=0) or None)


def _of_partitions(wanted: str, partitions: str, *, each_node: bool = False) -> Iterator[str]:
    """Yield what sinfo tells, in its own format, of partitions: those named, else the default one."""
    names = {name for name in partitions.split(",") if name}
    nodes = ["--Node"] if each_node else []
    for line in _ask("sinfo", "--noheader", "--exact", *nodes, f"--format=%P|{wanted}").splitlines():
        name, _, rest = line.strip().partition("|")
        if (name.rstrip("*") in names) if names else name.endswith("*"):
            yield rest


@cache
def _gpus_of_nodes(partitions: str) -> dict[str, list[int | None]]:
    """Return the memory (MB) of the kinds of GPU of each node that has any, by sinfo; None: its type does not tell."""
    found: dict[str, list[int | None]] = {}
    for line in _of_partitions("%N|%G", partitions, each_node=True):
        node, _, resources = line.partition("|")
        for resource in re.sub(r"\([^)]*\)", "", resources).split(","):
            name, *kind = resource.split(":")
            if name == "gpu":
                found.setdefault(node, []).append(gpu_megabytes(kind[0]) if len(kind) > 1 else None)
    return found


def nodes_with_less(megabytes: int, partitions: str = "") -> list[str]:
    """Return the nodes of partitions (as for `limits`) all of whose GPUs have less memory, by their types' names."""
    nodes = _gpus_of_nodes(partitions)
    return sorted(node for node, sizes in nodes.items() if all(size is not None and size < megabytes for size in sizes))


def check_gpus(megabytes: int, partitions: str = "") -> None:
    """Raise TalkiesError where no node of partitions (as for `limits`) has a GPU of so much memory."""
    nodes = _gpus_of_nodes(partitions)
    if nodes and len(nodes_with_less(megabytes, partitions)) == len(nodes):
        most = max(size or 0 for sizes in nodes.values() for size in sizes)
        raise TalkiesError(
            f"slurm: a job needs a GPU with {megabytes} MB of memory, and the largest of "
            f"{printable(partitions) or 'the default partition'} has {most} MB: name another slurm_partition under "
            "slurm: gpu: in config.yaml"
        )


def gpu_megabytes(kind: str) -> int | None:
    """Return the memory of a GPU by the name of its GRES type, None where the name does not tell.

    A size in the name counts (`a100-sxm4-80gb`, the MIG profile `1g.10gb`); of a card sold with different memories,
    the least.
    """
    if sizes := re.findall(r"(\d+)gb\b", kind.lower()):
        return 1000 * int(sizes[-1])
    name = re.sub(r"[^a-z0-9]", "", kind.lower())
    found = [card for card in GPU_GIGABYTES if re.search(rf"(?<!\d){card}(?!\d)", name)]
    return 1000 * GPU_GIGABYTES[max(found, key=len)] if found else None


def minutes_of(text: str) -> int | None:
    """Return the whole minutes of a time as SLURM writes it: [days-][hours:]minutes[:seconds]; None: no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+)(?::(\d+))?", text.strip())
    if match is None:
        return None
    days, hours, minutes, _ = (int(group or 0) for group in match.groups())
    if match[4] is None and match[2] is not None:  # minutes:seconds, but after days hours:minutes
        hours, minutes = (hours, minutes) if match[1] else (0, hours)
    elif match[1] is not None and match[2] is None:  # days-hours
        hours, minutes = minutes, 0
    return (days * 24 + hours) * 60 + minutes


# --- the queue -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queue:
    """This run folder's jobs in SLURM's queue. waiting: by the reason that SLURM gives."""

    running: int
    waiting: dict[str, int]

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {printable(reason)}" for reason, count in sorted(self.waiting.items()))
        waiting = sum(self.waiting.values())
        return f"running {counted(self.running, 'job')}, waiting {waiting}{f' ({reasons})' if waiting else ''}"


def queue(folder: Path) -> Queue | None:
    """Return the jobs of a run folder that SLURM has; None where there is no SLURM, or it has none of them."""
    running, waiting = 0, Counter[str]()
    for state, reason in _queued(folder):
        if state in ("PENDING", "CONFIGURING"):
            waiting[reason] += 1
        else:
            running += 1
    return Queue(running, dict(waiting)) if running or waiting else None


def _queued(folder: Path) -> Iterator[tuple[str, str]]:
    for line in _ask("squeue", "--me", "--noheader", "--format=%T|%r|%Z").splitlines():
        state, _, rest = line.partition("|")
        reason, _, place = rest.partition("|")
        if place == str(folder):
            yield state, reason
