"""`talkies app`: serves a page on which users try one picture and one driving video."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from socket import gethostname

from ..errors import TalkiesError
from ..fomm.model.presets import PRESETS
from .arguments import Commands, count


def add_commands(commands: Commands) -> None:
    """Add this command."""
    page = commands.add("app", app, "Serve a page: drop a picture and a driving video, watch it talk.")
    page.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to serve at (default: this machine only)"
    )
    page.add_argument("--port", type=port, default=7860, metavar="N", help="0: any that is free (default: 7860)")
    page.add_argument("--max-upload", type=count, default=500, metavar="MB", help="largest file taken (default: 500)")
    page.add_argument("--model", choices=list(PRESETS), metavar="NAME", help="the preset of --checkpoint")
    page.add_argument("--checkpoint", metavar="P", help="weights to offer in addition to those found")
    page.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    page.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    page.add_argument("--threads", type=count, metavar="N", help="cores to use (default: all this job was given)")


def port(text: str) -> int:
    """Read a port."""
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a port: give 0 to 65535")
    return int(text)


def app(chosen: argparse.Namespace) -> None:
    """Serve the page until it is stopped."""
    for module in ("starlette", "uvicorn", "torch"):
        if find_spec(module) is None:
            raise TalkiesError(
                f"{module} is not installed, and the page needs it: install it by pip install 'talkies[app]'"
            )
    if (chosen.checkpoint is None) != (chosen.model is None):
        given, lacking = ("model", "checkpoint") if chosen.model else ("checkpoint", "model")
        raise TalkiesError(f"--{given}: give --{lacking} too: weights, and the preset they are of")
    from ..app.serve import choose_token, listen, serve
    from ..app.studio import open_studio

    token = choose_token()
    with (
        listen(chosen.host, chosen.port) as listening,
        open_studio(
            weights=(chosen.model, chosen.checkpoint) if chosen.model else None,
            device=chosen.device,
            precision=chosen.precision,
            threads=chosen.threads,
            largest=chosen.max_upload * 1_000_000,
        ) as studio,
    ):
        host = gethostname() if chosen.host in ("0.0.0.0", "::") else chosen.host
        host = f"[{host}]" if ":" in host else host
        print(f"The page: http://{host}:{listening.getsockname()[1]}/?token={token}", flush=True)
        serve(studio, listening, token)
