"""The gallery's files: what is written and when, what the page holds, posters, mosaics, and the report's folder."""

from __future__ import annotations

import html
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import clips
import numpy as np
import pytest
from gallery_folder import GalleryFolder, data_of, film
from msgspec import structs
from PIL import Image, ImageColor

from talkies import media, settings
from talkies.errors import TalkiesError
from talkies.report.entries import choice_words
from talkies.report.gallery import build_galleries, publish_films
from talkies.report.overviews import draw_sheet, write_mosaic
from talkies.run.pairs import usual_pair

NASTY = (
    *("plain", "two words", 'it\'s "quoted"', "<script>alert(1)</script>", "</script><b>bold", "a&b;c%41#d?e=f"),
    *("çédille 漢字 🎭", "--dash", "{{ title }}", "line\nbreak", "a:b", os.fsdecode(b"caf\xe9"), "d" * 240),
)


@pytest.fixture
def run(tmp_path: Path) -> GalleryFolder:
    return GalleryFolder(tmp_path)


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def test_only_what_changed_is_written_and_only_ours_removed(run: GalleryFolder) -> None:
    entries = [run.entry("anna", "ada"), run.entry("anna", "bruno", reason="damaged"), run.entry("otto", "ada")]
    run.build(*entries)
    assert set(run.copies().values()) == {b"picture ada", b"picture bruno", b"clip anna", b"clip otto"}
    before = states(run.results)
    time.sleep(0.02)
    for path in (run.folder / "work").rglob("*.*"):
        os.utime(path)  # a new time alone is not a change
    run.build(*reversed(entries))
    assert states(run.results) == before, "nothing changed, in any order"

    run.file("work/sources/ada.png", b"picture ADA")  # same length as before
    run.build(*entries)
    after = states(run.results)
    assert len(after.keys() - before.keys()) == len(before.keys() - after.keys()) == 1
    assert {path.name for path in after.keys() & before.keys() if after[path] != before[path]} == {"index.html"}
    assert b"picture ADA" in run.copies().values()

    ours = next(path for path in (run.results / "index_files").rglob("*.png") if path.read_bytes() == b"picture bruno")
    edited = ours.with_name(f"{'0' * 16}{ours.name[16:]}")
    mine = [edited, ours.with_name("notes.txt"), ours.parent.with_name("diary.txt")]
    for path in mine:
        path.write_bytes(b"mine")
    run.file("results/index_files/shown/.a.mp4.12-34.part", b"half")
    run.build(run.entry("anna", "ada"))
    assert sorted(run.copies().values()) == [b"clip anna", *[b"mine"] * 3, b"picture ada"]
    for path in mine:
        path.unlink()
    run.build()
    assert sorted(path.name for path in run.results.iterdir()) == ["anna", "index.html", "otto"], "films stay"


def test_pairs_and_reasons(run: GalleryFolder) -> None:
    assert data_of(run.build()) == {"clips": [], "pictures": [], "pairs": []}
    assert "Made by talkies." in run.build()
    slow = run.entry("anna", "ada", "slow", preview=run.file("work/driving/anna@1-2.mp4"), part="1 to 2 s")
    gone = run.entry("otto", "bob", reason="no\nface", source=run.folder / "gone.png", preview=None)
    page = run.build(run.entry("anna", "ada"), replace(slow, engine="liveportrait"), gone)
    assert "Made by talkies with liveportrait, the First Order Motion Model." in page
    data = data_of(page)
    shown = r"index_files/shown/[0-9a-f]{16}-[0-9a-f]{16}.mp4"
    assert [[*clip[:4], bool(re.fullmatch(shown, clip[4] or ""))] for clip in data["clips"]] == [
        ["anna", "", False, [], True],
        ["anna", "1 to 2 s", False, [], True],
        ["otto", "", False, [], False],
    ]
    assert data["clips"][0][4] != data["clips"][1][4]
    assert [picture[:3] for picture in data["pictures"]] == [["ada", "", []], ["bob", "", []]]
    assert data["pairs"] == [
        [0, 0, "", "", 0, "anna/ada.mp4", "anna/ada.json", None],
        [1, 0, "slow", "", 0, "anna/ada%40slow.mp4", "anna/ada%40slow.json", None],
        [2, 1, "", "", 0, None, None, "no face"],
    ]


