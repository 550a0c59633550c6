"""Render heads that look like small photographs: a wide variety of people, from a seed, in any pose.

:func:`sample_head` makes up a person from a seed. :meth:`Head.render` shows that person in a Posture: a pose as for
drawn portraits (portraits.py), and other motions of a real face. Landmarks are the same as those of drawn portraits,
in the same coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from backdrops import draw_backdrop
from head_identity import (
    HAIR_SHARES,
    between,
    make_glasses,
    sample_camera,
    sample_lights,
    sample_looks,
    sample_person,
    sample_shape,
    sample_skin,
)
from head_mesh import FRAME, HAIR, SHORT_HAIR, HairCards, HeadMesh, load_mesh
from head_raster import add_open, buffers, normals, rasterise
from head_shading import shade
from PIL import Image, ImageFilter
from portraits import CROWN, EYES_AT_REST, LANDMARKS, NECK, PUPILS, Pose

CANVAS = 2  # the canvas is this much larger than the picture
SHADOW_SIDE, OPEN_SIDE = 160, 72  # sides of the maps for shadows and for ambient light
FACE_SHARE = 0.69  # share of the picture's side from chin to crown at scale 1, as in portraits.py
SKULL_ABOVE = 7.5  # height of the skull's vertices at rest


@dataclass(frozen=True)
class Posture:
    """A pose, and more face units (HeadMesh.units, 0..1). lean: more motion on the person's left (1) or right (-1)."""

    pose: Pose = field(default_factory=Pose)
    units: dict[str, float] = field(default_factory=dict)
    lean: float = 0.0


@dataclass(frozen=True)
class View:
    """A rendered picture, and what is needed to trace flow.

    picture: uint8 [size, size, 3]. front: the person's colours alone, sharp, undefined where there is only background,
    uint8 [size, size, 3]. landmarks: [LANDMARKS, 2] in [-1, 1]. ground: share of background, [size, size] in
    [0, 1]. screen: all corners on the canvas, [C, 3]. depth, face, shares: the canvas's buffers (head_raster.py).
    """

    picture: np.ndarray
    front: np.ndarray
    landmarks: np.ndarray
    ground: np.ndarray
    screen: np.ndarray
    depth: np.ndarray
    face: np.ndarray
    shares: np.ndarray


def unit_weights(mesh: HeadMesh, posture: Posture) -> np.ndarray:
    """Return the weight of each face unit, [U]. The person's left is the picture's right."""
    pose, weights = posture.pose, np.zeros(len(mesh.unit_targets), np.float32)

    def use(name: str, amount: float) -> None:
        weights[mesh.units[name]] += amount

    use("jawOpen", 0.95 * pose.mouth)
    use("browInnerUp", 0.7 * max(pose.brow, 0))
    for side, opening, lean in (("Left", pose.eye_right, posture.lean), ("Right", pose.eye_left, -posture.lean)):
        shut = min(max(1 - opening / EYES_AT_REST, -0.25), 1.0)
        use(f"eyeBlink{side}", max(shut, 0))
        use(f"eyeWide{side}", 2 * max(-shut, 0))
        use(f"mouthSmile{side}", 0.9 * max(pose.smile, 0))
        use(f"cheekSquint{side}", 0.5 * max(pose.smile, 0))
        use(f"mouthFrown{side}", 0.8 * max(-pose.smile, 0))
        use(f"browOuterUp{side}", 0.8 * max(pose.brow, 0))
        use(f"browDown{side}", 0.9 * max(-pose.brow, 0))
        # Lids follow the gaze; the eyeballs are turned elsewhere (_expressed).
        use(f"eyeLookDown{side}", 0.7 * max(pose.gaze_y, 0) * (1 - max(shut, 0)))
        use(f"eyeLookUp{side}", 0.7 * max(-pose.gaze_y, 0) * (1 - max(shut, 0)))
        for name, amount in posture.units.items():
            if name + side in mesh.units:
                use(name + side, amount * (1 + lean))
    for name, amount in posture.units.items():
        if name in mesh.units:
            use(name, amount)
    return weights


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the rotation matrix of a pose's angles in degrees: first yaw, then pitch, then roll (clockwise)."""
    y, p, r = (math.radians(a) for a in (yaw, pitch, roll))
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), math.sin(r), 0], [-math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(np.float32)


def _sphere(count: int) -> np.ndarray:
    """Return directions spread over the front and the sides, [count, 3]."""
    k = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 1.75 * k / count), np.pi * (1 + 5**0.5) * k
    out = np.column_stack([np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar) + 0.15, np.cos(polar)])
    return out / np.linalg.norm(out, axis=1, keepdims=True)


