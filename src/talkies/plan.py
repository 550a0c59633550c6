"""What a run is to make: pictures and clips, their pairs, and the shards that make them.

The plan is made once, when Snakemake starts, and written to .talkies/plan.json by real runs; every job, command
and page reads it there. New pairs go into new shards and old ones stay where they were, so that adding
or removing a file touches only the shards that hold it.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from . import crop, media
from .config import read_pairs
from .container import folders_outside
from .cores import available_threads
from .errors import InputError, TalkiesError, printable
from .model.presets import DEMO_WEIGHTS, PRESETS
from .records import NUMBER, claim, digest, fits, held_locks, is_abandoned, read_json, write_json

HOME = Path(".talkies")
PLAN = HOME / "plan.json"
PROBES = HOME / "probes.json"
FACES = HOME / "faces.json"
RUN = HOME / "run.json"
"""Names the process of the Snakemake that is at work in this folder."""
FORMAT = 1

PICTURES_PER_JOB = 100
CLIPS_PER_JOB = 50
TAKE_SECONDS_PER_JOB = 400
"""On this machine: small, so that its cores share the preparation. On a cluster a job is worth `job_minutes`."""
SIZES = ("pairs_per_job", "job_minutes", "gpus")
"""Settings that decide how pairs are dealt out. Another value deals out anew the pairs of unfinished shards."""
PROBES_AT_ONCE = 8
"""On a login node, which others use."""
MOST_PER_JOB = 2000
"""Items of a shard: its receipt stays below 1 MB, however long the names."""

# What the work takes on one core, for the estimates of jobs' sizes and walltimes.
PICTURE_SECONDS = 1.0
TAKE_SECONDS = 1.0
TAKE_SECONDS_PER_FRAME = 0.02
"""Cropping and keypoints."""
PAIR_SECONDS = 0.3
"""Beside the frames: a film's beginning and end, its record."""
REMUX_SECONDS = 1.0
PASTE_SECONDS_PER_FRAME = 0.2
"""A picture of 2,000 pixels a side."""
LOOK_SECONDS = 0.01
"""The gallery, a pair."""
POSTER_SECONDS = 0.5
MOSAIC_SECONDS_PER_FRAME = 0.005
"""Of one of its films."""
CHECK_SECONDS = 3.0
"""The check, a file."""

FRAMES_PER_SECOND = 10.0
"""Expected of the network while nothing is known."""
LEARNING_FILMS = 50
"""Finished films of which the rate is learnt."""

WALLTIME_MARGIN = 2.0
WALLTIME_MINUTES = 15
"""A job's walltime: the estimate so many times, and this for its start: the image, the model, a busy disk."""

LONGEST_NAME = 160
"""Bytes of a file name's stem: room for suffixes and temporary names below the usual limit of 255."""
PLOTS = "plots.svg"
"""The plots of the run, beside the gallery."""
TAKEN_NAMES = ("index.html", "index_files", "private.html", "private_files", "check.html", PLOTS)
"""Names in the results folder that are the gallery's, so no driving video may be called so."""
BYTES_PER_FRAME = 2_500
LEAST_BYTES_PER_FRAME = 1_500
"""Of a finished talkie (256 x 256, its sound included): the examples measure 1,500 to 3,000."""


TEXT = (str, None)
CROP = (str, [NUMBER])
SETTINGS = {
    **dict.fromkeys(("images", "driving", "results"), str),
    **dict.fromkeys(("pairs", "scratch", "container"), TEXT),
    **dict.fromkeys(("first", "upscale", "threads"), (*NUMBER, None)),
    **dict.fromkeys(("job_minutes", "pairs_per_job", "gpus"), NUMBER),
    **dict.fromkeys(("provenance", "check"), bool),
    "files": {"*": dict},
    "slurm": {"gpu": dict, "cpu": dict},
    "motion": {"relative": bool, "adapt_scale": bool, "best_frame": (str, *NUMBER, None)},
    "model": {"preset": str, "checkpoint": TEXT, "device": str, "precision": str},
    "gallery": {"title": str, "mosaic": (*NUMBER, None), "report": bool},
}
TAKE = {"driving": str, "file": str, "stamp": [int], "crop": CROP, "start": TEXT, "end": TEXT, "frames": int}
SHAPE = {
    "settings": SETTINGS,
    "sources": {"*": {"file": str, "stamp": [int], "crop": CROP}},
    "takes": {"*": {**TAKE, "flip": bool}},
    "pictures": {"*": [str]},
    "clips": {"*": [str]},
    "retired": {"*": [str]},
    "shards": {"*": [list]},
    "generation": {"*": int},
    "outside": [str],
    "rate": NUMBER,
}
"""What a plan's file must hold (`records.fits`)."""
PAIR = {
    **dict.fromkeys(("driving", "image"), str),
    **dict.fromkeys(("variant", "start", "end"), TEXT),
    **dict.fromkeys(("relative", "adapt_scale", "flip", "private", "paste_back"), bool),
    **dict.fromkeys(("crop", "driving_crop"), (*CROP, None)),
    "best_frame": (str, *NUMBER, None),
    "audio": (bool, str),
}
FILMS = {"generation": int, "films": {"*": [int, int]}}
"""What a shard's films file must hold."""

