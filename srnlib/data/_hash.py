"""Random numbers that are the same on every machine: PCG64's raw words, hashed by splitmix64, integers only."""

from __future__ import annotations

from operator import index

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # increment of splitmix64


def stream(n: int, seed: int) -> NDArray[np.uint64]:
    """One word `[n]` for each of `n` examples; numpy keeps this stream the same for ever."""
    return np.random.PCG64(seed).random_raw(n)


def mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele et al. 2014): a hash of 64 bits to 64 bits."""
    word = (word ^ (word >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> 27)) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> 31)


def below(word: NDArray[np.uint64], bound: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers 0 .. bound - 1 from the upper 21 bits of `word`."""
    return ((word >> 43).astype(np.int64) * bound) >> 21


def integer(name: str, value: int, least: int) -> int:
    """`value` as an int, or an error that names the argument if it is no integer or below `least`."""
    try:
        value = index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}") from None
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value
