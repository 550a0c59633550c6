"""Time the network's rendering in OpenVINO against the engine's fast form. Prints a Markdown table.

    pip install openvino nncf          # only for this trial; the package does not need them
    PYTHONPATH=src python benchmarks/openvino_trial.py [--model vox-adv-256] [--batch 8] [--rounds 5] [--int8]

Each uses one thread, they take turns, and the lowest processor seconds of all rounds count; so the machine need not be
idle. OpenVINO gets the graph with all of the engine's rewrites except Winograd's products, which it can't optimise, and
with its own sampling. --int8: 8-bit integers, calibrated by NNCF on sources and frames that are not measured;
"painting" leaves dense motion and the last convolution in floating point. The demo network gets drawn portraits. PSNR
is against the engine in float32, over the frames of four sources.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import seeded
from portraits import Portrait, sample_identity, sample_pose

from talkies.fomm import rewrite
from talkies.fomm.device import keep_memory
from talkies.fomm.model import FirstOrderModel, Keypoints, SourceFeatures, build_model, load_model
from talkies.fomm.model.generator import MaskedWarp
from talkies.fomm.motion import frames_to_tensor, transfer_motion
from talkies.fomm.precision import DTYPES

Run = Callable[[list[Tensor]], np.ndarray]
CALIBRATED_ON, MEASURED_ON = range(7_000_000, 7_000_032), range(1_000_000, 1_000_004)  # the latter: held out


class Rendering(nn.Module):
    """The generator's rendering, with only tensors as arguments."""

    def __init__(self, model: FirstOrderModel) -> None:
        super().__init__()
        self.generator = model.generator

    def forward(self, features: Tensor, small: Tensor, picture: Tensor, *keypoints: Tensor) -> Tensor:
        source = SourceFeatures(features, small, picture if self.generator.keep_visible else None)
        return self.generator.render(source, Keypoints(*keypoints[:2]), Keypoints(*keypoints[2:])).prediction


def load(preset: str) -> FirstOrderModel:
    """Return a preset's network, with seeded weights if the package has none."""
    if preset == "demo":
        return load_model(preset)
    model = build_model(preset)
    model.load_state_dict(seeded.seeded_weights(model))
    return model.requires_grad_(False).eval()


def arguments(model: FirstOrderModel, batch: int, seed: int) -> list[Tensor]:
    """Return the inputs for rendering a batch of frames of a drawn source."""
    side = model.preset.size
    if model.preset.name == "demo":
        rng, portrait = np.random.default_rng(seed), Portrait(sample_identity(seed), side)
        pictures = frames_to_tensor(np.stack([portrait.draw(sample_pose(rng))[0] for _ in range(batch + 1)]), "cpu")
    else:
        times = range(seed % 1000, seed % 1000 + batch)
        drawn = [seeded.source_image(side, side), *(seeded.driving_frame(side, side, 3 * t) for t in times)]
        pictures = torch.cat([seeded.as_batch(image) for image in drawn])
    kp, made = model.keypoints(pictures), model.encode(pictures[:1])
    moved = transfer_motion(kp[0], kp[slice(1, None)], kp[1])
    tensors = [made.features, made.small, pictures[:1], kp[0].value, kp[0].jacobian, moved.value, moved.jacobian]
    return [tensor.clone() for tensor in tensors]  # clones: OpenVINO can't trace tensors from inference mode


def engine(model: FirstOrderModel, precision: str) -> Run:
    """Return the engine's rendering in the given precision."""
    fast = Rendering(rewrite.rewritten(model, DTYPES[precision]))

    def run(given: list[Tensor]) -> np.ndarray:
        features, *pictures = given[:3]
        return fast(features, *(each.to(DTYPES[precision]) for each in pictures), *given[3:]).float().numpy()

    return run


def compiled(graph: ov.Model, precision: str) -> Run:
    """Return OpenVINO's rendering in the given precision ("f32", "bf16")."""
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    network = ov.Core().compile_model(graph, "CPU", settings)
    return lambda given: network([tensor.numpy() for tensor in given])[0]


def quantized(graph: ov.Model, batches: list[list[Tensor]], kept: list[str]) -> ov.Model:
    """Return the graph in 8-bit integers, calibrated on batches. kept: modules that stay in floating point."""
    import nncf

    data = nncf.Dataset([[tensor.numpy() for tensor in batch] for batch in batches])
    ignored = nncf.IgnoredScope(patterns=[f".*{name}.*" for name in kept], types=["MatMul", "GridSample"])
    return nncf.quantize(graph, data, subset_size=len(batches), ignored_scope=ignored, fast_bias_correction=False)


def table(preset: str, runs: dict[str, Run], given: list[list[Tensor]], batch: int, rounds: int) -> str:
    """Return the table: lowest milliseconds a frame, ratio to the engine in float32, and PSNR against that."""
    made = {name: np.stack([run(each) for each in given]) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.process_time()
            run(given[0])
            seconds[name].append((time.process_time() - begun) / batch)
    least = {name: 1000 * min(each) for name, each in seconds.items()}
    exact, fastest = made["engine, fp32"].astype(np.float64), least["engine, fp32"]
    lines = [f"| {preset}, batch {batch} | ms a frame | against the engine's fp32 | PSNR, dB |", "|---|---|---|---|"]
    for name, each in least.items():
        error = np.square(made[name] - exact).mean()
        quality = f"{-10 * np.log10(error):.1f}" if error else "same"
        lines.append(f"| {name} | {each:.1f} | {fastest / each:.2f} | {quality} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="vox-adv-256")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--int8", action="store_true")
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    model = load(args.model)
    runs = {f"engine, {precision}": engine(model, precision) for precision in ("fp32", "bf16")}
    rewrite.MANY_CHANNELS.clear()
    plain = rewrite.rewritten(model)
    plain.generator.warp = MaskedWarp()
    given = [arguments(plain, args.batch, seed) for seed in MEASURED_ON]
    with torch.no_grad():
        graph = ov.convert_model(Rendering(plain), example_input=tuple(given[0]))
    runs |= {f"OpenVINO, {name}": compiled(graph, hint) for name, hint in (("fp32", "f32"), ("bf16", "bf16"))}
    if args.int8:
        batches = [arguments(plain, args.batch, seed) for seed in CALIBRATED_ON]
        for name, kept in (("int8", []), ("int8, painting", ["dense_motion_network", "final"])):
            runs[f"OpenVINO, {name}"] = compiled(quantized(graph, batches, kept), "bf16")
    with torch.inference_mode():
        print(table(args.model, runs, given, args.batch, args.rounds))


if __name__ == "__main__":
    main()
