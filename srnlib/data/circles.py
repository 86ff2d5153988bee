"""The Circles data set: red and green discs on black, made by integer arithmetic alone (paper: section 2.2).

Example i is a function of the seed and i: same bytes on every machine, and a longer data set begins with the shorter.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from srnlib.data._hash import GOLDEN, below, integer, mix, stream

RED, GREEN = 1, 2  # colour 0 marks an empty row
BLOCK = 4096  # images worked on together; results do not depend on it
TRIES, RESTARTS = 64, 100  # places tried for one circle, fresh starts for one image
HOPELESS = 7  # fresh starts for an image that stays far from its count


def generate(
    n: int, seed: int, *, count: int | None = None, size: int = 64, max_circles: int = 10, max_radius: int = 11
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Draws `n` images of circles (paper: section 2.2; the defaults are the paper's data).

    Circles lie wholly inside the frame. Two of one colour are at least a pixel apart: the distance of their centres is
    more than the sum of their radii + 1. Two of different colours may overlap, and the overlap is yellow.

    A circle's radius (uniform on 1 .. max_radius) and colour (evens) are drawn once; its place, uniform inside the
    frame, is drawn again until it fits. After `TRIES` misses the image starts afresh with the same number of circles,
    and after `RESTARTS` of those the request is refused. It is refused after `HOPELESS` of them if all stopped more
    than 6 sqrt(count) circles short: where they stop varies by about sqrt(count), so that none to come would fit
    either. Only fresh starts bend the distributions: with the defaults radius 11 is 3.5 % rarer and radius 1 is 1 %
    commoner than uniform (with count = 10: 9 % and 3.5 %).

    Args:
        n: Number of images.
        seed: Any integer >= 0.
        count: Circles in every image; `None` draws it uniformly from 0 .. max_circles.
        size: Side of the image in pixels.
        max_circles: M, rows in `circles`; the largest possible count.
        max_radius: Largest radius in pixels.

    Returns:
        Images uint8 `[n, 3, size, size]` of 0 and 255; circles `[n, M, 4]` of (x, y, radius, colour), colour 1 red, 2
        green, rows after the last circle all zero; counts `[n]`.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If an argument is out of range, or so many circles do not fit; both end in bounded time.
    """
    n, seed = integer("n", n, 0), integer("seed", seed, 0)
    size, max_radius = integer("size", size, 1), integer("max_radius", max_radius, 1)
    max_circles = integer("max_circles", max_circles, 1)
    if count is not None and (count := integer("count", count, 0)) > max_circles:
        raise ValueError(f"count = {count} is more than max_circles = {max_circles}; raise max_circles")
    if 2 * max_radius + 1 > size:
        raise ValueError(
            f"a circle of max_radius = {max_radius} is {2 * max_radius + 1} pixels wide and leaves the frame of "
            f"size = {size}; take max_radius <= {(size - 1) // 2}"
        )
    most = max_circles if count is None else count
    # With its gap a circle owns a disc of radius r + 1/2 in one of two colour planes; 3 stands for pi, so no near miss
    # is refused here.
    if 3 * most * sum((2 * r + 1) ** 2 for r in range(1, max_radius + 1)) > 8 * size**2 * max_radius:
        raise ValueError(_misfit(most, size, max_radius))

    keys = stream(n, seed)
    images = np.zeros((n, 3, size, size), np.uint8)
    circles = np.zeros((n, max_circles, 4), np.int64)
    counts = np.full(n, count, np.int64) if count is not None else below(mix(keys), max_circles + 1)
    for start, stop in pairwise([0, *range(32, n, BLOCK), n]):  # the first block is short, to refuse soon
        block = slice(start, stop)
        circles[block] = _place(keys[block], counts[block], size, max_circles, max_radius)
        _stamp_colours(images[block], circles[block])
    return images, circles, counts


def render(circles: NDArray[np.integer], size: int = 64) -> NDArray[np.uint8]:
    """Draws `circles` `[n, M, 4]` of (x, y, radius, colour): images uint8 `[n, 3, size, size]` of 0 and 255.

    Pixel (x + dx, y + dy) belongs to a circle if dx^2 + dy^2 <= radius^2. Rows of colour 0 are not drawn.

    Raises:
        TypeError: If `circles` are not integers.
        ValueError: If a shape or a colour is wrong, a radius is negative, or a circle leaves the frame.
    """
    circles, size = _check(circles, size)
    images = np.zeros((len(circles), 3, size, size), np.uint8)
    for at in range(0, len(circles), BLOCK):
        _stamp_colours(images[at : at + BLOCK], circles[at : at + BLOCK])
    return images


def masks(circles: NDArray[np.integer], size: int = 64) -> NDArray[np.bool_]:
    """The pixels of every circle by itself: bool `[n, M, size, size]`, all False for rows of colour 0.

    Raises: As `render`.
    """
    circles, size = _check(circles, size)
    out = np.zeros((*circles.shape[:2], size, size), np.bool_)
    for at in range(0, len(circles), BLOCK):
        image, row = np.nonzero(circles[at : at + BLOCK, :, 3])
        _stamp(out[at : at + BLOCK], image, row, circles[at + image, row], True)
    return out