LATER = {"crop": None, "driving_crop": None, "flip": False, "private": False, "paste_back": False}
"""Fields that joined after films were made, and their defaults: at them no digest knows of the field."""


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item's fields as digests take them."""
    return {name: value for name, value in fields.items() if name not in LATER or value != LATER[name]}


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
    flip: bool = False


class Pair(NamedTuple):
    """One film to make: a source image moved by a take, in one way. A tuple, for there may be a million of them.

    audio: the driving video's own sound, none, or that of another file. crop, driving_crop: where they are not the
    file's usual ones. flip: the driving video mirrored. private: not for the gallery that others see. paste_back: the
    film shows the whole picture.
    """

    driving: str
    image: str
    variant: str | None = None
    start: str | None = None
    end: str | None = None
    relative: bool = True
    adapt_scale: bool = True
    best_frame: int | str | None = None
    audio: bool | str = True
    crop: str | list[float] | None = None
    driving_crop: str | list[float] | None = None
    flip: bool = False
    private: bool = False
    paste_back: bool = False

    @property
    def source(self) -> str:
        """The name of the source it shows: the picture's, with its crop where that is the pair's own."""
        return source_name(self.image, self.crop)

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
        return take_name(self.driving, self.start, self.end, flip=self.flip, crop=self.driving_crop)


