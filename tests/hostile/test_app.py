"""Hand-made requests to `talkies app` that its page never sends: no token, other pages, foreign files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import app_page
import bombs
import pytest
from run_folder import REPOSITORY

pytestmark = pytest.mark.slow

PATHS = [
    "/",
    "/config",
    "/gradio_api/info",
    "/gradio_api/upload",
    "/made/1/film.mp4",
    "/assets/x.js",
    "/gradio_api/queue/data",
]
NOT_UPLOADED = "400 a file is uploaded, not named by its path or address"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[app_page.Page]:
    with app_page.serving(tmp_path_factory.mktemp("hostile"), "--max-upload", "2") as served:
        yield served


def ask_control(page: app_page.Page, control: str, data: list[Any], session: str = "hostile") -> str:
    """Call a control's function as the page does, with any values; return the server's whole answer."""
    config = json.loads(page.ask("/config")[1])
    (component,) = [each["id"] for each in config["components"] if each["props"].get("elem_id") == control]
    number = next(each["id"] for each in config["dependencies"] if [component, "change"] in map(list, each["targets"]))
    # The number of inputs tells which of a control's functions checks the file.
    fitting = [
        each["id"]
        for each in config["dependencies"]
        if [component, "change"] in map(list, each["targets"]) and len(each["inputs"]) == len(data)
    ]
    number = fitting[0] if fitting else number
    body = {"data": data, "fn_index": number, "session_hash": session, "event_data": None, "trigger_id": component}
    status, said = page.ask("/gradio_api/queue/join?", body)
    if status != 200:
        return f"{status} {said.decode()}"
    return page.ask(f"/gradio_api/queue/data?session_hash={session}")[1].decode()


def file(path: str | Path) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}


def uploaded(page: app_page.Page, name: str, content: bytes) -> str:
    status, said = page.upload(name, content)
    assert status == 200, said
    (path,) = json.loads(said)
    return path


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_answered(page: app_page.Page, path: str) -> None:
    port = page.address.rpartition(":")[2]
    for headers in ({}, {"Cookie": f"talkies-{port}=wrong"}, {"Cookie": "\xff;;="}, {"Authorization": "Bearer x"}):
        for body in (None, {"data": []}):
            status, said = page.ask(path, body, cookie=False, headers=headers)
            assert status == 401, path
            assert app_page.TOKEN not in said.decode()
    assert page.ask(f"{path}?token=wrong", cookie=False)[0] == 401
    assert page.ask(path, cookie=False, headers={"Cookie": f"talkies-1={app_page.TOKEN}"})[0] == 401


def test_the_token_gives_a_cookie_that_no_script_and_no_other_page_gets(page: app_page.Page) -> None:
    import http.client

    connection = http.client.HTTPConnection(page.address.removeprefix("http://"))
    connection.request("GET", f"/?token={app_page.TOKEN}")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=Strict" in answer.headers["set-cookie"]
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"}]
)
def test_another_page_can_do_nothing_with_its_readers_cookie(page: app_page.Page, headers: dict[str, str]) -> None:
    assert page.ask("/gradio_api/queue/join", {"data": []}, headers=headers)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=http://127.0.0.1:9/",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/made/1/../../../../etc/passwd",
        "/made/1/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/made/x/film.mp4",
        "/made/999/film.mp4",
        "/static/../../../../../../etc/passwd",
        "/gradio_api/mcp/",
        "/monitoring",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_other_file_is_given(page: app_page.Page, path: str) -> None:
    status, said = page.ask(path)
    assert status in (403, 404, 422), said[:200]
    assert b"root:" not in said


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", str(REPOSITORY / "examples/images/ada.png")])
def test_a_control_reads_no_file_that_was_not_uploaded(page: app_page.Page, path: str) -> None:
    said = ask_control(page, "images-file", [file(path), "", "demo", "fomm", False])
    assert said == NOT_UPLOADED
    assert not [each for each in page.temporary_files() if each.name in ("passwd", "ada.png")], "nothing was copied"


def test_no_file_is_fetched_from_an_address(page: app_page.Page) -> None:
    said = ask_control(page, "images-file", [file("http://127.0.0.1:9/a.png"), "", "demo", "fomm", False])
    assert said == NOT_UPLOADED
    assert not page.outside.exists()


def test_values_of_a_wrong_kind_are_refused(page: app_page.Page) -> None:
    good = uploaded(page, "a.png", (REPOSITORY / "examples/images/ada.png").read_bytes())
    assert "512 × 512" in ask_control(page, "images-file", [file(good), "", "demo", "fomm", False], "good")
    for number, values in enumerate(
        [
            [file(good), {"a": 1}, "demo", "fomm", False],
            [file(good), "9" * 5000, "demo", "fomm", False],
            [file(good), "", "../../x", "fomm", False],
            [file(good), "", "demo", "no-engine", False],
            [file(good), "", ["demo"], "fomm", False],
            [{"path": None}, "", "demo", "fomm", False],
            ["x", "", "demo", "fomm", False],
        ]
    ):
        said = ask_control(page, "images-file", values, f"wrong{number}")
        assert "512 ×" not in said
        assert "Traceback" not in said
        assert "/site-packages/" not in said
    assert page.process.poll() is None


def test_bodies_are_bounded(page: app_page.Page) -> None:
    assert is_too_large(lambda: page.ask("/gradio_api/queue/join", b'{"data": "' + b"x" * 1_100_000 + b'"}'))
    assert page.ask("/gradio_api/queue/join", b"[" * 100_000)[0] in (400, 422)
    before = sum(path.stat().st_size for path in page.temporary_files())
    assert page.upload("a.mp4", b"x" * 2_500_000)[0] == 413
    assert is_too_large(lambda: page.upload("a.mp4", b"x" * 4_000_000))
    assert sum(path.stat().st_size for path in page.temporary_files()) - before < 2_500_000


def test_a_bomb_costs_the_page_nothing(page: app_page.Page, tmp_path: Path) -> None:
    before = memory(page)
    content = bombs.endless_times(tmp_path / "a.mp4").read_bytes()
    said = ask_control(
        page, "driving-file", [file(uploaded(page, "a.mp4", content)), "", "demo", "fomm", False, "", ""], "bomb"
    )
    assert "of memory" in said
    assert memory(page) - before < 200


def is_too_large(send: Callable[[], tuple[int, bytes]]) -> bool:
    """Send a body and return whether it is refused, possibly before all of it was sent."""
    try:
        return send()[0] == 413
    except OSError:  # the server has closed the connection
        return True


def memory(page: app_page.Page) -> float:
    text = Path(f"/proc/{page.process.pid}/statm").read_text()
    return int(text.split()[1]) * 4096 / 1e6


def test_names_are_shown_not_run(page: app_page.Page) -> None:
    path = uploaded(page, "<img src=x onerror=alert(1)>.png", b"no picture")
    said = ask_control(page, "images-file", [file(path), "", "demo", "fomm", False], "names")
    assert "<img src=x" not in said.replace("\\u003c", "<")
