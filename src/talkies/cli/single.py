"""Commands for single files: a crop, keypoints, a film with sound, weights."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ..errors import TalkiesError, printable, size_text
from ..files import to_plain
from ..fomm.model.presets import PRESETS
from .arguments import (
    Commands,
    check_output,
    count,
    model_arguments,
    progress_bar,
    segment_arguments,
    sha256,
    web_address,
)

log = logging.getLogger("talkies")


def add_commands(commands: Commands) -> None:
    """Add these commands."""
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

    weights = commands.add("checkpoint", checkpoint, "Fetch published weights, show a checkpoint, or convert one.")
    actions = weights.add_subparsers(dest="action", metavar="fetch|show|convert", required=True)
    published = [name for name, preset in PRESETS.items() if preset.checkpoint]
    get = actions.add_parser("fetch", help="download the published weights of a preset to where it finds them")
    get.add_argument("preset", choices=published, metavar="PRESET", help=", ".join(published))
    get.add_argument("--from", dest="source", type=web_address, metavar="URL", help="another link, e.g. a mirror's")
    get.add_argument("--to", type=Path, metavar="FILE", help="default: in $TALKIES_WEIGHTS, else in your cache folder")
    get.add_argument("--sha256", type=sha256, metavar="X", help="what the file that comes must have")
    get.set_defaults(run=fetch_weights)
    show = actions.add_parser("show", help="print the digest of the weights and the presets they fit")
    show.add_argument("file", type=Path)
    convert = actions.add_parser("convert", help="write the weights as safetensors")
    convert.add_argument("file", type=Path)
    convert.add_argument("output", type=Path, metavar="OUT.safetensors")
    convert.add_argument("--half", action="store_true", help="in half the size, in half precision")


def crop_file(chosen: argparse.Namespace) -> None:
    """Crop one picture to PNG, or one clip to mp4 with its sound; print the crop as JSON."""
    from .. import media
    from ..machine.scratch import own_folder
    from ..media import crop
    from ..stages.crop import write_png

    request = crop.parse(chosen.mode)
    if chosen.file.suffix.lower() in media.PICTURE_SUFFIXES and chosen.file.suffix.lower() not in media.CLIP_SUFFIXES:
        check_output(chosen.output, ".png", chosen.file)
        square, cut = crop.crop_picture(media.read_picture(chosen.file), request, name=chosen.file, size=chosen.size)
        write_png(chosen.output, square)
    else:
        check_output(chosen.output, ".mp4", chosen.file)
        clip = media.probe(chosen.file)
        cut = crop.find_crop(clip, request, start=chosen.start, end=chosen.end)
        with own_folder("crop") as folder:
            parts = (folder / "silent.mp4", None)
            media.write_excerpt(
                clip, chosen.output, box=cut.box, size=chosen.size, start=chosen.start, end=chosen.end, parts=parts
            )
    if cut.warning:
        log.warning("%s: %s", printable(chosen.file), cut.warning)
    print(json.dumps({"file": str(chosen.file), **to_plain(cut)}))


def find_motion(chosen: argparse.Namespace) -> None:
    """Compute the keypoints of one clip and save them."""
    from .. import media
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
        progress.start(clip.count(chosen.start, chosen.end), "frames")
        frames = media.read_frames(clip, start=chosen.start, end=chosen.end, box=cut.box, size=engine.side)
        motion = engine.find_motion(progress.through(frames), clip.rate)
    motion.save(chosen.output)
    log.info("%s: %d frames at %s a second", printable(chosen.output), motion.frames, clip.rate)


def remux_file(chosen: argparse.Namespace) -> None:
    """Add a clip's sound to a silent film."""
    from .. import media

    check_output(chosen.output, ".mp4", chosen.film, chosen.driving)
    facts = media.remux(chosen.film, media.probe(chosen.driving), chosen.output, start=chosen.start, end=chosen.end)
    print(json.dumps(to_plain(facts)))


def mosaic_films(chosen: argparse.Namespace) -> None:
    """Show many films at once in one, with the sound of one."""
    from .. import media

    check_output(chosen.output, ".mp4", *chosen.films)
    print(json.dumps(media.mosaic(chosen.films, chosen.output, columns=chosen.columns)))


def checkpoint(chosen: argparse.Namespace) -> None:
    """Show a checkpoint, or convert it to safetensors."""
    from ..fomm.model.checkpoint import fitting_presets, load_checkpoint, save_safetensors, weights_digest

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


def fetch_weights(chosen: argparse.Namespace) -> None:
    """Fetch a preset's published weights; print where they are, their source, size and digests."""
    from ..fomm.weights import fetch

    if chosen.to is not None:
        check_output(chosen.to, chosen.to.suffix.lower())
    fetched = fetch(chosen.preset, source=chosen.source, to=chosen.to, sha256=chosen.sha256)
    print(f"{chosen.preset}: {printable(fetched.path)}")
    print(f"source {fetched.source or 'none: it was here already'}")
    print(f"size {size_text(fetched.size)}")
    print(f"sha256 {fetched.sha256} ({fetched.checked})")
    print("licence: nobody states one for these weights: ask their authors before you build on them")
