"""A run looked at and put in order: what is done, whole, forgotten, or no longer asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import media
from .errors import InputError, TalkiesError, printable
from .gallery import Entry
from .plan import HOME, TAKEN_NAMES, Plan, at_work, seen_films
from .records import FACTS, Receipt, Recorded, held_locks
from .scratch import Scratch
from .shards import PART, Run, distrust, mend

RECEIPT_STAGES = ("animate", "remux")
"""The stages whose receipts speak of pairs."""
TOLD = {"prepare": "sha256", "motion": "key", "animate": "picture_key", "remux": "key"}
"""What a stage's receipt tells of each item that is done."""


@dataclass(frozen=True)
class Status:
    """How far a run is. failed: reasons by pair. orphans: films whose pair is no longer asked for."""

    pairs: int
    done: list[str]
    failed: dict[str, str]
    waiting: list[str]
    orphans: list[Path]
    at_work: list[str]


def status(plan: Plan) -> Status:
    """Say what is done, failed and waiting, by the films' records and the receipts."""
    run = Run(plan)
    failed = failures(plan)
    done: list[str] = []
    waiting: list[str] = []
    for name, pair in plan.pairs.items():
        if name in failed:
            continue
        talkie = run.talkie(pair)
        (done if talkie.path.exists() and talkie.record().get("key") else waiting).append(name)
    return Status(
        len(plan.pairs), done, failed, waiting, [film.path for film in orphans(plan)], held_locks(HOME / "locks")
    )


def failures(plan: Plan) -> dict[str, str]:
    """Return the reasons of the pairs that could not be made, by the receipts that there are."""
    found: dict[str, str] = {}
    for shard, names in plan.shards.items():
        for stage in reversed(RECEIPT_STAGES):
            receipt = Receipt.read(Run.receipt(stage, shard))
            if receipt is not None:
                found |= {name: reason for name, reason in receipt.failed.items() if name in names}
                break
    return found


def orphans(plan: Plan) -> Iterator[Recorded]:
    """Yield the films of ours in the results whose pair is gone from the plan.

    None in a pilot (`first`), whose plan does not tell which other pairs are asked for.
    """
    results = Path(plan.settings["results"])
    if not results.is_dir() or plan.is_pilot:
        return
    for folder in sorted(results.iterdir()):
        if not folder.is_dir() or folder.is_symlink() or folder.name in TAKEN_NAMES:
            continue
        for path in sorted(folder.glob("*.json")):
            film = Recorded(path.with_suffix(".mp4"), {"pair": str, "picture_key": (str, None), "file": FACTS})
            name = f"{folder.name}/{path.stem}"
            # Only what a record of ours names is ours, and a film only as it was made.
            ours = name not in plan.pairs and film.record().get("pair") == name and not path.is_symlink()
            if ours and (film.is_whole() or not film.path.exists()):
                yield film


def settle(plan: Plan) -> None:
    """See, before a run begins, that no damaged file of .talkies is taken for one that tells something.

    A receipt that can't be read, or tells nothing of an item of its shard, is none; a plan's file that is gone or
    damaged is written. While a run is at work here nothing is touched.
    """
    if not (HOME / "receipts").is_dir() or at_work():
        return
    run = Run(plan)
    prepared = {**plan.pictures, **plan.clips}
    for stage, shards in (("prepare", prepared), ("motion", plan.clips), ("animate", plan.shards)):
        for shard, items in shards.items():
            _settle(run, stage, shard, items)
    for shard, items in plan.shards.items():
        _settle(run, "remux", shard, items)
        if run.receipt("remux", shard).exists() and seen_films(shard) is None:
            for stage in RECEIPT_STAGES:
                distrust(run, stage, shard)
    try:
        Plan.load()
    except TalkiesError:
        plan.save()


def _settle(run: Run, stage: str, shard: str, items: Iterable[str]) -> None:
    path = run.receipt(stage, shard)
    receipt = Receipt.read(path)
    if path.exists() and (receipt is None or not receipt.tells(items, TOLD[stage])):
        distrust(run, stage, shard)


def verify(plan: Plan) -> dict[str, str]:
    """Read every finished film whole; return what is wrong, by pair: missing, altered, or not the film recorded.

    What is wrong and can be mended is distrusted, so that the next snakemake makes it again; but not while a run is at
    work here, which may be about to make it.
    """
    run = Run(plan)
    failed = failures(plan)
    wrong: dict[str, str] = {}
    for name, pair in plan.pairs.items():
        talkie = run.talkie(pair)
        record = talkie.record()
        if name in failed:
            wrong[name] = failed[name]
        elif not talkie.path.exists():
            wrong[name] = "not made yet"
        elif not record.get("key"):
            wrong[name] = "forgotten, or without a record that can be read"
        elif media.file_digest(talkie.path) != record["file"]["sha256"]:
            wrong[name] = "altered since it was made"
        else:
            fault = _differs(talkie.path, record)
            if fault:
                wrong[name] = fault
    if not at_work():
        for shard, names in plan.shards.items():
            if faulty := [name for name in names if name in wrong and name not in failed]:
                for stage in RECEIPT_STAGES:
                    distrust(run, stage, shard, faulty)
    return wrong


