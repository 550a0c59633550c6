"""The keypoints of a driving clip: computed once, saved, and transferred to every source image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import TalkiesError, printable
from ..files import whole
from .model.first_order import FirstOrderModel
from .model.keypoint_detector import Keypoints
from .model.layers import inverse_2x2
from .model.presets import Opening

FACTORS = 0.5, 1.25
"""Bounds of the scale of an opening's change, since eyes that are half shut at the start are not small eyes."""
SHUT = 0.08
"""The share of an eye's opening that is left when it is shut: a lid that passes the other tears the picture."""


@dataclass(frozen=True)
class Motion:
    """A driving clip's keypoints, and the network that detected them.

    value: float32 [T, K, 2] in [-1, 1] (x, y). jacobian: float32 [T, K, 2, 2] or None. rate: frames a second.
    size: side in pixels of the square frames the network saw. preset, weights: the network's name and the
    digest of its weights.
    """

    value: NDArray[np.float32]
    jacobian: NDArray[np.float32] | None
    rate: Fraction
    size: int
    preset: str
    weights: str

    @property
    def frames(self) -> int:
        """The number of frames T."""
        return len(self.value)

    def keypoints(self, device: torch.device | str = "cpu") -> Keypoints:
        """Return the T frames' keypoints as tensors on a device."""
        jacobian = None if self.jacobian is None else torch.from_numpy(self.jacobian).to(device)
        return Keypoints(torch.from_numpy(self.value).to(device), jacobian)

    def save(self, path: str | Path) -> None:
        """Write the motion as npz without pickles, whole or not at all (numpy's NPY/NPZ format)."""
        facts = {"rate": str(self.rate), "size": self.size, "preset": self.preset, "weights": self.weights}
        arrays = {"value": self.value, "facts": np.array(json.dumps(facts))}
        if self.jacobian is not None:
            arrays["jacobian"] = self.jacobian
        with whole(Path(path)) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub confuses ** with allow_pickle

    @classmethod
    def load(cls, path: str | Path) -> Motion:
        """Read a saved motion; nothing in the file is run. Raises TalkiesError for a damaged file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                jacobian = file.get("jacobian")
                rate = Fraction(facts["rate"])
                return cls(file["value"], jacobian, rate, facts["size"], facts["preset"], facts["weights"])
        except Exception as error:  # numpy and zipfile raise any
            reason = printable(" ".join(str(error).split()))[:100]
            raise TalkiesError(f"{printable(path)}: not a saved motion ({reason}): make it again") from None


def frames_to_tensor(frames: NDArray[np.uint8], device: torch.device | str = "cpu") -> torch.Tensor:
    """Convert uint8 RGB [N, H, W, 3] to float32 [N, 3, H, W] in [0, 1]."""
    pixels = torch.from_numpy(frames)
    if torch.device(device).type == "cuda":  # from pinned memory, the copy runs while the GPU computes
        pixels = pixels.pin_memory()
    return pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def detect_motion(
    model: FirstOrderModel, frames: Iterable[NDArray[np.uint8]], rate: Fraction, *, batch: int = 8
) -> Motion:
    """Detect the keypoints of a clip's frames, a batch at a time (frames: uint8 RGB [size, size, 3] each).

    Raises TalkiesError if there is no frame, or the network gives keypoints that are not finite.
    """
    values: list[NDArray[np.float32]] = []
    jacobians: list[NDArray[np.float32]] = []
    size = 0
    for group in _batches(frames, batch):
        pictures = frames_to_tensor(group, model.device)
        if not size:  # the clip's first frame decides for all frames
            network, size = model.fitting(pictures[:1]), group.shape[1]
        found = network.keypoints(pictures)
        # Copies: small tensors of torch between large ones would keep the large ones' memory from being freed.
        values.append(found.value.cpu().numpy().copy())
        if found.jacobian is not None:
            jacobians.append(found.jacobian.cpu().numpy().copy())
    if not values:
        raise TalkiesError("the driving clip has no frame in the segment asked for: mend its start and end")
    motion = Motion(
        np.concatenate(values),
        np.concatenate(jacobians) if jacobians else None,
        rate,
        size,
        model.preset.name,
        model.weights_digest or "",
    )
    if not np.isfinite(motion.value).all():
        raise TalkiesError("the network gives undefined keypoints: give it the weights of this preset")
    return motion


def _batches(frames: Iterable[NDArray[np.uint8]], batch: int) -> Iterator[NDArray[np.uint8]]:
    """Yield batches of frames; a thread reads the next one while this one is used."""
    iterator = iter(frames)

    def read() -> NDArray[np.uint8] | None:
        group = list(islice(iterator, batch))
        return np.stack(group) if group else None

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as reader:
        coming = reader.submit(read)
        while (group := coming.result()) is not None:
            coming = reader.submit(read)
            yield group


def transfer_motion(
    kp_source: Keypoints,
    kp_driving: Keypoints,
    kp_initial: Keypoints,
    relative: bool = True,
    adapt_scale: bool = True,
    reach: float | None = None,
    openings: Sequence[Opening] = (),
) -> Keypoints:
    """Apply the driving clip's motion to the source's keypoints (FOMM, sec. 3.4 and eq. 10).

    kp_source, kp_initial: one picture each (the source, and the driving frame that motion counts from); kp_driving: N
    frames. Relative: value = (d - d0) scale + s, jacobian = J_d J_d0^-1 J_s, where scale is sqrt(hull area of s /
    hull area of d0) with adapt_scale, else 1, and applies only to the values. Not relative: the driving keypoints
    themselves. Hulls without an area (collinear keypoints) give the scale 1. reach: a limit of a head's distance from
    its place (the mean over its keypoints, in [-1, 1] units, on either axis), which is approached but never reached,
    so that a driver who moves about does not carry a face out of its picture. openings: pairs of keypoints whose
    distance is scaled on its own (see `Opening`).
    """
    if not relative:
        return kp_driving
    scale = 1.0
    if adapt_scale:
        area, initial_area = hull_area(kp_source.value[0]), hull_area(kp_initial.value[0])
        if area > 1e-9 and initial_area > 1e-9:
            scale = (area / initial_area) ** 0.5
    move = (kp_driving.value - kp_initial.value) * scale
    if reach is not None:
        away = move.mean(dim=1, keepdim=True)
        move = move - away + reach * torch.tanh(away / reach)
    for opening in openings:
        move = _in_measure(move, opening, kp_source.value, kp_initial.value * scale)
    value = move + kp_source.value
    if kp_driving.jacobian is None or kp_initial.jacobian is None or kp_source.jacobian is None:
        return Keypoints(value)
    return Keypoints(value, kp_driving.jacobian @ inverse_2x2(kp_initial.jacobian) @ kp_source.jacobian)


def _in_measure(move: torch.Tensor, opening: Opening, source: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """Return moves [N, K, 2] with each opening's change scaled by its measure, the source's to the driver's."""
    a, b = opening.measure
    mine, theirs = (float((value[0, a] - value[0, b]).norm()) for value in (source, initial))
    factor = min(max(mine / max(theirs, 1e-6), FACTORS[0]), FACTORS[1])
    still = move[:, opening.still]
    change = (move[:, opening.moving] - still) * factor
    if {a, b} == {opening.moving, opening.still} and mine > 0:
        opens = (source[0, opening.moving] - source[0, opening.still]) / mine
        wider = change @ opens
        right = torch.where(wider < 0, wider * opening.gain, wider).clamp(min=(SHUT - 1) * mine)
        change = change + (right - wider)[:, None] * opens
    else:
        change = change * opening.gain
    move = move.clone()
    move[:, opening.moving] = still + change
    if opening.limit is not None and mine > 0:
        across = (source[0, b] - source[0, a]) / mine
        opens = torch.stack([-across[1], across[0]])
        own = (source[0, opening.moving] - source[0, opening.still]) @ opens
        left, wider = (opening.limit * mine - own).clamp(min=1e-3 * mine), (change @ opens).clamp(min=0)
        less = left * torch.tanh(wider / left) - wider
        move[:, [opening.moving, *opening.carried]] += less[:, None, None] * opens
    return move


