"""Indices into episodes, checked alike for every world."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def indices(episode: ArrayLike, step: ArrayLike, actions: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """`episode` and `step` broadcast to one shape, for episodes of `actions` `[E, T]`.

    Raises:
        IndexError: Unless they are integers from 0 to E - 1 and from 0 to T, or there are none.
    """
    episode, step = np.broadcast_arrays(episode, step)
    if not episode.size:  # NumPy takes an empty list for floats
        return episode.astype(np.int64), step.astype(np.int64)
    episodes, steps = actions.shape
    for name, index, last in (("episode", episode, episodes - 1), ("step", step, steps)):
        if index.dtype.kind not in "iu":
            raise IndexError(f"{name} must be integers, got {index.dtype}")
        if ((index < 0) | (index > last)).any():
            raise IndexError(f"{name} must be from 0 to {last}, got {index.min()} to {index.max()}")
    return episode, step
