"""The settings of a run, typed: the keys of config.yaml and the columns of the pairs table.

    settings = load(Path("config.yaml"))       # or complete(keys): every key, defaults filled in, files looked at
    settings.model.preset, settings.programs, settings.crop_of(file, "images")
    for line, row in read_pairs(path): ...     # each line of the pairs table as a Row

A key is a field of a Section: its type says which values fit, the text below it what it means. From these come the
one-line messages here, and the docs and the schema in `config_docs`. A fault raises TalkiesError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict, force_setattr, replace

from .engines import FOMM, program
from .engines.program import EngineName, FilePath, ImageAddress, Program
from .errors import TalkiesError, printable
from .files import from_plain
from .fomm.model.checkpoint_head import check_head
from .fomm.model.presets import BETTER, PRESETS
from .fomm.model.published import check_unchanged, find_weights
from .media.crop import FORMS, Request, parse

T = TypeVar("T")

Kind = Literal["images", "driving"]
Count = Annotated[int, Meta(ge=1, le=10**9)]
PlainPath = Annotated[
    str, Meta(title="a path without braces", pattern=r"^(?!.*[^/]{256})[^\0\ud800-\udfff{}]{1,4095}$")
]
"""Of what Snakemake is told of: it takes a brace for a wildcard."""
BestFrame = Literal["auto"] | Annotated[int, Meta(ge=0, le=10**9)] | None
"""The frame that relative motion is counted from: its number, the first (None), or the nearest pose."""
Network = Literal[
    "demo", "demo-drawings", "demo-photographs", "vox-256", "vox-adv-256", "taichi-256", "taichi-adv-256",
    "fashion-256", "mgif-256", "nemo-256", "bair-256",
]  # fmt: skip
SlurmKey = Literal[
    "slurm_partition", "slurm_account", "qos", "constraint", "runtime", "mem_mb", "mem_mb_per_cpu", "cpus_per_task",
    "cpus_per_gpu", "gpu", "gpu_model", "gres", "nodes", "tasks", "tasks_per_gpu", "clusters", "slurm_extra",
]  # fmt: skip
"""A name that the executor does not know would be passed over in silence."""


X264Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
Variant = Annotated[str, Meta(title="at most 40 letters, digits and . _ -", pattern=r"^[A-Za-z0-9._-]{1,40}$(?!\n)")]
ENGINES = "a list of engines (`- NAME`, or `- name: NAME` with `command:` below it)"
Engines = Annotated[tuple[EngineName | Program, ...], Meta(title=ENGINES, min_length=1, max_length=20)]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """Some keys."""


class Model(Section, frozen=True):
    """The built-in engine's network."""

    preset: Network = "demo"
    """The network. demo chooses between demo-drawings and demo-photographs for each picture.
    `talkies checkpoint fetch vox-256` gets the weights of another."""
    checkpoint: PlainPath | None = None
    """File of weights (.pth.tar or safetensors). null takes the preset's own, from the package or fetched."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is half precision (bf16 on a processor, fp16 on a GPU) if it makes nearly the same frames with these
    weights, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if one is given, and fails if it does not work."""
    layers: bool = True
    """In photographs, move the person in front of a still background, if the network can tell them apart (demo)."""


class Crops(Section, frozen=True):
    """How files are cut, by kind; None: as the engine or the preset does it."""

    images: Request | None = None
    """For pictures."""
    driving: Request | None = None
    """For videos."""


class Choices(Section, frozen=True):
    """What config.yaml or a row of the pairs table says of a single file or pair."""

    crop: Request | UnsetType = UNSET
    """How the file is cut."""
    start: Annotated[float, Meta(ge=0, le=10**9)] | UnsetType = UNSET
    """Second to start at."""
    end: Annotated[float, Meta(ge=0, le=10**9)] | UnsetType = UNSET
    """Second to end at."""
    flip: bool | UnsetType = UNSET
    """Mirror the video."""
    relative: bool | UnsetType = UNSET
    """As motion.relative."""
    adapt_scale: bool | UnsetType = UNSET
    """As motion.adapt_scale."""
    best_frame: BestFrame | UnsetType = UNSET
    """As motion.best_frame; a number counts from start."""
    audio: bool | FilePath | UnsetType = UNSET
    """As audio, or a file whose sound is used, in the run folder or among the videos."""
    private: bool | UnsetType = UNSET
    """Keep its films out of results/index.html and of `talkies publish`; results/private.html shows all."""
    paste_back: bool | UnsetType = UNSET
    """As paste_back."""

    def __post_init__(self) -> None:
        """Read a text of the pairs table that is true or false, which is no file's name."""
        if self.audio in ("true", "false"):
            force_setattr(self, "audio", self.audio == "true")


