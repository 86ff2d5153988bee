"""Random scenes by CLEVR's rules, in its JSON schema (Johnson et al. 2017; paper: appendix C)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from srnlib.data._hash import integer
from srnlib.data.clevr_geometry import CAMERA, COLOURS, LAMPS, MATERIALS, SHAPES, SIZES, project, view
from srnlib.data.clevr_render import masks

MIN_OBJECTS, MAX_OBJECTS = 3, 10
FIELD = 3.0  # x and y of an object lie in [-FIELD, FIELD]
GAP, MARGIN = 0.25, 0.4  # between two objects; between their centres along each of the four directions
TRIES = 50  # places tried for one object before the scene starts afresh
WIDTH, HEIGHT = 320, 240  # of the picture that `pixel_coords` speak of
SHARE = 200 / (WIDTH * HEIGHT)  # of the picture that each object shows, at least
EPSILON = 0.2  # an object is left of another if it is so by more than this
JITTER = {"camera": 0.5, "lamps": 1.0}  # largest shift along each axis


def sample(seed: int, i: int) -> dict:
    """Scene `i` of the data set `seed`: a dictionary of plain numbers, strings and lists, ready for `json.dumps`.

    It has the keys of CLEVR's files (`objects`, `relationships`, `directions`, `image_index` and so on) and two more:
    `camera`, and `lamps` by name, each a place (x, y, z). Raises: As `generate`.
    """
    seed, i = integer("seed", seed, 0), integer("i", i, 0)
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(i,)))  # numpy keeps this stream the same for ever

    def draw() -> float:
        return (int(bits.random_raw()) >> 11) * 2.0**-53

    def near(place: tuple[float, ...], jitter: float) -> list[float]:
        return [x + jitter * (2 * draw() - 1) for x in place]

    count = MIN_OBJECTS + int(draw() * (MAX_OBJECTS - MIN_OBJECTS + 1))
    scene = {
        "split": f"seed{seed}",
        "image_index": i,
        "image_filename": f"CLEVR_seed{seed}_{i:06d}.png",
        "camera": near(CAMERA, JITTER["camera"]),
        "lamps": {name: near(lamp[0], JITTER["lamps"]) for name, lamp in LAMPS.items()},
    }
    right, up, forward = view(np.array(scene["camera"]))
    behind = _flat(forward)
    scene["directions"] = {
        "left": (-_flat(right)).tolist(),
        "right": _flat(right).tolist(),
        "front": (-behind).tolist(),
        "behind": behind.tolist(),
        "above": [0.0, 0.0, 1.0],
        "below": [0.0, 0.0, -1.0],
    }
    axes = np.stack([_flat(right), behind])[:, :2]
    while True:
        scene["objects"] = _place(draw, count, axes)
        if len(scene["objects"]) == count:
            visible, _ = masks(scene)
            if (visible.mean((1, 2)) >= SHARE).all():
                break
    centres = np.array([thing["3d_coords"] for thing in scene["objects"]])
    for thing, (x, y, depth) in zip(scene["objects"], project(centres, np.array(scene["camera"])), strict=True):
        thing["pixel_coords"] = [round(WIDTH * x), round(HEIGHT * y), float(depth)]
    scene["relationships"] = _relations(centres, scene["directions"])
    return scene


def _place(draw: Callable[[], float], count: int, axes: NDArray) -> list[dict]:
    """`count` objects that stand clear of one another, or fewer if one found no place in `TRIES`."""

    def choose(options: object) -> str:
        return list(options)[int(draw() * len(options))]

    objects, taken = [], np.empty((0, 3))
    for _ in range(count):
        size = choose(SIZES)
        radius = SIZES[size]
        for _ in range(TRIES):
            spot = np.array([FIELD * (2 * draw() - 1) for _ in "xy"])
            away = spot - taken[:, :2]
            clear = np.hypot(*away.T) - radius - taken[:, 2] >= GAP
            if clear.all() and (np.abs(away @ axes.T) >= MARGIN).all():
                break
        else:
            return objects
        shape = choose(SHAPES)
        if shape == "cube":
            radius /= 2**0.5
        thing = {"shape": shape, "size": size, "material": choose(MATERIALS), "color": choose(COLOURS)}
        objects.append(thing | {"rotation": 360 * draw(), "3d_coords": [*spot.tolist(), radius]})
        taken = np.concatenate([taken, [[*spot, radius]]])
    return objects


def _flat(way: NDArray) -> NDArray:
    """`way` along the floor, of length 1."""
    way = way * [1.0, 1.0, 0.0]
    return way / np.linalg.norm(way)


def _relations(centres: NDArray, directions: dict[str, list[float]]) -> dict[str, list[list[int]]]:
    """For the four directions on the floor and each object i, the objects that lie that way from i."""
    related = {}
    for name in ("left", "right", "front", "behind"):
        along = centres @ np.array(directions[name])
        related[name] = [np.flatnonzero(along - here > EPSILON).tolist() for here in along]
    return related
