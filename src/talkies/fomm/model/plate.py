"""Two layers: a person, cut out by a matte, who moves in front of a still background plate.

The generator has one motion for the whole frame, so beside a head that moves it drags the background along and tears
hair, ears and collars. Here the background is filled in once behind the person, the plate, and each frame is the
person, moved alone, over it. A small network makes the person's motion out of the generator's own and of the same
without the background's share, carried on beyond the silhouette; it is trained on rendered heads, whose silhouettes
turn as true ones do (training/train_border.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense_motion import DenseMotion
from .keypoint_detector import Keypoints
from .layers import ShuffledUNet, coordinate_grid, enlarged_deformation, resized, warp
from .matte import grown, head_places, mean_over, shrunk

MARGIN = 0.25
"""What is added around a picture, as a share of its side: hair and shoulders that its frame cuts go on there."""
NEAR = 2
"""Pixels beside the person that the plate does not take from the picture, since some of the person is in them."""
WAVE, STRETCH = 16, 2
"""Rows at a picture's edge that go on beyond it, and how much larger: hair that is seen again unchanged looks woven."""
FAR = 40.0
"""Pixels beside the background up to which the plate is its mirror image."""
ODD = 0.15
"""How far that image may differ from a smooth fill, in blurred colours: a door's edge would frame the head."""
CHIN, LEFT, RIGHT, FOREHEAD, CROWN, NECK = 0, 1, 2, 3, 17, 18
OUTLINE = {LEFT: 1.0, RIGHT: 1.0, CROWN: 1.0, CHIN: 0.5, FOREHEAD: 0.3}
"""The keypoints that carry a head's silhouette, and their weights."""
BODY = 0.6
"""The share of the neck's shift that the body follows."""
OWN = 0.15
"""The largest motion of the border network's own, in [-1, 1] units."""
CALM = 1
"""Over so many places of dense motion what the network chooses is blurred: otherwise it tears silhouettes."""
FACE = 0.35, 0.55
"""The ellipse, in head heights, in which frames are the generator's own: it also paints what a face hides."""


def blurred(x: Tensor, radius: int) -> Tensor:
    """Return the mean over squares about each pixel, twice."""
    return mean_over(mean_over(x, radius), radius)


