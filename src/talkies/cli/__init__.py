"""The `talkies` command. Exit code 0: done; 1: failed, and why; 2: wrong usage; 128 + n: stopped by signal n."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from .. import __version__
from ..errors import Stopped, TalkiesError, printable
from . import animate, folder, jobs, single
from .arguments import Commands

log = logging.getLogger("talkies")


ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, or name another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "mend its rights, or name another place"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "mend the path"),
}
"""What to do about errors of the system."""
FIRST = """\
talkies makes pictures talk: a picture moves like a driving video, with the video's sound.
  talkies animate me.jpg song.mp4   one film: me-song.mp4
  talkies app                       the same on a page in a browser
  talkies init portraits            a folder for many films: every picture with every video
  talkies doctor                    what is installed and works here
  talkies --help                    all commands"""
"""What `talkies` alone prints."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        print(FIRST)
        return 0
    chosen = parser.parse_args(arguments)
    log.handlers[:] = [_TerminalHandler()]
    _on_signals()
    try:
        _start_log(chosen)
        code = int(chosen.run(chosen) or 0)
        sys.stdout.flush()
        return code
    except Stopped as error:
        log.error("%s", error.args[0])
        return 128 + int(error.args[1])
    except TalkiesError as error:
        _fail(chosen, str(error))
    except BrokenPipeError:
        # The reader of the output (head, less) has gone: drop the rest silently.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        name = f"{printable(str(error.filename))}: " if error.filename else ""
        _fail(chosen, f"{name}{error.strerror or error}: {ADVICE.get(error.errno or 0, 'mend that, and try again')}")
    except ModuleNotFoundError as error:
        _fail(chosen, f"{error.name} is not installed, and this needs it: pip install 'talkies[engine]'")
    except MemoryError:
        _fail(chosen, "out of memory: give the job more, or fewer threads")
    except Exception as error:  # the last resort: one line; with --debug the whole traceback
        reason = " ".join(str(error).split())[:300]
        _fail(chosen, f"unexpected {type(error).__name__}: {reason} (--debug shows where)")
    return 1


def _fail(chosen: argparse.Namespace, message: str) -> None:
    log.error("%s", message)
    if chosen.debug:
        traceback.print_exc()


def _start_log(chosen: argparse.Namespace) -> None:
    """Send messages, one line each, to stderr and to the file of --log."""
    log.propagate = False
    log.setLevel(logging.DEBUG if chosen.debug else logging.INFO)
    if getattr(chosen, "log", None):
        chosen.log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(chosen.log, mode="w", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


class _TerminalHandler(logging.Handler):
    """Writes to stderr, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = {"WARNING": "warning: ", "ERROR": "error: "}.get(record.levelname, "")
        text = f"talkies: {mark}{record.getMessage()}"
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def _on_signals() -> None:
    """Turn the first signal to stop into an orderly end; ignore further ones.

    SIGALRM comes from the worker's own timer, if its job's time is limited (`cli.jobs`).
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in STOPPING:
            signal.signal(each, signal.SIG_IGN)
        why = "before the job's time was over" if number == signal.SIGALRM else f"by {signal.Signals(number).name}"
        raise Stopped(f"stopped {why}; what was finished stays", number)

    for each in STOPPING:
        signal.signal(each, stop)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; it imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="talkies",
        usage="talkies COMMAND ... (talkies COMMAND --help tells more)",
        description="Makes pictures talk: a picture, moved by a driving video, with the video's sound.",
    )
    parser.add_argument("--version", action="version", version=f"talkies {__version__}")
    commands = Commands(parser)
    for room in (animate, single, folder, jobs):
        room.add_commands(commands)
    return parser
