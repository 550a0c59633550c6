"""Films that we write: exact, whole or not at all."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest

from talkies.errors import InputError, TalkiesError
from talkies.files import file_digest
from talkies.media import film
from talkies.media.clip import probe
from talkies.media.film import FrameWriter
from talkies.media.frames import read_frames
from talkies.media.sound import remux


def write(path: Path, frames: Iterable[np.ndarray], rate: Fraction = Fraction(30000, 1001), **options: Any) -> None:
    with FrameWriter(path, rate, **{"preset": "ultrafast", "threads": 1, **options}) as film:
        for frame in frames:
            film.write(frame)


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("rate", ["30000/1001", "25", "359/12", "1000/33", "1", "60"])
def test_film_has_the_exact_rate_and_every_frame(tmp_path: Path, rate: str) -> None:
    write(tmp_path / "a.mp4", [clips.frame(i) for i in range(40)], Fraction(rate))
    clip = probe(tmp_path / "a.mp4")
    assert (clip.rate, clip.frames, clip.variable, clip.start) == (Fraction(rate), 40, False, 0)
    assert (clip.codec, clip.sound, clip.matrix) == ("h264", None, None)
    assert [clips.number(frame) for frame in read_frames(clip)] == list(range(40))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert listed(tmp_path) == ["a.mp4"]


def test_film_keeps_its_colours_and_odd_sides_grow_by_a_repeated_pixel(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", [clips.patches(16)] * 3, crf=5)
    assert np.abs(clips.patch_colours(next(read_frames(probe(tmp_path / "a.mp4")))) - clips.PATCHES).max() < 4
    write(tmp_path / "b.mp4", [clips.frame(i, 97, 65) for i in range(5)], crf=5)
    clip = probe(tmp_path / "b.mp4")
    assert (clip.width, clip.height) == (98, 66)
    assert clips.psnr(next(read_frames(clip))[:30, :97], clips.frame(0, 97, 65)[:30]) > 30


def interrupted() -> Iterator[np.ndarray]:
    yield clips.frame(2)
    raise KeyboardInterrupt


def killed() -> Iterator[np.ndarray]:
    before = clips.children()
    yield clips.frame(0)
    (process,) = clips.children() - before
    os.kill(process, signal.SIGKILL)
    yield from itertools.repeat(clips.frame(0), 500)


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        (lambda: iter(()), TalkiesError),
        (interrupted, KeyboardInterrupt),
        (lambda: iter([clips.frame(1), clips.frame(1, 32, 32)]), ValueError),
        (killed, TalkiesError),
    ],
)
def test_failing_writer_leaves_nothing_but_the_old_film(
    tmp_path: Path, frames: Callable[[], Iterator[np.ndarray]], error: type[BaseException]
) -> None:
    write(tmp_path / "a.mp4", [clips.frame(1)])
    before, children = (tmp_path / "a.mp4").read_bytes(), clips.children()
    with pytest.raises(error) as caught:
        write(tmp_path / "a.mp4", frames())
    assert not isinstance(caught.value, InputError)
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert listed(tmp_path) == ["a.mp4"]
    assert clips.children() == children


def test_a_film_with_fewer_frames_than_were_given_is_an_error(tmp_path: Path, monkeypatch) -> None:
    encode = FrameWriter.write
    monkeypatch.setattr(FrameWriter, "write", lambda film, frame: encode(film, frame) or setattr(film, "frames", 6))
    with pytest.raises(TalkiesError, match=r"a\.mp4: the film that ffmpeg wrote is not the one .* 5 frames of 6"):
        write(tmp_path / "a.mp4", [clips.frame(0)] * 5)
    assert listed(tmp_path) == []


def test_full_disk_is_an_error_of_the_machine(tmp_path: Path) -> None:
    """A limit on file sizes replaces the full disk: ffmpeg's write fails in the same place."""
    code = f"""
import resource
import numpy as np
from fractions import Fraction
from talkies.media import FrameWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
frames = np.random.default_rng(0).integers(0, 256, (60, 128, 128, 3), np.uint8)
try:
    with FrameWriter({str(tmp_path / "a.mp4")!r}, Fraction(25), threads=1) as film:
        for frame in frames:
            film.write(frame)
except Exception as error:
    print(type(error).__name__)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.strip() in ("OSError", "TalkiesError"), said.stderr
    assert listed(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "a.mp4", [clips.frame(0)])


def test_part_may_lie_on_another_disk(tmp_path: Path) -> None:
    scratch = Path("/dev/shm")
    if not os.access(scratch, os.W_OK) or scratch.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("a film begun on another disk (/dev/shm is none)")
    part = scratch / f"talkies-test-{os.getpid()}.part"
    write(tmp_path / "a.mp4", [clips.frame(0)], part=part)
    assert probe(tmp_path / "a.mp4").frames == 1
    assert listed(tmp_path) == ["a.mp4"]
    assert not part.exists()


def test_tags_are_written_and_read_and_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    comment = "AI-generated: a=b; #c \\ é\nsecond line"
    for name in ("a.mp4", "c.mp4"):
        write(tmp_path / name, [clips.frame(i) for i in range(10)], comment=comment)
    assert clips.tags(tmp_path / "a.mp4")["comment"] == comment
    assert file_digest(tmp_path / "a.mp4") == file_digest(tmp_path / "c.mp4")
    remux(tmp_path / "a.mp4", None, tmp_path / "b.mp4", comment=comment)
    assert clips.tags(tmp_path / "b.mp4")["comment"] == comment


def test_sound_is_added_and_replaced_without_encoding_the_pictures(tmp_path: Path) -> None:
    write(tmp_path / "s.mp4", [clips.frame(i) for i in range(60)])
    clip = probe(clips.get("plain.mp4"))
    for before, after in (("s.mp4", "t.mp4"), ("t.mp4", "again.mp4")):
        remux(tmp_path / before, clip, tmp_path / after)
    pictures = [np.stack(list(read_frames(probe(tmp_path / name)))) for name in ("s.mp4", "t.mp4", "again.mp4")]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    data = (tmp_path / "t.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("has_one", [True, False])
def test_nvenc_is_taken_where_it_opens(tmp_path: Path, has_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in succeeds or fails, as an ffmpeg does with a GPU or without."""
    monkeypatch.setattr(film, "ffmpeg_path", lambda: "/bin/true" if has_one else "/bin/false")
    film.opens_nvenc.cache_clear()
    writer = FrameWriter(tmp_path / "a.mp4", Fraction(25), encoder="nvenc", preset="ultrafast", crf=30)
    film.opens_nvenc.cache_clear()
    assert (writer.preset, writer.encoder) == (("p5", "nvenc") if has_one else ("ultrafast", "x264"))
    wanted = "-c:v h264_nvenc -preset p5 -rc vbr -cq 30 -b:v 0" if has_one else "-c:v libx264 -preset ultrafast -crf 30"
    assert wanted in " ".join(writer._encoder())