class Row(Choices, frozen=True, kw_only=True, gc=False):
    """A row of the pairs table, by columns; an empty cell takes the run's setting."""

    image: FilePath
    """File name of a picture; the suffix may be left out."""
    driving: FilePath
    """File name of a video, likewise."""
    variant: Variant | None = None
    """Names this version of the pair; its film is <image>@<variant>.mp4."""
    crop: Request | UnsetType = UNSET
    """How the picture is cut: face, face:left, face:right, face:2, center, none or x,y,width,height."""
    driving_crop: Request | UnsetType = UNSET
    """How the video is cut, likewise."""


class Motion(Section, frozen=True):
    """How the built-in engine moves a picture."""

    relative: bool = True
    """Use the video's motion since its first frame; false uses its poses."""
    adapt_scale: bool = True
    """Scale relative motion by the sizes of the two faces."""
    best_frame: BestFrame = None
    """The frame that relative motion counts from: a number, null for the first, or auto for the pose nearest the
    picture's."""


class Film(Section, frozen=True):
    """How films are encoded."""

    preset: X264Preset | None = None
    """x264's preset; null is veryfast."""
    crf: Annotated[int, Meta(ge=1, le=40)] | None = None
    """Quality: a smaller number is better, and takes more bytes; null is 18."""
    encoder: Literal["x264", "nvenc"] = "x264"
    """nvenc encodes on the job's GPU if that can (preset is then ignored), else x264 does."""


class Slurm(Section, frozen=True):
    """What jobs ask of SLURM."""

    gpu: dict[SlurmKey, str | int] = {}
    """For jobs that use the network (motion, animate). No GPU: `gpu: 0`, or model.device: cpu."""
    cpu: dict[SlurmKey, str | int] = {}
    """For the other jobs."""

    def of(self, kind: str) -> dict[SlurmKey, str | int]:
        """Return what jobs of a kind, gpu or cpu, ask for."""
        return self.gpu if kind == "gpu" else self.cpu


class Gallery(Section, frozen=True):
    """What the gallery shows."""

    title: Annotated[str, Meta(title="a text of at most 1000 characters", max_length=1000)] = "Talkies"
    """Heading of the gallery."""
    mosaic: Annotated[int, Meta(ge=2, le=100)] | None = None
    """Also show so many films of each video at once, in one film."""
    report: bool = True
    """Include gallery and films in `snakemake --report report.zip`, except private ones. false allows report.html."""


