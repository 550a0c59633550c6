"""Fetching weights from a host that gives, lies, breaks off, or is not there: correct files, or one clear line.

The host is an HTTP server on this machine; the transfer, the readers and the programs are real.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from run_folder import RunFolder, write_weights
from small_preset import FILE, NAME, PRESET, write_checkpoint

from talkies import settings as config
from talkies.cli import build_parser
from talkies.errors import TalkiesError
from talkies.fomm.model import published
from talkies.fomm.model.checkpoint import load_model
from talkies.fomm.model.presets import PRESETS
from talkies.fomm.model.published import Fetched, check_unchanged, fetch, find_weights
from talkies.run.planner import make_plan
from talkies.stages import table

PROGRAM = Path(__file__).parents[1] / "small_preset.py"
SAFETENSORS = "small-cpk.safetensors"


class Host(BaseHTTPRequestHandler):
    """Answers /STATUS/LACK/... with `content`, whose last LACK bytes it announces but does not send."""

    content: ClassVar[bytes] = b""
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, lack = map(int, self.path.split("/")[1:3])
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/200/0/elsewhere")
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) - lack])
        self.close_connection = True


@dataclass
class Web:
    """The host's address, and what it gives."""

    port: int

    def link(self, path: str = "/200/0/w.pth.tar") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def gives(self, content: bytes) -> None:
        Host.content = content

    def fetch(self, path: str = "/200/0/w.pth.tar", **options: object) -> Fetched:
        return fetch(NAME, source=self.link(path), **options)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Two checkpoints of the same size and structure, with different numbers."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return [write_checkpoint(folder / str(seed), seed=seed, legacy=bool(seed)) for seed in (0, 1)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, with the small preset registered."""
    monkeypatch.setenv("TALKIES_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, NAME, PRESET)
    return tmp_path / "kept"


@pytest.fixture
def web(contents: list[bytes]) -> Iterator[Web]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    Host.content, Host.asked = contents[0], []
    yield Web(server.server_address[1])
    server.shutdown()
    server.server_close()


def all_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_came_is_found_by_its_preset_and_not_fetched_again(here: Path, web: Web, contents: list[bytes]) -> None:
    fetched = web.fetch("/302/0/w")
    assert Host.asked == ["/302/0/w", "/200/0/elsewhere"]
    assert fetched.path == here / FILE == find_weights(NAME)
    assert fetched.path.read_bytes() == contents[0]
    assert all_of(here) == {FILE, "weights.lock"}
    assert fetched.sha256 == hashlib.sha256(contents[0]).hexdigest()
    assert "first use" in fetched.checked
    assert load_model(NAME).weights_digest
    again = web.fetch()
    assert (again.path, again.source, again.checked) == (fetched.path, None, "as in weights.lock")
    assert len(Host.asked) == 2


def test_the_command_says_source_size_digest_and_licence(here: Path, web: Web, contents: list[bytes]) -> None:
    command = [sys.executable, str(PROGRAM), "checkpoint", "fetch", NAME, "--from", web.link()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert told[:3] == [f"{NAME}: {here / FILE}", f"source {web.link()}", f"size {len(contents[0]) / 1e6:.1f} MB"]
    assert told[3].startswith(f"sha256 {hashlib.sha256(contents[0]).hexdigest()} (first use")
    assert "licence: nobody states one" in told[4]


def test_a_file_of_ones_own_and_a_mirrors_safetensors(here: Path, web: Web, contents: list[bytes], tmp_path) -> None:
    assert web.fetch(to=tmp_path / "mine.pth").path.read_bytes() == contents[0]
    (tmp_path / "other.pth").write_bytes(b"a letter")
    with pytest.raises(TalkiesError, match=r"other\.pth: neither a PyTorch nor.*Move it away"):
        web.fetch(to=tmp_path / "other.pth")
    assert (tmp_path / "other.pth").read_bytes() == b"a letter"
    done = [sys.executable, str(PROGRAM), "checkpoint", "convert", str(tmp_path / "mine.pth"), "mine.safetensors"]
    subprocess.run(done, check=True, timeout=120, capture_output=True)
    web.gives((tmp_path / "mine.safetensors").read_bytes())
    assert web.fetch().path == here / SAFETENSORS == find_weights(NAME)


@pytest.mark.parametrize(
    ("path", "content", "options", "reason"),
    [
        ("/404/0/w", None, {}, "the host answers 404 Client Error: Not Found: "),
        ("/200/1000/w", None, {}, "the transfer failed"),
        (None, None, {}, "the transfer failed"),
        ("/200/0/w", b"<!DOCTYPE html><title>Quota exceeded</title>", {}, "this is a web page, not a checkpoint"),
        ("/200/0/w", b"PK\x05\x06" + bytes(18), {}, "this is an archive"),
        ("/200/0/w", b"\x80\x04\x95letter", {}, "neither a PyTorch nor a safetensors file"),
        ("/200/0/w", "cut", {}, "damaged, or a download cut short"),
        ("/200/0/w", None, {"sha256": "0" * 64}, "another file: its sha256 is"),
    ],
    ids=["missing", "broken off", "no host", "page", "archive", "foreign", "cut", "digest"],
)
def test_what_is_not_the_file_is_refused_in_one_line(
    here: Path, web: Web, contents: list[bytes], path: str | None, content: object, options: dict, reason: str
) -> None:
    if content is not None:
        web.gives(contents[0][:2_000_000] if content == "cut" else content)
    link = web.link(path) if path else "http://127.0.0.1:1/w"
    with pytest.raises(TalkiesError) as caught:
        fetch(NAME, source=link, **options)
    said = str(caught.value)
    assert said.startswith(f"{NAME}: {link}: {reason}")
    assert f"name another link (--from URL), or save {FILE} by a browser as {here / FILE}, from https://" in said
    assert "\n" not in said
    assert not all_of(here)


def test_digests(here: Path, web: Web, contents: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    web.fetch().path.unlink()
    web.gives(contents[1])
    with pytest.raises(TalkiesError, match=f"another file than the first: its sha256 is {digests[1]}"):
        web.fetch()
    assert web.fetch(sha256=digests[1]).checked == "as asked for"
    (here / FILE).unlink()
    assert web.fetch().checked == "as in weights.lock"
    (here / FILE).unlink()
    monkeypatch.setitem(published.MD5, NAME, hashlib.md5(contents[0]).hexdigest())
    with pytest.raises(TalkiesError, match="another file: its md5 is not"):
        web.fetch()
    web.gives(contents[0])
    assert web.fetch().checked.endswith("as published")


def test_a_file_that_changed_here_is_refused_at_every_door(here: Path, web: Web, contents: list[bytes]) -> None:
    path = web.fetch().path
    os.utime(path)
    check_unchanged(path)  # the time differs, the bytes do not
    path.write_bytes(contents[1])
    for door in (lambda: load_model(NAME), web.fetch, lambda: check_unchanged(path)):
        with pytest.raises(TalkiesError, match="has changed since it was fetched"):
            door()


def test_the_known_link_of_each_published_preset(here: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "RELEASE", web.link("/200/0"))
    assert fetch(NAME).source == web.link(f"/200/0/{FILE}")
    monkeypatch.setattr(published, "find_spec", lambda name: None)
    (here / FILE).unlink()
    with pytest.raises(TalkiesError, match=r"pooch is not installed.*outside the image"):
        fetch(NAME)


@pytest.mark.parametrize(
    "words",
    [["demo"], ["nobody"], [NAME, "--sha256", "1"], [NAME, "--from", "ftp://h/f"], [NAME, "--from", "x.pth"], []],
    ids=str,
)
def test_a_wrong_call(here: Path, words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["checkpoint", "fetch", *words])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_preset_that_was_fetched_is_planned_as_the_file_named_by_its_path(tmp_path: Path, monkeypatch) -> None:
    run = RunFolder.create(tmp_path / "run", images=["red"], clips=["a"])
    monkeypatch.chdir(run.path)
    monkeypatch.setenv("TALKIES_WEIGHTS", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    file = tmp_path / "kept/vox-cpk.safetensors"
    write_weights(file, "vox-256")
    plans = []
    for model in ({"preset": "vox-256"}, {"preset": "vox-256", "checkpoint": str(file)}):
        run.configure(model=model)
        plans.append(make_plan(config.load(Path("config.yaml")), table)[0])
    by_preset, by_path = plans
    assert by_preset.settings == by_path.settings
    assert by_preset.settings.model.checkpoint == str(file), "a job gets the file's path and needs no network"
    assert by_preset.outside == [str(tmp_path / "kept")], "the folder is mounted in an image"
    Path(".talkies/inputs.json").unlink()
    published.note(file, file, sha256=64 * "5", source="a link")
    assert make_plan(config.load(Path("config.yaml")), table)[0].weights == 64 * "5", "from weights.lock, unread"
