"""A small ray tracer for CLEVR's scenes: spheres, boxes and cylinders on a floor, hit in closed form (paper: appendix C).

Blender draws the original. Here each effect is the simplest that looks the same at 128x128: square lamps sampled on a
3x3 grid for soft shadows, one GGX highlight a lamp, one mirror bounce for metal, ambient light dimmed near contact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHAPES = ("cube", "sphere", "cylinder")
SIZES = {"large": 0.7, "small": 0.35}  # radius; a cube's half side is this / sqrt(2)
MATERIALS = {"rubber": (0.5, 0.04), "metal": (0.22, 1.0)}  # roughness, mirror: the share of light that is not diffuse
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
LAMPS = {  # place, side of the square, watts, tint; they face the origin
    "key": ((6.447, -2.905, 4.258), 0.5, 78.54, (1.0, 0.932, 0.817)),
    "fill": ((-4.671, -4.014, 3.011), 0.5, 23.56, (0.762, 0.818, 1.0)),
    "back": ((-1.169, 2.646, 5.816), 1.0, 39.27, (1.0, 1.0, 1.0)),
}
SUN, SUN_POWER = np.array([0.4145, -0.1946, 0.889]), 0.45  # the way to the sun, and its irradiance
SKY, FLOOR = 0.0509, 0.8  # radiance from above, albedo of the floor
BOUNCE = 0.2  # radiance that the lit floor sends up, where it is not traced
HALF_WIDTH = np.tan(np.radians(49.134) / 2)  # of the picture at distance 1
ASPECT = 4 / 3  # of the picture before it is squashed into a square
BEVEL = 0.06  # rounds the shading of edges, as a share of the half side
REACH = {"cube": 3**0.5, "sphere": 1.0, "cylinder": 2**0.5}  # radius of the bounding sphere, in half sides
GRID = (np.stack(np.meshgrid(*2 * [np.arange(3)], indexing="ij"), -1).reshape(-1, 2) - 1) / 3


class Rendering(NamedTuple):
    """One picture of M objects at S x S pixels. Pixel masks ask whether the ray through the pixel's centre hits."""

    image: NDArray[np.uint8]  # [3, S, S]
    foreground: NDArray[np.uint8]  # [3, S, S]: the image where an object is seen, 0 on the floor
    visible: NDArray[np.bool_]  # [M, S, S]: what is seen of each object
    full: NDArray[np.bool_]  # [M, S, S]: its silhouette as if it stood alone
    boxes: NDArray[np.int64]  # [M, 4]: (left, top, right, bottom) of `full`, right and bottom one past the last pixel


class Objects(NamedTuple):
    """The objects of a scene as arrays, the floor as their last row where it has one."""

    shape: list[str]
    centre: NDArray  # [M, 3]
    radius: NDArray  # [M]: half side
    turn: NDArray  # [M, 3, 3]: rows are the axes of the object
    colour: NDArray  # [M + 1, 3]
    roughness: NDArray  # [M + 1]
    mirror: NDArray  # [M + 1]


