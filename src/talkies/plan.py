"""What a run is to make: pictures and clips, their pairs, and the shards that make them.

The plan is made once, when Snakemake starts, and written to .talkies/plan.json by real runs; every job, command
and page reads it there. New pairs go into new shards and old ones stay where they were, so that adding
or removing a file touches only the shards that hold it.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from . import media
from .config import read_pairs
from .errors import InputError, TalkiesError, printable
from .model.presets import DEMO_WEIGHTS, PRESETS
from .records import claim, digest, held_locks, is_abandoned, read_json, write_json

HOME = Path(".talkies")
PLAN = HOME / "plan.json"
PROBES = HOME / "probes.json"
RUN = HOME / "run.json"
"""Names the process of the Snakemake that is at work in this folder."""
FORMAT = 1

PICTURES_PER_JOB = 100
CLIP_FRAMES_PER_JOB = 20_000
"""Cropping and keypoints take some 20 ms a frame on one core: about seven minutes' work."""
CLIPS_PER_JOB = 50

LONGEST_NAME = 160
"""Bytes of a file name's stem: room for suffixes and temporary names below the usual limit of 255."""
TAKEN_NAMES = ("index.html", "index_files")
"""Names in the results folder that are the gallery's, so no driving video may be called so."""
BYTES_PER_FRAME = 2_500
"""Of a finished talkie (256 x 256, its sound included): the examples measure 1,500 to 3,000."""


@dataclass(frozen=True)
class Source:
    """A picture: its path, its file's size and time, and how it is cropped (a mode, or a box [x, y, width, height])."""

    file: str
    stamp: list[int]
    crop: str | list[float]


@dataclass(frozen=True)
class Take:
    """A driving video, or a segment of it (seconds, as text), its crop, and about how many frames it has."""

    driving: str
    file: str
    stamp: list[int]
    crop: str | list[float]
    start: str | None = None
    end: str | None = None
    frames: int = 0


@dataclass(frozen=True)
class Pair:
    """One film to make: a source image moved by a take, in one way."""

    driving: str
    image: str
    variant: str | None = None
    start: str | None = None
    end: str | None = None
    relative: bool = True
    adapt_scale: bool = True
    best_frame: int | str | None = None
    audio: bool = True

    @property
    def stem(self) -> str:
        """The film's name without its suffix: image, or image@variant."""
        return f"{self.image}@{self.variant}" if self.variant else self.image

    @property
    def name(self) -> str:
        """The pair's name everywhere: driving/image[@variant], its film's path below the results."""
        return f"{self.driving}/{self.stem}"

    @property
    def take(self) -> str:
        """The name of the take that moves it: the driving video's, with the segment where there is one."""
        return take_name(self.driving, self.start, self.end)


