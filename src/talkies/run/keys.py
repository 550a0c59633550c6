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
        description="face (of several the largest), face:left, face:right, face:2 (the second from the left), center, "
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
            description="The network. The demo ones are in the package, for faces: demo looks at each picture and "
            "takes the network for drawings or the one for photographs; the other two take one for all. "
            "`talkies checkpoint fetch vox-256` and the like get the others' weights."
        ),
    ] = "demo"
    checkpoint: Annotated[
        FilePath | None,
        Meta(
            description="Path of the weights (.pth.tar as published, or safetensors). null for the demo ones' own, and "
            "for those that were fetched (found in the run folder's weights, $TALKIES_WEIGHTS or your cache folder)."
        ),
    ] = None
    precision: Annotated[
        Annotated[Precision, Meta(extra_json_schema=in_order(Precision))],
        Meta(
            description="Numbers the generator computes in. auto is half precision (bf16 on a processor that computes "
            "it, fp16 on a GPU) where it makes nearly the same frames with these weights, else fp32."
        ),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(description="auto takes a GPU where one is given and fails where it does not work."),
    ] = "auto"


class Motion(Struct, frozen=True):
    """How the built-in engine moves a picture."""

    relative: Annotated[
        bool,
        Meta(
            description="Give the picture the video's motion since its first frame (true), or the video's poses "
            "themselves."
        ),
    ] = True
    adapt_scale: Annotated[bool, Meta(description="Scale relative motion by the sizes of the two faces.")] = True
    best_frame: Annotated[
        Frame,
        Meta(
            description="The frame that relative motion is counted from: null for the first, a number, or auto for the "
            "pose nearest each picture's."
        ),
    ] = None


class Film(Struct, frozen=True):
    """How films are encoded."""

    preset: Annotated[
        Annotated[X264Preset, Meta(extra_json_schema=in_order(X264Preset))] | None,
        Meta(
            description="x264's preset: slower ones keep more of the picture in as many bytes. null takes the one "
            "measured best (docs/performance.md); where that changes, films that are there stay."
        ),
    ] = None
    crf: Annotated[
        Annotated[int, Meta(ge=1, le=40)] | None,
        Meta(description="Quality of films, smaller is better and larger in bytes; null for the one measured best."),
    ] = None
    encoder: Annotated[
        Annotated[Encoder, Meta(extra_json_schema=in_order(Encoder))],
        Meta(
            description="nvenc encodes on the GPU where the one of a job can (A100 and H100 can't), else x264 does. "
            "Then preset is not looked at."
        ),
    ] = "x264"


class Slurm(Struct, frozen=True):
    """What jobs ask of SLURM."""

    gpu: Annotated[
        Resources,
        Meta(
            description="For the jobs that use the network (motion, animate). `gpu: 0` on a cluster without GPUs.",
        ),
    ] = {}
    cpu: Annotated[
        Resources,
        Meta(description="For the other jobs (prepare, remux, check, show)."),
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
            description="Heading of results/index.html.",
            examples=["Talkies", "“Anna & Bruno” <1>"],
        ),
    ] = "Talkies"
    mosaic: Annotated[
        Annotated[int, Meta(ge=2, le=100)] | None,
        Meta(
            description="Also show the first so many talkies of each driving video at once in one film, with their "
            "sound, linked at the video's heading. null makes none; `talkies mosaic` makes one of any films."
        ),
    ] = None
    report: Annotated[
        bool,
        Meta(
            description="Have `snakemake --report report.zip` carry the gallery with all its films (but private ones). "
            "Turn it off for a report of the run alone, as one page (report.html)."
        ),
    ] = True


class Crops(Struct, frozen=True):
    """How files are cut, by kind; None: the engine's or the preset's own way."""

    images: Annotated[Request | None, Meta(description="For all pictures.")] = None
    driving: Annotated[Request | None, Meta(description="For all videos.")] = None


class FileChoices(Struct, frozen=True):
    """What config.yaml says of a single file."""

    crop: Annotated[Request, Meta(description="How this file is cut.")] | UnsetType = UNSET
    start: (
        Annotated[
            Annotated[float, Meta(ge=0)] | Annotated[int, Meta(ge=0)],
            Meta(description="Second of the video to start at."),
        ]
        | UnsetType
    ) = UNSET
    end: (
        Annotated[
            Annotated[float, Meta(gt=0)] | Annotated[int, Meta(gt=0)],
            Meta(description="Second of the video to end at."),
        ]
        | UnsetType
    ) = UNSET
    flip: Annotated[bool, Meta(description="Mirror the video, so that a head turns the other way.")] | UnsetType = UNSET
    relative: Annotated[bool, Meta(description="As motion.relative.")] | UnsetType = UNSET
    adapt_scale: Annotated[bool, Meta(description="As motion.adapt_scale.")] | UnsetType = UNSET
    best_frame: Annotated[Frame, Meta(description="As motion.best_frame.")] | UnsetType = UNSET
    audio: (
        Annotated[
            bool | FileName,
            Meta(
                description="As audio, or a file (in this folder or among the videos) whose sound is taken from its "
                "beginning."
            ),
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
            description="What makes the films: fomm, the built-in First Order Motion Model (its keys are under model); "
            "the name of a known engine (`talkies engine list`); or another program, by its command (docs/engines.md)."
        ),
    ] = "fomm"
    engines: Annotated[
        Annotated[tuple[EngineName | Program, ...], Meta(min_length=1, max_length=20)] | None,
        Meta(
            description="Several engines beside one another, in place of engine: each pair is made by each, as "
            "results/<driving>/<image>@<engine>.mp4."
        ),
    ] = None
    crop: Annotated[
        Crop | Crops | None,
        Meta(
            description="How pictures and videos are cut to a square. null is the preset's own way (face for vox, nemo "
            "and demo, center for the others). A mode for all, or by kind; for single files see files."
        ),
    ] = None


