"""Commands that need no run folder: a crop, weights, engines, the page."""

from __future__ import annotations

import argparse
import json
import logging
import textwrap
from importlib.util import find_spec
from pathlib import Path
from socket import gethostname

from ..engines import FOMM
from ..errors import TalkiesError, printable, size_text
from ..files import to_plain
from ..fomm.model.presets import PRESETS
from .arguments import Commands, check_output, count, reader, segment_arguments

log = logging.getLogger("talkies")

sha256 = reader("[0-9a-fA-F]{64}", "a sha256: 64 hexadecimal digits", str.lower)
web_address = reader(r"https?://[^\s/]\S*", "a link: http(s)://...", str)
port = reader("[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]", "a port: give 0 to 65535")


def add_commands(commands: Commands) -> None:
    """Add these commands."""
    cut = commands.add("crop", crop_file, "Cut a picture (to PNG) or a video (to mp4, with sound) to a square.")
    cut.add_argument("file", type=Path)
    cut.add_argument("-o", "--output", type=Path, required=True)
    cut.add_argument("--mode", default="face", metavar="HOW", help="face, center, none or x,y,w,h (default: face)")
    cut.add_argument("--size", type=count, default=256, metavar="N", help="side in pixels (default: 256)")
    segment_arguments(cut)

    weights = commands.add("checkpoint", checkpoint, "Fetch published weights, show a checkpoint, or convert one.")
    actions = weights.add_subparsers(dest="action", metavar="fetch|show|convert", required=True)
    published = [name for name, preset in PRESETS.items() if preset.checkpoint]
    get = actions.add_parser("fetch", help="download the published weights of a preset to where it finds them")
    get.add_argument("preset", choices=published, metavar="PRESET", help=", ".join(published))
    get.add_argument("--from", dest="source", type=web_address, metavar="URL", help="another link, e.g. a mirror's")
    get.add_argument("--sha256", type=sha256, metavar="X", help="what the file that comes must have")
    get.set_defaults(run=fetch_weights)
    show = actions.add_parser("show", help="print the digest of the weights and the presets they fit")
    show.add_argument("file", type=Path)
    convert = actions.add_parser("convert", help="write the weights as safetensors")
    convert.add_argument("file", type=Path)
    convert.add_argument("output", type=Path, metavar="OUT.safetensors")

    page = commands.add("app", app, "Serve a page: drop a picture and a driving video, watch it talk.")
    page.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to serve at (default: this machine only)"
    )
    page.add_argument("--port", type=port, default=7860, metavar="N", help="0: any that is free (default: 7860)")
    page.add_argument("--max-upload", type=count, default=500, metavar="MB", help="largest file taken (default: 500)")
    page.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    page.add_argument("--threads", type=count, metavar="N", help="cores to use (default: all this job was given)")

    engines = commands.add("engine", list_engines, "List the engines that are known, or show one.")
    actions = engines.add_subparsers(dest="action", metavar="list|show", required=True)
    actions.add_parser("list", help="what engines are known, and whether they were tried")
    show = actions.add_parser("show", help="print an engine's licences, needs and keys for config.yaml")
    show.add_argument("name")
    show.set_defaults(run=show_engine)


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
        save_safetensors(entries, chosen.output)
        entries = load_checkpoint(chosen.output)
    print(f"weights sha256 {weights_digest(entries)}")
    print(f"fits {' '.join(fits)}")


def fetch_weights(chosen: argparse.Namespace) -> None:
    """Fetch a preset's published weights; print where they are, their source, size and digests."""
    from ..fomm.model.published import fetch

    fetched = fetch(chosen.preset, source=chosen.source, sha256=chosen.sha256)
    print(f"{chosen.preset}: {printable(fetched.path)}")
    print(f"source {fetched.source or 'none: it was here already'}")
    print(f"size {size_text(fetched.size)}")
    print(f"sha256 {fetched.sha256} ({fetched.checked})")
    print("licence: nobody states one for these weights: ask their authors before you build on them")


def list_engines(chosen: argparse.Namespace) -> None:
    """Print the engines that are known."""
    from ..engines.program import known

    print(f"{FOMM:18} The built-in First Order Motion Model (its keys are under model).")
    for name, entry in known().items():
        print(f"{name:18} {entry['about']}")
        print(f"{'':18} {entry['tried'].split('.')[0]}.")


def show_engine(chosen: argparse.Namespace) -> None:
    """Print what is known of an engine, and its keys for config.yaml."""
    import yaml

    from ..engines.program import known

    entry = known().get(chosen.name)
    if entry is None:
        raise TalkiesError(f"no engine {chosen.name!r} is known: write one of {', '.join(known())}")
    for key in ("about", "licence", "needs", "get", "tried"):
        for line in textwrap.wrap(f"{key}: {entry[key]}", 100, subsequent_indent="  "):
            print(f"# {line}")
    print(yaml.safe_dump({"engine": {"name": chosen.name, **entry["engine"]}}, sort_keys=False, width=1000), end="")


def app(chosen: argparse.Namespace) -> None:
    """Serve the page until it is stopped."""
    for module in ("starlette", "uvicorn", "torch"):
        if find_spec(module) is None:
            raise TalkiesError(
                f"{module} is not installed, and the page needs it: install it by pip install 'talkies[app]'"
            )
    from ..app.serve import choose_token, listen, serve
    from ..app.studio import open_studio

    token = choose_token()
    with (
        listen(chosen.host, chosen.port) as listening,
        open_studio(device=chosen.device, threads=chosen.threads, largest=chosen.max_upload * 1_000_000) as studio,
    ):
        host = gethostname() if chosen.host in ("0.0.0.0", "::") else chosen.host
        host = f"[{host}]" if ":" in host else host
        print(f"The page: http://{host}:{listening.getsockname()[1]}/?token={token}", flush=True)
        serve(studio, listening, token)