@dataclass
class Plan:
    """All of a run. `pictures` and `clips` are the shards of preparation, `shards` those of pairs.

    retired: digests of what preparing shards once held and nobody asks for now. They stay part of the shard's
    digest, so that a removed file does not prepare its neighbours again, and with them all of their films' shards.
    """

    settings: dict[str, Any]
    sources: dict[str, Source]
    takes: dict[str, Take]
    pairs: dict[str, Pair]
    pictures: dict[str, list[str]]
    clips: dict[str, list[str]]
    shards: dict[str, list[str]]
    retired: dict[str, list[str]] = field(default_factory=dict)
    generation: dict[str, int] = field(default_factory=dict)

    def shard_of_picture(self) -> dict[str, str]:
        """Return the preparing shard of each source image."""
        return {image: shard for shard, images in self.pictures.items() for image in images}

    def shard_of_take(self) -> dict[str, str]:
        """Return the preparing shard of each take."""
        return {take: shard for shard, takes in self.clips.items() for take in takes}

    def preparation(self, shard: str) -> str:
        """Return the digest of what a preparing shard (pictures or clips) is to do."""
        return digest(sorted([*self._item_digests(shard).values(), *self.retired.get(shard, [])]))

    def _item_digests(self, shard: str) -> dict[str, str]:
        if shard in self.pictures:
            return {image: digest(asdict(self.sources[image])) for image in self.pictures[shard]}
        return {take: digest(asdict(self.takes[take])) for take in self.clips[shard]}

    def retire(self, previous: Plan) -> None:
        """Take over what preparing shards have held before, and add what has gone since the previous plan."""
        for shard in (*self.pictures, *self.clips):
            before = previous._item_digests(shard) if shard in previous.pictures or shard in previous.clips else {}
            kept = self.sources if shard in self.pictures else self.takes
            gone = [value for item, value in before.items() if item not in kept]
            if retired := sorted(previous.retired.get(shard, []) + gone):
                self.retired[shard] = retired

    def motion(self, shard: str) -> str:
        """Return the digest of what a motion shard is to do."""
        return digest([self.settings["model"]["preset"], self._weights(), self.preparation(shard)])

    def _weights(self) -> str:
        # A path, whose file Snakemake watches; of the weights in the package, which change with it, the digest.
        return self.settings["model"]["checkpoint"] or media.file_digest(DEMO_WEIGHTS)

    def animation(self, shard: str) -> str:
        """Return the digest of all that decides the pixels of a shard's films, but for the files' contents."""
        model = self.settings["model"]
        parts = []
        for name in self.shards[shard]:
            pair = self.pairs[name]
            picture = asdict(replace(pair, audio=True))
            parts.append([picture, self.sources[pair.image].crop, self.takes[pair.take].crop])
        return digest([model["preset"], self._weights(), model["precision"], parts])

    def remuxing(self, shard: str) -> str:
        """Return the digest of all that decides a shard's sound and tags, but for the files' contents."""
        return digest([self.settings["provenance"], [[n, self.pairs[n].audio] for n in self.shards[shard]]])

    def gallery(self) -> str:
        """Return the digest of what the gallery shows, but for the films' contents."""
        return digest([self.settings["gallery"]["title"], list(self.pairs)])

    def save(self, path: Path = PLAN) -> None:
        """Write the plan."""
        ordinary = self._ordinary()
        value = {
            "format": FORMAT,
            "settings": self.settings,
            "sources": {name: asdict(source) for name, source in self.sources.items()},
            "takes": {name: asdict(take) for name, take in self.takes.items()},
            "pictures": self.pictures,
            "clips": self.clips,
            "shards": {
                shard: [self._compact(self.pairs[name], ordinary) for name in names]
                for shard, names in self.shards.items()
            },
            "retired": self.retired,
            "generation": self.generation,
        }
        if read_json(path) != value:
            write_json(path, value)

    @classmethod
    def load(cls, path: Path = PLAN) -> Plan:
        """Read a plan; TalkiesError when there is none or another version of talkies wrote it."""
        value = read_json(path)
        if value is None:
            raise TalkiesError(f"{path}: no plan here: this is made by the first `snakemake` in the run folder")
        if value.get("format") != FORMAT:
            raise TalkiesError(f"{path}: a plan of format {value.get('format')}, not {FORMAT}: run snakemake again")
        try:
            return cls._from_json(value)
        except (KeyError, TypeError, IndexError, AttributeError):
            raise TalkiesError(f"{path}: a damaged plan: run snakemake again") from None

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Plan:
        plan = cls(
            settings=value["settings"],
            sources={name: Source(**source) for name, source in value["sources"].items()},
            takes={name: Take(**take) for name, take in value["takes"].items()},
            pairs={},
            pictures=value["pictures"],
            clips=value["clips"],
            shards={},
            retired=value["retired"],
            generation=value["generation"],
        )
        ordinary = plan._ordinary()
        for shard, rows in value["shards"].items():
            pairs = [Pair(row[0], row[1], **(ordinary | (row[2] if len(row) > 2 else {}))) for row in rows]
            plan.shards[shard] = [pair.name for pair in pairs]
            plan.pairs.update((pair.name, pair) for pair in pairs)
        return plan

    def _ordinary(self) -> dict[str, Any]:
        """Return the fields of a pair that no table says anything about."""
        return {**self.settings["motion"], "audio": self.settings["audio"]}

    @staticmethod
    def _compact(pair: Pair, ordinary: Mapping[str, Any]) -> list[Any]:
        fields = asdict(pair)
        special = {
            key: value
            for key, value in fields.items()
            if key not in ("driving", "image") and value != ordinary.get(key)
        }
        return [pair.driving, pair.image, special] if special else [pair.driving, pair.image]


def stored_plan() -> Plan | None:
    """Return the folder's plan, or None where there is none that this version can go on from."""
    try:
        return Plan.load()
    except TalkiesError:
        return None


def take_name(driving: str, start: str | None, end: str | None) -> str:
    """Return a take's name: the video's, and where a segment is asked for its seconds."""
    return driving if start is None and end is None else f"{driving}@{start or '0'}-{end or 'end'}"


