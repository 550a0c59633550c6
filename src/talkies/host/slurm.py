"""Facts from SLURM: the limits of its partitions, this run's jobs, and why a job ended.

They come from SLURM's own commands, each called once and with a time limit. Without a command or an answer, nothing
is known.
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
"""Where the executor keeps the logs of jobs: rule_STAGE/RECEIPT/JOB.log. It removes those of successful jobs."""
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
"""GPU memory (GB) by the type names that sites use, from NVIDIA's data sheets."""
ANSWER_SECONDS = 20
TAIL_BYTES = 20_000
"""How much of a log's end is read: the reason why the job ended comes last."""


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
"""Job states of `scontrol show job`."""

# What slurmstepd, srun and the worker write into a job's log; the first match counts.
WORDS = (
    (Cause.MEMORY, r"^slurmstepd.*(?:exceeded .*memory limit|oom[-_ ]?kill|out[- ]of[- ]memory)"),
    (Cause.TIME, r"^(?:slurmstepd|srun).*DUE TO TIME LIMIT"),
    (Cause.NODE, r"^(?:slurmstepd|srun).*DUE TO NODE FAIL"),
    (Cause.PREEMPTED, r"^(?:slurmstepd|srun).*DUE TO (?:JOB )?(?:PREEMPTION|REQUEUE)"),
    (Cause.CANCELLED, r"^slurmstepd.*\*\*\* JOB \d+ ON .* CANCELLED AT"),
    (Cause.TIME, r"^talkies: error: stopped before the job's time was over"),
    (Cause.CANCELLED, r"^talkies: error: stopped by SIGTERM"),
    (Cause.ITSELF, r"^talkies: error: (?P<said>.*)"),
    # Snakemake's words; a worker that ends by itself says why.
    (Cause.KILLED, r"^\s*\(command exited with non-zero exit code\)"),
)


@dataclass(frozen=True)
class Failure:
    """A job that ended without its receipt. said: the worker's own words, if any."""

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
    """Return the seconds left of the SLURM job that this process is in; None outside of a job."""
    try:
        return float(os.environ["SLURM_JOB_END_TIME"]) - time.time()
    except (KeyError, ValueError):
        return None


def cause_of(log: str) -> tuple[Cause, str] | None:
    """Return why a job ended, by its log, and its worker's words; None if the log does not say."""
    for cause, pattern in WORDS:
        if found := list(re.finditer(pattern, log, re.MULTILINE | re.IGNORECASE)):
            return cause, found[-1].groupdict().get("said") or ""
    return None


def failures(stage: str = "*", receipt: str = "*", *, since: float = 0.0, ask: bool = True) -> list[Failure]:
    """Return the failed jobs, by their logs, the oldest first; without jobs that may still run.

    since: only logs written after this time (seconds since 1970). ask: also ask SLURM about jobs whose log does not
    say why.
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
    """The failed jobs of a run; each is reported once."""

    def __init__(self) -> None:
        self._since = time.time()
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def news(self, *, ask: bool = False) -> list[str]:
        """Return a line for each job that has failed since the last call (at first: since this object was made).

        ask: also ask SLURM about jobs whose log does not say why; for when no job runs any more.
        """
        with self._lock:
            new = [each for each in failures(since=self._since, ask=ask) if each.job not in self._told]
            self._told |= {failure.job for failure in new}
        return list(map(str, new))


def causes(stage: str, shard: str, attempts: int) -> Counter[Cause]:
    """Return why the last `attempts` attempts of a shard's job failed; shard "": of a job about the whole run."""
    if not attempts:
        return Counter()
    found = failures(stage, f"{shard}.*") if shard else failures(stage)
    return Counter(failure.cause for failure in found[-attempts:])


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def _state(job: int) -> Cause | None:
    """Return SLURM's reason why a job ended; None if it has not, or SLURM no longer knows it."""
    state = re.search(r"\bJobState=(\w+)", _ask("scontrol", "show", "job", "--oneliner", str(job)))
    if state is None or state[1] in ("RUNNING", "PENDING", "COMPLETING", "COMPLETED", "CONFIGURING", "SUSPENDED"):
        return None
    return STATES.get(state[1], Cause.UNKNOWN)


