"""The engine: the network's frames for any batch size, films whole or not at all, and constant memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_network import clip, picture, tiny_model

from talkies import media
from talkies.engines import FilmJob, Movement
from talkies.errors import InputError, Stopped, TalkiesError
from talkies.fomm import device
from talkies.fomm.device import choose_device, free_batch
from talkies.fomm.engine import Engine
from talkies.fomm.model import FirstOrderModel
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


def writer_for(path: Path) -> media.FrameWriter:
    return media.FrameWriter(path, RATE, crf=10, preset="ultrafast", threads=1)


# --- frames ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_frames_are_the_networks_whatever_the_batch(
    plain: FirstOrderModel, model: FirstOrderModel, motion: Motion, batch: int
) -> None:
    source = frames_to_tensor(picture()[None])
    kp_source, driving = plain.keypoints(source), motion.keypoints()
    with Engine(model, batch=batch, threads=1) as engine:
        made = frames_of(engine, motion, Movement(), picture())
    assert made.shape == (7, 256, 256, 3)
    assert made.dtype == np.uint8
    for number in range(7):
        moved = transfer_motion(kp_source, driving[number], driving[0])
        prediction = plain.generate(source, kp_source, moved).prediction
        large = torch.nn.functional.interpolate(prediction, size=(256, 256), mode="bicubic").clamp(0, 1)
        expected = (large[0].permute(1, 2, 0) * 255).round().numpy()
        assert np.abs(made[number] - expected).max() <= 1
    assert np.abs(made[0].astype(int) - made[3]).max() > 3, "it moves"


def test_each_movement_gives_other_frames(engine: Engine, motion: Motion) -> None:
    ways = [
        Movement(),
        Movement(relative=False),
        Movement(adapt_scale=False),
        Movement(best_frame=4),
        Movement(relative=False, adapt_scale=False),
    ]
    films = [frames_of(engine, motion, way, picture()).tobytes() for way in ways]
    assert len(set(films[:4])) == 4
    assert films[4] == films[1], "absolute poses are not scaled"


def test_the_best_frame_leaves_the_source_as_it_is(engine: Engine, motion: Motion) -> None:
    still = frames_of(engine, motion, Movement(), picture())[0]
    counted = frames_of(engine, motion, Movement(best_frame=4), picture())[4]
    assert np.abs(still.astype(int) - counted).max() <= 1


def test_the_best_frame_is_found(engine: Engine, motion: Motion) -> None:
    """The source is the clip's sixth frame, so it has that frame's pose."""
    image = clip(7)[5]
    found = frames_of(engine, motion, Movement(best_frame="auto"), image)
    assert np.array_equal(found, frames_of(engine, motion, Movement(best_frame=5), image))


@pytest.mark.parametrize("number", [7, 100, -1])
def test_a_best_frame_outside_the_clip_is_the_inputs_fault(
    engine: Engine, motion: Motion, number: int, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"{number} is outside the clip's 7 frames"):
        engine.film("p", picture(), motion, Movement(best_frame=number), writer_for(tmp_path / "a.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_motion_of_other_weights_is_refused(engine: Engine, motion: Motion, tmp_path: Path) -> None:
    other = Motion(motion.value, motion.jacobian, motion.rate, motion.size, "tiny", "0" * 64)
    with pytest.raises(TalkiesError, match="other weights"):
        engine.film("p", picture(), other, Movement(), writer_for(tmp_path / "a.mp4"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", [32, 100, 256])
def test_a_picture_of_another_side_is_brought_to_the_networks(engine: Engine, motion: Motion, side: int) -> None:
    other, own = (frames_of(engine, motion, Movement(), picture(s), name=str(s)) for s in (side, 64))
    assert np.abs(other.astype(float) - own).mean() < 8, "the same picture, a little softer or sharper"


def test_a_sources_features_are_computed_once_for_all_its_films(
    engine: Engine, motion: Motion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoded: list[int] = []
    encode = engine.model.encode
    monkeypatch.setattr(engine.model, "encode", lambda source: encoded.append(len(source)) or encode(source))
    films = []
    for name in ("one", "one", "two"):
        path = tmp_path / f"{len(films)}.mp4"
        films.append(engine.film(name, picture(), motion, Movement(), writer_for(path)))
    for film in films:
        film.result()
    assert encoded == [1, 1]


# --- films -------------------------------------------------------------------------------------------------


def test_a_film_has_the_clips_frames_and_exact_rate(engine: Engine, motion: Motion, tmp_path: Path) -> None:
    path, told, ended = tmp_path / "a.mp4", [], []
    future = engine.film(
        "p",
        picture(),
        motion,
        Movement(),
        writer_for(path),
        done=lambda: ended.append(path.exists()),
        progress=told.append,
    )
    future.result()
    assert told == [3, 3, 1]
    assert ended == [True], "`done` is called once the film exists"
    film = media.probe(path)
    assert (film.frames, film.rate, film.width, film.height, film.sound) == (7, RATE, 256, 256, None)
    shown = np.stack(list(media.read_frames(film)))
    expected = frames_of(engine, motion, Movement(), picture())
    assert np.abs(shown.astype(float) - expected).mean() < 6, "these frames in this order, apart from encoding loss"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_pairs_one_after_the_other_come_out_apart(engine: Engine, motion: Motion, tmp_path: Path) -> None:
    images = {"a": picture(), "b": 255 - picture()}
    futures = [
        engine.film(name, image, motion, Movement(), writer_for(tmp_path / f"{name}.mp4"))
        for name, image in images.items()
    ]
    for future in futures:
        future.result()
    expected = {name: frames_of(engine, motion, Movement(), image, name) for name, image in images.items()}
    for name in images:
        shown = np.stack(list(media.read_frames(media.probe(tmp_path / f"{name}.mp4")))).astype(float)
        distance = {other: np.abs(shown - frames).mean() for other, frames in expected.items()}
        assert distance[name] < 6
        assert distance[name] == min(distance.values())
    assert np.abs(expected["a"].astype(float) - expected["b"]).mean() > 8, "the two films differ clearly"


class Failing(media.FrameWriter):
    """Fails at its third frame, as on a full disk."""

    def write_planes(self, planes: NDArray[np.uint8]) -> None:
        if self.frames == 2:
            raise OSError(28, "No space left on device")
        super().write_planes(planes)


def test_an_encoders_error_comes_out_and_leaves_nothing(engine: Engine, motion: Motion, tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(OSError, match="No space"):
        engine.film(
            "p",
            picture(),
            motion,
            Movement(),
            Failing(tmp_path / "a.mp4", RATE, threads=1),
            done=lambda: done.append(1),
        ).result()
    assert done == []
    assert list(tmp_path.iterdir()) == []
    engine.film("p", picture(), motion, Movement(), writer_for(tmp_path / "b.mp4")).result()
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"], "the engine still works"


def test_a_folder_that_vanishes_is_an_error_of_the_film(engine: Engine, motion: Motion, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(OSError, match="gone"):
        engine.film("p", picture(), motion, Movement(), writer_for(folder / "a.mp4")).result()
    folder.mkdir()

    def vanish(_: int) -> None:
        for path in folder.iterdir():
            path.unlink()
        if folder.exists():
            folder.rmdir()

    done: list[int] = []
    with pytest.raises((OSError, TalkiesError)):
        engine.film(
            "p",
            picture(),
            motion,
            Movement(),
            writer_for(folder / "a.mp4"),
            done=lambda: done.append(1),
            progress=vanish,
        ).result()
    assert done == []
    assert list(tmp_path.iterdir()) == []


def test_an_exception_in_the_middle_leaves_the_old_film(engine: Engine, motion: Motion, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"an earlier film")

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.film("p", picture(), motion, Movement(), writer_for(path), progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"an earlier film"


def test_the_last_film_is_ended_when_the_engine_is_left(model: FirstOrderModel, motion: Motion, tmp_path: Path) -> None:
    with Engine(model, batch=8, threads=1) as engine:
        engine.film("p", picture(), motion, Movement(), writer_for(tmp_path / "a.mp4"))
    assert media.probe(tmp_path / "a.mp4").frames == 7


# --- several films at once -----------------------------------------------------------------------------------


class Slow(media.FrameWriter):
    """A slow writer, like the encoder next to a fast GPU; it notes when it begins and ends."""

    told: list[str]
    pause = 0.05

    def __enter__(self) -> media.FrameWriter:
        self.told.append(f"{self.path.stem} begins")
        return super().__enter__()

    def write_planes(self, planes: NDArray[np.uint8]) -> None:
        time.sleep(self.pause)
        super().write_planes(planes)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[arg-type]
        self.told.append(f"{self.path.stem} ends")


class SlowAndFailing(Slow, Failing):
    """Fails at its third frame."""


class Jobs:
    """Jobs of one picture and one clip, with letters as names of their films, and notes of what happened to them."""

    def __init__(self, folder: Path, motion: Motion) -> None:
        self.told: list[str] = []
        self.seconds: list[float] = []
        self.folder, self.motion = folder / "films", folder / "motion.npz"
        self.folder.mkdir()
        motion.save(self.motion)
        self.picture = folder / "picture.png"
        Image.fromarray(picture()).save(self.picture)

    def job(self, name: str, kind: type[Slow] = Slow, movement: Movement | None = None) -> FilmJob:
        writer = kind(self.folder / f"{name}.mp4", RATE, preset="ultrafast", threads=1)
        writer.told = self.told

        def done(seconds: float | None) -> None:
            assert writer.path.exists()
            self.seconds.append(seconds or 0)

        place = (self.picture, self.motion, lambda: pytest.fail("not asked for"), 7)
        return FilmJob(
            name, "source", "take", "", *place, movement or Movement(), writer, done=done, progress=lambda n: None
        )


def test_where_encoders_are_slow_several_films_are_open_and_come_in_order(
    model: FirstOrderModel, motion: Motion, tmp_path: Path
) -> None:
    jobs = Jobs(tmp_path, motion)
    began = time.monotonic()
    with Engine(model, batch=1, threads=3) as engine:
        made = [job.name for job, fault in engine.films(map(jobs.job, "abcdefg")) if fault is None]
    took = time.monotonic() - began
    assert made == list("abcdefg")
    open_at_once = [
        sum(1 if line.endswith("begins") else -1 for line in jobs.told[: number + 1])
        for number in range(len(jobs.told))
    ]
    assert 3 <= max(open_at_once) <= 4, "a film for each core, and one that is finishing"
    assert {media.probe(path).frames for path in jobs.folder.iterdir()} == {7}
    assert 0.5 * took < sum(jobs.seconds) <= took, "each film counts its share of the time"


def test_an_encoder_that_fails_takes_no_other_film_with_it(
    model: FirstOrderModel, motion: Motion, tmp_path: Path
) -> None:
    jobs, made = Jobs(tmp_path, motion), []
    asked = (jobs.job(name, SlowAndFailing if name == "b" else Slow) for name in "abcdefghij")
    with Engine(model, batch=1, threads=2) as engine, pytest.raises(OSError, match="No space"):
        made.extend(job.name for job, _ in engine.films(asked))
    assert made[0] == "a"
    assert "b" not in made
    assert len(made) < 9, "no further films are started"
    assert sorted(path.name for path in jobs.folder.iterdir()) == [f"{name}.mp4" for name in made]


def test_a_film_whose_inputs_forbid_it_fails_alone_and_in_its_turn(
    model: FirstOrderModel, motion: Motion, tmp_path: Path
) -> None:
    jobs = Jobs(tmp_path, motion)
    asked = (jobs.job(name, movement=Movement(best_frame=100 if name == "b" else None)) for name in "abc")
    with Engine(model, batch=1, threads=2) as engine:
        told = [(job.name, fault and fault.reason) for job, fault in engine.films(asked)]
    assert [name for name, _ in told] == ["a", "b", "c"]
    assert "100 is outside the clip" in str(told[1][1])
    assert (told[0][1], told[2][1]) == (None, None)
    assert sorted(path.name for path in jobs.folder.iterdir()) == ["a.mp4", "c.mp4"]


def test_a_stop_leaves_no_part_of_the_films_that_are_open(
    model: FirstOrderModel, motion: Motion, tmp_path: Path
) -> None:
    jobs, made = Jobs(tmp_path, motion), []

    def make() -> None:
        with Engine(model, batch=1, threads=3) as engine:
            for job, _ in engine.films(map(jobs.job, "abcdefgh")):
                made.append(job.name)
                if len(made) == 2:
                    raise Stopped

    with pytest.raises(Stopped):
        make()
    standing = {path.stem for path in jobs.folder.iterdir()}
    assert {"a", "b"} <= standing < set("abcdefgh"), "films that were nearly done may be finished"
    assert {media.probe(path).frames for path in jobs.folder.iterdir()} == {7}


MEASURED = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
import talkies
from talkies.engines import Movement
from talkies.fomm.engine import Engine
from talkies.media import FrameWriter
from talkies.fomm.motion import detect_motion
from talkies.fomm.kept import load_fast

count, path = int(sys.argv[1]), Path(sys.argv[2])
model = load_fast("demo", precision="fp32")
side = model.preset.size
y, x = np.mgrid[0:side, 0:side]
frames = (np.stack([(x + 3 * t) % 256, (y + 2 * t) % 256, x], -1).astype(np.uint8) for t in range(count))
with Engine(model, threads=1) as engine:
    motion = detect_motion(model, frames, Fraction(25))
    engine.film("p", np.full((256, 256, 3), 90, np.uint8), motion, Movement(), FrameWriter(path, Fraction(25))).result()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    def peak(frames: int) -> int:
        command = [sys.executable, "-c", MEASURED, str(frames), str(tmp_path / "a.mp4")]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    short = peak(160)  # enough to fill the queues to the encoder
    # On a busy machine the allocator may hold more memory once; frames that are kept would show each time.
    assert any((long := peak(500)) < 1.1 * short for _ in range(2)), f"{short} kB for 160 frames, {long} kB for 500"


# --- memory ------------------------------------------------------------------------------------------------


def test_a_batch_that_memory_does_not_hold_is_halved_and_stays_so(
    engine: Engine, model: FirstOrderModel, motion: Motion, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    expected = frames_of(engine, motion, Movement(), picture())
    with Engine(model, batch=6, threads=1) as small:
        generate, asked = small.model.generate, []

        def generate_few(features, kp_source, kp_driving):
            asked.append(len(kp_driving))
            if len(kp_driving) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return generate(features, kp_source, kp_driving)

        monkeypatch.setattr(small.model, "generate", generate_few)
        told: list[int] = []
        made = np.concatenate(list(small.predict(small.prepare("p", picture()), motion, Movement(), told.append)))
        assert asked == [6, 3, 1, 1, 1, 1, 1, 1, 1]
        assert sum(told) == 7
        assert small.batch == 1
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_memory_for_not_even_one_frame_is_an_error(engine: Engine, motion: Motion, monkeypatch) -> None:
    def generate(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    source = engine.prepare("p", picture())
    monkeypatch.setattr(engine.model, "generate", generate)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(engine.predict(source, motion, Movement()))


def test_the_batch_follows_a_gpus_free_memory() -> None:
    gigabyte = 1 << 30
    batches = [free_batch(256, 2, free * gigabyte) for free in (0, 1, 4, 8, 80)]
    assert batches == sorted(batches)
    assert batches[0] == 1
    assert batches[-1] == 64
    assert free_batch(128, 2, gigabyte) > free_batch(256, 2, gigabyte) > free_batch(256, 4, gigabyte)


def test_a_compiled_engine_sees_one_shape_and_makes_the_same_frames(
    engine: Engine, model: FirstOrderModel, motion: Motion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in notes the shapes, because torch.compile itself needs a C++ compiler and half a minute."""
    expected = frames_of(engine, motion, Movement(), picture())
    shapes: list[int] = []

    def compile(render, mode):
        assert mode == "reduce-overhead"
        return lambda features, source, driving: shapes.append(len(driving)) or render(features, source, driving)

    monkeypatch.setattr(torch, "compile", compile)
    with Engine(model, batch=3, threads=1, compiled=True) as compiled:
        made = frames_of(compiled, motion, Movement(), picture())
    assert shapes == [3, 3, 3]
    assert np.abs(made.astype(int) - expected).max() <= 1