class Settings(Section, frozen=True):
    """A run's settings: every key of config.yaml."""

    images: FilePath = "examples/images"
    """Folder of pictures (png, jpg, webp, heic, tif, bmp, gif). Hidden files are ignored."""
    driving: FilePath = "examples/driving"
    """Folder of driving videos (mp4, mov, webm, mkv, avi, gif, ...)."""
    pairs: FilePath | None = None
    """Table of the pairs to make, tab separated (columns below); null makes every picture with every video."""
    first: Count | None = None
    """Make only the first N pairs, as a pilot; the next run without it makes the others."""
    results: PlainPath = "results"
    """Folder of the films and the gallery."""
    engine: EngineName | Program = FOMM
    """What makes the films: fomm, the built-in model; a known engine (`talkies engine list`); or a program, by its
    command."""
    engines: Engines | None = None
    """Several engines in place of one: each makes each pair, as results/<driving>/<image>@<engine>.mp4."""
    model: Model = Model()
    crop: Crops = Crops()
    """How pictures and videos are cut to a square: face (the largest), face:left, face:right, face:2 (second from the
    left), center, none, or a box [x, y, width, height] in pixels of the upright picture. null: face for vox, nemo and
    demo, else center."""
    files: dict[str, Choices] = {}
    """Choices for single files, by name with suffix. A video's go before a picture's, the pairs table before both."""
    multi_face: bool = False
    """Animate each face of a picture that is cropped to its face, as <image>@face1, <image>@face2, ..., from the
    left."""
    faceless: Literal["refuse", "allow"] = "refuse"
    """refuse fails the pairs of a driving video without a face, if a network for faces animates by it and its crop is
    a face. Films already made stay."""
    motion: Motion = Motion()
    audio: bool = True
    """Give the film the driving video's sound."""
    paste_back: bool = False
    """Show the whole picture, at most 4,096 pixels a side, with the animated square in it."""
    upscale: Literal[512] | None = None
    """Enlarge the square to 512 pixels (ffmpeg's lanczos). It adds no detail."""
    film: Film = Film()
    provenance: bool = True
    """Tag each film as made by a model (comment, IPTC digital source type)."""
    pairs_per_job: Annotated[int, Meta(ge=1, le=2000)] = 2000
    """The most pairs of one job."""
    job_minutes: Annotated[float, Meta(ge=0.001, le=1_000_000)] = 30.0
    """Minutes of work in one job, by estimate."""
    gpus: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """GPUs of the cluster that jobs use at once, at most."""
    frames_per_second: Annotated[float, Meta(ge=0.001, le=1_000_000)] | None = None
    """Expected speed, for estimates and walltimes; null learns it from finished films (10 at first)."""
    threads: Annotated[int, Meta(ge=1, le=9999)] | None = None
    """Cores of a job that uses the network; null: all that Snakemake has, on a cluster 4."""
    scratch: FilePath | None = None
    """Folder on a fast disk of the machine that runs the job, for unfinished films. $VARIABLES are filled
    in. null takes the first usable of $SLURM_TMPDIR, $L_SCRATCH, $TMPDIR and the system's temporary folder. Nothing
    stays in it."""
    check: bool = True
    """Look at every picture and video, and show warnings in the gallery. No film waits for it."""
    slurm: Slurm = Slurm()
    """What jobs ask of SLURM, by the names of Snakemake's SLURM executor. Memory, time, cores and GPU have defaults."""
    container: ImageAddress | None = "talkies.sif"
    """Image of the jobs with `--sdm apptainer`: a .sif, or docker:// or oras:// pinned by digest (...@sha256:...);
    null for none."""
    gallery: Gallery = Gallery()
    own: dict[str, Any] = {}
    """Settings of stages of your own in the folder stages/, as each of them reads them."""

    @property
    def by_engine(self) -> dict[str, Program | None]:
        """The engines that make the films, by name; None for the built-in one."""
        chosen = [self.engine] if self.engines is None else self.engines
        return dict((each, None) if isinstance(each, str) else (each.name, each) for each in chosen)

    @property
    def programs(self) -> dict[str, Program]:
        """The engines that are other programs, by name."""
        return {name: each for name, each in self.by_engine.items() if each is not None}

    @property
    def better(self) -> str | None:
        """How films get better; None if none of them is made by a network of the package."""
        by_package = FOMM in self.by_engine and PRESETS[self.model.preset].packaged and not self.model.checkpoint
        return BETTER.format("model: {preset: vox-adv-256}") if by_package else None

    def crop_of(self, file: Path, kind: Kind) -> Request:
        """Return how a file is cut: by its own entry, as all of its kind, or as the engine or the preset does it."""
        if (own := self.files.get(file.name)) and own.crop is not UNSET:
            return own.crop
        of_kind = self.crop.images if kind == "images" else self.crop.driving
        first = next(iter(self.by_engine.values()))
        return of_kind or parse(PRESETS[self.model.preset].crop if first is None else first.crop)


# --- from a file or the command line -----------------------------------------------------------------------


def load(path: Path) -> Settings:
    """Return the settings of a config file."""
    return complete(read(path))


def complete(config: Mapping[str, Any]) -> Settings:
    """Return the settings of config.yaml's keys, defaults filled in; a published preset's checkpoint is its file.

    A text is also read as the true, false, null or number that it shows: `--config audio=false` gives a text. The files
    that the settings name are looked at; the folders of pictures and videos are not.
    """
    # An empty section in YAML (`model:` and nothing below it) is null, and means its defaults.
    sections = [key for key, usual in asdict(Settings()).items() if isinstance(usual, Section | dict)]
    written = {key: value for key, value in config.items() if value is not None or key not in sections}
    if "crop" in written and not isinstance(written["crop"], Mapping):
        request = checked(written["crop"], Request, "config.yaml", "crop")
        written["crop"] = dict.fromkeys(get_args(Kind), request)
    if "engine" in written:
        written["engine"] = program.filled_in(written["engine"], "config.yaml: engine")
    if isinstance(listed := written.get("engines"), list):
        written["engines"] = [program.filled_in(each, f"config.yaml: engines.{n}") for n, each in enumerate(listed)]
    settings = checked(written, Settings, "config.yaml")
    if settings.engines is not None and settings.engine != FOMM:
        raise TalkiesError("config.yaml: engine: is given besides engines: write it into that list, and remove it here")
    chosen = {f"engines.{n}": each for n, each in enumerate(settings.engines or ())}
    program.check(chosen or {"engine": settings.engine})
    _check_results(Path(settings.results))
    return _with_weights(settings) if FOMM in settings.by_engine else settings


