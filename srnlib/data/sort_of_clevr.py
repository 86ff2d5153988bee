"""The Sort-of-CLEVR data set: six coloured shapes and 36 questions, by integer arithmetic alone (paper: appendix D).

Example i is a function of the seed and i: same bytes on every machine, and a longer data set begins with the shorter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from srnlib.data._hash import GOLDEN, below, integer, mix, stream

SIZE, HALF = 75, 5  # pixels: side of the image, half the side of a shape
COLOURS = ("red", "green", "blue", "orange", "grey", "yellow")
PALETTE = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 156, 0), (128, 128, 128), (255, 255, 0)], np.uint8
)  # RGB of the six colours
RECTANGLE, CIRCLE = 0, 1
ANSWERS = ("yes", "no", "rectangle", "circle", "1", "2", "3", "4", "5", "6")
KINDS = {  # in the order of the questions: three of one object, then three of its relations
    "shape": "What is the shape of the {} object?",
    "left": "Is the {} object in the left half?",
    "top": "Is the {} object in the top half?",
    "closest": "What is the shape of the object closest to the {} object?",
    "furthest": "What is the shape of the object furthest from the {} object?",
    "count": "How many objects have the shape of the {} object?",
}
BLOCK = 1024  # images worked on together; results do not depend on it


def generate(
    n: int, seed: int, *, clutter: bool = False, margin: int = HALF
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Draws `n` images of six shapes, one of each colour (paper: section 3.1; the defaults are the paper's data).

    A scene is uniform over all that are `legal`: centres at least 10 pixels apart and no ties. Rectangle or circle is
    evens for each object.

    Args:
        n: Number of images.
        seed: Any integer >= 0.
        clutter: Puts five random rectangles behind the shapes, see `backgrounds`. The shapes stay the same.
        margin: Centres lie in margin .. 74 - margin, in x and in y. From 5, where shapes just fit, to 20.

    Returns:
        Images uint8 `[n, 3, 75, 75]`; centres `[n, 6, 2]` of (x, y) in the order of `COLOURS`; shapes `[n, 6]`, 0
        rectangle, 1 circle.

    Raises:
        TypeError: If `n`, `seed` or `margin` is not an integer.
        ValueError: If one of them is out of range.
    """
    centers, shapes = scenes(n, seed, margin)
    return render(centers, shapes, backgrounds(n, seed) if clutter else None), centers, shapes


