"""Clips and their sound are read correctly, whatever the file: each kind is a row."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import shutil
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import bombs
import clips
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkies import media
from talkies.errors import InputError, TalkiesError
from talkies.media.clip import Clip, probe
from talkies.media.clip_reader import STANDARD_RATES, find_rate
from talkies.media.film import FrameWriter
from talkies.media.frames import Box, _seek, read_frames
from talkies.media.sound import remux

FRAME = 1 / 29.97  # seconds


def shown(clip: Clip, **options: Any) -> list[int]:
    """Return the numbers of the frames that are read."""
    return [clips.number(frame) for frame in read_frames(clip, **options)]


def silent(path: Path, clip: Clip, **segment: Any) -> Path:
    """Write a silent film as the engine does, with the frames that read_frames gives."""
    with FrameWriter(path, clip.rate, preset="ultrafast", threads=1) as film:
        for frame in read_frames(clip, **segment):
            film.write(frame)
    return path


# --- a table of clips ---


def made(words: str) -> Callable[[Path], None]:
    """Run ffmpeg on plain.mp4 (input 0); a word like "portrait.mp4" is that clip, "DATA" a file of zeros."""

    def make(path: Path) -> None:
        path.with_suffix(".bin").write_bytes(bytes(2000))
        known = {name: clips.get(name) for name in words.split() if name in clips.names()}
        known["DATA"] = path.with_suffix(".bin")
        clips.ffmpeg("-i", clips.get("plain.mp4"), *[known.get(word, word) for word in words.split()], path)

    return make


def unknown(*sounds: str) -> Callable[[Path], None]:
    """With these sounds; those in ALAC have a code that nobody knows."""

    def make(path: Path) -> None:
        made("-map 0:v -c:v copy " + " ".join(f"-map 0:a -c:a:{n} {codec}" for n, codec in enumerate(sounds)))(path)
        path.write_bytes(path.read_bytes().replace(b"alac", b"zzzz"))

    return make


def edited(path: Path) -> None:
    """An edit list shows the first half of the pictures."""
    bombs.patched(path, b"elst", 4, 8828820 // 2)


@dataclasses.dataclass
class Kind:
    """name: of the recipe in `clips`, or of what `make` makes. rate, facts: of `Clip`. shows: the frames' numbers.

    sound: its codec, and how it comes into a film. said: what the warning says.
    """

    name: str
    rate: str = "30000/1001"
    shows: range | None = range(60)
    sound: tuple[str, str] | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    make: Callable[[Path], None] | None = None
    said: str = ""


AAC = ("aac", "copy")
FIRST = "-map 0 -c copy -disposition:v:0"
KINDS = [
    Kind("plain.mp4", sound=AAC, facts={"width": 96, "height": 64, "start": 0}),
    Kind("plain.mov", "24", sound=("pcm_s16le", "copy")),
    Kind("plain.mkv", "24000/1001", range(48), ("flac", "copy")),
    Kind("plain.webm", sound=("opus", "copy")),
    Kind("vorbis.webm", sound=("vorbis", "copy")),
    Kind("plain.avi", "25", range(50), ("mp3", "copy"), {"numbered": True}),
    Kind("plain.ts", sound=AAC),
    Kind("plain.flv", "25", range(50), AAC),
    Kind("plain.wmv", "25", range(50), ("wmav2", "aac")),
    Kind("opus.mkv", sound=("opus", "copy")),
    Kind("ac3.mp4", sound=("ac3", "copy")),
    Kind("u8.avi", "15", range(30), ("pcm_u8", "aac")),
    Kind("adpcm.avi", "15", range(30), ("adpcm_ms", "aac")),
    Kind("fragments.mp4", sound=("aac", "aac")),
    # time
    Kind("one.mp4", shows=range(1)),
    Kind("fast.mp4", "60", range(0, 120, 2)),
    Kind("cut.mp4", shows=range(21, 60), sound=AAC),
    Kind("edited.mp4", shows=range(30), sound=AAC, facts={"truncated": False}, make=edited),
    Kind("loop.gif", "10", None, facts={"variable": True, "frames": 7, "duration": Fraction(7, 10)}),
    Kind("mjpeg.avi", "25", range(50), make=made("-vf setpts=N/25/TB -r 25 -c:v mjpeg -frames:v 50 -an")),
    Kind(
        "dropped.avi",  # two pictures have no bytes
        "25",
        None,
        facts={"frames": 42, "truncated": False},
        make=made(r"-vf fps=25,select=not(eq(n\,5))*not(eq(n\,20)) -fps_mode vfr -frames:v 40 -an"),
    ),
    Kind("late.mp4", sound=AAC, facts={"stream": 1}),
    Kind("early.mkv", sound=("aac", "aac")),
    Kind("longer.mp4", "30", range(30), AAC),
    Kind("longer-flac.mkv", "30", range(30), ("flac", "aac")),  # packets are too long to be cut to a frame
    Kind("shorter.mp4", "30", sound=AAC),
    # shape and pixels
    Kind("sar.mp4", shows=range(12), facts={"width": 144, "height": 64}),
    Kind("tall-sar.mp4", shows=range(12), facts={"width": 96, "height": 128}),
    Kind("turned.mp4", shows=None, sound=AAC, facts={"width": 64, "height": 96}),
    Kind("odd.webm", "25", range(12), facts={"width": 97, "height": 65}),
    Kind("portrait.mp4", "25", range(12), facts={"width": 64, "height": 112}),
    Kind("hevc10.mp4", "30", range(20)),
    Kind("pq.mp4", "25", None, facts={"hdr": "PQ"}),
    Kind("hlg.mp4", "25", None, facts={"hdr": "HLG"}),
    # streams
    Kind("many.mkv", sound=AAC, facts={"stream": 3, "width": 96}),
    Kind("timecode.mov", sound=AAC, make=made("-c copy -timecode 01:00:00:00")),
    Kind("data.ts", sound=AAC, make=made("-f data -i DATA -map 1 -map 0 -c copy")),
    Kind("second.mov", sound=AAC, facts={"stream": 1, "width": 96}, make=made(f"-i portrait.mp4 -map 1:v {FIRST} 0")),
    Kind("cover.mp4", sound=AAC, facts={"width": 96}, make=made(f"-i many.mkv -map 1:4 {FIRST} attached_pic")),
    Kind("first-sound.mov", sound=AAC, make=unknown("alac", "copy"), said="(unknown) can't be decoded: track 2 (aac)"),
    Kind("no-sound.mov", make=unknown("alac", "alac"), said="its sound can't be decoded: the film is silent"),
    # damage
    Kind("truncated.mp4", shows=None, sound=AAC, facts={"truncated": True}, said="damaged or cut short"),
    Kind("truncated.mkv", "24000/1001", range(31), ("flac", "copy"), {"truncated": True}, said="damaged or cut short"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Kind) -> None:
    """Its facts, as many frames as they promise, and its sound in a film, where it was."""
    path = tmp_path / kind.name
    shutil.copy(clips.get(kind.name), path) if kind.make is None else kind.make(path)
    with caplog.at_level(logging.INFO, "talkies"):
        clip = probe(path)
        numbers = shown(clip)
    assert kind.said in caplog.text
    assert bool(caplog.text) == bool(kind.said)
    assert (clip.rate, clip.sound and clip.sound.codec) == (Fraction(kind.rate), kind.sound and kind.sound[0])
    assert {name: getattr(clip, name) for name in kind.facts} == kind.facts
    assert len(numbers) == clip.frames or clip.truncated
    assert kind.shows is None or numbers == list(kind.shows)
    film = silent(tmp_path / "silent.mp4", clip)
    facts = remux(film, clip, tmp_path / "talkie.mp4")
    talkie = probe(tmp_path / "talkie.mp4")
    assert (facts.sound, talkie.frames) == (kind.sound and kind.sound[1], len(numbers))
    if clip.sound is None or talkie.sound is None:
        assert talkie.sound is clip.sound is None
        return
    before = clips.delay(clips.decoded_sound(path, clip.sound.stream)) - float(clip.start)
    assert abs(clips.delay(clips.decoded_sound(tmp_path / "talkie.mp4")) - before) < 0.006
    assert abs(talkie.sound.start - max(clip.sound.start - clip.start, 0)) < 2 * FRAME
    assert abs(talkie.sound.end - min(clip.sound.end - clip.start, talkie.duration)) < 2 * FRAME


def test_variable_rate_keeps_time() -> None:
    clip = probe(clips.get("phone.mp4"))
    times = clips.phone_times()
    assert clip.variable
    assert clip.rate in STANDARD_RATES
    assert abs(clip.duration - 2) < Fraction(1, 10)
    numbers = shown(clip)
    assert len(numbers) == clip.frames == round(clip.duration * clip.rate)
    for i, number in enumerate(numbers):
        late = float(i / clip.rate) - times[number]
        assert -0.5 / clip.rate - 0.001 <= late <= 1 / 15 + 0.007 + 0.5 / clip.rate  # the frame shown at that time


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


@pytest.mark.parametrize(("one_in", "rate"), [(20, 30), (5, 24)])
def test_a_grid_with_up_to_a_tenth_of_its_pictures_missing_keeps_its_rate(one_in: int, rate: int) -> None:
    times = [3000 * i for i in range(60) if i % one_in != one_in - 1]
    assert find_rate(times, [3000] * len(times), Fraction(1, 90_000), None) == (rate, True)


# --- pixels ---


def test_rotation_tag_turns_the_picture() -> None:
    frames = read_frames(probe(clips.get("turned.mp4")))
    assert [clips.number(np.rot90(frame, -1)) for frame in frames] == list(range(60))


@pytest.mark.parametrize("box", [Box(11, 3, 40), Box(-16, -20, 120), Box(0, -16, 96), Box(-30, 0, 64), Box(80, 50, 28)])
def test_a_box_is_cut_and_repeats_the_edge_outside(box: Box) -> None:
    clip = probe(clips.get("plain.mp4"))
    padded = np.pad(next(read_frames(clip)), ((200, 200), (200, 200), (0, 0)), mode="edge")
    expected = padded[200 + box.y : 200 + box.y + box.side, 200 + box.x : 200 + box.x + box.side]
    assert np.array_equal(next(read_frames(clip, box=box)), expected)
    assert clips.psnr(next(read_frames(clip, box=box, size=2 * box.side))[::2, ::2], expected) > 25


def test_clip_of_the_right_size_is_not_touched() -> None:
    path = clips.get("square.mp4")
    plain = clips.ffmpeg("-i", path, "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1")
    frames = read_frames(probe(path), box=Box(0, 0, 64), size=64)
    assert b"".join(frame.tobytes() for frame in frames) == plain


@pytest.mark.parametrize(
    "name", ["bt709.mp4", "bt601.mp4", "full.mp4", "untagged.mp4", "untagged-hd.mp4", "pq.mp4", "hlg.mp4"]
)
def test_colours_are_converted_by_the_matrix_range_and_transfer_function_of_the_file(name: str) -> None:
    clip = probe(clips.get(name))
    off = np.abs(clips.patch_colours(next(read_frames(clip))) - clips.PATCHES).max()
    assert off < (6 if clip.hdr else 4)  # white in HDR becomes a little less than white


def test_alpha_is_laid_over_white() -> None:
    frame = next(read_frames(probe(clips.get("alpha.webm"))))
    assert np.abs(frame[32, 8].astype(int) - (200, 30, 30)).max() < 12
    assert frame[32, 56].min() > 245
    assert next(read_frames(probe(clips.get("loop.gif"))))[4, 80].tolist() == [255, 255, 255]


# --- segments ---


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("plain.mp4", Fraction(1), None),
        ("plain.mp4", 1.234, None),
        ("plain.mp4", None, 0.7),
        ("plain.mp4", Fraction(1234, 1000), 1.5),
        ("plain.avi", 1.234, None),
        ("plain.webm", 1, None),
        ("early.mkv", 0.5, 1.25),
        ("opus.mkv", 0.5, 1.25),
        ("plain.mov", 1.234, 1.9),
        ("plain.ts", 0.5, 1.25),
        ("u8.avi", 0.5, 1.25),
    ],
)
def test_a_segment_has_its_frames_and_its_sound(
    tmp_path: Path, name: str, start: Fraction | float | None, end: float | None
) -> None:
    clip = probe(clips.get(name))
    numbers = shown(clip, start=start, end=end)
    since, until = start or 0, clip.duration if end is None else Fraction(end)
    assert abs(numbers[0] - since * clip.rate) <= 0.51
    assert numbers == list(range(numbers[0], numbers[0] + clip.count(start, end)))
    assert abs(len(numbers) - (until - Fraction(since)) * clip.rate) <= 1
    remux(silent(tmp_path / "s.mp4", clip, start=start, end=end), clip, tmp_path / "t.mp4", start=start, end=end)
    before = clips.delay(clips.decoded_sound(clip.path)) - float(clip.start)
    assert abs(clips.delay(clips.decoded_sound(tmp_path / "t.mp4"), float(since)) - before) < 0.010
    sound = probe(tmp_path / "t.mp4").sound
    assert sound
    assert float(sound.end - sound.start) == pytest.approx(float(until - Fraction(since)), abs=2 * FRAME)


def test_a_film_longer_than_the_segment_is_not_cut_but_its_sound_is(tmp_path: Path) -> None:
    clip = probe(clips.get("plain.mp4"))
    assert remux(silent(tmp_path / "s.mp4", clip), clip, tmp_path / "t.mp4", end=1).sound == "aac"
    talkie = probe(tmp_path / "t.mp4")
    assert talkie.sound
    assert (talkie.frames, float(talkie.sound.end)) == (60, pytest.approx(1, abs=FRAME))


def test_a_segment_without_sound_or_a_film_without_a_clip_is_silent(tmp_path: Path) -> None:
    clip = probe(clips.get("shorter.mp4"))
    film = silent(tmp_path / "s.mp4", clip, start=1)
    assert remux(film, clip, tmp_path / "t.mp4", start=1).sound is None
    assert remux(film, None, tmp_path / "t.mp4").sound is None
    assert probe(tmp_path / "t.mp4").sound is None


def test_segment_far_into_a_long_clip(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    step = [clips.frame(i // 2) for i in range(100)]
    clips.ffmpeg(*clips.raw("2"), *clips.X264, "-g", "30", path, stdin=b"".join(f.tobytes() for f in step))
    clip = probe(path)
    assert _seek(clip, Fraction(40))
    assert shown(clip, start=40, end=45) == [40, 40, 41, 41, 42, 42, 43, 43, 44, 44]
    assert shown(clip, start=47, end=99) == [47, 47, 48, 48, 49, 49]


@pytest.mark.parametrize("segment", [{"start": 5}, {"start": 1, "end": 1}])
def test_segment_outside_the_clip_is_an_input_error(segment: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"starts at \d s.*, where the clip, of 2\.002 s, has no frame"):
        read_frames(probe(clips.get("plain.mp4")), **segment)  # type: ignore[arg-type]


# --- damage ---


def test_scratched_clip_gives_what_is_there_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its pictures and its sound are damaged from a third on."""
    clip = probe(clips.get("scratched.mp4"))
    film = silent(tmp_path / "s.mp4", clip)
    assert shown(probe(film))[:10] == list(range(10))
    assert "scratched.mp4: the clip is damaged" in caplog.text
    with contextlib.suppress(InputError):  # the sound may be found to be rubbish
        remux(film, clip, tmp_path / "t.mp4")
        assert probe(tmp_path / "t.mp4").frames == probe(film).frames
    assert not list(tmp_path.glob("*.part"))