def _check_results(folder: Path) -> None:
    """Raise TalkiesError if a folder can't be made because it, or one above it, is a file."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise TalkiesError(f"config.yaml: results: {printable(place)} is no folder: move it away, or name another")


def _with_weights(settings: Settings) -> Settings:
    """Return the settings with the path of the network's weights, which are looked at."""
    preset, checkpoint = settings.model.preset, settings.model.checkpoint
    if checkpoint is None and PRESETS[preset].checkpoint is not None:
        checkpoint = str(find_weights(preset))
    if checkpoint is None:
        return settings
    if not Path(checkpoint).exists():
        raise TalkiesError(f"config.yaml: model.checkpoint: there is no file {printable(checkpoint)}: give its path")
    check_head(checkpoint, preset)
    check_unchanged(Path(checkpoint))
    return replace(settings, model=replace(settings.model, checkpoint=checkpoint))


def given(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the keys of a workflow's configuration that differ from the file: those of the command line.

    Without `first`, since a pilot is for one run. None where there is no such file, as in a deployed workflow.
    """
    if not path.exists():
        return {}
    stated = read(path)
    return {key: value for key, value in config.items() if key != "first" and stated.get(key, stated) != value}


def read(path: Path) -> dict[str, Any]:
    """Return the keys of a config file, unchecked."""
    import yaml  # only here: jobs take settings from the plan, and start faster

    try:
        content = yaml.load(path.read_text("utf-8-sig"), _strict_loader()) or {}
    except OSError as error:
        raise TalkiesError(f"{printable(path)}: can't read it ({error.strerror}): mend it, or give another") from None
    except Exception as error:  # PyYAML's functions for dates, numbers and the like raise any error
        said = printable(" ".join(str(error).split()))[:300]
        raise TalkiesError(f"{printable(path)}: not valid YAML, mend it: {said}") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise TalkiesError(f"{printable(path)}: holds a {kind}, not keys and values: write lines like `images: FOLDER`")
    return content


@cache
def _strict_loader() -> Any:
    """Return PyYAML's safe loader, which refuses a key that is given twice."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: dict[Any, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    line = key.start_mark.line + 1
                    if key.value in seen:
                        raise yaml.YAMLError(f"{key.value} is given twice, in lines {seen[key.value]} and {line}")
                    seen[key.value] = line
            return super().construct_mapping(node, deep)

    return StrictLoader


def read_pairs(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the pairs table's rows, each with the number of its line. A message names the line and the column."""
    shown, columns, rows = printable(path), list(fields_of(Row)), 0
    try:
        first, *lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise TalkiesError(f"config.yaml: pairs: can't read {shown} ({error.strerror}): mend the path") from None
    except UnicodeDecodeError:
        raise TalkiesError(f"{shown}: the pairs table is not UTF-8 text: save it as that") from None
    header = [cell.strip() for cell in first.split("\t")]
    unknown = [name for name in header if name not in columns]
    if unknown or len(set(header)) < len(header) or not {"image", "driving"} <= set(header):
        what = f"unknown column {_short(repr(unknown[0]))}" if unknown else "a column is missing or named twice"
        known = ", ".join(name for name in columns if name not in ("image", "driving"))
        raise TalkiesError(f"{shown}: line 1: {what}: name image, driving and, as needed, {known}, separated by tabs")
    for number, line in enumerate(lines, start=2):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) > len(header) and any(cells):
            raise TalkiesError(f"{shown}: line {number}: more cells than columns: take some away, or name them")
        if row := {name: cell for name, cell in zip(header, cells, strict=False) if cell}:
            rows += 1
            yield number, checked(row, Row, f"{shown}: line {number}")
    if not rows:
        raise TalkiesError(f"{shown}: the pairs table has no row: write one, or take all pairs by pairs: null")


# --- what does not fit, in one line ------------------------------------------------------------------------


def checked(value: Any, kind: type[T], where: str, key: str = "") -> T:
    """Return a value of YAML, JSON or the command line as a type.

    Raises TalkiesError for the innermost part that does not fit: where, its dotted key, and what may stand there.
    """
    try:
        return msgspec.convert(value, kind, strict=False, dec_hook=from_plain)
    except (ValueError, RecursionError) as error:
        said = str(error)
    parts = next(filter(None, (_parts(value, option) for option in options(kind))), {})
    for name, part in (value.items() if isinstance(value, Mapping) else enumerate(value)) if parts else ():
        below = f"{key}{'.' * bool(key)}{_short(str(name))}"
        if name not in parts:
            raise TalkiesError(f"{where}: {_explain_key(below, name, parts)}")
        checked(part, parts[name], where, below)
    if Request in options(kind):
        raise TalkiesError(f"{where}: {key}: {said}")
    if missing := re.search("missing required field `(.*)`", said):
        raise TalkiesError(f"{where}: {key}{'.' * bool(key)}{missing[1]}: is missing: fill it in")
    shown = "null" if value is None else _short(repr(value))
    named = [str(each) for option in options(kind) if get_origin(option) is Literal for each in get_args(option)]
    near = get_close_matches(str(value), named, n=1)
    meant = f": did you mean {near[0]}?" if near else ""
    raise TalkiesError(f"{where}: {key}: must be {words(kind)}, not {shown}{meant}")


def _parts(value: Any, kind: Any) -> dict[Any, Any]:
    """Return the types of a value's parts, by key or number; empty if this type has none."""
    if isinstance(value, Mapping):
        return fields_of(kind) or (dict.fromkeys(value, get_args(kind)[1]) if get_origin(kind) is dict else {})
    is_list = get_origin(kind) is tuple and isinstance(value, list)
    return dict.fromkeys(range(len(value)), get_args(kind)[0]) if is_list else {}


def _explain_key(key: str, name: Any, known: Mapping[str, Any]) -> str:
    """Return what is wrong with an unknown key, and which key may have been meant: never the same again."""
    section = _sections().get(name)
    if section is not None:
        return f"{key}: is no key here: move it {f'below {section}' if section else 'to the top level'}"
    if near := get_close_matches(str(name), known, n=1):
        return f"{key}: unknown key: write {near[0]}, or take it away"
    return f"{key}: unknown key: take it away, or write one of {', '.join(sorted(known))}"


@cache
def _sections() -> dict[Any, str]:
    """Return the section of each key of config.yaml; empty for the keys of the top level."""
    of_sections = [(section, options(kind)) for section, kind in reversed(fields_of(Settings).items())]
    found = {name: section for section, kinds in of_sections for kind in kinds for name in fields_of(kind)}
    return found | dict.fromkeys(fields_of(Settings), "")


def _short(text: str) -> str:
    return printable(text[:80])[:80]


# --- types in words ----------------------------------------------------------------------------------------

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}


