"""The page of `talkies app` in a real browser: choose, run, play, download, cancel, reload, bad files."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import app_page
import bombs
import chromium
import clips
import pytest
from PIL import Image
from run_folder import BIN, REPOSITORY, wait_for

from talkies import media

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING)]

ADA = REPOSITORY / "examples/images/ada.png"
ANNA = REPOSITORY / "examples/driving/anna.mp4"


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
def visitor(page: app_page.Page, browser: app_page.Visitor) -> app_page.Visitor:
    """A browser that shows the page as a new visitor sees it."""
    browser.open(f"{page.address}/manifest.json")  # same origin, but no page that would fill localStorage again
    browser.run("localStorage.clear()")
    browser.errors.clear()
    browser.requests.clear()
    browser.visit(page)
    return browser


def test_a_film_is_made_played_and_downloaded(page: app_page.Page, visitor: app_page.Visitor) -> None:
    visitor.choose(ADA, ANNA)
    assert "512 × 512 pixels" in visitor.text("#images-check")
    assert "100 frames, sound: aac" in visitor.text("#driving-check")
    visitor.write("#end", "1")
    visitor.until("document.querySelector('#driving-check').innerText.includes('25 frames')")
    visitor.animate()
    visitor.until("/[0-9]+ of 50 frames/.test(document.querySelector('#queue').innerText)")
    visitor.film()
    # In step: the driving video plays as the film does.
    visitor.run("const film = document.querySelector('video.leads'); film.loop = false; await film.play()")
    visitor.until("document.querySelector('video.leads').currentTime > 0.3")
    apart = visitor.run(
        "const film = document.querySelector('video.leads'), driver = document.querySelector('video.follows');"
        "return [film.error, driver.paused, Math.abs(film.currentTime - driver.currentTime)]"
    )
    assert apart[:2] == [None, False]
    assert apart[2] < 0.2
    links = visitor.run("return [...document.querySelectorAll('#film a')].map(a => [a.download, a.pathname])")
    assert [name for name, _ in links] == ["ada-anna.mp4", "ada-anna.json"]
    status, content = page.ask(links[0][1])
    film = page.folder / "film.mp4"
    film.write_bytes(content)
    probed = media.probe(film)
    assert (status, probed.width, probed.frames) == (200, 256, 25)
    assert probed.sound is not None
    assert "AI-generated" in media.tags(film)["comment"]
    record = json.loads(page.ask(links[1][1])[1])
    assert record["source"]["file"] == "ada.png"
    assert record["driving"]["segment"] == [None, 1.0]
    assert record["picture"]["frames"] == 25
    assert record["model"]["preset"] == "demo"
    assert str(page.temporary) not in json.dumps(record)
    assert visitor.errors == []


def test_it_is_the_film_that_the_command_makes(page: app_page.Page, visitor: app_page.Visitor, tmp_path: Path) -> None:
    visitor.choose(ADA, ANNA)
    visitor.write("#end", "0.4")
    visitor.until("document.querySelector('#driving-check').innerText.includes('10 frames')")
    visitor.animate()
    visitor.film()
    link = visitor.run("return document.querySelector('#film a').pathname")
    (tmp_path / "page.mp4").write_bytes(page.ask(link)[1])
    words = ["animate", "--source", str(ADA), "--driving", str(ANNA), "--end", "0.4", "-o", str(tmp_path / "cli.mp4")]
    subprocess.run([BIN / "talkies", *words], check=True, capture_output=True)
    ours, theirs = (list(media.read_frames(media.probe(tmp_path / name))) for name in ("page.mp4", "cli.mp4"))
    assert len(ours) == len(theirs) == 10
    assert max(abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(ours, theirs, strict=True)) < 1


def test_the_crop_is_moved_by_a_click_and_chosen(visitor: app_page.Visitor) -> None:
    visitor.choose(ADA)
    assert "crop: 365 pixels square at 60,73" in visitor.text("#images-check")
    x, y = visitor.run(
        "const view = document.querySelector('#images-view img'); view.scrollIntoView({block: 'center'});"
        "const place = view.getBoundingClientRect(), side = Math.min(place.width, place.height);"
        "return [place.x + place.width / 2 - side / 4, place.y + place.height / 2]"
    )
    visitor.click(x, y)  # a quarter from the middle: at 128, 256 of 512
    visitor.until("document.querySelector('#images-check').innerText.includes('365 pixels square at 0,')")
    visitor.press_button("#images-smaller")
    visitor.until("document.querySelector('#images-check').innerText.includes('292 pixels')")
    visitor.write("#images-crop", "center")
    visitor.until("document.querySelector('#images-check').innerText.includes('512 pixels square at 0,0')")
    visitor.write("#images-crop", "left-hand")
    visitor.until("document.querySelector('#images-check .wrong')")
    assert "none of these, take one: face" in visitor.text("#images-check")
    assert visitor.errors == []


def test_a_long_film_is_cancelled_within_a_batch(
    page: app_page.Page, visitor: app_page.Visitor, tmp_path: Path
) -> None:
    clips.ffmpeg("-stream_loop", "12", "-i", ANNA, "-c", "copy", tmp_path / "long.mp4")
    visitor.choose(ADA, tmp_path / "long.mp4")
    visitor.animate()
    visitor.until("/[0-9]+ of [0-9]{4} frames, about .* left/.test(document.querySelector('#queue').innerText)")
    visitor.animate()  # the second film waits
    visitor.until("document.querySelector('#queue').innerText.includes('waiting, 1 film before it')")
    number = visitor.run("return Number(document.querySelector('#queue').innerText.match(/([0-9]+)\\. ada-long/)[1])")
    visitor.press_button("#stop")  # cancels the film that was requested last
    visitor.until(f"document.querySelector('#queue').innerText.includes('{number}. ada-long: cancelled')")
    assert list(page.temporary.glob(f"talkies-*/film-{number - 1}"))
    visitor.until("!document.querySelector('#stop').disabled")
    visitor.until(f"document.querySelector('#queue .current').innerText.includes('{number - 1}. ada-long')")
    visitor.press_button("#stop")
    visitor.until(f"document.querySelector('#queue').innerText.includes('{number - 1}. ada-long: cancelled')", 30)
    assert visitor.text("#film").strip() == "cancelled"
    assert not list(page.temporary.glob(f"talkies-*/film-{number - 1}"))
    assert not list(page.temporary.glob("talkies-*-animate-*")), "nothing half-made is left"


def test_a_reload_loses_nothing(visitor: app_page.Visitor, page: app_page.Page) -> None:
    visitor.choose(ADA, ANNA)
    visitor.write("#end", "0.8")
    visitor.run("document.querySelector('#paste input').click()")
    visitor.until("document.querySelector('#driving-check').innerText.includes('20 frames')")
    visitor.animate()
    visitor.until("document.querySelector('#queue .current')")
    time.sleep(1)
    visitor.visit(page)
    visitor.until("/ada\\s*[.]png/.test(document.querySelector('#images-file').innerText)")
    visitor.until("document.querySelector('#driving-check').innerText.includes('20 frames')")
    assert visitor.run("return document.querySelector('#end textarea, #end input').value") == "0.8"
    assert visitor.run("return document.querySelector('#paste input').checked") is True
    visitor.film()
    visitor.until("document.querySelector('video.leads').videoWidth === 512")  # pasted back
    assert visitor.errors == []


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("notes.png", lambda path: path.write_text("no picture"), "not a picture"),
        ("large.png", lambda path: Image.new("1", (20_001, 10)).save(path), "is too large"),
        ("stts.mp4", bombs.endless_times, "of memory"),
        ("cut.mp4", lambda path: path.write_bytes(ANNA.read_bytes()[:900]), ""),
        ("<img src=x onerror=document.title=1>.png", lambda path: path.write_text("no picture"), "not a picture"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    visitor: app_page.Visitor, tmp_path: Path, name: str, make, reason: str
) -> None:
    make(tmp_path / name)
    clip = name.endswith(".mp4")
    kind, title = "driving" if clip else "images", visitor.run("return document.title")
    visitor.choose(**{"clip" if clip else "picture": tmp_path / name})
    visitor.until(f"document.querySelector('#{kind}-check .wrong')")
    told = visitor.text(f"#{kind}-check .wrong")
    assert reason in told
    assert "\n" not in told.strip()
    assert "Traceback" not in told
    assert "/tmp" not in told
    visitor.choose(**({"picture": ADA} if clip else {"clip": ANNA}))
    visitor.animate()
    visitor.until("document.querySelector('#film .wrong, #said .wrong')")
    assert visitor.run("return document.title") == title
    assert visitor.errors == []


def test_a_file_that_is_too_large_is_refused(visitor: app_page.Visitor, tmp_path: Path, page: app_page.Page) -> None:
    (tmp_path / "huge.mp4").write_bytes(b"\0" * 9_000_000)
    visitor.give("#driving-file input[type=file]", tmp_path / "huge.mp4")
    time.sleep(3)
    assert not visitor.text("#driving-check").strip()
    assert not [path for path in page.temporary_files() if path.stat().st_size > 5_000_000]


def test_nothing_chosen_is_said(visitor: app_page.Visitor) -> None:
    visitor.animate()
    visitor.until("document.querySelector('#said .wrong')")
    assert visitor.text("#said .wrong") == "picture: none is chosen yet: choose one first"


def test_an_example_and_the_lines_for_a_thousand(page: app_page.Page, visitor: app_page.Visitor) -> None:
    visitor.choose(ADA, ANNA)
    visitor.run("document.querySelector('#relative input').click(); document.querySelector('#many button').click()")
    visitor.until("document.querySelector('#lines').innerText.includes('relative: false')")
    assert "snakemake --profile slurm" in visitor.text("#commands")
    visitor.write("#folder", "mine")
    visitor.press_button("#add")
    visitor.until("document.querySelector('#added').innerText.includes('snakemake -n')")
    assert (page.folder / "mine/images/ada.png").read_bytes() == ADA.read_bytes()
    assert "relative: false" in (page.folder / "mine/config.yaml").read_text()
    visitor.write("#folder", "../elsewhere")
    visitor.press_button("#add")
    visitor.until("document.querySelector('#added .wrong')")
    assert not (page.folder.parent / "elsewhere").exists()
    assert visitor.errors == []


def test_the_camera_gives_a_picture(visitor: app_page.Visitor) -> None:
    visitor.run(
        "[...document.querySelectorAll('#images button')].find(b => b.innerText.includes('An example')).click()"
    )
    visitor.until("document.querySelector('#images-camera [title=\"grant webcam access\"] button')")
    visitor.press_button('#images-camera [title="grant webcam access"] button')
    visitor.until("document.querySelector('#images-camera video').videoWidth > 0")
    visitor.run(
        "await new Promise(done => setTimeout(done, 500));"
        "[...document.querySelectorAll('#images-camera button')]"
        ".find(b => /capture/i.test(b.ariaLabel + b.title + b.innerText)).click()"
    )
    visitor.until("document.querySelector('#images-check').innerText.includes('pixels')")
    assert visitor.errors == []


@pytest.mark.parametrize(("width", "dark"), [(1360, False), (1360, True), (390, False), (390, True)])
def test_it_fits_the_window_and_the_readers_colours(
    visitor: app_page.Visitor, tmp_path: Path, width: int, dark: bool
) -> None:
    visitor.choose(ADA, ANNA)
    visitor.look(tmp_path / "page.png", width=width, height=1400, dark=dark)
    assert visitor.run("return document.documentElement.scrollWidth") <= width
    ground = visitor.run("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(ground[:3]) < 300) is dark
    visitor.resize(1360, 1600)


def test_only_the_page_is_asked_for(page: app_page.Page, visitor: app_page.Visitor) -> None:
    """Neither the browser nor the server asks any other host for anything."""
    visitor.choose(ADA, ANNA)
    visitor.write("#end", "0.2")
    visitor.animate()
    visitor.film()
    foreign = [each for each in visitor.requests if not each.startswith((page.address, "data:", "blob:"))]
    assert foreign == []
    assert len(visitor.requests) > 50
    assert not page.outside.exists(), page.outside.read_text()


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that serves the page below a path prefix, as Open OnDemand does."""

    prefix = "/rnode/node1/7860"
    port = 0

    def do_GET(self) -> None:
        if not self.path.startswith(f"{self.prefix}/"):
            self.send_error(404, "outside of the path")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        headers |= {"Host": "node1:7860", "X-Forwarded-Host": self.headers["Host"]}
        there = http.client.HTTPConnection("127.0.0.1", self.port)
        there.request(self.command, self.path.removeprefix(self.prefix), body, headers)
        answer = there.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while block := answer.read1():
                self.wfile.write(block)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_behind_a_proxy_with_a_path_of_its_own(browser: app_page.Visitor, tmp_path: Path) -> None:
    with app_page.serving(tmp_path / "served", "--root-path", Proxy.prefix, root=Proxy.prefix) as served:
        Proxy.port = int(served.address.rpartition(":")[2])
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            shown = dataclasses.replace(served, address=f"http://127.0.0.1:{proxy.server_address[1]}{Proxy.prefix}")
            browser.open("about:blank")  # so that no other page sends requests from now on
            browser.run("await new Promise(done => setTimeout(done, 300))")
            browser.errors.clear()
            browser.requests.clear()
            browser.visit(shown)
            browser.choose(ADA, ANNA)
            browser.write("#end", "0.2")
            browser.until("document.querySelector('#driving-check').innerText.includes('5 frames')")
            browser.animate()
            browser.film()
            browser.until("document.querySelector('video.leads').videoWidth")
            browser.open("about:blank")
            proxy.shutdown()
    foreign = [each for each in browser.requests if not each.startswith((shown.address, "data:", "blob:", "about:"))]
    assert {each.rpartition("/")[2] for each in foreign} <= {"manifest.json", "favicon.ico"}, "Gradio's, at the root"
    assert not [each for each in browser.errors if "404" not in each]


def test_it_ends_when_told_and_leaves_nothing(tmp_path: Path) -> None:
    with app_page.serving(tmp_path / "served") as served:
        assert served.upload("a.png", ADA.read_bytes())[0] == 200
        assert served.temporary_files()
    assert served.process.returncode == 128 + 15
    wait_for(lambda: not list(served.temporary.glob("talkies-*")), 5)
    assert "Traceback" not in (tmp_path / "served/log").read_text()
