"""A small ray tracer for CLEVR's scenes (paper: appendix C). `clevr_geometry` says where a ray goes, this what it sees.

Blender draws the original. Here each effect is the simplest that looks the same at 128x128: square lamps sampled on a
3x3 grid for soft shadows, one GGX highlight a lamp, one mirror bounce for metal, ambient light coloured near contact.
The sun casts no shadow: nor does the original's floor get darker than without the lamps, but close to an object.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from srnlib.data.clevr_geometry import (
    LAMPS,
    REACH,
    Objects,
    boxes,
    distances,
    hits,
    into,
    near,
    normal,
    numbers,
    rays,
    read,
    view,
)

SUN, SUN_POWER = np.array([0.4145, -0.1946, 0.889]), 0.45  # the way to the sun, and its irradiance
SKY = 0.0509  # radiance from above
BOUNCE = 0.17  # radiance that the lit floor sends up, where it is not traced
BLUR = 0.05  # of mirror images: how far their normals stray
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
GRID = (np.stack(np.meshgrid(*2 * [np.arange(3)], indexing="ij"), -1).reshape(-1, 2) - 1) / 3


class Rendering(NamedTuple):
    """One picture of M objects at S x S pixels. Pixel masks ask whether the ray through the pixel's centre hits."""

    image: NDArray[np.uint8]  # [3, S, S]
    foreground: NDArray[np.uint8]  # [3, S, S]: the image where an object is seen, 0 on the floor
    visible: NDArray[np.bool_]  # [M, S, S]: what is seen of each object
    full: NDArray[np.bool_]  # [M, S, S]: its silhouette as if it stood alone
    boxes: NDArray[np.int64]  # [M, 4]: (left, top, right, bottom) of `full`, right and bottom one past the last pixel


def render(scene: dict, size: int = 128) -> Rendering:
    """Draws a scene of CLEVR's JSON schema with the places of its camera and lamps (see `srnlib.data.clevr.generate`).

    The picture is 4:3, or `width` by `height` if the scene has them, and squashed into a square. A `rotation` is in
    degrees; that of CLEVR's own files is in radians, which `srnlib.data.clevr_release` turns into degrees.

    Raises:
        ValueError: If the scene lacks a key, or holds an unknown word or no number; or if `size` is not positive.
    """
    objects, place, lamps = read(scene)
    aspect = _aspect(scene)
    visible, full = hits(objects, place, size, aspect)
    seen = np.where(visible.any(0), visible.argmax(0), len(visible))
    fine = np.isin(seen, np.flatnonzero(objects.metal))  # pixels that take four rays: metal, and outlines
    for axis in (0, 1):
        edge = np.diff(seen, axis=axis) != 0
        fine |= np.insert(edge, 0, False, axis) | np.insert(edge, size - 1, False, axis)
    row, column = np.nonzero(~fine)
    once = rays(place, size, row + 0.5, column + 0.5, aspect)
    row, column = np.nonzero(fine)
    steps = np.array([[0.125, 0.375], [0.375, 0.875], [0.625, 0.125], [0.875, 0.625]])
    often = rays(place, size, (row[:, None] + steps[:, 0]).ravel(), (column[:, None] + steps[:, 1]).ravel(), aspect)
    light = _light(objects, lamps, place, np.concatenate([often, once])).clip(0, 1)
    linear = np.empty((size, size, 3))
    linear[fine] = light[: len(often)].reshape(-1, 4, 3).mean(1)
    linear[~fine] = light[len(often) :]
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    image = np.rint(255 * curve).astype(np.uint8).transpose(2, 0, 1)
    return Rendering(image, image * visible.any(0), visible, full, boxes(full))


def masks(scene: dict, size: int = 128) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Only the visible and full masks of `render`, each bool `[M, size, size]`. Raises: as `render`."""
    objects, place, _ = read(scene)
    return hits(objects, place, size, _aspect(scene))


def _aspect(scene: dict) -> float:
    """Width by height of a scene's picture before it is squashed."""
    width, height = (float(numbers(key, scene.get(key, usual))) for key, usual in (("width", 4), ("height", 3)))
    if not (width > 0 and height > 0):
        raise ValueError(f"width and height of a scene's picture must be positive, got {width:g} and {height:g}")
    return width / height