@dataclass
class Plan:
    """All of a run. `pictures` and `clips` are the shards of preparation, `shards` those of pairs.

    retired: digests of what preparing shards once held and nobody asks for now. They stay part of the shard's
    digest, so that a removed file does not prepare its neighbours again, and with them all of their films' shards.
    outside: the folders beyond the run folder that its jobs read or write (container.folders_outside).
    rate: frames a second that the network is expected to make.
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
    outside: list[str] = field(default_factory=list)
    rate: float = FRAMES_PER_SECOND

    @property
    def is_pilot(self) -> bool:
        """Whether only the first pairs are planned this time (`first`)."""
        return self.settings.get("first") is not None

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
            return {image: digest(_told(vars(self.sources[image]))) for image in self.pictures[shard]}
        return {take: digest(_told(vars(self.takes[take]))) for take in self.clips[shard]}

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
        return self.settings["model"]["checkpoint"] or _demo_digest()

    def animation(self, shard: str) -> str:
        """Return the digest of all that decides the pixels of a shard's films, but for the files' contents."""
        model = self.settings["model"]
        parts = []
        for name in self.shards[shard]:
            pair = self.pairs[name]
            picture = {**_told(pair._asdict()), "audio": True}
            picture.pop("private", None)
            parts.append([picture, self.sources[pair.source].crop, self.takes[pair.take].crop])
        # What is shown is made without the network; but where the bare square is wanted again, it is gone.
        shown = [self.settings["upscale"]] if self.settings["upscale"] else []
        return digest([model["preset"], self._weights(), model["precision"], parts, *shown])

    def remuxing(self, shard: str) -> str:
        """Return the digest of all that decides a shard's sound and tags, but for the files' contents."""
        pairs = [self.pairs[name] for name in self.shards[shard]]
        parts = [self.settings["provenance"], [[pair.name, *_sound(pair)] for pair in pairs]]
        if self.settings["upscale"] or any(pair.paste_back for pair in pairs):
            parts.append([self.settings["upscale"], [pair.name for pair in pairs if pair.paste_back]])
        return digest(parts)

    def gallery(self) -> str:
        """Return the digest of what the gallery shows, but for the films' contents."""
        shown = self.settings["gallery"]
        private = [name for name, pair in self.pairs.items() if pair.private]
        mosaic = [shown["mosaic"]] if shown["mosaic"] else []
        return digest([shown["title"], list(self.pairs), *([private] if private else []), *mosaic])

    def seconds(self, stage: str, shard: str) -> float:
        """Return how long a stage of a shard is expected to take, in seconds: prepare, motion, animate or remux."""
        if stage == "prepare":
            takes = self.clips.get(shard, [])
            return PICTURE_SECONDS * len(self.pictures.get(shard, [])) + sum(
                _preparing_seconds(self.takes[take]) for take in takes
            )
        if stage == "motion":
            return sum(TAKE_SECONDS + self.takes[take].frames / self.rate for take in self.clips[shard])
        if stage == "remux":
            return sum(self._remuxing_seconds(self.pairs[name]) for name in self.shards[shard])
        return sum(self._animating_seconds(self.pairs[name]) for name in self.shards[shard])

    def _animating_seconds(self, pair: Pair) -> float:
        return PAIR_SECONDS + self.takes[pair.take].frames / self.rate

    def _remuxing_seconds(self, pair: Pair) -> float:
        encoded = pair.paste_back or self.settings["upscale"]
        return REMUX_SECONDS + (PASTE_SECONDS_PER_FRAME * self.takes[pair.take].frames if encoded else 0.0)

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
            "outside": self.outside,
            "rate": self.rate,
        }
        if read_json(path) != value:
            write_json(path, value)

    @classmethod
    def load(cls, path: Path = PLAN) -> Plan:
        """Read a plan; TalkiesError when there is none or another version of talkies wrote it."""
        value = read_json(path)
        if value is None:
            raise TalkiesError(f"{path}: no plan here: go into the run folder, and run snakemake there first")
        if value.get("format") != FORMAT:
            raise TalkiesError(f"{path}: a plan of format {value.get('format')}, not {FORMAT}: run snakemake again")
        try:
            if fits(value, SHAPE):
                plan = cls._from_json(value)
                if plan._is_complete():
                    return plan
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            pass
        raise TalkiesError(f"{path}: a damaged plan: run snakemake again")

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
            outside=value["outside"],
            rate=value["rate"],
        )
        ordinary = plan._ordinary()
        for shard, rows in value["shards"].items():
            pairs = [Pair(row[0], row[1], **(ordinary | (row[2] if len(row) > 2 else {}))) for row in rows]
            if not all(isinstance(pair.driving, str) and isinstance(pair.image, str) for pair in pairs):
                raise TypeError("a name that is no text")
            plan.shards[shard] = [pair.name for pair in pairs]
            plan.pairs.update((pair.name, pair) for pair in pairs)
        return plan

    def _is_complete(self) -> bool:
        """Tell whether every name in the plan leads to what it names, and every pair is of the right kinds."""
        pictures, clips = self.shard_of_picture(), self.shard_of_take()
        usual = Pair("", "", **self._ordinary())[2:]
        return (
            pictures.keys() == self.sources.keys()
            and clips.keys() == self.takes.keys()
            and all(fits(pair._asdict(), PAIR) for pair in self.pairs.values() if pair[2:] != usual)
            and all(pair.source in pictures and pair.take in clips for pair in self.pairs.values())
        )

    def _ordinary(self) -> dict[str, Any]:
        """Return the fields of a pair that no table says anything about."""
        return _ordinary(self.settings)

    @staticmethod
    def _compact(pair: Pair, ordinary: Mapping[str, Any]) -> list[Any]:
        fields = pair._asdict()
        special = {
            key: value
            for key, value in fields.items()
            if key not in ("driving", "image") and value != ordinary.get(key)
        }
        return [pair.driving, pair.image, special] if special else [pair.driving, pair.image]


@cache
def _demo_digest() -> str:
    return media.file_digest(DEMO_WEIGHTS)


def stored_plan() -> Plan | None:
    """Return the folder's plan, or None where there is none that this version can go on from."""
    try:
        return Plan.load()
    except TalkiesError:
        return None


def _ordinary(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**LATER, **settings["motion"], "audio": settings["audio"], "paste_back": settings.get("paste_back", False)}


def take_name(
    driving: str, start: str | None, end: str | None, *, flip: bool = False, crop: str | list[float] | None = None
) -> str:
    """Return a take's name: the video's, its segment's seconds, whether it is mirrored, its crop if that is its own."""
    if start is None and end is None and not flip and crop is None:
        return driving
    segment = "" if start is None and end is None else f"@{start or '0'}-{end or 'end'}"
    return f"{driving}{segment}{'@flip' * flip}{_crop_tag(crop)}"