def render(scene: dict, size: int = 128) -> Rendering:
    """Draws a scene of CLEVR's JSON schema with the places of its camera and lamps (see `srnlib.data.clevr.generate`).

    Raises:
        ValueError: If the scene lacks a key, or holds an unknown word; or if `size` is not positive.
    """
    objects, place, lamps = read(scene)
    visible, full = _masks(objects, place, size)
    seen = np.where(visible.any(0), visible.argmax(0), len(visible))
    fine = np.isin(seen, np.flatnonzero(objects.mirror == 1))  # pixels that take four rays: metal, and outlines
    for axis in (0, 1):
        edge = np.diff(seen, axis=axis) != 0
        fine |= np.insert(edge, 0, False, axis) | np.insert(edge, size - 1, False, axis)
    row, column = np.nonzero(~fine)
    once = rays(place, size, row + 0.5, column + 0.5)
    row, column = np.nonzero(fine)
    steps = np.array([[0.125, 0.375], [0.375, 0.875], [0.625, 0.125], [0.875, 0.625]])
    often = rays(place, size, (row[:, None] + steps[:, 0]).ravel(), (column[:, None] + steps[:, 1]).ravel())
    light = _light(objects, lamps, place, np.concatenate([once, often])).clip(0, 1)
    linear = np.empty((size, size, 3))
    linear[~fine] = light[: len(once)]
    linear[fine] = light[len(once) :].reshape(-1, 4, 3).mean(1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    image = np.rint(255 * curve).astype(np.uint8).transpose(2, 0, 1)
    return Rendering(image, image * visible.any(0), visible, full, boxes(full))


def masks(scene: dict, size: int = 128) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Only the visible and full masks of `render`, each bool `[M, size, size]`. Raises: as `render`."""
    objects, place, _ = read(scene)
    return _masks(objects, place, size)


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


def view(place: NDArray) -> NDArray:
    """The axes (right, up, forward) `[3, 3]` of a camera at `place` that looks at the origin."""
    forward = -np.asarray(place) / np.linalg.norm(place)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, forward), forward])


def rays(place: NDArray, size: int, row: NDArray, column: NDArray) -> NDArray:
    """Directions `[K, 3]` of length 1 through points `row`, `column` `[K]` of the picture, in pixels."""
    x = (2 * column / size - 1) * HALF_WIDTH
    y = (1 - 2 * row / size) * HALF_WIDTH / ASPECT
    direction = np.stack([x, y, np.ones_like(x)], -1) @ view(place)
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)


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


def read(scene: dict) -> tuple[Objects, NDArray, dict[str, NDArray]]:
    """The objects of a scene, the place of its camera `[3]` and those of its lamps. Raises: as `render`."""
    try:
        things = scene["objects"]
        shape = [_word(thing, "shape", SHAPES) for thing in things]
        radius = [SIZES[_word(thing, "size", SIZES)] for thing in things]
        colour = [COLOURS[_word(thing, "color", COLOURS)] for thing in things]
        material = [MATERIALS[_word(thing, "material", MATERIALS)] for thing in things]
        centre = np.array([thing["3d_coords"] for thing in things], float).reshape(len(things), 3)
        angle = np.radians([float(thing["rotation"]) for thing in things])
        place = np.array(scene["camera"], float).reshape(3)
        lamps = {name: np.array(scene["lamps"][name], float).reshape(3) for name in LAMPS}
    except KeyError as error:
        raise ValueError(f"the scene lacks the key {error}; make it with srnlib.data.clevr.generate") from None
    c, s, zero = np.cos(angle), np.sin(angle), np.zeros(len(things))
    turn = np.stack([c, s, zero, -s, c, zero, zero, zero, zero + 1], -1).reshape(-1, 3, 3)
    roughness, mirror = np.array([*material, (1.0, 0.0)]).T
    half = np.array(radius) / np.where([name == "cube" for name in shape], np.sqrt(2), 1)
    colour = np.array([*(np.array(rgb) / 255 for rgb in colour), 3 * [FLOOR]])
    return Objects(shape, centre, half, turn, colour, roughness, mirror), place, lamps


def _word(thing: dict, key: str, known: object) -> str:
    if thing[key] not in known:
        raise ValueError(f"an object has {key} {thing[key]!r}; known are {', '.join(known)}")
    return thing[key]


def _near(o: NDArray, d: NDArray, centre: NDArray, radius: float) -> NDArray:
    """Indices of those rays from one point `o` along `d` `[K, 3]` that pass within `radius` of `centre`."""
    e = centre - o
    along = d @ e
    return np.flatnonzero((along > 0) & (along**2 >= (e @ e - radius**2) * np.einsum("ki,ki->k", d, d)))


def _into(objects: Objects, k: int, o: NDArray, d: NDArray) -> NDArray:
    """`enter` for object k and rays in the world."""
    frame = objects.turn[k].T / objects.radius[k]
    return enter(objects.shape[k], (o - objects.centre[k]) @ frame, d @ frame)


def _masks(objects: Objects, place: NDArray, size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    row, column = np.divmod(np.arange(size * size), size)
    t = _distances(objects, place, rays(place, size, row + 0.5, column + 0.5)).reshape(-1, size, size)
    full = np.isfinite(t)
    first = t == t.min(0, initial=np.inf)
    return full & first, full


def _distances(objects: Objects, o: NDArray, d: NDArray) -> NDArray:
    """Distances `[M, K]` from one point `o` to each object along `d` `[K, 3]`; infinity for a miss."""
    t = np.full((len(objects.shape), len(d)), np.inf)
    for k, shape in enumerate(objects.shape):
        near = _near(o, d, objects.centre[k], REACH[shape] * objects.radius[k])
        t[k, near] = _into(objects, k, o, d[near])
    return t


def _light(objects: Objects, lamps: dict[str, NDArray], place: NDArray, d: NDArray) -> NDArray:
    """Light `[K, 3]` that reaches the camera against the directions `d` `[K, 3]`."""
    p, n, owner = _surface(objects, place, d, _distances(objects, place, d))
    light = _lit(objects, lamps, p, n, owner, d)
    metal = np.flatnonzero(objects.mirror[owner] == 1)
    p, n, owner, d = p[metal], n[metal], owner[metal], d[metal]
    d = d - 2 * (d * n).sum(-1, keepdims=True) * n
    t = np.stack([np.where(owner == k, np.inf, _into(objects, k, p, d)) for k in range(len(objects.shape))])
    mirrored = np.full((len(metal), 3), SKY)
    hit = np.flatnonzero((d[:, 2] < 0) | np.isfinite(t).any(0))
    q, m, other = _surface(objects, p[hit], d[hit], t[:, hit])
    mirrored[hit] = _lit(objects, lamps, q, m, other, d[hit])
    second = np.flatnonzero(objects.mirror[other] == 1)  # metal in metal: its colour times what surrounds it
    up = d[hit[second], 2] - 2 * (d[hit[second]] * m[second]).sum(-1) * m[second, 2]
    mirrored[hit[second]] += objects.colour[other[second]] * np.where(up > 0, SKY, BOUNCE)[:, None]
    light[metal] += objects.colour[owner] * mirrored
    return light


def _surface(objects: Objects, o: NDArray, d: NDArray, t: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """The first points `[K, 3]` on rays from `o`, the normals there, and the owners `[K]` (M is the floor)."""
    floor = np.broadcast_to(o[..., 2], len(d)) / np.maximum(-d[:, 2], 1e-9)
    t = np.concatenate([t, floor[None]])
    owner = t.argmin(0)
    p = o + t[owner, np.arange(len(d))][:, None] * d
    n = np.zeros_like(p)
    n[owner == len(objects.shape), 2] = 1
    for k, shape in enumerate(objects.shape):
        mine = np.flatnonzero(owner == k)
        local = (p[mine] - objects.centre[k]) @ objects.turn[k].T / objects.radius[k]
        n[mine] = normal(shape, local) @ objects.turn[k]
    return p, n, owner


def _lit(objects: Objects, lamps: dict[str, NDArray], p: NDArray, n: NDArray, owner: NDArray, d: NDArray) -> NDArray:
    """Light `[K, 3]` that leaves the points `p` against `d`: diffuse and highlights, no mirror image."""
    colour, mirror = objects.colour[owner], objects.mirror[owner]
    share = 0.5 * (1 + n[:, 2])
    diffuse = np.repeat((SKY * share + BOUNCE * (1 - share))[:, None], 3, 1)
    for k in range(len(objects.shape)):  # contact: each object hides its solid angle, taken as a sphere's
        e = objects.centre[k] - p
        square = np.maximum((e * e).sum(-1), objects.radius[k] ** 2)
        hidden = np.maximum((n * e).sum(-1), 0) / np.sqrt(square) * objects.radius[k] ** 2 / square
        diffuse *= (1 - np.where(owner == k, 0, hidden))[:, None]
    shiny = np.flatnonzero(owner < len(objects.shape))
    gloss = np.zeros_like(p)
    for name in (*LAMPS, "sun"):
        if name == "sun":
            lamp, side, tint = 1000 * SUN, 1.0, np.ones(3)
            to, power, far = np.broadcast_to(SUN, p.shape), SUN_POWER, 1000.0
        else:
            lamp, (_, side, watts, tint) = lamps[name], LAMPS[name]
            to = lamp - p
            far = np.linalg.norm(to, axis=-1, keepdims=True)
            to = to / far
            facing = np.maximum(to @ lamp, 0) / np.linalg.norm(lamp)
            power = watts / np.pi * facing / far[:, 0] ** 2
        cosine = (n * to).sum(-1)
        light = (np.maximum(cosine, 0) * power * _unshaded(objects, lamp, side, p, owner))[:, None] * np.array(tint)
        diffuse += light / np.pi
        alpha = objects.roughness[owner[shiny]] ** 2
        gloss[shiny] += light[shiny] * _ggx(n[shiny], to[shiny], -d[shiny], alpha)[:, None]
    return colour * diffuse * (1 - mirror)[:, None] + gloss * np.where(mirror[:, None] == 1, colour, mirror[:, None])


def _ggx(n: NDArray, to: NDArray, back: NDArray, alpha: NDArray) -> NDArray:
    """The GGX lobe D G / (4 cos cos) `[K]` for light from `to` seen from `back` (Walter et al. 2007)."""
    half = to + back
    half /= np.linalg.norm(half, axis=-1, keepdims=True)
    square = alpha**2
    spread = square / (np.pi * ((n * half).sum(-1) ** 2 * (square - 1) + 1) ** 2)
    masked = 0.25
    for way in (to, back):
        c = np.maximum((n * way).sum(-1), 1e-3)
        masked = masked * 2 / (c + np.sqrt(square + (1 - square) * c * c))
    return spread * masked


def _unshaded(objects: Objects, lamp: NDArray, side: float, p: NDArray, owner: NDArray) -> NDArray:
    """The share `[K]` of a square lamp, facing the origin, that the points `p` see past other objects."""
    corners = lamp + side * GRID @ view(lamp)[:2]
    seen = np.ones((len(p), len(GRID)), bool)
    for k, shape in enumerate(objects.shape):
        near = _near(lamp, p - lamp, objects.centre[k], REACH[shape] * objects.radius[k] + 0.71 * side)
        near = near[owner[near] != k]  # a convex object shades itself only where it faces away
        seen[near] &= _into(objects, k, corners, p[near, None] - corners) >= 1
    return seen.mean(-1)
