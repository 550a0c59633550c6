"""The animated square pasted into its picture: the border is blended, and outside only the codec changes pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from PIL import Image, ImageFilter
from run_folder import RunFolder

from talkies import media
from talkies.cli import main
from talkies.media.film import FrameWriter
from talkies.media.frames import Box
from talkies.stages import show

WIDTH, HEIGHT = 2000, 1600


def painting(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture with large forms and fine grain, as a painting has."""
    rng = np.random.default_rng(3)
    forms = Image.fromarray(rng.integers(0, 256, (height // 100, width // 100, 3), np.uint8)).resize((width, height))
    grain = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).filter(ImageFilter.GaussianBlur(2))
    return np.array(Image.blend(forms, grain, 0.2))


def test_outside_the_square_a_painting_of_2000_pixels_changes_by_the_codec_alone(tmp_path: Path) -> None:
    picture, box, rate = painting(), Box(700, 300, 600), Fraction(25)
    with FrameWriter(tmp_path / "square.mp4", rate) as film:
        for grey in (20, 120, 220):
            film.write(np.full((256, 256, 3), grey, np.uint8))
    with FrameWriter(tmp_path / "still.mp4", rate) as still:
        for _ in range(3):
            still.write(picture)
    show.paste_film(tmp_path / "square.mp4", picture, box, FrameWriter(tmp_path / "whole.mp4", rate))
    whole, unmoved = clips.pixels(tmp_path / "whole.mp4"), clips.pixels(tmp_path / "still.mp4")
    assert whole.shape == (3, HEIGHT, WIDTH, 3)
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[300:900, 700:1300] = False
    loss, least = (np.abs(film - picture)[:, outside] for film in (whole, unmoved))
    assert loss.mean() < 1.05 * least.mean()
    assert loss.max() <= least.max() + 8
    middle = whole[:, 500:700, 900:1100].mean((1, 2, 3))
    assert np.abs(middle - [20, 120, 220]).max() < 4


def test_a_frame_is_blended_inwards_from_the_squares_border() -> None:
    picture, box = painting(400, 300), Box(100, 50, 200)
    mask = show.feathered_mask(box, 400, 300)
    assert mask[0].max() == mask[-1].max() == mask[:, 0].max() == mask[:, -1].max() == 0
    assert (mask[30:170, 30:170] == 255).all()
    whole = show.paste(np.full((256, 256, 3), 7, np.uint8), picture, box, mask)
    changed = (whole != picture).any(-1)
    assert not changed[:51].any()
    assert not changed[250:].any()
    assert not changed[:, :101].any()
    assert not changed[:, 299:].any()
    assert (whole[100:200, 150:250] == 7).all()


def test_a_square_at_the_pictures_edge_and_beyond_it_has_no_border_there() -> None:
    picture = np.full((100, 300, 3), 200, np.uint8)
    box = Box(150, -25, 150)  # the picture is lower than the square
    mask = show.feathered_mask(box, 300, 100)
    whole = show.paste(np.zeros((256, 256, 3), np.uint8), picture, box, mask)
    assert (whole[:, 299] == 0).all()
    assert (whole[[0, -1], 250] == 0).all()
    assert (whole[:, 150] == 200).all()
    left = show.feathered_mask(Box(0, 20, 60), 300, 100)
    assert (left[30, 0], left[30, -1]) == (255, 0)


def test_a_picture_larger_than_players_decode_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "LARGEST_SIDE", 400)
    with FrameWriter(tmp_path / "square.mp4", Fraction(10)) as film:
        film.write(np.full((256, 256, 3), 250, np.uint8))
    writer = FrameWriter(tmp_path / "whole.mp4", Fraction(10))
    picture = np.zeros((600, 800, 3), np.uint8)
    show.paste_film(tmp_path / "square.mp4", picture, Box(400, 200, 300), writer)
    (whole,) = clips.pixels(tmp_path / "whole.mp4")
    assert whole.shape == (300, 400, 3)
    assert whole[175, 275].mean() > 240


@pytest.mark.slow
def test_a_run_shows_whole_pictures_or_larger_squares_without_the_network(run: RunFolder) -> None:
    Image.fromarray(painting(300, 202)).save(run.path / "images/red.png")
    run.configure(pairs_per_job=3)
    run.snakemake()
    run.forget_events()
    run.configure(pairs_per_job=3, files={"red.png": {"paste_back": True}}, upscale=512)
    run.snakemake()
    assert run.events("animate") == []
    whole, large = media.probe(run.film("a/red")), media.probe(run.film("a/blue"))
    assert ((whole.width, whole.height), (large.width, large.height)) == ((300, 202), (512, 512))
    assert whole.frames == large.frames == 5
    assert whole.sound is not None
    assert run.record("a/red")["shown"]["paste_back"]["box"] == [49, 0, 202]
    assert run.record("a/blue")["shown"]["upscale"]["how"] == "ffmpeg lanczos, no detail added"
    assert "6 films are whole" in run.talkies("verify")
    picture = painting(300, 202)
    assert np.abs(clips.pixels(run.film("a/red"))[:, :, :47] - picture[:, :47]).mean() < 4
    # New sound settings copy the shown stream. The plain squares no longer exist.
    run.configure(pairs_per_job=3, files={"red.png": {"paste_back": True}}, upscale=512, audio=False)
    run.snakemake()
    assert run.events("animate") == []
    run.configure(pairs_per_job=3)
    said = run.snakemake("-n")
    assert "; 6 to make" in said
    assert "of them to animate" not in said, "all are"


def test_one_film_of_a_whole_picture(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    Image.fromarray(painting(301, 200)).save("wide.png")
    files = ["--source", "wide.png", "--driving", "driving/a.mp4", "-o", "whole.mp4"]
    crops = ["--config", "crop.images=60,20,150,150", "--config", "crop.driving=center", "--config", "paste_back=true"]
    assert main(["animate", *files, *crops, "--threads", "1"]) == 0
    film = media.probe("whole.mp4")
    assert (film.width, film.height, film.frames) == (302, 200, 5)
