"""Makes the plan, once when Snakemake starts, from the settings, the folders and the ledger.

Commands that look at a folder between runs make a new plan, so that they show what the next run would do.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from ..engines import FOMM
from ..engines.program import Program
from ..errors import TalkiesError, printable
from ..files import PART, digest, read_json, to_plain
from ..fomm.model.presets import demo_digest
from ..fomm.model.published import noted
from ..machine.container import ADDRESS
from ..settings import Settings, complete, read
from . import ledger as ledgers
from . import snakemake_private
from .estimate import rates
from .folder import CHECK_PAGE, CONFIG, DONE, GALLERY_PAGE, HOME, LOCKS, RUN, done, remove_older
from .inputs import Inputs, folders_outside, is_unreadable, stamp_of
from .ledger import Ledger, Made, Started, note
from .lock import claim, held_locks, is_abandoned
from .pairs import Pair, Source, Take, by_each_engine, check_squares, each_face, list_inputs, list_pairs
from .plan import Contents, Plan, Table, Task, stored_plan
from .shards import deal
from .state import Look, State, look, reasons, with_something_made

ALL = "all"
"""The one item of the jobs about the whole run."""
PAGES = {"check": CHECK_PAGE, "gallery": GALLERY_PAGE}
"""The jobs about the whole run, and their pages in the results."""


@cache
def nonce() -> str:
    """Return the ending of this process's job names: always the same, though a Snakefile may be read twice."""
    return secrets.token_hex(4)


def make_plan(
    settings: Settings,
    table: Table,
    *,
    on_cluster: bool = False,
    given: Mapping[str, Any] | None = None,
    inputs: tuple[dict[str, Path], dict[str, Path]] | None = None,
) -> tuple[Plan, State]:
    """Read the folders, plan the run, and compare it with what is there.

    settings: complete (`settings.complete`). table: returns the stages. on_cluster: jobs are sent to a cluster, so each
    gets more work. given: settings of the command line. inputs: pictures and videos by name, instead of the folders of
    the settings. Raises TalkiesError that names the key, file or line at fault.
    """
    previous, ledger, known = stored_plan(table), Ledger.read(), Inputs()
    plan = _plan_pairs(settings, table, known, inputs or list_inputs(settings), given)
    plan.rates = rates(settings, ledger, on_cluster=on_cluster)
    seen = Look(plan, ledger)
    _read_contents(seen, known)
    if plan.is_pilot:
        _keep_pilot(plan, seen.state())
    known.save(keep=plan.is_pilot)
    deal(plan, previous, ledger, on_cluster=on_cluster)
    state = seen.state()
    state.why = reasons(seen, previous, state.to_make)
    _assign_tasks(plan, state)
    plan.joined = on_cluster and all(
        shard in plan.tasks[plan.first.name] for stage in plan.of_pairs for shard in plan.tasks[stage.name]
    )
    _name_pages(plan, state, ledger)
    return plan, state


def _plan_pairs(
    settings: Settings,
    table: Table,
    known: Inputs,
    inputs: tuple[dict[str, Path], dict[str, Path]],
    given: Mapping[str, Any] | None,
) -> Plan:
    """Return a plan of what is wanted: its pairs and files, without shards, jobs and contents."""
    images, clips = inputs
    pairs = list_pairs(settings, images, clips)
    if settings.multi_face:
        pairs = each_face(pairs, images, settings, known.faces)
    if len(settings.by_engine) > 1:
        pairs = by_each_engine(pairs, settings.by_engine)
    check_squares(settings, pairs)
    plan = Plan(
        settings=settings,
        sources=_sources(pairs, images, settings),
        takes=_takes(pairs, clips, settings),
        pairs={pair.name: pair for pair in pairs},
        weights=_weights(settings, known),
        programs={name: _contents_of(program, known) for name, program in settings.programs.items()},
        given=dict(given or {}),
        outside=[str(folder) for folder in folders_outside(settings, _sounds(pairs))],
        nonce=nonce(),
    )
    plan.stages = table(settings)
    _count_frames(plan, known)
    return plan


def current_plan(table: Table) -> tuple[Plan, State]:
    """Return the plan of this folder under the current settings, and its state.

    While a run is active, this is its plan. Otherwise it follows config.yaml and the settings of the last run's
    command line.
    """
    stored, settings = _current(table)
    if settings is None:
        assert stored is not None
        return stored, look(stored)
    return make_plan(settings, table, given=stored.given if stored is not None else {})


def current_files(table: Table) -> Plan:
    """Return the plan of this folder as `current_plan` does, but without its jobs, which take time for many pairs."""
    stored, settings = _current(table)
    if settings is None:
        assert stored is not None
        return stored
    known = Inputs()
    plan = _plan_pairs(settings, table, known, list_inputs(settings), stored.given if stored is not None else {})
    if plan.is_pilot:  # its pairs depend on what is made
        return current_plan(table)[0]
    known.save()
    return plan