def source_name(image: str, crop: str | list[float] | None) -> str:
    """Return a source's name: the picture's, with its crop where it has one of its own."""
    return image if crop is None else f"{image}{_crop_tag(crop)}"


def _crop_tag(crop: str | list[float] | None) -> str:
    if crop is None:
        return ""
    return "@" + (crop.replace(":", "-") if isinstance(crop, str) else "-".join(f"{number:g}" for number in crop))


def _sound(pair: Pair) -> list[Any]:
    """Return what a digest of a pair's sound holds: the setting, and of another file its size and time."""
    return [pair.audio, _stamp(Path(pair.audio))] if isinstance(pair.audio, str) else [pair.audio]


def make_plan(settings: Mapping[str, Any], previous: Plan | None, *, on_cluster: bool = False) -> Plan:
    """Look into the folders and plan the run, keeping every pair of a previous plan in its shard.

    settings: complete (config.complete). on_cluster: jobs are sent to a cluster, which each must be worth.
    Raises TalkiesError that names the key, file or line at fault.
    """
    images = _listed(Path(settings["images"]), "images", media.list_pictures, media.PICTURE_SUFFIXES)
    clips = _listed(Path(settings["driving"]), "driving", media.list_clips, media.CLIP_SUFFIXES)
    for stem in clips:
        if stem in TAKEN_NAMES:
            raise TalkiesError(f"{printable(clips[stem])}: the gallery uses the name {stem}: rename this video")
    crops = _crops(settings)
    pairs = _pairs(settings, images, clips)
    if settings["multi_face"]:
        pairs = _each_face(pairs, images, crops)
    dealt = _dealt(settings, previous)
    if settings["first"] is not None:
        # A pilot: so many pairs and no others but those that are done, whose films stay part of the run.
        done = {name for names in _finished(dealt).values() for name in names}
        pairs = [pair for number, pair in enumerate(pairs) if number < settings["first"] or pair.name in done]
    sources: dict[str, Source] = {}
    for (name, image), pair in sorted({(pair.source, pair.image): pair for pair in pairs}.items()):
        file = images[image]
        if name in images and name != image:
            raise TalkiesError(f"{printable(images[name])}: named like a crop of {image}: rename it")
        sources[name] = Source(str(file), _stamp(file), pair.crop or crops(file, "images"))
    frames = _count_frames({clips[p.driving] for p in pairs})
    takes: dict[str, Take] = {}
    for (name, driving), pair in {(pair.take, pair.driving): pair for pair in pairs}.items():
        if name in takes:
            raise TalkiesError(f"{printable(clips[name])}: named like a segment of {driving}: rename it")
        file = clips[driving]
        count, rate = frames[file]
        since, until = Fraction(pair.start or 0), Fraction(pair.end) if pair.end else None
        count = max(0, count - round(since * rate) if until is None else min(count, round((until - since) * rate)))
        cut = pair.driving_crop or crops(file, "driving")
        takes[name] = Take(driving, str(file), _stamp(file), cut, pair.start, pair.end, count, pair.flip)
    plan = Plan(
        settings=dict(settings),
        sources=sources,
        takes=takes,
        pairs={pair.name: pair for pair in pairs},
        pictures={},
        clips={},
        shards={},
        outside=_outside(settings, pairs),
        rate=settings["frames_per_second"] or learnt_rate(settings, on_cluster=on_cluster) or FRAMES_PER_SECOND,
    )
    _deal(plan, previous, dealt, on_cluster=on_cluster)
    return plan


def _deal(plan: Plan, previous: Plan | None, dealt: Mapping[str, Sequence[str]], *, on_cluster: bool) -> None:
    """Put the plan's pictures, clips and pairs into shards; those of the previous plan stay where they were."""
    settings = plan.settings
    old = previous or Plan({}, {}, {}, {}, {}, {}, {})  # an empty one
    worth = settings["job_minutes"] * 60
    spread = settings["gpus"] if on_cluster else 1
    plan.pictures = _assign(
        "pictures",
        dict.fromkeys(plan.sources, PICTURE_SECONDS),
        old.pictures,
        MOST_PER_JOB if on_cluster else PICTURES_PER_JOB,
        worth if on_cluster else math.inf,
    )
    plan.clips = _assign(
        "clips",
        {name: _preparing_seconds(take) for name, take in plan.takes.items()},
        old.clips,
        MOST_PER_JOB if on_cluster else CLIPS_PER_JOB,
        worth if on_cluster else TAKE_SECONDS_PER_JOB,
        at_least=spread,
    )
    plan.shards = _assign(
        "pairs",
        {name: plan._animating_seconds(pair) for name, pair in plan.pairs.items()},
        dealt,
        settings["pairs_per_job"],
        worth,
        at_least=spread,
        after=_last_number(old.shards),
    )
    plan.retire(old)