DIRECTIONS = _sphere(10)


def across(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two unit vectors that span the plane perpendicular to a direction."""
    x = np.cross([0, 1, 0], direction)
    x /= np.linalg.norm(x) + 1e-9
    return x, np.cross(direction, x)


class Head:
    """One identity, ready to be rendered at ``size`` pixels in any posture."""

    def __init__(self, seed: int, mesh: HeadMesh, size: int = 128) -> None:
        rng = np.random.default_rng([seed, 4242])
        self.mesh, self.size = mesh, size
        person = sample_person(rng)
        self.shape = sample_shape(rng, mesh, person)
        self.skin, colour, tone = sample_skin(rng, mesh, person)
        bald = rng.random() < (0.03 if person.female > 0.5 else 0.2)
        self.looks = sample_looks(rng, person, colour, tone, bald)
        shares = HAIR_SHARES[person.sex]
        name = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
        self.hair: HairCards | None = None if bald else mesh.hair[name]
        self.hair_turns = 1.0 if name in SHORT_HAIR else 0.0  # long hair turns like what it lies on
        self.hair_size = between(rng, 0.7, 1.25)
        self.lights, self.camera = sample_lights(rng), sample_camera(rng)
        self.shoulders = between(rng, 0.4, 1.0)  # share of the head's shift that the shoulders follow
        glasses = make_glasses(rng, mesh, self.shape) if rng.random() < 0.14 else None
        self.glasses = None if glasses is None else glasses[0]
        self.backdrop = draw_backdrop(rng, size)
        self._join(None if glasses is None else glasses[1])
        chin, top = self.shape[mesh.landmarks[8], 1], self.shape[mesh.rest[:, 1] > SKULL_ABOVE, 1].max()
        self.height = float(top - chin)
        nose = self.shape[mesh.landmarks[29], 2]
        self.middle = np.array([0, (top + chin) / 2, nose - 0.25 * self.height], np.float32)
        self.pivot = np.array([0, chin + 0.22 * self.height, self.middle[2] - 0.35 * self.height], np.float32)

    def _join(self, glasses: np.ndarray | None) -> None:
        """Join skin, hair and glasses into one list of corners and one of triangles."""
        mesh, hair = self.mesh, self.hair
        corner, uv, rest = [mesh.corner], [mesh.uv], [mesh.rest[mesh.corner]]
        triangles, material = [mesh.triangles], [mesh.material]
        count, vertices = len(mesh.corner), len(mesh.rest)
        if hair is not None:
            corner.append(hair.vertex + vertices)
            uv.append(hair.uv)
            triangles.append(hair.triangles + count)
            material.append(np.full(len(hair.triangles), HAIR, np.int32))
            count, vertices = count + len(hair.vertex), vertices + len(hair.offset)
        if self.glasses is not None and glasses is not None:
            corner.append(np.arange(len(self.glasses), dtype=np.int32) + vertices)
            uv.append(np.zeros((len(self.glasses), 2), np.float32))
            triangles.append(glasses + count)
            material.append(np.full(len(glasses), FRAME, np.int32))
        self.corner, self.uv = np.concatenate(corner), np.concatenate(uv)
        rest.append(np.zeros((len(self.corner) - len(mesh.corner), 3), np.float32))
        self.rest = np.concatenate(rest).astype(np.float32)
        self.triangles, self.material = np.concatenate(triangles), np.concatenate(material)
        self.alpha = hair.alpha if hair is not None else np.ones((2, 2), np.float32)
        self.brightness = hair.brightness if hair is not None else np.ones((2, 2), np.float32)

    def _expressed(self, posture: Posture) -> tuple[np.ndarray, np.ndarray]:
        """Return all vertices with the posture's expression, head upright, and how far each turns with the head."""
        mesh, pose = self.mesh, posture.pose
        shape = self.shape + (unit_weights(mesh, posture) @ mesh.unit_targets).reshape(-1, 3)
        for ball, inwards in zip(mesh.eyeballs, (-1.7, 1.7), strict=True):
            centre = (shape[ball].max(0) + shape[ball].min(0)) / 2
            look = turned(26 * pose.gaze_x + inwards, 17 * pose.gaze_y + 1.7, 0)
            shape[ball] = (shape[ball] - centre) @ look.T + centre
        parts, turns = [shape], [mesh.turns]
        if self.hair is not None:
            weights = self.hair.weights[..., None]
            parts.append((shape[self.hair.reference] * weights).sum(1) + self.hair.offset * self.hair_size)
            lying = (mesh.turns[self.hair.reference] * self.hair.weights).sum(1).clip(0, 1)
            turns.append(np.maximum(lying, self.hair_turns))
        if self.glasses is not None:
            parts.append(self.glasses)
            turns.append(np.ones(len(self.glasses)))
        return np.concatenate(parts), np.concatenate(turns)

    def landmarks(self, posture: Posture) -> np.ndarray:
        """Return the landmarks of the head in a posture, without rendering it."""
        return self._landmarks(self._projected(posture)[1], posture.pose, self.size * CANVAS)

    def _projected(self, posture: Posture) -> tuple[np.ndarray, np.ndarray]:
        """Return all vertices in a posture, in decimetres, and where they are on the canvas, with their nearness."""
        pose = posture.pose
        side = self.size * CANVAS
        points, turns = self._expressed(posture)
        turns = turns[:, None].astype(np.float32)
        turn, lean = turned(pose.yaw, pose.pitch, pose.roll), turned(0.12 * pose.yaw, 0, 0.12 * pose.roll)
        away = points - self.pivot
        unit = FACE_SHARE * side / self.height * pose.scale  # pixels per decimetre
        shift = np.array([pose.shift_x, -pose.shift_y, 0]) * side / unit
        points = away @ turn.T * turns + away @ lean.T * (1 - turns) + self.pivot - self.middle
        points = (points + shift * (turns + (1 - turns) * self.shoulders)).astype(np.float32)
        distance = self.camera.distance * self.height
        nearness = distance / (distance - points[:, 2])
        screen = np.column_stack(
            [side / 2 + points[:, 0] * unit * nearness, side / 2 - points[:, 1] * unit * nearness, nearness]
        )
        return points, screen.astype(np.float32)

    def render(self, posture: Posture) -> View:
        """Render the head. The landmarks are correct for hidden places too."""
        mesh, side = self.mesh, self.size * CANVAS
        points, screen = self._projected(posture)
        at, on = np.ascontiguousarray(points[self.corner]), np.ascontiguousarray(screen[self.corner])
        normal = normals(at, self.triangles, self.corner, len(points))[self.corner]
        seed = int(self.looks.seed)
        depth, face, shares = buffers(side)
        rasterise(on, self.triangles, self.material, self.uv, self.alpha, 0.15, seed, True, depth, face, shares)
        out = np.zeros((side, side, 3), np.float32)
        shadow, to_shadow = self._shadow(at, seed)
        shade(
            face, shares, self.triangles, self.material, at, normal, self.uv, self.rest, self._open(at, normal, seed),
            self.skin, mesh.lips, mesh.lids, mesh.mouth, self.brightness, self.looks, self.lights, shadow, to_shadow,
            0.05 * self.height, out,
        )  # fmt: skip
        ground = _halved(face < 0)
        light = _halved(out)
        picture = self._developed(light + self.backdrop * ground[..., None], self.camera.blur)
        front = self._developed(light / (1 - ground[..., None]).clip(0.02))
        return View(picture, front, self._landmarks(screen, posture.pose, side), ground, on, depth, face, shares)

    def _shadow(self, at: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the depth map seen from the key light, and the matrix from points to it, [3, 4]."""
        towards = np.array(self.lights.key_from)
        x, y = across(towards)
        scale = SHADOW_SIDE / (2.6 * self.height)
        to_shadow = np.zeros((3, 4), np.float32)
        to_shadow[:, :3] = x * scale, -y * scale, towards
        to_shadow[:2, 3] = SHADOW_SIDE / 2
        depth, face, shares = buffers(SHADOW_SIDE)
        seen = at @ to_shadow[:, :3].T + to_shadow[:, 3]
        rasterise(seen, self.triangles, self.material, self.uv, self.alpha, 0.3, seed, False, depth, face, shares)
        return depth, to_shadow

    def _open(self, at: np.ndarray, normal: np.ndarray, seed: int) -> np.ndarray:
        """Return how open each corner is to ambient light, [C] in [0, 1]."""
        seen, all_ = np.zeros(len(at), np.float32), np.zeros(len(at), np.float32)
        scale = OPEN_SIDE / (2.6 * self.height)
        for direction in DIRECTIONS:
            x, y = across(direction)
            view = at @ np.stack([x * scale, -y * scale, direction]).T.astype(np.float32)
            view[:, :2] += OPEN_SIDE / 2
            depth, face, shares = buffers(OPEN_SIDE)
            rasterise(view, self.triangles, self.material, self.uv, self.alpha, 0.5, seed, False, depth, face, shares)
            weight = (normal @ direction.astype(np.float32)).clip(0)
            all_ += weight
            add_open(view, depth, 0.06 * self.height, weight, seen)
        opened = ((seen + 0.15) / (all_ + 0.15)).clip(0, 1)
        opened[len(self.mesh.corner) :] = 0.35 + 0.65 * opened[len(self.mesh.corner) :]
        return opened

    def _developed(self, light: np.ndarray, blur: float = 0.0) -> np.ndarray:
        """Return the picture that this camera takes of the light, uint8. blur: pixels."""
        c = self.camera
        x = light * c.exposure * c.white
        grey = x.mean(-1, keepdims=True)
        x = (grey + (x - grey) * c.saturation).clip(0)
        x = np.where(x > 0.6, 0.6 + 0.4 * (1 - np.exp((0.6 - x) / 0.4)), x).clip(0, 1) ** (c.gamma / 2.2)
        x = x + c.contrast * (x - 0.5) * (4 * x * (1 - x)) * 0.5
        image = Image.fromarray((x.clip(0, 1) * 255 + 0.5).astype(np.uint8))
        return np.asarray(image.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.15 else image)

    def _landmarks(self, screen: np.ndarray, pose: Pose, side: int) -> np.ndarray:
        mesh = self.mesh
        out = np.zeros((LANDMARKS, 2), np.float32)
        for k, vertex in enumerate(mesh.landmarks):
            if vertex is not None:
                out[k] = screen[vertex, :2]
        # A pupil is the vertex of the eyeball that is in front at rest.
        for place, ball in zip((PUPILS.stop - 1, PUPILS.start), mesh.eyeballs, strict=True):
            out[place] = screen[ball[np.argmax(mesh.rest[ball, 2])], :2]
        # A landmark of the outline is the candidate vertex that stands out furthest.
        r = math.radians(pose.roll)
        for k, (angle, vertices) in mesh.outline.items():
            candidates = screen[vertices, :2]
            out[k] = candidates[np.argmax(candidates @ [math.cos(angle + r), math.sin(angle + r)])]
        out[NECK] = screen[mesh.neck, :2].mean(0)
        assert CROWN in mesh.outline
        return out / side * 2 - 1


def _halved(canvas: np.ndarray) -> np.ndarray:
    """Shrink a canvas to the picture's size: each pixel is the mean of CANVAS x CANVAS pixels."""
    height, width = canvas.shape[:2]
    return canvas.reshape(height // CANVAS, CANVAS, width // CANVAS, CANVAS, *canvas.shape[2:]).mean(
        (1, 3), dtype=np.float32
    )


def sample_head(seed: int, assets: Path, size: int = 128) -> Head:
    return Head(seed, load_mesh(assets), size)