def _ask(*command: str) -> str:
    """Return the output of a SLURM command; empty if it is missing, fails, or does not answer in time."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS
        )
        return done.stdout if done.returncode == 0 else ""
    return ""


# --- limits ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The most that a job may ask for in some partitions; None: no limit, or not known."""

    minutes: int | None = None
    megabytes: int | None = None


@cache
def limits(partitions: str = "") -> Limits:
    """Return the largest limits of some partitions (separated by commas), or those of the default one.

    They come from `sinfo`: the partition's time limit, and the memory of its largest node.
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
    """Yield sinfo's lines, in the given format, of the named partitions, else of the default one."""
    names = {name for name in partitions.split(",") if name}
    nodes = ["--Node"] if each_node else []
    for line in _ask("sinfo", "--noheader", "--exact", *nodes, f"--format=%P|{wanted}").splitlines():
        name, _, rest = line.strip().partition("|")
        if (name.rstrip("*") in names) if names else name.endswith("*"):
            yield rest


@cache
def _gpus_of_nodes(partitions: str) -> dict[str, list[int | None]]:
    """Return the memory (MB) of the GPU types of each node with GPUs, by sinfo; None: the type does not tell it."""
    found: dict[str, list[int | None]] = {}
    for line in _of_partitions("%N|%G", partitions, each_node=True):
        node, _, resources = line.partition("|")
        for resource in re.sub(r"\([^)]*\)", "", resources).split(","):
            name, *kind = resource.split(":")
            if name == "gpu":
                found.setdefault(node, []).append(gpu_megabytes(kind[0]) if len(kind) > 1 else None)
    return found


def nodes_with_less(megabytes: int, partitions: str = "") -> list[str]:
    """Return the nodes of partitions (as for `limits`) whose GPUs all have less memory, by their types' names."""
    nodes = _gpus_of_nodes(partitions)
    return sorted(node for node, sizes in nodes.items() if all(size is not None and size < megabytes for size in sizes))


def check_gpus(megabytes: int, partitions: str = "") -> None:
    """Raise TalkiesError if no node of partitions (as for `limits`) has a GPU with this much memory."""
    nodes = _gpus_of_nodes(partitions)
    if nodes and len(nodes_with_less(megabytes, partitions)) == len(nodes):
        most = max(size or 0 for sizes in nodes.values() for size in sizes)
        raise TalkiesError(
            f"slurm: a job needs a GPU with {megabytes} MB of memory, and the largest of "
            f"{printable(partitions) or 'the default partition'} has {most} MB: name another slurm_partition under "
            "slurm: gpu: in config.yaml"
        )


def gpu_megabytes(kind: str) -> int | None:
    """Return the memory (MB) of a GPU by the name of its GRES type; None if the name does not tell it.

    A size in the name counts (`a100-sxm4-80gb`, the MIG profile `1g.10gb`); for a card with several sizes, the least.
    """
    if sizes := re.findall(r"(\d+)gb\b", kind.lower()):
        return 1000 * int(sizes[-1])
    name = re.sub(r"[^a-z0-9]", "", kind.lower())
    found = [card for card in GPU_GIGABYTES if re.search(rf"(?<!\d){card}(?!\d)", name)]
    return 1000 * GPU_GIGABYTES[max(found, key=len)] if found else None


def minutes_of(text: str) -> int | None:
    """Return the whole minutes of a time in SLURM's form, [days-][hours:]minutes[:seconds]; None: no limit."""
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
    """This run folder's jobs in SLURM's queue. waiting: by SLURM's reason."""

    running: int
    waiting: dict[str, int]

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {printable(reason)}" for reason, count in sorted(self.waiting.items()))
        waiting = sum(self.waiting.values())
        return f"running {counted(self.running, 'job')}, waiting {waiting}{f' ({reasons})' if waiting else ''}"


def queue(folder: Path) -> Queue | None:
    """Return a run folder's jobs in SLURM's queue; None if there is no SLURM, or no such job."""
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
