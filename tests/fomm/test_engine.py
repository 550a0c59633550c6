"""The engine: the network's frames for any batch size, films whole or not at all, and constant memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from run_folder import wait_for
from tiny_network import clip, picture, tiny_model

from talkies import media
from talkies.engines import FilmJob, Movement
from talkies.errors import Stopped, TalkiesError
from talkies.fomm.device import choose_device, free_batch
from talkies.fomm.engine import WAITING, Engine, _Film
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.motion import Motion, detect_motion, frames_to_tensor, transfer_motion
from talkies.fomm.precision import fast_form

RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def plain() -> FirstOrderModel:
    return tiny_model()


@pytest.fixture(scope="module")
def model(plain: FirstOrderModel) -> FirstOrderModel:
    return fast_form(plain, "fp32")


@pytest.fixture(scope="module")
def motion(model: FirstOrderModel) -> Motion:
    return detect_motion(model, clip(7), RATE)


@pytest.fixture
def engine(model: FirstOrderModel) -> Iterator[Engine]:
    with Engine(model, batch=3, threads=1) as engine:
        yield engine


def frames_of(
    engine: Engine, motion: Motion, movement: Movement, image: NDArray[np.uint8], name: str = "p"
) -> NDArray[np.uint8]:
    return np.concatenate(list(engine.predict(engine.prepare(name, image), motion, movement)))


# --- frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_frames_are_the_networks_whatever_the_batch(
    plain: FirstOrderModel, model: FirstOrderModel, motion: Motion, batch: int
) -> None:
    source = frames_to_tensor(picture()[None])
    kp_source, driving = plain.keypoints(source), motion.keypoints()
    with Engine(model, batch=batch, threads=1) as engine:
        made = frames_of(engine, motion, Movement(), picture())
    assert (made.shape, made.dtype) == ((7, 256, 256, 3), np.uint8)
    for number in range(7):
        moved = transfer_motion(kp_source, driving[number], driving[0])
        prediction = plain.generate(source, kp_source, moved).prediction
        large = torch.nn.functional.interpolate(prediction, size=(256, 256), mode="bicubic").clamp(0, 1)
        expected = (large[0].permute(1, 2, 0) * 255).round().numpy()
        assert np.abs(made[number] - expected).max() <= 1
        assert abs((made[number] - expected).mean()) < 0.01, "rounded, not cut"
    assert np.abs(made[0].astype(int) - made[3]).max() > 3, "it moves"


def test_each_movement_gives_the_frames_that_it_names(engine: Engine, motion: Motion) -> None:
    ways = [Movement(), Movement(relative=False), Movement(adapt_scale=False), Movement(best_frame=4)]
    films = [frames_of(engine, motion, way, picture()) for way in ways]
    assert len({film.tobytes() for film in films}) == 4
    absolute = frames_of(engine, motion, Movement(relative=False, adapt_scale=False), picture())
    assert np.array_equal(absolute, films[1]), "absolute poses are not scaled"
    assert np.abs(films[0][0].astype(int) - films[3][4]).max() <= 1, "the best frame leaves the source as it is"
    image = clip(7)[5]  # has the pose of the clip's sixth frame
    found = frames_of(engine, motion, Movement(best_frame="auto"), image, "other")
    assert np.array_equal(found, frames_of(engine, motion, Movement(best_frame=5), image, "other"))


@pytest.mark.parametrize("side", [32, 100, 256])
def test_a_picture_of_another_side_is_brought_to_the_networks(engine: Engine, motion: Motion, side: int) -> None:
    other, own = (frames_of(engine, motion, Movement(), picture(s), name=str(s)) for s in (side, 64))
    assert np.abs(other.astype(float) - own).mean() < 8, "the same picture, a little softer or sharper"


# --- films -------------------------------------------------------------------------------------------------


class Writer(media.FrameWriter):
    """Notes when it begins and ends; `pause` makes it slow, like an encoder next to a fast GPU."""

    told: list[str]
    pause = 0.0

    def __enter__(self) -> media.FrameWriter:
        self.told.append(f"{self.path.stem} begins")
        return super().__enter__()

    def write(self, frame: NDArray[np.uint8]) -> None:
        time.sleep(self.pause)
        super().write(frame)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[arg-type]
        self.told.append(f"{self.path.stem} ends")


class Slow(Writer):
    pause = 0.05


class Gathering(Writer):
    """Writes nothing before three films have begun, as encoders next to a fast GPU."""

    def write(self, frame: NDArray[np.uint8]) -> None:
        wait_for(lambda: sum(line.endswith("begins") for line in self.told) >= 3)
        super().write(frame)


class Failing(Slow):
    """Fails at its third frame, as on a full disk."""

    def write(self, frame: NDArray[np.uint8]) -> None:
        if self.frames == 2:
            raise OSError(28, "No space left on device")
        super().write(frame)


class Jobs:
    """Jobs of a clip and a picture, with letters as names of their films, and notes of what happened to them."""

    def __init__(self, folder: Path, motion: Motion) -> None:
        self.told: list[str] = []
        self.done: list[str] = []
        self.seconds: list[float] = []
        self.progress: list[int] = []
        self.folder, self.motion = folder / "films", folder / "motion.npz"
        self.folder.mkdir()
        motion.save(self.motion)
        for name, image in (("picture", picture()), ("negative", 255 - picture())):
            Image.fromarray(image).save(folder / f"{name}.png")

    def job(
        self, name: str, kind: type[Writer] = Writer, movement: Movement | None = None, source: str = "picture"
    ) -> FilmJob:
        writer = kind(self.folder / f"{name}.mp4", RATE, crf=10, preset="ultrafast", threads=1)
        writer.told = self.told

        def done(seconds: float | None) -> None:
            assert writer.path.exists()
            self.done.append(name)
            self.seconds.append(seconds or 0)

        place = (self.motion.with_name(f"{source}.png"), self.motion, lambda: pytest.fail("not asked for"), 7)
        ends = {"done": done, "progress": self.progress.append}
        return FilmJob(name, source, "take", "", *place, movement or Movement(), writer, **ends)

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def jobs(tmp_path: Path, motion: Motion) -> Jobs:
    return Jobs(tmp_path, motion)


def test_films_have_their_clips_frames_and_rate_and_pictures(
    engine: Engine, motion: Motion, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = engine.model.encode
    monkeypatch.setattr(engine.model, "encode", lambda source: encoded.append(1) or encode(source), raising=False)
    asked = [jobs.job("a"), jobs.job("b"), jobs.job("c", source="negative")]
    assert [(job.name, fault) for job, fault in engine.films(asked)] == [("a", None), ("b", None), ("c", None)]
    assert len(encoded) == 2, "a source's features are computed once for all its films"
    assert (sorted(jobs.progress), sorted(jobs.done)) == ([1] * 3 + [3] * 6, ["a", "b", "c"])
    assert jobs.left == ["a.mp4", "b.mp4", "c.mp4"]
    expected = {
        "a": frames_of(engine, motion, Movement(), picture(), "picture").astype(float),
        "c": frames_of(engine, motion, Movement(), 255 - picture(), "negative").astype(float),
    }
    assert np.abs(expected["a"] - expected["c"]).mean() > 8, "the two films differ clearly"
    for name, frames in expected.items():
        film = media.probe(jobs.folder / f"{name}.mp4")
        assert (film.frames, film.rate, film.width, film.height, film.sound) == (7, RATE, 256, 256, None)
        shown = np.stack(list(media.read_frames(film)))
        assert np.abs(shown - frames).mean() < 6, "these frames in this order, apart from encoding loss"


def test_where_encoders_are_slow_several_films_are_open_and_come_in_order(
    model: FirstOrderModel, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, waiting = _Film.feed, []
    monkeypatch.setattr(_Film, "feed", lambda film: feed(film) or waiting.append(film._given.qsize()))
    began = time.monotonic()
    with Engine(model, batch=1, threads=3) as engine:
        made = [
            job.name for job, fault in engine.films(jobs.job(name, Gathering) for name in "abcdefg") if fault is None
        ]
    took = time.monotonic() - began
    assert made == list("abcdefg")
    assert max(waiting) <= WAITING, "no more batches wait than a film may have in memory"
    change = [1 if line.endswith("begins") else -1 for line in jobs.told]
    assert max(np.cumsum(change)) <= 4, "a film for each core, and one that is finishing"
    assert {media.probe(path).frames for path in jobs.folder.iterdir()} == {7}
    assert 0.5 * took < sum(jobs.seconds) <= took, "each film counts its share of the time"


def test_an_encoder_that_fails_takes_no_other_film_with_it(model: FirstOrderModel, jobs: Jobs) -> None:
    made: list[str] = []
    asked = (jobs.job(name, Failing if name == "b" else Slow) for name in "abcdefghij")
    with Engine(model, batch=1, threads=2) as engine:
        with pytest.raises(OSError, match="No space"):
            made.extend(job.name for job, _ in engine.films(asked))
        assert jobs.left == [f"{name}.mp4" for name in made]
        assert (made[0], "b" in made, len(made) < 9) == ("a", False, True), "no further films are started"
        assert [fault for _, fault in engine.films([jobs.job("z")])] == [None], "the engine still works"


@pytest.mark.parametrize("number", [7, 100, -1])
def test_a_film_whose_inputs_forbid_it_fails_alone_and_in_its_turn(
    model: FirstOrderModel, jobs: Jobs, number: int
) -> None:
    asked = (jobs.job(name, movement=Movement(best_frame=number if name == "b" else None)) for name in "abc")
    with Engine(model, batch=1, threads=2) as engine:
        told = {job.name: fault and str(fault) for job, fault in engine.films(asked)}
    assert list(told) == ["a", "b", "c"]
    assert (told["a"], told["c"]) == (None, None)
    assert str(told["b"]).startswith(f"b: best_frame {number} is outside the clip's 7 frames")
    assert jobs.left == ["a.mp4", "c.mp4"]


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt])
def test_a_stop_leaves_no_part_of_the_films_that_are_open(model: FirstOrderModel, jobs: Jobs, error) -> None:
    made = []
    (jobs.folder / "h.mp4").write_bytes(b"an earlier film")

    def make() -> None:
        with Engine(model, batch=1, threads=3) as engine:
            for job, _ in engine.films(jobs.job(name, Slow) for name in "abcdefgh"):
                made.append(job.name)
                if len(made) == 2:
                    raise error

    with pytest.raises(error):
        make()
    assert (jobs.folder / "h.mp4").read_bytes() == b"an earlier film"
    left = {path.stem for path in jobs.folder.iterdir()} - {"h"}
    assert {"a", "b"} <= left < set("abcdefg"), "films that were nearly done may be finished"
    assert {media.probe(jobs.folder / f"{name}.mp4").frames for name in left} == {7}


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "asked"), [(2, [6, 3, 1, 1, 1, 1, 1, 1, 1]), (0, [6, 3, 1])])
def test_a_batch_that_memory_does_not_hold_is_halved_and_stays_so(
    engine: Engine, model: FirstOrderModel, motion: Motion, monkeypatch: pytest.MonkeyPatch, most: int, asked: list[int]
) -> None:
    """Down to one frame: where not even that fits, it is an error."""
    expected = frames_of(engine, motion, Movement(), picture())
    generate, batches, told = model.generate, [], []

    def generate_few(features, kp_source, kp_driving):
        batches.append(len(kp_driving))
        if len(kp_driving) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return generate(features, kp_source, kp_driving)

    monkeypatch.setattr(model, "generate", generate_few, raising=False)
    with Engine(model, batch=6, threads=1) as small:
        frames = small.predict(small.prepare("p", picture()), motion, Movement(), told.append)
        if most:
            made = np.concatenate(list(frames))
            assert np.abs(made.astype(int) - expected).max() <= 1
            assert (sum(told), small.batch) == (7, 1)
        else:
            with pytest.raises(torch.cuda.OutOfMemoryError):
                list(frames)
    assert batches == asked


def test_the_batch_follows_a_gpus_free_memory() -> None:
    gigabyte = 1 << 30
    batches = [free_batch(256, 2, free * gigabyte) for free in (0, 1, 4, 8, 80)]
    assert batches == sorted(batches)
    assert (batches[0], batches[-1]) == (1, 64)
    assert free_batch(128, 2, gigabyte) > free_batch(256, 2, gigabyte) > free_batch(256, 4, gigabyte)


# --- the machine -------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU (this one has one)")
@pytest.mark.parametrize(
    ("granted", "wanted", "expected"),
    [
        *(((nothing, "auto", "cpu")) for nothing in ("", "-1", "NoDevFiles")),
        ("0", "cpu", "cpu"),
        ("0", "auto", "the GPU that was given does not work: "),
        ("0", "cuda", "the GPU that was given does not work: "),
        (None, "cuda", "there is no GPU here: "),
    ],
)
def test_a_gpu_that_was_granted_or_named_is_used_or_an_error(
    monkeypatch: pytest.MonkeyPatch, granted: str | None, wanted: str, expected: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if granted is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", granted)
    if expected == "cpu":
        assert choose_device(wanted) == torch.device("cpu")
        return
    with pytest.raises(TalkiesError, match="--device cpu") as caught:
        choose_device(wanted)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (None, "wrong results"),
        ("CUDA error: no kernel image is available for execution on the device", "the other --variant of the image"),
    ],
)
def test_a_card_that_torch_has_no_code_for_or_that_is_broken_is_an_error(
    monkeypatch: pytest.MonkeyPatch, fault: str | None, why: str
) -> None:
    def cuda(tensor: torch.Tensor) -> torch.Tensor:
        if fault:
            raise RuntimeError(fault)
        return 2 * tensor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "cuda", cuda)
    with pytest.raises(TalkiesError, match=why):
        choose_device("auto")