def walltime(plan: Plan, stage: str, shard: str | None) -> int:
    """Return the minutes that a job of this stage and shard is given: an estimate with a margin, and its start.

    shard None: the gallery and the verdict, which look at every pair, and the check, at every file.
    """
    files = len(plan.sources) + len(plan.takes)
    whole = CHECK_SECONDS * files if stage == "check" else LOOK_SECONDS * len(plan.pairs)
    if stage == "gallery":
        whole += POSTER_SECONDS * len(plan.takes) + MOSAIC_SECONDS_PER_FRAME * _mosaic_frames(plan)
    seconds = plan.seconds(stage, shard) if shard else whole
    return WALLTIME_MINUTES + math.ceil(WALLTIME_MARGIN * seconds / 60)


def _mosaic_frames(plan: Plan) -> int:
    """Return the frames of all talkies that the mosaics show."""
    most = plan.settings["gallery"]["mosaic"] or 0
    films = Counter(pair.take for pair in plan.pairs.values())
    return sum(min(count, most) * plan.takes[take].frames for take, count in films.items())


def _preparing_seconds(take: Take) -> float:
    return TAKE_SECONDS + TAKE_SECONDS_PER_FRAME * take.frames


def _dealt(settings: Mapping[str, Any], previous: Plan | None) -> dict[str, list[str]]:
    """Return the shards of pairs that stay as they are: all, or where other sizes are asked for the finished ones."""
    if previous is None:
        return {}
    if all(previous.settings.get(key) == settings[key] for key in SIZES):
        return previous.shards
    return _finished(previous.shards)


def _finished(shards: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {shard: names for shard, names in shards.items() if films_path(shard).exists()}


def learnt_rate(settings: Mapping[str, Any], *, on_cluster: bool) -> float | None:
    """Return the frames a second of finished films of the same preset and kind of device, None while there is none.

    The median of a few: each film's time has its beginning and end in it, so that short ones count as slow.
    """
    wanted = settings["model"]["device"]
    if wanted == "auto":
        gpu = {"gpu": 1, **settings["slurm"]["gpu"]}
        given = bool(gpu["gpu"] or gpu.get("gres")) if on_cluster else Path("/dev/nvidiactl").exists()
        wanted = "cuda" if given else "cpu"
    rates = []
    for record in islice(_some_records(Path(settings["results"])), LEARNING_FILMS):
        try:
            model, frames, seconds = record["model"], record["picture"]["frames"], record["seconds"]
            if model["preset"] == settings["model"]["preset"] and model["device"].startswith(wanted) and seconds > 0:
                rates.append(frames / seconds)
        except (KeyError, TypeError, AttributeError):
            continue  # not a record of ours
    return float(f"{median(rates):.2g}") if rates and median(rates) > 0 else None


def _some_records(results: Path) -> Iterable[dict[str, Any]]:
    """Yield records of finished films: a few of each shard, the last shards first."""
    for path in sorted((HOME / "films").glob("*.json"), reverse=True):
        for name in islice((read_json(path, FILMS) or {"films": ()})["films"], 10):
            yield read_json(results / f"{name}.json") or {}


def _listed(folder: Path, key: str, lister: Any, suffixes: Iterable[str]) -> dict[str, Path]:
    """Return a folder's files by stem; refuse what could not be named in the results."""
    if not folder.is_dir():
        raise TalkiesError(f"config.yaml: {key}: there is no folder {printable(folder)}: make it, or name another")
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
        raise TalkiesError(
            f"config.yaml: {key}: no file in {printable(folder)} that ends in one of {known}: put some there"
        )
    return found


def _pairs(settings: Mapping[str, Any], images: Mapping[str, Path], clips: Mapping[str, Path]) -> list[Pair]:
    ordinary = _ordinary(settings)
    own = _files(settings, images, clips)

    def usual(driving: str, image: str) -> dict[str, Any]:
        """Return what config.yaml says of a pair: of its video, of its picture, of all."""
        return ordinary | own.get(images[image].name, {}) | own.get(clips[driving].name, {})

    if settings["pairs"] is None:
        return [Pair(driving, image, **usual(driving, image)) for driving in sorted(clips) for image in sorted(images)]
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
                    f"{where}: {key}: no file {printable(row[key])} in the folder that config.yaml names: mend the name"
                )
            chosen[key] = stem
        special: dict[str, Any] = {k: row[k] for k in ("variant", "start", "end") if k in row}
        truths = ("relative", "adapt_scale", "flip", "private", "paste_back")
        special |= {key: row[key] == "true" for key in truths if key in row}
        special |= {key: crop.parse(row[key]) for key in ("crop", "driving_crop") if key in row}
        if "best_frame" in row:
            special["best_frame"] = row["best_frame"] if row["best_frame"] == "auto" else int(row["best_frame"])
        if "audio" in row:
            sound = {"true": True, "false": False}.get(row["audio"])
            special["audio"] = _sound_file(row["audio"], settings, f"{where}: audio") if sound is None else sound
        whole = usual(chosen["driving"], chosen["image"]) | special
        if whole.get("end") and Fraction(whole["end"]) <= Fraction(whole.get("start") or 0):
            raise TalkiesError(f"{where}: end: {whole['end']} s is not after the start: give a later one")
        pair = Pair(chosen["driving"], chosen["image"], **whole)
        if pair.name in pairs:
            raise TalkiesError(
                f"{where}: {printable(pair.name)} stands in line {pairs[pair.name][1]} too: "
                "give one of them a variant name of its own"
            )
        pairs[pair.name] = (pair, row["line"])
    return sorted((pair for pair, _ in pairs.values()), key=lambda pair: (pair.driving, pair.stem))


