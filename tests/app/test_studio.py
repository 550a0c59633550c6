"""The studio makes films one after another, and reads only what was uploaded; `talkies app` starts it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from app_page import ADA, ANNA, chosen
from run_folder import BIN, make_clip

from talkies.app import studio
from talkies.app.choices import Choices, Form, Maker
from talkies.errors import TalkiesError


def finished(job: studio.Job, seconds: float = 240) -> str:
    end = time.monotonic() + seconds
    while job.is_open:
        assert time.monotonic() < end
        time.sleep(0.05)
    return job.state


def test_films_one_after_another_with_one_model(tmp_path: Path, monkeypatch) -> None:
    loads = []
    real = studio.open_engine
    monkeypatch.setattr(studio, "open_engine", lambda *given: loads.append(given[0].preset) or real(*given))
    make_clip(tmp_path / "wall.mp4", frames=900)
    with studio.open_studio(precision="fp32", threads=1) as opened:
        short = [opened.submit(chosen(end=0.1)) for _ in range(2)]
        faceless = opened.submit(chosen(driving=tmp_path / "wall.mp4"))
        long = opened.submit(chosen(driving=tmp_path / "wall.mp4", faceless=True))
        waiting = opened.submit(chosen())
        broken = opened.submit(chosen(picture_crop="9000,9000,10,10"))
        assert [finished(job) for job in (*short, faceless)] == ["done", "done", "failed"]
        assert re.fullmatch(
            r".*wall\.mp4: no face in any frame looked at, and demo animates by faces: crop it by hand "
            r'\(center, or a box\), or tick "Accept a driving video without a face"',
            faceless.reason,
        )
        opened.cancel(waiting.number)
        assert waiting.state == "cancelled"
        while long.made < 5:
            time.sleep(0.02)
        told = {job["number"]: job for job in opened.queue()}
        assert 0 < told[long.number]["done"] < 1
        assert (told[broken.number]["state"], told[broken.number]["before"]) == ("waiting", 1)
        assert sorted(path.name for path in opened.folder.iterdir()) == ["film-1", "film-2", f"film-{long.number}"]
        many = [opened.submit(chosen()) for _ in range(studio.MOST_WAITING - 1)]
        with pytest.raises(TalkiesError, match="20 films are before it: wait for them"):
            opened.submit(chosen())
        for job in many:
            opened.cancel(job.number)
        begun = time.monotonic()
        opened.cancel(long.number)
        assert finished(long) == "cancelled"
        assert time.monotonic() - begun < 5, "cancelled within a batch"
        assert finished(broken) == "failed"
        assert "lies outside its picture" in broken.reason
        assert loads == ["demo"]
        assert not list(opened.folder.iterdir()), "the files of older films, and of what failed"
        last = opened.submit(chosen(end=0.1))
        assert finished(last) == "done", "later films are still made"
    assert (len(opened.jobs), last.number in opened.jobs) == (studio.MOST_KEPT, True)
    assert not opened.folder.exists()


def test_only_what_was_uploaded_is_read_and_the_oldest_make_room() -> None:
    with studio.open_studio(largest=1000) as opened:
        form = Form(picture=opened.examples["images"]["ada.png"], driving="example anna.mp4", maker="demo")
        assert opened.choices(form) == Choices(ADA, ANNA, Maker("face"), form)
        for name in (str(ADA), "/etc/passwd", "../../x", "\0"):
            with pytest.raises(TalkiesError, match="no longer here"):
                opened.file(name)
        names = []
        for number in range(30):
            name, path = opened.new_file(f"../{number}.png")
            assert path.name == f"{number}.png"
            path.write_bytes(b"x" * 1000)
            names.append(name)
            time.sleep(0.01)
            opened.file(names[0])  # shown by a page all the time
        left = list(opened.folder.glob("upload-*"))
        assert len(left) == 20
        assert opened.file(names[0]).name == "0.png"
        with pytest.raises(TalkiesError, match="no longer here: choose it again"):
            opened.file(names[1])


@pytest.mark.parametrize(
    "name", ["", ".png", "..", "a/", "é" * 300 + ".png", "-x.png", "a\nb.png", "\ud800.png", "a" * 999]
)
def test_any_name_of_an_upload_gives_a_file(name: str) -> None:
    with studio.open_studio() as opened:
        _, path = opened.new_file(name)
        path.write_bytes(b"x")
        assert path.parent.parent == opened.folder
        assert path.name.isprintable()
        assert not path.name.startswith((".", "-"))


def test_without_the_extra_it_says_what_to_install() -> None:
    words = "import sys; sys.modules['uvicorn'] = None; from talkies.cli import main; sys.exit(main(['app']))"
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    told = "uvicorn is not installed, and the page needs it: install it by pip install 'talkies[app]'"
    assert ended.stderr == f"talkies: error: {told}\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [("--port 70000", 2), ("--max-upload 0", 2), ("--host no-such-host.invalid", 1)],
)
def test_wrong_words_are_refused(words: str, status: int) -> None:
    ended = subprocess.run([BIN / "talkies", "app", *words.split()], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, "Traceback" in ended.stderr) == (status, False)
