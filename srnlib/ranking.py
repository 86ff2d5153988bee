"""Where the true target stands among all targets, by distance: the measure of a world model, and what ties do to it.

The published rule (Kipf et al. 2020) counts the targets that are *strictly* nearer than the true one. Whatever is just
as near counts for the model, so a model that maps everything to one point ranks first everywhere. `Ranks` holds that
rule beside two that are not fooled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ranks(NamedTuple):
    """The rank of the true target of each query, int64 `[Q]`, 1 the best.

    Attributes:
        published: Among all targets; a tie is won.
        strict: Among all targets; a tie is lost, also to a copy of the true target.
        dedup: Among the distinct targets; a tie is lost. A perfect model ranks 1.
    """

    published: Tensor
    strict: Tensor
    dedup: Tensor


def ranks(predicted: Tensor, targets: Tensor, true: Tensor, *, block: int = 256) -> Ranks:
    """Ranks the targets of Q queries by squared Euclidean distance from what was predicted.

    Every query brings its own true target as a candidate, so a target that is true for c queries stands there c times;
    distinct targets are given once, which makes ties between copies exact. Memory is `block * U * D` numbers.

    Args:
        predicted: Predicted states `[Q, D]`, finite.
        targets: States of the U distinct targets `[U, D]`, finite.
        true: Which of them is each query's, integers `[Q]`.
        block: Queries at a time.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, or an index is out of range.
    """
    if predicted.dim() != 2 or targets.dim() != 2 or predicted.shape[1] != targets.shape[1]:
        raise ValueError(f"predicted [Q, D] and targets [U, D], got {list(predicted.shape)} and {list(targets.shape)}")
    if true.shape != predicted.shape[:1] or true.is_floating_point():
        raise ValueError(f"true must be integers [{len(predicted)}], got {true.dtype} {list(true.shape)}")
    if len(true) and not 0 <= int(true.min()) <= int(true.max()) < len(targets):
        raise ValueError(f"true must be 0 to {len(targets) - 1}, got {int(true.min())} to {int(true.max())}")
    if not (torch.isfinite(predicted).all() and torch.isfinite(targets).all()):
        raise ValueError("a predicted state or a target is NaN or infinite: the model diverged")
    copies = torch.bincount(true, minlength=len(targets))
    found = []
    for part, own in zip(predicted.split(block), true.split(block), strict=True):
        distance = (part.unsqueeze(1) - targets).square().sum(dim=2)
        limit = distance.gather(1, own.unsqueeze(1))
        nearer, as_near = distance < limit, distance <= limit
        found.append((1 + nearer.long() @ copies, as_near.long() @ copies, as_near.sum(dim=1)))
    return Ranks(*(torch.cat(parts) for parts in zip(*found, strict=True))) if found else Ranks(*3 * [true.long()])


def scores(rank: Tensor) -> dict[str, float]:
    """`h1`, the share of queries whose true target is first, and `mrr`, the mean of 1 / rank, both in percent.

    Raises:
        ValueError: If there is no query.
    """
    if not len(rank):
        raise ValueError("no query was ranked: there is nothing to take a mean of")
    return {"h1": 100 * float((rank == 1).double().mean()), "mrr": 100 * float((1 / rank.double()).mean())}


def distinct(items: Tensor) -> tuple[Tensor, Tensor]:
    """Equal rows of `items` `[Q, ...]` found: the first place of each distinct row `[U]`, and whose each row is `[Q]`.

    Rows are compared byte by byte, and distinct rows are in order of their first place.
    """
    first: dict[bytes, int] = {}
    at = [first.setdefault(row.tobytes(), i) for i, row in enumerate(items.cpu().contiguous().numpy())]
    places = torch.tensor(list(first.values()), dtype=torch.long)
    return places, torch.searchsorted(places, torch.tensor(at, dtype=torch.long))
