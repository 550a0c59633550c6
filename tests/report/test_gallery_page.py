"""The gallery's page in a real browser: what it shows, plays, finds, sorts, chooses; and in Snakemake's report."""

from __future__ import annotations

import base64
import http.server
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import chromium
import pytest
from gallery_folder import GalleryFolder, data_of, film
from PIL import Image
from run_folder import RunFolder, wait_for

from talkies.report.entries import Entry
from talkies.report.gallery import build_gallery

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.find() is None, reason=chromium.MISSING)]

SCRIPT, OTTO = "<script>alert(1)", "otto 100%? #2"
VARIANTS = {None: "maroon", "fast": "navy", "slow": "gold"}
BRUNO, CHINESE = "br\"u'no & co", "çé 漢字"
UNTIL = (
    "const until = async (test) => {"
    "for (let i = 0; i < 100 && !test(); i++) await new Promise(done => setTimeout(done, 50)); };"
)
PLAYING = (
    "const there = () => [...document.querySelectorAll('video')].filter(v => !v.paused);"
    f"{UNTIL} await until(() => WANTED);"
    "return there().map(v => [v.parentElement.className, v.muted]).sort()"
)
BOTH = PLAYING.replace("WANTED", "there().length === 2 && there().every(v => v.currentTime > 0.3)")
NONE = PLAYING.replace("WANTED", "there().length === 0")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found
        assert found.errors == []
        assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips and three pictures with real media, one failed pair, and names that need escaping."""
    run = GalleryFolder(tmp_path_factory.mktemp("a run & more #1"))
    entries = [
        run.real(
            driving,
            image,
            seconds=6,
            doubts=(("blurred: take a sharper one",) if image == "ada" else (), ()),
            **({"reason": "ada.png: <b>truncated</b>: take it again"} if (driving, image) == (OTTO, "ada") else {}),
        )
        for driving in (SCRIPT, OTTO)
        for image in ("ada", BRUNO, CHINESE)
    ]
    entries[-1] = replace(entries[-1], sound=False)
    return build_gallery(run.results, entries, title="Talkies & <i>friends</i>", mosaic=4)


@pytest.fixture
def page(browser: chromium.Chromium, made: Path) -> Path:
    browser.resize(1360, 1400)
    browser.open(made)
    cards(browser)
    return made


def cards(browser: chromium.Chromium) -> list[str]:
    found: list[str] = browser.run(
        "await new Promise(d => setTimeout(d, 300));"
        "return [...document.querySelectorAll('.card:not([hidden])')].map(c => c.getAttribute('aria-label'))"
    )
    return found


def choose(browser: chromium.Chromium, menu: str, value: str) -> None:
    """Choose in a menu; fail if the page does not offer it."""
    assert browser.run(
        f"const menu = document.querySelector('#{menu}'), option = menu.querySelector('[value={value}]');"
        "if (option.disabled) return false;"
        "option.selected = true; menu.dispatchEvent(new Event('change')); return true"
    ), value


def text_of(browser: chromium.Chromium, selector: str) -> str:
    return browser.run(f"return document.querySelector({selector!r}).innerText")


def test_it_shows_every_pair_by_clip(browser: chromium.Chromium, page: Path) -> None:
    assert len(cards(browser)) == 6
    assert browser.run("return [...document.querySelectorAll('.clip h2')].map(h => h.textContent)") == [SCRIPT, OTTO]
    assert text_of(browser, "h1") == "Talkies & <i>friends</i>"
    assert "5 talkies of 3 pictures and 2 driving videos; 1 could" in text_of(browser, "body")
    images = browser.run(
        "const images = [...document.querySelectorAll('.card img')];"
        "await Promise.all(images.map(image => image.decode()));"
        "return images.map(i => [i.closest('.source, .driving, .talkie').className, i.naturalWidth])"
    )
    # The failed pair has no talkie.
    assert sorted(images) == [["driving", 256]] * 6 + [["source", 256]] * 6 + [["talkie", 256]] * 5
    records = browser.run("return [...document.querySelectorAll('.record')].map(a => a.href)")
    assert len([each for each in records if each.startswith("file:") and each.endswith(".json")]) == 5
    mosaics = browser.run(
        "const links = [...document.querySelectorAll('.clip header a')];"
        "const film = document.createElement('video'); film.src = links[0].href; film.muted = true;"
        "await film.play(); film.pause();"
        "return [links.length, film.videoWidth, film.videoHeight, Math.round(film.duration)]"
    )
    assert mosaics == [2, 512, 512, 6]


def test_a_card_shows_its_film_at_the_moment_of_the_poster_and_loads_no_driving_video(
    browser: chromium.Chromium, page: Path
) -> None:
    moments = {clip[0]: clip[7] for clip in data_of(page.read_text())["clips"]}
    assert all(3 <= moment < 6 for moment in moments.values())
    browser.requests.clear()
    browser.open(page)
    cards(browser)
    seen = browser.run(
        f"{UNTIL} const films = [...document.querySelectorAll('.card .talkie video')];"
        "await until(() => films.every(f => f.readyState > 1));"
        "return films.map(f => [f.currentTime, f.paused, f.muted])"
    )
    there = [pytest.approx(moments[driving], abs=0.05) for driving in (*[SCRIPT] * 3, *[OTTO] * 2)]
    assert seen == [[moment, True, True] for moment in there]
    films = [url for url in browser.requests if ".mp4" in url]
    assert films
    assert not [url for url in films if "index_files" in url]
    assert any(url.endswith(".jpg") for url in browser.requests)


def test_sound_is_offered_only_where_there_is_some(browser: chromium.Chromium, page: Path) -> None:
    offered = browser.run("return [...document.querySelectorAll('.card')].map(c => c.matches('.sounds'))")
    assert offered == [True, True, True, False, True, False], "one failed, and one is silent"
    spoken = "return [...document.querySelectorAll('.card .play')].map(p => p.getAttribute('aria-label'))"
    assert [name.endswith(", no sound") for name in browser.run(spoken)] == [False] * 4 + [True]
    browser.run("[...document.querySelectorAll('.card .enlarge')].pop().click()")
    assert text_of(browser, "#stage-sound") == "talkie, no sound"


def test_warnings_and_failures_are_shown_and_found(browser: chromium.Chromium, page: Path) -> None:
    choose(browser, "which", "doubtful")
    assert cards(browser) == [f"ada with {SCRIPT}", f"ada with {OTTO}"]
    told = browser.run(
        "const card = document.querySelector('.card:not([hidden])'); card.querySelector('summary').click();"
        "return [card.querySelector('summary').getAttribute('aria-label'), card.querySelector('ul').innerText]"
    )
    assert told == [f"1 warning about ada with {SCRIPT}", "source blurred: take a sharper one"]
    browser.run("document.querySelector('.card:not([hidden]) .enlarge').click()")
    assert text_of(browser, "#stage-doubts") == "source blurred: take a sharper one"
    browser.press("Escape")
    choose(browser, "which", "failed")
    assert cards(browser) == [f"ada with {OTTO}"]
    reason = text_of(browser, ".card:not([hidden]) .reason")
    assert reason.split("\n")[0] == "Could not be made"
    assert "ada.png: <b>truncated</b>: take it again" in reason


def test_words_find_and_menus_sort(browser: chromium.Chromium, page: Path) -> None:
    browser.run("document.body.focus()")
    for letters, found in (
        ("/ÇÉ", [f"{CHINESE} with {SCRIPT}", f"{CHINESE} with {OTTO}"]),
        (" 100%", [f"{CHINESE} with {OTTO}"]),
        ("zz", []),
    ):
        for letter in letters:
            browser.press(letter)
        assert cards(browser) == found
    assert "Nothing fits these words." in text_of(browser, "body")
    browser.open(page)

    def order(by: str) -> list[list[str]]:
        choose(browser, "order", by)
        cards(browser)
        return browser.run(
            "return [...document.querySelectorAll('.clip')].map(c => [c.querySelector('h2').textContent,"
            " ...[...c.querySelectorAll('h3')].map(h => h.textContent)])"
        )

    by_clip = [[SCRIPT, "ada", BRUNO, CHINESE], [OTTO, "ada", BRUNO, CHINESE]]
    assert order("image") == [["ada", SCRIPT, OTTO], [BRUNO, SCRIPT, OTTO], [CHINESE, SCRIPT, OTTO]]
    assert order("failed") == by_clip[::-1]
    assert order("driving") == by_clip


def test_stars_are_kept_and_the_chosen_downloaded(browser: chromium.Chromium, page: Path, tmp_path: Path) -> None:
    def star() -> None:
        cards(browser)
        for number in (1, 3):
            browser.run(f"[...document.querySelectorAll('.star:not(.pill)')][{number}].click()")

    def fetched(folder: Path) -> dict[str, bytes]:
        """Download the script and run it; return the films that it fetches."""
        browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        browser.run("document.querySelector('#download').click()")
        wait_for(lambda: (folder / "chosen.sh").exists(), 10)
        subprocess.run(["sh", folder / "chosen.sh"], check=True)
        return {str(path.relative_to(folder / "chosen")): path.read_bytes() for path in folder.rglob("*.mp4")}

    assert browser.run("return document.querySelector('#download').hidden")
    star()
    browser.open(page)
    cards(browser)
    pressed = "return [...document.querySelectorAll('.card .star')].map(s => s.getAttribute('aria-pressed'))"
    assert browser.run(pressed) == ["false", "true", "false", "true", "false"]
    choose(browser, "which", "chosen")
    assert cards(browser) == [f"{BRUNO} with {SCRIPT}", f"{BRUNO} with {OTTO}"]
    assert text_of(browser, "#download") == "Download the chosen (2)"
    films = {name: (page.parent / name).read_bytes() for name in (f"{SCRIPT}/{BRUNO}.mp4", f"{OTTO}/{BRUNO}.mp4")}
    assert fetched(tmp_path / "copied") == films
    before = list(browser.requests)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(page.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        browser.open(f"{address}/index.html")  # another origin, which has its own stars
        star()
        assert fetched(tmp_path / "fetched") == films
        browser.run("document.querySelector('.talkie .play').click()")
        assert browser.run(BOTH) == [["driving", True], ["talkie", False]]
        browser.open(page)
        server.shutdown()
    asked = browser.requests[len(before) :]
    assert all(url.startswith((f"{address}/", "file:", "data:", "blob:")) for url in asked), "only this server"
    browser.requests[:] = before
    elsewhere = page.parent / "elsewhere" / "index.html"
    elsewhere.parent.mkdir()
    elsewhere.write_text(page.read_text())
    browser.open(elsewhere)
    assert browser.run("return document.querySelector('#download').hidden"), "each run has its own stars"
    browser.open(page)
    browser.run("localStorage.clear()")
    browser.errors.clear()  # the copied page finds no films beside it


def test_chosen_colours_are_remembered(browser: chromium.Chromium, page: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.run("const s = document.querySelector('#colours select'); s.value = 'dark'; s.onchange()")
    dark = browser.run(paper)
    browser.open(page)
    assert browser.run(paper) == dark != light
    browser.run("const s = document.querySelector('#colours select'); s.value = ''; s.onchange()")
    assert browser.run(paper) == light
    browser.resize(1360, 1400, dark=True)
    assert browser.run(paper) == dark


def test_a_card_plays_in_step_with_one_sound(browser: chromium.Chromium, page: Path) -> None:
    browser.run("document.querySelector('.talkie .play').focus()")
    browser.press("Enter")
    assert browser.run(BOTH) == [["driving", True], ["talkie", False]]
    playing = (
        "await new Promise(d => setTimeout(d, 500));"
        "return [...document.querySelectorAll('video')].filter(v => !v.paused)"
        ".map(v => [v.currentTime, decodeURIComponent(new URL(v.src).pathname).split('/').pop()])"
    )
    (one, _), (other, _) = browser.run(playing)
    assert abs(one - other) < 0.15
    browser.run("document.querySelectorAll('.talkie .play')[1].click()")  # playing another card stops this one
    assert [muted for _, muted in browser.run(BOTH)] == [True, False]
    assert f"{BRUNO}.mp4" in {name for _, name in browser.run(playing)}


def test_pointed_at_it_plays_in_silence_and_a_click_gives_the_sound(browser: chromium.Chromium, page: Path) -> None:
    x, y = browser.run(
        "const box = document.querySelector('.talkie .play').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]"
    )
    silent, loud = [["driving", True], ["talkie", True]], [["driving", True], ["talkie", False]]
    browser.point(x, y)
    assert browser.run(BOTH) == silent
    browser.click(x, y)
    assert browser.run(BOTH) == loud
    browser.point(1, 1)  # a film with sound goes on playing
    assert browser.run("await new Promise(d => setTimeout(d, 400));" + BOTH) == loud
    browser.click(x, y)
    assert browser.run(NONE) == []
    browser.point(1, 1)
    browser.point(x, y)
    assert browser.run(BOTH) == silent
    browser.point(1, 1)
    assert browser.run(NONE) == []


def test_focused_by_keyboard_it_plays_but_not_where_less_motion_is_wanted(
    browser: chromium.Chromium, page: Path
) -> None:
    browser.press("Tab")
    for still, count in ((False, 2), (True, 0)):
        browser.resize(1360, 1400, still=still)
        browser.run(  # the play button comes before the warnings
            "document.activeElement.blur(); document.querySelector('.doubts summary').focus();"
            "return new Promise(done => setTimeout(done, 0))"
        )
        browser.press("Tab", shift=True)
        assert browser.run("return document.activeElement.className") == "play"
        started = "return [...document.querySelectorAll('.card video')].filter(v => !v.paused && v.muted).length"
        assert browser.run("await new Promise(d => setTimeout(d, 1500));" + started) == count


def test_everything_has_a_name(browser: chromium.Chromium, page: Path) -> None:
    """For screen readers: every control has a name, and the names of each card's controls are unique."""
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = [(node.get("role", {}).get("value"), node.get("name", {}).get("value", "")) for node in tree]
    names = [name for role, name in named if role in ("button", "link", "combobox", "searchbox")]
    assert all(names)
    told = [name for name in names if name.startswith(("Play ", "Enlarge ", "Facts ", "Choose "))]
    assert len(told) == len(set(told)) == 2 + 4 * 5
    articles = [name for role, name in named if role == "article"]
    assert len(articles) == len(set(articles)) == 6


