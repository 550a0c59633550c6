"""Commands that make one thing of the files they are given: a film, a crop, keypoints, weights."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import TalkiesError, printable
from .arguments import Commands, best_frame, check_output, count, model_arguments, progress_bar, segment_arguments

log = logging.getLogger("talkies")


def add_commands(commands: Commands) -> None:
    """Add these commands."""
    one = commands.add("animate", animate, "Animate one picture with one driving video, with its sound.")
    one.add_argument("--source", type=Path, required=True, metavar="I", help="the picture")
    one.add_argument("--driving", type=Path, required=True, metavar="V", help="the driving video")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    model_arguments(one)
    one.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    one.add_argument("--absolute", action="store_true", help="the driver's own poses, not its motion since its first")
    one.add_argument("--no-adapt-scale", action="store_true", help="do not scale motion by the faces' sizes")
    one.add_argument("--best-frame", type=best_frame, metavar="auto|N", help="count motion from this frame (0)")
    one.add_argument(
        "--crop-source", metavar="HOW", help="face, face:left, face:2, center, none or x,y,w,h (default: the preset's)"
    )
    one.add_argument("--crop-driving", metavar="HOW", help="the same for the driving video")
    one.add_argument("--paste-back", action="store_true", help="show the whole picture, not the animated square alone")
    segment_arguments(one)
    one.add_argument("--no-audio", action="store_true", help="a silent film")
    one.add_argument("--no-provenance", action="store_true", help="do not tag the film as made by a model")

    cut = commands.add("crop", crop_file, "Cut a picture (to PNG) or a video (to mp4, with sound) to a square.")
    cut.add_argument("file", type=Path)
    cut.add_argument("-o", "--output", type=Path, required=True)
    cut.add_argument("--mode", default="face", metavar="HOW", help="face, center, none or x,y,w,h (default: face)")
    cut.add_argument("--size", type=count, default=256, metavar="N", help="side in pixels (default: 256)")
    segment_arguments(cut)

    keypoints = commands.add("motion", find_motion, "Find and save the keypoints of a driving video (npz).")
    keypoints.add_argument("driving", type=Path)
    keypoints.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.npz")
    keypoints.add_argument("--crop", metavar="HOW", help="face, center, none or x,y,w,h (default: the preset's)")
    model_arguments(keypoints)
    segment_arguments(keypoints)

    sound = commands.add("remux", remux_file, "Put a driving video's sound under a silent film.")
    sound.add_argument("film", type=Path)
    sound.add_argument("driving", type=Path)
    sound.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    segment_arguments(sound)

    grid = commands.add(
        "mosaic", mosaic_films, "Show many films at once in one, with the sound of the first that has any."
    )
    grid.add_argument("films", type=Path, nargs="+", metavar="FILM", help="e.g. results/anna/*.mp4")
    grid.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    grid.add_argument("--columns", type=count, metavar="N", help="films in a row (default: as many as there are rows)")

    weights = commands.add("checkpoint", checkpoint, "Show a checkpoint, or convert it to safetensors.")
    actions = weights.add_subparsers(dest="action", metavar="show|convert", required=True)
    show = actions.add_parser("show", help="print the digest of the weights and the presets they fit")
    show.add_argument("file", type=Path)
    convert = actions.add_parser("convert", help="write the weights as safetensors")
    convert.add_argument("file", type=Path)
    convert.add_argument("output", type=Path, metavar="OUT.safetensors")
    convert.add_argument("--half", action="store_true", help="in half the size, in half precision")


def animate(chosen: argparse.Namespace) -> None:
    """Crop, find the motion, animate, put the sound on: one picture and one clip into one film."""
    from concurrent.futures import ThreadPoolExecutor

    from .. import media
    from ..engines import FilmJob, Movement
    from ..fomm.model.presets import PRESETS
    from ..host.scratch import own_folder
    from ..media import crop
    from ..media.paste import paste_film
    from ..run.asks import FILM_CRF, FILM_PRESET
    from ..stages.animate import open_engine
    from ..stages.prepare import write_png
    from ..stages.remux import PROVENANCE

    target: Path = chosen.output
    check_output(target, ".mp4", chosen.source, chosen.driving)
    usual = PRESETS[chosen.model].crop
    picture = media.read_picture(chosen.source)
    clip = media.probe(chosen.driving)
    segment = {"start": chosen.start, "end": chosen.end}
    with ThreadPoolExecutor(1, thread_name_prefix="crops") as beside:  # while PyTorch is imported
        cropping = beside.submit(
            crop.crop_picture, picture, crop.parse(chosen.crop_source or usual), name=chosen.source
        )
        finding = beside.submit(crop.find_crop, clip, crop.parse(chosen.crop_driving or usual), **segment)
        engine = open_engine(
            chosen.model,
            chosen.checkpoint,
            device=chosen.device,
            precision=chosen.precision,
            threads=chosen.threads,
        )
        square, cut = cropping.result()
        driving_cut = finding.result()
    log.info("%s: %s", printable(chosen.source), _told(cut))
    log.info("%s: %s", printable(chosen.driving), _told(driving_cut))
    with own_folder("animate") as folder, engine, progress_bar() as progress:
        progress.start(2 * _frames(clip, chosen), "frames")  # each is looked at, and each is made
        frames = media.read_frames(clip, box=driving_cut.box, size=engine.side, **segment)
        motion = engine.find_motion(_advancing(frames, progress), clip.rate)
        picture_file, motion_file, silent = folder / "picture.png", folder / "motion.npz", folder / "silent.mp4"
        write_png(picture_file, square)
        motion.save(motion_file)
        job = FilmJob(
            str(chosen.source),
            "source",
            picture_file,
            motion_file,
            Movement(not chosen.absolute, not chosen.no_adapt_scale, chosen.best_frame),
            media.FrameWriter(silent, clip.rate, crf=FILM_CRF, preset=FILM_PRESET, threads=engine.threads),
            done=lambda: None,
            progress=progress.advance,
        )
        for _, fault in engine.films([job]):
            if fault:
                raise fault
        if chosen.paste_back:
            whole = folder / "whole.mp4"
            paste_film(silent, picture, cut.box, media.FrameWriter(whole, clip.rate, crf=FILM_CRF, preset=FILM_PRESET))
            silent = whole
        sound = media.remux(
            silent,
            None if chosen.no_audio else clip,
            target,
            comment=None if chosen.no_provenance else PROVENANCE,
            **segment,
        )
    log.info(
        "%s: %d frames at %s a second, sound: %s", printable(target), motion.frames, clip.rate, sound["sound"] or "none"
    )


def _frames(clip: Any, chosen: argparse.Namespace) -> int:
    """Return about how many frames the segment asked for has."""
    start = chosen.start or 0
    end = clip.duration if chosen.end is None else min(chosen.end, clip.duration)
    return max(0, round((end - start) * clip.rate))


def _told(cut: Any) -> str:
    box = f"{cut.box.side} pixels square at {cut.box.x},{cut.box.y}" if cut.box else "all of it"
    return f"crop {cut.mode}: {box}"


def _advancing(frames: Iterator[Any], progress: Any) -> Iterator[Any]:
    for frame in frames:
        yield frame
        progress.advance(1)


def crop_file(chosen: argparse.Namespace) -> None:
    """Cut one picture to PNG, or one clip to mp4 with its sound; print what was cut as JSON."""
    from .. import media
    from ..host.scratch import own_folder
    from ..media import crop
    from ..stages.prepare import write_png

    request = crop.parse(chosen.mode)
    if chosen.file.suffix.lower() in media.PICTURE_SUFFIXES and chosen.file.suffix.lower() not in media.CLIP_SUFFIXES:
        check_output(chosen.output, ".png", chosen.file)
        square, cut = crop.crop_picture(media.read_picture(chosen.file), request, name=chosen.file, size=chosen.size)
        write_png(chosen.output, square)
    else:
        check_output(chosen.output, ".mp4", chosen.file)
        clip = media.probe(chosen.file)
        cut = crop.find_crop(clip, request, start=chosen.start, end=chosen.end)
        segment = {"start": chosen.start, "end": chosen.end}
        with own_folder("crop") as folder:
            silent = folder / "silent.mp4"
            with media.FrameWriter(silent, clip.rate) as writer:
                for frame in media.read_frames(clip, box=cut.box, size=chosen.size, **segment):
                    writer.write(frame)
            media.remux(silent, clip, chosen.output, **segment)
    print(json.dumps({"file": str(chosen.file), **cut.to_dict()}))


def find_motion(chosen: argparse.Namespace) -> None:
    """Find the keypoints of one clip and save them."""
    from .. import media
    from ..fomm.model.presets import PRESETS
    from ..media import crop
    from ..stages.animate import open_engine

    check_output(chosen.output, ".npz", chosen.driving)
    clip = media.probe(chosen.driving)
    cut = crop.find_crop(
        clip, crop.parse(chosen.crop or PRESETS[chosen.model].crop), start=chosen.start, end=chosen.end
    )
    engine = open_engine(
        chosen.model, chosen.checkpoint, device=chosen.device, precision="fp32", threads=chosen.threads
    )
    with engine, progress_bar() as progress:
        progress.start(_frames(clip, chosen), "frames")
        frames = media.read_frames(clip, start=chosen.start, end=chosen.end, box=cut.box, size=engine.side)
        motion = engine.find_motion(_advancing(frames, progress), clip.rate)
    motion.save(chosen.output)
    log.info("%s: %d frames at %s a second", printable(chosen.output), motion.frames, clip.rate)


def remux_file(chosen: argparse.Namespace) -> None:
    """Put a clip's sound under a silent film."""
    from .. import media

    check_output(chosen.output, ".mp4", chosen.film, chosen.driving)
    facts = media.remux(chosen.film, media.probe(chosen.driving), chosen.output, start=chosen.start, end=chosen.end)
    print(json.dumps(facts, default=str))


def mosaic_films(chosen: argparse.Namespace) -> None:
    """Show many films at once in one, with one's sound."""
    from .. import media

    check_output(chosen.output, ".mp4", *chosen.films)
    print(json.dumps(media.mosaic(chosen.films, chosen.output, columns=chosen.columns)))


def checkpoint(chosen: argparse.Namespace) -> None:
    """Show a checkpoint, or convert it to safetensors."""
    from ..fomm.model import PRESETS, load_checkpoint, save_safetensors, weights_digest
    from ..fomm.model.checkpoint import fitting_presets

    if chosen.action == "convert":
        check_output(chosen.output, ".safetensors", chosen.file)
    entries = load_checkpoint(chosen.file)
    fits = fitting_presets(entries)
    if not fits:
        raise TalkiesError(
            f"{printable(chosen.file)}: its weights fit no preset: give a checkpoint of one of {', '.join(PRESETS)}"
        )
    if chosen.action == "convert":
        save_safetensors(entries, chosen.output, half=chosen.half)
        entries = load_checkpoint(chosen.output)
    print(f"weights sha256 {weights_digest(entries)}")
    print(f"fits {' '.join(fits)}")
