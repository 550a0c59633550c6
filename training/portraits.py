"""Draw portraits from a seed: many kinds of faces in any pose, with their true landmarks.

A portrait is drawn in two steps. :func:`sample_identity` makes up an identity from a seed: skin, hair, hat, glasses,
an animal or a cup with a face, style of drawing, background. :class:`Portrait` then draws that identity in any
:class:`Pose`. The face is a set of curves on an ellipsoid, which is turned in three dimensions and projected without
perspective, so yaw and pitch show as parallax. Everything is painted from back to front, with Pillow polygons, on a
canvas of twice the size, which is then halved.

Units: in the head's frame, x points to the right of the picture, y down, and z to the viewer. The face is about two
units wide and two and a half high. Landmarks are (x, y) in [-1, 1], where (-1, -1) is the outer corner of the top left
pixel. The network's keypoint values use the same coordinates, up to half a pixel.
"""

# ruff: noqa: RUF005 (arrays are added here, not lists joined)
from __future__ import annotations

import colorsys
import io
import math
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# The landmarks, in order. Left and right are the picture's, not the person's.
CONTOUR = slice(0, 17)  # left ear - chin (8) - right ear
BROW_LEFT, BROW_RIGHT = slice(17, 22), slice(22, 27)  # each from the picture's left to its right
NOSE = slice(27, 33)  # bridge, middle, tip, base, left wing, right wing
EYE_LEFT, EYE_RIGHT = (
    slice(33, 41),
    slice(41, 49),
)  # left corner, 3 upper lid, right corner, 3 lower lid (right to left)
PUPILS = slice(49, 51)
LIPS_OUTER = slice(51, 63)  # left corner, 5 upper, right corner, 5 lower (right to left)
LIPS_INNER = slice(63, 71)  # left corner, 3 upper, right corner, 3 lower (right to left)
FOREHEAD = 71
CROWN = 72  # top of the head's outline, under hair and hat
NECK = 73  # where the neck meets the shoulders, even if the figure has none
LANDMARKS = 74

EYES_AT_REST = 0.85  # how far an eye is normally open


@dataclass(frozen=True)
class Pose:
    """The position of the head and the expression of the face.

    Shifts are fractions of the picture's side. Angles are in degrees: positive yaw looks to the picture's right,
    positive pitch nods down, positive roll turns clockwise. At scale 1, the face fills 69 % of the side from chin to
    crown.
    """

    shift_x: float = 0.0
    shift_y: float = 0.0
    scale: float = 1.0
    yaw: float = 0.0  # -32..32
    pitch: float = 0.0  # -18..18
    roll: float = 0.0  # -24..24
    mouth: float = 0.0  # 0 closed .. 1 wide open
    smile: float = 0.0  # -1 sad .. 1 glad
    eye_left: float = EYES_AT_REST  # 0 closed .. 1 wide open
    eye_right: float = EYES_AT_REST
    gaze_x: float = 0.0  # -1 .. 1
    gaze_y: float = 0.0
    brow: float = 0.0  # -1 frowning .. 1 raised

    def as_array(self) -> np.ndarray:
        """Return the 13 numbers in the order of POSE_NAMES, float32."""
        return np.array(astuple(self), np.float32)


POSE_NAMES = tuple(f.name for f in fields(Pose))


def sample_pose(rng: np.random.Generator) -> Pose:
    """Return a random pose. Mouth and eyes vary often, since a network learns small motions last."""
    mouth = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.0, 1.0))
    kind = rng.random()
    if kind < 0.45:
        eyes = (EYES_AT_REST, EYES_AT_REST)
    elif kind < 0.65:
        eyes = (0.0, 0.0)
    elif kind < 0.9:
        both = float(rng.uniform(0.0, 1.0))
        eyes = (both, both)
    else:
        eyes = (float(rng.uniform(0.0, 1.0)), float(rng.uniform(0.0, 1.0)))
    turned = rng.random() < 0.8
    return Pose(
        shift_x=float(np.clip(rng.normal(0, 0.035), -0.09, 0.09)),
        shift_y=float(np.clip(rng.normal(0, 0.03), -0.07, 0.07)),
        scale=float(rng.uniform(0.78, 1.18)),
        yaw=float(rng.uniform(-32, 32)) if turned else float(rng.normal(0, 4)),
        pitch=float(rng.uniform(-18, 18)) if turned else float(rng.normal(0, 3)),
        roll=float(np.clip(rng.normal(0, 9), -24, 24)),
        mouth=mouth,
        smile=float(rng.uniform(-0.7, 1.0)),
        eye_left=eyes[0],
        eye_right=eyes[1],
        gaze_x=float(rng.uniform(-1, 1)) if rng.random() < 0.6 else 0.0,
        gaze_y=float(rng.uniform(-0.7, 0.7)) if rng.random() < 0.4 else 0.0,
        brow=float(rng.uniform(-1, 1)) if rng.random() < 0.7 else 0.0,
    )


Colour = tuple[int, int, int]
STYLES = ("flat", "line", "shaded", "painterly", "pencil")
ANIMALS = ("cat", "bear", "rabbit", "fox", "dog", "pig")
NOSES = ("line", "wings", "button", "shadow", "triangle")
HAIR_STYLES = ("short", "long", "afro", "bob", "bald", "bun", "spiky", "side", "curly")
HATS = {"none": 0.7, "cap": 0.05, "beanie": 0.06, "top": 0.04, "crown": 0.04, "wizard": 0.04, "band": 0.04, "bow": 0.03}
BACKGROUNDS = {
    "plain": 0.3, "gradient": 0.2, "stripes": 0.08, "blobs": 0.16, "checks": 0.06, "room": 0.1, "strokes": 0.1,
}  # fmt: skip
OBJECTS = ("moon", "cup", "pumpkin", "robot", "sun", "egg")


@dataclass(frozen=True)
class Identity:
    """The identity that is drawn. Lengths are in head units, colours are 8-bit RGB."""

    seed: int
    kind: str  # human, fantasy, an animal or an object
    style: str
    skin: Colour
    hair: Colour
    iris: Colour
    lip: Colour
    cloth: Colour
    ink: Colour
    outline: float  # line width in head units, 0 for none
    half_width: float
    half_height: float
    boxy: float  # 1: an ellipse; towards 0.5: a box
    jaw: float  # how much narrower the jaw is, 0..0.35
    ears: float
    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    eye_slant: float
    eye_style: str  # almond, dot, round
    lash: float
    brow_y: float
    brow_w: float
    brow_thick: float
    brow_arch: float
    brow_colour: Colour
    nose_y: float
    nose_w: float
    nose_style: str
    mouth_y: float
    mouth_w: float
    mouth_h: float
    lip_thick: float
    teeth: float
    tongue: float
    mouth_dark: Colour
    hair_style: str
    fringe: float
    hat: str
    hat_colour: Colour
    glasses: str
    glasses_colour: Colour
    beard: str
    freckles: int
    blush: float
    light: float  # -1: light from the left .. 1: from the right
    shade: float  # 0..1
    background: str