def _files(
    settings: Mapping[str, Any], images: Mapping[str, Path], clips: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Return what config.yaml says of single files, by name, as a pair's fields (their crops are the files' own)."""
    known = {path.name for path in (*images.values(), *clips.values())}
    found: dict[str, dict[str, Any]] = {}
    for name, choices in settings["files"].items():
        where = f"config.yaml: files.{printable(name)}"
        if name not in known:
            raise TalkiesError(f"{where}: there is no such picture or video: mend the name")
        own = {key: value for key, value in choices.items() if key != "crop"}
        own |= {key: str(own[key]) for key in ("start", "end") if key in own}
        if own.get("end") and Fraction(own["end"]) <= Fraction(own.get("start", "0")):
            raise TalkiesError(f"{where}: end: {own['end']} s is not after the start: give a later one")
        if isinstance(own.get("audio"), str):
            own["audio"] = _sound_file(own["audio"], settings, f"{where}.audio")
        found[name] = own
    return found


def _sound_file(name: str, settings: Mapping[str, Any], where: str) -> str:
    """Return the path of a file whose sound is put under a film: in the run folder, or among the driving videos."""
    for path in (Path(name), Path(settings["driving"]) / name):
        if path.is_file():
            return str(path)
    raise TalkiesError(f"{where}: no file {printable(name)} here or in {printable(settings['driving'])}: mend the name")


def _outside(settings: Mapping[str, Any], pairs: Iterable[Pair]) -> list[str]:
    folders = [str(folder) for folder in folders_outside(settings)]
    for sound in sorted({pair.audio for pair in pairs if isinstance(pair.audio, str)}):
        folder = str(Path(sound).resolve().parent)
        if not Path(folder).is_relative_to(Path.cwd()) and folder not in folders:
            folders.append(folder)
    return folders


def _each_face(pairs: Iterable[Pair], images: Mapping[str, Path], crops: Any) -> list[Pair]:
    """Return the pairs with one for each face of a picture that is cropped to its face and has several."""
    counts = _count_faces(
        {images[pair.image] for pair in pairs if (pair.crop or crops(images[pair.image], "images")) == "face"}
    )
    found: list[Pair] = []
    for pair in pairs:
        count = counts.get(images[pair.image], 0) if pair.crop in (None, "face") else 0
        if count < 2:
            found.append(pair)
            continue
        prefix = f"{pair.variant}-" if pair.variant else ""
        faces = range(1, count + 1)
        found += [pair._replace(crop=f"face:{number}", variant=f"{prefix}face{number}") for number in faces]
    return found


def _count_faces(files: Iterable[Path]) -> dict[Path, int]:
    """Return how many faces each picture has; what was counted before is kept in .talkies/faces.json."""
    known = read_json(FACES) or {}
    fresh: dict[str, Any] = {}
    for path in sorted(files):
        stamp = _stamp(path)
        entry: Any = known.get(str(path))
        if not fits(entry, [list, int]) or entry[0] != stamp:
            try:
                entry = [stamp, len(crop.find_faces(media.read_picture(path)))]
            except InputError:
                continue  # its preparation says what is wrong with it
        fresh[str(path)] = entry
    if fresh != known:
        write_json(FACES, fresh)
    return {Path(name): entry[1] for name, entry in fresh.items()}


def _crops(settings: Mapping[str, Any]) -> Any:
    """Return the function that tells a file's crop: its own, its kind's, everyone's, the preset's."""
    wanted = settings["crop"]
    usual = PRESETS[settings["model"]["preset"]].crop
    by_kind = wanted if isinstance(wanted, dict) else {"images": wanted, "driving": wanted}
    own = {name: choices["crop"] for name, choices in settings["files"].items() if "crop" in choices}
    return lambda path, kind: own.get(path.name) or by_kind[kind] or usual


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

    def entry_of(path: Path) -> dict[str, Any] | None:
        stamp = _stamp(path)
        entry: Any = known.get(str(path))
        if fits(entry, {"stamp": [int], "frames": int, "rate": str}) and entry["stamp"] == stamp:
            with suppress(ValueError, ZeroDivisionError):
                if Fraction(entry["rate"]) > 0:
                    return entry
        try:
            clip = media.probe(path)
        except InputError:
            return None
        return {"stamp": stamp, "frames": clip.frames, "rate": str(clip.rate)}

    paths = sorted(files)
    with ThreadPoolExecutor(min(PROBES_AT_ONCE, available_threads()), thread_name_prefix="probe") as pool:
        for path, entry in zip(paths, pool.map(entry_of, paths), strict=True):
            if entry is None:
                counts[path] = (0, Fraction(25))
                continue
            fresh[str(path)] = entry
            counts[path] = (entry["frames"], Fraction(entry["rate"]))
    if fresh != known:
        write_json(PROBES, fresh)
    return counts


def _assign(
    prefix: str,
    weights: Mapping[str, float],
    old: Mapping[str, Sequence[str]],
    most: int,
    heaviest: float,
    *,
    at_least: int = 1,
    after: int = 0,
) -> dict[str, list[str]]:
    """Put items into shards of at most `most` items and about `heaviest` weight; old ones stay where they were.

    at_least: so many shards for the new items, where there are so many. after: the last number given so far.
    """
    shards = {shard: kept for shard, items in old.items() if (kept := [item for item in items if item in weights])}
    placed = {item for items in shards.values() for item in items}
    number = max(after, _last_number(old))
    new = {item: weight for item, weight in weights.items() if item not in placed}
    most = max(1, min(most, len(new) // at_least))
    heaviest = min(heaviest, sum(new.values()) / at_least) if at_least > 1 else heaviest
    current: list[str] = []
    load = 0.0
    for item, weight in new.items():
        if not current or len(current) >= most or load + weight > heaviest:
            number += 1
            current = shards[f"{prefix}-{number:04d}"] = []
            load = 0.0
        current.append(item)
        load += weight
    return shards


def _last_number(shards: Iterable[str]) -> int:
    return max((int(shard.rpartition("-")[2]) for shard in shards), default=0)


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
        seen = seen_films(shard)
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


def seen_films(shard: str) -> dict[str, Any] | None:
    """Return a shard's generation, and by film the size and time that a worker last saw; None where nothing is told."""
    return read_json(films_path(shard), FILMS)


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


