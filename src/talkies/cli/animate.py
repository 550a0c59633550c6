"""`talkies animate`: films of given pictures and driving videos, into a file or a folder."""

from __future__ import annotations

import argparse
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TalkiesError, counted, printable
from ..files import to_plain, whole
from ..fomm.model.presets import BETTER, PRESETS
from .arguments import Commands, check_output, count, progress_bar, segment_arguments

if TYPE_CHECKING:
    from ..run.pairs import Pair
    from ..run.plan import Plan
    from ..run.state import State

log = logging.getLogger("talkies")


def add_commands(commands: Commands) -> None:
    """Add this command."""
    many = commands.add(
        "animate",
        animate,
        "Animate each picture with each driving video, with its sound. A run folder (talkies init) does the same for "
        "hundreds, with a gallery, and goes on where it was stopped.",
    )
    many.set_defaults(wrong=many.error)
    many.add_argument("picture", type=Path, nargs="?", metavar="PICTURE")
    many.add_argument("video", type=Path, nargs="?", metavar="VIDEO")
    many.add_argument("--source", type=Path, nargs="+", metavar="PICTURE", help="many pictures, or folders of them")
    many.add_argument(
        "--driving", type=Path, nargs="+", metavar="VIDEO", help="many driving videos, or folders of them"
    )
    many.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="OUT.mp4 for one film (default: PICTURE-VIDEO.mp4 beside the picture), or a folder: OUT/VIDEO/PICTURE.mp4",
    )
    many.add_argument("--show-crop", type=Path, metavar="OUT.png", help="of one film, also show what is animated")
    many.add_argument("--engine", metavar="NAME", help="another engine: of config.yaml here, or of talkies engine list")
    many.add_argument("--model", choices=list(PRESETS), metavar="NAME", help=f"{', '.join(PRESETS)} (default: demo)")
    many.add_argument(
        "--checkpoint",
        metavar="P",
        help="its weights, .pth.tar or .safetensors (default: those that `talkies checkpoint fetch` got)",
    )
    many.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    many.add_argument("--threads", type=count, metavar="N", help="cores to use (default: all this job was given)")
    many.add_argument("--flip", action="store_true", help="mirror the driving videos")
    segment_arguments(many)
    many.add_argument("--audio", type=Path, metavar="FILE", help="the sound of this file, not the driving video's")
    many.add_argument("--upscale", action="store_true", help="enlarge the films to 512 pixels")
    many.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of config.yaml, such as crop.images=center, motion.relative=false, audio=false or paste_back=true "
        "(talkies config lists them); for each key again",
    )


def animate(chosen: argparse.Namespace) -> None:
    """Make films of pictures and driving videos; TalkiesError if any could not be made."""
    given = [*filter(None, [chosen.picture]), *(chosen.source or [])]
    clips = [*filter(None, [chosen.video]), *(chosen.driving or [])]
    if not given or not clips:
        chosen.wrong("give a picture and a video: talkies animate me.jpg song.mp4")
    if chosen.output is None:
        if len(given + clips) > 2 or any(path.is_dir() for path in given + clips):
            chosen.wrong("-o: name a folder for the films")
        chosen.output = given[0].with_name(f"{given[0].stem}-{clips[0].stem}.mp4")
    if chosen.engine and (chosen.model or chosen.checkpoint):
        chosen.wrong("--engine: the network is of the built-in engine: give no --model or --checkpoint")
    for path in filter(None, (chosen.checkpoint, chosen.audio)):
        if not Path(path).is_file():
            raise TalkiesError(f"{printable(path)}: no such file: mend its name")
    if None not in (chosen.start, chosen.end) and chosen.end <= chosen.start:
        raise TalkiesError(f"--end: {float(chosen.end):g} s is not after --start: give a later one")
    one = bool(chosen.output.suffix) and not (chosen.output.is_dir() and chosen.output.suffix != ".mp4")
    if one:
        check_output(chosen.output, ".mp4", *given, *clips, *filter(None, [chosen.audio]))
    if chosen.show_crop:
        check_output(chosen.show_crop, ".png", *given, *clips)
        if not one:
            chosen.wrong("--show-crop: it is for one film: give -o OUT.mp4")
    _make(chosen, given, clips, one=one)