def _hsv(h: float, s: float, v: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0))
    return round(255 * r), round(255 * g), round(255 * b)


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _darker(c: Colour, t: float) -> Colour:
    return _mix(c, (12, 8, 16), t)


def _lighter(c: Colour, t: float) -> Colour:
    return _mix(c, (255, 250, 240), t)


def _grey(c: Colour, keep: float) -> Colour:
    luma = round(0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2])
    return _mix((luma, luma, luma), c, keep)


SKINS: tuple[Colour, ...] = (
    (255, 224, 196), (245, 203, 167), (232, 184, 144), (214, 160, 118),
    (184, 128, 88), (148, 98, 64), (112, 72, 48), (82, 52, 36),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (24, 18, 16), (60, 38, 26), (104, 66, 36), (150, 100, 50), (206, 164, 92),
    (240, 214, 150), (172, 74, 34), (190, 190, 194), (236, 236, 238),
)  # fmt: skip


def sample_identity(seed: int, kind: str | None = None, style: str | None = None) -> Identity:
    """Make up an identity from ``seed``. ``kind`` and ``style`` replace the random ones if given."""
    rng = np.random.default_rng([seed, 77])
    u = rng.uniform
    pick = lambda options, p=None: options[int(rng.choice(len(options), p=p))]  # noqa: E731
    drawn_kind = pick(("human", "fantasy", "animal", "object"), (0.62, 0.12, 0.15, 0.11))
    drawn_kind = {"animal": pick(ANIMALS), "object": pick(OBJECTS)}.get(drawn_kind, drawn_kind)
    drawn_style = pick(STYLES, (0.24, 0.2, 0.26, 0.18, 0.12))
    kind, style = kind or drawn_kind, style or drawn_style
    human = kind == "human"
    person = human or kind == "fantasy"

    at = u(0, len(SKINS) - 1.001)
    skin = _mix(SKINS[int(at)], SKINS[int(at) + 1], at % 1)
    if kind == "fantasy":
        skin = _hsv(u(0, 1), u(0.25, 0.65), u(0.45, 0.95))
    elif kind in ANIMALS:
        skin = _hsv(u(0.02, 0.12), u(0.05, 0.7), u(0.3, 0.95))
        skin = _hsv(u(0.93, 1.02), u(0.2, 0.4), u(0.85, 1)) if kind == "pig" else skin
    elif kind == "moon":
        skin = _hsv(u(0.1, 0.18), u(0.05, 0.4), u(0.8, 1))
    elif kind == "sun":
        skin = _hsv(u(0.09, 0.15), u(0.55, 0.8), u(0.9, 1))
    elif kind == "pumpkin":
        skin = _hsv(u(0.04, 0.1), u(0.7, 0.9), u(0.75, 0.95))
    elif kind == "egg":
        skin = _hsv(u(0.05, 0.12), u(0.05, 0.3), u(0.85, 1))
    elif kind in OBJECTS:
        skin = _hsv(u(0, 1), u(0.05, 0.6), u(0.5, 0.95))
    hair = pick(HAIRS)
    if rng.random() < (0.12 if human else 0.6):
        hair = _hsv(u(0, 1), u(0.3, 0.9), u(0.3, 0.95))
    if kind in ANIMALS:
        hair = _mix(skin, (255, 250, 240) if rng.random() < 0.6 else (30, 20, 20), u(0.3, 0.8))
    iris = pick(((70, 44, 26), (104, 72, 36), (60, 96, 60), (60, 110, 160), (90, 100, 110)))
    if not human and rng.random() < 0.5:
        iris = _hsv(u(0, 1), u(0.4, 0.9), u(0.3, 0.9))
    lip = _mix(skin, _hsv(u(-0.04, 0.03), u(0.5, 0.8), u(0.45, 0.8)), u(0.25, 0.85))
    cloth = _hsv(u(0, 1), u(0.1, 0.8), u(0.2, 0.9))
    outline = {"flat": 0.0, "shaded": 0.0, "painterly": 0.0, "line": u(0.03, 0.07), "pencil": u(0.02, 0.045)}[style]
    if style == "shaded" and rng.random() < 0.3:
        outline = u(0.015, 0.03)
    ink = _darker(_grey(skin, 0.5), u(0.7, 1.0)) if style != "pencil" else _grey((50, 48, 52), 1)

    half_width, half_height = u(0.86, 1.04), u(1.12, 1.34)
    boxy, jaw = u(0.9, 1.02), u(0.02, 0.3)
    if not person:
        half_width, jaw = u(0.98, 1.15), u(-0.05, 0.12)
        half_height = u(1.05, 1.2)
        boxy = u(0.85, 1.0)
    if kind in ("robot", "cup"):
        boxy, jaw = u(0.5, 0.7), u(-0.03, 0.12)
    eye_style = pick(("almond", "round", "dot"), (0.72, 0.18, 0.1) if person else (0.3, 0.4, 0.3))
    eye_w = u(0.21, 0.29)
    eye_h = u(0.15, 0.22)
    if eye_style == "round":
        eye_h = eye_w * u(0.8, 1.05)
    elif eye_style == "dot":
        eye_w = u(0.13, 0.18)
        eye_h = eye_w * u(0.85, 1.2)
    eye_x, eye_y = u(0.38, 0.47) * half_width / 0.95, u(-0.32, -0.14)
    brow_gap = u(0.12, 0.24)
    hair_style = pick(HAIR_STYLES) if person else "bald"
    hat = pick(tuple(HATS), tuple(HATS.values()))
    noses = NOSES if person else ("snout",) if kind in ANIMALS else ("button", "triangle", "none")
    beard = "none"
    if person and rng.random() < 0.28:
        beard = pick(("full", "stubble", "goatee", "moustache"))
    if style == "pencil":
        keep = pick((0.0, 0.15, 0.35))
        skin, hair, iris, lip, cloth = (_grey(c, keep) for c in (skin, hair, iris, lip, cloth))
        skin = _lighter(skin, u(0.2, 0.6))
    brow_colour = _darker(hair, 0.25) if person else _darker(skin, u(0.5, 0.8))
    if sum(abs(a - b) for a, b in zip(brow_colour, skin, strict=True)) < 90:
        brow_colour = _darker(skin, 0.55)  # a brow must be visible, or its landmarks mean nothing
    return Identity(
        seed=seed, kind=kind, style=style, skin=skin, hair=hair, iris=iris, lip=lip, cloth=cloth, ink=ink,
        outline=outline, half_width=half_width, half_height=half_height, boxy=boxy, jaw=jaw,
        ears=u(0.16, 0.26) if person else 0.0,
        eye_x=eye_x, eye_y=eye_y, eye_w=eye_w, eye_h=eye_h, eye_slant=u(-0.05, 0.07), eye_style=eye_style,
        lash=u(0.02, 0.065),
        brow_y=eye_y - eye_h - brow_gap, brow_w=eye_w * u(1.0, 1.3), brow_thick=u(0.03, 0.08), brow_arch=u(0.0, 0.09),
        brow_colour=brow_colour,
        nose_y=u(0.18, 0.3), nose_w=u(0.1, 0.2),
        nose_style=pick(noses) if len(noses) > 1 else noses[0],
        mouth_y=u(0.56, 0.68), mouth_w=u(0.34, 0.48), mouth_h=u(0.36, 0.52),
        lip_thick=u(0.05, 0.13) if person else u(0.02, 0.07),
        teeth=u(0.1, 0.3) if rng.random() < 0.75 else 0.0, tongue=u(0.2, 0.5) if rng.random() < 0.75 else 0.0,
        mouth_dark=_darker(_hsv(u(-0.05, 0.03), 0.7, 0.4), u(0.1, 0.8)) if style != "pencil" else (52, 48, 50),
        hair_style=hair_style, fringe=u(0, 1), hat=hat, hat_colour=_hsv(u(0, 1), u(0.1, 0.85), u(0.2, 0.95)),
        glasses=pick(("none", "round", "square", "tinted"), (0.76, 0.11, 0.09, 0.04)),
        glasses_colour=pick(((20, 20, 24), (120, 60, 30), (180, 150, 60), (150, 30, 40), (70, 90, 140))),
        beard=beard, freckles=int(rng.integers(8, 26)) if rng.random() < 0.2 else 0,
        blush=u(0.15, 0.5) if rng.random() < 0.4 else 0.0, light=u(-1, 1), shade=u(0.25, 1.0),
        background=pick(tuple(BACKGROUNDS), tuple(BACKGROUNDS.values())),
    )  # fmt: skip


