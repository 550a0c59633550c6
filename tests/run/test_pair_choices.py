"""Choices for single files and pairs (crop, face, segment, mirror, sound, privacy), and what they leave unchanged."""

from __future__ import annotations

import clips
import numpy as np
import pytest
from gallery_folder import data_of
from PIL import Image
from run_folder import REPOSITORY, RunFolder, draw_picture, make_clip

from talkies import media

NOTHING = "Nothing to be done"


def pitch(path) -> float:
    """Return the strongest frequency of a film's sound, in hertz."""
    sound = clips.decoded_sound(path)
    return float(np.argmax(np.abs(np.fft.rfft(sound))) * clips.RATE / len(sound))


def write_table(run: RunFolder, *rows: str) -> None:
    (run.path / "pairs.tsv").write_text("\n".join(row.replace(" ", "\t") for row in rows) + "\n")


@pytest.mark.slow
def test_choices_in_the_pairs_table(run: RunFolder) -> None:
    clips.ffmpeg("-i", clips.wav(), run.path / "song.mp3")
    write_table(
        run,
        "image driving variant crop driving_crop flip audio private relative start end",
        "red a",
        "red a cut 0,0,32,32 0,0,48,48",
        "red a turned   true",
        "red a music    song.mp3",
        "blue b secret     true",
        "red a absolute      false",
        "green b.mp4 middle    false   0.08 0.20",
        "green b.mp4 sung    song.mp3   0.08 0.20",
    )
    run.configure(pairs_per_job=3, pairs="pairs.tsv")
    before = run.films()
    run.snakemake()
    made = ["a/red@absolute", "a/red@cut", "a/red@music", "a/red@turned", "b/blue@secret", "b/green@middle"]
    made.append("b/green@sung")
    assert sorted(run.events("animate")) == made
    middle = media.probe(run.film("b/green@middle"))
    assert (middle.frames, middle.sound) == (3, None)
    assert run.films()["a/red"] != run.films()["a/red@absolute"]
    assert run.films()["a/red"] == before["a/red"]
    cut = run.record("a/red@cut")
    assert (cut["source"]["crop"]["box"], cut["driving"]["crop"]["box"]) == ([0, 0, 32], [0, 0, 48])
    assert run.record("a/red@turned")["driving"]["flip"] is True
    plain, turned = (clips.pixels(run.path / f".talkies/driving/a{suffix}.mp4") for suffix in ("", "@flip"))
    assert np.abs(plain[:, :, ::-1] - turned).mean() < 3 < np.abs(plain - turned).mean()
    for film in ("a/red@music", "b/green@sung"):  # also of a part of a video, another sound begins at its own beginning
        assert abs(clips.delay(clips.decoded_sound(run.film(film)))) < 0.04
    assert abs(pitch(run.film("a/red")) - 300) < 30
    page, all_of_it = ((run.path / f"results/{name}.html").read_text() for name in ("index", "private"))
    assert "secret" not in page
    assert "secret" in all_of_it
    data = data_of(all_of_it)
    assert sorted(clip[:3] for clip in data["clips"]) == [
        ["a", "", True],
        ["a", "crop 0, 0, 48, 48", True],
        ["a", "mirrored", True],
        ["b", "", True],
        ["b", "0.08 to 0.2 s", True],
    ]
    assert ["red", "crop 0, 0, 32, 32"] in [picture[:2] for picture in data["pictures"]]
    assert ["music", "sound of song.mp3", 1] in [pair[2:5] for pair in data["pairs"]]
    copies = [{path.name for path in run.path.glob(f"results/{name}_files/shown/*")} for name in ("index", "private")]
    assert len(copies[1] - copies[0]) == 3, "picture, clip and poster of the private pair"
    assert copies[0] < copies[1]
    assert NOTHING in run.snakemake()

    # A new song with the same name changes only its film's sound. Without private pairs there is no private page.
    run.forget_events()
    clips.ffmpeg("-f", "lavfi", "-i", "sine=frequency=800:duration=2", run.path / "song.mp3")
    write_table(run, "image driving variant audio", "red a", "red a music song.mp3")
    run.snakemake()
    assert (run.events("animate"), run.events("remux")) == ([], ["a/red@music"])
    assert abs(pitch(run.film("a/red@music")) - 800) < 30
    assert not (run.path / "results/private.html").exists()
    assert not (run.path / "results/private_files").exists()


def test_choices_for_files(run: RunFolder) -> None:
    files = {
        "red.png": {"crop": [0, 0, 32, 32], "audio": False},
        "a.mp4": {"start": 0.04, "end": 0.16, "audio": True, "relative": False},
        "b.mp4": {"private": True},
    }
    run.configure(pairs_per_job=3, files=files)
    run.snakemake()
    assert sorted(run.events("animate")) == ["a/blue", "a/green", "a/red", "b/red"]
    red = run.record("a/red")
    assert red["source"]["crop"]["box"] == [0, 0, 32]
    assert (red["frames"], red["motion"]["relative"]) == (3, False)
    assert media.probe(run.film("a/red")).sound is not None, "the video's setting overrides the picture's"
    assert media.probe(run.film("b/red")).sound is None
    assert media.probe(run.film("b/blue")).sound is not None
    assert NOTHING in run.snakemake()


@pytest.mark.slow
def test_each_face_of_a_picture(tmp_path) -> None:
    run = RunFolder.create(tmp_path / "run", images=[], clips=[])
    make_clip(run.path / "driving/a.mp4", frames=2)
    both = Image.new("RGB", (1024, 512))
    both.paste(Image.open(REPOSITORY / "examples/images/ada.png").convert("RGB"), (0, 0))
    both.paste(Image.open(REPOSITORY / "examples/images/bruno.jpg"), (512, 0))
    both.save(run.path / "images/two.png")
    draw_picture(run.path / "images/none.png", (1, 2, 3))
    run.configure(crop={"images": "face", "driving": "center"}, multi_face=True)
    run.snakemake()
    run.whole(["a/none", "a/two@face1", "a/two@face2"])
    left, right = (run.record(f"a/two@face{number}")["source"]["crop"]["box"] for number in (1, 2))
    assert left[0] + left[2] / 2 < 512 < right[0] + right[2] / 2
    assert NOTHING in run.snakemake()