def test_sound_that_ends_before_its_packets_say_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = probe(clips.get("u8.avi"))
    assert clip.sound is not None
    longer = dataclasses.replace(
        clip, frames=45, duration=Fraction(3), sound=dataclasses.replace(clip.sound, end=Fraction(3))
    )
    with FrameWriter(tmp_path / "s.mp4", clip.rate, preset="ultrafast") as film:
        for i in range(45):
            film.write(clips.frame(i))
    remux(tmp_path / "s.mp4", longer, tmp_path / "t.mp4")
    assert probe(tmp_path / "t.mp4").frames == 45
    assert "u8.avi: its sound is damaged: only 0.000 s to 2" in caplog.text


# --- what is not a clip ---


def zeros(path: Path) -> None:
    data = clips.get("plain.mp4").read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4] + bytes(len(data) - data.index(b"mdat") - 4))


def photo(path: Path) -> None:
    clips.ffmpeg("-f", "lavfi", "-i", "color=red:s=40x40", "-frames:v", "1", "-f", "image2", "-c:v", "png", path)


def jump(path: Path) -> None:
    times = ["-vf", "setpts=N/25/TB+if(gte(N\\,6)\\,900000/TB)", "-fps_mode", "passthrough", "-f", "matroska"]
    clips.film(path, *times, count=12, rate="25", sound=False)