@pytest.mark.parametrize("name", NASTY)
def test_nasty_names(run: GalleryFolder, name: str) -> None:
    page = run.build(run.entry(name, name, name[:2]), title=name)
    assert len(re.findall(r"<script", page)) == 3  # the page's own scripts: the look, the data and the program
    assert len(re.findall(r"</script", page)) == 3
    assert name in [html.unescape(found) for found in re.findall("<h1>(.*)</h1>", page)] or not name.isprintable()
    for address in [*data_of(page)["pairs"][0][5:7], data_of(page)["clips"][0][4], data_of(page)["pictures"][0][3]]:
        assert re.fullmatch(r"[\w.~/%-]+", address, re.ASCII)
        assert (run.results / os.fsdecode(unquote_to_bytes(address))).is_file()
    own = page.replace("http://www.w3.org/2000/svg", "")  # a namespace name in a drawing, not an address to fetch
    assert not re.findall(r"https?://|//\w+\.", own.split("<script")[0])
    assert "AI-generated" in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"relative": False, "adapt_scale": False}, "absolute motion, not scaled to the face"),
        ({"best_frame": "auto"}, "motion from the best frame"),
        ({"best_frame": 2}, "motion from frame 2"),
        ({"audio": False}, "no sound"),
        ({"audio": "/songs/voice.mp4", "paste_back": True}, "sound of voice.mp4, in its whole picture"),
        ({"engine": "other"}, "engine other"),
    ],
)
def test_what_sets_a_pair_apart_is_said_in_words(change: dict[str, Any], words: str) -> None:
    usual = usual_pair(settings.complete({"images": "images", "driving": "driving"}))
    assert choice_words(structs.replace(usual, **change), usual) == words


# ---- posters, mosaics, and what a report carries -------------------------------------------------------------------


