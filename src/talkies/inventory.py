"""A run looked at and put in order: what is done, whole, forgotten, or no longer asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import media
from .errors import InputError, TalkiesError, printable
from .gallery import Entry
from .plan import HOME, TAKEN_NAMES, Plan
from .records import Receipt, Recorded, held_locks, read_json, write_json
from .shards import Run

RECEIPT_STAGES = ("animate", "remux")
"""The stages whose receipts speak of pairs."""


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
            value = read_json(Run.receipt(stage, shard))
            if value is not None:
                found |= {name: reason for name, reason in value.get("failed", {}).items() if name in names}
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
            film = Recorded(path.with_suffix(".mp4"))
            record = film.record()
            name = f"{folder.name}/{path.stem}"
            # Only what a record of ours names is ours.
            if name not in plan.pairs and record.get("pair") == name and record.get("picture_key"):
                yield film


def verify(plan: Plan) -> dict[str, str]:
    """Read every finished film whole; return what is wrong, by pair: missing, altered, or not the film recorded."""
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
            wrong[name] = "forgotten, or without a record: snakemake makes it again"
        elif media.file_digest(talkie.path) != record.get("file", {}).get("sha256"):
            wrong[name] = "altered since it was made: snakemake makes it again"
        else:
            fault = _differs(talkie.path, record)
            if fault:
                wrong[name] = fault
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
    for name in chosen:
        pair = plan.pairs[name]
        talkie = run.talkie(pair)
        record = talkie.record()
        if record:
            write_json(talkie.record_path, {**record, "key": None, "picture_key": None})
        run.silent(pair).remove()
    of_picture, of_take = plan.shard_of_picture(), plan.shard_of_take()
    for shard, members in plan.shards.items():
        held = chosen.intersection(members)
        if held:
            for stage in RECEIPT_STAGES:
                run.receipt(stage, shard).unlink(missing_ok=True)
        for pair in map(plan.pairs.__getitem__, held):
            # A picture or clip that failed is looked at again too; one that is good is not.
            for stage, of, item in (
                ("prepare", of_picture, pair.source),
                ("prepare", of_take, pair.take),
                ("motion", of_take, pair.take),
            ):
                receipt = run.receipt(stage, of[item])
                if receipt.exists() and item in Receipt.load(receipt).failed:
                    receipt.unlink()
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
        found += [p for p in folder_path.rglob(".*.part") if p.is_file()]
    found += [p for p in (HOME / "locks").glob("*") if p.is_file()]  # of dead workers: none is alive
    return [path for path in dict.fromkeys(found) if path.exists()]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def remove(paths: Iterable[Path]) -> None:
    """Remove files, and the folders that this leaves empty."""
    for path in paths:
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def gallery_entries(plan: Plan) -> list[Entry]:
    """Return what the gallery shows: every pair with its film or the reason why it has none."""
    run = Run(plan)
    failed = failures(plan)
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
