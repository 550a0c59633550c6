"""Make up a person from a seed: shape, skin, hair, glasses, light and background.

Shapes are mixed from MakeHuman's shapes, and skins from twenty photographed ones. No result is a real person.
"""

# ruff: noqa: RUF005 (arrays are added here, not lists joined)
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from backdrops import colourful
from head_mesh import MUSCLES, RACES, SEXES, WEIGHTS, HeadMesh, linear
from head_shading import Lights, Looks

TONES = (
    (0.68, 0.44, 0.33),
    (0.62, 0.38, 0.26),
    (0.48, 0.27, 0.17),
    (0.30, 0.155, 0.09),
    (0.17, 0.085, 0.05),
    (0.085, 0.045, 0.028),
)
TONE_OF = {"african": (2.4, 5.0), "asian": (0.0, 2.2), "caucasian": (0.0, 1.6)}
DARK_HAIR = ((24, 18, 16), (40, 28, 20), (60, 38, 26), (16, 14, 14))
LIGHT_HAIR = ((92, 62, 40), (124, 88, 54), (168, 134, 88), (196, 168, 122), (112, 60, 38))
GREY_HAIR = ((150, 148, 150), (205, 205, 202))
IRISES = (
    (0.10, 0.045, 0.02),
    (0.05, 0.025, 0.012),
    (0.16, 0.085, 0.03),
    (0.10, 0.13, 0.06),
    (0.09, 0.16, 0.25),
    (0.14, 0.17, 0.19),
)
HAIR_SHARES = {  # by sex; the styles left out hide an eye
    "female": {"short01": 0.1, "short02": 0.1, "short04": 0.1, "long01": 0.36, "ponytail01": 0.28, "afro01": 0.06},
    "male": {"short01": 0.32, "short02": 0.28, "short04": 0.25, "long01": 0.05, "afro01": 0.1},
}
OPPOSITES = (
    ("-decr", "-incr"),
    ("-down", "-up"),
    ("-in", "-out"),
    ("-backward", "-forward"),
    ("-concave", "-convex"),
    ("-compress", "-uncompress"),
)
Rng = np.random.Generator


@dataclass(frozen=True)
class Camera:
    """How the camera turns light into a picture."""

    distance: float  # in heads
    exposure: float
    white: np.ndarray  # balance, [3]
    gamma: float
    contrast: float
    saturation: float
    blur: float  # pixels


