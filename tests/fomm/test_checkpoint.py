"""Weights files as users have them: the published kinds load as they are, anything else gives one clear line."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import talkies
from talkies.errors import TalkiesError, printable
from talkies.fomm.model.checkpoint import load_checkpoint, save_safetensors, weights_digest
from talkies.fomm.model.first_order import FirstOrderModel, build_model

PARAMETERS = golden.load("tiny64").parameters


@pytest.fixture(scope="module")
def model() -> FirstOrderModel:
    return golden.load("tiny64").model()


def split(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a state dict as the original's trainer saves it: one dict per network."""
    return {
        network: {name.split(".", 1)[1]: t for name, t in state.items() if name.startswith(network)}
        for network in ("generator", "kp_detector")
    }


def trained(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return everything the original's trainer saves in a checkpoint: three networks, three optimizers, the epoch."""
    discriminator = torch.nn.Sequential(torch.nn.Conv2d(13, 8, 4), torch.nn.InstanceNorm2d(8, affine=True))
    parts: dict[str, Any] = {**split(state), "discriminator": discriminator.state_dict(), "epoch": 99}
    for name in ("generator", "kp_detector", "discriminator"):
        parameters = [t.clone().requires_grad_() for t in parts[name].values() if t.is_floating_point()]
        optimizer = torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        adam = optimizer.state_dict()
        # PyTorch at that time used the parameters' addresses as keys of the state.
        adam["state"] = {140_000_000_000_000 + 8 * key: value for key, value in adam["state"].items()}
        parts[f"optimizer_{name}"] = adam
    return parts


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    """Save in PyTorch's format from before 1.6, like the published files."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


formats = pytest.mark.parametrize("save", [save_zip, save_legacy], ids=["zip", "legacy"])
Save = Callable[[object, Path], None]


def complaint(path: Path, preset: Any = PARAMETERS) -> str:
    """Return the error message of loading, which must be one line that names the file."""
    with pytest.raises(TalkiesError) as caught:
        talkies.load_model(preset, checkpoint=path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{printable(path)}: ")
    assert len(message) < len(str(path)) + 400
    return message.removeprefix(f"{printable(path)}: ")


# ---- what loads ----------------------------------------------------------------------------------------------------


@formats
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_published_checkpoint_loads_as_it_is(
    model: FirstOrderModel, tmp_path: Path, save: Save, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was saved on a GPU."""
    path = tmp_path / "vox-adv-cpk.pth.tar"
    with monkeypatch.context() as patch:
        if device != "cpu":
            patch.setattr(torch.serialization, "location_tag", lambda storage: device)
        save(trained(model.state_dict()), path)
    assert (b"cuda:0" in path.read_bytes()) == (device != "cpu")
    loaded = talkies.load_model(PARAMETERS, checkpoint=path)
    wanted = model.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(t, wanted[name]) for name, t in loaded.state_dict().items())
    assert loaded.device.type == "cpu"
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_digest_is_that_of_the_weights_in_any_format(model: FirstOrderModel, tmp_path: Path) -> None:
    """It knows every weight and no batch counter."""
    state = dict(model.state_dict())
    save_zip(split(state), tmp_path / "zip.pth.tar")
    save_legacy(split(state), tmp_path / "legacy.pth.tar")
    save_safetensors(state, tmp_path / "weights.safetensors")
    digest = weights_digest(state)
    assert {talkies.load_model(PARAMETERS, checkpoint=path).weights_digest for path in tmp_path.iterdir()} == {digest}
    assert weights_digest(dict(reversed(state.items()))) == digest
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    assert weights_digest({**state, counter: torch.tensor(7)}) == digest
    for name in ("generator.final.bias", "kp_detector.predictor.encoder.down_blocks.0.norm.running_mean"):
        assert weights_digest({**state, name: state[name] + 1}) != digest