def make_plan(settings: Mapping[str, Any], previous: Plan | None) -> Plan:
    """Look into the folders and plan the run, keeping every pair of a previous plan in its shard.

    settings: complete (config.complete). Raises TalkiesError that names the key, file or line at fault.
    """
    images = _listed(Path(settings["images"]), "images", media.list_pictures, media.PICTURE_SUFFIXES)
    clips = _listed(Path(settings["driving"]), "driving", media.list_clips, media.CLIP_SUFFIXES)
    for stem in clips:
        if stem in TAKEN_NAMES:
            raise TalkiesError(f"{printable(clips[stem])}: the gallery uses the name {stem}: rename this video")
    pairs = _pairs(settings, images, clips)
    crops = _crops(settings, images, clips)
    sources = {
        image: Source(str(images[image]), _stamp(images[image]), crops(images[image], "images"))
        for image in sorted({p.image for p in pairs})
    }
    frames = _count_frames({clips[p.driving] for p in pairs})
    takes: dict[str, Take] = {}
    for pair in pairs:
        if pair.take in takes:
            known = takes[pair.take]
            if (known.driving, known.start, known.end) != (pair.driving, pair.start, pair.end):
                raise TalkiesError(f"{printable(clips[pair.take])}: named like a segment of {pair.driving}: rename it")
            continue
        file = clips[pair.driving]
        count, rate = frames[file]
        since, until = Fraction(pair.start or 0), Fraction(pair.end) if pair.end else None
        count = max(0, count - round(since * rate) if until is None else min(count, round((until - since) * rate)))
        takes[pair.take] = Take(
            pair.driving, str(file), _stamp(file), crops(file, "driving"), pair.start, pair.end, count
        )
    plan = Plan(
        settings=dict(settings),
        sources=sources,
        takes=takes,
        pairs={pair.name: pair for pair in pairs},
        pictures={},
        clips={},
        shards={},
    )
    if previous is not None and _sizes(previous) != _sizes(plan):
        previous = None
    old = previous or Plan({}, {}, {}, {}, {}, {}, {})  # an empty one
    plan.pictures = _assign("pictures", dict.fromkeys(sources, 1.0), old.pictures, PICTURES_PER_JOB, PICTURES_PER_JOB)
    weight = {name: float(take.frames) for name, take in takes.items()}
    plan.clips = _assign("clips", weight, old.clips, CLIPS_PER_JOB, CLIP_FRAMES_PER_JOB)
    seconds = {pair.name: takes[pair.take].frames / settings["frames_per_second"] for pair in pairs}
    plan.shards = _assign("pairs", seconds, old.shards, settings["pairs_per_job"], settings["job_minutes"] * 60)
    plan.retire(old)
    return plan


def _sizes(plan: Plan) -> tuple[Any, ...]:
    return plan.settings.get("pairs_per_job"), plan.settings.get("job_minutes")


def _listed(folder: Path, key: str, lister: Any, suffixes: Iterable[str]) -> dict[str, Path]:
    """Return a folder's files by stem; refuse what could not be named in the results."""
    if not folder.is_dir():
        raise TalkiesError(f"config.yaml: {key}: there is no folder {printable(folder)}")
    found: dict[str, Path] = {}
    for path in lister(folder):
        stem = path.stem
        if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in stem):
            raise TalkiesError(f"{printable(path)}: a control or undecodable character in the name: rename this file")
        if len(os.fsencode(stem)) > LONGEST_NAME:
            raise TalkiesError(f"{printable(path)}: a name of over {LONGEST_NAME} bytes: shorten it")
        if stem in found:
            raise TalkiesError(
                f"{printable(found[stem])} and {printable(path.name)} have one name before the suffix, "
                "and so would their films: rename one"
            )
        found[stem] = path
    if not found:
        known = " ".join(sorted(suffixes))
        raise TalkiesError(f"config.yaml: {key}: no file in {printable(folder)} that ends in one of {known}")
    return found