def filled(x: Tensor, weight: Tensor) -> Tensor:
    """Fill x [N, C, h, w] where weights [N, 1, h, w] are 0 from means over ever larger squares (push-pull)."""
    if min(x.shape[2:]) <= 2:
        mean = (x * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return mean.lerp(x, weight)
    odd = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
    share = F.avg_pool2d(F.pad(weight, odd), 2)
    small = F.avg_pool2d(F.pad(x * weight, odd), 2) / share.clamp(min=1e-6)
    small = filled(small, (4 * share).clamp(max=1))
    return F.interpolate(small, size=x.shape[2:], mode="bilinear").lerp(x, weight)


def reflected(picture: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the background reflected at the person's left and right borders, [1, 3, H, W], and how far to trust it.

    keep: 1 where the picture shows background, [1, 1, H, W].
    """
    width = picture.shape[-1]
    column = torch.arange(width, device=picture.device, dtype=picture.dtype).expand_as(keep)
    total, weight = torch.zeros_like(picture), torch.zeros_like(keep)
    for turn in ((), (3,)):
        seen = keep.flip(turn)
        border = torch.where(seen > 0, column, -width).cummax(3).values
        border = F.avg_pool2d(border, (9, 1), 1, (4, 0), count_include_pad=False)  # else it jags
        there = (2 * (border - 2) - column).round()
        index = there.clamp(0, width - 1).long()
        share = (there >= 0) * seen.gather(3, index) / (column - border).clamp(min=1)
        colours = picture.flip(turn).gather(3, index.expand_as(picture))
        total, weight = total + (share * colours).flip(turn), weight + share.flip(turn)
    return total / weight.clamp(min=1e-6), (FAR * weight - 1).clamp(0, 1)


def fill_background(picture: Tensor, alpha: Tensor) -> Tensor:
    """Return the plate of a picture [1, 3, H, W] with a matte [1, 1, H, W]: the background, also behind the person.

    Near the background it is its mirror image where that has the colours of a smooth fill, and elsewhere the fill.
    """
    keep = 1 - grown((alpha > 0.1).float(), NEAR)
    smooth = filled(picture, keep)
    for radius in (8, 4, 2, 1) * 2:
        smooth = mean_over(smooth, radius).lerp(picture, keep)
    mirror, trust = reflected(picture, keep)
    off = blurred(mirror - smooth, 3).abs().amax(1, keepdim=True)
    trust = trust * (1.5 - off / ODD).clamp(0, 1)
    plate = smooth.lerp(mirror, shrunk(trust, 2) * blurred(trust, 3)).lerp(picture, keep)
    seam = blurred(grown(keep, 2) - shrunk(keep, 2), 1)
    return plate.lerp(blurred(plate, 1), seam)


def continued(x: Tensor, margin: int, dim: int) -> Tensor:
    """Return x with a margin along a dimension: to and fro over its outermost WAVE rows, enlarged STRETCH times."""
    side = x.shape[dim]
    away = torch.arange(-margin, side + margin, device=x.device)
    out = torch.maximum(-1 - away, away - side).clamp(min=0) / STRETCH % (2 * WAVE)
    out = torch.minimum(out, 2 * WAVE - 1 - out)
    row = torch.where(away < 0, out, torch.where(away >= side, side - 1 - out, away)).clamp(0, side - 1)
    low = row.long()
    share = (row - low).view([-1 if d == dim else 1 for d in range(x.ndim)])
    return x.index_select(dim, low).lerp(x.index_select(dim, (low + 1).clamp(max=side - 1)), share)


def arc(cut: Tensor, height: int) -> Tensor:
    """Return a matte beyond an edge of a picture, [height, n], whose places cut [n] are the person: arcs over these."""
    place = torch.arange(len(cut), device=cut.device, dtype=torch.float32)
    ends = torch.cat([place[~cut], place.new_tensor([-1, len(cut)])])
    inwards = (place[:, None] - ends).abs().amin(1)
    top = 0.4 * (inwards * (2 * inwards.max() - inwards)).sqrt() * cut
    return (top - place[:height, None]).clamp(0, 1)


def cut_out(picture: Tensor, alpha: Tensor) -> Tensor:
    """Return the person alone, [1, 4, H + 2M, W + 2M]: colours without the background's, and the matte.

    Colours at the matte's border come from inside. In the margin the outermost colours go on, below the last row's
    alone: a collar seen again upside down is a bow. The matte ends in arcs above and at the sides, and goes on below.
    """
    sure = (shrunk(alpha, 2) > 0.9).float()
    front = filled(picture, sure).lerp(picture, ((alpha - 0.5) / 0.45).clamp(0, 1))
    margin = round(MARGIN * alpha.shape[-1])
    colours = continued(front, margin, 2)
    colours[..., -margin:, :] = front[..., -1:, :]
    colours = continued(colours, margin, 3)
    wide = F.pad(alpha, (margin,) * 4, mode="replicate")
    wide[0, 0, :margin] = arc(wide[0, 0, margin] > 0.5, margin).flip(0)
    for side, turn in ((wide[0, 0, :, :margin], (1,)), (wide[0, 0, :, -margin:], ())):
        cut = side.flip(turn)[:, 0] > 0.5
        both = arc(torch.cat([cut, cut.flip(0)]), margin)[:, : len(cut)]  # mirrored, as it does not end below
        side.copy_(torch.minimum(side, both.T.flip(turn)))
    return torch.cat([colours, wide], dim=1)


def seen_through(cutout: Tensor, deformation: Tensor) -> Tensor:
    """Sample a cutout (`cut_out`) at a deformation [N, h, w, 2] of its picture: [N, 4, h, w]."""
    return warp(cutout.expand(len(deformation), -1, -1, -1), deformation / (1 + 2 * MARGIN), padding="border")


def outline_motion(value_source: Tensor, value_driving: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return a plain motion of persons, [N, side, side, 2], and how far it is the head's, [N, side, side].

    The head moves by the similarity that carries its outline; below the chin this gives way to a share of the neck's
    shift, and that to rest at the picture's lower edge.
    """
    points = list(OUTLINE)
    weight = torch.tensor(list(OUTLINE.values()), device=value_source.device)
    weight = (weight / weight.sum())[:, None]
    there, here = value_source[:, points], value_driving[:, points]
    middle_there, middle_here = ((weight * p).sum(1, keepdim=True) for p in (there, here))
    a, b = (torch.view_as_complex((p - m).contiguous()) for p, m in ((there, middle_there), (here, middle_here)))
    turn = (weight[:, 0] * a * b.conj()).sum(1) / (weight[:, 0] * b.abs() ** 2).sum(1)
    grid = coordinate_grid(side, side, value_driving, centred=True)[None]
    away = torch.view_as_complex((grid - middle_here[:, None]).contiguous())
    head = torch.view_as_real(away * turn[:, None, None]) + middle_there[:, None]
    down = value_driving[:, CHIN] - value_driving[:, FOREHEAD]
    size = down.norm(dim=-1, keepdim=True)
    axis = down / size
    along = ((grid - value_driving[:, CHIN][:, None, None]) * axis[:, None, None]).sum(-1) / size[:, None]
    neck = (((value_driving[:, NECK] - value_driving[:, CHIN]) * axis).sum(-1) / size[:, 0]).clamp(0.25, 0.7)
    far = ((along + 0.05) / (neck[:, None, None] + 0.05)).clamp(0, 1)
    share = 1 - far * far * (3 - 2 * far)
    shift = BODY * (value_source[:, NECK] - value_driving[:, NECK])[:, None, None]
    body = grid + shift * ((1 - grid[..., 1:]) / 0.5).clamp(0, 1)
    return body.lerp(head, share[..., None]), share


def carried_outwards(motion: Tensor, background: Tensor, outline: Tensor, inside: Tensor) -> Tensor:
    """Return motions [N, h, w, 2] without the background's share [N, 1, h, w], carried on beyond the silhouette.

    outline: the motion whose differences from this are carried on. inside: the silhouette moved by it, [N, 1, h, w].
    """
    height, width = motion.shape[1:3]
    still = coordinate_grid(height, width, motion, centred=True)
    own = 1 - background.permute(0, 2, 3, 1)
    alone = (motion - still * (1 - own)) / own.clamp(min=0.05)
    sure = (1 - background).clamp(0, 1) ** 2 * (shrunk(inside, 2) > 0.5)
    rest = filled((alone - outline).permute(0, 3, 1, 2), sure)
    return outline + torch.where(sure > 0.3, rest, blurred(rest, 1)).permute(0, 2, 3, 1)


class BorderNetwork(ShuffledUNet):
    """Makes the person's motion: a share of each of four motions, and a remainder."""

    def __init__(self) -> None:
        super().__init__(23, 6, (32, 48, 64))
        nn.init.normal_(self.last.weight, std=1e-3)
        bias = torch.zeros(6, 4)
        bias[2] = 1  # the motion carried outwards
        self.last.bias = nn.Parameter(bias.flatten())

    def motion(
        self, cutout: Tensor, deformation: Tensor, background: Tensor, occlusion: Tensor, there: Tensor, here: Tensor
    ) -> Tensor:
        """Return the person's motion, [N, h, w, 2].

        cutout: at the deformation's side (`cut_out`). deformation, background, occlusion: of the generator, in
        float32. there, here: values of the source's and the driving keypoints, [N, K, 2].
        """
        side = deformation.shape[1]
        still = coordinate_grid(side, side, deformation, centred=True).expand_as(deformation)
        outline, share = outline_motion(there, here, side)
        carried = carried_outwards(deformation, background, outline, seen_through(cutout, outline)[:, 3:])
        motions = deformation, outline, carried, still
        moves = deformation - still, outline - still, carried - deformation
        seen = [
            *((8 * move.permute(0, 3, 1, 2)).clamp(-3, 3) for move in moves),
            *(background, occlusion, share[:, None], still.permute(0, 3, 1, 2)),
            *(seen_through(cutout, motion) for motion in (deformation, carried, still)),
        ]
        raw = self(torch.cat(seen, dim=1)).float()
        shares = raw[:, :4].softmax(1)
        chosen = torch.stack([s[..., None] * m for s, m in zip(shares.unbind(1), motions, strict=True)]).sum(0)
        more = (chosen - carried).permute(0, 3, 1, 2) + OWN * torch.tanh(raw[:, 4:])
        return carried + blurred(more, CALM).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Layers:
    """A picture's two layers: the person (`cut_out`) at the full side and at dense motion's, and the plate."""

    cutout: Tensor
    small: Tensor
    plate: Tensor

    @classmethod
    def of(cls, picture: Tensor, alpha: Tensor, side: int) -> Layers:
        """Cut a picture [1, 3, H, W] by its matte. side: dense motion's."""
        cutout = cut_out(picture, alpha)
        small = F.avg_pool2d(cutout, picture.shape[-1] // side)
        return cls(cutout, small, fill_background(picture, alpha))

    def frames(
        self, network: BorderNetwork, made: DenseMotion, single: Tensor, kp_source: Keypoints, kp_driving: Keypoints
    ) -> Tensor:
        """Return the frames of this motion, made from both layers, float32 [N, 3, H, W].

        single: the generator's own frames, which stay within the face.
        """
        assert made.occlusion is not None
        there, here = kp_source.value.expand(len(kp_driving), -1, -1), kp_driving.value
        motion = network.motion(
            self.small, made.deformation, made.mask[:, :1].float(), made.occlusion.float(), there, here
        )
        person = seen_through(self.cutout, enlarged_deformation(motion, self.plate.shape[2:]))
        colours, alpha = person.split((3, 1), 1)
        place = head_places(here, motion.shape[1]) / motion.new_tensor(FACE)
        face = (2 - 2 * place.square().sum(-1)).clamp(0, 1)[:, None]
        colours = colours.lerp(single, resized(face, colours.shape[2:]))
        return self.plate.lerp(colours, alpha)
