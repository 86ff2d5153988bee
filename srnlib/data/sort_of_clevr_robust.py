"""Scenes of Sort-of-CLEVR on which the furthest object is obvious, and their rotations (paper: section 3.1, D.2).

Each function gives centres `[n, 6, 2]` and shapes `[n, 6]`, to be drawn by `srnlib.data.sort_of_clevr.render`. Shapes
turn about the middle of the image but stay upright, as all shapes in training do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from srnlib.data._hash import below, integer, mix, stream
from srnlib.data.sort_of_clevr import CIRCLE, COLOURS, HALF, RECTANGLE, SIZE, distances, legal, scenes

TURNS = 720  # rotations of one scene, half a degree apart
MARGIN = 15  # a centre this far from the border stays inside the frame when it turns
MIDDLE = SIZE // 2  # pixel (37, 37)
REACH = MIDDLE - HALF  # the furthest from the middle that a centre may be
ONE = 2**20  # sines and cosines are integers over this
CONFIGURATION = np.array([(0, 0), (1, -12), (13, 1), (-2, 12), (-13, -2), (30, -2)])  # offsets (x, y) from red
CONFIGURATION_SHAPES = np.array([RECTANGLE, CIRCLE, RECTANGLE, CIRCLE, RECTANGLE, RECTANGLE])  # yellow's is drawn


def easy(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Scenes as `generate` draws them, only easy ones and with centres 15 pixels or more from the border.

    One candidate in 3,000 is such a scene; it is the first in the stream of its index.

    Raises:
        TypeError: If `n` or `seed` is not an integer.
        ValueError: If one of them is negative.
    """

    def accept(centers: NDArray[np.int64]) -> NDArray[np.bool_]:
        keep = is_easy(centers)
        keep[keep] = legal(centers[keep])
        return keep

    return scenes(n, seed, MARGIN, accept)


def is_easy(centers: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether the object furthest from red is at least twice as far as the second furthest: bool `[n]`."""
    order = np.sort(distances(centers)[:, 0, 1:], axis=1)
    return order[:, -1] >= 4 * order[:, -2]


def synthetic(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One easy scene at `n` different places, yellow furthest from red and its shape evens (paper: n = 200).

    The paper shows its configuration only as a picture (figure 13). This one is ours: four objects around red, 12 to 13
    pixels away, and yellow at 30. A place is a whole-pixel shift after which the scene may turn freely; places are
    drawn without repetition.

    Raises:
        TypeError: If `n` or `seed` is not an integer.
        ValueError: If one of them is negative, or `n` is more than there are places.
    """
    n, seed = integer("n", n, 0), integer("seed", seed, 0)
    y, x = np.mgrid[:SIZE, :SIZE].reshape(2, -1)
    places = np.stack([x, y], axis=1)[:, None] + CONFIGURATION
    places = places[(((places - MIDDLE) ** 2).sum(axis=2) <= REACH**2).all(axis=1)]
    if n > len(places):
        raise ValueError(f"the scene fits at {len(places)} places, got n = {n}; take fewer")
    words = mix(stream(len(places), seed))
    chosen = np.argsort(words)[:n]
    shapes = np.tile(CONFIGURATION_SHAPES, (n, 1))
    shapes[:, COLOURS.index("yellow")] = below(words[chosen] << 63, 2)  # the last bit: the first ones are small here
    return places[chosen], shapes


def rotations(centers: NDArray[np.integer]) -> NDArray[np.int64]:
    """Centres `[n, 6, 2]` turned by k / 2 degrees, k = 0 .. 719, about the middle pixel: `[n, 720, 6, 2]`.

    Positive angles are clockwise, as y points down. The same integers come out on every machine: sines and cosines are
    rounded to 20 binary places, where none lies near enough to a half for an error in a float's last digits to show;
    the rest is integer arithmetic, and a coordinate is rounded to the nearest pixel, from a half upwards. So distances
    change by at most 1.42 pixels (the diagonal of one), which can swap objects that are about equally close to
    another, and bring two shapes that nearly touch to overlap. The object furthest from red in an easy scene stays.

    Raises:
        TypeError: If `centers` are not integers.
        ValueError: If their shape is wrong, or an object would leave the frame.
    """
    centers = np.asarray(centers)
    if not np.issubdtype(centers.dtype, np.integer):
        raise TypeError(f"centers must be integers, got {centers.dtype}; round them first")
    if centers.ndim != 3 or centers.shape[1:] != (6, 2):
        raise ValueError(f"centers must be [n, 6, 2], got {list(centers.shape)}")
    offset = centers.astype(np.int64) - MIDDLE
    far = np.argwhere((offset**2).sum(axis=2) > REACH**2)
    if len(far):
        image, row = far[0]
        raise ValueError(
            f"the {COLOURS[row]} object of scene {image}, (x, y) = {centers[image, row].tolist()}, would leave the "
            f"frame when turned; centres must be within {REACH} pixels of ({MIDDLE}, {MIDDLE})"
        )
    cosine, sine = table()
    x, y = offset[:, None, :, 0], offset[:, None, :, 1]
    turned = np.stack([x * cosine - y * sine, x * sine + y * cosine], axis=-1)
    return MIDDLE + ((turned + ONE // 2) >> 20)


def table() -> NDArray[np.int64]:
    """Cosines and sines of the angles of `rotations`, times 2^20 and rounded: `[2, 720, 1]`."""
    angle = np.arange(TURNS)[:, None] * (2 * np.pi / TURNS)
    return np.rint(ONE * np.stack([np.cos(angle), np.sin(angle)])).astype(np.int64)
