"""The fast form kept beside the weights: read at the next start where it fits, else made again; never half there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import small_preset
import torch
from run_folder import REPOSITORY
from tiny_network import picture

from talkies.errors import TalkiesError
from talkies.fomm import kept, rewrite
from talkies.fomm.engine import open_engine
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.model.presets import PRESETS
from talkies.fomm.motion import frames_to_tensor


class Start:
    """Starts with one file of weights; `made` counts those that made the fast form from the weights."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weights = folder / "weights" / small_preset.FILE
        self.weights.parent.mkdir()
        small_preset.write_checkpoint(self.weights)
        self.cache = folder / "cache" / "talkies" / "fast"
        self.made = 0
        monkeypatch.setitem(PRESETS, small_preset.NAME, small_preset.PRESET)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        make = kept.load_model

        def load_model(*args, **options) -> FirstOrderModel:
            self.made += 1
            return make(*args, **options)

        monkeypatch.setattr(kept, "load_model", load_model)

    def __call__(self, precision: str = "bf16") -> FirstOrderModel:
        engine = open_engine(small_preset.NAME, str(self.weights), device="cpu", precision=precision, threads=1)
        return engine.model

    @property
    def kept(self) -> list[Path]:
        return sorted(self.weights.parent.glob("small-cpk.fast-*"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(tmp_path, monkeypatch)


def frame(model: FirstOrderModel) -> torch.Tensor:
    source = frames_to_tensor(picture()[None])
    kp = model.keypoints(source)
    return model.generate(model.encode(source), kp, kp).prediction


@pytest.mark.parametrize("precision", ["bf16", "fp32", "auto"])
def test_the_second_start_reads_what_the_first_wrote(start: Start, precision: str) -> None:
    first, second = start(precision), start(precision)
    assert start.made == 1
    assert torch.equal(frame(first), frame(second))
    assert (first.weights_digest, first.dtype) == (second.weights_digest, second.dtype)
    (file,) = start.kept
    assert file.stat().st_mode == start.weights.stat().st_mode, "as readable as any file"
    assert not start.cache.exists()
    weights = [part.weight for part in second.modules() if isinstance(part, torch.nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not any(parameter.requires_grad for parameter in second.parameters())


def other_weights(start: Start, _: pytest.MonkeyPatch) -> None:
    before = start.weights.stat()
    part = start.weights.with_name("part")
    small_preset.write_checkpoint(part, seed=1)
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    part.replace(start.weights)
    assert start.weights.stat().st_size == before.st_size


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Start, pytest.MonkeyPatch], None]:
    return lambda start, _: [file.write_bytes(change(file.read_bytes())) for file in start.kept] and None


def by(target: str, value: object) -> Callable[[Start, pytest.MonkeyPatch], None]:
    return lambda _, monkeypatch: monkeypatch.setattr(target, value)


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        lambda start, _: os.utime(start.weights),
        by("talkies.fomm.kept.processor_flags", lambda: ["another"]),
        by("torch.__version__", "2.99.0+cpu"),
        lambda _, monkeypatch: monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2"),
        lambda start, _: [file.unlink() for file in start.kept],
        damaged(lambda content: b""),
        damaged(lambda content: content[:100]),
        damaged(lambda content: content[: len(content) // 2]),
        damaged(lambda content: content[:-1]),
        damaged(lambda content: b"<html>" + content[6:]),
        damaged(lambda content: content.replace(b"in_float", b"in_floas", 1)),
        damaged(lambda content: content.replace(b"final", b"finax", 1)),
        by("talkies.fomm.kept.owner", lambda path: 12345 + ("fast" in path.name)),  # another user may not choose pixels
    ],
)
def test_after_any_change_it_is_made_again_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, change: Callable[[Start, pytest.MonkeyPatch], object]
) -> None:
    start()
    change(start, monkeypatch)
    made = [start()]
    monkeypatch.setattr(kept, "owner", lambda path: os.geteuid())
    made.append(start())
    assert start.made == 2
    assert torch.equal(frame(made[0]), frame(made[1]))
    assert made[0].weights_digest == kept.load_model(small_preset.NAME, start.weights).weights_digest


def test_forms_of_other_weights_are_removed_and_nothing_else(start: Start) -> None:
    (notes := start.weights.with_name("small-cpk.txt")).touch()
    start("bf16")
    start("fp32")
    before = start.kept
    assert len(before) == 2
    os.utime(start.weights)
    start("fp32")
    (file,) = start.kept
    assert file not in before
    assert notes.exists()


def test_where_the_folder_can_not_be_written_it_is_in_the_cache(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    write = kept.write_entries
    full = [start.weights.parent]

    def write_entries(entries, path, metadata):
        if path.parent in full:
            raise TalkiesError("no space left")
        write(entries, path, metadata)

    monkeypatch.setattr(kept, "write_entries", write_entries)
    start()
    start()
    assert (start.made, len(start.kept), len(list(start.cache.iterdir()))) == (1, 0, 1)
    for file in start.cache.iterdir():
        file.unlink()
    full.append(start.cache)
    start()
    start()
    assert start.made == 3, "made each time where it can be kept nowhere"


def test_what_this_processor_computes_wrongly_is_remembered(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr("talkies.fomm.precision.WRONG", 0.0)  # every rounding is a fault
    first = start()
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    monkeypatch.setattr("talkies.fomm.precision.WRONG", 1.0)
    second = start()
    assert start.made == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [told, told]
    assert sum(isinstance(part, rewrite.InFloat) for part in second.modules()) > 10
    assert torch.equal(frame(first), frame(second))


HEAVY = "torch._dynamo", "sympy", "torch._inductor", "snakemake", "matplotlib"


def test_a_start_from_a_kept_form_imports_only_what_it_needs(start: Start) -> None:
    """Computing on the meta device, for example, would import PyTorch's compiler: two seconds."""
    start()
    program = (
        "import sys, small_preset; from talkies.fomm.model.presets import PRESETS;"
        "PRESETS[small_preset.NAME] = small_preset.PRESET; from talkies.fomm.engine import open_engine;"
        f"open_engine(small_preset.NAME, {str(start.weights)!r}, device='cpu', precision='bf16');"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    path = os.pathsep.join(map(str, (REPOSITORY / "tests", REPOSITORY / "benchmarks")))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
