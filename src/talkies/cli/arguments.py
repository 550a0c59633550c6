"""What several commands share: arguments, kinds of values, the progress bar, and looking at an output's name."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import TalkiesError, printable
from ..fomm.model.presets import PRESETS


class Commands:
    """The commands of a parser, each with the function that it runs."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        self, name: str, run: Callable[[argparse.Namespace], Any], about: str, *, hidden: bool = False, **options: Any
    ) -> argparse.ArgumentParser:
        """Add a command; return its parser, to which its arguments are added. hidden: not in the list of commands."""
        if not hidden:
            options["help"] = about
        sub = self._parsers.add_parser(name, description=about, **options)
        sub.add_argument("--debug", action="store_true", help="say more, and show where an error came from")
        sub.set_defaults(run=run)
        return sub


def model_arguments(sub: argparse.ArgumentParser) -> None:
    """Add what names a network and what it runs on."""
    sub.add_argument("--model", choices=list(PRESETS), default="demo", metavar="NAME", help=", ".join(PRESETS))
    sub.add_argument("--checkpoint", metavar="P", help="its weights (.pth.tar as published, or .safetensors)")
    sub.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    sub.add_argument("--threads", type=count, metavar="N", help="cores to use (default: all this job was given)")


def segment_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the part of a driving video that is used."""
    sub.add_argument("--start", type=seconds, metavar="S", help="second of the driving video to start at")
    sub.add_argument("--end", type=seconds, metavar="S", help="second of the driving video to end at")


def count(text: str) -> int:
    """Read a number from 1 to 9999."""
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number from 1 to 9999")
    return int(text)


def seconds(text: str) -> Fraction:
    """Read seconds: 3, 2.5 or 7/2."""
    if re.match("-[0-9.]", text):
        raise argparse.ArgumentTypeError("seconds count from 0")
    try:
        # Fraction takes 1e99999999 too, and would write it out.
        return Fraction(text if re.fullmatch(r"[0-9]{0,9}(\.[0-9]{0,9}|/[0-9]{1,9})?", text) else "")
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number of seconds") from None


def best_frame(text: str) -> int | str:
    """Read a frame's number, or auto."""
    if text == "auto":
        return text
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is neither auto nor a frame's number")
    return int(text)


def check_output(path: Path, suffix: str, *inputs: Path) -> None:
    """Refuse an output that could not be written or would replace an input, before anything is computed."""
    name = printable(path)
    if path.suffix.lower() != suffix:
        raise TalkiesError(f"{name}: give the output a name that must end in {suffix}")
    if not path.absolute().parent.is_dir():
        raise TalkiesError(f"{name}: there is no folder {printable(path.absolute().parent)}: make it first")
    if path.is_dir():
        raise TalkiesError(f"{name}: this is a folder: give a file's name")
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given):
            raise TalkiesError(f"{name}: this would overwrite what it is made from: give another name")


@contextmanager
def progress_bar() -> Iterator[Any]:
    """Give a progress bar when a terminal watches, and one that says nothing otherwise."""
    from ..stages.work import Progress

    if not sys.stderr.isatty():
        yield Progress()
        return
    from tqdm import tqdm

    with tqdm(total=0, unit="", dynamic_ncols=True, file=sys.stderr) as bar:

        def start(total: int, unit: str) -> None:
            bar.unit = f" {unit}"
            bar.reset(total=total)

        def advance(count: int) -> None:
            bar.update(count)

        yield Progress(start, advance)