def _stamp_colours(images: NDArray[np.uint8], circles: NDArray[np.integer]) -> None:
    image, row = np.nonzero(circles[:, :, 3])
    chosen = circles[image, row]
    _stamp(images, image, chosen[:, 3] - 1, chosen, 255)


def _stamp(out: NDArray, image: NDArray, plane: NDArray, circles: NDArray, value: int) -> None:
    """Writes `value` on the discs `circles` `[K, 4]` into planes `[image, plane]` of `out` `[n, P, size, size]`."""
    size = out.shape[-1]
    flat = out.reshape(-1)  # a view: `out` is a contiguous block
    centre = ((image * out.shape[1] + plane) * size + circles[:, 1]) * size + circles[:, 0]
    for radius in np.unique(circles[:, 2]):
        steps = np.arange(-radius, radius + 1)
        dy, dx = np.nonzero(steps[:, None] ** 2 + steps**2 <= radius**2)
        disc = (dy - radius) * size + dx - radius
        flat[centre[circles[:, 2] == radius, None] + disc] = value


def _place(keys: NDArray[np.uint64], counts: NDArray, size: int, max_circles: int, max_radius: int) -> NDArray:
    """Circles `[n, M, 4]` that fit; in every round each unfinished image tries one place for its next circle."""
    circles = np.zeros((4, len(keys), max_circles), np.int64)
    done, misses, restarts, furthest = np.zeros((4, len(keys)), np.int64)
    look = np.zeros((2, len(keys)), np.int64)  # radius and colour of the circle to be placed next
    active = np.flatnonzero(counts)
    while active.size:
        keys = keys + GOLDEN  # wraps around
        word = mix(keys[active])  # three fields of 21 bits for x, y and radius; the last bit is the colour
        drawn = np.stack([1 + below(word << 42, max_radius), 1 + below(word << 63, 2)])
        r, colour = look[:, active] = np.where(misses[active] == 0, drawn, look[:, active])
        room = size - 2 * r
        new = np.stack([r + below(word, room), r + below(word << 21, room), r, colour])

        old = circles[:, active, : done[active].max()]
        dx, dy = old[:2] - new[:2, :, None]
        near = dx**2 + dy**2 <= (old[2] + r[:, None] + 1) ** 2
        fits = ~(near & (old[3] == colour[:, None])).any(axis=1)
        hit, miss = active[fits], active[~fits]
        circles[:, hit, done[hit]] = new[:, fits]
        done[hit] += 1
        misses[hit] = 0
        misses[miss] += 1

        stuck = miss[misses[miss] == TRIES]
        furthest[stuck] = np.maximum(furthest[stuck], done[stuck])
        circles[:, stuck] = done[stuck] = misses[stuck] = 0
        restarts[stuck] += 1
        hopeless = furthest[stuck] + 6 * np.sqrt(counts[stuck]) < counts[stuck]
        if (restarts[stuck] > np.where(hopeless, HOPELESS, RESTARTS)).any():
            raise ValueError(_misfit(int(counts[stuck].max()), size, max_radius))
        active = active[done[active] < counts[active]]
    return circles.transpose(1, 2, 0)


def _misfit(count: int, size: int, max_radius: int) -> str:
    return (
        f"{count} circles with radii up to {max_radius} do not fit into {size} x {size} pixels without overlap in one "
        f"colour; take fewer circles, a smaller max_radius or a larger size"
    )


def _check(circles: NDArray[np.integer], size: int) -> tuple[NDArray[np.integer], int]:
    """`circles` as an array and `size` as an int, or an error that says what does not fit."""
    circles, size = np.asarray(circles), integer("size", size, 1)
    if not np.issubdtype(circles.dtype, np.integer):
        raise TypeError(f"circles must be integers, got {circles.dtype}")
    if circles.ndim != 3 or circles.shape[2] != 4:
        raise ValueError(f"circles must be [n, M, 4] of (x, y, radius, colour), got {list(circles.shape)}")
    circles = circles.astype(np.int64)
    x, y, r, colour = np.moveaxis(circles, 2, 0)
    if ((colour < 0) | (colour > GREEN)).any():
        raise ValueError(f"a colour must be 0 (none), {RED} (red) or {GREEN} (green), got {sorted(set(colour.flat))}")
    low, high = np.minimum(x, y) - r, np.maximum(x, y) + r
    outside = np.argwhere((colour > 0) & ((r < 0) | (low < 0) | (high >= size)))
    if len(outside):
        image, row = outside[0]
        raise ValueError(
            f"circle {row} of image {image}, (x, y, radius) = {circles[image, row, :3].tolist()}, is not inside the "
            f"frame of size = {size}"
        )
    return circles, size