def foreign(path: Path) -> None:
    path.write_bytes(clips.get("plain.mp4").read_bytes().replace(b"avc1", b"zzzz"))


PLAIN = clips.folder() / "plain.mp4"
NOT_CLIPS: list[tuple[str, bytes | str | Callable[[Path], Any], str]] = [
    ("empty", b"", "the file is empty"),
    ("text", b"hello, this is no film\n" * 50, "not a video that can be read"),
    ("page", b"<!DOCTYPE html><html><body>Sign in</body></html>" * 20, "this is a web page, not a video"),
    ("m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{PLAIN}\n#EXT-X-ENDLIST\n".encode(), "a playlist"),
    ("m3u8 by URL", f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:{PLAIN}\n".encode(), "a playlist"),
    ("concat", f"ffconcat version 1.0\nfile {PLAIN}\n".encode(), "a playlist"),
    ("noise", np.random.default_rng(3).bytes(20000), "not a video that can be read"),
    (f"noise: {os.strerror(errno.ENOSPC)}", np.random.default_rng(4).bytes(5000), "not a video that can be read"),
    ("subtitles", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n", "another format that talkies does not open"),
    ("photo", photo, "another format that talkies does not open"),
    ("zeros", zeros, "no picture in it can be decoded"),
    ("jump", jump, "its time stamps jump"),
    ("foreign", foreign, "the format of its picture is not known"),
    ("headless", "headless.mov", "its index is missing"),
    ("sound", "sound-only.mp4", "it is sound without a picture, which a film gets by the key audio: give a video"),
    ("cover", "cover-only.m4a", "it is sound without a picture"),
    ("tiny", "tiny.mp4", "4x4 pixels is too small"),
    ("times", bombs.endless_times, "reading it takes over 1.5 GB of memory"),
    ("folder", Path.mkdir, "this is a folder"),
    ("missing", lambda path: None, "there is no such file"),
    ("link", lambda path: path.symlink_to("nowhere"), "the link leads nowhere"),
    ("loop", lambda path: path.symlink_to(path.name), "symbolic links"),
    ("pipe", os.mkfifo, "this is a device or pipe"),
    ("device", lambda path: path.symlink_to("/dev/zero"), "this is a device or pipe"),
]


@pytest.mark.parametrize(("name", "content", "said"), NOT_CLIPS, ids=[row[0] for row in NOT_CLIPS])
def test_what_is_no_clip_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | str | Callable[[Path], Any], said: str
) -> None:
    clips.get("plain.mp4")
    path = tmp_path / f"{name}.mp4"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        shutil.copy(clips.get(content), path)
    else:
        content(path)
    with pytest.raises(InputError) as caught:
        list(read_frames(probe(path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "a b.mp4", 'it\'s "quoted".mp4', "-i.mp4", "%03d.mp4", "http:x.mp4", "über ünï 漢.mp4", "two\nlines.mp4",
        b"undecodable \xff.mp4", "x" * 250 + ".mp4", "a;b|c&d$(e)`f`.mp4", "glob*?[a].mp4",
    ],
)  # fmt: skip
def test_any_name_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes) -> None:
    monkeypatch.chdir(tmp_path)  # relative names with a colon or a dash work too
    path = Path(os.fsdecode(name))
    path.symlink_to(clips.get("square.mp4"))
    clip = probe(path)
    assert shown(clip) == list(range(12))
    out = tmp_path / "out" / path
    out.parent.mkdir()
    remux(silent(out, clip), clip, out)
    assert probe(out).frames == 12
    assert list(out.parent.iterdir()) == [out]


# --- processes ---


def test_reader_that_is_closed_early_leaves_no_process() -> None:
    clip = probe(clips.get("plain.mp4"))
    before = clips.children()
    frames = read_frames(clip)
    next(frames)
    assert clips.children() != before
    frames.close()  # type: ignore[attr-defined]
    assert clips.children() == before


def test_reader_streams() -> None:
    """The decoder waits until frames are asked for, so they do not pile up in memory."""
    frames = read_frames(probe(clips.get("untagged-hd.mp4")), rate=Fraction(3000))  # 360 frames of 0.7 MB
    next(frames)
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    for _ in itertools.islice(frames, 200):
        pass
    assert int(Path("/proc/self/statm").read_text().split()[1]) * 4096 - memory < 40e6
    frames.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_crash_of_the_decoder_is_the_clips_fault_and_a_kill_is_not(
    caplog: pytest.LogCaptureFixture, number: int
) -> None:
    clip = probe(clips.get("untagged-hd.mp4"))
    before = clips.children()
    frames = read_frames(clip, rate=Fraction(3000))
    next(frames)
    (process,) = clips.children() - before
    os.kill(process, number)
    if number == signal.SIGSEGV:
        assert len(list(frames)) < 300
        assert "untagged-hd.mp4: the clip is damaged" in caplog.text
        return
    with pytest.raises(TalkiesError, match="stopped") as caught:
        list(frames)
    assert not isinstance(caught.value, InputError)


# --- folders ---


def test_listing_takes_known_suffixes_only_and_tells_what_is_not_used(tmp_path: Path) -> None:
    names = ("b.PNG", "a.jpg", ".hidden.png", "._a.jpg", ".DS_Store", "notes.txt", "README", "c.mp4", "d.HIF", "e.jxl")
    for name in (*names, "used.wav", "two\nlines.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    pictures, clips = media.list_pictures(tmp_path), media.list_clips(tmp_path)
    assert [p.name for p in pictures] == ["a.jpg", "b.PNG", "d.HIF", "gone.png"]
    assert [p.name for p in clips] == ["c.mp4", "two\nlines.mp4"]
    unused = media.not_used(tmp_path, {*pictures, tmp_path / "used.wav"})
    assert unused == ["README", "c.mp4", "e.jxl", "notes.txt", r"two\nlines.mp4"]
    with pytest.raises(TalkiesError, match="no such file"):
        media.list_pictures(tmp_path / "nowhere")
