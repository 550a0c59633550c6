"""Colour the pixels of a rendered head: skin, eyes, teeth, hair and cloth, under lights (compiled by numba).

Colours and lights are linear. Brows, beard, hairline and neckline are functions of the position on the mesh at rest
(in decimetres), so they need no textures.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from head_mesh import EYE_LEFT, EYE_RIGHT, FRAME, HAIR, SKIN, TEETH, TONGUE
from head_raster import chance, look_up, noise, step
from numba import njit

Colour = tuple[float, float, float]
EYE_CENTRE = (0.3077, 7.2841, 1.2453)  # centre of the left eyeball at rest
PLAIN, ACROSS, UPRIGHT, MOTTLED = range(4)  # patterns of cloth


class Looks(NamedTuple):
    """What an identity looks like, apart from its shape."""

    seed: float
    soft: Colour  # how far light of each colour reaches into the skin's shaded side
    shine: float
    gloss: float  # exponent of the skin's highlight
    grain: float
    mottle: float
    blotches: float
    lip: Colour
    lip_cover: float
    lip_shine: float
    eye_shadow: float
    brow: Colour
    brow_from: float  # where a brow begins and ends, from the middle
    brow_to: float
    brow_height: float
    brow_rise: float
    brow_bend: float
    brow_thick: float
    brow_dense: float
    beard: float  # density, 0 for none
    beard_jaw: float
    beard_moustache: float
    beard_cheek: float
    stubble: float  # density of the very short hair on the skull
    hairline: float
    hair: Colour
    hair_shine: float
    hair_highlight: float
    iris: Colour
    iris_size: float  # radians
    pupil_size: float
    eye_shine: float
    tooth: Colour
    tooth_width: float  # teeth per radian
    cloth: Colour
    neckline: float
    neck_slope: float
    neck_depth: float
    pattern: int
    pattern_scale: float
    frame: Colour


class Lights(NamedTuple):
    """Lights. Directions point towards the light. Ambient light is a constant plus a slope along each axis."""

    key: Colour
    key_from: Colour
    key_soft: float  # radius of the shadow's edge, in pixels of its map
    fill: Colour
    fill_from: Colour
    ambient: Colour
    ambient_x: Colour
    ambient_y: Colour
    ambient_z: Colour


@njit(cache=True, fastmath=True)
def mix(a: Colour, b: Colour, t: float) -> Colour:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


@njit(cache=True, fastmath=True)
def times(a: Colour, t: float) -> Colour:
    return a[0] * t, a[1] * t, a[2] * t


@njit(cache=True, fastmath=True)
def brow_cover(x: float, y: float, looks: Looks) -> float:
    """Return how much of the skin a brow covers at (|x|, y): hairs along an arch, thinner at the outer end."""
    along = (x - looks.brow_from) / (looks.brow_to - looks.brow_from)
    if not -0.12 < along < 1.12:
        return 0.0
    middle = looks.brow_height + looks.brow_rise * along - looks.brow_bend * along * along
    thick = looks.brow_thick * (1 - 0.75 * max(0.0, along)) * step(-0.12, 0.08, along) * (1 - step(0.9, 1.12, along))
    away = abs(y - middle) / max(thick, 0.004)
    if away > 1.4:
        return 0.0
    hairs = noise(x * 70 + y * 40 * (1 - along), y * 60 - x * 45 + looks.seed)
    return min((1 - step(0.55, 1.3, away)) * (0.35 + 0.9 * hairs) * looks.brow_dense, 1.0)


@njit(cache=True, fastmath=True)
def beard_cover(x: float, y: float, z: float, lips: float, looks: Looks) -> float:
    """Return how much a beard covers: along the jaw, above the upper lip and on the cheeks, but not on the lips."""
    side = 0.25 * step(0.3, 0.75, x)
    jaw = step(6.95 + side, 6.55 + side, y)
    moustache = step(0.30, 0.2, x) * step(6.84, 6.79, y + 0.12 * x) * step(6.60, 6.66, y)
    moustache *= step(1.64, 1.60, z + 0.15 * step(6.78, 6.84, y))
    cheek = step(7.2, 6.9, y) * step(0.55, 0.7, x) * step(0.75, 0.9, z) * looks.beard_cheek
    cover = max(jaw * looks.beard_jaw, moustache * looks.beard_moustache, cheek) * step(6.0, 6.25, y) * (1 - lips)
    hairs = 0.5 * noise(x * 170 + looks.seed, y * 80 + z * 70) + 0.5 * noise(x * 60 + looks.seed, y * 30 + z * 25)
    return min(cover * (0.45 + 0.75 * hairs) * looks.beard, 0.95)


@njit(cache=True, fastmath=True)
def stubble_cover(x: float, y: float, z: float, looks: Looks) -> float:
    """Return how much very short hair covers: above a line from the forehead down to the neck; hardly on the ears."""
    over = y - (looks.hairline - 1.15 * step(1.15, 0.35, z) + 0.1 * (noise(x * 9, z * 9 + looks.seed) - 0.5))
    cover = step(-0.06, 0.1, over) * looks.stubble * (0.55 + 0.7 * noise(x * 70 + looks.seed, y * 60 + z * 60))
    if abs(x) > 0.66 and z < 0.75 and y < 7.35:
        cover *= 0.1
    return min(cover, 0.97)


@njit(cache=True, fastmath=True)
def skin_colour(u, v, x, y, z, skin, lips, lids, mouth, looks):
    """Return the colour and shine of skin, with the hair that grows on it."""
    c = look_up(skin[0], u, v), look_up(skin[1], u, v), look_up(skin[2], u, v)
    shine = looks.shine
    fine = noise(x * 90 + looks.seed, y * 90 + z * 40) - 0.5
    middle = noise(x * 35, y * 35 + looks.seed) - 0.5
    c = times(c, 1 + looks.grain * fine + looks.mottle * middle)
    red = looks.blotches * (noise(x * 4 + looks.seed, y * 4 + z * 3) - 0.5)
    c = c[0] * (1 + 0.6 * red), c[1] * (1 - 0.5 * red), c[2] * (1 - 0.4 * red)
    if y <= 6.0 and z <= 0.6:
        return c, shine
    lip = look_up(lips, u, v)
    if lip > 0.02:
        c = mix(c, looks.lip, lip * looks.lip_cover)
        shine += lip * looks.lip_shine
    if look_up(mouth, u, v) > 0.3:
        c = c[0] * 0.5, c[1] * 0.4, c[2] * 0.4
        shine *= 0.3
    if looks.eye_shadow > 0:
        c = times(c, 1 - 0.75 * look_up(lids, u, v) * looks.eye_shadow)
    hair = 0.0
    if z > 0.9 and 0.07 < abs(x) < 0.68 and y > 7.25:
        hair = brow_cover(abs(x), y, looks)
    if looks.beard > 0 and y < 7.25:
        hair = max(hair, beard_cover(abs(x), y, z, lip, looks))
    if looks.stubble > 0:
        hair = max(hair, stubble_cover(x, y, z, looks))
    return mix(c, looks.brow, hair), shine * (1 - hair)


@njit(cache=True, fastmath=True)
def cloth_colour(x, y, z, edge, looks):
    pattern = 1.0
    if looks.pattern == ACROSS:
        pattern = 0.7 if (y * looks.pattern_scale) % 1.0 < 0.5 else 1.1
    elif looks.pattern == UPRIGHT:
        pattern = 0.7 if (x * looks.pattern_scale) % 1.0 < 0.5 else 1.1
    elif looks.pattern == MOTTLED:
        pattern = 0.75 + 0.5 * noise(x * looks.pattern_scale, y * looks.pattern_scale + z * 2)
    pattern *= 0.85 + 0.3 * noise(x * 120, y * 120 + z * 60)
    return times(looks.cloth, pattern * (0.75 if y > edge - 0.06 else 1.0))


@njit(cache=True, fastmath=True)
def eye_colour(x, y, z, left, looks):
    """Return the colour of white, iris or pupil, by the angle from the direction in which the eye looks at rest."""
    dx, dy, dz = x - (EYE_CENTRE[0] if left else -EYE_CENTRE[0]), y - EYE_CENTRE[1], z - EYE_CENTRE[2]
    away = math.acos(min(max(dz / (math.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9), -1.0), 1.0))
    veins = noise(x * 40, y * 40)
    pink = step(0.7, 1.25, away)
    white = (
        (0.72 + 0.06 * veins) * (1 - 0.1 * pink),
        (0.66 + 0.05 * veins) * (1 - 0.35 * pink),
        (0.63 + 0.05 * veins) * (1 - 0.35 * pink),
    )
    s = away / looks.iris_size
    fibres = 0.65 + 0.7 * noise(math.atan2(dy, dx) * 9, s * 2 + 7)
    iris = times(looks.iris, fibres * (1 - 0.65 * step(0.72, 1.0, s)) * (1 + 0.45 * (1 - step(0.35, 0.65, s))))
    c = mix(white, iris, 1 - step(looks.iris_size - 0.05, looks.iris_size + 0.045, away))
    return mix(c, (0.005, 0.005, 0.005), 1 - step(looks.pupil_size - 0.03, looks.pupil_size + 0.03, away))


@njit(cache=True, fastmath=True)
def tooth_colour(x, y, z, looks):
    """Return the colour of a row of teeth: lines between them, gums above and below, and dark far back at the sides."""
    angle = math.atan2(x, z - 0.85)
    place = angle * looks.tooth_width
    near_gap = abs(place % 1.0 - 0.5) * 2
    shade = (1.04 + 0.18 * chance(math.floor(place) + 50, 3)) * (1 - 0.35 * step(0.66, 1.0, near_gap))
    rounded = 0.025 * near_gap * near_gap  # gums reach further between teeth
    gum = max(step(6.72, 6.75, y + rounded), step(6.57, 6.54, y - rounded))
    return times(mix(times(looks.tooth, shade), (0.38, 0.12, 0.11), gum), 1 - 0.95 * step(0.42, 0.88, abs(angle)))


@njit(cache=True, fastmath=True)
def lit(light: Colour, facing: float, soft: Colour, share: float) -> Colour:
    """Return the light on a surface. soft: how far light of each colour reaches into the shaded side."""
    r = max((facing + soft[0]) / (1 + soft[0]), 0.0) * light[0] * share
    g = max((facing + soft[1]) / (1 + soft[1]), 0.0) * light[1] * share
    b = max((facing + soft[2]) / (1 + soft[2]), 0.0) * light[2] * share
    return r, g, b


@njit(cache=True, fastmath=True)
def in_light(px, py, pz, x, y, shadow, to_shadow, bias, soft):
    """Return the share of eight points around this one, on the shadow map, that the key light reaches."""
    side = shadow.shape[0]
    sx = px * to_shadow[0, 0] + py * to_shadow[0, 1] + pz * to_shadow[0, 2] + to_shadow[0, 3]
    sy = px * to_shadow[1, 0] + py * to_shadow[1, 1] + pz * to_shadow[1, 2] + to_shadow[1, 3]
    sz = px * to_shadow[2, 0] + py * to_shadow[2, 1] + pz * to_shadow[2, 2] + to_shadow[2, 3]
    turn, reached, asked = chance(x, y) * 6.283, 0.0, 0.0
    for q in range(8):
        radius = soft * (0.3 + 0.7 * ((q * 5) % 8) / 7.0)
        i, j = int(sx + math.cos(q * 0.785 + turn) * radius), int(sy + math.sin(q * 0.785 + turn) * radius)
        if 0 <= i < side and 0 <= j < side:
            asked += 1
            reached += sz > shadow[j, i] - bias
    return reached / asked if asked > 0 else 1.0


@njit(cache=True, fastmath=True)
def shade(
    face, shares, triangles, material, points, normal, uv, rest, open_, skin, lips, lids, mouth, brightness,
    looks, lights, shadow, to_shadow, bias, out,
):  # fmt: skip
    """Colour every pixel that shows a triangle. Writes out [n, n, 3], linear light."""
    side = face.shape[0]
    for y in range(side):
        for x in range(side):
            t = face[y, x]
            if t < 0:
                continue
            m = material[t]
            i, j, k = triangles[t]
            b1, b2 = shares[y, x, 0], shares[y, x, 1]
            b0 = 1 - b1 - b2
            nx = b0 * normal[i, 0] + b1 * normal[j, 0] + b2 * normal[k, 0]
            ny = b0 * normal[i, 1] + b1 * normal[j, 1] + b2 * normal[k, 1]
            nz = b0 * normal[i, 2] + b1 * normal[j, 2] + b2 * normal[k, 2]
            length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            if m != SKIN and m != EYE_LEFT and m != EYE_RIGHT and nz < 0:
                length = -length
            nx, ny, nz = nx / length, ny / length, nz / length
            px = b0 * points[i, 0] + b1 * points[j, 0] + b2 * points[k, 0]
            py = b0 * points[i, 1] + b1 * points[j, 1] + b2 * points[k, 1]
            pz = b0 * points[i, 2] + b1 * points[j, 2] + b2 * points[k, 2]
            u, v = b0 * uv[i, 0] + b1 * uv[j, 0] + b2 * uv[k, 0], b0 * uv[i, 1] + b1 * uv[j, 1] + b2 * uv[k, 1]
            rx = b0 * rest[i, 0] + b1 * rest[j, 0] + b2 * rest[k, 0]
            ry = b0 * rest[i, 1] + b1 * rest[j, 1] + b2 * rest[k, 1]
            rz = b0 * rest[i, 2] + b1 * rest[j, 2] + b2 * rest[k, 2]
            opened = b0 * open_[i] + b1 * open_[j] + b2 * open_[k]
            reached = in_light(px, py, pz, x, y, shadow, to_shadow, bias, lights.key_soft)
            soft, gloss, c, shine = looks.soft, looks.gloss, (0.01, 0.008, 0.008), 0.0
            if m == SKIN:
                edge = (
                    looks.neckline
                    - looks.neck_slope * abs(rx)
                    + looks.neck_depth * (rz - 0.5)
                    + 0.008 * math.sin(rx * 60)
                )
                if ry < edge:
                    c, shine, soft = cloth_colour(rx, ry, rz, edge, looks), 0.02, (0.1, 0.1, 0.1)
                else:
                    c, shine = skin_colour(u, v, rx, ry, rz, skin, lips, lids, mouth, looks)
            elif m in (EYE_LEFT, EYE_RIGHT):
                c, shine, gloss = eye_colour(rx, ry, rz, m == EYE_LEFT, looks), looks.eye_shine, 260.0
                soft, opened, reached = (0.2, 0.15, 0.15), 0.25 + 0.75 * opened, 0.45 + 0.55 * reached
            elif m == TEETH:
                c, shine, gloss = tooth_colour(rx, ry, rz, looks), 0.2, 50.0
                opened, reached = 0.25 + 0.75 * opened, 0.4 + 0.6 * reached  # teeth are a little translucent
            elif m == TONGUE:
                back = 0.15 + 0.85 * step(0.95, 1.35, rz)  # light hardly reaches the back of the mouth
                c = times((0.36, 0.12, 0.11), back * (0.8 + 0.4 * noise(rx * 40, rz * 40)))
                shine, gloss = 0.15, 30.0
            elif m == FRAME:
                c, shine, gloss = looks.frame, 0.5, 60.0
            elif m == HAIR:
                bright = look_up(brightness, u, v)
                c = times(looks.hair, bright + looks.hair_highlight * max(0.0, bright - 1.0))
                soft = (0.35, 0.35, 0.35)
            facing = nx * lights.key_from[0] + ny * lights.key_from[1] + nz * lights.key_from[2]
            key = lit(lights.key, facing, soft, reached)
            if m == SKIN:  # at the edge of a shadow, some red light comes through the skin
                key = key[0] + 0.07 * (1 - reached) * max(facing, 0.0) * lights.key[0], key[1], key[2]
            facing_fill = nx * lights.fill_from[0] + ny * lights.fill_from[1] + nz * lights.fill_from[2]
            fill = lit(lights.fill, facing_fill, soft, 0.3 + 0.7 * opened)
            hx, hy, hz = lights.key_from[0], lights.key_from[1], lights.key_from[2] + 1
            half = (nx * hx + ny * hy + nz * hz) / (math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
            mirror = 0.0
            if m == HAIR:
                mirror = looks.hair_shine * reached * max(half, 0.0) ** 14
            elif half > 0 and facing > 0:
                mirror = shine * reached * half**gloss * (gloss + 8) / 25
            grazing = (1 - max(nz, 0.0)) ** 4 * 0.35 * shine * opened
            for q in range(3):
                around = (
                    lights.ambient[q] + nx * lights.ambient_x[q] + ny * lights.ambient_y[q] + nz * lights.ambient_z[q]
                )
                share = opened + (0.06 * (1 - opened) if m == SKIN and q == 0 else 0.0)
                light = key[q] + fill[q] + max(around, 0.02) * share
                out[y, x, q] = c[q] * light + mirror * lights.key[q] + grazing * lights.ambient[q]
