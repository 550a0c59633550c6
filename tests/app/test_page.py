"""The page of `talkies app` in a real browser: choose, run, play, download, cancel, reload, bad files."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import app_page
import bombs
import chromium
import clips
import pytest
import uvicorn
from app_page import ADA, ANNA
from PIL import Image
from run_folder import BIN, wait_for
from starlette.responses import PlainTextResponse

from talkies import media
from talkies.app.serve import application, listen
from talkies.app.studio import open_studio

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[app_page.Page]:
    with app_page.serving(tmp_path_factory.mktemp("page"), "--max-upload", "5") as served:
        yield served


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[app_page.Visitor]:
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with app_page.Visitor(tmp_path_factory.mktemp("profile"), *fake) as found:
        yield found


@pytest.fixture
def visitor(page: app_page.Page, browser: app_page.Visitor) -> Iterator[app_page.Visitor]:
    """A browser that shows the page as a new visitor sees it; at the end, nothing went wrong in it."""
    browser.visit(page.address)
    browser.run("localStorage.clear()")
    browser.errors.clear()
    browser.requests.clear()
    browser.visit(page.address)
    yield browser
    assert [each for each in browser.errors if "400 (Bad Request)" not in each] == []
    assert [each for each in browser.requests if not each.startswith((page.address, "data:", "blob:"))] == []


def test_a_film_is_made_played_and_downloaded_as_the_command_makes_it(
    page: app_page.Page, visitor: app_page.Visitor, tmp_path: Path
) -> None:
    visitor.choose(ADA, ANNA)
    assert "512 × 512 pixels" in visitor.text("#images .found")
    assert "100 frames, sound: aac" in visitor.text("#driving .found")
    visitor.write("[name=end]", "1")
    visitor.shows("#driving .found", "25 frames")
    visitor.film()
    # In step: the driving video plays as the film does.
    visitor.run("const film = document.querySelector('video.leads'); film.loop = false; await film.play()")
    visitor.until("document.querySelector('video.leads').currentTime > 0.3")
    error, paused, apart = visitor.run(
        "const film = document.querySelector('video.leads'), driver = document.querySelector('video.follows');"
        "return [film.error, driver.paused, Math.abs(film.currentTime - driver.currentTime)]"
    )
    assert (error, paused, apart < 0.2) == (None, False, True)
    links = visitor.run("return [...document.querySelectorAll('#film a')].map(a => [a.download, a.pathname])")
    assert [name for name, _ in links] == ["ada-anna.mp4", "ada-anna.json"]
    film = tmp_path / "page.mp4"
    film.write_bytes(page.ask(links[0][1])[1])
    assert "AI-generated" in clips.tags(film)["comment"]
    record = json.loads(page.ask(links[1][1])[1])
    assert (record["source"]["file"], record["driving"]["segment"]) == ("ada.png", [None, "1"])
    assert (record["frames"], record["model"]["preset"]) == (25, "demo")
    assert str(page.temporary) not in json.dumps(record)
    words = ["animate", "--source", str(ADA), "--driving", str(ANNA), "--end", "1", "-o", str(tmp_path / "cli.mp4")]
    subprocess.run([BIN / "talkies", *words], check=True, capture_output=True)
    clips_made = [media.probe(tmp_path / name) for name in ("page.mp4", "cli.mp4")]
    assert all(clip.sound for clip in clips_made)
    ours, theirs = (list(media.read_frames(clip)) for clip in clips_made)
    assert len(ours) == len(theirs) == 25
    assert max(abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(ours, theirs, strict=True)) < 1


def test_the_crop_is_moved_by_a_click_and_chosen(visitor: app_page.Visitor) -> None:
    visitor.choose(ADA)
    assert "crop: 365 pixels square at 60,73" in visitor.text("#images .found")
    x, y = visitor.run(
        "const view = document.querySelector('#images .view img'); view.scrollIntoView({block: 'center'});"
        "const place = view.getBoundingClientRect();"
        "return [place.x + place.width / 4, place.y + place.height / 2]"
    )
    visitor.click(x, y)  # a quarter from the left: at 128, 256 of 512
    visitor.shows("#images .found", "365 pixels square at 0,")
    visitor.press_button("#images .smaller")
    visitor.shows("#images .found", "292 pixels")
    visitor.write("#images .crop", "center")
    visitor.shows("#images .found", "512 pixels square at 0,0")
    visitor.write("#images .crop", "box")
    visitor.write("#images .typed", "left-hand")
    visitor.shows("#images .fails", "none of these, take one: face")


def test_a_long_film_is_cancelled_within_a_batch(
    page: app_page.Page, visitor: app_page.Visitor, tmp_path: Path
) -> None:
    clips.ffmpeg("-stream_loop", "12", "-i", ANNA, "-c", "copy", tmp_path / "long.mp4")
    visitor.choose(ADA, tmp_path / "long.mp4")
    visitor.press_button("#go")
    visitor.until("/[0-9] %, about .* left/.test(document.querySelector('#queue').innerText)")
    visitor.press_button("#go")  # the second film waits
    visitor.shows("#queue .current", "waiting, 1 film before it")
    number = int(visitor.text("#queue .current").partition(".")[0])
    visitor.press_button("#stop")  # cancels the film that was requested last
    visitor.shows("#queue", f"{number}. ada-long: cancelled")
    assert list(page.temporary.glob(f"talkies-*/film-{number - 1}"))
    visitor.shows("#queue .current", f"{number - 1}. ada-long")
    visitor.press_button("#stop")
    visitor.shows("#queue", f"{number - 1}. ada-long: cancelled")
    assert visitor.text("#film").strip() == "cancelled"
    assert not list(page.temporary.glob(f"talkies-*/film-{number - 1}"))
    page.ask("/films", {"picture": "example ada.png", "driving": "example anna.mp4", "maker": "demo"})  # by another
    visitor.shows("#queue", "ada-anna:")
    assert visitor.run("return document.querySelector('#stop').disabled"), "nobody cancels another's film by the button"
    page.ask(f"/films/{number + 1}", method="DELETE")
    wait_for(lambda: not list(page.temporary.glob("talkies-*-animate-*")))  # nothing half-made is left


def test_a_reload_loses_nothing(visitor: app_page.Visitor, page: app_page.Page) -> None:
    visitor.choose(ADA, ANNA)
    visitor.write("[name=end]", "0.8")
    visitor.press_button("[name=paste_back]")
    visitor.press_button("#go")
    visitor.until("document.querySelector('#queue .current')")
    visitor.visit(page.address)
    visitor.shows("#images .found", "ada.png")
    visitor.shows("#driving .found", "20 frames")
    assert visitor.run("return document.querySelector('[name=end]').value") == "0.8"
    assert visitor.run("return document.querySelector('[name=paste_back]').checked") is True
    visitor.until("document.querySelector('video.leads')?.videoWidth === 512", 60)  # pasted back


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("notes.png", lambda path: path.write_text("no picture"), "not a picture"),
        ("large.png", lambda path: Image.new("1", (20_001, 10)).save(path), "is too large"),
        ("stts.mp4", bombs.endless_times, "of memory"),
        ("cut.mp4", lambda path: path.write_bytes(ANNA.read_bytes()[:900]), ""),
        ("huge.mp4", lambda path: path.write_bytes(b"0" * 9_000_000), "too large: files may have 5 MB (--max-upload)"),
        ("<img src=x onerror=document.title=1>.png", lambda path: path.write_text("no picture"), "not a picture"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    visitor: app_page.Visitor, tmp_path: Path, name: str, make, reason: str
) -> None:
    make(tmp_path / name)
    clip = name.endswith(".mp4")
    visitor.choose(**{"clip" if clip else "picture": tmp_path / name})
    told = visitor.text(f"#{'driving' if clip else 'images'} .fails")
    assert reason in told
    assert not {"\n", "Traceback", "/tmp"} & {part for part in ("\n", "Traceback", "/tmp") if part in told.strip()}
    visitor.choose(**({"picture": ADA} if clip else {"clip": ANNA}))
    visitor.press_button("#go")
    visitor.until("document.querySelector('#film .fails, #said:not(:empty)')")
    assert visitor.run("return document.title") == "Talkies"


def test_examples_and_the_lines_for_a_thousand(page: app_page.Page, visitor: app_page.Visitor) -> None:
    visitor.press_button("#go")
    visitor.shows("#said", "picture: none is chosen yet: choose one first")
    visitor.write("#images .example", "example ada.png")
    visitor.write("#driving .example", "example anna.mp4")
    visitor.press_button("[name=relative]")
    visitor.press_button("#many summary")
    visitor.shows("#lines", "relative: false")
    assert "snakemake --profile slurm" in visitor.text("#many")


def test_the_camera_gives_a_picture_and_a_video(visitor: app_page.Visitor) -> None:
    for kind, shown in (("images", "camera.png"), ("driving", "sound: opus")):
        visitor.press_button(f"#{kind} .camera")
        visitor.until(f"document.querySelector('#{kind} .recorder video').videoWidth > 0")
        visitor.run("await new Promise(done => setTimeout(done, 700))")
        visitor.press_button(f"#{kind} .take")
        if kind == "driving":
            visitor.run("await new Promise(done => setTimeout(done, 1500))")
            visitor.press_button(f"#{kind} .take")
        visitor.shows(f"#{kind} .found", shown)
        assert visitor.run(f"return document.querySelector('#{kind} .recorder').hidden") is True


@pytest.mark.parametrize(("width", "dark"), [(1360, False), (390, True)])
def test_it_fits_the_window_and_the_readers_colours(
    visitor: app_page.Visitor, tmp_path: Path, width: int, dark: bool
) -> None:
    visitor.choose(ADA, ANNA)
    visitor.run("document.querySelector('#many').open = true")
    visitor.look(tmp_path / "page.png", width=width, height=1400, dark=dark)
    cut = visitor.run(
        "return [...document.querySelectorAll('label, legend, button, input, select, li')].filter("
        "each => each.scrollWidth > each.clientWidth + 1 && each.clientWidth"
        " || each.getBoundingClientRect().right > innerWidth).map(each => each.outerHTML)"
    )
    assert cut == []
    ground = visitor.run(
        "return getComputedStyle(document.documentElement).backgroundColor.match(/[0-9.]+/g).map(Number)"
    )
    text = visitor.run("return getComputedStyle(document.body).color.match(/[0-9]+/g).map(Number)")
    assert (sum(text[:3]) > 300) is dark, ground
    visitor.resize(1360, 1600)


def test_everything_is_reached_by_the_keyboard(visitor: app_page.Visitor) -> None:
    visitor.choose(ADA, ANNA)
    visitor.run("document.querySelector('#images input[type=file]').focus()")
    reached = []
    for _ in range(30):
        visitor.press("Tab")
        reached.append(visitor.run("const on = document.activeElement; return on.name || on.id || on.className"))
        if reached[-1] == "go":
            break
    assert [each for each in reached if each in ("crop", "start", "maker", "best", "audio", "faceless", "go")] == [
        *("crop", "crop", "start", "maker", "best", "audio", "faceless", "go")
    ]


def test_behind_a_proxy_with_a_path_of_its_own(browser: app_page.Visitor) -> None:
    """As Open OnDemand's /rnode/HOST/PORT/, which the page is not told."""
    prefix = "/rnode/node1/7860"

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(f"{prefix}/"):
                await PlainTextResponse("outside of the path", 404)(scope, receive, send)
                return
            headers = [(b"x-forwarded-host" if name == b"host" else name, value) for name, value in scope["headers"]]
            scope = {**scope, "path": scope["path"].removeprefix(prefix), "headers": [(b"host", b"node1"), *headers]}
        await app(scope, receive, send)

    with listen("127.0.0.1", 0) as listening, open_studio() as studio:
        app = application(studio, app_page.TOKEN, 7860)
        server = uvicorn.Server(uvicorn.Config(proxy, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}{prefix}"
        browser.open("about:blank")  # so that no other page sends requests from now on
        browser.run("await new Promise(done => setTimeout(done, 300))")
        browser.errors.clear()
        browser.requests.clear()
        browser.visit(address)
        browser.choose(ADA, ANNA)
        browser.write("[name=end]", "0.2")
        browser.shows("#driving .found", "5 frames")
        browser.film()
        browser.until("document.querySelector('video.leads').videoWidth")
        browser.open("about:blank")
        server.should_exit = True
        thread.join()
    foreign = [each for each in browser.requests if not each.startswith((address, "data:", "about:"))]
    assert (foreign, browser.errors) == ([], [])
