"""Draw triangles as pixels: depth buffer, normals, visibility and flow (compiled by numba).

A screen point is (x, y, depth) in pixels; depth grows towards the viewer. uv are places in a texture, with v upwards;
textures are interpolated bilinearly.
"""

from __future__ import annotations

import math

import numpy as np
from head_mesh import FRAME, HAIR, LASHES, TEETH, TONGUE
from numba import njit

LASH_COVER = 0.33  # share of pixels that a sheet of lashes covers


@njit(cache=True, fastmath=True)
def chance(a: int, b: int) -> float:
    """Return a pseudo-random number in [0, 1], always the same for the same two integers."""
    h = (a * 374761393 + b * 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65535.0


@njit(cache=True, fastmath=True)
def noise(x: float, y: float) -> float:
    """Return smooth noise in [0, 1], with about one bump per unit."""
    i, j = math.floor(x), math.floor(y)
    fx, fy = x - i, y - j
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    a, b, c, d = chance(i, j), chance(i + 1, j), chance(i, j + 1), chance(i + 1, j + 1)
    return a + (b - a) * fx + (c - a) * fy + (a - b - c + d) * fx * fy


@njit(cache=True, fastmath=True)
def step(a: float, b: float, x: float) -> float:
    """Return 0 at a, 1 at b, and a smooth step between. a may be larger than b."""
    t = min(max((x - a) / (b - a), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@njit(cache=True, fastmath=True)
def look_up(texture: np.ndarray, u: float, v: float) -> float:
    """Return the value of a texture [H, W] at a place. The texture repeats."""
    height, width = texture.shape
    x = max((u % 1.0) * width - 0.5, 0.0)
    y = max((1 - v % 1.0) * height - 0.5, 0.0)
    i, j = int(x), int(y)
    fx, fy = x - i, y - j
    right, below = min(i + 1, width - 1), min(j + 1, height - 1)
    above = texture[j, i] * (1 - fx) + texture[j, right] * fx
    return above * (1 - fy) + (texture[below, i] * (1 - fx) + texture[below, right] * fx) * fy


@njit(cache=True, fastmath=True)
def rasterise(screen, triangles, material, uv, alpha, least, seed, cull, depth, face, shares):
    """Draw triangles into depth [n, n], face [n, n] (-1: none) and shares [n, n, 2] of the second and third corner.

    Hair is drawn where its alpha passes a random threshold, new for each pixel, so thin hair looks thin. cull: leave
    out triangles that face away, except hair, teeth, lashes, tongue and glasses, which are visible from both sides.
    """
    side = depth.shape[0]
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t]
        x0, y0, x1, y1, x2, y2 = screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        m = material[t]
        if cull and area > 0 and m != HAIR and m != TEETH and m != LASHES and m != TONGUE and m != FRAME:
            continue
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(side - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(side - 1, math.floor(max(y0, y1, y2) - 0.5))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                b1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
                b2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
                b0 = 1 - b1 - b2
                if b0 < 0 or b1 < 0 or b2 < 0:
                    continue
                z = b0 * screen[i, 2] + b1 * screen[j, 2] + b2 * screen[k, 2]
                if z <= depth[y, x]:
                    continue
                if m == HAIR:
                    u = b0 * uv[i, 0] + b1 * uv[j, 0] + b2 * uv[k, 0]
                    v = b0 * uv[i, 1] + b1 * uv[j, 1] + b2 * uv[k, 1]
                    if look_up(alpha, u, v) < least + (0.9 - least) * 0.8 * chance(x + seed, y + t * 7):
                        continue
                elif m == LASHES and chance(x + seed, y + t * 31) > LASH_COVER:
                    continue
                depth[y, x], face[y, x] = z, t
                shares[y, x, 0], shares[y, x, 1] = b1, b2


def buffers(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return empty depth, face and shares buffers for `rasterise`."""
    return (
        np.full((side, side), -1e9, np.float32),
        np.full((side, side), -1, np.int32),
        np.zeros((side, side, 2), np.float32),
    )


@njit(cache=True, fastmath=True)
def normals(points, triangles, vertex, count):
    """Return unit normals [count, 3] of vertices. points [C, 3] are the corners, vertex [C] the vertex of each."""
    out = np.zeros((count, 3), np.float32)
    for t in range(triangles.shape[0]):
        i, j, k = triangles[t]
        ax, ay, az = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
        bx, by, bz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
        for q in range(3):
            v = vertex[triangles[t, q]]
            out[v, 0] += ay * bz - az * by
            out[v, 1] += az * bx - ax * bz
            out[v, 2] += ax * by - ay * bx
    for v in range(count):
        length = math.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2) + 1e-9
        for q in range(3):
            out[v, q] /= length
    return out


@njit(cache=True, fastmath=True)
def add_open(screen, depth, bias, weight, total):
    """Add weight to total for each corner that is not hidden in the view of this depth buffer."""
    side = depth.shape[0]
    for i in range(screen.shape[0]):
        x, y = int(screen[i, 0]), int(screen[i, 1])
        if not (0 <= x < side and 0 <= y < side) or screen[i, 2] > depth[y, x] - bias:
            total[i] += weight[i]


@njit(cache=True, fastmath=True)
def trace_flow(face, shares, triangles, places, there, there_depth, there_face, slack, flow, visible):
    """Find the position in the source of each place of the target, and whether the source shows it.

    face, shares: the target's buffers. places: [h, w, 2] in pixels of its canvas, from the outer corner. there,
    there_depth, there_face: the source's screen points of all corners, and its depth and face buffers. Writes flow
    [h, w, 2] in [-1, 1] and visible uint8 [h, w]. Background does not move, and outside the canvas nothing is known:
    visible is 2.
    """
    side = there_depth.shape[0]
    for row in range(places.shape[0]):
        for column in range(places.shape[1]):
            px, py = places[row, column, 0], places[row, column, 1]
            x, y = math.floor(px), math.floor(py)
            inside = 0 <= x < face.shape[1] and 0 <= y < face.shape[0]
            t = face[y, x] if inside else -1
            if t < 0:
                flow[row, column, 0], flow[row, column, 1] = px / side * 2 - 1, py / side * 2 - 1
                visible[row, column] = there_face[y, x] < 0 if inside else 2
                continue
            i, j, k = triangles[t]
            b1, b2 = shares[y, x, 0], shares[y, x, 1]
            b0 = 1 - b1 - b2
            sx = b0 * there[i, 0] + b1 * there[j, 0] + b2 * there[k, 0]
            sy = b0 * there[i, 1] + b1 * there[j, 1] + b2 * there[k, 1]
            sz = b0 * there[i, 2] + b1 * there[j, 2] + b2 * there[k, 2]
            # Shares are those of the pixel's centre; a place is as far from it in both pictures.
            flow[row, column, 0] = (sx + px - x - 0.5) / side * 2 - 1
            flow[row, column, 1] = (sy + py - y - 0.5) / side * 2 - 1
            # Hidden only if all visible pixels around it are nearer: a steep surface must not hide itself.
            farthest = 1e9
            cx, cy = math.floor(sx), math.floor(sy)
            for ny in range(cy - 1, cy + 2):
                for nx in range(cx - 1, cx + 2):
                    if 0 <= nx < side and 0 <= ny < side:
                        farthest = min(farthest, there_depth[ny, nx])
            visible[row, column] = 0 <= sx < side and 0 <= sy < side and sz > farthest - slack
