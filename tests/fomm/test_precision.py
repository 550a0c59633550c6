"""Half precision: taken where it is faithful, and never by a convolution that this processor computes wrongly."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import golden
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_network import clip, many_channels, picture, tiny_model
from torch import Tensor, nn

from talkies.engines import Movement
from talkies.fomm import device, precision, rewrite
from talkies.fomm.engine import Engine
from talkies.fomm.model.checkpoint import skeleton
from talkies.fomm.model.first_order import FirstOrderModel
from talkies.fomm.motion import detect_motion
from talkies.fomm.precision import fast_form
from talkies.fomm.rewrite import rewritten
from talkies.fomm.winograd import Winograd


def film(model: FirstOrderModel, precision: str) -> tuple[NDArray[np.float64], str]:
    """Return a film's frames and the precision that made them."""
    side = model.preset.size
    with Engine(fast_form(model, precision), batch=2, threads=1) as engine:
        motion = detect_motion(engine.model, clip(3, side), Fraction(25))
        made = list(engine.predict(engine.prepare("p", picture(side)), motion, Movement()))
        return np.concatenate(made).astype(float), str(engine.facts()["model"]["precision"])


def decibels(made: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / max(np.square(made - wanted).mean(), 1e-9)))


@pytest.mark.parametrize(
    ("factor", "native", "asked", "expected"),
    [
        (1, True, "auto", "bfloat16"),
        (1, False, "auto", "float32"),
        (1, False, "bf16", "bfloat16"),
        (1, True, "fp32", "float32"),
        (1e4, True, "auto", "float32"),  # nearly all pixels are saturated, and rounding flips them
        (float("nan"), True, "auto", "float32"),
        (float("nan"), True, "bf16", "bfloat16"),
    ],
)
def test_auto_is_half_precision_where_processor_and_weights_bear_it(
    monkeypatch: pytest.MonkeyPatch, caplog, factor: float, native: bool, asked: str, expected: str
) -> None:
    monkeypatch.setattr(precision, "bf16_unit", lambda: "avx512_bf16" if native else None)
    model = tiny_model()
    model.generator.final.weight *= factor
    made, chosen = film(model, asked)
    assert chosen == expected
    if factor == 1:
        assert decibels(made, film(model, "fp32")[0]) > 45
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("flags", "limit", "unit"),
    [
        ("avx2 avx512f avx512_bf16", None, "avx512_bf16"),
        ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile", None, "amx_bf16"),
        ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "avx512_core_amx", "amx_bf16"),
        ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "AVX512_CORE_BF16", "avx512_bf16"),
        ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "AVX512_CORE", None),
        ("avx2 avx512f avx512_bf16", "AVX2", None),
        ("avx2 avx512f", None, None),
        ("fp asimd bf16", None, "bf16"),
        ("", "", None),
    ],
)
def test_the_form_is_chosen_by_the_processors_features(
    monkeypatch: pytest.MonkeyPatch, flags: str, limit: str | None, unit: str | None
) -> None:
    """Winograd's form with AVX-512 alone, plain convolutions with AMX, float32 where nothing makes such products."""
    monkeypatch.setattr(device, "processor_flags", flags.split)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert device.bf16_unit() == unit
    model = tiny_model()
    assert fast_form(model, "auto").dtype == (torch.bfloat16 if unit else torch.float32)
    half = rewritten(many_channels(), torch.bfloat16)
    assert any(isinstance(part, Winograd) for part in half.modules()) == (unit == "avx512_bf16")


# --- processors that compute wrongly -------------------------------------------------------------------------


def wrong_everywhere(out: Tensor) -> Tensor:
    return out.roll(1, -1)


def wrong_in_one_value(out: Tensor) -> Tensor:
    """As where sums leak from one row of a matrix product into another."""
    out[tuple(side // 2 for side in out.shape)] += out.abs().max() / 4
    return out


def on_a_processor_that(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, errs: Callable[[Tensor], Tensor]
) -> list[int]:
    """Let a function of PyTorch be wrong in bfloat16; return a list that grows with each wrong result."""
    right, times = getattr(owner, name), []

    def wrong(*args, **options):
        made = right(*args, **options)
        if made.dtype != torch.bfloat16:
            return made
        times.append(1)
        return errs(made.clone())

    monkeypatch.setattr(owner, name, wrong)
    return times


def wide() -> FirstOrderModel:
    return many_channels(64)


@pytest.mark.parametrize("errs", [wrong_everywhere, wrong_in_one_value])
@pytest.mark.parametrize(
    ("owner", "name", "network", "told"),
    [
        (
            nn.Conv2d,
            "_conv_forward",
            tiny_model,
            ["16 to 16 channels, 3x3", "8 to 3 channels, 7x7"],
        ),
        (nn.ConvTranspose2d, "forward", tiny_model, ["transposed, 16 to 16 channels, 4x4, stride 2"]),
        (torch, "bmm", wide, ["Winograd, 64 to 64 channels, 3x3"]),
    ],
)
def test_a_convolution_that_is_wrong_on_this_processor_is_computed_in_float32(
    monkeypatch: pytest.MonkeyPatch, caplog, owner, name: str, network, told: list[str], errs
) -> None:
    for module in (precision, rewrite):
        monkeypatch.setattr(module, "bf16_unit", lambda: "avx512_bf16")
    monkeypatch.setitem(rewrite.MANY_CHANNELS, torch.bfloat16, 64)
    model = network()
    exact, usual = film(model, "fp32")[0], film(model, "bf16")[0]
    assert caplog.messages == []
    times = on_a_processor_that(monkeypatch, owner, name, errs)
    for asked in ("bf16", "auto"):
        caplog.clear()
        made, chosen = film(model, asked)
        assert decibels(made, exact) > decibels(usual, exact) - 1
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "fp32 computes them, slower" in line
        assert all(kind in line for kind in told)
        assert chosen == "bfloat16" or network is wide
    assert times


def test_no_form_has_the_convolution_that_is_wrong_with_amx() -> None:
    """Of 8 channels with an 8x8 kernel; see docs/performance.md."""
    made_alike = ("demo", "vox-256", "mgif-256")  # the other presets have the layers of one of these
    networks = {name: skeleton(name) for name in made_alike}
    networks |= {name: skeleton(golden.load(name).parameters) for name in golden.NAMES}
    for name, model in networks.items():
        for network in rewritten(model, torch.bfloat16, "cpu").networks:
            for part in network.modules():
                if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) and part.weight.dtype == torch.bfloat16:
                    assert (part.in_channels, part.kernel_size) != (8, (8, 8)), name