def options(kind: Any) -> list[Any]:
    """Return the types that a type is a choice of."""
    if get_origin(kind) is Annotated:
        return options(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [option for each in get_args(kind) if each is not UnsetType for option in options(each)]
    return [kind]


def is_section(kind: Any) -> bool:
    """Return whether a type is a section of named keys."""
    return isinstance(kind, type) and issubclass(kind, Struct)


@cache
def fields_of(kind: Any) -> dict[str, Any]:
    """Return the keys of a section and their types; empty for another type, and where any key may stand."""
    if get_origin(kind) is dict and get_origin(get_args(kind)[0]) is Literal:
        return dict.fromkeys(get_args(get_args(kind)[0]), get_args(kind)[1])
    if is_section(kind):
        return get_type_hints(kind, include_extras=True)
    return {}


def words(kind: Any) -> str:
    """Return in words which values a type allows."""
    inside = [each for each in get_args(kind) if each is not UnsetType]
    match get_origin(kind):
        case None:
            return FORMS if kind is Request else NAMES.get(kind, "a section of keys")
        case origin if origin is Annotated:
            limits = next(each for each in inside if isinstance(each, Meta))
            bounds = f"of at least {limits.ge}" if limits.le == 10**9 else f"from {limits.ge} to {limits.le}"
            return limits.title or f"{words(inside[0])} {bounds}"
        case origin if origin is Literal:
            return " or ".join(", ".join(map(str, inside)).rsplit(", ", 1))
        case origin if origin is dict:
            return f"a section of {', '.join(fields_of(kind)) or 'names, each with a section of keys'}"
        case origin if origin is tuple:
            return f"a list, each {words(inside[0])}"
    return " or ".join(map(words, inside))