def _differs(path: Path, record: dict[str, Any]) -> str | None:
    try:
        clip = media.probe(path)
    except InputError as error:
        return error.reason
    if clip.frames != record["picture"]["frames"]:
        return f"{clip.frames} frames, its record says {record['picture']['frames']}"
    if bool(clip.sound) != bool(record["sound"]["sound"]):
        return "its sound is not what its record says"
    return None


def forget(plan: Plan, names: Iterable[str], *, failed: bool = False) -> list[str]:
    """Make snakemake do pairs anew: blank their films' content keys and take their shards' receipts away.

    names: pairs (driving/image[@variant]), or driving/ for all of a video's. failed: all pairs that failed.
    The films stay until the new ones replace them. TalkiesError for a name that is no pair of the plan.
    """
    run = Run(plan)
    chosen = set(failures(plan)) if failed else set()
    for name in names:
        clean = name.removesuffix(".mp4")
        matching = {n for n in plan.pairs if n == clean or (clean.endswith("/") and n.startswith(clean))}
        if not matching:
            raise TalkiesError(f"{printable(name)}: no pair of this run: name it driving/image, as its film is")
        chosen |= matching
    of_picture, of_take = plan.shard_of_picture(), plan.shard_of_take()
    for shard, members in plan.shards.items():
        held = chosen.intersection(members)
        if held:
            for stage in RECEIPT_STAGES:
                distrust(run, stage, shard, held)
        for pair in map(plan.pairs.__getitem__, held):
            # A picture or clip that failed is looked at again too; one that is good is not.
            for stage, of, item in (
                ("prepare", of_picture, pair.source),
                ("prepare", of_take, pair.take),
                ("motion", of_take, pair.take),
            ):
                receipt = Receipt.read(run.receipt(stage, of[item]))
                if receipt is None or item in receipt.failed:
                    distrust(run, stage, of[item])
    return sorted(chosen)


def leftovers(plan: Plan) -> list[Path]:
    """Return what no pair of the plan needs: orphaned films and records, their internal files, dead workers' parts."""
    if held_locks(HOME / "locks"):
        raise TalkiesError("workers are at work in this run folder: clean it when they have ended (talkies status)")
    found: list[Path] = []
    for film in orphans(plan):
        found += [film.path, film.record_path]
    silent = {run_pair.name for run_pair in plan.pairs.values()}
    wanted: dict[str, set[str]] = {"sources": set(plan.sources), "driving": set(plan.takes), "motion": set(plan.takes)}
    if not plan.is_pilot:
        for folder, stems in wanted.items():
            found += [p for p in _files(HOME / folder) if p.stem not in stems]
        names = ((p, f"{p.parent.name}/{p.name.removesuffix(p.suffix)}") for p in _files(HOME / "silent"))
        found += [p for p, name in names if name not in silent]
    results = Path(plan.settings["results"])
    for folder_path in (HOME, results):
        found += [p for p in folder_path.rglob(".*.part") if p.is_file() and LEFT.fullmatch(p.name)]
    found += [p for p in (HOME / "locks").glob("*") if p.is_file()]  # of dead workers: none is alive
    return [path for path in dict.fromkeys(found) if path.exists()]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


LEFT = re.compile(rf"{PART.pattern}|\.\d+\.part", re.DOTALL)
"""A temporary file's name, as films, records and the gallery have it."""


def remove(paths: Iterable[Path]) -> None:
    """Remove files, and the folders that this leaves empty."""
    for path in paths:
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def gallery_entries(plan: Plan) -> list[Entry]:
    """Return what the gallery shows: every pair with its film or the reason why it has none.

    Prepared pictures and videos that are gone or damaged are made again for it.
    """
    run = Run(plan)
    failed = failures(plan)
    shown = [pair for name, pair in plan.pairs.items() if name not in failed]
    mend(run, dict.fromkeys(pair.source for pair in shown), dict.fromkeys(pair.take for pair in shown), Scratch())
    entries = []
    for name, pair in plan.pairs.items():
        talkie = run.talkie(pair)
        source, preview = run.source(pair.source).path, run.driving(pair.take).path
        good = name not in failed and talkie.path.exists()
        entries.append(
            Entry(
                driving=pair.driving,
                image=pair.image,
                variant=pair.variant,
                film=talkie.path if good else None,
                record=talkie.record_path if good else None,
                source=source if source.exists() else None,
                preview=preview if preview.exists() else None,
                reason=failed.get(name, None if good else "not made"),
                private=pair.private,
            )
        )
    return entries
