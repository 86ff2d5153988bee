"""How well predicted states find what really followed: the measure of a world model, and what ties do to it.

As Kipf et al. (2020) put it, a prediction is compared with its true target and with all other targets, and those that
are *strictly* nearer are counted. Their program counts the other way round: for each true target, the *predictions* of
all queries that are strictly nearer to it than its own. Either way whatever is just as near counts for the model, so
one that maps everything to one point ranks first everywhere. `Ranks` holds both, and two rules that are not fooled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ranks(NamedTuple):
    """The rank of each query, int64 `[Q]`, 1 the best.

    Attributes:
        published: Of its prediction among the predictions of all queries, by distance to its target; a tie is won. What
            the program computes that the published numbers come from.
        lenient: Of its target among all targets, by distance to its prediction; a tie is won. What is written there.
        strict: As `lenient`, among all targets; a tie is lost, also to a copy of the true target.
        dedup: As `lenient`, among the distinct targets; a tie is lost. A perfect model ranks 1.
    """

    published: Tensor
    lenient: Tensor
    strict: Tensor
    dedup: Tensor


def ranks(predicted: Tensor, targets: Tensor, true: Tensor, *, block: int = 256) -> Ranks:
    """Ranks the targets, and the predictions, of Q queries by squared Euclidean distance.

    Every query brings its own true target as a candidate, so a target that is true for c queries stands there c times;
    distinct targets are given once, which makes ties between copies exact. Memory is `block * Q * D` numbers.

    Args:
        predicted: Predicted states `[Q, D]`, finite; this and the others tensors or arrays.
        targets: States of the U distinct targets `[U, D]`, finite.
        true: Which of them is each query's, integers `[Q]`.
        block: Queries at a time.

    Raises:
        ValueError: If shapes do not fit, a number is not finite, or an index is out of range.
    """
    predicted, targets, true = map(torch.as_tensor, (predicted, targets, true))
    if predicted.dim() != 2 or targets.dim() != 2 or predicted.shape[1] != targets.shape[1]:
        raise ValueError(f"predicted [Q, D] and targets [U, D], got {list(predicted.shape)} and {list(targets.shape)}")
    if true.shape != predicted.shape[:1] or true.is_floating_point() or true.dtype == torch.bool:
        raise ValueError(f"true must be integers [{len(predicted)}], got {true.dtype} {list(true.shape)}")
    true, block = true.long(), max(1, block)
    if len(true) and not 0 <= int(true.min()) <= int(true.max()) < len(targets):
        raise ValueError(f"true must be 0 to {len(targets) - 1}, got {int(true.min())} to {int(true.max())}")
    if not (torch.isfinite(predicted).all() and torch.isfinite(targets).all()):
        raise ValueError("a predicted state or a target is NaN or infinite: the model diverged")
    if len(true) and not torch.isfinite((predicted.abs().amax() + targets.abs().amax()).square() * targets.shape[1]):
        raise ValueError(f"states are too large for their distances in {targets.dtype}: the model diverged")
    copies = torch.bincount(true, minlength=len(targets))
    found = []
    places = torch.arange(len(true), device=true.device)
    for part, own, place in zip(*(all_.split(block) for all_ in (predicted, true, places)), strict=True):
        distance = (part.unsqueeze(1) - targets).square().sum(dim=2)
        limit = distance.gather(1, own.unsqueeze(1))
        nearer, as_near = distance < limit, distance <= limit
        others = (predicted - targets[own].unsqueeze(1)).square().sum(dim=2)  # of all predictions, from the target
        better = others < others.gather(1, place.unsqueeze(1))
        lenient, strict = (torch.where(those, copies, 0).sum(dim=1) for those in (nearer, as_near))
        found.append((1 + better.sum(dim=1), 1 + lenient, strict, as_near.sum(dim=1)))
    return Ranks(*(torch.cat(parts) for parts in zip(*found, strict=True))) if found else Ranks(*4 * [true.long()])


def scores(rank: Tensor) -> dict[str, float]:
    """`h1`, the share of queries whose true target is first, and `mrr`, the mean of 1 / rank, both in percent.

    Raises:
        ValueError: If there is no query.
    """
    if not len(rank):
        raise ValueError("no query was ranked: there is nothing to take a mean of")
    rank = rank.cpu().double()  # MPS has none
    return {"h1": 100 * float((rank == 1).double().mean()), "mrr": 100 * float((1 / rank).mean())}


def distinct(items: Tensor) -> tuple[Tensor, Tensor]:
    """Equal rows of `items` `[Q, ...]` found: the first place of each distinct row `[U]`, and whose each row is `[Q]`.

    Rows are compared byte by byte, and distinct rows are in order of their first place.
    """
    first: dict[bytes, int] = {}
    at = [first.setdefault(row.tobytes(), i) for i, row in enumerate(items.cpu().contiguous().numpy())]
    places = torch.tensor(list(first.values()), dtype=torch.long)
    return places, torch.searchsorted(places, torch.tensor(at, dtype=torch.long))


def reach(true: Tensor, way: Tensor) -> float:
    """The greatest published `h1`, in percent, of a model whose predictions tie only for queries of one way.

    All other predictions of one target compete for it, and one of them is nearest: those of one way win. It bounds no
    model that has collapsed, so that predictions of several ways are equally near.

    Args:
        true: Each query's target, integers `[Q]`.
        way: Each query's way to it (start and actions), integers `[Q]`.

    Raises:
        ValueError: If there is no query, the shapes differ, or a target is negative.
    """
    if true.dim() != 1 or true.shape != way.shape or not len(true) or int(true.min()) < 0:
        raise ValueError(f"true and way must be integers [Q >= 1], not negative, got {true} and {way}")
    places, group = distinct(torch.stack([true, way], dim=1))
    size = torch.bincount(group)
    largest = size.new_zeros(int(true.max()) + 1).scatter_reduce(0, true[places], size, "amax")
    return 100 * float(largest.sum()) / len(true)
