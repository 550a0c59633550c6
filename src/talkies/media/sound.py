"""Adds a clip's sound to a film, and writes excerpts of clips with their sound."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import InputError, TalkiesError, printable
from ..files import beside, publish, whole
from .clip import Clip, Sound, SoundFile
from .ffmpeg import AGAIN, SECONDS, file_url, input_arguments, run, seconds_for, seconds_text
from .film import FrameWriter, check_film, mp4_output
from .frames import read_frames

log = logging.getLogger("talkies")


# Codecs that mp4 takes unchanged; everything else becomes AAC.
COPIED_SOUND = frozenset("aac mp3 ac3 eac3 vorbis opus flac pcm_s16le pcm_s16be".split())  # noqa: SIM905
# first_pts=0 cuts sound before the first picture and fills with silence what is missing; async fills gaps inside, from
# 20 ms on (by default from 100 ms, which is three frames).
RESAMPLED = "aresample={}:async=1:min_hard_comp=0.02:first_pts=0"


@dataclass(frozen=True)
class SoundFacts:
    """How a film got its sound. sound: "copy" or "aac"; None: silent. offset: seconds after the first picture."""

    sound: str | None
    codec: str | None = None
    offset: float | None = None


def remux(
    picture: Path,
    clip: Clip | SoundFile | None,
    out: Path,
    *,
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    comment: str | None = None,
    part: Path | None = None,
) -> SoundFacts:
    """Add the clip's sound to a film's picture stream, which is copied; write `out` whole or not at all.

    `start` and `end` are seconds after the clip's first picture, as in read_frames, so that sound and pictures stay
    in sync. Sound that starts late stays late, longer sound is cut at the end of the pictures, shorter sound stays
    shorter. It is copied if mp4 takes its codec and packets can be cut finely enough (within one frame), else it
    becomes AAC. Without a clip, or sound in the segment, the film is silent.

    Raises InputError naming the clip if its sound can be neither copied nor decoded.
    """
    part = part or beside(out)
    film = check_film(picture, picture)
    origin = (clip.start if clip else Fraction(0)) + Fraction(start or 0)
    until = film.duration if end is None else min(film.duration, Fraction(end) - Fraction(start or 0))
    sound = clip.sound if clip else None
    if sound and (sound.end <= origin or sound.start - origin >= until):
        sound = None  # the whole segment is silent
    seconds = SECONDS + float(film.duration) + (seconds_for(clip.path) if clip else 0)
    with part.open("wb"):
        pass  # a folder that is missing or full says so here, in the system's own words
    try:
        for way in _ways(sound, origin, until, film):
            arguments = ["-copyts", *input_arguments(picture)]
            if clip and sound:
                arguments += _sound_arguments(clip, sound, way, origin, until, film.duration)
            else:
                arguments += ["-map", "0:v:0"]
            fault = run([*arguments, "-c:v", "copy", *mp4_output(part, comment)], seconds=seconds)
            if fault is None:
                made = check_film(part, out)
                late = _missing(made, sound, origin, until)
                fault = _compare(film, made, sound, until) or (late if way == "copy" else None)
            if fault is None:
                if clip and late:  # decoding gave less than the packets promised; there is no more
                    log.warning("%s: its sound is damaged: %s", printable(clip.path), late)
                publish(part, out)
                heard = made.sound
                return SoundFacts(way, heard.codec, float(heard.start)) if heard else SoundFacts(way)
            log.debug("%s: %s of the sound failed: %s", printable(out), way, fault)
    finally:
        part.unlink(missing_ok=True)
    if clip is None or sound is None:
        raise TalkiesError(f"{printable(out)}: the film could not be written ({fault}): is there room? Try again")
    raise InputError(
        clip.path, f"its sound ({sound.codec}) cannot be used ({fault}): go on without it, by audio: false"
    )


def write_excerpt(
    clip: Clip,
    target: Path,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
    crf: int = 18,
    preset: str = "medium",
    parts: tuple[Path | None, Path | None] = (None, None),
    **shown: Any,
) -> int:
    """Write an excerpt as H.264 at the clip's constant rate, with its sound, whole or not at all; return its frames.

    shown: box, size and flip, as `read_frames` takes them. parts: temporary names of the silent film and of the film
    with sound, which may be on another disk.
    """
    picture = parts[0] or beside(target)
    try:
        with FrameWriter(picture, clip.rate, crf=crf, preset=preset) as writer:
            for frame in read_frames(clip, start=start, end=end, **shown):
                writer.write(frame)
        remux(picture, clip, target, start=start, end=end, part=parts[1])
    finally:
        picture.unlink(missing_ok=True)
    return writer.frames


def write_wav(
    clip: Clip | SoundFile, target: Path, *, start: Fraction | None, duration: Fraction, rate: int = 16_000
) -> None:
    """Write a clip's sound in the usual form for speech programs: wav, mono, 16 bits, `rate` samples a second.

    It is as long as the pictures, `duration` seconds from `start` (seconds after the clip's first picture) on, and
    silent where there is no sound. It is written whole or not at all. Raises InputError naming the clip if its sound
    can't be decoded.
    """
    sound = clip.sound
    assert sound is not None
    origin = clip.start + (start or 0)
    until = seconds_text(duration)
    shape = f"{RESAMPLED.format(rate)},apad,atrim=end={until}"
    with whole(target) as part:
        arguments = [
            *["-copyts", *input_arguments(clip.path, "-itsoffset", seconds_text(-origin))],
            *["-map", f"0:{sound.stream}", "-af", shape, "-ac", "1", "-c:a", "pcm_s16le"],
            *["-map_metadata", "-1", "-fflags", "+bitexact", "-f", "wav", "-y", file_url(part)],
        ]
        seconds = SECONDS + float(duration) + seconds_for(clip.path)
        if fault := run(arguments, seconds=seconds):
            raise InputError(clip.path, f"its sound can't be decoded ({fault}): {AGAIN}")


def _ways(sound: Sound | None, origin: Fraction, until: Fraction, film: Clip) -> list[str | None]:
    """Return the ways to add the sound, the best first: "copy", "aac" or None."""
    if sound is None:
        return [None]
    frame = 1 / film.rate
    # Sound before the first picture: an mp4 can hide up to a packet of it (the encoder's priming).
    begins = origin - sound.start <= max(frame / 2, sound.packet + Fraction(1, 1000))
    # Sound after the last picture: it can be cut between packets, together with the pictures.
    ends = sound.end - origin - until <= frame / 2 or (sound.packet <= frame and film.duration - until <= frame)
    return ["copy", "aac"] if sound.codec in COPIED_SOUND and begins and ends else ["aac"]


def _sound_arguments(
    clip: Clip | SoundFile, sound: Sound, way: str | None, origin: Fraction, until: Fraction, duration: Fraction
) -> list[str]:
    """Return the arguments that open the sound and add it to the film, the first input."""
    # Shift the file's clock so that the segment's first picture is at 0.
    arguments = input_arguments(clip.path, "-itsoffset", seconds_text(-origin))
    arguments += ["-map", "0:v:0", "-map", f"1:{sound.stream}"]
    if way == "copy":
        return [*arguments, "-c:a", "copy", "-t", seconds_text(duration)]
    rate = sound.sample_rate if sound.sample_rate in (22050, 24000, 32000, 44100, 48000) else 48000
    layout = "mono" if sound.channels == 1 else "stereo"
    shape = f"{RESAMPLED.format(rate)},aformat=sample_rates={rate}:channel_layouts={layout}"
    return [*arguments, "-af", f"{shape},atrim=end={seconds_text(until)}", "-c:a", "aac", "-b:a", "192k"]


def _compare(film: Clip, made: Clip, sound: Sound | None, until: Fraction) -> str | None:
    """Return what is wrong with a film that should have this sound, or None."""
    frame = 1 / film.rate
    if (made.width, made.height, made.frames) != (film.width, film.height, film.frames):
        return f"{made.frames} frames instead of {film.frames}"
    if abs(made.duration - film.duration) > frame:
        return f"{float(made.duration):.3f} s instead of {float(film.duration):.3f} s"
    if bool(made.sound) != bool(sound):
        return "the film got none that can be decoded"
    if made.sound and made.sound.end > until + frame + Fraction(1, 20):  # an encoder fills its last packet
        return f"sound until {float(made.sound.end):.3f} s under {float(until):.3f} s of picture"
    return None


def _missing(made: Clip, sound: Sound | None, origin: Fraction, until: Fraction) -> str | None:
    """Return which part of the clip's listed sound is not in the film, or None."""
    if sound is None or made.sound is None:
        return None
    begin, end = made.sound.start, made.sound.end
    slack = 1 / made.rate + Fraction(1, 10)  # packets state their length only roughly
    if begin > max(sound.start - origin, Fraction(0)) + slack or end < min(sound.end - origin, until) - slack:
        return f"only {float(begin):.3f} s to {float(end):.3f} s of it could be read"
    return None
