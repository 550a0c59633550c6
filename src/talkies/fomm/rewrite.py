"""The fast form of a loaded network: the same function, rewritten by identities that are exact up to rounding.

`model/` is the paper's network. The engine runs a form that this module derives from it:

- A batch norm in inference is a scale and a shift of each channel, and is folded into the convolution before it.
- Nearest-neighbour doubling and a 3x3 convolution are one 4x4 transposed convolution of stride 2: 16 products for
  each four pixels where there were 36.
- A 3x3 convolution of many channels needs fewer products by Winograd's method (winograd.py), where that is faster.
- A convolution to three colours leaves most of a vector register empty: the last one computes four pixels at once.
- Sparse motions are affine, so their sum weighted by masks is the affine map with weighted coefficients.
- Bilinear sampling is a weighted sum of four pixels' features; the occlusion map is one more factor.

All tensors are channels_last. In half precision, the residual sums of the bottleneck stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .device import bf16_unit
from .model.dense_motion import KEYPOINT_VARIANCE, DenseMotion, DenseMotionNetwork
from .model.first_order import FirstOrderModel
from .model.keypoint_detector import Keypoints
from .model.layers import DownBlock, ResidualBlock, SameBlock, UpBlock, coordinate_grid, inverse_2x2
from .winograd import Winograd

Network = TypeVar("Network", bound=nn.Module)

MANY_CHANNELS = {torch.float32: 128, torch.bfloat16: 256}
"""From this number of channels on, Winograd's method is faster in spite of its transforms (see `_tiled_from`)."""
ENOUGH_CHANNELS = 16
"""The last convolution computes four pixels at once from this number of channels on: its 8x8 kernel over 8 channels is
wrong in bfloat16 on processors with AMX (oneDNN 3 in PyTorch 2.13)."""


def rewritten(model: FirstOrderModel, dtype: torch.dtype = torch.float32, device: str | None = None) -> FirstOrderModel:
    """Return the fast form of a loaded network, on its device; the network itself is unchanged.

    dtype: the generator's type; weights are folded before they are rounded to it. Keypoints, coordinates and the
    source's features, which are computed once, stay float32. device: the kind that will use it, if the network is
    elsewhere. The fast form is for inference only, and its state dict has names of its own. A network without numbers
    (on the meta device) becomes a fast form without numbers, to be filled.
    """
    fast = deepcopy(model)
    tiled = _tiled_from(dtype, device or model.device.type)
    if fast.photographs is not None:
        fast.photographs = rewritten(fast.photographs, dtype, device)
    generator = _folded(fast.generator.float())
    parts = {
        "dense_motion_network": _DenseMotion(generator.dense_motion_network).to(dtype),
        "warp": _MaskedWarp(),
        "bottleneck": nn.Sequential(*(_Residual(cast(Any, block), dtype, tiled) for block in generator.bottleneck)),
        "up_blocks": generator.up_blocks.to(dtype),
        "final": _Colours(generator.final, exact=not generator.keep_visible).to(dtype),
    }
    for name, part in parts.items():
        setattr(generator, name, part)
    _folded(fast.kp_detector)
    for exact in (fast.eye_reader, fast.matte):
        if exact is not None:
            _folded(exact)
    for small in (fast.close_ups, fast.border):
        if small is not None:
            _folded(small).to(dtype)
    fast.requires_grad_(False).eval()
    if fast.device.type != "meta":
        fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fast


# --- blocks ----------------------------------------------------------------------------------------------


class _Convolution(nn.Module):
    """A convolution, in the precision of its weights."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x.to(next(self.conv.parameters()).dtype)))


class _Same(_Convolution):
    """Convolution and ReLU."""

    def __init__(self, block: SameBlock) -> None:
        super().__init__(fold_norm(block.conv, block.norm))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


class _Down(_Same):
    """Convolution, ReLU, 2x2 average."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(super().forward(x), 2)


class _Up(_Same):
    """Transposed convolution to twice the side, and ReLU."""

    def __init__(self, block: UpBlock) -> None:
        super().__init__(block)
        self.conv = doubling(cast(nn.Conv2d, self.conv))