def test_half_halves_and_stays_near(model: FirstOrderModel, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    name = "generator.first.norm.running_var"
    state[name] = torch.full_like(state[name], 1e6)  # above float16's maximum: kept as it is
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_safetensors(state, whole)
    save_safetensors(state, half, half=True)
    (tmp_path / "any").touch()
    assert whole.stat().st_mode == (tmp_path / "any").stat().st_mode, "as readable as any file"
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded = talkies.load_model(PARAMETERS, checkpoint=half).state_dict()
    for key, tensor in state.items():
        assert loaded[key].dtype == tensor.dtype
        assert torch.allclose(loaded[key], tensor, rtol=1e-3, atol=1e-7), key


def test_precision_is_the_generators_alone(model: FirstOrderModel, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_safetensors(model.state_dict(), path)
    loaded = talkies.load_model(PARAMETERS, checkpoint=path, precision="bf16")
    assert loaded.dtype == torch.bfloat16
    assert {p.dtype for p in loaded.kp_detector.parameters()} == {torch.float32}
    assert loaded.weights_digest == weights_digest(model.state_dict())
    facts = golden.load("tiny64")
    kp = loaded.keypoints(facts.driving)
    assert torch.equal(kp.value, model.keypoints(facts.driving).value)
    out = loaded.generate(facts.source, loaded.keypoints(facts.source), kp)
    assert out.deformation.dtype == torch.float32
    assert out.prediction.float().isfinite().all()
    with pytest.raises(ValueError, match="fp32, bf16, fp16"):
        talkies.load_model(PARAMETERS, precision="fp8")


def test_a_published_preset_asks_for_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKIES_WEIGHTS", str(tmp_path))
    with pytest.raises(TalkiesError, match=r"`talkies checkpoint fetch vox-adv-256` gets them.*vox-adv-cpk\.pth\.tar"):
        talkies.load_model("vox-adv-256")


# ---- what does not load, and the messages --------------------------------------------------------------------------


def picture() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 30)).save(content, "JPEG")
    return content.getvalue()


def archive() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(__file__, "weights.py")
    return content.getvalue()


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as folder:
        folder.writestr("checkpoints/vox-cpk.pth.tar", b"weights")
    return content.getvalue()


