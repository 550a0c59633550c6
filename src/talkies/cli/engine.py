"""`talkies engine`: list the known engines, show one, or make one film with any of them."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from ..engines import FOMM
from ..errors import TalkiesError
from .arguments import Commands, best_frame, check_output, count, segment_arguments


def add_commands(commands: Commands) -> None:
    """Add these commands."""
    engines = commands.add("engine", engine, "List the engines that are known, show one, or try one on a picture.")
    actions = engines.add_subparsers(dest="action", metavar="list|show|try", required=True)
    actions.add_parser("list", help="what engines are known, and whether they were tried")
    show = actions.add_parser("show", help="print an engine's licences, needs and keys for config.yaml")
    show.add_argument("name")
    one = actions.add_parser("try", help="make one film with an engine of config.yaml or a known one")
    one.add_argument("name")
    one.add_argument("--source", type=Path, required=True, metavar="I", help="the picture")
    one.add_argument("--driving", type=Path, required=True, metavar="V", help="the driving video")
    one.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mp4")
    one.add_argument("--absolute", action="store_true", help="the driver's own poses, where the program can")
    one.add_argument("--no-adapt-scale", action="store_true", help="do not scale motion, where the program can")
    one.add_argument("--best-frame", type=best_frame, metavar="auto|N", help="count motion from this frame")
    one.add_argument("--crop-source", metavar="HOW", help="as for talkies animate")
    one.add_argument("--crop-driving", metavar="HOW", help="the same for the driving video")
    one.add_argument("--threads", type=count, metavar="N")
    segment_arguments(one)


def engine(chosen: argparse.Namespace) -> None:
    """List, show or try engines."""
    {"list": _list, "show": _show, "try": _try}[chosen.action](chosen)


def _list(chosen: argparse.Namespace) -> None:
    from ..engines.program import known

    print(f"{FOMM:18} The built-in First Order Motion Model (its keys are under model).")
    for name, entry in known().items():
        print(f"{name:18} {entry['about']}")
        print(f"{'':18} {entry['tried'].split('.')[0]}.")


def _show(chosen: argparse.Namespace) -> None:
    import yaml

    from ..engines.program import known

    entry = known().get(chosen.name)
    if entry is None:
        raise TalkiesError(f"no engine {chosen.name!r} is known: write one of {', '.join(known())}")
    for key in ("about", "licence", "needs", "get", "tried"):
        for line in textwrap.wrap(f"{key}: {entry[key]}", 100, subsequent_indent="  "):
            print(f"# {line}")
    print(yaml.safe_dump({"engine": {"name": chosen.name, **entry["engine"]}}, sort_keys=False, width=1000), end="")


def _try(chosen: argparse.Namespace) -> None:
    from ..engines.images import fetch_images
    from ..files import to_plain
    from ..operate.films import program_named
    from .animate import make_one

    check_output(chosen.output, ".mp4", chosen.source, chosen.driving)
    program = program_named(chosen.name)
    fetch_images({chosen.name: program})
    make_one({"engine": to_plain(program)}, chosen)