def hull_area(points: torch.Tensor) -> float:
    """Return the area of the convex hull of points [K, 2] (Andrew's monotone chain); 0 for collinear points."""
    ordered = sorted(map(tuple, points.detach().cpu().double().tolist()))

    def chain(sequence: Iterable[tuple[float, ...]]) -> list[tuple[float, ...]]:
        hull: list[tuple[float, ...]] = []
        for p in sequence:
            while len(hull) > 1 and _turn(hull[-2], hull[-1], p) <= 0:
                hull.pop()
            hull.append(p)
        return hull[:-1]

    hull = chain(ordered) + chain(reversed(ordered))
    shifted = hull[1:] + hull[:1]
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(hull, shifted, strict=True))) / 2


def _turn(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def normalized_pose(value: torch.Tensor) -> torch.Tensor:
    """Normalize keypoints [K, 2]: centred, and divided by the root of their hull's area."""
    centred = value - value.mean(dim=0, keepdim=True)
    return centred / max(hull_area(value), 1e-9) ** 0.5


def best_frame(kp_source: Keypoints, kp_driving: Keypoints) -> int:
    """Return the driving frame whose normalized pose is nearest the source's, from which relative motion counts."""
    source = normalized_pose(kp_source.value[0])
    distances = [float(((normalized_pose(value) - source) ** 2).sum()) for value in kp_driving.value]
    return int(np.argmin(distances))