def _pairs(settings: Mapping[str, Any], images: Mapping[str, Path], clips: Mapping[str, Path]) -> list[Pair]:
    ordinary = {**settings["motion"], "audio": settings["audio"]}
    if settings["pairs"] is None:
        return [Pair(driving, image, **ordinary) for driving in sorted(clips) for image in sorted(images)]
    table = Path(settings["pairs"])
    by_file = {path.name: stem for stem, path in (*images.items(), *clips.items())}
    pairs: dict[str, tuple[Pair, str]] = {}
    for row in read_pairs(table):
        where = f"{printable(table)}: line {row['line']}"
        chosen: dict[str, str] = {}
        for key, known in (("image", images), ("driving", clips)):
            stem = row[key] if row[key] in known else by_file.get(row[key], "")
            if stem not in known:
                raise TalkiesError(
                    f"{where}: {key}: no file {printable(row[key])} in the folder that config.yaml names"
                )
            chosen[key] = stem
        special: dict[str, Any] = {k: row[k] for k in ("variant", "start", "end") if k in row}
        special |= {k: row[k] == "true" for k in ("relative", "adapt_scale", "audio") if k in row}
        if "best_frame" in row:
            special["best_frame"] = row["best_frame"] if row["best_frame"] == "auto" else int(row["best_frame"])
        if "end" in row and Fraction(row["end"]) <= Fraction(row.get("start", "0")):
            raise TalkiesError(f"{where}: end: {row['end']} s is not after the start")
        pair = Pair(chosen["driving"], chosen["image"], **(ordinary | special))
        if pair.name in pairs:
            raise TalkiesError(
                f"{where}: {printable(pair.name)} stands in line {pairs[pair.name][1]} too: "
                "give one of them a variant name of its own"
            )
        pairs[pair.name] = (pair, row["line"])
    return sorted((pair for pair, _ in pairs.values()), key=lambda pair: (pair.driving, pair.stem))


def _crops(settings: Mapping[str, Any], images: Mapping[str, Path], clips: Mapping[str, Path]) -> Any:
    """Return the function that tells a file's crop: its own, its kind's, everyone's, the preset's."""
    wanted = settings["crop"]
    usual = PRESETS[settings["model"]["preset"]].crop
    by_kind = wanted if isinstance(wanted, dict) else {"images": wanted, "driving": wanted, "files": {}}
    known = {path.name for path in (*images.values(), *clips.values())}
    for name in by_kind["files"]:
        if name not in known:
            raise TalkiesError(f"config.yaml: crop.files: there is no picture or video {printable(name)}")
    return lambda path, kind: by_kind["files"].get(path.name) or by_kind[kind] or usual


def _stamp(path: Path) -> list[int]:
    """Return a file's size and time, by which a new one under its name is noticed, also an older one."""
    try:
        status = path.stat()
    except OSError:
        return []  # a link to nowhere: its preparation says so
    return [status.st_size, status.st_mtime_ns]


def _count_frames(files: Iterable[Path]) -> dict[Path, tuple[int, Fraction]]:
    """Return each clip's number of frames and rate; what was probed before is kept in .talkies/probes.json.

    A clip that can't be read counts as empty here: its preparation says what is wrong with it.
    """
    known = read_json(PROBES) or {}
    fresh: dict[str, Any] = {}
    counts: dict[Path, tuple[int, Fraction]] = {}
    for path in sorted(files):
        try:
            stamp = _stamp(path)
            entry = known.get(str(path))
            if not entry or entry["stamp"] != stamp:
                clip = media.probe(path)
                entry = {"stamp": stamp, "frames": clip.frames, "rate": str(clip.rate)}
        except InputError:
            counts[path] = (0, Fraction(25))
            continue
        fresh[str(path)] = entry
        counts[path] = (entry["frames"], Fraction(entry["rate"]))
    if fresh != known:
        write_json(PROBES, fresh)
    return counts


def _assign(
    prefix: str, weights: Mapping[str, float], old: Mapping[str, Sequence[str]], most: int, heaviest: float
) -> dict[str, list[str]]:
    """Put items into shards of at most `most` items and about `heaviest` weight; old ones stay where they were."""
    shards = {shard: kept for shard, items in old.items() if (kept := [item for item in items if item in weights])}
    placed = {item for items in shards.values() for item in items}
    number = max((int(shard.rpartition("-")[2]) for shard in old), default=0)
    current: list[str] = []
    load = 0.0
    for item, weight in weights.items():
        if item in placed:
            continue
        if not current or len(current) >= most or load + weight > heaviest:
            number += 1
            current = shards[f"{prefix}-{number:04d}"] = []
            load = 0.0
        current.append(item)
        load += weight
    return shards


