"""How the benchmarks time: CPU time of this process, the best of some rounds, after calls to warm up."""

from __future__ import annotations

import time
from collections.abc import Callable


def milliseconds(call: Callable[[], object], calls: int, rounds: int = 3, warmup: int = 1) -> float:
    """CPU milliseconds of a call: the mean over `calls` of the best round."""
    for _ in range(warmup):
        call()
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            call()
        best = min(best, time.process_time() - start)
    return 1000 * best / calls