def describe(plan: Plan, missing: int, *, on_cluster: bool = False) -> str:
    """Say in a line how much a run is: pairs, jobs, hours and gigabytes still to make, by estimate; and what room."""
    share = missing / max(1, len(plan.pairs))
    hours = share * sum(map(plan._animating_seconds, plan.pairs.values())) / 3600
    drivings = len({take.driving for take in plan.takes.values()})
    free, limit = room(Path(plan.settings["results"]))
    pilot = f" (a pilot, first: {plan.settings['first']})" if plan.is_pilot else ""
    return (
        f"{len(plan.sources)} pictures, {drivings} videos: {len(plan.pairs)} pairs in {len(plan.shards)} jobs{pilot}; "
        f"{missing} to make: about {hours:.1f} {'GPU ' * on_cluster}hours at {plan.rate:g} frames/s, "
        f"{_new_frames(plan, missing) * BYTES_PER_FRAME / 1e9:.1f} GB; {free / 1e9:.1f} GB {limit}"
    )


@dataclass(frozen=True)
class LackOfRoom:
    """Says that the films to make will not fit into the results' disk; certain: even if they turn out small."""

    text: str
    certain: bool

    def __str__(self) -> str:
        return self.text


def lack_of_room(plan: Plan, missing: int) -> LackOfRoom | None:
    """Return what room the films to make lack, by estimate; None where there is enough."""
    folder = Path(plan.settings["results"])
    free, limit = room(folder)
    frames = _new_frames(plan, missing)
    if frames * BYTES_PER_FRAME <= free:
        return None
    return LackOfRoom(
        f"{printable(folder)}: {free / 1e9:.1f} GB {limit}, and the {missing} films to make need about "
        f"{frames * BYTES_PER_FRAME / 1e9:.1f} GB: make room, or name another folder by results in config.yaml",
        frames * LEAST_BYTES_PER_FRAME > free,
    )