class _Residual(nn.Module):
    """x + conv2(relu(conv1(relu(scale x + shift)))): the first norm is before its ReLU and can't be folded.

    dtype: of the convolutions; x is float32 before and after, since half precision would round it again at each block.
    tiled: see `_tiled_from`.
    """

    def __init__(self, block: ResidualBlock, dtype: torch.dtype, tiled: float) -> None:
        super().__init__()
        self.dtype = dtype
        scale, shift = affine(block.norm1)
        self.scale = nn.Parameter(scale[:, None, None])
        self.shift = nn.Parameter(shift[:, None, None])
        self.conv1, self.conv2 = (
            Winograd(conv, dtype) if conv.in_channels >= tiled else conv.to(dtype)
            for conv in (fold_norm(block.conv1, block.norm2), block.conv2)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = torch.addcmul(self.shift, x, self.scale).relu_().to(self.dtype)
        return x + self.conv2(self.conv1(active).relu_())


class _Colours(_Convolution):
    """A convolution with odd kernel k to few channels, for 2x2 pixels at once: kernel k + 1, stride 2, shuffled.

    Sides must be even, as those of an hourglass's pictures always are. exact: compute the colours' sigmoid in
    float32, since bfloat16 has steps of about a byte's level; if the source is blended in, it must have the source's
    precision.
    """

    def __init__(self, conv: nn.Conv2d, *, exact: bool) -> None:
        enough = conv.in_channels >= ENOUGH_CHANNELS
        super().__init__(four_at_once(conv) if enough else conv)
        self.pixels = 2 if enough else 1
        self.exact = exact

    def forward(self, x: Tensor) -> Tensor:
        logits = F.pixel_shuffle(super().forward(x), self.pixels)
        return logits.float() if self.exact else logits


class InFloat(_Convolution):
    """A convolution with weights in half precision, computed in float32: for one that half precision does wrongly."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x, in x's precision."""
        return in_float(self.conv, x).to(x.dtype)


def _folded(network: Network) -> Network:
    """Replace every block of a network by its fast form, in place; return the network."""
    forms: dict[type[nn.Module], Callable[[Any], nn.Module]] = {UpBlock: _Up, DownBlock: _Down, SameBlock: _Same}
    for name, child in network.named_children():
        if type(child) in forms:
            setattr(network, name, forms[type(child)](child))
        else:
            _folded(child)
    return network


# --- convolutions ----------------------------------------------------------------------------------------


def affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and shift, [C] each, of a batch norm in inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if norm.weight.is_meta:
        return norm.weight, norm.bias
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return scale.float(), shift.float()


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the convolution that equals norm(conv(x))."""
    scale, shift = affine(norm)

    def numbers() -> tuple[Tensor, Tensor]:
        assert conv.bias is not None
        return conv.weight * scale[:, None, None, None], conv.bias * scale + shift

    return _convolution(conv, numbers)


def doubling(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """Return the transposed convolution that equals conv(nearest-neighbour doubling of x), for a 3x3 kernel.

    Along one axis the even pixel 2i is w0 x[i-1] + (w1 + w2) x[i], the odd one (w0 + w1) x[i] + w2 x[i+1].
    """
    up = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1, device="meta")
    if not conv.weight.is_meta:
        taps = conv.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        up.weight = nn.Parameter((taps @ conv.weight @ taps.T).transpose(0, 1).contiguous())
        up.bias = conv.bias
    return up


def four_at_once(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution of stride 2 whose channels become conv's 2x2 pixels by `pixel_shuffle`."""

    def numbers() -> tuple[Tensor, Tensor]:
        assert conv.bias is not None
        shifted = [F.pad(conv.weight, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1)]
        weight = torch.stack(shifted, dim=1).flatten(0, 1)  # pixel_shuffle's order: colour, row, column
        return weight, conv.bias.repeat_interleave(4)

    return _convolution(conv, numbers, outputs=4 * conv.out_channels, larger=1, stride=2)


def _convolution(
    like: nn.Conv2d,
    numbers: Callable[[], tuple[Tensor, Tensor]],
    *,
    outputs: int | None = None,
    larger: int = 0,
    stride: int = 1,
) -> nn.Conv2d:
    """Return a convolution with another one's inputs and padding, filled with numbers if that one is."""
    height, width = (side + larger for side in like.kernel_size)
    padding = cast(tuple[int, int], like.padding)
    outputs = outputs or like.out_channels
    conv = nn.Conv2d(like.in_channels, outputs, (height, width), stride=stride, padding=padding, device="meta")
    if not like.weight.is_meta:
        conv.weight, conv.bias = map(nn.Parameter, numbers())
    return conv


def _tiled_from(dtype: torch.dtype, device: str) -> float:
    """Return the number of channels from which on 3x3 convolutions are faster by Winograd's method.

    In bfloat16 it is faster with AVX-512, and slower with AMX; elsewhere it was not measured, and is not used.
    """
    if device != "cpu" or (dtype != torch.float32 and bf16_unit() != "avx512_bf16"):
        return math.inf
    return MANY_CHANNELS.get(dtype, math.inf)


def in_float(conv: nn.Module, x: Tensor) -> Tensor:
    """Return what a convolution of any form makes of x, computed in float32 by PyTorch's own."""
    plain = conv.conv if isinstance(conv, Winograd) else conv
    assert isinstance(plain, (nn.Conv2d, nn.ConvTranspose2d))
    convolve = F.conv_transpose2d if isinstance(plain, nn.ConvTranspose2d) else F.conv2d
    bias = None if plain.bias is None else plain.bias.float()
    padding = cast(tuple[int, int], plain.padding)
    return convolve(x.float(), plain.weight.float(), bias, stride=plain.stride, padding=padding)


# --- dense motion ----------------------------------------------------------------------------------------


class _DenseMotion(nn.Module):
    """Dense motion with the K + 1 motions of a pixel next to each other in memory.

    The hourglass's channels are ordered by kind here (heat maps, reds, greens, blues), not by keypoint, and one
    convolution computes the masks and the occlusion map.
    """

    def __init__(self, network: DenseMotionNetwork) -> None:
        super().__init__()
        self.down = network.down if hasattr(network, "down") else nn.Identity()
        self.centred_grid = network.centred_grid
        self.maps = network.mask.out_channels  # K + 1
        first = cast(nn.Conv2d, cast(_Same, network.hourglass.encoder.down_blocks[0]).conv)
        if not first.weight.is_meta:
            first.weight = nn.Parameter(self._by_kind(first.weight))
        self.hourglass = network.hourglass
        heads = [network.mask] if network.occlusion is None else [network.mask, network.occlusion]

        def numbers() -> tuple[Tensor, Tensor]:
            weight = torch.cat([head.weight for head in heads])
            inputs = weight.shape[1] - first.in_channels  # the hourglass's input is appended to its output
            weight = torch.cat([weight[:, :inputs], self._by_kind(weight[:, inputs:])], dim=1)
            return weight, torch.cat([cast(Tensor, head.bias) for head in heads])

        self.heads = _convolution(network.mask, numbers, outputs=sum(head.out_channels for head in heads))

    def _by_kind(self, weight: Tensor) -> Tensor:
        """Return a kernel, [O, (K + 1) 4, h, w] with its inputs by keypoint, with them by kind."""
        return weight.unflatten(1, (self.maps, -1)).transpose(1, 2).flatten(1, 2)

    def shrink(self, source: Tensor) -> Tensor:
        """Return source [N, 3, H, W] scaled to this network's side."""
        return self.down(source)

    def forward(self, small: Tensor, kp_source: Keypoints, kp_driving: Keypoints) -> DenseMotion:
        """Compute the motion of N driving frames, as `DenseMotionNetwork` does."""
        count, (height, width) = len(kp_driving), small.shape[2:]
        grid = coordinate_grid(height, width, kp_driving.value, self.centred_grid)
        x, y = grid[0, :, 0], grid[:, 0, 1]
        heatmaps = _difference_of_gaussians(height, width, kp_driving.value, kp_source.value)
        maps = _affine_maps(kp_source, kp_driving)
        motions = y[:, None, None, None] * maps[:, None, None, :, 1] + maps[:, None, None, :, 2]
        motions = motions + x[:, None, None] * maps[:, None, None, :, 0]  # [N, h, w, K+1, 2]
        deformed = F.grid_sample(
            small.float().expand(count, -1, -1, -1), motions.flatten(2, 3), mode="bilinear", align_corners=False
        ).unflatten(3, (width, self.maps))  # [N, 3, h, w, K+1]
        channels = torch.cat([heatmaps, *deformed.unbind(1)], dim=-1).to(small.dtype)
        logits = self.heads(self.hourglass(channels.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        mask = logits[..., : self.maps].float().softmax(dim=-1)
        weighted = (mask.flatten(1, 2) @ maps.flatten(2)).view(count, height, width, 3, 2)
        deformation = x[:, None] * weighted[..., 0, :] + y[:, None, None] * weighted[..., 1, :] + weighted[..., 2, :]
        occlusion = logits[..., self.maps :].sigmoid().permute(0, 3, 1, 2)
        return DenseMotion(
            deformation,
            mask.permute(0, 3, 1, 2),
            deformed.permute(0, 4, 1, 2, 3),
            occlusion if occlusion.shape[1] else None,
        )


def _difference_of_gaussians(height: int, width: int, driving: Tensor, source: Tensor) -> Tensor:
    """Return [N, h, w, K+1] for points [N or 1, K, 2]: driving minus source Gaussians, zero for the background."""
    grid = coordinate_grid(height, width, driving)
    x, y = grid[0, :, 0], grid[:, 0, 1]

    def factors(points: Tensor) -> tuple[Tensor, Tensor]:
        along_x = torch.exp((x[:, None] - points[:, None, :, 0]) ** 2 / (-2 * KEYPOINT_VARIANCE))
        along_y = torch.exp((y[:, None] - points[:, None, :, 1]) ** 2 / (-2 * KEYPOINT_VARIANCE))
        return F.pad(along_x, (1, 0))[:, None], F.pad(along_y, (1, 0))[:, :, None]

    (driving_x, driving_y), (source_x, source_y) = factors(driving), factors(source)
    return (driving_x * driving_y).sub_(source_x * source_y)


def _affine_maps(source: Keypoints, driving: Keypoints) -> Tensor:
    """Return [N, K+1, 3, 2]: the factors of x, y and 1 in T_{S<-D} (eq. 4), the identity first."""
    count, points, _ = driving.value.shape
    identity = torch.eye(2, dtype=driving.value.dtype, device=driving.value.device)
    if source.jacobian is not None and driving.jacobian is not None:
        linear = source.jacobian @ inverse_2x2(driving.jacobian)
    else:
        linear = identity.expand(count, points, 2, 2)
    constant = source.value - (linear @ driving.value[..., None])[..., 0]
    maps = torch.cat([linear.transpose(2, 3), constant[:, :, None]], dim=2)
    return torch.cat([F.pad(identity, (0, 0, 0, 1)).expand(count, 1, 3, 2), maps], dim=1)


# --- warp ------------------------------------------------------------------------------------------------


class _MaskedWarp(nn.Module):
    """Each output pixel is the sum of four source pixels, weighted by distance and occlusion (an embedding bag)."""

    def forward(self, features: Tensor, deformation: Tensor, occlusion: Tensor | None) -> Tensor:
        """Return what `MaskedWarp` does, in the deformation's precision: [N, C, h, w]."""
        pictures, channels, height, width = features.shape
        # A border of zeros for points outside.
        table = F.pad(features.permute(0, 2, 3, 1).to(deformation.dtype), (0, 0, 1, 1, 1, 1))
        x = (deformation[..., 0] + 1) * (width / 2) - 0.5
        y = (deformation[..., 1] + 1) * (height / 2) - 0.5
        left, top = x.floor(), y.floor()
        right_share, bottom_share = x - left, y - top
        if occlusion is None:
            below, above = bottom_share, 1 - bottom_share
        else:
            below = bottom_share * occlusion[:, 0]
            above = occlusion[:, 0] - below
        weights = torch.stack([above, above, below, below], dim=-1)
        weights = weights * torch.stack([1 - right_share, right_share] * 2, dim=-1)
        columns = torch.stack([left, left + 1] * 2, dim=-1).clamp_(-1, width)
        rows = torch.stack([top, top, top + 1, top + 1], dim=-1).clamp_(-1, height)
        index = ((rows + 1) * (width + 2) + columns + 1).nan_to_num_().int()
        if pictures > 1:
            first = torch.arange(pictures, dtype=torch.int, device=index.device) * (height + 2) * (width + 2)
            index += first[:, None, None, None]
        moved = F.embedding_bag(
            index.view(-1, 4), table.view(-1, channels), mode="sum", per_sample_weights=weights.view(-1, 4)
        )
        return moved.view(len(deformation), *deformation.shape[1:3], channels).permute(0, 3, 1, 2)