# Curves that every face shares, over t in [-1, 1].
_LID = np.linspace(-1, 1, 11)
_LID_ARCH = np.cos(_LID * np.pi / 2) ** 0.8
_MOUTH = np.linspace(-1, 1, 13)
_MOUTH_ARCH = np.cos(_MOUTH * np.pi / 2) ** 0.7
_ROUND = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_ROUND), np.sin(_ROUND)], 1)
_HEAD = np.linspace(0, 2 * np.pi, 48, endpoint=False)  # angle from the chin, through the picture's left side
_JAW = np.deg2rad(np.linspace(100, -100, 17))  # left ear, chin, right ear
_CANVAS = 2  # the canvas is this much larger than the picture


@dataclass(frozen=True)
class Trace:
    """A drawing and how it was made.

    picture, landmarks: as from :meth:`Portrait.draw`. shapes: (name of a part, number of the shape in it) -> the
    shape's label, and its corners [n, 2] in canvas pixels. Every pose has the same shapes, except that some shapes of
    eyes and mouth are drawn only when open. labels: label of the visible shape at each pixel, int32 [canvas, canvas];
    0 is the background.
    """

    picture: np.ndarray
    landmarks: np.ndarray
    shapes: dict[tuple[str, int], tuple[int, np.ndarray]]
    labels: np.ndarray


