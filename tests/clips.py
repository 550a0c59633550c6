"""Small real clips, each with one trap found in real-world films; ffmpeg makes a clip when it is first needed.

Every frame shows its own number (eight black or white fields), so a test can tell which frame it sees. The sound is
noise of a known seed in syllables, so its position in time can be measured to a fraction of a millisecond.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from talkies.media.clip import probe
from talkies.media.ffmpeg import ffmpeg_path
from talkies.media.frames import read_frames

WIDTH, HEIGHT = 96, 64
RATE = 44100  # samples per second of every generated sound

_recipes: dict[str, Callable[[Path], object]] = {}


@cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="talkies-clips-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def get(name: str) -> Path:
    """Return the clip of this name, and make it first if it does not exist yet."""
    path = folder() / name
    _recipes[name](path)
    return path


def names() -> list[str]:
    return list(_recipes)


def ffmpeg(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    """Run ffmpeg (with -y), which must succeed; return its stdout."""
    command = [ffmpeg_path(), "-hide_banner", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout


def tags(path: str | Path) -> dict[str, str]:
    """Return a media file's own tags."""
    with av.open(str(path)) as container:
        return dict(container.metadata)


def pixels(path: str | Path) -> NDArray[np.float64]:
    """Return all of a film's frames."""
    return np.stack(list(read_frames(probe(path)))).astype(float)


def frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A coloured picture whose lower half shows `number` in eight fields, the highest bit on the left."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([60 + 120 * x / width, 60 + 120 * y / height, np.full(x.shape, 100)], -1)
    bits = (number >> (7 - x * 8 // width)) & 1
    picture[height // 2 :] = (30 + 195 * bits)[height // 2 :, :, None]
    return picture.astype(np.uint8)


def number(picture: NDArray[np.uint8]) -> int:
    """Return the number that a picture shows."""
    height, width = picture.shape[:2]
    row = picture[height * 3 // 4].mean(-1)
    return sum(int(row[int((i + 0.5) * width / 8)] > 127) << (7 - i) for i in range(8))


def frames(count: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return b"".join(frame(i, width, height).tobytes() for i in range(count))


def raw(rate: str, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """Arguments that make ffmpeg read `frames` from stdin."""
    size = f"{width}x{height}"
    return ["-threads", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "pipe:0"]


X264 = ["-threads", "1", "-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-crf", "15", "-pix_fmt", "yuv420p"]


@cache
def noise() -> NDArray[np.float32]:
    """The sound of every clip: four seconds of syllables of low-pass noise, mono, at 44,100 Hz."""
    generator = np.random.default_rng(7)
    count = 4 * RATE
    spectrum = np.fft.rfft(generator.normal(size=count))
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    spectrum[(frequency < 150) | (frequency > 3500)] = 0
    sound = np.fft.irfft(spectrum, count)
    syllables = np.repeat(generator.uniform(0.1, 1, 33), RATE // 8 + 1)[:count]
    sound *= syllables
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


@cache
def wav(seconds: float = 2.0) -> Path:
    """A WAV file of the noise."""
    path = folder() / f"noise-{seconds}.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((noise()[: round(seconds * RATE)] * 32767).astype("<i2").tobytes())
    return path


def decoded_sound(path: Path, stream: str | int = "a:0") -> NDArray[np.float32]:
    """Return a file's sound, mono, at 44,100 Hz, from time 0 of the file's clock (silence before it starts)."""
    shape = f"aresample={RATE}:async=1:min_hard_comp=0.02:first_pts=0"
    data = ffmpeg(
        "-copyts", "-i", f"file:{path}", "-map", f"0:{stream}", "-af", shape, "-ac", "1", "-f", "f32le", "pipe:1"
    )
    return np.frombuffer(data, np.float32)


def delay(sound: NDArray[np.float32], since: float = 0.0) -> float:
    """Measure by correlation how many seconds `sound` lags the noise that starts at `since` (negative: leads)."""
    known = noise()[round(since * RATE) :]
    size = 1 << (len(sound) + len(known)).bit_length()
    product = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(known, size)), size)
    best = int(np.argmax(product))
    return (best if best < size // 2 else best - size) / RATE


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9)))


def children() -> set[int]:
    """Return the ids of this process's children."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


Recipe = Callable[[Path], object]


def recipe(name: str) -> Callable[[Recipe], Recipe]:
    def keep(function: Recipe) -> Recipe:
        return _recipes.setdefault(name, function)

    return keep


def film(path: Path, *options: str, count: int = 60, rate: str = "30000/1001", sound: bool = True) -> None:
    """Write a clip of numbered frames with two seconds of noise; `options` come before the output's name."""
    heard = ["-i", wav(), "-map", "0:v", "-map", "1:a"] if sound else []
    ffmpeg(*raw(rate), *heard, *X264, *options, path, stdin=frames(count))


def named(name: str, *options: str, **more: Any) -> None:
    """Name a clip that `film` writes."""
    recipe(name)(lambda path: film(path, *options, **more))


def silent(name: str, width: int, height: int, count: int, *codec: str) -> None:
    """Name a clip of numbered frames of a size."""
    words = [*raw("25", width, height), *(codec or X264)]
    recipe(name)(lambda path: ffmpeg(*words, path, stdin=frames(count, width, height)))


def copied(name: str, *before: str, after: tuple[str, ...] = ()) -> None:
    """Name a copy of plain.mp4's streams with options for its reader and its writer."""
    recipe(name)(lambda path: ffmpeg(*before, "-i", get("plain.mp4"), "-c", "copy", *after, path))


# --- plain clips in every container ---

VP8 = ("-c:v", "libvpx", "-cpu-used", "8", "-deadline", "realtime", "-b:v", "1M")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "3")

named("plain.mp4", "-c:a", "aac", "-movflags", "+faststart", "-g", "15")
named("plain.mov", "-c:a", "pcm_s16le", rate="24")
named("plain.mkv", "-c:a", "flac", rate="24000/1001", count=48)
named("plain.webm", *VP8, "-c:a", "libopus")
named("vorbis.webm", *VP8, "-c:a", "libvorbis")
# AVI has no presentation times; with B-frames its decoding times are one frame late.
named("plain.avi", *MPEG4, "-c:a", "libmp3lame", rate="25", count=50)
named("plain.ts", "-c:a", "aac")  # a transport stream starts at 1.4 s
named("plain.wmv", "-c:v", "wmv2", "-q:v", "3", "-bf", "0", "-c:a", "wmav2", rate="25", count=50)
named("plain.flv", "-c:a", "aac", rate="25", count=50)
named("opus.mkv", "-c:a", "libopus")
named("ac3.mp4", "-c:a", "ac3")
named("u8.avi", *MPEG4, "-bf", "0", "-c:a", "pcm_u8", rate="15", count=30)
named("adpcm.avi", *MPEG4, "-bf", "0", "-c:a", "adpcm_ms", rate="15", count=30)
named("mpeg2.mpg", "-c:v", "mpeg2video", "-c:a", "mp2", rate="25", count=50)
named("theora.ogv", "-c:v", "libtheora", "-c:a", "libvorbis", rate="25", count=50)
named("phone.3gp", *MPEG4, "-c:a", "aac", rate="25", count=50)
named("moving.apng", "-an", "-c:v", "apng", "-f", "apng", rate="25", count=10)


# --- time ---


def phone_times() -> list[float]:
    """When each frame of phone.mp4 begins, in seconds."""
    return [i / 30 + 0.004 * (i % 3) for i in range(30)] + [1 + i / 15 + 0.007 * (i % 2) for i in range(15)]


# Variable frame rate: 45 frames in 2 s, first at 30 a second, then at 15.
PHONE = "+".join(f"eq(N,{i})*{round(t * 90000)}" for i, t in enumerate(phone_times()))
named("phone.mp4", "-vf", f"settb=1/90000,setpts='{PHONE}'", "-fps_mode", "passthrough", "-enc_time_base", "1/90000",
     "-video_track_timescale", "90000", "-c:a", "aac", count=len(phone_times()))  # fmt: skip
named("fast.mp4", rate="120", count=120, sound=False)
named("one.mp4", count=1, sound=False)
# An edit list cuts inside a group of pictures: the frames before the cut are decoded but not shown.
copied("cut.mp4", "-ss", "0.7")
# As browsers record: no edit list, so the picture starts two frames after the sound.
copied("fragments.mp4", after=("-movflags", "frag_keyframe+empty_moov"))


@recipe("late.mp4")
def _(path: Path) -> None:
    """The sound starts at 0.6 s and is the first stream."""
    source = get("plain.mp4")
    ffmpeg("-itsoffset", "0.6", "-i", source, "-i", source, "-map", "0:a", "-map", "1:v", "-c", "copy", path)


@recipe("early.mkv")
def _(path: Path) -> None:
    """The picture starts 0.5 s after the sound."""
    ffmpeg("-itsoffset", "0.5", "-i", get("plain.mp4"), "-i", get("plain.mp4"),
           "-map", "0:v", "-map", "1:a", "-c", "copy", path)  # fmt: skip


@recipe("longer.mp4")
def _(path: Path) -> None:
    """Four seconds of sound over one second of picture."""
    ffmpeg(*raw("30"), "-i", wav(4.0), *X264, "-c:a", "aac", path, stdin=frames(30))


@recipe("longer-flac.mkv")
def _(path: Path) -> None:
    """Like longer.mp4; packets of 93 ms cannot be cut to within one frame."""
    ffmpeg(*raw("30"), "-i", wav(4.0), *X264, "-c:a", "flac", "-frame_size", "4096", path, stdin=frames(30))


@recipe("shorter.mp4")
def _(path: Path) -> None:
    """Half a second of sound under two seconds of picture."""
    ffmpeg(*raw("30"), "-i", wav(0.5), *X264, "-c:a", "aac", path, stdin=frames(60))


# --- shape ---

named("sar.mp4", "-vf", "setsar=3/2", sound=False, count=12)
named("tall-sar.mp4", "-vf", "setsar=1/2", sound=False, count=12)
copied("turned.mp4", "-display_rotation", "90")  # from a phone held upright: landscape, with a rotation tag
silent("odd.webm", 97, 65, 12, *VP8)
silent("portrait.mp4", 64, 112, 12)
silent("square.mp4", 64, 64, 12)
silent("tiny.mp4", 4, 4, 3)


# --- colour ---

PATCHES = [(255, 255, 255), (0, 0, 0), (200, 40, 40), (40, 180, 60), (40, 60, 200), (220, 200, 60), (128, 128, 128)]


def patches(side: int = 16) -> NDArray[np.uint8]:
    """One row of coloured squares."""
    return np.repeat(np.repeat(np.array([PATCHES], np.uint8), side, 0), side, 1)


def patch_colours(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean colour inside each square of `patches`, however scaled."""
    height, width = picture.shape[:2]
    side = width / len(PATCHES)
    middle = picture[height // 4 : height * 3 // 4]
    parts = [middle[:, int((i + 0.3) * side) : int((i + 0.7) * side)] for i in range(len(PATCHES))]
    return np.array([part.reshape(-1, 3).mean(0) for part in parts])


def _coloured(path: Path, matrix: str, area: str = "tv", tagged: bool = True, side: int = 16) -> None:
    picture = patches(side)
    height, width = picture.shape[:2]
    names = {"bt601": "smpte170m", "bt709": "bt709"}
    tag = (
        ["-colorspace", names[matrix], "-color_range", area]
        if tagged
        else ["-bsf:v", "h264_metadata=video_full_range_flag=0"]
    )
    convert = f"scale=out_color_matrix={matrix}:out_range={area}:flags=accurate_rnd+full_chroma_int,format=yuv420p"
    if not tagged:
        convert += ",setparams=colorspace=unknown:range=unknown"
    ffmpeg(*raw("25", width, height), "-vf", convert, *X264, "-qp", "5", *tag, path, stdin=picture.tobytes() * 3)


recipe("bt709.mp4")(partial(_coloured, matrix="bt709"))
recipe("bt601.mp4")(partial(_coloured, matrix="bt601"))
recipe("full.mp4")(partial(_coloured, matrix="bt601", area="pc"))
recipe("untagged.mp4")(partial(_coloured, matrix="bt601", tagged=False))
recipe("untagged-hd.mp4")(partial(_coloured, matrix="bt709", tagged=False, side=184))


def hdr_patches(transfer: str) -> NDArray[np.uint16]:
    """`patches` in HDR (ITU-R BT.2100), 16 bits: white is 203 cd/m², a display of HLG reaches 1000."""
    nits = (
        203
        * (patches() / 255) ** 2.4
        @ np.linalg.inv([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]).T.clip(0)
    )
    if transfer == "PQ":
        power = (nits / 10000) ** (2610 / 16384)
        signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    else:
        light = nits / 1000
        luminance = np.maximum(light @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None]
        scene = light * luminance ** (1 / 1.2 - 1)
        high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)
    return np.rint(65535 * signal).astype("<u2")


def _hdr(path: Path, transfer: str, name: str) -> None:
    signal = hdr_patches(transfer)
    tags = f"setparams=color_primaries=bt2020:color_trc={name}:colorspace=bt2020nc"
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", f"{signal.shape[1]}x{signal.shape[0]}", "-r", "25", "-i",
           "pipe:0", "-vf", f"scale=out_color_matrix=bt2020:out_range=tv:flags=accurate_rnd+full_chroma_int,"
           f"format=yuv420p10le,{tags}", "-c:v", "libx265", "-preset", "ultrafast", "-crf", "4", "-x265-params",
           "log-level=none:pools=1", "-tag:v", "hvc1", path, stdin=signal.tobytes() * 5)  # fmt: skip


recipe("pq.mp4")(partial(_hdr, transfer="PQ", name="smpte2084"))
recipe("hlg.mp4")(partial(_hdr, transfer="HLG", name="arib-std-b67"))


@recipe("hevc10.mp4")
def _(path: Path) -> None:
    ffmpeg(*raw("30"), "-threads", "1", "-c:v", "libx265", "-preset", "ultrafast", "-crf", "12", "-pix_fmt",
           "yuv420p10le", "-x265-params", "log-level=none:pools=1", "-tag:v", "hvc1",
           path, stdin=frames(20))  # fmt: skip


@recipe("alpha.webm")
def _(path: Path) -> None:
    """Left half opaque red, right half transparent (black underneath)."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:, :32] = (200, 30, 30, 255)
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgba", "-s", "64x64", "-r", "25", "-i", "pipe:0", "-c:v", "libvpx", "-b:v",
           "1M", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", path, stdin=picture.tobytes() * 5)  # fmt: skip


@recipe("loop.gif")
def _(path: Path) -> None:
    """Delays of 5, 10 and 20 hundredths of a second; the right half is transparent."""
    from PIL import Image

    pictures = []
    for i in range(6):
        picture = np.zeros((64, 96, 4), np.uint8)
        picture[..., :3] = frame(i)
        picture[..., 3] = 255
        picture[:8, 48:, 3] = 0
        pictures.append(Image.fromarray(picture))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[50, 100, 200] * 2, loop=0, disposal=2)


# --- several streams ---


@recipe("many.mkv")
def _(path: Path) -> None:
    """A cover picture, subtitles, a silent first sound, the noise as the default sound, then the film."""
    subtitles = folder() / "words.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nStream #0:0: Video: h264, yuv420p, 9x9, 25 fps\n")
    cover = folder() / "cover.png"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=40x40", "-frames:v", "1", cover)
    ffmpeg("-i", get("plain.mp4"), "-i", subtitles, "-f", "lavfi", "-t", "2", "-i", "anullsrc=r=44100:cl=stereo",
           "-map", "2:a", "-map", "1:s", "-map", "0:a", "-map", "0:v", "-c:v", "copy", "-c:a:0", "flac",
           "-c:a:1", "copy", "-disposition:a:0", "0", "-disposition:a:1", "default", "-attach", cover,
           "-metadata:s:t", "mimetype=image/png", "-metadata", "title=a\n  Stream #0:0: Video: h264, 9x9",
           path)  # fmt: skip


@recipe("cover-only.m4a")
def _(path: Path) -> None:
    cover = folder() / "cover2.png"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=40x40", "-frames:v", "1", cover)
    ffmpeg("-i", wav(), "-i", cover, "-map", "0:a", "-map", "1:v", "-c:a", "aac", "-c:v", "copy",
           "-disposition:v:0", "attached_pic", "-f", "mp4", path)  # fmt: skip


@recipe("sound-only.mp4")
def _(path: Path) -> None:
    ffmpeg("-i", wav(), "-c:a", "aac", path)


# --- damage ---


def _cut_short(source: str, path: Path) -> None:
    data = get(source).read_bytes()
    path.write_bytes(data[: round(len(data) * 0.6)])


recipe("truncated.mp4")(partial(_cut_short, "plain.mp4"))
recipe("truncated.mkv")(partial(_cut_short, "plain.mkv"))
recipe("headless.mov")(partial(_cut_short, "plain.mov"))  # the index was at the end of the file and is missing


@recipe("scratched.mp4")
def _(path: Path) -> None:
    """The picture data is overwritten from the second half of the first group of pictures on."""
    data = bytearray(get("plain.mp4").read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[middle:] = np.random.default_rng(1).integers(0, 256, len(data) - middle, np.uint8).tobytes()
    path.write_bytes(data)