# --- the machine -------------------------------------------------------------------------------------------

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
def test_auto_is_the_processor_where_no_gpu_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert choose_device("auto") == torch.device("cpu")


@no_gpu
@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_given_gpu_that_does_not_work_is_an_error(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(TalkiesError, match="--device cpu") as caught:
        choose_device(wanted)
    assert "\n" not in str(caught.value)
    assert choose_device("cpu") == torch.device("cpu"), "an explicit cpu is used"


@no_gpu
def test_cuda_by_name_is_an_error_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(TalkiesError, match=r"^there is no GPU here: .*--device cpu"):
        choose_device("cuda")


OLD = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
NEW = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120"


@pytest.mark.parametrize(
    ("built", "card", "remedy"),
    [
        (OLD, (6, 1), None),  # GTX 1080: code for 6.0 runs on 6.1
        (OLD, (8, 9), None),  # L40S
        (OLD, (10, 0), "--variant cu130"),  # B200
        (OLD, (12, 0), "--variant cu130"),  # RTX 5090
        (NEW, (7, 0), "--variant cu126"),  # V100
        (NEW, (9, 0), None),
        (NEW, (12, 1), None),
        (NEW, (13, 0), None),  # runs through the PTX of 12.0
        ("sm_90a", (8, 0), "--variant cu126"),
        (OLD, (3, 5), "no image of ours"),
        ("", (8, 0), None),
    ],
)
def test_a_card_that_torch_has_no_code_for_is_an_error_that_names_the_image(
    monkeypatch: pytest.MonkeyPatch, built: str, card: tuple[int, int], remedy: str | None
) -> None:
    ones = torch.ones
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A card")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: built, raising=False)
    monkeypatch.setattr(device.torch, "ones", lambda *size, device: ones(*size))
    if remedy is None:
        assert choose_device("auto") == torch.device("cuda")
        return
    with pytest.raises(TalkiesError, match=remedy) as caught:
        choose_device("auto")
    assert f"not for the A card (sm_{card[0]}{card[1]})" in str(caught.value)


def test_a_gpu_that_computes_wrong_results_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = torch.ones
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "unfit", lambda: None)
    monkeypatch.setattr(device.torch, "ones", lambda *size, device: 2 * ones(*size))
    with pytest.raises(TalkiesError, match="wrong results"):
        choose_device("auto")
