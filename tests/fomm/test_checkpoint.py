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
from talkies.errors import TalkiesError
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
    assert message.startswith(f"{path}: ")
    assert len(message) < len(str(path)) + 400
    return message.removeprefix(f"{path}: ")


# ---- what loads ----------------------------------------------------------------------------------------------------


@formats
def test_a_published_checkpoint_loads_as_it_is(model: FirstOrderModel, tmp_path: Path, save: Save) -> None:
    path = tmp_path / "vox-adv-cpk.pth.tar"
    save(trained(model.state_dict()), path)
    loaded = talkies.load_model(PARAMETERS, checkpoint=path)
    wanted = model.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(t, wanted[name]) for name, t in loaded.state_dict().items())
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


@formats
def test_a_checkpoint_of_a_gpu_loads_on_the_cpu(
    model: FirstOrderModel, tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cuda.pth.tar"
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        save(split(model.state_dict()), path)
    assert b"cuda:0" in path.read_bytes()
    assert talkies.load_model(PARAMETERS, checkpoint=path).device.type == "cpu"


def test_every_format_gives_one_digest(model: FirstOrderModel, tmp_path: Path) -> None:
    content = split(model.state_dict())
    save_zip(content, tmp_path / "zip.pth.tar")
    save_legacy(content, tmp_path / "legacy.pth.tar")
    save_safetensors(model.state_dict(), tmp_path / "weights.safetensors")
    digests = {talkies.load_model(PARAMETERS, checkpoint=path).weights_digest for path in tmp_path.iterdir()}
    assert digests == {weights_digest(model.state_dict())}


def test_digest_knows_every_weight_but_no_batch_counter(model: FirstOrderModel) -> None:
    state = dict(model.state_dict())
    digest = weights_digest(state)
    assert weights_digest(dict(reversed(state.items()))) == digest
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    assert weights_digest({**state, counter: torch.tensor(7)}) == digest
    for name in ("generator.final.bias", "kp_detector.predictor.encoder.down_blocks.0.norm.running_mean"):
        assert weights_digest({**state, name: state[name] + 1}) != digest


def test_safetensors_give_the_same_outputs(model: FirstOrderModel, tmp_path: Path) -> None:
    facts = golden.load("tiny64")
    save_safetensors(model.state_dict(), tmp_path / "weights.safetensors")
    loaded = talkies.load_model(PARAMETERS, checkpoint=tmp_path / "weights.safetensors")
    a, b = (
        m.generate(facts.source, m.keypoints(facts.source), m.keypoints(facts.driving)).logits for m in (model, loaded)
    )
    assert torch.equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.safetensors"]


def test_half_halves_and_stays_near(model: FirstOrderModel, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    name = "generator.first.norm.running_var"
    state[name] = torch.full_like(state[name], 1e6)  # above float16's maximum: kept as it is
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_safetensors(state, whole)
    save_safetensors(state, half, half=True)
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


def test_unknown_precision_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="fp32, bf16, fp16"):
        talkies.load_model(PARAMETERS, precision="fp8")


def test_a_published_preset_asks_for_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKIES_WEIGHTS", str(tmp_path))
    with pytest.raises(TalkiesError, match=r"`talkies checkpoint fetch vox-adv-256` gets them.*vox-adv-cpk\.pth\.tar"):
        talkies.load_model("vox-adv-256")


# ---- what does not load, and the messages --------------------------------------------------------------------------


def test_no_file(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "absent.pth.tar")


def test_a_folder(tmp_path: Path) -> None:
    assert "Is a directory" in complaint(tmp_path)


def test_a_name_with_a_line_break_stays_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\nb.pth.tar").write_bytes(b"")
    with pytest.raises(TalkiesError, match=r"a\\nb\.pth\.tar: the checkpoint is empty"):
        talkies.load_model(PARAMETERS, checkpoint=tmp_path / "a\nb.pth.tar")


def test_other_files(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (40, 30)).save(picture, "JPEG")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(__file__, "weights.py")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as folder:
        folder.writestr("checkpoints/vox-cpk.pth.tar", b"weights")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    for content, words in (
        (b"", "empty: download it again"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page, not a checkpoint"),
        (b"\r\n  <html>", "web page, not a checkpoint"),
        (pointer, "Git LFS pointer"),
        (gzip.compress(archive.getvalue()), "archive, not a checkpoint: unpack it"),
        (archive.getvalue(), "archive, not a checkpoint: unpack it"),
        (zipped.getvalue(), "archive, not a checkpoint: unpack it"),
        (picture.getvalue(), "neither a PyTorch nor a safetensors file: give the published"),
        (b"Quota exceeded\n", "neither a PyTorch nor a safetensors file: give the published"),
        (b'{"error": 403}', "neither a PyTorch nor a safetensors file: give the published"),
        (bytes(4000), "neither a PyTorch nor a safetensors file: give the published"),
        (pickle.dumps({"generator": 1}), "neither a PyTorch nor a safetensors file: give the published"),
        (b"PK\x03\x04" + bytes(300), "damaged, or a download cut short: download it again"),
    ):
        path = tmp_path / "vox-cpk.pth.tar"
        path.write_bytes(content)
        assert words in complaint(path), content[:30]


@formats
def test_truncated_download(model: FirstOrderModel, tmp_path: Path, save: Save) -> None:
    whole = tmp_path / "whole"
    save(trained(model.state_dict()), whole)
    content = whole.read_bytes()
    size = len(content)
    path = tmp_path / "vox-cpk.pth.tar"
    for length in (1, 2, 9, 14, 15, 60, 511, 513, 3000, 20_000, size // 4, size // 2, size - 3000, size - 1):
        path.write_bytes(content[:length])
        words = complaint(path)
        assert "download it again" in words or "give the published" in words, length


def test_safetensors_are_as_readable_as_any_file(model: FirstOrderModel, tmp_path: Path) -> None:
    save_safetensors(model.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "any").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_other_weights_loaded_later_have_their_own_digest(tmp_path: Path) -> None:
    model = talkies.load_model(PARAMETERS)
    before, state = model.weights_digest, model.state_dict()
    model.load_state_dict(state)
    assert model.weights_digest == before
    state["generator.final.bias"] = state["generator.final.bias"] + 1
    model.load_state_dict(state)
    assert model.weights_digest == weights_digest(state) != before


def test_truncated_safetensors(model: FirstOrderModel, tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_safetensors(model.state_dict(), whole)
    content = whole.read_bytes()
    path = tmp_path / "weights.safetensors"
    for length in (1, 8, 9, 100, 5000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        words = complaint(path)
        assert "copy it again" in words or (length < 9 and "give the published" in words), length


class Payload:
    """The content of a hostile checkpoint: normal unpickling runs its command."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.evidence}'",)


@formats
def test_code_in_a_checkpoint_is_not_run(model: FirstOrderModel, tmp_path: Path, save: Save) -> None:
    evidence = tmp_path / "it ran"
    path = tmp_path / "vox-cpk.pth.tar"
    save({**split(model.state_dict()), "optimizer_generator": Payload(evidence)}, path)
    assert "nothing in it was run" in complaint(path)
    assert not evidence.exists()
    torch.load(path, weights_only=False)
    assert evidence.exists()  # so the file was really hostile


def test_code_in_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    evidence = tmp_path / "it ran"
    path = tmp_path / "vox-cpk.pth.tar"
    path.write_bytes(pickle.dumps(Payload(evidence)))
    complaint(path)
    assert not evidence.exists()


@formats
def test_a_pickled_network_is_refused(model: FirstOrderModel, tmp_path: Path, save: Save) -> None:
    save(model, tmp_path / "model.pth")
    assert "something other than weights" in complaint(tmp_path / "model.pth")


def test_checkpoints_of_other_shape(model: FirstOrderModel, tmp_path: Path) -> None:
    parts = split(model.state_dict())
    for content, words in (
        ([1, 2], "holds a list, not a generator and a kp_detector"),
        (torch.ones(3), "holds a Tensor"),
        ({"generator": parts["generator"], "epoch": 3}, "no kp_detector in it, but epoch, generator: give"),
        (dict(model.state_dict()), "no generator and no kp_detector in it, but generator."),
        ({"state_dict": dict(model.state_dict())}, "no generator and no kp_detector in it, but state_dict: give"),
        ({}, "no generator and no kp_detector in it, but nothing: give"),
        ({**parts, "generator": {"first": 3}}, "generator.first in it is no plain tensor"),
    ):
        path = tmp_path / "other.pth"
        save_zip(content, path)
        assert words in complaint(path)


def test_safetensors_of_another_network(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"unet.conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert "no generator.* and kp_detector.* entries" in complaint(tmp_path / "other.safetensors")


def test_weights_of_another_network_say_how_they_differ(model: FirstOrderModel, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth.tar"
    name = "generator.final.weight"
    for change, words in (
        ({name: None}, f"{name} is missing"),
        ({"generator.extra": torch.zeros(1)}, "generator.extra is unknown to it"),
        ({name: torch.zeros(1, 8, 7, 7)}, f"{name} is [1, 8, 7, 7], [3, 8, 7, 7] is asked for"),
        ({name: model.state_dict()[name].long()}, f"{name} is torch.int64, torch.float32 is asked for"),
        ({name: model.state_dict()[name].to(torch.complex64)}, f"{name} is torch.complex64, torch.float32"),
    ):
        state = {**model.state_dict(), **change}
        save_zip(split({key: t for key, t in state.items() if t is not None}), path)
        message = complaint(path)
        assert words in message
        assert "not for preset custom" in message
        assert "give the file made for it" in message


def test_weights_that_are_no_numbers(model: FirstOrderModel, tmp_path: Path) -> None:
    name = "generator.bottleneck.r0.conv1.weight"
    for bad in (float("nan"), float("inf")):
        state = dict(model.state_dict())
        state[name] = state[name].clone()
        state[name][0, 0, 0, 0] = bad
        save_safetensors(state, tmp_path / "weights.safetensors")
        words = complaint(tmp_path / "weights.safetensors")
        assert f"{name} holds infinite or undefined numbers" in words
        assert "get it again" in words


@pytest.mark.slow
def test_full_weights_of_another_preset_name_both(tmp_path: Path) -> None:
    path = tmp_path / "mgif-cpk.pth.tar"
    mgif = build_model("mgif-256")
    save_legacy(split(mgif.state_dict()), path)
    words = complaint(path, "vox-256")
    assert "not for preset vox-256" in words
    assert "kp_detector.jacobian.weight is [4, 35, 7, 7], [40, 35, 7, 7] is asked for" in words
    assert words.endswith("they fit mgif-256: choose that preset")
    loaded = talkies.load_model("mgif-256", checkpoint=path)
    assert loaded.weights_digest == weights_digest(mgif.state_dict())


def test_weights_of_the_demo_network_name_both(tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    save_safetensors(build_model("demo").state_dict(), path)
    words = complaint(path)
    assert "not for preset custom" in words
    assert words.endswith("they fit demo: choose that preset")


def test_a_folder_that_is_not_there_is_named_on_writing(model: FirstOrderModel, tmp_path: Path) -> None:
    with pytest.raises(TalkiesError, match="can't write the weights"):
        save_safetensors(model.state_dict(), tmp_path / "absent" / "weights.safetensors")


def test_an_unwritten_file_leaves_no_debris(model: FirstOrderModel, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(TalkiesError, match="can't write the weights"):
        save_safetensors(model.state_dict(), tmp_path / "weights.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


# ---- any bytes at all ----------------------------------------------------------------------------------------------

any_bytes = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@any_bytes
@given(st.binary(max_size=700), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x20\0\0\0\0\0\0\0{"]))
def test_any_bytes_get_a_line(tmp_path: Path, content: bytes, head: bytes) -> None:
    path = tmp_path / "any.pth.tar"
    path.write_bytes(head + content)
    with pytest.raises(TalkiesError):
        load_checkpoint(path)


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
