"""Upkeep of a run folder: verify films, forget pairs, remove films that are no longer wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import TalkiesError, printable
from ..files import PART, file_digest
from .folder import HOME, LOCKS, TAKEN_NAMES
from .ledger import Forgotten, Ledger, note
from .lock import held_locks
from .plan import Plan, Stage
from .record import Recorded, Talkie
from .state import Look, State


def orphans(plan: Plan) -> Iterator[Recorded[Talkie]]:
    """Yield our films in the results whose pair is no longer in the plan.

    None in a pilot (`first`), whose plan does not have all pairs.
    """
    results = plan.results
    if not results.is_dir() or plan.is_pilot:
        return
    for folder in sorted(results.iterdir()):
        if not folder.is_dir() or folder.is_symlink() or folder.name in TAKEN_NAMES:
            continue
        for path in sorted(folder.glob("*.json")):
            film = Recorded(path.with_suffix(".mp4"), Talkie)
            name = f"{folder.name}/{path.stem}"
            # A film is ours only if our record describes it, and it is unchanged.
            record = film.record()
            ours = name not in plan.pairs and record and record.pair == name and not path.is_symlink()
            if ours and (film.whole() or not film.path.exists()):
                yield film


def verify(plan: Plan, state: State, *, busy: bool = False) -> dict[str, str]:
    """Read every finished film to its end; return what is wrong, by pair.

    Wrong films are forgotten, so that the next run makes them again; but not if `busy`, when a run is at work here
    and may be about to make them.
    """
    wrong = dict(state.failed)
    for name in state.to_make:
        talkie = plan.talkie(name)
        if not talkie.path.exists():
            wrong[name] = "not made yet"
        else:
            fault = _fault(talkie)
            wrong[name] = f"{fault or 'whole, but not as the settings now ask'}: snakemake makes it again"
    for name in state.done:
        fault = _fault(plan.talkie(name))
        if fault:
            wrong[name] = f"{fault}: snakemake makes it again"
            if not busy:
                _forget(plan, name)
    return {name: wrong[name] for name in plan.pairs if name in wrong}


def _fault(talkie: Recorded[Talkie]) -> str | None:
    """Return how a film differs from its record; None if it does not."""
    record = talkie.record()
    if record is None:
        return "its record is damaged"
    whole = file_digest(talkie.path) == record.file.sha256
    return None if whole else "altered since it was made, and kept under another name"


def forget(plan: Plan, state: State, names: Iterable[str], *, failed: bool = False) -> list[str]:
    """Let the next run make pairs again; return their names. The films stay until new ones replace them.

    names: pairs (driving/image[@variant]), or driving/ for all of a video's. failed: all pairs that failed.
    TalkiesError for a name that is no pair of the plan.
    """
    chosen = set(state.failed) if failed else set()
    for name in names:
        clean = name.removesuffix(".mp4")
        matching = {n for n in plan.pairs if n == clean or (clean.endswith("/") and n.startswith(clean))}
        if not matching:
            raise TalkiesError(f"{printable(name)}: no pair of this run: name it driving/image, as its film is")
        chosen |= matching
    look = Look(plan, Ledger.read())
    for name in sorted(chosen):
        _forget(plan, name)
        for stage, item in plan.inputs(plan.first, name) if name in state.failed else ():
            _forget_failed(plan, look, stage, item)
    return sorted(chosen)


def _forget_failed(plan: Plan, look: Look, stage: Stage, item: str) -> None:
    """Let a picture or clip that failed be read again; a good one is not."""
    if look.failure(stage, item):
        note(plan.shard_of(stage, item), Forgotten(stage=stage.name, item=item))
    for above in plan.inputs(stage, item):
        _forget_failed(plan, look, *above)


def _forget(plan: Plan, name: str) -> None:
    """Let the next run make one pair again: its film's keys are emptied, its silent films are removed."""
    for stage in plan.of_pairs:
        recorded = stage.file(plan, name)
        if stage is plan.last:
            recorded.blank()
        else:
            recorded.remove()
    note(plan.shard_of(plan.last, name), *(Forgotten(stage=stage.name, item=name) for stage in plan.of_pairs))


def leftovers(plan: Plan) -> list[Path]:
    """Return the files that no pair of the plan needs: orphaned films and records, their internal files, leftovers of
    killed workers."""
    if held_locks(LOCKS):
        raise TalkiesError("workers are at work in this run folder: clean it when they have ended (talkies status)")
    found: list[Path] = []
    for film in orphans(plan):
        found += [film.path, film.record_path]
    keep, roots = set(), set()
    for stage in [] if plan.is_pilot else plan.stages:
        for item in plan.everything(stage.of) if stage is not plan.last else ():
            recorded = stage.file(plan, item)
            keep |= {recorded.path, recorded.record_path}
            roots.add(recorded.path.parents[-3])  # below HOME
    found += [path for root in sorted(roots) for path in _files(root) if path not in keep]
    for folder_path in (HOME, plan.results):
        found += [p for p in folder_path.rglob(".*.part") if p.is_file() and PART.fullmatch(p.name)]
    found += [p for p in LOCKS.glob("*") if p.is_file()]  # left by killed workers: none is alive
    return [path for path in dict.fromkeys(found) if path.exists()]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def remove(paths: Iterable[Path]) -> None:
    """Remove files, and the folders that this leaves empty."""
    for path in paths:
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
