"""A host of weights that misbehaves on demand: breaks off, stalls, lies, sends a page, changes a file, redirects.

It is an HTTP server on this machine. As an HTTPS proxy it also plays the real hosts, which its certificate names.
"""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 1 << 16


@dataclass
class File:
    """The file at an address, and what goes wrong during its transfer.

    breaks: offsets at which the connection ends, each once. stalls: offsets at which no more data comes, each once.
    announces: number added to the true length. ranges: whether the client can ask for a part. if_range: whether the
    host refuses a part if the file is not the one the client began with. version: the ETag; None: no ETag, no date.
    """

    content: bytes
    breaks: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    announces: int = 0
    ranges: bool = True
    if_range: bool = True
    version: str | None = '"1"'
    dated: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    then: Callable[[], None] | None = None
    """Called when a break is reached."""


class Host:
    """The server: `files` by address (with the host's name if it plays a real host), and the requests it received."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.asked: list[tuple[str, str | None]] = []
        """Addresses and ranges of the transfers, without requests that only look at the head."""
        self.looks = 0
        self.tls: ssl.SSLContext | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"host": self}))
        self._server.daemon_threads = True
        self.over = threading.Event()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def link(self, path: str = "/w.pth.tar") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def host() -> Iterator[Host]:
    """Provide a host that stops at the end."""
    made = Host()
    try:
        yield made
    finally:
        made.close()


def certificate(folder: Path, names: list[str]) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for these names; return what a server needs and the file a client must trust."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    alternative = ",".join(f"DNS:{name}" for name in names)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=stand-in"]
    command += ["-keyout", str(key), "-out", str(file), "-addext", f"subjectAltName={alternative}"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context, file


class _Handler(BaseHTTPRequestHandler):
    host: Host

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        assert self.host.tls is not None
        self.send_response(200)
        self.end_headers()
        self.connection = self.host.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def do_GET(self) -> None:
        name = self.headers["Host"].partition(":")[0]
        address = self.path if name == "127.0.0.1" else name + self.path
        file = self.host.files.get(address) or self.host.files.get(address.partition("?")[0])
        asked = self.headers.get("Range")
        transfer = self.headers["User-Agent"].startswith("Mozilla")
        if transfer:
            self.host.asked.append((address, asked))
        else:
            self.host.looks += 1
        with suppress(OSError):  # the client has gone
            self._answer(file or File(b"not here", status=404, headers={"Content-Type": "text/plain"}), asked, transfer)

    def _answer(self, file: File, asked: str | None, transfer: bool) -> None:
        content, start, total = file.content, 0, len(file.content)
        self.close_connection = True
        if asked and file.ranges and not (file.if_range and self.headers.get("If-Range") not in (None, file.version)):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(file.status)
        if file.version is not None:
            self.send_header("Last-Modified" if file.dated else "ETag", file.version)
        self.send_header("Content-Length", str(total - start + file.announces))
        for key, value in file.headers.items():
            self.send_header(key, value)
        self.end_headers()
        # A client that resumes asks for the whole file again first, and reads none of it.
        real = transfer and (asked is not None or sum(range_ is None for _, range_ in self.host.asked) == 1)
        for place in range(start, total, PIECE):
            end = min(place + PIECE, total)
            for kind in (file.breaks, file.stalls) if real else ():
                if kind and place <= kind[0] < end:
                    at = kind.pop(0)
                    self.wfile.write(content[place:at])
                    if kind is file.stalls:
                        self.host.over.wait(60)
                    if file.then:
                        file.then()
                    return
            self.wfile.write(content[place:end])


def http_date(seconds: float | None = None) -> str:
    """Return a time in the format of Last-Modified."""
    return formatdate(time.time() if seconds is None else seconds, usegmt=True)
