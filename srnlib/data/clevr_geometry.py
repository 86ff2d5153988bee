"""What is where in a CLEVR scene: its objects, its camera, and where rays meet them, all in closed form.

Lengths are Blender's units. The floor is z = 0; x, y and z are right-handed; angles turn about z.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from srnlib.data._hash import integer

SHAPES = ("cube", "sphere", "cylinder")
SIZES = {"large": 0.7, "small": 0.35}  # radius; our cubes' half side is this / sqrt(2)
MATERIALS = {"rubber": (0.5, 0.04), "metal": (0.26, 0.92)}  # roughness, mirror: the share of light that is not diffuse
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
CAMERA = (7.48113, -6.50764, 5.34367)  # looks at the origin
LAMPS = {  # place, side of the square, watts, tint; they face the origin; Blender's fill lamp has 23.56 W
    "key": ((6.447, -2.905, 4.258), 0.5, 78.54, (1.0, 0.932, 0.817)),
    "fill": ((-4.671, -4.014, 3.011), 0.5, 18.0, (0.762, 0.818, 1.0)),
    "back": ((-1.169, 2.646, 5.816), 1.0, 39.27, (1.0, 1.0, 1.0)),
}
FLOOR = 0.75  # albedo
HALF_WIDTH = np.tan(np.radians(49.134) / 2)  # of the picture at distance 1
ASPECT = 4 / 3  # of the picture before it is squashed into a square
BEVEL = 0.08  # rounds the shading of edges, as a share of the half side
REACH = {"cube": 3**0.5, "sphere": 1.0, "cylinder": 2**0.5}  # radius of the bounding sphere, in half sides


class Objects(NamedTuple):
    """The objects of a scene as arrays; the last row of what has M + 1 rows is the floor."""

    shape: list[str]
    centre: NDArray  # [M, 3]
    radius: NDArray  # [M]: half side
    turn: NDArray  # [M, 3, 3]: rows are the axes of the object
    colour: NDArray  # [M + 1, 3]
    roughness: NDArray  # [M + 1]
    mirror: NDArray  # [M + 1]
    metal: NDArray  # [M + 1]


def read(scene: dict) -> tuple[Objects, NDArray, dict[str, NDArray]]:
    """The objects of a scene, the place of its camera `[3]` and those of its lamps. Raises: as `render`."""
    try:
        things = scene["objects"]
        shape = [_word(thing, "shape", SHAPES) for thing in things]
        radius = [SIZES[_word(thing, "size", SIZES)] for thing in things]
        colour = [COLOURS[_word(thing, "color", COLOURS)] for thing in things]
        material = [MATERIALS[_word(thing, "material", MATERIALS)] for thing in things]
        centre = np.array([numbers("3d_coords", thing["3d_coords"], 3) for thing in things])
        angle = np.radians([numbers("rotation", thing["rotation"]) for thing in things])
        place = numbers("camera", scene["camera"], 3)
        lamps = {name: numbers(f"lamp {name}", scene["lamps"][name], 3) for name in LAMPS}
    except KeyError as error:
        raise ValueError(f"the scene lacks the key {error}, which scenes of srnlib.data.clevr.generate have") from None
    except TypeError as error:
        raise ValueError(f"this is no scene as srnlib.data.clevr.generate gives them ({error})") from None
    if sunk := [name for name, at in {"camera": place, **lamps}.items() if at[2] <= 0]:
        raise ValueError(f"camera and lamps must stand above the floor, z > 0; {', '.join(sunk)} do not")
    if not things:
        raise ValueError("the scene has no objects; it needs at least one")
    c, s, zero = np.cos(angle), np.sin(angle), np.zeros(len(things))
    turn = np.stack([c, s, zero, -s, c, zero, zero, zero, zero + 1], -1).reshape(-1, 3, 3)
    roughness, mirror = np.array([*material, (1.0, 0.0)]).T
    divided = np.array([name == "cube" for name in shape]) & (np.abs(centre[:, 2] - radius) > 1e-3)
    half = np.array(radius) / np.where(divided, np.sqrt(2), 1)  # the release's cubes stand at full size, ours do not
    colour = np.array([*(np.array(rgb) / 255 for rgb in colour), 3 * [FLOOR]])
    return Objects(shape, centre, half, turn, colour, roughness, mirror, mirror > 0.5), place, lamps


def _word(thing: dict, key: str, known: object) -> str:
    if thing[key] not in known:
        raise ValueError(f"an object has {key} {thing[key]!r}; known are {', '.join(known)}")
    return thing[key]


def numbers(key: str, value: object, *shape: int) -> NDArray:
    """A number of a scene, or three of them if `shape` is 3, as floats. Raises: ValueError, naming `key`."""
    try:
        found = np.array(value, float)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    if found.shape != shape or not np.isfinite(found).all():
        raise ValueError(f"{key} must be {'three finite numbers' if shape else 'a finite number'}, got {value!r}")
    return found


def view(place: NDArray) -> NDArray:
    """The axes (right, up, forward) `[3, 3]` of a camera at `place` that looks at the origin."""
    forward = -np.asarray(place) / np.linalg.norm(place)
    right = np.cross(forward, [0.0, 0.0, 1.0]) if np.any(forward[:2]) else np.array([1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, forward), forward])


def rays(place: NDArray, size: int, row: NDArray, column: NDArray, aspect: float = ASPECT) -> NDArray:
    """Directions `[K, 3]` of length 1 through points `row`, `column` `[K]` of the picture, in pixels."""
    x = (2 * column / size - 1) * HALF_WIDTH
    y = (1 - 2 * row / size) * HALF_WIDTH / aspect
    direction = np.stack([x, y, np.ones_like(x)], -1) @ view(place)
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)


def project(points: NDArray, place: NDArray, aspect: float = ASPECT) -> NDArray:
    """Where `points` `[K, 3]` are in the picture: (x, y) from 0 at the top left to 1, and depth along the view."""
    x, y, depth = view(place) @ (points - place).T
    return np.stack([(1 + x / depth / HALF_WIDTH) / 2, (1 - y / depth / HALF_WIDTH * aspect) / 2, depth], -1)


def enter(shape: str, o: NDArray, d: NDArray) -> NDArray:
    """Where rays o + t d, `[..., 3]` each, enter a unit shape from outside: t > 0 `[...]`, infinity for a miss.

    The shapes are the unit sphere, the cube [-1, 1]^3 and the cylinder of radius 1 with |z| <= 1. Each is where a few
    intervals of t overlap: one of a quadratic for what is round, one of a slab for each pair of faces.
    """
    low, high = np.float64(-np.inf), np.float64(np.inf)
    if shape != "cube":
        axes = slice(3 if shape == "sphere" else 2)
        a = np.maximum((d[..., axes] ** 2).sum(-1), 1e-30)
        b = (o[..., axes] * d[..., axes]).sum(-1)
        root = b * b - a * ((o[..., axes] ** 2).sum(-1) - 1)
        half = np.sqrt(np.maximum(root, 0))
        low, high = np.where(root < 0, np.inf, (-b - half) / a), (half - b) / a
    if shape != "sphere":
        for axis in range(3) if shape == "cube" else (2,):
            slope = 1 / np.where(d[..., axis] == 0, 1e-30, d[..., axis])
            middle, half = -o[..., axis] * slope, np.abs(slope)
            low, high = np.maximum(low, middle - half), np.minimum(high, middle + half)
    return np.where((low <= high) & (low > 0), low, np.inf)


def normal(shape: str, p: NDArray) -> NDArray:
    """Outward normals `[K, 3]` at points `p` `[K, 3]` of a unit shape, bent near the edges as if they were rounded."""
    if shape == "cube":
        n = np.sign(p) * np.maximum(np.abs(p) - (1 - BEVEL), 0)
    elif shape == "cylinder":
        out = np.hypot(p[:, 0], p[:, 1])
        side = np.maximum(out - (1 - BEVEL), 0) / np.maximum(out, 1e-30)
        cap = np.sign(p[:, 2]) * np.maximum(np.abs(p[:, 2]) - (1 - BEVEL), 0)
        n = np.stack([p[:, 0] * side, p[:, 1] * side, cap], -1)
    else:
        n = p
    return n / np.linalg.norm(n, axis=-1, keepdims=True)


def into(objects: Objects, k: int, o: NDArray, d: NDArray) -> NDArray:
    """`enter` for object k and rays in the world."""
    frame = objects.turn[k].T / objects.radius[k]
    return enter(objects.shape[k], (o - objects.centre[k]) @ frame, d @ frame)


def near(o: NDArray, d: NDArray, centre: NDArray, radius: float) -> NDArray:
    """Indices of those rays from one point `o` along `d` `[K, 3]` that pass within `radius` of `centre`."""
    e = centre - o
    along = d @ e
    return np.flatnonzero((along > 0) & (along**2 >= (e @ e - radius**2) * np.einsum("ki,ki->k", d, d)))


def distances(objects: Objects, o: NDArray, d: NDArray) -> NDArray:
    """Distances `[M, K]` from one point `o` to each object along `d` `[K, 3]`; infinity for a miss."""
    t = np.full((len(objects.shape), len(d)), np.inf)
    for k, shape in enumerate(objects.shape):
        some = near(o, d, objects.centre[k], REACH[shape] * objects.radius[k])
        t[k, some] = into(objects, k, o, d[some])
    return t


def hits(
    objects: Objects, place: NDArray, size: int, aspect: float = ASPECT
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels' centres see each object, and would see it alone: bool `[M, size, size]` each.

    A pixel sees one object at most: where two are equally far, as the tops of two cubes that touch, the first of them.
    """
    size = integer("size", size, 1)
    row, column = np.divmod(np.arange(size * size), size)
    t = distances(objects, place, rays(place, size, row + 0.5, column + 0.5, aspect)).reshape(-1, size, size)
    full = np.isfinite(t)
    first = t.argmin(0) == np.arange(len(t))[:, None, None]
    return full & first, full


def boxes(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Tight boxes (left, top, right, bottom) `[..., 4]` of `masks` `[..., H, W]`, right and bottom one past the end.

    An empty mask has the box (0, 0, 0, 0).
    """
    ends = []
    for axis in (-2, -1):  # columns, then rows
        line = masks.any(axis)
        ends.append((line.argmax(-1), np.where(line.any(-1), line.shape[-1] - line[..., ::-1].argmax(-1), 0)))
    (left, right), (top, bottom) = ends
    return np.stack([left, top, right, bottom], -1)