def _light(objects: Objects, lamps: dict[str, NDArray], place: NDArray, d: NDArray) -> NDArray:
    """Light `[K, 3]` that reaches the camera against the directions `d` `[K, 3]`."""
    p, n, owner = _surface(objects, place, d, distances(objects, place, d))
    light = _lit(objects, lamps, p, n, owner, d)
    metal = np.flatnonzero(objects.metal[owner])
    p, n, owner, d = p[metal], n[metal], owner[metal], d[metal]
    n = n + BLUR * TETRAHEDRON[metal % 4]  # four rays a pixel
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    d = d - 2 * (d * n).sum(-1, keepdims=True) * n
    t = np.stack([np.where(owner == k, np.inf, into(objects, k, p, d)) for k in range(len(objects.shape))])
    mirrored = np.full((len(metal), 3), SKY)
    hit = np.flatnonzero((d[:, 2] < 0) | np.isfinite(t).any(0))
    q, m, other = _surface(objects, p[hit], d[hit], t[:, hit])
    mirrored[hit] = _lit(objects, lamps, q, m, other, d[hit])
    second = np.flatnonzero(objects.metal[other])  # metal in metal: its colour times what surrounds it
    up = d[hit[second], 2] - 2 * (d[hit[second]] * m[second]).sum(-1) * m[second, 2]
    mirrored[hit[second]] += objects.colour[other[second]] * np.where(up > 0, SKY, BOUNCE)[:, None]
    light[metal] += objects.mirror[owner, None] * objects.colour[owner] * mirrored
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
    colour = objects.colour[owner]
    share = 0.5 * (1 + n[:, 2])
    even = SKY * share + BOUNCE * (1 - share) + SUN_POWER / np.pi * np.maximum(n @ SUN, 0)
    diffuse = np.repeat(even[:, None], 3, 1)
    for k in range(len(objects.shape)):  # contact: each object replaces its solid angle, taken as a sphere's
        e = objects.centre[k] - p
        square = np.maximum((e * e).sum(-1), objects.radius[k] ** 2)
        hidden = np.maximum((n * e).sum(-1), 0) / np.sqrt(square) * objects.radius[k] ** 2 / square
        diffuse += np.where(owner == k, 0, hidden)[:, None] * (BOUNCE * objects.colour[k] - diffuse)
    shiny = np.flatnonzero(owner < len(objects.shape))
    gloss = np.zeros_like(p)
    for name, (_, side, watts, tint) in LAMPS.items():
        lamp = lamps[name]
        to = lamp - p
        far = np.sqrt(np.einsum("ki,ki->k", to, to))
        to /= far[:, None]
        power = np.maximum(np.einsum("ki,ki->k", n, to), 0) * (to @ lamp).clip(0) / np.linalg.norm(lamp) / far**2
        light = (watts / np.pi * power * _unshaded(objects, lamp, side, p, owner))[:, None] * np.array(tint)
        diffuse += light / np.pi
        alpha = objects.roughness[owner[shiny]] ** 2
        gloss[shiny] += light[shiny] * _ggx(n[shiny], to[shiny], -d[shiny], alpha)[:, None]
    mirror = objects.mirror[owner, None]
    return colour * diffuse * (1 - mirror) + gloss * mirror * np.where(objects.metal[owner, None], colour, 1)


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
        top = objects.centre[k, 2] + objects.radius[k]
        spread = side / 2 * min(top / lamp[2], 1)  # up there, of the beams from a point on the floor to the lamp
        some = near(lamp, p - lamp, objects.centre[k], REACH[shape] * objects.radius[k] + spread)
        some = some[owner[some] != k]  # a convex object shades itself only where it faces away
        seen[some] &= into(objects, k, corners, p[some, None] - corners) >= 1
    return seen.mean(-1)