def _make(chosen: argparse.Namespace, pictures: list[Path], clips: list[Path], *, one: bool) -> None:
    from ..run.progress import report_failures
    from ..stages.films import make_films

    show = chosen.show_crop
    with progress_bar() as progress:
        plan, state = make_films(
            _of_all(chosen),
            _of_clips(chosen),
            pictures,
            clips,
            None if one else chosen.output,
            threads=chosen.threads,
            progress=progress,
            take=partial(_take, chosen.output, chosen.output.absolute(), show and show.absolute()) if one else None,
        )
    if not one:
        log.info("%s: %s", printable(chosen.output), counted(len(state.done), "film"))
    if state.done and plan.settings.better:
        log.info("%s", BETTER.format("--model vox-adv-256"))
    if len(plan.pairs) == 1 and state.failed:
        raise TalkiesError(next(iter(state.failed.values())))
    report_failures(plan, state, "film")


def _take(name: Path, target: Path, show: Path | None, plan: Plan, state: State) -> None:
    """Move the one film and its JSON out of the temporary run folder. show: where the crops are shown (PNG)."""
    from ..run.record import Recorded, Talkie

    for each, pair in plan.pairs.items():
        if show:
            _show_crops(show, pair)
        film = plan.talkie(each)
        record = film.record() if each in state.done else None
        if record is None:
            continue
        out = Recorded(target, Talkie)
        out.keep_foreign()
        with whole(target) as part:
            shutil.copyfile(film.path, part)
        out.describe(record)
        shown, sound = record.picture, record.sound.sound or "none"
        log.info("%s: %d frames at %s a second, sound: %s", printable(name), record.frames, shown.rate, sound)


def _show_crops(path: Path, pair: Pair) -> None:
    """Write the cropped picture and the first frame of the cropped video side by side (PNG), those that there are."""
    import numpy as np
    from PIL import Image

    from .. import media
    from ..run.plan import Plan

    picture, clip = Plan.source_file(pair.source).path, Plan.driving_file(pair.take).path
    squares = [media.read_picture(picture)] if picture.exists() else []
    squares += [next(iter(media.read_frames(media.probe(clip))))] if clip.exists() else []
    if squares:
        with whole(path) as part:
            Image.fromarray(np.hstack(squares)).save(part, "PNG")


def _of_clips(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of each driving video, as in config.yaml."""
    own: dict[str, Any] = {"flip": True} if chosen.flip else {}
    own |= {key: float(value) for key in ("start", "end") if (value := getattr(chosen, key)) is not None}
    return own | ({"audio": str(chosen.audio.absolute())} if chosen.audio else {})


def _of_all(chosen: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of all films, as in config.yaml."""
    model = {"preset": chosen.model or "demo", "device": chosen.device}
    if chosen.checkpoint:
        model["checkpoint"] = str(Path(chosen.checkpoint).absolute())
    found = {"model": model, "upscale": 512 if chosen.upscale else None}
    found |= _engine(chosen.engine) if chosen.engine else {}
    for word in chosen.config:
        key, equals, value = word.partition("=")
        if not equals:
            chosen.wrong(f"--config: give KEY=VALUE, not {printable(word)}")
        *sections, last = key.split(".")
        section: Any = found
        for name in sections:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return found


def _engine(name: str) -> dict[str, Any]:
    """Return an engine of config.yaml here, or a known one, as a setting; its image is fetched."""
    from ..engines.program import fetch_images
    from ..stages.films import program_named

    program = program_named(name)
    fetch_images({name: program})
    return {"engine": to_plain(program)}