def colours(path: Path, *places: tuple[int, int]) -> list[str]:
    """Return the names of the colours at these places in a film's middle frame."""
    clip = media.probe(path)
    frame = list(media.read_frames(clip))[clip.frames // 2]
    known: dict[str, Any] = {name: ImageColor.getrgb(name) for name in ("maroon", "navy", "gold", "teal", "black")}
    return [min(known, key=lambda name: np.abs(frame[y, x] - np.array(known[name])).sum()) for x, y in places]


def test_posters_show_a_moment_that_moves(run: GalleryFolder) -> None:
    """A clip is still, then moves, then fades to black: the poster shows the second part, and is made once."""
    entry = run.real("anna", "ada")
    drawn = "drawbox=x=64:w=128:y=64:h=128:color=white:t=fill:enable='lt(t,0.4)'"
    drawn += ",drawbox=x=0:w=96:y=0:h=256:color=gold:t=fill:enable='between(t,0.4,0.7)',fade=out:st=0.75:d=0.1"
    assert entry.preview is not None
    clips.ffmpeg(
        "-f", "lavfi", "-i", "color=teal:s=256x256:r=25:d=1", "-vf", drawn, "-pix_fmt", "yuv420p", entry.preview
    )
    ((*_, poster, _, moment, _),) = data_of(run.build(entry))["clips"]
    assert 0.4 <= moment < 0.75
    with Image.open(run.results / poster) as picture:
        assert picture.size == (256, 256)
        assert np.abs(np.array(picture.getpixel((40, 128))) - ImageColor.getrgb("gold")).max() < 25
    before = states(run.results)
    run.build(entry)
    assert states(run.results) == before


def test_mosaics_hold_the_first_talkies_of_each_clip_and_are_made_once(run: GalleryFolder) -> None:
    films = {"ada": "maroon", "bob": "navy", "cat": "gold"}
    entries = [run.real("anna", name, colour, private=name == "cat") for name, colour in films.items()]
    entries += [run.real("otto", "ada")]  # only one film, so no mosaic

    def mosaics(page: Path) -> list[str | None]:
        return [clip[6] for clip in data_of(page.read_text())["clips"]]

    public, private = build_galleries(run.results, entries, title="Talkies", mosaic=2)
    (made, none), (same, _) = mosaics(public), mosaics(private)
    assert (made is not None, none) == (True, None)
    assert colours(run.results / made, (128, 128), (384, 128)) == ["maroon", "navy"]
    assert colours(run.results / same, (128, 128), (384, 128)) == ["maroon", "navy"]
    _, private = build_galleries(run.results, entries, title="Talkies", mosaic=4)
    assert mosaics(public)[0] == made
    assert media.probe(run.results / made).height == 256, "a private talkie is in the private mosaic alone"
    assert colours(run.results / mosaics(private)[0], (128, 128), (384, 128), (128, 384)) == list(films.values())
    before = states(run.results)
    build_galleries(run.results, entries, title="Talkies", mosaic=4)
    assert states(run.results) == before
    assert build_galleries(run.results, [entries[0], entries[3]], title="Talkies") == [public]
    assert not (run.results / made).exists()
    assert not [path for path in run.results.iterdir() if path.name.startswith("private")]


def test_a_damaged_talkie_costs_its_mosaic_alone(run: GalleryFolder, caplog: pytest.LogCaptureFixture) -> None:
    good = run.real("anna", "ada")
    page = run.build(good, replace(run.entry("anna", "bob"), preview=good.preview), mosaic=4)
    assert data_of(page)["clips"][0][6] is None
    assert "no mosaic of anna" in caplog.text
    assert "bob.mp4" in caplog.text


@pytest.mark.parametrize("links", [False, True])
def test_what_others_may_see_is_a_folder_of_its_own(run: GalleryFolder, links: bool) -> None:
    entries = [run.entry("anna", "ada"), run.entry("otto", "ada"), run.entry("anna", "bob", reason="no face")]
    secret = run.entry("anna", "me")
    build_galleries(run.results, [*entries, secret], title="Talkies")  # before it was made private
    folder = run.folder / "work/public"
    publish_films(run.results, [*entries, replace(secret, private=True)], folder, title="Talkies", links=links)
    shown = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    films = {Path(f"{driving}/ada.{suffix}") for driving in ("anna", "otto") for suffix in ("mp4", "json")}
    beside = {path for path in shown if path.parent == Path("index_files/shown")}
    assert set(shown) == {Path("index.html")} | films | beside
    assert sorted(shown[path] for path in beside) == sorted(
        content for content in run.copies().values() if content != b"picture me"
    )
    assert len(beside) == 4
    assert secret.film is not None
    assert not {secret.film.read_bytes(), b"picture me"} & set(shown.values())
    assert "me" not in [picture[0] for picture in data_of((folder / "index.html").read_text())["pictures"]]
    moved = run.folder.rename(
        run.folder.with_name(f"{run.folder.name}-moved")
    )  # links still work after the run folder is moved
    assert (moved / "work/public/anna/ada.mp4").read_bytes() == (moved / "results/anna/ada.mp4").read_bytes()
    with pytest.raises(TalkiesError, match="not empty"):
        publish_films(moved / "results", [], moved / "work/public", title="Talkies")


def test_a_contact_sheet_has_a_frame_of_each_film(run: GalleryFolder, tmp_path: Path) -> None:
    """Rows are pictures, columns are videos, in the order of the pairs; a pair without a film is white."""
    failed = run.entry("otto", "bob", reason="no face")
    entries = [run.real(take, name, colour) for take, name, colour in CELLS]
    for entry, name in zip(entries, ("black", "teal", "black"), strict=True):
        assert entry.source
        Image.new("RGB", (64, 64), name).save(entry.source)
    out = tmp_path / "sheet.png"
    assert draw_sheet([*entries, failed], out, side=64) == (2, 2)
    with Image.open(out) as sheet:
        assert sheet.size == (3 * 72 + 8, 3 * 72 + 8)
        seen = [[sheet.getpixel((72 * x + 40, 72 * y + 40)) for x in range(3)] for y in range(3)]
    wanted = [["black", "maroon", "navy"], ["teal", "gold", "white"]]
    for row, names in zip(seen[1:], wanted, strict=True):
        for pixel, name in zip(row, names, strict=True):
            assert np.abs(np.subtract(pixel, ImageColor.getrgb(name))).max() < 30, (row, names)
    with pytest.raises(TalkiesError, match="give a smaller side"):
        draw_sheet(entries, out, side=6000)
    with pytest.raises(TalkiesError, match="no films yet"):
        draw_sheet([], tmp_path / "none.png", side=64)
    assert not (tmp_path / "none.png").exists()


CELLS = ("anna", "ada", "maroon"), ("anna", "bob", "gold"), ("otto", "ada", "navy")


# ---- mosaics -------------------------------------------------------------------------------------------------------


def test_films_side_by_side_in_step_with_one_sound(tmp_path: Path) -> None:
    """Five black films, each with one flash and one click at the same moment, show positions, timing and sound."""
    inputs = ["-f", "lavfi", "-i", "color=black:s=128x128:r=25:d=2"]
    inputs += ["-f", "lavfi", "-i", r"aevalsrc=if(between(t\,1\,1.08)\,sin(6000*t)\,0):d=2:s=48000"]
    output = ["-vf", "drawbox=color=white:t=fill:enable='between(t,1,1.0799)'", "-pix_fmt", "yuv420p"]
    films = [tmp_path / f"{number}.mp4" for number in range(5)]
    for path in films:
        clips.ffmpeg(*inputs, *output, "-metadata", "comment=AI-generated", *["-an"] * (path == films[0]), path)
    out = tmp_path / "all.mp4"
    write_mosaic(films, out)
    clip = media.probe(out)
    assert (clip.width, clip.height, clip.rate) == (3 * 128, 2 * 128, 25)
    assert clips.tags(out)["comment"] == "AI-generated"
    bright = np.array([frame[64::128, 64::128].mean(-1) for frame in media.read_frames(clip)]) > 128
    assert bright.shape == (50, 2, 3)
    lit = [set(np.flatnonzero(bright[:, n // 3, n % 3])) for n in range(6)]
    assert lit == [{25, 26}] * 5 + [set()]
    sound = np.frombuffer(clips.ffmpeg("-i", out, "-f", "f32le", "-ac", "1", "-ar", "48000", "-"), np.float32)
    heard = np.flatnonzero(np.abs(sound) > 0.3) / 48000
    assert (heard.min(), heard.max()) == (pytest.approx(1.0, abs=0.03), pytest.approx(1.08, abs=0.03))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_sizes_and_lengths_may_differ_and_a_hundred_films_are_the_most(tmp_path: Path) -> None:
    short, long = film(tmp_path / "short.mp4", "navy", seconds=1), film(tmp_path / "long.mp4", "gold", seconds=2)
    wide, out = tmp_path / "wide.mp4", tmp_path / "all.mp4"
    clips.ffmpeg("-f", "lavfi", "-i", "color=maroon:s=321x100:r=30:d=1", "-pix_fmt", "yuv444p", wide)
    write_mosaic([short, long, wide], out)
    clip = media.probe(out)
    assert (clip.width, clip.height, clip.frames) == (512, 512, 50)
    assert colours(out, (128, 128), (384, 128), (128, 384), (128, 276)) == ["navy", "gold", "maroon", "black"]
    with pytest.raises(TalkiesError, match="101 films are too many for one mosaic"):
        write_mosaic([short] * 101, out)