def _current(table: Table) -> tuple[Plan | None, Settings | None]:
    """Return the stored plan, and the settings of now; None for these where the stored plan is that of now."""
    stored = stored_plan(table)
    if stored is not None and (is_running() or not CONFIG.exists()):
        return stored, None
    if not CONFIG.exists():
        raise TalkiesError("there is no config.yaml here: go into the run folder, or make one: talkies init FOLDER")
    return stored, complete(read(CONFIG) | (stored.given if stored is not None else {}))


def _keep_pilot(plan: Plan, state: State) -> None:
    """Reduce a pilot's plan to the pairs that are done and the first ones to make."""
    chosen = {*state.done, *state.to_make[: plan.settings.first]}
    plan.pairs = {name: pair for name, pair in plan.pairs.items() if name in chosen}
    sources, takes = ({getattr(pair, of) for pair in plan.pairs.values()} for of in ("source", "take"))
    plan.sources = {name: source for name, source in plan.sources.items() if name in sources}
    plan.takes = {name: take for name, take in plan.takes.items() if name in takes}


def _sources(pairs: Iterable[Pair], images: Mapping[str, Path], settings: Settings) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for (name, image), pair in sorted({(pair.source, pair.image): pair for pair in pairs}.items()):
        file = images[image]
        if name in images and name != image:
            raise TalkiesError(f"{printable(images[name])}: named like a crop of {image}: rename it")
        sources[name] = Source(str(file), pair.crop or settings.crop_of(file, "images"))
    return sources


def _takes(pairs: Iterable[Pair], clips: Mapping[str, Path], settings: Settings) -> dict[str, Take]:
    """Return the takes; their frames are not counted yet."""
    takes: dict[str, Take] = {}
    for (name, driving), pair in {(pair.take, pair.driving): pair for pair in pairs}.items():
        if name in takes:
            raise TalkiesError(f"{printable(clips[name])}: named like a segment of {driving}: rename it")
        file = clips[driving]
        cut = pair.driving_crop or settings.crop_of(file, "driving")
        takes[name] = Take(driving, str(file), cut, pair.start, pair.end, flip=pair.flip)
    return takes


def _count_frames(plan: Plan, known: Inputs) -> None:
    """Set each take's number of frames.

    A clip that can't be read counts as empty here: the stage that cuts it reports what is wrong with it.
    """
    clips = known.clips(take.file for take in plan.takes.values())
    for name, take in plan.takes.items():
        clip = clips[take.file]
        if clip is not None:
            since, until = Fraction(take.start or 0), Fraction(take.end) if take.end else None
            plan.takes[name] = replace(take, frames=clip.count(since, until))


def _sounds(pairs: Iterable[Pair]) -> set[str]:
    """Return the sound files that pairs name."""
    return {pair.audio for pair in pairs if isinstance(pair.audio, str)}


def _read_contents(seen: Look, known: Inputs) -> None:
    """Set the contents of the input files from which something was made; sound files are read at once."""
    plan, sounds = seen.plan, _sounds(seen.plan.pairs.values())
    plan.learn(seen.ledger)
    read = (file for file in with_something_made(seen) if is_unreadable(plan.contents.get(file)))
    known.read({*read, *sounds})
    files = {file for _, _, file in plan.files()} | sounds
    plan.contents |= {file: content for file in files if (content := known.content(file))}


def _weights(settings: Settings, known: Inputs) -> str:
    """Return the digest of the built-in engine's weights: of a checkpoint's file, or of those in the package."""
    checkpoint = settings.model.checkpoint
    if FOMM not in settings.by_engine:
        return ""
    if checkpoint is None:
        return demo_digest()
    entry = noted(Path(checkpoint))
    if entry and (entry.get("size"), entry.get("mtime_ns")) == stamp_of(Path(checkpoint)):
        return str(entry["sha256"])
    known.read([checkpoint])
    return known.content(checkpoint) or ""


def _contents_of(program: Program, known: Inputs) -> Contents:
    """Return the digests of a program's image, its checkpoint, and the files that its command names."""
    found: Contents = {"image": None, "checkpoint": None}
    named = [(word, str(file)) for word, file in program.files.items()]
    for what, file in (("image", program.image), ("checkpoint", program.checkpoint), *named):
        if file is not None and ADDRESS.match(file):
            found[what] = file.rpartition("@")[2]
        elif file is not None:
            known.read([file])
            found[what] = known.content(file)
    return found


def _assign_tasks(plan: Plan, state: State) -> None:
    """Give each shard with something due its job, after the jobs that make what it is made from."""
    due = {stage: set(items) for stage, items in state.due.items()}
    for stage in plan.stages:
        plan.tasks[stage.name] = {}
        by_shard: dict[str, list[str]] = {}
        for item in state.due[stage.name]:
            by_shard.setdefault(plan.shard_of(stage, item), []).append(item)
        for shard, items in by_shard.items():
            needs = set()
            for item in items:
                before = plan.before(stage, item)
                above = [(before, item)] if before else plan.inputs(stage, item)
                needs |= {(each.name, plan.shard_of(each, one)) for each, one in above if one in due[each.name]}
            seconds = sum(stage.seconds(plan, item) for item in items)
            only = [] if stage.of == "pairs" else items
            plan.tasks[stage.name][shard] = Task(only, seconds, sorted(needs))


