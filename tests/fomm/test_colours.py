"""Planes made on the network's device equal those that ffmpeg makes from the same frames."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from run_folder import REPOSITORY

from talkies import media
from talkies.fomm.colours import rgb_bytes, yuv420p
from talkies.media.ffmpeg import SCALING, ffmpeg_path

PICTURES = sorted((REPOSITORY / "examples/images").iterdir())


def by_ffmpeg(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a frame's planes as the writer's ffmpeg makes them, uint8 [H * 3 / 2, W]."""
    height, width, _ = frame.shape
    command = [ffmpeg_path(), "-loglevel", "error", "-f", "rawvideo", "-pixel_format", "rgb24"]
    command += ["-video_size", f"{width}x{height}", "-i", "pipe:0", "-vf"]
    command += [f"scale=flags={SCALING}:out_color_matrix=bt709:out_range=tv,format=yuv420p"]
    made = subprocess.run(
        [*command, "-f", "rawvideo", "pipe:1"], input=frame.tobytes(), capture_output=True, check=True
    )
    return np.frombuffer(made.stdout, np.uint8).reshape(height * 3 // 2, width)


def as_tensor(frame: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_pictures_become_ffmpegs_planes(path: Path) -> None:
    frame = media.read_picture(path)[:256, :256]
    frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
    difference = yuv420p(as_tensor(frame))[0].numpy().astype(int) - by_ffmpeg(frame)
    assert np.abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.05, "the errors are not biased"


@pytest.mark.parametrize("size", [(256, 256), (64, 96), (32, 32), (130, 66)])
def test_noise_of_any_even_size_becomes_ffmpegs_planes(size: tuple[int, int]) -> None:
    """Also at the edges, beyond which ffmpeg repeats the last pixel."""
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    difference = yuv420p(as_tensor(frame))[0].numpy().astype(int) - by_ffmpeg(frame)
    assert np.abs(difference).max() <= 2
    assert (np.abs(difference) > 1).mean() < 1e-3


def test_a_film_of_planes_keeps_its_colours_and_is_marked_as_one_of_rgb(tmp_path: Path) -> None:
    frame = clips.patches(16)
    planes = yuv420p(as_tensor(frame))[0].numpy()
    said = []
    for name in ("planes", "rgb"):
        with media.FrameWriter(tmp_path / f"{name}.mp4", Fraction(25), crf=5, threads=1) as film:
            for _ in range(3):
                film.write_planes(planes) if name == "planes" else film.write(frame)
        shown = next(media.read_frames(media.probe(tmp_path / f"{name}.mp4")))
        assert np.abs(clips.patch_colours(shown) - clips.PATCHES).max() < 4
        with av.open(tmp_path / f"{name}.mp4") as film:
            stream = film.streams.video[0]
            assert stream.pix_fmt == "yuv420p"
            said.append((stream.color_range, stream.colorspace, stream.color_primaries, stream.color_trc))
    assert said == [(av.video.reformatter.ColorRange.MPEG, 1, 1, 1)] * 2, "bt709 is 1"


def test_a_writer_takes_frames_of_one_form_and_size(tmp_path: Path) -> None:
    planes = np.zeros((96, 64), np.uint8)
    wrong = [np.zeros((64, 64, 3), np.uint8), planes[:48, :32], planes.astype(np.float32), planes[:-1]]

    def write(other: NDArray[np.uint8]) -> None:
        with media.FrameWriter(tmp_path / "a.mp4", Fraction(25), threads=1) as film:
            film.write_planes(planes)
            film.write(other) if other.ndim == 3 else film.write_planes(other)

    for other in wrong:
        with pytest.raises(ValueError, match=r"needed"):
            write(other)
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_rounded() -> None:
    frames = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert rgb_bytes(frames)[0, :, :, 1].flatten().tolist() == [0, 0, 1, 255]
