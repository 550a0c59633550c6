"""The pages in a real browser: everything they use is allowed, and injected code would not run."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from run_folder import RunFolder, draw_picture, make_clip, wait_for

pytestmark = pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING)

TITLE = "<script>document.title='hit'</script>"
NAMES = ["<img src=x onerror=document.title='hit'>", "<script>document.title='hit'<script>", "'\"><b onfocus=alert(1)>"]
INJECTED = """
<script>document.title = "hit"</script><script src="evil.js"></script><script src="data:text/javascript,document.title='hit'"></script>
<img src="nothing.png" onerror="document.title='hit'"><a id="trap" href="javascript:document.title='hit'">here</a>
<svg onload="document.title='hit'"></svg><style>body {{ background: url(http://127.0.0.1:{port}/style) }}</style>
<img src="http://127.0.0.1:{port}/picture"><iframe src="http://127.0.0.1:{port}/frame"></iframe>
<iframe srcdoc="<script>parent.document.title='hit'</script>"></iframe><base href="http://127.0.0.1:{port}/">
<object data="evil.svg"></object><link rel="stylesheet" href="http://127.0.0.1:{port}/sheet">
<form id="form" action="http://127.0.0.1:{port}/form"><input name="a"></form>
"""  # noqa: E501
VIOLATIONS = (
    "window.broken = []; "
    "addEventListener('securitypolicyviolation', e => window.broken.push(e.violatedDirective + ' ' + e.blockedURI))"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run whose names and title contain markup with code."""
    run = RunFolder.create(tmp_path_factory.mktemp("pages") / "run", images=[], clips=[])
    for name in NAMES:
        draw_picture(run.path / "images" / f"{name}.png", (200, 30, 90))
    make_clip(run.path / "driving" / f"{NAMES[0]}.mp4", frames=25)
    run.configure(check=True, gallery={"title": TITLE, "mosaic": 4, "report": False})
    run.snakemake()
    return run


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as found:
        found.call("Page.addScriptToEvaluateOnNewDocument", source=VIOLATIONS)
        yield found


def test_the_check_page_breaks_no_rule(made: RunFolder, browser: chromium.Chromium) -> None:
    browser.errors.clear()
    browser.open(made.path / "results/check.html")
    look = "return [...document.querySelectorAll('img')].map(i => [i.naturalWidth, getComputedStyle(i).width])"
    wait_for(lambda: browser.run(look) and all(each == [128, "128px"] for each in browser.run(look)), 30)
    assert browser.run("return window.broken") == []
    assert browser.errors == []


@pytest.mark.parametrize("name", ["index", "check"])
def test_what_slips_in_does_not_run(made: RunFolder, browser: chromium.Chromium, name: str, tmp_path: Path) -> None:
    asked: list[str] = []

    class Listener(_Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    page = (made.path / f"results/{name}.html").read_text()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Listener, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        spoilt = made.path / f"results/spoilt-{name}.html"
        injected = INJECTED.format(port=server.server_address[1])
        spoilt.write_text(re.sub("<h1>", lambda _: injected + "<h1>", page, count=1))
        (made.path / "results/evil.js").write_text("document.title = 'hit'")
        browser.open(spoilt)
        title = browser.run(
            "document.querySelector('#trap').click(); document.querySelector('#form').submit();"
            "await new Promise(done => setTimeout(done, 1000)); return document.title"
        )
        broken = browser.run("return window.broken")
        server.shutdown()
    assert "hit" not in title.replace(TITLE, "")
    assert asked == []
    for rule in ("script-src", "style-src", "img-src", "frame-src", "form-action", "base-uri"):
        assert any(rule in each for each in broken), f"{rule}: {broken}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
