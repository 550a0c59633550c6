"""The page of `talkies app` for tests: its own server, requests made by hand, and a browser that shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chromium
from run_folder import BIN, REPOSITORY

APP = REPOSITORY / ".venv/app"
TOKEN = "a-token-of-the-tests"
OUTSIDE = """
import os, sys
def look(event, found):
    if event == "socket.connect":
        host = found[1][0] if isinstance(found[1], tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = found[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and host not in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::"):
        with open(os.environ["OUTSIDE"], "a") as file:
            file.write(f"{event} {found}\\n")
sys.addaudithook(look)
"""
"""Logs every address outside this machine that the server's Python code looks up or connects to."""


@dataclass
class Page:
    """A running `talkies app`. folder: its working folder. outside: a log of its requests to other machines."""

    process: subprocess.Popen[str]
    address: str
    folder: Path
    temporary: Path
    outside: Path
    cookie: str = field(default="")

    @property
    def open_address(self) -> str:
        return f"{self.address}/?token={TOKEN}"

    def ask(
        self, path: str, body: Any = None, *, cookie: bool = True, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request, with a body as JSON or bytes; return the answer's status and content."""
        sent = dict(headers or {})
        if cookie:
            sent["Cookie"] = f"talkies-{self.address.rpartition(':')[2]}={TOKEN}"
        if body is not None and not isinstance(body, bytes):
            body, sent = json.dumps(body).encode(), {"Content-Type": "application/json", **sent}
        request = urllib.request.Request(self.address + path, data=body, headers=sent)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def upload(self, name: str, content: bytes) -> tuple[int, bytes]:
        """Upload a file as the page does."""
        mark = "----talkies"
        head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        return self.ask("/gradio_api/upload", body, headers={"Content-Type": f"multipart/form-data; boundary={mark}"})

    def temporary_files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@contextmanager
def serving(folder: Path, *words: str, root: str = "") -> Iterator[Page]:
    """Serve the page from a folder until the test is over. root: the value of --root-path."""
    assert (APP / "gradio").is_dir(), "gradio is not in .venv/app: `make test-slow` sets it up"
    watch, temporary, work = folder / "watch", folder / "tmp", folder / "work"
    for each in (watch, temporary, work):
        each.mkdir(parents=True)
    (watch / "sitecustomize.py").write_text(OUTSIDE)
    environment = os.environ | {
        "PYTHONPATH": f"{watch}:{APP}",
        "TALKIES_TOKEN": TOKEN,
        "TMPDIR": str(temporary),
        "OUTSIDE": str(folder / "outside"),
        "OMP_WAIT_POLICY": "passive",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, BIN / "talkies", "app", "--port", "0", *words],
            cwd=work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(rf"The page: (http://\S+){root}/\?token={TOKEN}\n", said)
        assert found, said + (folder / "log").read_text()
        page = Page(process, found[1], work, temporary, folder / "outside")
        _until_served(page)
        yield page
    finally:
        process.terminate()
        process.wait(60)


def _until_served(page: Page) -> None:
    for _ in range(240):
        try:
            page.ask("/manifest.json")
            return
        except OSError:
            assert page.process.poll() is None
            time.sleep(0.25)
    raise AssertionError("the page does not answer")


class Visitor(chromium.Chromium):
    """A browser with the page open."""

    def visit(self, page: Page) -> None:
        self.resize(1360, 1600)
        self.open(page.open_address)
        self.until("document.querySelector('#go')")
        self.until("localStorage.getItem('talkies')")  # the page restores the stored choices after this
        self.run("await new Promise(done => setTimeout(done, 500))")

    def until(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return !!({condition})"):
            assert time.monotonic() < end, f"not true within {seconds} s: {condition}\n{self.text('body')[-2000:]}"
            time.sleep(0.1)

    def text(self, selector: str) -> str:
        return self.run(f"const found = document.querySelector({selector!r}); return found ? found.innerText : ''")

    def press_button(self, selector: str) -> None:
        self.run(f"document.querySelector({selector!r}).click()")

    def write(self, selector: str, text: str) -> None:
        """Type into a control as a user does, then leave it."""
        self.run(
            f"const control = document.querySelector({selector!r} + ' textarea, ' + {selector!r} + ' input');"
            f"control.focus(); control.value = {text!r};"
            "control.dispatchEvent(new Event('input', {bubbles: true}));"
            "control.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));"
            "control.dispatchEvent(new Event('change', {bubbles: true})); control.blur();"
        )

    def choose(self, picture: Path | None = None, clip: Path | None = None) -> None:
        """Choose files, and wait until the page has checked them."""
        for kind, file in (("images", picture), ("driving", clip)):
            if file is not None:
                # Once a file is chosen, its name replaces the control's input.
                self.run(f"const x = document.querySelector('#{kind}-file button[aria-label=Clear]'); if (x) x.click()")
                self.until(f"document.querySelector('#{kind}-file input[type=file]')")
                self.until(f"!document.querySelector('#{kind}-check .finding, #{kind}-check .wrong')")
                self.give(f"#{kind}-file input[type=file]", file)
                self.until(f"document.querySelector('#{kind}-check .finding, #{kind}-check .wrong')")

    def animate(self) -> None:
        self.press_button("#go")

    def film(self, seconds: float = 120) -> None:
        """Wait for the film."""
        self.until("document.querySelector('#film video.leads')", seconds)