def _name_pages(plan: Plan, state: State, ledger: Ledger) -> None:
    """Choose the names of the jobs about the whole run: the last ones if their pages stand, else new ones."""
    results = plan.results
    for page, file in PAGES.items():
        if page == "check" and not plan.settings.check:
            continue
        plan.page_keys[page] = key = page_key(plan, state, page)
        entry = ledger.get(page, ALL)
        stands = isinstance(entry, Made) and entry.key == key and (results / file).is_file()
        if page == "gallery" and any(state.due.values()):
            stands = False
        there = sorted(path.name for path in (DONE / page).glob(f"{ALL}.*")) if stands else []
        plan.pages[page] = there[-1] if there else plan.name(ALL)


def page_key(plan: Plan, state: State, page: str) -> str:
    """Return the key of a page about the whole run: of the files as they are now, or of the films and failures."""
    if page == "check":
        wanted = to_plain([sorted(plan.sources.items()), sorted(plan.takes.items())])
        stamps = [[file, stamp_of(Path(file))] for _, _, file in plan.files()]
        return digest([wanted, stamps, plan.weights, plan.settings.model.preset])
    films = sorted([name, plan.key(plan.last, name), plan.pairs[name].private] for name in state.done)
    check = plan.page_keys.get("check")
    return digest([to_plain(plan.settings.gallery), films, sorted(state.failed.items()), check])


# --- a run begins and ends ---------------------------------------------------------------------------------


def start_run(plan: Plan, state: State) -> None:
    """Write the plan when a real run starts, and what was found of files that the ledger did not tell of.

    Raises TalkiesError while workers of an earlier run are alive whose pairs the plan deals again, since two workers
    could then write one film. Workers of unchanged shards may go on: the new worker of their shard waits for them.
    """
    stored, alive = stored_plan(lambda settings: plan.stages), held_locks(LOCKS)
    if stored is not None and alive:
        before = stored.shards["pairs"]
        at_work = {name for line in alive for name in before.get(line.partition(":")[0], [])}
        for shard, names in plan.shards["pairs"].items():
            if not set(names) <= set(before.get(shard, [])) and at_work & set(names):
                raise TalkiesError(f"a worker of an earlier run is still at work ({alive[0]}): wait for it or stop it")
    results = Path(plan.settings.results)
    try:
        results.mkdir(parents=True, exist_ok=True)  # before the jobs: an image can bind only folders that exist
    except OSError as error:
        raise TalkiesError(
            f"config.yaml: results: can't make {printable(results)} ({error.strerror}): name another folder"
        ) from None
    if not alive:
        for left in [*HOME.glob(".*.part")]:
            if PART.fullmatch(left.name):  # left by killed workers; their next attempt removes what is beside films
                left.unlink(missing_ok=True)
    plan.save()
    for shard, events in state.found.items():
        note(shard, *events)
    note(ledgers.RUN, Started())
    claim(RUN)


def at_work() -> list[str]:
    """Name the processes at work in the run folder: workers, or a snakemake that is not known to have ended."""
    return held_locks(LOCKS) or ["snakemake"] * is_running()


def is_running() -> bool:
    """Return whether a run is at work in this folder, as far as is known here."""
    return bool(read_json(RUN)) and not is_abandoned(RUN)


def end_run() -> None:
    """Note that the run has ended, whatever the outcome."""
    RUN.unlink(missing_ok=True)


def finish_page(plan: Plan, page: str, key: str) -> None:
    """Note that a page about the whole run is written. key: of what it shows."""
    status = (plan.results / PAGES[page]).stat()
    note(ledgers.RUN, Made(stage=page, item=ALL, key=key, size=status.st_size, mtime_ns=status.st_mtime_ns))
    finish(page, plan.pages[page])


def finish_gallery(plan: Plan, state: State) -> None:
    """Note that the gallery is written: all films are made. Remove silent films whose talkie is done.

    A worker that was killed before it removed one leaves it, and its next attempt finds the talkie done.
    """
    done_pairs = set(state.done)
    for path in (HOME / "films").glob("*/*/*.json"):  # removed after its film
        name = f"{path.parent.name}/{path.stem}"
        if name in done_pairs:
            plan.film(path.parts[-3], name).remove()
    finish_page(plan, "gallery", page_key(plan, state, "gallery"))


def finish(stage: str, name: str) -> None:
    """Say to Snakemake that a job's work is done, and remove what earlier jobs of its shard left."""
    path = done(stage, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    remove_older(stage, name)


def unlock_after_kill() -> bool:
    """Remove Snakemake's locks of the folder if the run that took them was killed; return whether there were any.

    The locks of a run that is alive, or may be, stay.
    """
    if not is_abandoned(RUN):
        return False
    RUN.unlink(missing_ok=True)  # first, so that a run that starts at the same moment leaves our locks alone
    return snakemake_private.remove_locks()
