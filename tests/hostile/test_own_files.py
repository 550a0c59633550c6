"""Files in the results that talkies did not make are never removed or replaced; those in the way are moved aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_folder import RunFolder, draw_picture, make_clip

from talkies import media

MINE = b"my own words\n"


def write(path: Path, content: bytes = MINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def kept(path: Path) -> list[bytes]:
    """Return the contents of a file's copies that were moved aside."""
    return [found.read_bytes() for found in path.parent.glob(f"{path.stem}.kept-*{path.suffix}")]


def test_a_run_leaves_what_was_there_before_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", images=["one"], clips=["a"])
    results = run.path / "results"
    pages = [write(results / name) for name in ("index.html", "check.html")]
    others = [
        *(results / name for name in ("private.html", "private_files/letters.txt", "private_files/shown/me.png")),
        *(results / name for name in ("index_files/shown/notes.txt", "index_files/diary.txt", "a/one.txt")),
        *(results / name for name in ("holiday.mp4", "a/.download.part")),
    ]
    in_the_way = [results / "a/one.mp4", results / "a/one.json"]
    for path in (*others, *in_the_way):
        write(path)
    run.configure(check=True)
    output = run.snakemake()
    assert [path for path in others if path.read_bytes() != MINE] == []
    for path in (*pages, *in_the_way):
        assert kept(path) == [MINE], path
        assert path.read_bytes() != MINE
        assert f"{path.relative_to(run.path)} is not as talkies made it: kept as {path.stem}.kept-" in output
    assert media.probe(run.film("a/one")).frames == 5
    assert run.record("a/one")["pair"] == "a/one"
    # This happens only once: later runs move and remove nothing more.
    before = sorted(results.rglob("*"))
    draw_picture(run.path / "images/two.png", (9, 99, 9))
    assert "kept as" not in run.snakemake()
    assert set(before) <= set(results.rglob("*"))
    run.talkies("clean")
    run.talkies("verify")
    assert set(before) <= set(results.rglob("*"))
    assert [path for path in others if path.read_bytes() != MINE] == []


@pytest.mark.parametrize("link", ["index_files", "index_files/shown"])
def test_a_link_is_never_followed(run: RunFolder, tmp_path: Path, link: str) -> None:
    """A link among the page's files leads to a folder of the user, which holds files of the same names."""
    place, theirs = run.path / "results" / link, tmp_path / "theirs"
    place.rename(tmp_path / "was here")
    names = ["red.png", "letters.txt", "shown/old.png"]
    for name in names:
        write(theirs / name)
    place.symlink_to(theirs)
    assert f"results/{link} is not as talkies made it: kept as " in run.talkies("gallery")
    assert sorted(str(path.relative_to(theirs)) for path in theirs.rglob("*") if path.is_file()) == sorted(names)
    assert all((theirs / name).read_bytes() == MINE for name in names)
    assert not place.is_symlink()
    aside = [path for path in place.parent.iterdir() if ".kept-" in path.name]
    assert [path.readlink() for path in aside] == [theirs]
    assert len(list((run.path / "results/index_files/shown").glob("*.png"))) == 3


def test_films_that_the_user_worked_on_and_links_are_kept_as_films_are_made_again(
    run: RunFolder, tmp_path: Path
) -> None:
    make_clip(run.path / "graded.mp4", frames=3)
    graded = (run.path / "graded.mp4").read_bytes()
    run.film("a/red").write_bytes(graded)
    (run.path / "results/b/red.json").write_text('{"title": "our summer"}')
    links = [run.path / "results" / name for name in ("index.html", "a/blue.mp4")]
    for number, place in enumerate(links):
        place.unlink()
        place.symlink_to(write(tmp_path / f"mine {number}"))
    run.talkies("forget", "b/red", "a/green")
    assert (run.path / "results/b/red.json").read_text() == '{"title": "our summer"}'
    run.configure(pairs_per_job=3, gallery={"title": "Another"})
    run.snakemake()
    assert sorted(run.events("animate")) == ["a/blue", "a/green", "a/red", "b/red"]
    assert kept(run.film("a/red")) == [graded]
    assert [json.loads(each) for each in kept(run.path / "results/b/red.json")] == [{"title": "our summer"}]
    assert kept(run.film("b/red")) == kept(run.film("a/green")) == [], "our own films are replaced without a copy"
    assert [path.read_bytes() for path in sorted(tmp_path.glob("mine *"))] == [MINE] * len(links)
    assert not any(place.is_symlink() for place in links)
    assert "6 films are whole" in run.talkies("verify")


def test_an_edited_page_is_kept_and_clean_removes_our_films_alone(run: RunFolder) -> None:
    """Also if .talkies is gone. A film that was changed since it was made counts as the user's."""
    page = run.path / "results/index.html"
    red = (run.path / ".talkies/sources/red.png").read_bytes()
    (picture,) = (each for each in page.parent.glob("index_files/shown/*.png") if each.read_bytes() == red)
    page.write_text(page.read_text().replace("</h1>", " of our summer</h1>"))
    edited = page.read_bytes()
    draw_picture(picture, (1, 2, 3))
    painted = picture.read_bytes()
    (run.path / ".talkies").rename(run.path / "away")
    run.configure(pairs_per_job=3, gallery={"title": "Another"})
    run.snakemake()
    assert kept(page) == [edited]
    assert b"<h1>Another</h1>" in page.read_bytes()
    assert picture.read_bytes() == red
    assert kept(picture) == [painted]
    run.whole(sorted(run.films()))
    draw_picture(run.path / ".talkies/sources/blue.png", (3, 2, 1))
    (run.path / "images/red.png").unlink()
    mine = write(run.path / "results/a/.mine.part")
    assert "crop 1" in run.snakemake()
    assert (kept(page), kept(picture)) == ([edited], [painted]), "our own files are replaced without a copy"
    film = run.film("b/red")
    film.write_bytes(b"cut by hand")
    run.talkies("clean")
    assert not run.film("a/red").exists()
    assert film.read_bytes() == b"cut by hand"
    assert mine.read_bytes() == MINE
