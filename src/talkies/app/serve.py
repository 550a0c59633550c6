"""Serves the page, only to requests with its token, with limits for their size.

Every address that is answered is in `application`; the page needs no other, and loads nothing from other hosts.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .. import media
from ..errors import TalkiesError
from .choices import Form
from .studio import DONE, DRIVER, FILM, RECORD, SOURCE, Studio

TOKEN = "TALKIES_TOKEN"
"""The variable for a token of the user's choice."""
SHORTEST_TOKEN = 16  # characters
LARGEST_FORM = 1 << 16  # bytes
PAGE = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "camera.js": "text/javascript"}
MADE = {FILM: "video/mp4", DRIVER: "video/mp4", SOURCE: "image/png", RECORD: "application/json"}
HEADERS = {
    # The browser runs only the page's own scripts, and loads only from its address.
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self'; "
    "form-action 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def choose_token() -> str:
    """Return the token that opens the page: $TALKIES_TOKEN, else a new one."""
    token = os.environ.get(TOKEN, "")
    if token and not re.fullmatch(rf"[\w.~-]{{{SHORTEST_TOKEN},200}}", token, re.ASCII):
        raise TalkiesError(
            f"{TOKEN} ({len(token)} long): give {SHORTEST_TOKEN} to 200 letters, digits, dots, dashes, underscores"
        )
    return token or secrets.token_urlsafe(24)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; TalkiesError if that fails."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise TalkiesError(
            f"can't serve at {host}:{port} ({error.strerror}): give this machine's name or address by --host, and "
            "another --port, 0 for any that is free"
        ) from None


def serve(studio: Studio, listening: socket.socket, token: str) -> None:
    """Serve the page until the process is stopped."""
    app = application(studio, token, listening.getsockname()[1])
    settings = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=1, ws="none"
    )
    uvicorn.Server(settings).run(sockets=[listening])


def application(studio: Studio, token: str, port: int) -> Starlette:
    """Return the page as an ASGI application. port: part of its cookie's name, as hosts share cookies."""
    start = secrets.token_hex(8)

    def page(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return FileResponse(Path(__file__).with_name(name or "page.html"), media_type=PAGE[name])

    def options(_: Request) -> Response:
        return JSONResponse(
            {
                "start": start,  # tells the names of files and films from those of an earlier start
                "makers": list(studio.makers),
                "examples": studio.examples,
                "suffixes": {"images": sorted(media.PICTURE_SUFFIXES), "driving": sorted(media.CLIP_SUFFIXES)},
                "largest": studio.largest,
            }
        )

    async def upload(request: Request) -> Response:
        given, path = await run_in_threadpool(studio.new_file, request.query_params.get("name", ""))
        try:
            with path.open("wb") as file:
                async for block in _blocks(request, studio.largest):
                    await run_in_threadpool(file.write, block)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return JSONResponse({"file": given, "name": path.name})

    def films(_: Request) -> Response:
        return JSONResponse(studio.queue())

    def cancel(request: Request) -> Response:
        studio.cancel(request.path_params["number"])
        return films(request)

    def made(request: Request) -> Response:
        job, name = studio.jobs.get(request.path_params["number"]), request.path_params["name"]
        if job is None or job.state != DONE or name not in MADE:
            raise HTTPException(404)
        return FileResponse(job.folder / name, media_type=MADE[name])

    def told(_: Request, error: Exception) -> Response:
        return PlainTextResponse(studio.words(str(error)), 400)

    routes = [
        *(Route(f"/{name}", page) for name in PAGE),
        Route("/options", options),
        Route("/files", upload, methods=["POST"]),
        Route(
            "/look", _answer(lambda form, asked: studio.look(form, asked.get("kind") == "driving")), methods=["POST"]
        ),
        Route("/lines", _answer(lambda form, _: studio.choices(form).as_yaml()), methods=["POST"]),
        Route("/films", films),
        Route("/films", _answer(lambda form, _: studio.submit(studio.choices(form)).number), methods=["POST"]),
        Route("/films/{number:int}", cancel, methods=["DELETE"]),
        Route("/films/{number:int}/{name}", made),
    ]

    async def guard(request: Request, answer: RequestResponseEndpoint) -> Response:
        response = _refusal(request, token, f"talkies-{port}") or await answer(request)
        response.headers.update(HEADERS)
        return response

    guarded = Middleware(BaseHTTPMiddleware, dispatch=guard)
    return Starlette(routes=routes, middleware=[guarded], exception_handlers=dict.fromkeys(REFUSED, told))


def _answer(act: Callable[[Form, Mapping[str, str]], Any]) -> Callable[[Request], Any]:
    """Return a route's function that answers with the value of `act` for the form and the address's parameters."""

    async def answer(request: Request) -> Response:
        body = b"".join([block async for block in _blocks(request, LARGEST_FORM)])
        try:
            form = msgspec.json.decode(body, type=Form)
        except ValueError as error:
            raise HTTPException(400, f"{error}: load the page again") from None
        return JSONResponse(await run_in_threadpool(act, form, request.query_params))

    return answer


async def _blocks(request: Request, most: int) -> AsyncIterator[bytes]:
    """Yield a request's body; HTTPException if it has more than `most` bytes."""
    too_large = HTTPException(413, f"too large: at most {most} bytes (--max-upload sets that of files)")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise too_large
    async for block in request.stream():
        most -= len(block)
        if most < 0:
            raise too_large
        yield block


REFUSED = (TalkiesError, OSError, ClientDisconnect)
"""Errors whose message is the answer: of the user, of a full disk, of an upload that was cut off."""


def _refusal(request: Request, token: str, cookie: str) -> Response | None:
    """Return the answer to a request without the token, or from another page with its reader's cookie; else None."""

    def is_token(text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), token.encode())

    given = request.query_params.get("token", "")
    if request.url.path == "/" and is_token(given):
        # The address without the token; relative, since a proxy may serve the page below a path of its own.
        answer = Response(status_code=303, headers={"location": "./"})
        answer.set_cookie(cookie, given, path=None, httponly=True, samesite="strict")
        return answer
    if not is_token(request.cookies.get(cookie, "")):
        wrong = "<p>That is not the token.</p>" if given else ""
        return HTMLResponse(DOOR.replace("<form", f"{wrong}<form"), 401)
    asking = request.headers.get("origin")  # None: no page
    own = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
    if asking is not None and urlsplit(asking).netloc not in own:
        return PlainTextResponse("asked by another page", 403)
    return None


DOOR = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>Talkies</title>
<h1>Talkies</h1>
<p>Open the address that <code>talkies app</code> printed, or give its token:</p>
<form><input name="token" type="password" autocomplete="off" aria-label="token" autofocus> <button>Open</button></form>
"""
