"""Shared by several commands: arguments, types of values, the progress bar, checks of an output's name."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from ..errors import TalkiesError, printable

GROUPS = {
    "Make": {
        "animate": "talkies animate me.jpg song.mp4",
        "crop": "talkies crop me.jpg -o me-square.png",
        "app": "talkies app",
    },
    "Set up": {
        "init": "talkies init portraits --examples",
        "config": "talkies config",
        "checkpoint": "talkies checkpoint fetch vox-adv-256",
        "engine": "talkies engine list",
    },
    "Look": {
        "check": "talkies check",
        "status": "talkies status --watch",
        "gallery": "talkies gallery",
        "publish": "talkies publish public",
        "sheet": "talkies sheet sheet.png",
        "doctor": "talkies doctor",
    },
    "Mend": {
        "verify": "talkies verify",
        "forget": "talkies forget song/me",
        "clean": "talkies clean -n",
    },
    "To a cluster and back": {
        "stage": "talkies stage push HOST:DIR",
    },
}
"""The commands of `talkies --help`, each with an example; the workflow uses the others."""
INVALID_CHOICE = re.compile(r"argument ([^:]+): invalid choice: (['\"])(.*?)\2 \(choose from (.*)\)")
UNKNOWN_OPTION = re.compile(r"unrecognized arguments: (\S+)")


class Parser(argparse.ArgumentParser):
    """argparse's parser, which also suggests similar words."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, with the nearest known words, and exit with 2."""
        if found := INVALID_CHOICE.match(message):
            known = [word.strip("'\" ") for word in found[4].split(",")]
            known = known if found[1] != "COMMAND" else [name for group in GROUPS.values() for name in group]
            near = get_close_matches(found[3], known, n=1)
            more = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            message = f"{'command' if found[1] == 'COMMAND' else found[1]}: there is no {found[3]!r}: {more}"
        elif (found := UNKNOWN_OPTION.match(message)) and (
            near := get_close_matches(found[1].partition("=")[0], sorted(self.all_options), n=1)
        ):
            message += f": did you mean {near[0]}?"
        super().error(message)

    @property
    def all_options(self) -> set[str]:
        """The options of this parser and of its commands."""
        found = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    found |= sub.all_options
        return found


class Commands:
    """The commands of a parser, each with its function."""

    def __init__(self, parser: Parser) -> None:
        self._parsers = parser.add_subparsers(prog="talkies", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
        self._about: dict[str, str] = {}

    @property
    def listed(self) -> str:
        """The commands for users, by group, each with its description."""
        lines = []
        for group, names in GROUPS.items():
            lines += ["", f"{group}:"]
            for name in names:
                about = textwrap.wrap(self._about[name], 66)
                lines += [f"  {name:11}{about[0]}", *(f"{'':13}{line}" for line in about[1:])]
        return "\n".join(lines).lstrip("\n")

    def add(self, name: str, run: Callable[[argparse.Namespace], Any], about: str, *, log: bool = False) -> Parser:
        """Add a command; return its parser. log: a job of the workflow calls it too, and names its log."""
        self._about[name] = about
        example = next((f"Example: {names[name]}" for names in GROUPS.values() if name in names), None)
        sub = self._parsers.add_parser(name, description=about, epilog=example)
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
best_frame = reader("auto|[0-9]{1,9}", "auto or a frame's number", lambda text: text if text == "auto" else int(text))
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
