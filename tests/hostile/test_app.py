"""Hand-made requests to `talkies app` that its page never sends: no token, other pages, foreign files, floods."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import app_page
import bombs
import pytest
from app_page import ADA, TOKEN
from run_folder import wait_for

from talkies.app.serve import application
from talkies.app.studio import open_studio

OPEN = {
    ("GET", "/"),
    ("GET", "/page.css"),
    ("GET", "/page.js"),
    ("GET", "/camera.js"),
    ("GET", "/options"),
    ("POST", "/files"),
    ("POST", "/look"),
    ("POST", "/lines"),
    ("GET", "/films"),
    ("POST", "/films"),
    ("DELETE", "/films/{number:int}"),
    ("GET", "/films/{number:int}/{name}"),
}
"""All that the page needs. There is nothing else."""
FORM = {"picture": "", "driving": "", "maker": "demo"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[app_page.Page]:
    with app_page.serving(tmp_path_factory.mktemp("hostile"), "--max-upload", "2") as served:
        yield served
    assert "Traceback" not in (served.folder.parent / "log").read_text()


def look(page: app_page.Page, kind: str = "images", **form: Any) -> tuple[int, str]:
    status, said = page.ask(f"/look?kind={kind}", {**FORM, **form})
    return status, said.decode()


def uploaded(page: app_page.Page, name: str, content: bytes) -> str:
    status, said = page.upload(name, content)
    assert status == 200, said
    return json.loads(said)["file"]


def test_every_route_is_open_by_name_and_none_without_the_token(page: app_page.Page) -> None:
    with open_studio() as studio:
        routes = application(studio, TOKEN, 1).routes
    assert {(method, each.path) for each in routes for method in each.methods - {"HEAD"}} == OPEN
    port = page.address.rpartition(":")[2]
    wrong = [f"talkies-{port}=wrong", f"talkies-1={TOKEN}", "\xff;;=", "talkies-"]
    for method, path in OPEN:
        asked = path.replace("{number:int}", "1").replace("{name}", "film.mp4")
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}, *({"Cookie": each} for each in wrong)):
            status, said = page.ask(asked, method=method, headers=headers)
            assert (status, TOKEN in said.decode()) == (401, False), path
        if method != "GET":
            for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}):
                assert page.ask(asked, FORM, method=method, headers=headers | page.cookie)[0] == 403
    assert page.ask("/?token=wrong", headers={})[0] == 401
    assert page.ask(f"/films?token={TOKEN}", headers={})[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/page.html",
        "/serve.py",
        "/docs",
        "/openapi.json",
        "/static/../../../../../../etc/passwd",
        "/gradio_api/process_recording",
        "/films/1/../../../../etc/passwd",
        "/films/1/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/films/x/film.mp4",
        "/films/999/film.mp4",
        "//etc/passwd",
        "/%2e%2e/serve.py",
    ],
)
def test_nothing_else_is_given(page: app_page.Page, path: str) -> None:
    for body in (None, b"x"):
        status, said = page.ask(path, body)
        assert status in (404, 405), said[:200]
        assert b"root:" not in said


def test_the_token_gives_a_cookie_that_no_script_and_no_other_page_gets(page: app_page.Page) -> None:
    words = ["curl", "-si", f"{page.address}/?token={TOKEN}"]
    answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert answer.startswith("HTTP/1.1 303")
    assert f"{TOKEN}; HttpOnly; SameSite=strict\n" in answer
    assert "location: ./\n" in answer
    assert "default-src 'self'; " in answer


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"picture": "/etc/passwd"}, "no longer here"),
        ({"picture": "../../etc/passwd"}, "no longer here"),
        ({"picture": str(ADA)}, "no longer here"),
        ({"picture": "http://127.0.0.1:9/a.png"}, "no longer here"),
        ({"picture": None}, "Expected `str`"),
        ({"picture": "example ada.png", "maker": "../../x"}, "choose one of the list"),
        ({"picture": "example ada.png", "maker": ["demo"]}, "Expected `str`"),
        ({"picture": "example ada.png", "picture_crop": {"a": 1}}, "Expected `str`"),
        ({"picture": "example ada.png", "picture_crop": "1,1,1,9999999"}, "number over a million"),
        ({"picture": "example ada.png", "start": -1}, "Expected `float` >= 0.0"),
        ({"picture": "example ada.png", "path": "/etc/passwd"}, "unknown field `path`"),
    ],
)
def test_a_form_names_no_other_file_and_no_wrong_value(page: app_page.Page, form: dict[str, Any], reason: str) -> None:
    status, said = look(page, **form)
    assert (status, reason in said, "\n" in said) == (400, True, False), said


def test_names_are_shown_without_the_servers_folders(page: app_page.Page) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    status, said = look(page, picture=uploaded(page, name, b"no picture"))
    assert (status, str(page.temporary) in said, "not a picture" in said) == (200, False, True)


def test_bodies_are_bounded_and_what_was_refused_is_gone(page: app_page.Page) -> None:
    assert page.ask("/lines", b"[" * 60_000)[0] == 400
    with suppress(OSError):  # the server may answer before all of it was sent
        assert page.ask("/lines", b"x" * 1_000_000)[0] == 413
    with suppress(OSError):
        assert page.upload("large.mp4", b"x" * 2_500_000)[0] == 413
    host, port = page.address.removeprefix("http://").split(":")
    for head, body in (
        ("Content-Length: 1999999", b"x" * 500_000),
        ("Transfer-Encoding: chunked", b"ffffff\r\n" + b"x" * 3_000_000),
    ):
        with suppress(OSError), socket.create_connection((host, int(port))) as cut_off:
            cookie = page.cookie["Cookie"]
            cut_off.sendall(
                f"POST /files?name=half.mp4 HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n{head}\r\n\r\n".encode()
            )
            cut_off.sendall(body)
    wait_for(lambda: not [each for each in page.temporary_files() if each.name in ("large.mp4", "half.mp4")], 10)


def test_a_bomb_costs_the_page_nothing(page: app_page.Page, tmp_path: Path) -> None:
    before = memory(page)
    content = bombs.endless_times(tmp_path / "a.mp4").read_bytes()
    assert "of memory" in look(page, "driving", driving=uploaded(page, "a.mp4", content))[1]
    assert memory(page) - before < 200


def memory(page: app_page.Page) -> float:
    text = Path(f"/proc/{page.process.pid}/statm").read_text()
    return int(text.split()[1]) * 4096 / 1e6


def test_a_visit_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    with app_page.serving(tmp_path / "served") as served:
        picture = uploaded(served, "a.png", ADA.read_bytes())
        form = {**FORM, "picture": picture, "driving": "example anna.mp4", "end": 0.1}
        assert look(served, **form)[0] == look(served, "driving", **form)[0] == 200
        assert served.ask("/films", form) == (200, b"1")
        wait_for(lambda: json.loads(served.ask("/films")[1])[0]["state"] == "done", 240)
        assert served.ask("/films/1/film.mp4")[1][4:8] == b"ftyp"
        (own,) = served.temporary.iterdir()
        assert sorted(each.name.partition("-")[0] for each in own.iterdir()) == ["film", "upload"]
    assert served.process.returncode == 128 + 15
    wait_for(lambda: not list(served.temporary.iterdir()), 5)
    assert "Traceback" not in (tmp_path / "served/log").read_text()