def test_the_stage_by_keyboard(browser: chromium.Chromium, page: Path) -> None:
    browser.run("document.querySelector('.enlarge').focus()")
    browser.press("Enter")
    name = "return document.querySelector('#stage').open && document.querySelector('#stage-name').textContent.trim()"
    assert browser.run(name) == f"ada with {SCRIPT}"
    browser.press("Enter")  # plays both films
    times = (
        "await new Promise(d => setTimeout(d, 1800));"
        "const [a, b] = ['talkie', 'driving'].map(n => document.querySelector('#stage-' + n));"
        "return [a.paused, b.paused, a.muted, b.muted, a.currentTime, b.currentTime]"
    )
    *state, talkie, driving = browser.run(times)
    assert state == [False, False, False, True]
    assert talkie > 0.5
    assert abs(talkie - driving) < 0.15
    # The driving video follows when the talkie jumps or pauses.
    browser.run("const v = document.querySelector('#stage-talkie'); v.pause(); v.currentTime = 3")
    assert browser.run(times) == [True, True, False, True, 3, 3]
    for key, shown in (
        ("ArrowRight", f"{BRUNO} with {SCRIPT}"),
        ("ArrowLeft", f"ada with {SCRIPT}"),
        ("Escape", False),
    ):
        browser.press(key)
        assert browser.run(name) == shown
    assert browser.run("return document.activeElement.className") == "enlarge"


