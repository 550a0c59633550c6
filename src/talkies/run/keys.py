"""The keys of config.yaml: their types, bounds, defaults and meanings. Schema, messages and docs are made from these.

`schema.py` makes workflow/schemas/config.schema.yaml of them; `settings.complete` makes `Settings` of a config.yaml.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType, field

from ..media.crop import Request
from ..program import FileName, FilePath, Program


def in_order(choices: Any) -> dict[str, list[Any]]:
    """Note a Literal's values as they are written, for the schema: msgspec sorts them."""
    return {"in_order": list(get_args(choices))}


Kind = Literal["images", "driving"]
EngineName = Annotated[str, Meta(min_length=1, max_length=40, examples=["fomm", "liveportrait"])]
CropWord = Annotated[
    str,
    Meta(
        # Not by `pattern`, which makes msgspec 0.22 crash where the other choice is a list.
        extra_json_schema={"pattern": "^(face|face:left|face:right|face:[1-9][0-9]{0,2}|center|none)$"},
        examples=["face", "face:left", "face:right", "face:2", "center", "none"],
    ),
]
CropBox = Annotated[list[float], Meta(min_length=4, max_length=4, examples=[[10, 10, 100, 100], [-5, 0.5, 60.5, 40]])]
Crop = Annotated[
    CropWord | CropBox,
    Meta(
        description="face (the largest), face:left, face:right, face:2 (second from the left), center, "
        "none, or a box [x, y, width, height] in pixels of the upright picture."
    ),
]
"""A `Request` as a config.yaml has it."""
Frame = Literal["auto"] | Annotated[int, Meta(ge=0)] | None
"""The frame that relative motion is counted from: its number, the first (None), or the nearest pose."""
Network = Literal[
    "demo",
    "demo-drawings",
    "demo-photographs",
    "vox-256",
    "vox-adv-256",
    "taichi-256",
    "taichi-adv-256",
    "fashion-256",
    "mgif-256",
    "nemo-256",
    "bair-256",
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
X264Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
Encoder = Literal["x264", "nvenc"]
Faceless = Literal["refuse", "allow"]
SlurmKey = Literal[
    "slurm_partition",
    "slurm_account",
    "qos",
    "constraint",
    "runtime",
    "mem_mb",
    "mem_mb_per_cpu",
    "cpus_per_task",
    "cpus_per_gpu",
    "gpu",
    "gpu_model",
    "gres",
    "nodes",
    "tasks",
    "tasks_per_gpu",
    "clusters",
    "slurm_extra",
]
"""A name that the executor does not know would be passed over in silence."""
Resources = Annotated[
    dict[SlurmKey, str | int],
    Meta(
        extra_json_schema={"propertyNames": {"enum": list(get_args(SlurmKey))}},
        examples=[
            {
                "slurm_partition": "gpu",
                "slurm_account": "my_project",
                "qos": "normal",
                "gpu_model": "a100",
                "gpu": 1,
                "mem_mb": 8000,
                "runtime": 60,
            },
            {
                "gres": "gpu:a100:1",
                "constraint": "a100|h100",
                "clusters": "all",
                "cpus_per_task": 4,
                "mem_mb_per_cpu": 2000,
                "runtime": "2h",
            },
            {
                "gpu": 2,
                "cpus_per_gpu": 4,
                "tasks_per_gpu": 1,
                "nodes": 1,
                "tasks": 1,
                "slurm_extra": "--mail-type=END",
            },
        ],
    ),
]


class Model(Struct, frozen=True):
    """The built-in engine's network."""

    preset: Annotated[
        Annotated[Network, Meta(extra_json_schema=in_order(Network))],
        Meta(
            description="The network. demo chooses between demo-drawings and demo-photographs for each "
            "picture. `talkies checkpoint fetch vox-256` gets the weights of another."
        ),
    ] = "demo"
    checkpoint: Annotated[
        FilePath | None,
        Meta(
            description="File of weights (.pth.tar or safetensors). null takes the preset's own, from the "
            "package or fetched."
        ),
    ] = None
    precision: Annotated[
        Annotated[Precision, Meta(extra_json_schema=in_order(Precision))],
        Meta(
            description="auto is half precision (bf16 on a processor, fp16 on a GPU) if it makes nearly "
            "the same frames with these weights, else fp32."
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(description="auto takes a GPU if one is given, and fails if it does not work."),
    ] = "auto"


class Motion(Struct, frozen=True):
    """How the built-in engine moves a picture."""

    relative: Annotated[
        bool,
        Meta(description="Use the video's motion since its first frame; false uses its poses."),
    ] = True
    adapt_scale: Annotated[bool, Meta(description="Scale relative motion by the sizes of the two faces.")] = True
    best_frame: Annotated[
        Frame,
        Meta(
            description="The frame that relative motion counts from: a number, null for the first, or auto "
            "for the pose nearest the picture's."
        ),
    ] = None


class Film(Struct, frozen=True):
    """How films are encoded."""

    preset: Annotated[
        Annotated[X264Preset, Meta(extra_json_schema=in_order(X264Preset))] | None,
        Meta(description="x264's preset; null is veryfast."),
    ] = None
    crf: Annotated[
        Annotated[int, Meta(ge=1, le=40)] | None,
        Meta(description="Quality: a smaller number is better, and takes more bytes; null is 18."),
    ] = None
    encoder: Annotated[
        Annotated[Encoder, Meta(extra_json_schema=in_order(Encoder))],
        Meta(description="nvenc encodes on the job's GPU if that can (preset is then ignored), else x264 does."),
    ] = "x264"


class Slurm(Struct, frozen=True):
    """What jobs ask of SLURM."""

    gpu: Annotated[
        Resources,
        Meta(
            description="For jobs that use the network (motion, animate). `gpu: 0` asks for no GPU.",
        ),
    ] = {}
    cpu: Annotated[
        Resources,
        Meta(description="For the other jobs."),
    ] = {}

    def of(self, kind: str) -> dict[SlurmKey, str | int]:
        """Return what jobs of a kind, gpu or cpu, ask for."""
        return self.gpu if kind == "gpu" else self.cpu


class Gallery(Struct, frozen=True):
    """What the gallery shows."""

    title: Annotated[
        str,
        Meta(
            max_length=1000,
            description="Heading of the gallery.",
            examples=["Talkies", "“Anna & Bruno” <1>"],
        ),
    ] = "Talkies"
    mosaic: Annotated[
        Annotated[int, Meta(ge=2, le=100)] | None,
        Meta(description="Also show so many films of each video at once, in one film."),
    ] = None
    report: Annotated[
        bool,
        Meta(
            description="Include gallery and films in `snakemake --report report.zip`, except private "
            "ones. false allows report.html."
        ),
    ] = True


class Crops(Struct, frozen=True):
    """How files are cut, by kind; None: the engine's or the preset's own way."""

    images: Annotated[Request | None, Meta(description="For pictures.")] = None
    driving: Annotated[Request | None, Meta(description="For videos.")] = None


class FileChoices(Struct, frozen=True):
    """What config.yaml says of a single file."""

    crop: Annotated[Request, Meta(description="How this file is cut.")] | UnsetType = UNSET
    start: (
        Annotated[
            Annotated[float, Meta(ge=0)] | Annotated[int, Meta(ge=0)],
            Meta(description="Second to start at."),
        ]
        | UnsetType
    ) = UNSET
    end: (
        Annotated[
            Annotated[float, Meta(gt=0)] | Annotated[int, Meta(gt=0)],
            Meta(description="Second to end at."),
        ]
        | UnsetType
    ) = UNSET
    flip: Annotated[bool, Meta(description="Mirror the video.")] | UnsetType = UNSET
    relative: Annotated[bool, Meta(description="As motion.relative.")] | UnsetType = UNSET
    adapt_scale: Annotated[bool, Meta(description="As motion.adapt_scale.")] | UnsetType = UNSET
    best_frame: Annotated[Frame, Meta(description="As motion.best_frame.")] | UnsetType = UNSET
    audio: (
        Annotated[
            bool | FileName,
            Meta(description="As audio, or a file whose sound is used, in the run folder or among the videos."),
        ]
        | UnsetType
    ) = UNSET
    private: (
        Annotated[bool, Meta(description="Keep its films out of results/index.html; results/private.html shows all.")]
        | UnsetType
    ) = UNSET
    paste_back: Annotated[bool, Meta(description="As paste_back.")] | UnsetType = UNSET


class Written(Struct, frozen=True):
    """The keys that `Settings` has in another form, as a config.yaml has them."""

    engine: Annotated[
        EngineName | Program,
        Meta(
            description="What makes the films: fomm, the built-in model; a known engine (`talkies engine "
            "list`); or a program, by its command."
        ),
    ] = "fomm"
    engines: Annotated[
        Annotated[tuple[EngineName | Program, ...], Meta(min_length=1, max_length=20)] | None,
        Meta(
            description="Several engines in place of one: each makes each pair, as "
            "results/<driving>/<image>@<engine>.mp4."
        ),
    ] = None
    crop: Annotated[
        Crop | Crops | None,
        Meta(
            description="How pictures and videos are cut to a square: face (the largest), face:left, "
            "face:right, face:2, center, none, or a box [x, y, width, height]. null: face for "
            "vox, nemo and demo, else center."
        ),
    ] = None


class Settings(Struct, frozen=True, kw_only=True):
    """A run's settings: every key of config.yaml, checked.

    engines: those that make films, by name, None for the built-in one. crop: of all files of a kind.
    """

    images: Annotated[
        FileName,
        Meta(description="Folder of pictures (png, jpg, webp, heic, tif, bmp, gif). Hidden files are ignored."),
    ] = "examples/images"
    driving: Annotated[
        FileName,
        Meta(description="Folder of driving videos (mp4, mov, webm, mkv, avi, gif, ...)."),
    ] = "examples/driving"
    pairs: Annotated[
        FilePath | None,
        Meta(
            description="Table of the pairs to make, tab separated (columns below); null makes every "
            "picture with every video."
        ),
    ] = None
    first: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Make only the first N pairs, as a pilot; the next run without it makes the others."),
    ] = None
    results: Annotated[FileName, Meta(description="Folder of the films and the gallery.")] = "results"
    engines: dict[str, Program | None]
    model: Model = field(default_factory=Model)
    crop: dict[Kind, Request]
    files: Annotated[
        dict[Annotated[str, Meta(max_length=255)], FileChoices],
        Meta(
            description="Choices for single files, by name with suffix. A video's go before a picture's, "
            "the pairs table before both."
        ),
    ] = {}
    multi_face: Annotated[
        bool,
        Meta(
            description="Animate each face of a picture that is cropped to its face, as <image>@face1, "
            "<image>@face2, ..., from the left."
        ),
    ] = False
    faceless: Annotated[
        Annotated[Faceless, Meta(extra_json_schema=in_order(Faceless))],
        Meta(
            description="refuse fails the pairs of a driving video without a face, if a network for faces "
            "animates by it and its crop is a face. Films already made stay."
        ),
    ] = "refuse"
    motion: Motion = field(default_factory=Motion)
    audio: Annotated[bool, Meta(description="Give the film the driving video's sound.")] = True
    paste_back: Annotated[
        bool,
        Meta(description="Show the whole picture, at most 4,096 pixels a side, with the animated square in it."),
    ] = False
    upscale: Annotated[
        Literal[512] | None,
        Meta(description="Enlarge the square to 512 pixels (ffmpeg's lanczos). It adds no detail."),
    ] = None
    film: Film = field(default_factory=Film)
    provenance: Annotated[
        bool,
        Meta(description="Tag each film as made by a model (comment, IPTC digital source type)."),
    ] = True
    pairs_per_job: Annotated[
        int,
        Meta(
            ge=1,
            le=2000,
            description="The most pairs of one job.",
        ),
    ] = 2000
    job_minutes: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000)] | Annotated[int, Meta(gt=0, le=1_000_000)],
        Meta(
            description="Minutes of work in one job, by estimate.",
        ),
    ] = 30
    gpus: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="GPUs that the cluster gives you at once. There are at least as many jobs.",
        ),
    ] = 1
    frames_per_second: Annotated[
        Annotated[float, Meta(ge=0.001, le=1_000_000)] | Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(
            description="Expected speed, for estimates and walltimes; null learns it from finished films (10 at first)."
        ),
    ] = None
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=9999)] | None,
        Meta(description="Cores of a job that uses the network; null: all that Snakemake has, on a cluster 4."),
    ] = None
    scratch: Annotated[
        FilePath | None,
        Meta(
            description="Folder on a fast disk of the machine that runs the job, for unfinished films and "
            "copies. $VARIABLES are filled in. null takes the first usable of $SLURM_TMPDIR, "
            "$L_SCRATCH, $TMPDIR and the system's temporary folder. Nothing stays in it."
        ),
    ] = None
    check: Annotated[
        bool,
        Meta(description="Look at every picture and video, and show warnings in the gallery. No film waits for it."),
    ] = True
    slurm: Annotated[
        Slurm,
        Meta(
            description="What jobs ask of SLURM, by the names of Snakemake's SLURM executor. Memory, time, "
            "cores and GPU have defaults."
        ),
    ] = field(default_factory=Slurm)
    container: Annotated[
        FileName | None,
        Meta(
            description="Image of the jobs with `--sdm apptainer`: a .sif, or docker:// or oras:// pinned "
            "by digest (...@sha256:...); null for none.",
            examples=[
                "talkies.sif",
                "docker://registry.example/talkies"
                "@sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            ],
        ),
    ] = "talkies.sif"
    gallery: Gallery = field(default_factory=Gallery)

    @property
    def programs(self) -> dict[str, Program]:
        """The engines that are other programs, by name."""
        return {name: program for name, program in self.engines.items() if program is not None}

    def crop_of(self, file: Path, kind: Kind) -> Request:
        """Return how a file is cut: by its own entry, or as all of its kind."""
        own = self.files.get(file.name)
        return self.crop[kind] if own is None or own.crop is UNSET else own.crop