NEITHER = "neither a PyTorch nor a safetensors file: give the published"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty: download it again"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page, not a checkpoint"),
        (b"\r\n  <html>", "web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (gzip.compress(archive()), "archive, not a checkpoint: unpack it"),
        (archive(), "archive, not a checkpoint: unpack it"),
        (zipped(), "archive, not a checkpoint: unpack it"),
        (picture(), NEITHER),
        (b"Quota exceeded\n", NEITHER),
        (b'{"error": 403}', NEITHER),
        (bytes(4000), NEITHER),
        (pickle.dumps({"generator": 1}), NEITHER),
        (b"PK\x03\x04" + bytes(300), "damaged, or a download cut short: download it again"),
        (None, "No such file"),
        ("folder", "Is a directory"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes | str | None, words: str) -> None:
    path = tmp_path / "vox\ncpk.pth.tar"  # which stays one line
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert words in complaint(path)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
def test_a_file_that_is_cut_off(model: FirstOrderModel, tmp_path: Path, save: Any) -> None:
    whole = tmp_path / "whole"
    save(model.state_dict() if save is save_safetensors else trained(model.state_dict()), whole)
    content = whole.read_bytes()
    size = len(content)
    path = tmp_path / "vox-cpk.pth.tar"
    for length in (1, 2, 9, 14, 15, 60, 511, 513, 3000, 20_000, size // 4, size // 2, size - 3000, size - 1):
        path.write_bytes(content[:length])
        words = complaint(path)
        again = "copy it again" if save is save_safetensors else "download it again"
        assert again in words or (length <= 511 and "give the published" in words), length


class Payload:
    """The content of a hostile checkpoint: normal unpickling runs its command."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.evidence}'",)


def save_bare(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_bare])
def test_code_in_a_checkpoint_is_not_run(model: FirstOrderModel, tmp_path: Path, save: Save) -> None:
    evidence, path = tmp_path / "it ran", tmp_path / "vox-cpk.pth.tar"
    save({**split(model.state_dict()), "optimizer_generator": Payload(evidence)}, path)
    assert ("nothing in it was run" if save is not save_bare else NEITHER) in complaint(path)
    assert not evidence.exists()
    pickle.loads(path.read_bytes()) if save is save_bare else torch.load(path, weights_only=False)
    assert evidence.exists()  # so the file was really hostile
    if save is not save_bare:
        save(model, path)
        assert "something other than weights" in complaint(path), "a pickled network"


FINAL = "generator.final.weight"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda parts, state: [1, 2], "holds a list, not a generator and a kp_detector"),
        (lambda parts, state: torch.ones(3), "holds a Tensor"),
        (
            lambda parts, state: {"generator": parts["generator"], "epoch": 3},
            "no kp_detector in it, but epoch, generator: give",
        ),
        (lambda parts, state: state, "no generator and no kp_detector in it, but generator."),
        (lambda parts, state: {"state_dict": state}, "no generator and no kp_detector in it, but state_dict: give"),
        (lambda parts, state: {}, "no generator and no kp_detector in it, but nothing: give"),
        (lambda parts, state: {**parts, "generator": {"first": 3}}, "generator.first in it is no plain tensor"),
        # of another network
        (lambda _, state: split({n: t for n, t in state.items() if n != FINAL}), f"{FINAL} is missing"),
        (lambda _, state: split({**state, "generator.extra": torch.zeros(1)}), "generator.extra is unknown to it"),
        (
            lambda _, state: split({**state, FINAL: torch.zeros(1, 8, 7, 7)}),
            f"not for preset custom ({FINAL} is [1, 8, 7, 7], [3, 8, 7, 7] is asked for); give the file made for it",
        ),
        (
            lambda _, state: split({**state, FINAL: state[FINAL].long()}),
            f"{FINAL} is torch.int64, torch.float32 is asked for",
        ),
        (
            lambda _, state: split({**state, FINAL: state[FINAL].to(torch.complex64)}),
            f"{FINAL} is torch.complex64, torch.float32",
        ),
        # damaged
        (
            lambda _, state: split({**state, FINAL: state[FINAL] / 0}),
            f"{FINAL} holds infinite or undefined numbers: the file is damaged, get it again",
        ),
        (lambda _, state: split({**state, FINAL: state[FINAL] * float("nan")}), "holds infinite or undefined numbers"),
    ],
)
def test_checkpoints_of_another_kind(
    model: FirstOrderModel, tmp_path: Path, content: Callable[[Any, Any], object], words: str
) -> None:
    path = tmp_path / "other.pth"
    save_zip(content(split(model.state_dict()), dict(model.state_dict())), path)
    assert words in complaint(path)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"unet.conv.weight": torch.zeros(3)}, "no generator.* and kp_detector.* entries"),
        ("demo", "they fit demo: choose that preset"),
        pytest.param("mgif-256", "they fit mgif-256: choose that preset", marks=pytest.mark.slow),
    ],
)
def test_weights_of_another_network_name_their_presets(tmp_path: Path, state: Any, words: str) -> None:
    path = tmp_path / "other.safetensors"
    save_safetensors(build_model(state).state_dict() if isinstance(state, str) else state, path)
    told = complaint(path, "vox-256" if state == "mgif-256" else PARAMETERS)
    assert words in told
    if state == "mgif-256":
        assert "not for preset vox-256 (kp_detector.jacobian.weight is [4, 35, 7, 7], [40, 35, 7, 7]" in told


@pytest.mark.parametrize("place", ["absent/weights.safetensors", "weights.safetensors"])
def test_an_unwritten_file_leaves_no_debris(model: FirstOrderModel, tmp_path: Path, place: str) -> None:
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(TalkiesError, match="can't write the weights"):
        save_safetensors(model.state_dict(), tmp_path / place)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


# ---- any bytes at all ----------------------------------------------------------------------------------------------

any_bytes = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """One tiny checkpoint in each format."""
    folder = tmp_path_factory.mktemp("small")
    content = {"generator": {"a": torch.arange(4.0)}, "kp_detector": {"b": torch.arange(3.0)}, "epoch": 1}
    save_zip(content, folder / "a")
    save_legacy(content, folder / "b")
    save_safetensors({"generator.a": torch.arange(4.0), "kp_detector.b": torch.arange(3.0)}, folder / "c")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@any_bytes
@given(st.data())
def test_a_damaged_byte_is_survived(tmp_path: Path, small_files: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(small_files)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pth.tar"
    path.write_bytes(bytes(content))
    with contextlib.suppress(TalkiesError):  # no error if the damage only changes a weight
        assert all(isinstance(t, Tensor) for t in load_checkpoint(path).values())
