"""Shared by several commands: arguments, types of values, the progress bar, checks of an output's name."""

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


class Commands:
    """The commands of a parser, each with its function."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(title="commands", prog="talkies", metavar="COMMAND", required=True)

    def add(
        self, name: str, run: Callable[[argparse.Namespace], Any], about: str, *, log: bool = False
    ) -> argparse.ArgumentParser:
        """Add a command; return its parser. log: a job of the workflow calls it too, and names its log."""
        sub = self._parsers.add_parser(name, description=about, help=about)
        sub.add_argument("--debug", action="store_true", help="say more, and show where an error came from")
        if log:
            sub.add_argument("--log", type=Path, help=argparse.SUPPRESS)
        sub.set_defaults(run=run)
        return sub


def segment_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments for a part of a driving video."""
    sub.add_argument("--start", type=seconds, metavar="S", help="second of the driving video to start at")
    sub.add_argument("--end", type=seconds, metavar="S", help="second of the driving video to end at")


def reader(pattern: str, what: str, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """Return the function that reads a value of the command line. pattern: a regular expression; what: it must be."""

    def read(text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text[:80]!r} is not {what}")
        return kind(text)

    return read


count = reader("0*[1-9][0-9]{0,3}", "a number from 1 to 9999")
# Fraction would accept 1e99999999 and expand it.
seconds = reader(
    r"[0-9]{1,9}(\.[0-9]{0,9}|/0*[1-9][0-9]{0,8})?|\.[0-9]{1,9}", "a number of seconds, counted from 0", Fraction
)


def check_output(path: Path, suffix: str, *inputs: Path) -> None:
    """Refuse an output that can't be written or would replace an input, before anything is computed."""
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
    """Give a progress bar on a terminal, and a silent one otherwise."""
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