def test_variants_of_a_pair_play_side_by_side_in_step(browser: chromium.Chromium, tmp_path: Path) -> None:
    run = GalleryFolder(tmp_path)
    entries = [run.real("anna", "ada", colour, seconds=4, variant=variant) for variant, colour in VARIANTS.items()]
    browser.resize(1360, 1400)
    browser.open(build_gallery(run.results, [*entries, run.real("anna", "bob", seconds=4)], title="Variants"))
    cards(browser)
    browser.run("document.querySelector('.enlarge').click(); document.querySelector('[data-do=play]').click()")
    apart = (
        "await new Promise(done => setTimeout(done, 1200)); const talkie = document.querySelector('#stage-talkie');"
        "return [...document.querySelectorAll('#stage-others video')]"
        ".map(v => [v.muted, v.paused, talkie.currentTime > 0.4, Math.abs(v.currentTime - talkie.currentTime) < 0.15])"
    )
    assert browser.run(apart) == [[True, False, True, True]] * 2
    named = "return [...document.querySelectorAll('#stage-others button')].map(b => b.textContent)"
    assert browser.run(named) == ["fast", "slow"]
    browser.look(tmp_path / "variants.png", width=1360, height=1100)
    browser.run("document.querySelector('#stage-others button').click()")
    assert text_of(browser, "#stage-name").startswith("ada fast")
    assert browser.run(named) == ["without a variant", "slow"]
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert text_of(browser, "#stage-name").startswith("bob")
    assert browser.run("return document.querySelector('#stage-others').hidden")


