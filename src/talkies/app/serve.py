"""Serves the page, only to requests with its token, with limits for their size, and without other hosts."""

from __future__ import annotations

import hmac
import html
import json
import logging
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import TalkiesError
from .page import LOOK, SCRIPT, build
from .studio import DONE, DRIVER, FILM, RECORD, SOURCE, Studio

log = logging.getLogger("talkies")

TOKEN = "TALKIES_TOKEN"
"""The variable for a token of the user's choice."""
SHORTEST_TOKEN = 16  # characters
LARGEST_BODY = 1 << 20  # bytes of a request that is not an upload
UPLOAD = "/upload"
CLOSED = re.compile(
    r"/(gradio_api/)?(proxy=|mcp|monitoring|vibe|dev/|component_server|deep_link|startup-events)|"
    r"/(docs|redoc|openapi.json|login|logout)|.*=https?:"
)
"""Paths of gradio that the page does not need: they fetch from other hosts, or change what runs."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; form-action 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
)
"""The browser may load only from the page's own address. gradio's page needs inline scripts and eval."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
FILES = {FILM: "video/mp4", DRIVER: "video/mp4", SOURCE: "image/png", RECORD: "application/json"}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _TooLarge(Exception):
    pass


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
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise TalkiesError(f"--host {host}: {error.strerror}: give this machine's name or address") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise TalkiesError(
            f"can't serve at {host}:{port} ({error.strerror}): give another by --port, 0 for any that is free"
        ) from None
    return listening


def serve(studio: Studio, listening: socket.socket, token: str, root: str) -> None:
    """Serve the page until the process is stopped."""
    app = application(studio, token, root, listening.getsockname()[1])
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=1, ws="none"
    )
    uvicorn.Server(settings).run(sockets=[listening])


def application(studio: Studio, token: str, root: str, port: int) -> Guard:
    """Return the page as an ASGI application: gradio and the films, behind the guard."""
    page = build(studio, root)
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/made/{number}/{name}")
    def made(number: int, name: str) -> Any:
        job = studio.job(number)
        if job is None or job.state != DONE or name not in FILES:
            raise HTTPException(404)
        return FileResponse(job.folder / name, media_type=FILES[name])

    made.__annotations__ = {"number": int, "name": str}
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=LOOK.read_text(encoding="utf-8"),
        head=f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        footer_links=[],
        max_file_size=studio.largest,
        root_path=root or None,
        allowed_paths=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    return Guard(app, studio, token, root, port)


class Guard:
    """Guards the page: it refuses requests without the token, and requests that are too large."""

    def __init__(self, app: Any, studio: Studio, token: str, root: str, port: int) -> None:
        self._app, self._studio, self._token, self._root = app, studio, token, root
        self._cookie = f"talkies-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and scope["method"] == "GET" and self._is_token(given):
            await self._let_in(scope, send)
        elif scope["path"] == "/favicon.ico":
            await _answer(send, 204, "")
        elif scope["path"] == "/manifest.json":  # browsers request it without the cookie
            await _answer(send, 200, '{"name": "Talkies"}', kind="application/json")
        elif not self._is_token(self._from_cookie(headers.get("cookie", ""))):
            await _answer(send, 401, _door(given), kind="text/html")
        elif scope["method"] not in ("GET", "HEAD") and not _is_own(headers):
            await _answer(send, 403, "asked by another page")
        elif CLOSED.match(scope["path"]):
            await _answer(send, 404, "not here")
        else:
            await self._pass(scope, headers, receive, send)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._token.encode())

    def _from_cookie(self, text: str) -> str:
        try:
            found = SimpleCookie(text).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    async def _let_in(self, scope: Scope, send: Send) -> None:
        """Give the browser the token as a cookie, and remove it from the address."""
        cookie = f"{self._cookie}={self._token}; Path={self._root or ''}/; HttpOnly; SameSite=Strict"
        more = {"location": f"{self._root}/", "set-cookie": cookie}
        await _answer(send, 303, "", more=more)

    async def _pass(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> None:
        upload = scope["path"].endswith(UPLOAD)
        most = self._studio.largest + LARGEST_BODY if upload else LARGEST_BODY
        begun = False

        async def answered(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        length = headers.get("content-length", "0")
        try:
            if not length.isdigit() or int(length) > most:
                raise _TooLarge
            if upload:
                from starlette.concurrency import run_in_threadpool

                if not await run_in_threadpool(self._studio.has_room):
                    await _answer(answered, 507, "no room for more files: cancel films, or start talkies app again")
                    return
                incoming = _counted(receive, most)
            elif scope["method"] == "POST":
                body = await _whole_body(receive, most)
                if _names_a_foreign_file(body, self._studio.uploads):
                    await _answer(answered, 400, "a file is uploaded, not named by its path or address")
                    return
                incoming = _again(body, receive)
            else:
                incoming = receive
            await self._app(scope, incoming, answered)
        except _TooLarge:
            if not begun:
                megabytes = self._studio.largest // 1_000_000
                await _answer(answered, 413, f"too large: files may have {megabytes} MB (--max-upload)")


def _is_own(headers: dict[str, str]) -> bool:
    """Return whether a request comes from this page or from no page: other pages must not use the visitor's
    cookie."""
    origin = headers.get("origin")
    own = {headers.get("host"), headers.get("x-forwarded-host")} - {None}
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none") and (
        origin is None or urlsplit(origin).netloc in own
    )


def _counted(receive: Receive, most: int) -> Receive:
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _TooLarge
        return message

    return counted


async def _whole_body(receive: Receive, most: int) -> bytes:
    counted, body, more = _counted(receive, most), b"", True
    while more:
        message = await counted()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Replay a body that was already read, and then pass on what follows."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


def _names_a_foreign_file(body: bytes, uploads: Path) -> bool:
    """Return whether a request names a file that is not an upload: gradio would fetch it, or copy it here."""
    try:
        left = [json.loads(body or b"null")]
    except (ValueError, RecursionError):
        return False
    while left:
        value = left.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and not _is_upload(path, uploads):
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False


def _is_upload(path: str, uploads: Path) -> bool:
    try:
        return Path(path).is_absolute() and Path(path).resolve().is_relative_to(uploads.resolve())
    except (ValueError, OSError):
        return False


async def _answer(
    send: Send, status: int, text: str, *, kind: str = "text/plain", more: dict[str, str] | None = None
) -> None:
    body = text.encode()
    headers = {"content-type": f"{kind}; charset=utf-8", "content-length": str(len(body)), "cache-control": "no-store"}
    pairs = [(name.encode(), value.encode()) for name, value in {**HEADERS, **headers, **(more or {})}.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _door(given: str) -> str:
    """Return the page that asks for the token."""
    wrong = f"<p>{html.escape('That is not the token.')}</p>" if given else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark"><title>Talkies</title>'
        '<body style="font-family: system-ui, sans-serif; max-width: 30rem; margin: 4rem auto; padding: 0 1rem">'
        f"<h1>Talkies</h1>{wrong}<p>Open the address that <code>talkies app</code> printed, or give its token:</p>"
        '<form method="get"><input name="token" type="password" autocomplete="off" aria-label="token" autofocus> '
        "<button>Open</button></form>"
    )