def between(rng: Rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def pick(rng: Rng, options: tuple | list):
    return options[int(rng.integers(len(options)))]


def tinted(rng: Rng, spread: float) -> np.ndarray:
    """Return a random factor per channel that makes colours warmer or colder."""
    return np.exp(rng.normal(0, spread) * np.array([1, 0, -1], np.float32))


def triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


@dataclass(frozen=True)
class Person:
    """What decides both shape and looks: shares of race, sex and age. Those of races, and those of ages, sum to 1."""

    races: dict[str, float]
    female: float
    ages: dict[str, float]

    @property
    def sex(self) -> str:
        return "female" if self.female > 0.5 else "male"


def sample_person(rng: Rng) -> Person:
    races = dict(zip(RACES, rng.dirichlet((0.35,) * 3).tolist(), strict=True))
    female = 1 / (1 + math.exp(-rng.normal(0, 3)))
    at = rng.random()
    child = max(0.0, 0.45 - 3 * at) if rng.random() < 0.5 else 0.0
    old = max(0.0, (at - 0.45) / 0.55)
    return Person(races, female, {"child": child, "young": 1 - child - old, "old": old})


def sample_shape(rng: Rng, mesh: HeadMesh, person: Person) -> np.ndarray:
    """Return the head at rest, [V, 3]. Body targets are mixed fully, face targets weakly, to avoid caricatures."""
    weights = np.zeros(len(mesh.targets), np.float32)
    heavy, strong = (rng.dirichlet((1.2, 0.5, 0.5)) for _ in range(2))
    for sex, sex_share in zip(SEXES, (person.female, 1 - person.female), strict=True):
        for age, age_share in person.ages.items():
            for race, race_share in person.races.items():
                weights[mesh.shapes[f"{race}-{sex}-{age}"]] = race_share * sex_share * age_share
            for muscle, a in zip(MUSCLES, strong, strict=True):
                for weight, b in zip(WEIGHTS, heavy, strict=True):
                    weights[mesh.shapes[f"universal-{sex}-{age}-{muscle}-{weight}"]] = sex_share * age_share * a * b
    strength = between(rng, 0.12, 0.42)
    drawn: dict[str, float] = {}
    for name, row in mesh.shapes.items():
        if "/" not in name or "-trans-" in name or "measure" in name:
            continue
        part = name.split("/")[0]
        low, high = next(((a, b) for a, b in OPPOSITES if name.endswith(a)), (None, None))
        if low and name.removesuffix(low) + high in mesh.shapes:
            # Both sides of the face get nearly the same amount.
            both = name.removesuffix(low).replace("/l-", "/").replace("/r-", "/")
            if both not in drawn:
                drawn[both] = float(np.clip(rng.normal(0, 1), -2, 2)) * strength if rng.random() < 0.55 else 0.0
            amount = drawn[both] + (rng.normal(0, 0.06) if "/l-" in name or "/r-" in name else 0.0)
            amount *= {"mouth": 0.56, "ears": 0.48}.get(part, 0.8)
            weights[mesh.shapes[name.removesuffix(low) + high] if amount > 0 else row] = abs(amount)
        elif not any(name.endswith(b) for _, b in OPPOSITES):
            likely, most = {"asym": (0.15, 0.35), "head": (0.3, 0.7), "ears": (0.0, 0.0)}.get(part, (0.1, 0.4))
            if rng.random() < likely:
                weights[row] = between(rng, 0, most)
    larger_eyes = between(rng, 0, 0.7)
    for side in ("l", "r"):
        for height in (1, 2, 3):
            weights[mesh.shapes[f"eyes/{side}-eye-height{height}-incr"]] += 0.5 * larger_eyes
        weights[mesh.shapes[f"eyes/{side}-eye-scale-incr"]] += 0.4 * larger_eyes
    return mesh.rest + (weights @ mesh.targets).reshape(-1, 3)


def sample_skin(rng: Rng, mesh: HeadMesh, person: Person) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a texture [3, 512, 512], the skin's colour, and how dark that is, 0..5."""
    race = max(person.races, key=person.races.__getitem__) if rng.random() < 0.8 else pick(rng, RACES)
    age = "old" if person.ages["old"] > 0.62 else "middleage" if person.ages["old"] > 0.25 else "young"
    kind = f"{age}_{'darkskinned' if race == 'african' else 'lightskinned'}_{person.sex}_"
    skin = mesh.skins[pick(rng, [name for name in mesh.skins if name.startswith(kind)])]
    if rng.random() < 0.5:
        share = between(rng, 0, 0.45)
        skin = skin * (1 - share) + mesh.skins[pick(rng, sorted(mesh.skins))] * share
    tone = between(rng, *TONE_OF[race]) if rng.random() > 0.12 else between(rng, 0, 5)
    first = min(int(tone), 4)
    wanted = np.array(TONES[first]) * (1 - tone + first) + np.array(TONES[first + 1]) * (tone - first)
    wanted = wanted * between(rng, 0.88, 1.12) * np.exp(np.clip(rng.normal(0, 0.035, 3), -0.06, 0.06))
    forehead = np.median(skin[180:260, 440:470].reshape(-1, 3), axis=0)
    texture = (skin * (wanted / forehead)).clip(0, 1).astype(np.float32)
    return np.ascontiguousarray(texture.transpose(2, 0, 1)), wanted, tone


def sample_looks(rng: Rng, person: Person, skin: np.ndarray, tone: float, bald: bool) -> Looks:
    u = rng.uniform
    woman, child = person.female > 0.5, person.ages["child"] > 0.05
    lip = skin * np.array([0.95, 0.5, 0.5]) * u(0.7, 1.1)
    if woman and rng.random() < 0.5:
        share = u(0.2, 0.7)
        lip = lip * (1 - share) + np.array([u(0.25, 0.6), u(0.02, 0.12), u(0.03, 0.16)]) * share
    dark = tone > 2 or person.races["caucasian"] < 0.5 or rng.random() < 0.4
    dyed = rng.random() < 0.05
    dark = dark != dyed
    hair = pick(rng, DARK_HAIR if dark else LIGHT_HAIR)
    if person.ages["old"] > 0.6 and rng.random() < 0.6:
        hair = pick(rng, GREY_HAIR)
    hair = linear(np.array(hair) / 255) * u(0.7, 1.3) * np.exp(rng.normal(0, 0.08, 3))
    brow = np.minimum(hair * u(0.25, 0.7), skin * np.array([0.42, 0.34, 0.3]) * u(0.5, 1))
    bearded = not woman and not child and rng.random() < 0.5
    full = rng.random() < 0.8
    iris = pick(rng, IRISES[:3] if person.races["caucasian"] < 0.5 else IRISES)
    rise = u(0.06, 0.22)  # slope and bend of a brow depend on each other: chosen separately, they look angry
    return Looks(
        seed=float(rng.integers(1, 1000)),
        soft=(u(0.25, 0.5), u(0.12, 0.25), u(0.08, 0.2)), shine=u(0.02, 0.14) * (0.6 if tone < 3 else 1),
        gloss=u(8, 26), grain=u(0, 0.18), mottle=u(0, 0.12), blotches=u(0.05, 0.4),
        lip=triple(lip), lip_cover=u(0.1, 0.8) if woman else u(0, 0.4), lip_shine=u(0, 0.12),
        eye_shadow=u(0, 0.8) if woman and rng.random() < 0.5 else 0.0,
        brow=triple(brow), brow_from=u(0.08, 0.13), brow_to=u(0.5, 0.6), brow_height=u(7.44, 7.49), brow_rise=rise,
        brow_bend=rise + u(-0.01, 0.08), brow_thick=u(0.03, 0.055) * (0.75 if woman else 1.15), brow_dense=u(0.75, 1.4),
        beard=(u(0.25, 0.6) if rng.random() < 0.5 else u(0.7, 1.3)) if bearded else 0.0,
        beard_jaw=float(full), beard_moustache=float(not full or rng.random() < 0.8),
        beard_cheek=u(0, 1) if rng.random() < 0.6 else 0.0,
        stubble=(u(0.3, 1) if rng.random() < 0.75 else 0.0) if bald else u(0.6, 0.95), hairline=u(7.98, 8.12),
        hair=triple(hair), hair_shine=u(0, 0.06), hair_highlight=u(0.2, 0.9),
        iris=triple(np.array(iris) * u(0.6, 1.3)), iris_size=u(0.44, 0.53), pupil_size=u(0.15, 0.26),
        eye_shine=u(0.3, 0.9),
        tooth=triple(np.array([0.74, 0.68, 0.58]) * u(0.8, 1.12) * tinted(rng, 0.04)), tooth_width=u(6.8, 8.6),
        cloth=triple(colourful(rng, (0, 0.75), (0.08, 0.95))), neckline=u(5.55, 6.0), neck_slope=u(-0.35, 0.25),
        neck_depth=u(-0.3, 0.1), pattern=int(rng.choice(4, p=(0.64, 0.1, 0.08, 0.18))), pattern_scale=u(4, 18),
        frame=triple(linear((0.05, 0.05, 0.055)) if rng.random() < 0.6 else colourful(rng, (0.1, 0.7), (0.1, 0.6))),
    )  # fmt: skip


def sample_lights(rng: Rng) -> Lights:
    """Return a key light, a weaker fill light from elsewhere, and ambient light; soft, medium or hard."""
    u = rng.uniform
    kind = rng.random()
    if kind < 0.3:
        key, ambient, soft = u(0.3, 0.6), u(0.55, 0.9), u(4, 9)
    elif kind < 0.85:
        key, ambient, soft = u(0.6, 1.1), u(0.3, 0.6), u(0.8, 4)
    else:
        key, ambient, soft = u(1.0, 1.5), u(0.15, 0.3), u(0.8, 2)

    def towards(azimuth: float, height: float) -> tuple[float, float, float]:
        a, h = math.radians(azimuth), math.radians(height)
        return math.sin(a) * math.cos(h), math.sin(h), math.cos(a) * math.cos(h)

    warm = tinted(rng, 0.08)
    return Lights(
        key=triple(key * tinted(rng, 0.12)), key_from=towards(rng.normal(0, 42), u(0, 60)), key_soft=soft,
        fill=triple(u(0, 0.35) * tinted(rng, 0.18)), fill_from=towards(u(-110, 110), u(-20, 40)),
        ambient=triple(ambient * warm), ambient_x=triple(rng.normal(0, 0.12) * ambient * np.exp(rng.normal(0, 0.2, 3))),
        ambient_y=triple(u(0, 0.45) * ambient * warm), ambient_z=triple(np.full(3, u(-0.05, 0.3) * ambient)),
    )  # fmt: skip


def sample_camera(rng: Rng) -> Camera:
    u = rng.uniform
    return Camera(
        distance=u(4, 9), exposure=u(0.8, 1.3), white=np.exp(np.clip(rng.normal(0, 0.045, 3), -0.08, 0.08)),
        gamma=u(0.82, 1.12), contrast=u(-0.1, 0.35), saturation=u(0.7, 1.2), blur=u(0, 0.75),
    )  # fmt: skip


def make_glasses(rng: Rng, mesh: HeadMesh, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices [G, 3] and triangles of glasses that fit a head: two rims, a bridge and two temples."""
    inner, outer, upper, lower = (shape[mesh.landmarks[k]] for k in (41, 45, 43, 47))
    width, middle = outer[0] - inner[0], (inner[0] + outer[0]) / 2
    rx = width * between(rng, 0.78, 1.05)
    ry = rx * between(rng, 0.62, 0.95)
    round_ = between(rng, 0.45, 1.0)  # 1: an ellipse; smaller: closer to a box
    thick = between(rng, 0.02, 0.05)
    x0 = max(middle, rx + 0.03)
    y0 = (upper[1] + lower[1]) / 2 - ry * between(rng, 0.05, 0.2)
    z0 = max(inner[2], shape[mesh.landmarks[27]][2] - 0.02) + between(rng, 0.03, 0.08)
    points: list[np.ndarray] = []
    triangles: list[list[int]] = []

    def ribbon(a: np.ndarray, b: np.ndarray) -> None:
        first, count = sum(map(len, points)), len(a)
        points.extend([a, b])
        for i in range(first, first + count - 1):
            triangles.extend([[i, i + 1, i + count], [i + 1, i + count + 1, i + count]])

    turn = np.linspace(0, 2 * np.pi, 29)
    ring = np.column_stack([np.sign(f) * np.abs(f) ** round_ for f in (np.cos(turn), np.sin(turn))])
    ear = shape[mesh.landmarks[45]] * [1.42, 1, 0] + [0, 0.03, 0.45]
    for side in (-1, 1):
        x, y = ring[:, 0] * rx, ring[:, 1] * ry
        z = z0 - 0.15 * np.maximum(0, side * x)
        ribbon(
            np.column_stack([side * x0 + x, y0 + y, z]),
            np.column_stack([side * x0 + x * (1 + thick / rx), y0 + y * (1 + thick / ry), z]),
        )
        temple = np.array([[side * (x0 + rx + thick / 2), y0 + ry * 0.35, z0 - 0.15 * rx], ear * [side, 1, 1]])
        ribbon(temple - [0, thick * 0.7, 0], temple + [0, thick * 0.7, 0])
    bridge = np.array([[rx - x0, y0 + ry * 0.3, z0], [0, y0 + ry * 0.42, z0 + 0.02], [x0 - rx, y0 + ry * 0.3, z0]])
    ribbon(bridge - [0, thick / 2, 0], bridge + [0, thick / 2, 0])
    return np.concatenate(points).astype(np.float32), np.array(triangles, np.int32)