@pytest.mark.parametrize(("width", "dark"), [(1360, False), (1360, True), (360, False)])
def test_it_fits_its_window(browser: chromium.Chromium, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    browser.look(tmp_path / "page.png", width=width, dark=dark)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    with Image.open(tmp_path / "page.png") as picture:
        assert (sum(picture.convert("RGB").getpixel((5, 300))) < 150) == dark


def test_it_prints_every_card(browser: chromium.Chromium, page: Path) -> None:
    browser.resize(1360, 300, dark=True)  # most cards are far outside the window and empty
    # A user's print waits for the pictures; a print through the protocol does not.
    browser.run(
        "dispatchEvent(new Event('beforeprint'));"
        "await Promise.all([...document.querySelectorAll('.card img')].map(i => (i.loading = 'eager', i.decode())))"
    )
    pdf = base64.b64decode(browser.call("Page.printToPDF", printBackground=False)["data"])
    assert browser.run("return [...document.querySelectorAll('.card')].every(c => c.querySelector('img'))")
    # Chromium writes each picture only once: the source image and the poster.
    assert pdf.count(b"/Subtype /Image") >= 2


def test_ten_thousand_pairs_do_not_stall(browser: chromium.Chromium, tmp_path: Path) -> None:
    run = GalleryFolder(tmp_path)
    source = run.file("work/sources/a.png")
    Image.new("RGB", (256, 256), "salmon").save(source)
    one, folder = film(run.folder / "one.mp4", "maroon"), run.results / "clip"
    folder.mkdir(parents=True)
    films = [folder / f"{number}.mp4" for number in range(10_000)]
    for path in films:
        os.link(one, path)
    entries = [
        Entry(f"clip {n // 500}", f"picture {n % 500}", None, path, path.with_suffix(".json"), source, None, None)
        for n, path in enumerate(films)
    ]
    index = build_gallery(run.results, entries, title="Many")
    assert index.stat().st_size < 2_000_000
    browser.resize(1360, 900)
    browser.requests.clear()
    browser.open(index)
    filled = "await new Promise(d => setTimeout(d, 500)); return document.querySelectorAll('.card > .trio').length"
    assert browser.run("return document.querySelectorAll('.card').length") == 10_000
    assert 0 < browser.run(filled) < 60
    assert 0 < len({url for url in browser.requests if ".mp4" in url}) < 60, "only films near the window are fetched"
    slowest = browser.run(
        """
        let slowest = 0;
        const pause = (time) => new Promise(d => setTimeout(d, time));
        new PerformanceObserver(l => { for (const e of l.getEntries()) slowest = Math.max(slowest, e.duration); })
            .observe({entryTypes: ["longtask"]});
        for (let i = 1; i <= 10; i++) { scrollTo(0, document.body.scrollHeight * i / 10); await pause(150); }
        const box = document.getElementById("filter"), order = document.getElementById("order");
        for (box.value of ["4", "49", "499"]) { box.oninput(); await pause(150); }
        for (order.value of ["image", "driving"]) { order.onchange(); await pause(300); }
        return slowest"""
    )
    assert slowest < 3000  # tens of milliseconds on an idle machine; a stall would take many seconds
    assert browser.run(filled) < 120
    assert browser.run("return document.querySelectorAll('.card:not([hidden])').length") == 20


def test_the_report_carries_the_gallery(finished: RunFolder, browser: chromium.Chromium, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "run")
    folder.forget_events()
    (folder.path / "images/words.png").write_text("no picture")
    folder.configure(pairs_per_job=3, gallery={"mosaic": 2}, files={"blue.png": {"private": True}})
    output = folder.snakemake(ok=False)  # because of words.png, but the report is still made
    assert "2 of 8 pairs could not be made" in output
    assert [name for name in folder.events("animate") if "words" not in name] == []  # the films exist already
    folder.snakemake("--report", "report.zip")
    with zipfile.ZipFile(folder.path / "report.zip") as packed:
        packed.extractall(tmp_path)
    assert not [path.name for path in (tmp_path / "report").rglob("*blue*")]
    (index,) = (tmp_path / "report/data/raw").glob("*/index.html")
    films = {f"{path.parent.name}/{path.stem}": path.read_bytes() for path in index.parent.glob("[ab]/*.mp4")}
    assert films == {name: film for name, film in folder.films().items() if "blue" not in name}
    assert len(films) == 4
    browser.resize(1360, 1400)
    browser.open(tmp_path / "report/report.html")
    link = "[...document.querySelectorAll('a')].find(a => a.textContent === 'Open the gallery')"
    assert browser.run(f"return {link}.getAttribute('href')") == str(index.relative_to(tmp_path / "report"))
    browser.errors.clear()  # errors of Snakemake's own page without a network
    browser.requests.clear()
    browser.open(index)
    assert sorted(cards(browser)) == [f"{name} with {clip}" for name in ("green", "red", "words") for clip in "ab"]
    assert "not a picture" in text_of(browser, ".reason")
    browser.run("document.querySelector('.talkie .play').click()")
    plays = (
        f"{UNTIL} const video = document.querySelector('.talkie video'); await until(() => video.readyState > 2);"
        "return [video.error, video.videoWidth, document.querySelectorAll('.clip header a').length]"
    )
    assert browser.run(plays) == [None, 256, 2]