def check_films(plan: Plan) -> tuple[dict[str, int], int]:
    """Compare the finished films with what the workers last saw; return the shards' generations and the films to make.

    A shard whose film (or its record) is gone or has another size or time gets the next generation, a parameter
    of its jobs, so that Snakemake runs them; when they have made good, they store it (`store_films`). One
    directory listing a driving video, however many films.
    """
    results = Path(plan.settings["results"])
    listings: dict[str, dict[str, tuple[int, int]]] = {}
    generations: dict[str, int] = {}
    missing = 0
    for shard, names in plan.shards.items():
        seen = read_json(films_path(shard))
        if seen is None:
            missing += len(names)
            continue
        stale = 0
        for name in names:
            pair = plan.pairs[name]
            if pair.driving not in listings:
                listings[pair.driving] = _listing(results / pair.driving)
            there = listings[pair.driving]
            wanted = seen["films"].get(name)
            if wanted is None:
                missing += 1
            elif there.get(f"{pair.stem}.mp4") != tuple(wanted) or f"{pair.stem}.json" not in there:
                stale += 1
        missing += stale
        generation = seen["generation"] + bool(stale)
        if generation:
            generations[shard] = generation
    return generations, missing


def films_path(shard: str) -> Path:
    """Return the file in which a shard's worker notes the films it saw."""
    return HOME / "films" / f"{shard}.json"


def store_films(plan: Plan, shard: str, generation: int, good: Iterable[str]) -> None:
    """Note the size and time of a shard's good films, for the next start's check."""
    films = {}
    for name in good:
        status = (Path(plan.settings["results"]) / f"{name}.mp4").stat()
        films[name] = [status.st_size, status.st_mtime_ns]
    write_json(films_path(shard), {"generation": generation, "films": films})


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    # Size and time come with the listing's own attributes where the file system sends both together
    # (NFS READDIRPLUS); on a local disk each costs about a microsecond.
    try:
        with os.scandir(folder) as entries:
            return {e.name: ((s := e.stat()).st_size, s.st_mtime_ns) for e in entries if e.is_file()}
    except FileNotFoundError:
        return {}


def describe(plan: Plan, missing: int) -> str:
    """Say in a line how much a run is: pairs, jobs, hours and gigabytes still to make, by estimate."""
    frames = sum(plan.takes[pair.take].frames for pair in plan.pairs.values())
    share = missing / max(1, len(plan.pairs))
    hours = frames * share / plan.settings["frames_per_second"] / 3600
    size = frames * share * BYTES_PER_FRAME / 1e9
    drivings = len({take.driving for take in plan.takes.values()})
    return (
        f"{len(plan.sources)} pictures, {drivings} videos: {len(plan.pairs)} pairs in {len(plan.shards)} jobs; "
        f"{missing} to make: about {hours:.1f} hours at {plan.settings['frames_per_second']:g} frames/s, {size:.1f} GB"
    )


def start_run(plan: Plan) -> None:
    """Write the plan as a real run begins. Nothing is written while a dry run only looks.

    Raises TalkiesError while workers of an earlier run are alive whose shards the plan deals out anew: two
    would then write one film. Workers of shards that stay as they are may go on: theirs waits for them.
    """
    stored = read_json(PLAN)
    if stored is not None and (alive := held_locks(HOME / "locks")):
        dealt = stored.get("shards", {})
        for shard, pairs in plan.shards.items():
            known = [f"{row[0]}/{row[1]}" for row in dealt.get(shard, [])]
            names = [f"{plan.pairs[name].driving}/{plan.pairs[name].image}" for name in pairs]
            if not set(names) <= set(known) and any(set(names) & _pairs_of(dealt, line) for line in alive):
                raise TalkiesError(f"a worker of an earlier run is still at work ({alive[0]}): wait for it or stop it")
    plan.save()
    claim(RUN)


def end_run() -> None:
    """Note that the run came to its end, whatever end."""
    RUN.unlink(missing_ok=True)


def unlock_after_kill(locks: Path) -> bool:
    """Remove Snakemake's locks of the folder where the run that took them was killed; tell whether there were any.

    A run that is alive, or of which nothing is known, keeps them.
    """
    if not is_abandoned(RUN):
        return False
    stale = [path for path in locks.glob("*.lock") if path.is_file()]
    RUN.unlink(missing_ok=True)  # first: a run that starts in the same moment then leaves our locks alone
    for path in stale:
        path.unlink(missing_ok=True)
    return bool(stale)


def _pairs_of(dealt: Mapping[str, Any], lock_line: str) -> set[str]:
    shard = lock_line.partition(":")[0]
    return {f"{row[0]}/{row[1]}" for row in dealt.get(shard, [])}
