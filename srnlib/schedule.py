"""What a step of a training is given: its rate, its examples, its random numbers; all from seed and step alone."""

from __future__ import annotations

import functools
import math
import random

import numpy as np
import torch
from torch import Tensor

from srnlib.tasks import Settings


def learning_rate(step: int, settings: Settings) -> float:
    """The rate of a step: linear warm-up, plateau, half-cosine cool-down, each a fraction of the schedule it is in."""
    again = restart_step(settings)
    begin, end = (0, again) if step < again else (again, settings.steps)
    rise = (step + 1 - begin) / (settings.warmup * (end - begin)) if settings.warmup else 1.0
    left = (end - step) / (settings.cooldown * (end - begin)) if settings.cooldown else 1.0
    return settings.lr * min(1.0, rise) * (1 - math.cos(math.pi * min(1.0, left))) / 2


def restart_step(settings: Settings) -> int:
    """The first step of the schedule's second run; `settings.steps` if there is none."""
    return max(1, round(settings.restart * settings.steps))


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Which of `n` examples a step sees, over all processes; an epoch is a permutation without its last part batch."""
    if n < batch_size:
        raise ValueError(f"a batch of {batch_size} needs at least as many training examples, there are {n}")
    epoch, batch = divmod(step, n // batch_size)
    return _permutation(n, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


@functools.lru_cache(maxsize=1)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))


def seed_everything(*key: int) -> None:
    """Seed torch, numpy and Python from a key such as (seed, step)."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
