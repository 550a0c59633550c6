"""Facts from SLURM: how a job ended, the limits of its partitions, this run's jobs.

They come from SLURM's own commands, each called once and with a time limit. Without a command or an answer, nothing
is known.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import TalkiesError, counted, printable
from .supervise import ask

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
STOP_SECONDS = 120
"""A worker stops this long before its job's time is over, and at the latest after three quarters of it."""


def seconds_left() -> float | None:
    """Return the seconds left of the SLURM job that this process is in; None outside of a job."""
    try:
        return float(os.environ["SLURM_JOB_END_TIME"]) - time.time()
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Ended:
    """How SLURM says that a job ended.

    state: SLURM's word. killed: the job, or a step of it, ended by SIGKILL. in_time: False if it ended when a worker
    stops because its time is over, or later.
    """

    state: str
    killed: bool = False
    in_time: bool = True


def ended(job: str) -> Ended | None:
    """Return how a job ended, by scontrol, else by sacct; None if neither knows it, or it has not ended."""
    told = dict(re.findall(r"(\w+)=(\S*)", _ask("scontrol", "show", "job", "--oneliner", job)))
    if not told:
        names = ("JobState", "ExitCode", "DerivedExitCode", "RunTime", "TimeLimit")
        asked = "--format=State,ExitCode,DerivedExitCode,Elapsed,Timelimit"
        answer = _ask("sacct", "--jobs", job, "--allocations", "--noheader", "--parsable2", asked)
        told = dict(zip(names, answer.strip().split("|"), strict=False))
    state = told.get("JobState", "").partition(" ")[0]  # sacct: CANCELLED by 1000
    if state in ("", "RUNNING", "PENDING", "COMPLETING", "CONFIGURING", "SUSPENDED"):
        return None
    killed = any(told.get(name, "").partition(":")[2] == "9" for name in ("ExitCode", "DerivedExitCode"))
    limit, ran = (seconds_of(told.get(name, "")) for name in ("TimeLimit", "RunTime"))
    return Ended(state, killed, limit is None or ran is None or limit - ran > min(STOP_SECONDS, limit / 4))


def _ask(*command: str) -> str:
    """Return the output of a SLURM command; empty if it is missing, fails, or does not answer in time."""
    answer = ask(*command)
    return answer.out if answer.code == 0 else ""


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
    """Return the whole minutes of a time in SLURM's form; None: no limit."""
    seconds = seconds_of(text)
    return None if seconds is None else seconds // 60


def seconds_of(text: str) -> int | None:
    """Return the seconds of a time in SLURM's form, [days-][hours:]minutes[:seconds]; None: no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+)(?::(\d+))?", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
    if match[4] is None and match[2] is not None:  # minutes:seconds, but after days hours:minutes
        hours, minutes, seconds = (hours, minutes, 0) if match[1] else (0, hours, minutes)
    elif match[1] is not None and match[2] is None:  # days-hours
        hours, minutes = minutes, 0
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


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
    for line in _ask("squeue", "--me", "--noheader", "--format=%T|%r|%Z").splitlines():
        state, *rest = line.split("|", 2)
        if rest[1:] != [str(folder)]:
            continue
        if state in ("PENDING", "CONFIGURING"):
            waiting[rest[0]] += 1
        else:
            running += 1
    return Queue(running, dict(waiting)) if running or waiting else None
