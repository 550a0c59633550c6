"""Odd files, one a row: how it is made, what the program takes of it, and what it says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import clips
import pytest

from talkies import media
from talkies.errors import InputError

PLAIN = {"width": 96, "rate": Fraction(30000, 1001), "frames": 60, "truncated": False}
"""What is taken of plain.mp4, wherever it is put."""

GROUP = [  # of sounds: IAMF
    *["-c:a", "libopus", "-ac", "2", "-streamid", "0:1", "-streamid", "1:2"],
    *["-stream_group", "type=iamf_audio_element:id=1:st=1:audio_element_type=channel,layer=ch_layout=stereo"],
    "-stream_group",
    "type=iamf_mix_presentation:id=2:stg=0:annotations=en-us=Mix,submix=parameter_id=100:parameter_rate=48000:"
    "default_mix_gain=0.0|element=stg=0:headphones_rendering_mode=stereo:annotations=en-us=Mix:parameter_id=101:"
    "parameter_rate=48000:default_mix_gain=0.0|layout=layout_type=loudspeakers:sound_system=stereo:"
    "integrated_loudness=0.0:digital_peak=0.0",
]


def made(*words: str) -> Callable[[Path], None]:
    """Run ffmpeg on plain.mp4 (input 0); a word like "portrait.mp4" is that clip."""

    def make(path: Path) -> None:
        known = [clips.get(word) if word in clips.names() else word for word in words]
        clips.ffmpeg("-i", clips.get("plain.mp4"), *known, path)

    return make


def with_cover(path: Path) -> None:
    cover = path.with_suffix(".png")
    clips.ffmpeg("-f", "lavfi", "-i", "color=red:s=40x40", "-frames:v", "1", cover)
    clips.ffmpeg("-i", cover, "-i", clips.get("plain.mp4"), "-c", "copy", "-map", "0", "-map", "1",
                 "-disposition:v:0", "attached_pic", path)  # fmt: skip


def with_data(path: Path) -> None:
    data = path.with_suffix(".bin")
    data.write_bytes(bytes(2000))
    made("-f", "data", "-i", str(data), "-map", "1", "-map", "0", "-c", "copy")(path)


def unknown(*sounds: str) -> Callable[[Path], None]:
    """With these sounds; those in ALAC have a code that nobody knows."""

    def make(path: Path) -> None:
        chosen = [word for n, codec in enumerate(sounds) for word in ("-map", "0:a", f"-c:a:{n}", codec)]
        made("-map", "0:v", "-c:v", "copy", *chosen)(path)
        path.write_bytes(path.read_bytes().replace(b"alac", b"zzzz"))

    return make


def dropped(path: Path) -> None:
    """AVI, 25 a second, with two pictures of no bytes."""
    drop = ["-vf", r"fps=25,select=not(eq(n\,5))*not(eq(n\,20))", "-fps_mode", "vfr", "-frames:v", "40"]
    made(*drop, "-an", "-c:v", "mjpeg", "-bf", "0")(path)


class Odd(NamedTuple):
    name: str
    make: Callable[[Path], None]
    taken: dict[str, object]  # of Clip; "sound" is the sound's codec
    said: str = ""  # a warning, or the reason if nothing is taken


COPY = ["-c", "copy"]
ODD = [
    Odd("timecode.mov", made(*COPY, "-timecode", "01:00:00:00"), PLAIN | {"stream": 0, "sound": "aac"}),
    Odd("data.ts", with_data, PLAIN | {"stream": 1, "sound": "aac"}),
    Odd("cover.mp4", with_cover, PLAIN | {"sound": "aac"}),
    Odd(
        "second.mov",
        made("-i", "portrait.mp4", "-map", "1:v", "-map", "0", *COPY, "-disposition:v:0", "0"),
        PLAIN | {"stream": 1, "sound": "aac"},
    ),
    Odd("group.mp4", made("-map", "0:v", "-map", "0:a", "-c:v", "copy", *GROUP), PLAIN | {"sound": "opus"}),
    Odd("mjpeg.avi", made("-c:v", "mjpeg", "-r", "25", "-frames:v", "50", "-an"), PLAIN | {"rate": 25, "frames": 50}),
    Odd("dropped.avi", dropped, PLAIN | {"rate": 25, "frames": 42}),
    Odd(
        "first-sound.mov",
        unknown("alac", "aac"),
        PLAIN | {"sound": "aac"},
        "sound track 1 (unknown) can't be decoded: track 2 (aac) is used",
    ),
    Odd(
        "no-sound.mov",
        unknown("alac", "alac"),
        PLAIN | {"sound": None},
        "its sound can't be decoded: the film is silent",
    ),
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_what_is_taken_of_an_odd_file_and_what_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, odd: Odd
) -> None:
    path = tmp_path / odd.name
    odd.make(path)
    with caplog.at_level(logging.INFO, "talkies"):
        if not odd.taken:
            with pytest.raises(InputError) as caught:
                media.probe(path)
            assert odd.said in str(caught.value)
            return
        clip = media.probe(path)
        frames = list(media.read_frames(clip))
    assert len(frames) == clip.frames
    assert odd.said in caplog.text
    assert bool(caplog.text) == bool(odd.said)
    found = {name: getattr(clip, name) for name in odd.taken} | {"sound": clip.sound and clip.sound.codec}
    assert found == {"sound": None} | odd.taken