def scenes(
    n: int, seed: int, margin: int = HALF, accept: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The scenes of `generate`: centres and shapes. Scene i is the first candidate of stream i that is accepted.

    Args:
        n, seed, margin: As in `generate`.
        accept: Takes candidates' centres `[m, 6, 2]`, says which will do `[m]`; `None` is `legal`.

    Raises: As `generate`.
    """
    n, seed, margin = integer("n", n, 0), integer("seed", seed, 0), integer("margin", margin, HALF)
    if margin > 20:  # at 20 one candidate in 42 is legal, at 5 one in 3
        raise ValueError(f"margin = {margin} leaves too little room for six shapes; take {HALF} .. 20")
    keys, accept = stream(n, seed), accept or legal
    centers, shapes = np.empty((n, 6, 2), np.int64), np.empty((n, 6), np.int64)
    objects = GOLDEN * np.arange(1, 7, dtype=np.uint64)  # wraps around
    for start in range(0, n, BLOCK):
        todo, tried = np.arange(start, min(start + BLOCK, n)), 0
        while todo.size:
            batch = np.arange(tried, tried + BLOCK // todo.size, dtype=np.uint64)  # the fewer scenes, the more at once
            words = mix(mix(keys[todo, None] + GOLDEN * batch)[..., None] + objects)  # three fields of 21 bits
            tries = margin + below(np.stack([words, words << 21], axis=-1), SIZE - 2 * margin)
            good = accept(tries.reshape(-1, 6, 2)).reshape(words.shape[:2])
            hit, first = np.flatnonzero(good.any(axis=1)), good.argmax(axis=1)
            centers[todo[hit]] = tries[hit, first[hit]]
            shapes[todo[hit]] = below(words[hit, first[hit]] << 42, 2)
            todo, tried = np.delete(todo, hit), tried + batch.size
    return centers, shapes


def legal(centers: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which scenes `[n, 6, 2]` may be drawn: bool `[n]`.

    Any two centres are at least 10 pixels apart, so neighbours overlap by an edge or a corner at most. No object has
    two closest or two furthest others, so every question has one answer; this refuses 3 % of scenes, 6 % at margin 15.
    """
    order = np.sort(distances(centers), axis=2)  # first is the object itself
    apart = order[..., 1] >= (2 * HALF) ** 2
    return (apart & (order[..., 1] < order[..., 2]) & (order[..., 4] < order[..., 5])).all(axis=1)


def distances(centers: NDArray[np.integer]) -> NDArray[np.int64]:
    """Squared distances `[n, 6, 6]` in pixels between centres `[n, 6, 2]`."""
    x, y = centers[..., 0].astype(np.int64), centers[..., 1].astype(np.int64)
    return (x[:, :, None] - x[:, None]) ** 2 + (y[:, :, None] - y[:, None]) ** 2


def questions() -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The 36 questions of one image: vectors `[36, 11]` and their wording. Question 6 k + c asks kind k of colour c.

    Of the 11 bits six say the colour, two whether the question is of one object or relational, three which of the
    three such kinds (paper: appendix D.1).
    """
    kind, colour = np.divmod(np.arange(36), 6)
    vectors = np.concatenate([np.eye(k)[i] for k, i in ((6, colour), (2, kind // 3), (3, kind % 3))], axis=1)
    return vectors.astype(np.uint8), tuple(text.format(name) for text in KINDS.values() for name in COLOURS)


def answers(centers: NDArray[np.integer], shapes: NDArray[np.integer]) -> NDArray[np.int64]:
    """The answers `[n, 36]` to all questions, as indices into `ANSWERS`.

    Halves end at 37.5: x or y = 37 is left or top. The count includes the object itself. If others are equally close or
    far, which `generate` never draws, the first in the order of `COLOURS` counts.

    Args:
        centers: `[n, 6, 2]` of (x, y).
        shapes: `[n, 6]`, 0 rectangle, 1 circle.

    Raises:
        TypeError: If one of them is not of integers.
        ValueError: If their shapes do not fit, or an object is not inside the frame or of no known shape.
    """
    centers, shapes = _check(centers, shapes)
    squared, itself = distances(centers), np.eye(6, dtype=np.int64)
    closest = (squared + 3 * SIZE**2 * itself).argmin(axis=2)  # further than any other
    furthest = (squared - itself).argmax(axis=2)  # nearer than any other
    shape, yes_no, number = (ANSWERS.index(first) for first in ("rectangle", "yes", "1"))
    kinds = [
        shape + shapes,
        yes_no + (2 * centers[..., 0] >= SIZE),
        yes_no + (2 * centers[..., 1] >= SIZE),
        shape + np.take_along_axis(shapes, closest, axis=1),
        shape + np.take_along_axis(shapes, furthest, axis=1),
        number - 1 + (shapes[:, :, None] == shapes[:, None]).sum(axis=2),
    ]
    return np.concatenate(kinds, axis=1)


def render(
    centers: NDArray[np.integer], shapes: NDArray[np.integer], background: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Draws scenes: images uint8 `[n, 3, 75, 75]`, on white or on `background` of the same shape.

    A rectangle is 11 x 11 pixels; a circle has those of them that are at most 5.5 from the centre. Where shapes
    overlap, the later in the order of `COLOURS` is in front.

    Raises: As `answers`; ValueError also if `background` does not fit.
    """
    centers, shapes = _check(centers, shapes)
    size = (len(centers), 3, SIZE, SIZE)
    images = np.full(size, 255, np.uint8) if background is None else np.array(background)
    if images.shape != size or images.dtype != np.uint8:
        raise ValueError(f"background must be uint8 {list(size)}, got {images.dtype} {list(images.shape)}")
    steps = np.arange(-HALF, HALF + 1)
    square = steps[:, None] * SIZE + steps
    disc = square[4 * (steps[:, None] ** 2 + steps**2) <= (2 * HALF + 1) ** 2]
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        flat = images[block].reshape(-1)  # a view
        for colour, rgb in enumerate(PALETTE):
            x, y = centers[block, colour].T
            corner = np.arange(len(x)) * (3 * SIZE**2) + y * SIZE + x
            for shape, pixels in ((RECTANGLE, square.ravel()), (CIRCLE, disc)):
                at = corner[shapes[block, colour] == shape, None] + pixels
                for channel in range(3):
                    flat[at + channel * SIZE**2] = rgb[channel]
    return images


def backgrounds(n: int, seed: int) -> NDArray[np.uint8]:
    """The clutter of `generate`: uint8 `[n, 3, 75, 75]`, five rectangles on white, later ones in front (appendix D.4).

    The paper says "random color, height, and width". Here the RGB values are uniform, both sides are uniform on 10 ..
    40 pixels, and so is the place inside the frame.

    Raises: As `generate`.
    """
    n, seed = integer("n", n, 0), integer("seed", seed, 0)
    keys = stream(n, seed)
    words = mix(mix(~keys)[:, None] + GOLDEN * np.arange(1, 16, dtype=np.uint64)).reshape(n, 5, 3)
    fields = np.concatenate([words, words << 21, words << 42], axis=2)
    sides = 10 + below(fields[..., :2], 31)
    low = below(fields[..., 2:4], SIZE + 1 - sides)
    colours = below(fields[..., 4:7], 256).astype(np.uint8)
    images = np.full((n, 3, SIZE, SIZE), 255, np.uint8)
    for image, corners, ends, rgb in zip(images, low, low + sides, colours, strict=True):
        for (x, y), (right, bottom), value in zip(corners, ends, rgb, strict=True):
            image[:, y:bottom, x:right] = value[:, None, None]
    return images


def _check(centers: NDArray[np.integer], shapes: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both as int64 arrays, or an error that says what does not fit."""
    centers, shapes = np.asarray(centers), np.asarray(shapes)
    for name, array in (("centers", centers), ("shapes", shapes)):
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"{name} must be integers, got {array.dtype}; round them first")
    if centers.ndim != 3 or centers.shape[1:] != (6, 2) or shapes.shape != centers.shape[:2]:
        raise ValueError(
            f"centers must be [n, 6, 2] and shapes [n, 6], got {list(centers.shape)} and {list(shapes.shape)}"
        )
    centers, shapes = centers.astype(np.int64), shapes.astype(np.int64)
    bad = np.argwhere(((centers < HALF) | (centers >= SIZE - HALF)).any(axis=2))
    if len(bad):
        image, row = bad[0]
        raise ValueError(
            f"the {COLOURS[row]} object of scene {image}, (x, y) = {centers[image, row].tolist()}, is not inside the "
            f"frame; x and y must be {HALF} .. {SIZE - HALF - 1}"
        )
    if ((shapes < RECTANGLE) | (shapes > CIRCLE)).any():
        raise ValueError(
            f"a shape must be {RECTANGLE} (rectangle) or {CIRCLE} (circle), got {np.unique(shapes).tolist()}"
        )
    return centers, shapes
