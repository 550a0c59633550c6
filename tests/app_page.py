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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import chromium
from run_folder import BIN, REPOSITORY

from talkies.app.choices import Choices, Form, Maker

ADA = REPOSITORY / "examples/images/ada.png"
ANNA = REPOSITORY / "examples/driving/anna.mp4"
TOKEN = "a-token-of-the-tests"


def chosen(picture: Path = ADA, driving: Path = ANNA, maker: Maker | None = None, **fields: Any) -> Choices:
    """Return the choices of a form with these fields, and the page's usual ones."""
    return Choices(picture, driving, maker or Maker("face"), Form(**fields))


@dataclass
class Page:
    """A running `talkies app`. folder: its working folder. temporary: its $TMPDIR."""

    process: subprocess.Popen[str]
    address: str
    folder: Path
    temporary: Path

    @property
    def cookie(self) -> dict[str, str]:
        return {"Cookie": f"talkies-{self.address.rpartition(':')[2]}={TOKEN}"}

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request, with a body as JSON or bytes; return the answer's status and content."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        sent = self.cookie if headers is None else headers
        request = urllib.request.Request(self.address + path, data=body, headers=sent, method=method)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def upload(self, name: str, content: bytes) -> tuple[int, bytes]:
        """Upload a file as the page does."""
        return self.ask(f"/files?name={quote(name)}", content)

    def temporary_files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[Page]:
    """Serve the page from a folder until the test is over."""
    temporary, work = folder / "tmp", folder / "work"
    for each in (temporary, work):
        each.mkdir(parents=True)
    environment = os.environ | {"TALKIES_TOKEN": TOKEN, "TMPDIR": str(temporary), "OMP_WAIT_POLICY": "passive"}
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
        said = process.stdout.readline()  # the socket listens already
        found = re.fullmatch(rf"The page: (http://\S+)/\?token={TOKEN}\n", said)
        assert found, said + (folder / "log").read_text()
        yield Page(process, found[1], work, temporary)
    finally:
        process.terminate()
        process.wait(120)


class Visitor(chromium.Chromium):
    """A browser with the page open."""

    def visit(self, address: str) -> None:
        self.resize(1360, 1600)
        self.open(f"{address}/?token={TOKEN}")
        self.until("document.body.dataset.ready")

    def until(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return !!({condition})"):
            assert time.monotonic() < end, f"not true within {seconds} s: {condition}\n{self.text('body')[-2000:]}"
            time.sleep(0.1)

    def shows(self, selector: str, text: str, seconds: float = 30) -> None:
        """Wait until an element shows a text."""
        self.until(f"document.querySelector({selector!r})?.innerText.includes({json.dumps(text)})", seconds)

    def text(self, selector: str) -> str:
        return self.run(f"return document.querySelector({selector!r})?.innerText ?? ''")

    def press_button(self, selector: str) -> None:
        self.run(f"document.querySelector({selector!r}).click()")

    def write(self, selector: str, text: str) -> None:
        """Type into a control, or choose in it, as a user does."""
        self.run(
            f"const control = document.querySelector({selector!r}); control.value = {json.dumps(text)};"
            "control.dispatchEvent(new Event('change', {bubbles: true}));"
        )

    def choose(self, picture: Path | None = None, clip: Path | None = None) -> None:
        """Choose files, and wait until the page has checked them."""
        for kind, file in (("images", picture), ("driving", clip)):
            if file is not None:
                self.run(f"document.querySelector('#{kind} .found').replaceChildren()")
                self.give(f"#{kind} input[type=file]", file)
                self.until(f"document.querySelector('#{kind} .found').matches(':has(.fact, .fails)')")

    def film(self, seconds: float = 240) -> None:
        """Make the film, and wait for it."""
        self.press_button("#go")
        self.until("document.querySelector('#film video.leads')", seconds)
