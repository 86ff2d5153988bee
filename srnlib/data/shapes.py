"""2D Shapes, the block-pushing world of C-SWM: five objects on a 5x5 grid, one pushed at a time (Kipf et al. 2020).

Example i is a function of the seed, i and the number of steps: same bytes on every machine. Only places are kept;
frames are drawn when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srnlib.data._episodes import indices
from srnlib.data._hash import below, integer

GRID, OBJECTS, CELL = 5, 5, 10  # cells a side, objects, pixels a side of a cell
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # (row, column): north, east, south, west
ACTIONS = OBJECTS * len(MOVES)
COLOURS = [(228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0)]  # red blue green purple orange


@dataclass(frozen=True)
class Episodes:
    """E episodes of T steps.

    Attributes:
        places: int64 `[E, T + 1, OBJECTS, 2]`, the (row, column) of every object.
        actions: int64 `[E, T]`; action 4 k + d pushes object k in direction `MOVES[d]`.
    """

    places: NDArray[np.int64]
    actions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.actions)

    def observe(self, episode: ArrayLike, step: ArrayLike) -> NDArray[np.uint8]:
        """The frames before action `step`, and for step T what the last action leads to.

        Args:
            episode: Integers of any shape.
            step: Integers 0 .. T that broadcast with `episode`.

        Returns:
            uint8 `[..., 3, 50, 50]`.

        Raises:
            IndexError: If an index is not an integer or out of range.
        """
        episode, step = indices(episode, step, self.actions)
        return render(self.places[episode, step])


def generate(n: int, seed: int, *, steps: int = 100) -> Episodes:
    """Draws `n` episodes: five different cells, then uniformly random actions.

    C-SWM trains on 1000 episodes of 100 steps and evaluates on 10,000 of 10. More episodes begin with the fewer.

    Args:
        n: Number of episodes.
        seed: Any integer >= 0.
        steps: T, at least 1.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If an argument is out of range.
    """
    n, seed, steps = integer("n", n, 0), integer("seed", seed, 0), integer("steps", steps, 1)
    words = np.random.PCG64(seed).random_raw(n * (GRID**2 + steps)).reshape(n, GRID**2 + steps)
    cells = np.argsort(words[:, : GRID**2], axis=1, kind="stable")[:, :OBJECTS]  # a shuffle's first five
    actions = below(words[:, GRID**2 :], ACTIONS)
    places = np.empty((n, steps + 1, OBJECTS, 2), np.int64)
    places[:, 0] = np.stack(np.divmod(cells, GRID), axis=-1)
    for t in range(steps):
        places[:, t + 1] = step(places[:, t], actions[:, t])
    return Episodes(places, actions)


def step(places: NDArray[np.integer], actions: ArrayLike) -> NDArray[np.int64]:
    """The places after an action each. An object stays where it is if the next cell is taken or off the grid.

    Args:
        places: Integers `[..., OBJECTS, 2]` of (row, column).
        actions: Integers `[...]`, 0 .. ACTIONS - 1.

    Raises:
        TypeError: If `places` or `actions` are not integers.
        ValueError: If shapes do not fit, an action is out of range, an object is off the grid or two share a cell.
    """
    places, actions = _check(places), np.asarray(actions)
    if actions.dtype.kind not in "iu":
        raise TypeError(f"actions must be integers, got {actions.dtype}")
    if actions.shape != places.shape[:-2]:
        raise ValueError(f"places {places.shape} need actions {places.shape[:-2]}, got {actions.shape}")
    if ((actions < 0) | (actions >= ACTIONS)).any():
        raise ValueError(f"actions must be 0 to {ACTIONS - 1}, got {actions.min()} to {actions.max()}")
    pushed, direction = np.divmod(actions.astype(np.int64), len(MOVES))
    pushed = pushed[..., None, None]
    target = np.take_along_axis(places, pushed, axis=-2) + MOVES[direction][..., None, :]
    taken = (places == target).all(axis=-1).any(axis=-1)
    free = ((target >= 0) & (target < GRID)).all(axis=(-1, -2)) & ~taken
    moved = free[..., None, None] & (np.arange(OBJECTS)[:, None] == pushed)
    return np.where(moved, target, places)


def render(places: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Draws objects at `places` `[..., OBJECTS, 2]`: uint8 `[..., 3, 50, 50]`, black where there is none.

    Objects 0 and 3 are discs, 1 and 4 triangles, 2 is a square; the colours are `COLOURS`.

    Raises: As `step`, of `places`.
    """
    places = _check(places)
    flat = places.reshape(-1, OBJECTS, 2)
    grid = np.zeros((len(flat), GRID, GRID), np.int64)  # 0 nothing, k + 1 object k
    grid[np.arange(len(flat))[:, None], flat[..., 0], flat[..., 1]] = np.arange(1, OBJECTS + 1)
    images = _TILES[grid].transpose(0, 3, 1, 4, 2, 5)  # [B, 3, GRID, CELL, GRID, CELL]
    return images.reshape(*places.shape[:-2], 3, GRID * CELL, GRID * CELL)


def _tiles() -> NDArray[np.uint8]:
    """What a cell shows: `[1 + OBJECTS, 3, CELL, CELL]`, the first black."""
    row = np.arange(CELL)[:, None]
    centred = 2 * np.arange(CELL) + 1 - CELL  # twice the distance of a pixel's middle from the cell's
    disc = centred[:, None] ** 2 + centred**2 <= CELL**2
    triangle = np.abs(centred) <= row + 1
    square = np.ones((CELL, CELL), bool)
    tiles = np.zeros((1 + OBJECTS, 3, CELL, CELL), np.uint8)
    for k, colour in enumerate(COLOURS):
        tiles[1 + k] = (disc, triangle, square)[k % 3] * np.array(colour, np.uint8)[:, None, None]
    return tiles


_TILES = _tiles()


def _check(places: NDArray[np.integer]) -> NDArray[np.int64]:
    places = np.asarray(places)
    if places.dtype.kind not in "iu":
        raise TypeError(f"places must be integers, got {places.dtype}")
    if places.ndim < 2 or places.shape[-2:] != (OBJECTS, 2):
        raise ValueError(f"places must be [..., {OBJECTS}, 2] of (row, column), got {list(places.shape)}")
    places = places.astype(np.int64)
    if ((places < 0) | (places >= GRID)).any():
        raise ValueError(f"a place must be on the grid, 0 to {GRID - 1}; got {places.min()} to {places.max()}")
    cells = np.sort(places[..., 0] * GRID + places[..., 1], axis=-1)
    if (cells[..., 1:] == cells[..., :-1]).any():
        raise ValueError("two objects share a cell; every object needs its own")
    return places