class Settings(Struct, frozen=True, kw_only=True):
    """A run's settings: every key of config.yaml, checked.

    engines: those that make films, by name, None for the built-in one. crop: of all files of a kind.
    """

    images: Annotated[
        FileName,
        Meta(description="Folder of pictures (png, jpg, webp, heic, tif, bmp, gif). Hidden files are passed over."),
    ] = "examples/images"
    driving: Annotated[
        FileName,
        Meta(
            description="Folder of driving videos (mp4, mov, webm, mkv, avi, gif, ...). Their sound becomes the "
            "talkies' sound."
        ),
    ] = "examples/driving"
    pairs: Annotated[
        FilePath | None,
        Meta(
            description="Table of the pairs to make (tab separated, with a header; its columns stand below the keys), "
            "or null for every picture with every video."
        ),
    ] = None
    first: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Only so many of the pairs, the first ones: a pilot, `snakemake --config first=3`. Left away "
            "again, the run goes on with the others. Nothing is computed twice."
        ),
    ] = None
    results: Annotated[FileName, Meta(description="Folder of the talkies and their gallery.")] = "results"
    engines: dict[str, Program | None]
    model: Model = field(default_factory=Model)
    crop: dict[Kind, Request]
    files: Annotated[
        dict[Annotated[str, Meta(max_length=255)], FileChoices],
        Meta(
            description="Choices for single files, by name with suffix. What a video's entry says goes before what a "
            "picture's says, and the pairs table before both."
        ),
    ] = {}
    multi_face: Annotated[
        bool,
        Meta(
            description="Animate each face of a picture that is cropped to its face and has several, from left to "
            "right: the films are <image>@face1, <image>@face2, ..."
        ),
    ] = False
    faceless: Annotated[
        Annotated[Faceless, Meta(extra_json_schema=in_order(Faceless))],
        Meta(
            description="What becomes of a driving video in which no face is seen, where a network for faces is to "
            "animate by it and it is not cropped by hand (center, none or a box). refuse fails its pairs; films that "
            "stand are kept."
        ),
    ] = "refuse"
    motion: Motion = field(default_factory=Motion)
    audio: Annotated[bool, Meta(description="Put the driving video's own sound onto the talkie.")] = True
    paste_back: Annotated[
        bool,
        Meta(
            description="Show the whole picture, at its own size (4,096 pixels a side at most), with the animated "
            "square set into it, its border blended. Where false the film is the square alone."
        ),
    ] = False
    upscale: Annotated[
        Literal[512] | None,
        Meta(
            description="Enlarge the square to 512 pixels by ffmpeg (lanczos). It looks smoother in a large window; no "
            "detail is added."
        ),
    ] = None
    film: Film = field(default_factory=Film)
    provenance: Annotated[
        bool,
        Meta(description="Write into each film that it was made by a model (comment tag, IPTC digital source type)."),
    ] = True
    pairs_per_job: Annotated[
        int,
        Meta(
            ge=1,
            le=2000,
            description="The most pairs one job animates with one loading of the model. 1 gives each pair a job.",
        ),
    ] = 2000
    job_minutes: Annotated[
        Annotated[float, Meta(gt=0, le=1_000_000)] | Annotated[int, Meta(gt=0, le=1_000_000)],
        Meta(
            description="The work put into one job, by the estimate of frames_per_second; pairs_per_job caps it.",
        ),
    ] = 30
    gpus: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="How many GPUs the cluster gives you at once. The work is dealt out to at least so many jobs, "
            "also where they are then shorter than job_minutes.",
        ),
    ] = 1
    frames_per_second: Annotated[
        Annotated[float, Meta(ge=0.001, le=1_000_000)] | Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(
            description="How fast frames are expected to be made, for that estimate and the jobs' walltimes. null "
            "learns it from the films that are finished (10 while there is none). Changing it computes nothing again."
        ),
    ] = None
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=9999)] | None,
        Meta(
            description="Cores of one job that uses the network; null for all that Snakemake was given, and on a "
            "cluster for 4."
        ),
    ] = None
    scratch: Annotated[
        FilePath | None,
        Meta(
            description="Folder on a fast disk of the machine that does a job, for films that are being made and "
            "copies of what is read often; $VARIABLES are filled in there. null takes $SLURM_TMPDIR, $L_SCRATCH, "
            "$TMPDIR or the system's temporary folder, the first that can be used. Nothing stays in it."
        ),
    ] = None
    check: Annotated[
        bool,
        Meta(
            description="Look at every picture and video beside the other jobs (face, size, sharpness, sound, pose), "
            "and link what was found from the gallery. No film waits for it. `talkies check` does so before anything "
            "is animated."
        ),
    ] = True
    slurm: Annotated[
        Slurm,
        Meta(
            description="What jobs ask of SLURM, by the names of Snakemake's SLURM executor. What is not named is "
            "asked for as the job needs it: memory, time (runtime, minutes), cores, and one GPU for jobs that use the "
            "network. Without SLURM it is not looked at."
        ),
    ] = field(default_factory=Slurm)
    container: Annotated[
        FileName | None,
        Meta(
            description="Image the jobs run in under `--sdm apptainer`: a .sif, or a docker:// or oras:// address "
            "pinned by its digest (...@sha256:...); null for none. Its file is not looked at without --sdm.",
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