class Portrait:
    """One identity, ready to draw at ``size`` pixels in any pose."""

    def __init__(self, identity: Identity, size: int = 128) -> None:
        self.identity = identity
        self.size = size
        self._side = size * _CANVAS
        rng = np.random.default_rng([identity.seed, 78])
        self._backdrop = _draw_backdrop(identity, self._side, rng)
        i = identity
        self._spots = rng.uniform(-1, 1, (i.freckles, 2)) * [0.62, 0.22] + [0, 0.12]
        strokes = 90 if i.style == "painterly" else 0
        place = rng.uniform(-1, 1, (strokes, 2)) * [i.half_width * 0.92, i.half_height * 0.92]
        inside = ((place / [i.half_width, i.half_height]) ** 2).sum(1) < 0.8
        self._strokes = [
            (p, a, long, _mix(i.skin, (255, 255, 255) if t > 0 else (40, 20, 40), abs(t)))
            for p, a, long, t in zip(
                place[inside],
                rng.normal(0.6, 0.5, inside.sum()),
                rng.uniform(0.06, 0.2, inside.sum()),
                (rng.normal(0, 0.09, inside.sum()) - 0.16 * i.light * place[inside, 0]).clip(-0.3, 0.3),
                strict=True,
            )
        ]
        self._curls = rng.uniform(-1, 1, (24, 3))

    def draw(self, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Draw the identity in ``pose``: picture uint8 [size, size, 3]; landmarks float32 [LANDMARKS, 2] in [-1, 1]."""
        image = self._backdrop.copy()
        brush = _Brush(image, pose, self._side, self.identity)
        landmarks = self._paint(brush, pose)
        if _CANVAS > 1:
            image = image.reduce(_CANVAS)
        return np.asarray(image), (landmarks / self._side * 2 - 1).astype(np.float32)

    def trace(self, pose: Pose) -> Trace:
        """Draw like :meth:`draw`. Returns also where every shape is, and which shape is visible at each pixel."""
        image = self._backdrop.copy()
        brush = _Brush(image, pose, self._side, self.identity)
        brush.labels = Image.new("I", image.size)
        landmarks = self._paint(brush, pose)
        return Trace(
            np.asarray(image.reduce(_CANVAS)),
            (landmarks / self._side * 2 - 1).astype(np.float32),
            brush.shapes,
            np.asarray(brush.labels),
        )

    def mask(self, pose: Pose) -> np.ndarray:
        """Return the mask of the figure: uint8 [size, size], 255 inside, 0 in the background."""
        # Paint the figure on two different backgrounds: it is where the two pictures agree.
        pictures = []
        for ground in ((255, 0, 255), (0, 255, 0)):
            image = Image.new("RGB", (self._side, self._side), ground)
            self._paint(_Brush(image, pose, self._side, self.identity), pose)
            pictures.append(np.asarray(image.reduce(_CANVAS)).astype(int))
        return (255 - np.abs(pictures[0] - pictures[1]).max(2)).astype(np.uint8)

    def _paint(self, brush: _Brush, pose: Pose) -> np.ndarray:
        i = self.identity
        outer, drop = self._head_curve(pose, _HEAD)
        self._paint_back(brush, pose, outer)
        brush.part = "head"
        brush.fill(outer, i.skin, edge=True, silhouette=True)
        self._paint_surface(brush, outer)
        if i.kind in ANIMALS:
            brush.ellipse(0, i.mouth_y - 0.1, i.mouth_w * 1.25, 0.42 + 0.4 * drop, i.hair)
        self._paint_beard(brush, pose, drop)
        nose = self._paint_nose(brush)
        brush.part = "mouth"
        outer_lips, inner_lips = self._paint_mouth(brush, pose)
        eyes, pupils, brows = [], [], []
        for side, opening in ((-1, pose.eye_left), (1, pose.eye_right)):
            brush.part = f"eye {side}"
            eye, pupil = self._paint_eye(brush, pose, side, opening)
            brush.part = f"brow {side}"
            eyes.append(eye)
            pupils.append(pupil)
            brows.append(self._paint_brow(brush, pose, side))
        brush.part = "front"
        self._paint_front(brush, pose, outer)
        if i.glasses != "none":
            self._paint_glasses(brush)
        jaw, _ = self._head_curve(pose, _JAW)
        crown, _ = self._head_curve(pose, np.array([np.pi]))
        return np.concatenate(
            [
                brush.place(jaw, silhouette=True), *brows, nose, *eyes, np.stack(pupils), outer_lips, inner_lips,
                brush.place(brush.on_face(np.array([[0.0, -0.55 * i.half_height]]))),
                brush.place(crown, silhouette=True), np.array([[0.0, 1.5]]) * brush.unit + brush.feet,
            ]
        )  # fmt: skip

    def _head_curve(self, pose: Pose, angle: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the head's outline [n, 3] at ``angle`` from the chin, and how far the open mouth lowers the chin."""
        i = self.identity
        s, c = np.sin(angle), np.cos(angle)
        x = -i.half_width * np.sign(s) * np.abs(s) ** i.boxy
        y = i.half_height * np.sign(c) * np.abs(c) ** i.boxy
        low = np.clip(y / i.half_height, 0, 1)
        drop = 0.4 * i.mouth_h * pose.mouth
        x = x * (1 - i.jaw * low**1.5)
        y = y + drop * low**2
        return np.stack([x, y, np.zeros_like(x)], 1), drop

    def _paint_back(self, brush: _Brush, pose: Pose, outer: np.ndarray) -> None:
        """Paint everything behind the head: shoulders, neck, back hair, ears."""
        i = self.identity
        w, h = i.half_width, i.half_height
        unit = brush.unit
        if i.kind not in ("moon", "sun", "pumpkin", "egg", "cup"):
            shoulders = (
                np.array([[-2.3, 2.6], [-2.0, 1.75], [-0.7, 1.45], [0.7, 1.45], [2.0, 1.75], [2.3, 2.6]]) * unit
                + brush.feet
            )
            brush.flat(shoulders, i.cloth)
            neck = brush.place(np.array([[-0.42 * w, 0.5 * h, -0.3], [0.42 * w, 0.5 * h, -0.3]]))
            base = np.array([[0.5, 1.62], [-0.5, 1.62]]) * unit + brush.feet
            brush.flat(np.concatenate([neck, base]), _darker(i.skin, 0.18))
        style = i.hair_style
        if style in ("long", "bob", "curly"):
            low = {"long": 1.45, "bob": 0.75, "curly": 0.9}[style]
            wide = {"long": 1.18, "bob": 1.22, "curly": 1.3}[style]
            half = np.array(
                [[wide * w, low, -0.4], [1.2 * w, 0, -0.4], [1.02 * w, -0.85 * h, -0.3], [0, -1.2 * h, -0.2]]
            )
            back = np.concatenate([half * [-1, 1, 1], half[-2::-1]])
            brush.fill(_smooth(back), _darker(i.hair, 0.2), edge=True)
            if style == "curly":
                for k, (a, b, r) in enumerate(self._curls):
                    side = -1 if k % 2 else 1
                    brush.disc(
                        (side * w * (1.12 + 0.15 * a), b * 0.9 * h, -0.4),
                        0.22 + 0.06 * r,
                        _darker(i.hair, 0.2 + 0.1 * r),
                    )
        elif style == "afro":
            brush.fill(outer * [1.42, 1.3, 1] + [0, -0.22 * h, -0.3], _darker(i.hair, 0.1), edge=True)
        elif style == "bun":
            brush.disc((0, -1.3 * h, -0.3), 0.38, _darker(i.hair, 0.1))
        if i.ears:
            for side in (-1, 1):
                ear = _CIRCLE * [i.ears * 0.8, i.ears * 1.25] + [side * w * 1.0, 0.02]
                brush.fill(np.column_stack([ear, np.full(len(ear), -0.15)]), _darker(i.skin, 0.1), edge=True)
        if i.kind in ANIMALS:
            self._paint_animal_ears(brush)
        elif i.kind == "cup":
            handle = np.column_stack([_CIRCLE * [0.42, 0.5] + [1.1 * w, 0.1], np.full(20, -0.1)])
            brush.fill(handle, _darker(i.skin, 0.15), edge=True)
            brush.fill(handle * [1, 1, 1] * 0.6 + [0.44 * w, 0.04, 0], _darker(i.skin, 0.7))
        elif i.kind == "sun":
            for k in range(12):
                a = k * np.pi / 6
                tip, left, right = (
                    (np.sin(b) * r, -np.cos(b) * r, -0.1) for b, r in ((a, 1.65), (a - 0.16, 1.0), (a + 0.16, 1.0))
                )
                brush.fill(np.array([tip, left, right]) * [w, h, 1], _darker(i.skin, 0.12), edge=True)
        elif i.kind == "pumpkin":
            brush.fill(
                np.array(
                    [[-0.14, -0.9 * h, -0.1], [-0.1, -1.35 * h, -0.1], [0.16, -1.38 * h, -0.1], [0.14, -0.9 * h, -0.1]]
                ),
                (70, 110, 50),
                edge=True,
            )
        elif i.kind == "robot":
            brush.fill(
                np.array([[-0.04, -0.9 * h, 0], [-0.04, -1.4 * h, 0], [0.04, -1.4 * h, 0], [0.04, -0.9 * h, 0]]), i.ink
            )
            brush.disc((0, -1.42 * h, 0), 0.13, i.hair)

    def _paint_animal_ears(self, brush: _Brush) -> None:
        i = self.identity
        w, h = i.half_width, i.half_height
        inner = _mix(i.skin, (240, 160, 160), 0.5)
        for side in (-1, 1):
            if i.kind in ("cat", "fox", "pig"):
                ear = (
                    np.array([[0.28, -0.85], [0.85, -1.5], [0.98, -0.4]])
                    if i.kind != "pig"
                    else np.array([[0.3, -0.85], [0.95, -1.25], [0.95, -0.5]])
                )
            elif i.kind == "rabbit":
                ear = _CIRCLE * [0.22, 0.5] + [0.42, -1.25]
            elif i.kind == "bear":
                ear = _CIRCLE * [0.34, 0.3] + [0.72, -0.85]
            else:
                ear = _CIRCLE * [0.24, 0.55] + [1.02, -0.3]
            ear = np.column_stack([ear * [side * w, h], np.full(len(ear), -0.1)])
            brush.fill(ear, _darker(i.skin, 0.12), edge=True)
            middle = ear.mean(0)
            brush.fill((ear - middle) * 0.6 + middle, inner)

    def _paint_surface(self, brush: _Brush, outer: np.ndarray) -> None:
        """Paint what is on the skin: light and shadow, strokes of brush or pencil, freckles, blush."""
        i = self.identity
        w, h = i.half_width, i.half_height
        if i.style in ("shaded", "painterly"):
            steps = 5
            for k in range(steps):
                t = (k + 1) / steps
                ring = outer * (1 - 0.62 * t) + [0.24 * t * i.light * w, -0.12 * t * h, 0.5 * t]
                tone = _lighter(i.skin, 0.3 * t * i.shade) if k else i.skin
                brush.fill(ring, _mix(_darker(i.skin, 0.28 * i.shade), tone, t) if k < 2 else tone, silhouette=True)
        elif i.style == "flat" and i.shade > 0.6:
            side = -1 if i.light > 0 else 1
            edge = outer[(outer[:, 0] * side > 0)]
            edge = edge[np.argsort(edge[:, 1])]
            back = edge[::-1] * [0.72, 0.96, 1] + [0, 0, 0.2]
            brush.fill(np.concatenate([edge, back]), _darker(i.skin, 0.16), silhouette=True)
        for place, angle, length, colour in self._strokes:
            along = np.array([math.cos(angle), math.sin(angle)]) * length
            across = np.array([-along[1], along[0]]) * 0.35
            brush.fill(brush.on_face(np.array([place - along, place + across, place + along, place - across])), colour)
        if i.style == "pencil":
            tone = _darker(i.skin, 0.3)
            side = -1 if i.light > 0 else 1
            for k in range(11):
                x = side * w * (0.3 + 0.055 * k)
                reach = h * math.sqrt(max(0.0, 1 - (x / w) ** 2)) * 0.8
                brush.line(brush.on_face(np.array([[x, -reach], [x - 0.1, 0.0], [x - 0.2, reach]])), tone, 0.02)
        if i.blush:
            for side in (-1, 1):
                brush.ellipse(side * 0.55 * w, 0.28, 0.2, 0.13, _mix(i.skin, (236, 96, 96), i.blush))
        for x, y in self._spots:
            brush.ellipse(x * w, y, 0.022, 0.022, _darker(i.skin, 0.35), points=6)
        if i.kind == "moon":
            for x, y, r in self._curls[:6] * [0.6, 0.75, 0.05] + [0, 0, 0.09]:
                brush.ellipse(x * w, y * h, r, r, _darker(i.skin, 0.1), points=12)
        elif i.kind == "pumpkin":
            for x in (-0.62, -0.3, 0.3, 0.62):
                ys = np.linspace(-0.8, 0.8, 7) * h
                brush.line(
                    brush.on_face(np.column_stack([x * w * np.sqrt(1 - (ys / h / 1.1) ** 2), ys])),
                    _darker(i.skin, 0.22),
                    0.05,
                )
        elif i.kind == "robot":
            for x, y in ((-0.8, -0.85), (0.8, -0.85), (-0.8, 0.85), (0.8, 0.85)):
                brush.ellipse(x * w, y * h * 0.85, 0.06, 0.06, _darker(i.skin, 0.5), points=8)

    def _paint_beard(self, brush: _Brush, pose: Pose, drop: float) -> None:
        i = self.identity
        if i.beard == "none":
            return
        w = i.half_width
        colour = _mix(i.skin, i.hair, 0.35) if i.beard == "stubble" else i.hair
        if i.beard in ("full", "stubble"):
            edge, _ = self._head_curve(pose, np.deg2rad(np.linspace(88, -88, 17)))
            edge = edge * ([1.03, 1.1, 1] if i.beard == "full" else [1, 1, 1])
            top = np.array(
                [
                    [0.75 * w, 0.3],
                    [0.5 * w, i.mouth_y - 0.18],
                    [0, i.mouth_y - 0.24],
                    [-0.5 * w, i.mouth_y - 0.18],
                    [-0.75 * w, 0.3],
                ]
            )
            brush.fill(np.concatenate([edge, brush.on_face(top)]), colour, silhouette=True)
        elif i.beard == "goatee":
            ring = _CIRCLE * [0.3 * w, 0.34] + [0, i.mouth_y + 0.42 + drop]
            brush.fill(brush.on_face(ring), colour)
        if i.beard in ("moustache", "full", "goatee"):
            y = i.mouth_y - i.lip_thick - 0.03
            shape = np.array(
                [
                    [-0.42, 0.1],
                    [-0.3, -0.06],
                    [0, -0.12],
                    [0.3, -0.06],
                    [0.42, 0.1],
                    [0.2, 0.06],
                    [0, 0.0],
                    [-0.2, 0.06],
                ]
            )
            brush.fill(brush.on_face(shape * [w, 1] + [0, y]), _darker(i.hair, 0.15))

    def _paint_nose(self, brush: _Brush) -> np.ndarray:
        i = self.identity
        y, n = i.nose_y, i.nose_w
        on = brush.on_face(
            np.array([[0, -0.12], [0, 0.06], [0, y - 0.03], [0, y + 0.06], [-n, y + 0.01], [n, y + 0.01]])
        )
        on[:, 2] += [0.06, 0.14, 0.26, 0.12, 0.05, 0.05]
        p = brush.place(on)
        dark = _darker(i.skin, 0.4)
        if i.nose_style == "line":
            brush.stroke(p[[0, 1, 4 if i.light > 0 else 5, 3]], dark, 0.04)
        elif i.nose_style == "wings":
            brush.stroke(p[[4, 3, 5]], dark, 0.045)
            for k in (4, 5):
                brush.dot(p[k], 0.04, dark)
        elif i.nose_style == "button":
            brush.dot(p[2], n * 0.95, _mix(i.skin, (214, 90, 80), 0.45))
            brush.dot(p[2] - [0.03 * brush.unit, 0.04 * brush.unit], n * 0.35, _lighter(i.skin, 0.6))
        elif i.nose_style == "shadow":
            brush.flat(p[[0, 2, 5 if i.light < 0 else 4]], _darker(i.skin, 0.22))
            brush.flat(p[[4, 2, 5, 3]], _darker(i.skin, 0.3))
        elif i.nose_style == "triangle":
            brush.flat(p[[1, 4, 5]], _darker(i.skin, 0.18))
        elif i.nose_style == "snout":
            wide = n * (1.5 if i.kind == "pig" else 0.9)
            shape = brush.on_face(_CIRCLE * [wide, wide * 0.7] + [0, y]) + [0, 0, 0.2]
            brush.fill(
                shape, _mix(i.skin, (250, 150, 150), 0.5) if i.kind == "pig" else _darker(i.skin, 0.8), edge=True
            )
            if i.kind == "pig":
                for side in (-1, 1):
                    brush.dot(p[2] + [side * 0.09 * brush.unit, 0.02 * brush.unit], 0.045, _darker(i.skin, 0.6))
            else:
                brush.stroke(
                    np.stack([p[2], brush.place(brush.on_face(np.array([[0, i.mouth_y - 0.1]])))[0]]), i.ink, 0.03
                )
        return p

    def _paint_mouth(self, brush: _Brush, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Paint lips, teeth, tongue and the dark behind them. Returns the 12 outer and 8 inner landmarks."""
        i = self.identity
        t, arch = _MOUTH, _MOUTH_ARCH
        half = i.mouth_w * (1 + 0.16 * pose.smile - 0.14 * pose.mouth)
        x = t * half
        rest = i.mouth_y - 0.11 * pose.smile * (t**2 - 0.3)
        gape = i.mouth_h * pose.mouth
        upper = rest - 0.22 * gape * arch
        lower = rest + 0.9 * gape * arch
        thick = i.lip_thick * (1 - 0.25 * max(pose.smile, 0.0))
        bow = arch * (0.75 + 0.25 * np.cos(4 * np.pi * t.clip(-0.5, 0.5)) * -1 + 0.2)
        top, bottom = upper - thick * bow, lower + 1.25 * thick * arch
        wide = t * (half + 0.3 * thick)
        outer = brush.on_face(np.concatenate([np.column_stack([wide, top]), np.column_stack([wide, bottom])[-2:0:-1]]))
        inner = brush.on_face(np.concatenate([np.column_stack([x, upper]), np.column_stack([x, lower])[-2:0:-1]]))
        p_outer, p_inner = brush.place(outer), brush.place(inner)
        if i.lip_thick > 0.03:
            brush.flat(p_outer, i.lip, edge=i.outline > 0.03)
        if gape > 0.015:
            brush.flat(p_inner, i.mouth_dark)
            if i.tongue:
                floor = np.maximum(lower - i.tongue * gape * np.cos(t * np.pi / 2), upper)
                brush.fill(
                    brush.on_face(
                        np.concatenate([np.column_stack([x, floor]), np.column_stack([x, lower])[::-1]])[3:-3]
                    ),
                    _mix(i.mouth_dark, (224, 92, 92), 0.7) if i.style != "pencil" else (130, 124, 126),
                )
            if i.teeth:
                edge = np.minimum(
                    upper + i.teeth * i.mouth_h * np.minimum(1, 3 * pose.mouth) * np.cos(t * np.pi / 2) ** 0.5, lower
                )
                k = slice(1, -1)
                brush.fill(
                    brush.on_face(
                        np.concatenate([np.column_stack([x, upper])[k], np.column_stack([x, edge])[k][::-1]])
                    ),
                    (248, 244, 236),
                )
        line = _darker(i.lip, 0.55) if i.style != "pencil" else i.ink
        n = len(t)
        if gape <= 0.06:
            brush.stroke(p_inner[:n], line, 0.045)
        elif i.lip_thick <= 0.06:
            brush.stroke(np.concatenate([p_inner, p_inner[:1]]), line, 0.04)
        last = len(p_outer)
        pick_outer = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]
        pick_inner = [0, 3, 6, 9, 12, 15, 18, 21]
        assert last == 24
        return p_outer[pick_outer], p_inner[pick_inner]

    def _paint_eye(self, brush: _Brush, pose: Pose, side: int, opening: float) -> tuple[np.ndarray, np.ndarray]:
        """Paint one eye. Returns its 8 lid landmarks and its pupil, in canvas pixels."""
        i = self.identity
        t, arch = _LID, _LID_ARCH
        centre = np.array([side * i.eye_x, i.eye_y])
        x = centre[0] + t * i.eye_w
        rest = i.eye_y + 0.3 * i.eye_h - side * t * i.eye_slant
        upper = rest + arch * i.eye_h * (0.28 - 1.42 * opening)
        lower = rest + arch * i.eye_h * (0.28 + 0.34 * opening)
        lids = brush.on_face(np.concatenate([np.column_stack([x, upper]), np.column_stack([x, lower])[-2:0:-1]]))
        p = brush.place(lids)
        look = centre + [pose.gaze_x * 0.4 * i.eye_w, pose.gaze_y * 0.3 * i.eye_h]
        white = (250, 248, 244) if i.style != "pencil" else (252, 252, 252)
        dot = i.eye_style == "dot"
        if opening > 0.06:
            brush.flat(p, i.ink if dot else white)
            if not dot:
                radius = min(i.eye_h * 0.92, i.eye_w * 0.6)
                for scale, colour in ((1.0, i.iris), (0.5, (10, 8, 10))):
                    ring = _CIRCLE * radius * scale + look
                    low = np.interp(ring[:, 0], x, upper)
                    ring[:, 1] = np.clip(ring[:, 1], low, np.maximum(low, np.interp(ring[:, 0], x, lower)))
                    brush.fill(brush.on_face(ring), colour)
                glint = look + [-0.25 * radius, -0.3 * radius]
                if np.interp(glint[0], x, upper) < glint[1] - 0.2 * radius:
                    brush.ellipse(*glint, 0.22 * radius, 0.22 * radius, (255, 255, 255), points=8)
        n = len(t)
        if not dot or opening <= 0.06:
            brush.stroke(p[:n], i.ink, max(i.lash, 0.035))
        if not dot:
            if opening > 0.06:
                brush.stroke(np.concatenate([p[n - 1 :], p[:1]]), _darker(i.skin, 0.45), 0.022)
            crease = np.column_stack([x, rest - arch * i.eye_h * 1.5])[1:-1]
            brush.line(brush.on_face(crease), _darker(i.skin, 0.25), 0.022)
        corner = [0, 2, 5, 8, 10, 12, 15, 18]
        return p[corner], brush.place(brush.on_face(look[None]))[0]

    def _paint_brow(self, brush: _Brush, pose: Pose, side: int) -> np.ndarray:
        i = self.identity
        t = np.linspace(-1, 1, 5)
        x = side * i.eye_x + t * i.brow_w
        y = i.brow_y - 0.11 * pose.brow - i.brow_arch * (1 - t**2) + 0.05 * min(pose.brow, 0) * side * t
        p = brush.place(brush.on_face(np.column_stack([x, y])))
        brush.stroke(p, i.brow_colour, i.brow_thick)
        return p

    def _paint_glasses(self, brush: _Brush) -> None:
        i = self.identity
        inner = []
        for side in (-1, 1):
            rim = _CIRCLE.copy()
            if i.glasses == "square":
                rim = np.sign(rim) * np.abs(rim) ** 0.45
            rim = rim * [i.eye_w * 1.4, i.eye_w * 1.25] + [side * i.eye_x, i.eye_y + 0.04]
            on = brush.on_face(rim) + [0, 0, 0.12]
            p = brush.place(on)
            if i.glasses == "tinted":
                brush.glaze(p, i.glasses_colour, 70)
            brush.stroke(np.concatenate([p, p[:1]]), i.glasses_colour, 0.045)
            inner.append(p[10 if side > 0 else 0])
            temple = brush.place(np.array([[side * i.half_width * 0.98, i.eye_y, 0.0]]))[0]
            brush.stroke(np.stack([p[0 if side > 0 else 10], temple]), i.glasses_colour, 0.04)
        brush.stroke(np.stack(inner), i.glasses_colour, 0.045)

    def _paint_front(self, brush: _Brush, pose: Pose, outer: np.ndarray) -> None:
        """Paint the hair in front of the forehead, and hats."""
        i = self.identity
        w, h = i.half_width, i.half_height
        style = i.hair_style
        if style != "bald":
            cap, _ = self._head_curve(replace(pose, mouth=0.0), np.deg2rad(np.linspace(82, 278, 25)))
            puff = {
                "short": 1.05,
                "long": 1.1,
                "afro": 1.25,
                "bob": 1.1,
                "bun": 1.05,
                "spiky": 1.05,
                "side": 1.09,
                "curly": 1.14,
            }[style]
            cap = cap * [puff if style != "afro" else 1.12, puff, 1]
            if style == "spiky":
                cap[1:-1:2] *= [1.14, 1.22, 1]
            x = np.linspace(0.98, -0.98, 13)
            line = -(0.5 + 0.28 * (1 - i.fringe)) * h * np.cos(x * np.pi / 2.15) ** 0.45
            if style == "side":
                line -= 0.16 * h * (x * (1 if i.light > 0 else -1) - 0.4) * (np.abs(x) < 0.9)
            elif style in ("bob", "short") and i.fringe > 0.4:
                line[1:-1:2] -= 0.1
            hairline = brush.on_face(np.column_stack([x * w, np.minimum(line, -0.05)]))
            hairline[[0, -1], 2] = 0
            brush.fill_mixed(cap, hairline, i.hair, edge=True)
            if i.style in ("shaded", "painterly"):
                shine = np.column_stack([np.linspace(-0.5, 0.5, 7) * w, -0.86 * h * np.cos(np.linspace(-0.5, 0.5, 7))])
                brush.line(brush.on_face(shine), _lighter(i.hair, 0.25), 0.08)
        if i.hat != "none":
            self._paint_hat(brush, pose)

    def _paint_hat(self, brush: _Brush, pose: Pose) -> None:
        i = self.identity
        w, h = i.half_width, i.half_height
        brow = -0.62 * h
        rim = brush.on_face(
            np.column_stack(
                [np.linspace(1.0, -1.0, 11) * w * 0.98, brow + 0.06 * np.cos(np.linspace(-1.5, 1.5, 11)) * h]
            )
        )
        dark = _darker(i.hat_colour, 0.3)
        tops = {
            "cap": [[-1.0, -0.62], [-0.95, -1.05], [-0.5, -1.3], [0.5, -1.3], [0.95, -1.05], [1.0, -0.62]],
            "beanie": [[-1.08, -0.55], [-1.0, -1.05], [-0.55, -1.38], [0.55, -1.38], [1.0, -1.05], [1.08, -0.55]],
            "top": [[-1.3, -0.66], [-0.8, -0.74], [-0.85, -1.5], [0.85, -1.5], [0.8, -0.74], [1.3, -0.66]],
            "crown": [[-0.95, -0.7], [-1.0, -1.35], [-0.5, -1.05], [0, -1.45],
                      [0.5, -1.05], [1.0, -1.35], [0.95, -0.7]],
            "wizard": [[-1.35, -0.6], [-0.8, -0.78], [0.1, -1.75], [0.8, -0.78], [1.35, -0.6]],
            "band": [[-1.02, -0.55], [-0.98, -0.78], [0, -0.84], [0.98, -0.78], [1.02, -0.55]],
        }  # fmt: skip
        if i.hat == "bow":
            for side in (-1, 1):
                loop = np.array([[0, -1.0], [side * 0.5, -1.25], [side * 0.5, -0.8]])
                brush.fill(np.column_stack([loop * [w, h] + [0.35 * w, 0], np.full(3, 0.3)]), i.hat_colour, edge=True)
            return
        top = np.array(tops[i.hat]) * [w, h]
        brush.fill_mixed(np.column_stack([top, np.zeros(len(top))]), rim, i.hat_colour, edge=True)
        if i.hat == "cap":
            peak = np.array([[-0.8, -0.6], [0, -0.5], [0.8, -0.6], [0.5, -0.42], [-0.5, -0.42]]) * [w, h]
            brush.fill(np.add(brush.on_face(peak), [0, 0, 0.35]), dark, edge=True)
        elif i.hat in ("beanie", "top", "wizard"):
            brush.stroke(brush.place(rim), dark, 0.14)


class _Brush:
    """Paints curves given in the head's frame onto a canvas, in one pose."""

    def __init__(self, image: Image.Image, pose: Pose, side: int, identity: Identity) -> None:
        self.side = side
        # At scale 1 the face, 2.5 units from chin to crown, fills 69 % of the side.
        self.unit = side * 0.276
        unit = self.unit * pose.scale
        self._ink = identity.ink
        self._outline = identity.outline
        self._draw = ImageDraw.Draw(image)
        self._image = image
        self.part = "back"  # the part that is being painted
        self.labels: Image.Image | None = None  # where to note which shape each pixel shows
        self.shapes: dict[tuple[str, int], tuple[int, np.ndarray]] = {}
        self._w2, self._h2 = identity.half_width**2, identity.half_height**2
        yaw, pitch, roll = (math.radians(a) for a in (pose.yaw, pose.pitch, pose.roll))
        sy, cy, sp, cp = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
        turn = np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]]) * unit
        # Nodding lowers what is in front: row y gets +z sin(pitch).
        self._surface = (turn @ np.array([[cy, 0, sy], [-sy * sp, cp, cy * sp]])).T
        # A head's outline hardly narrows when it turns, since a head is about as deep as it is wide.
        self._silhouette = (turn @ np.array([[0.65 + 0.35 * cy, 0, sy], [0, 0.65 + 0.35 * cp, sp]])).T
        self._centre = np.array([side * (0.5 + pose.shift_x), side * (0.5 + pose.shift_y)])
        self.feet = side * 0.5 * (1 + np.array([pose.shift_x, pose.shift_y]))  # shoulders move half as far as the head
        self._pivot = np.array([0.0, 0.0, 0.22])  # the neck is behind the face, so a turn shifts the head

    def _note(self, corners: np.ndarray) -> int:
        """Store a shape's corners under the next number of its part. Returns its label."""
        number = sum(part == self.part for part, _ in self.shapes)
        self.shapes[self.part, number] = (len(self.shapes) + 1, corners)
        return len(self.shapes)

    def on_face(self, xy: np.ndarray) -> np.ndarray:
        """Lift [n, 2] onto the face's ellipsoid: [n, 3]."""
        z = 0.82 * np.sqrt(np.clip(1 - xy[:, 0] ** 2 / self._w2 - xy[:, 1] ** 2 / self._h2, 0.02, 1))
        return np.column_stack([xy, z])

    def place(self, points: np.ndarray, silhouette: bool = False) -> np.ndarray:
        """Project [n, 3] head units to [n, 2] canvas pixels."""
        return (points + self._pivot) @ (self._silhouette if silhouette else self._surface) + self._centre

    def flat(self, pixels: np.ndarray, colour: Colour, edge: bool = False) -> None:
        """Fill a polygon that is already in canvas pixels."""
        self._draw.polygon(pixels.ravel().tolist(), fill=colour)
        if self.labels is not None:
            ImageDraw.Draw(self.labels).polygon(pixels.ravel().tolist(), fill=self._note(pixels))
        if edge and self._outline:
            self.stroke(np.concatenate([pixels, pixels[:1]]), self._ink, self._outline)

    def fill(self, points: np.ndarray, colour: Colour, edge: bool = False, silhouette: bool = False) -> None:
        self.flat(self.place(points, silhouette), colour, edge)

    def fill_mixed(self, outline: np.ndarray, surface: np.ndarray, colour: Colour, edge: bool = False) -> None:
        """Fill between a stretch of the head's outline and a curve on the face."""
        self.flat(
            np.concatenate(
                [
                    self.place(outline, silhouette=True),
                    self.place(surface)[::-1] if _crosses(outline, surface) else self.place(surface),
                ]
            ),
            colour,
            edge,
        )

    def stroke(self, pixels: np.ndarray, colour: Colour, width: float) -> None:
        """Draw a line through canvas pixels. ``width`` is in head units."""
        thick = max(1, round(width * self.unit))
        joint = "curve" if thick > 4 else None
        self._draw.line(pixels.ravel().tolist(), fill=colour, width=thick, joint=joint)
        if self.labels is not None:
            label = self._note(pixels)
            ImageDraw.Draw(self.labels).line(pixels.ravel().tolist(), fill=label, width=thick, joint=joint)

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        self.stroke(self.place(points), colour, width)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, points: int = 20) -> None:
        """Fill an ellipse on the face."""
        ring = _CIRCLE if points >= 20 else _CIRCLE[:: 20 // points]
        self.fill(self.on_face(ring * [rx, ry] + [x, y]), colour)

    def dot(self, pixel: np.ndarray, radius: float, colour: Colour) -> None:
        r = radius * self.unit
        box = (pixel[0] - r, pixel[1] - r, pixel[0] + r, pixel[1] + r)
        self._draw.ellipse(box, fill=colour)
        if self.labels is not None:
            ImageDraw.Draw(self.labels).ellipse(box, fill=self._note(pixel + _CIRCLE * r))

    def disc(self, point: tuple[float, float, float], radius: float, colour: Colour) -> None:
        self.dot(self.place(np.array([point]))[0], radius, colour)

    def glaze(self, pixels: np.ndarray, colour: Colour, alpha: int) -> None:
        """Fill a polygon with a transparent colour."""
        ImageDraw.Draw(self._image, "RGBA").polygon(pixels.ravel().tolist(), fill=(*colour, alpha))


def _crosses(outline: np.ndarray, surface: np.ndarray) -> bool:
    """Return whether a line from the outline's end to the curve's start would cross the shape."""
    return bool(abs(outline[-1, 0] - surface[0, 0]) > abs(outline[-1, 0] - surface[-1, 0]))


def _smooth(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Return an open Catmull-Rom curve through [n, 3] control points."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    a, b, c, d = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([curve.transpose(1, 0, 2).reshape(-1, points.shape[1]), points[-1:]])


def _draw_backdrop(identity: Identity, side: int, rng: np.random.Generator) -> Image.Image:
    """Draw the background, which does not move with the figure."""
    u = rng.uniform
    base = _hsv(u(0, 1), u(0.02, 0.6), u(0.25, 0.98))
    other = _hsv(u(0, 1), u(0.05, 0.7), u(0.2, 0.98))
    if identity.style == "pencil":
        base, other = _lighter(_grey(base, 0.1), 0.75), _lighter(_grey(other, 0.1), 0.55)
    image = Image.new("RGB", (side, side), base)
    draw = ImageDraw.Draw(image)
    kind = identity.background
    if kind == "gradient":
        ramp = np.linspace(0, 1, side)[:, None, None]
        field = np.array(base) * (1 - ramp) + np.array(other) * ramp
        image = Image.fromarray(np.broadcast_to(field, (side, side, 3)).astype(np.uint8))
    elif kind == "stripes":
        step, lean = side * u(0.05, 0.14), side * u(-0.5, 0.5)
        for k in range(-12, 40, 2):
            x = k * step
            draw.polygon([x, 0, x + step, 0, x + step + lean, side, x + lean, side], fill=_mix(base, other, 0.6))
    elif kind == "blobs":
        for _ in range(int(rng.integers(6, 26))):
            x, y, r = u(0, side), u(0, side), side * u(0.02, 0.16)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=_mix(base, _hsv(u(0, 1), 0.6, 0.8), u(0.2, 0.8)))
    elif kind == "checks":
        step = side / int(rng.integers(4, 11))
        for a in range(12):
            for b in range(a % 2, 12, 2):
                draw.rectangle((b * step, a * step, (b + 1) * step, (a + 1) * step), fill=_mix(base, other, 0.5))
    elif kind == "room":
        floor = side * u(0.6, 0.85)
        draw.rectangle((0, floor, side, side), fill=other)
        for _ in range(int(rng.integers(2, 6))):
            x, y, w, h = u(-0.1, 0.9) * side, u(0, 0.6) * side, u(0.1, 0.35) * side, u(0.1, 0.45) * side
            draw.rectangle(
                (x, y, x + w, y + h),
                fill=_hsv(u(0, 1), u(0.1, 0.6), u(0.2, 0.95)),
                outline=_darker(base, 0.6),
                width=max(1, side // 100),
            )
    elif kind == "strokes":
        for _ in range(70):
            x, y, a, r = u(0, side), u(0, side), u(0, 3.2), side * u(0.05, 0.16)
            draw.line(
                (x, y, x + r * math.cos(a), y + r * math.sin(a)),
                fill=_mix(base, other, u(0, 0.9)),
                width=max(1, int(side * u(0.01, 0.04))),
            )
    if kind != "plain" and rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(side * u(0.005, 0.03)))
    return image


def spoil(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add common picture faults at random: blur, noise, JPEG artefacts. uint8 [h, w, 3] in and out."""
    image = Image.fromarray(picture)
    kind = rng.random()
    if kind < 0.35:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(45, 95)))
        image = Image.open(buffer).convert("RGB")
    elif kind < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8))))
    out = np.asarray(image)
    if rng.random() < 0.25:
        noisy = out + rng.normal(0, rng.uniform(1, 6), out.shape)
        out = noisy.clip(0, 255).astype(np.uint8)
    return out