def _new_frames(plan: Plan, missing: int) -> float:
    frames = sum(plan.takes[pair.take].frames for pair in plan.pairs.values())
    return frames * missing / max(1, len(plan.pairs))


@cache
def room(folder: Path) -> tuple[int, str]:
    """Return the bytes that can be written into a folder (there or to come), and what sets that limit.

    The limit is the disk's free space or the user's quota where `quota` or `lfs quota` tells of one.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    left = quota_left(folder)
    return (free, "free") if left is None or left >= free else (left, "left of the quota")


def quota_left(folder: Path) -> int | None:
    """Return the bytes that the user's quota leaves on a folder's file system, None where none is told.

    Asks `quota` (NFS, local disks) and `lfs quota` (Lustre), whose lines are alike: where, KiB used, soft and hard
    limit. A limit for a project or a folder is not seen.
    """
    mount = folder.resolve()
    while not mount.is_mount():
        mount = mount.parent
    for command in (
        ["quota", "--no-wrap", "--raw-grace", "--show-mntpoint", "--hide-device"],
        ["lfs", "quota", "-q", "-u", str(os.getuid()), str(mount)],
    ):
        try:
            # `quota` ends with 1 when the quota is used up.
            answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            continue
        for line in answer.stdout.splitlines():
            words = line.split()
            numbers = [word.rstrip("*") for word in words[1:4]]
            if words and words[0] == str(mount) and len(numbers) == 3 and all(map(str.isdigit, numbers)):
                used, soft, hard = map(int, numbers)
                if limit := hard or soft:
                    return max(0, limit - used) * 1024
    return None


def start_run(plan: Plan) -> None:
    """Write the plan as a real run begins. Nothing is written while a dry run only looks.

    Raises TalkiesError while workers of an earlier run are alive whose shards the plan deals out anew: two
    would then write one film. Workers of shards that stay as they are may go on: theirs waits for them.
    """
    stored = read_json(PLAN, {"shards": {"*": [[object]]}})
    if stored is not None and (alive := held_locks(HOME / "locks")):
        dealt = stored.get("shards", {})
        for shard, pairs in plan.shards.items():
            known = [f"{row[0]}/{row[1]}" for row in dealt.get(shard, [])]
            names = [f"{plan.pairs[name].driving}/{plan.pairs[name].image}" for name in pairs]
            if not set(names) <= set(known) and any(set(names) & _pairs_of(dealt, line) for line in alive):
                raise TalkiesError(f"a worker of an earlier run is still at work ({alive[0]}): wait for it or stop it")
    results = Path(plan.settings["results"])
    try:
        results.mkdir(parents=True, exist_ok=True)  # before the jobs: what is not there no image can be shown
    except OSError as error:
        raise TalkiesError(
            f"config.yaml: results: can't make {printable(results)} ({error.strerror}): name another folder"
        ) from None
    plan.save()
    claim(RUN)


def at_work() -> list[str]:
    """Name what is at work in the run folder: workers, or a snakemake of which it is not known that it is gone."""
    running = ["snakemake"] if read_json(RUN) and not is_abandoned(RUN) else []
    return held_locks(HOME / "locks") or running


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
