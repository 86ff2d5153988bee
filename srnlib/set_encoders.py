"""H_agg: permutation-invariant encoders of sets and graphs, from FSPool up. They know no model and no task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class FSPool(nn.Module):
    """Featurewise sort pooling (Zhang et al. 2020): sort each feature over the set, take a learned weighted sum.

    The weights are a piecewise linear function on [0, 1], one a channel, read at the ranks `i / (N - 1)`; so one
    module pools sets of any size. Largest values come first. No relaxation of the sort.

    Args:
        channels: C, number of features.
        pieces: Number of linear pieces (the paper's 20).
    """

    def __init__(self, channels: int, pieces: int = 20):
        super().__init__()
        if channels < 1 or pieces < 1:
            raise ValueError(f"channels and pieces must be at least 1, got {channels} and {pieces}")
        self.pieces = pieces
        self.weight = nn.Parameter(torch.randn(channels, pieces + 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pools `x` `[B, N, C]` to `[B, C]`; `mask` `[B, N]` is True where an element is there.

        Raises:
            ValueError: If the shapes or devices do not fit, or a set is empty.
        """
        _check_set(x, "FSPool", self.weight.shape[0])
        exact = torch.promote_types(self.weight.dtype, torch.float32)  # x and weights may be of less precision
        place = torch.arange(x.shape[1], dtype=exact, device=x.device)
        if mask is None:
            rank = (place / max(x.shape[1] - 1, 1)).to(self.weight.dtype)
            return (largest_first(x) * self.weights_at(rank)).sum(dim=1)
        if not isinstance(mask, Tensor) or mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            found = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"mask must be a tensor of bool {list(x.shape[:2])}, got {found}")
        if mask.device != x.device:
            raise ValueError(f"mask is on {mask.device}, the set on {x.device}: use mask.to(x.device)")
        if not bool(mask.any(dim=1).all()):
            raise ValueError("a set has no element: mask needs at least one True a row")
        count = mask.sum(dim=1, keepdim=True)
        rank = (place / (count - 1).clamp(min=1)).to(self.weight.dtype)
        ordered = largest_first(x.masked_fill(~mask.unsqueeze(2), float("-inf")))
        ordered = ordered.masked_fill((place >= count).unsqueeze(2), 0)
        return (ordered * self.weights_at(rank.clamp(max=1))).sum(dim=1)

    def weights_at(self, rank: Tensor) -> Tensor:
        """The learned weights `[*rank, C]` at ranks in [0, 1] (0: the largest element, 1: the smallest)."""
        position = rank * self.pieces
        left = position.floor().clamp(max=self.pieces - 1)
        share = (position - left).unsqueeze(-1)
        w, at = self.weight.t(), left.long()
        return (1 - share) * w[at] + share * w[at + 1]


def largest_first(x: Tensor) -> Tensor:
    """Each feature of `x` `[B, N, C]` sorted over the set, as `x.sort(dim=1, descending=True).values`.

    On a CPU numpy finds the order of large sets, in a third of torch's time (`benchmarks/fspool_sort.py`).
    """
    watched = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if watched or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64) or x.shape[1] < 24:
        return x.sort(dim=1, descending=True).values
    try:
        columns = x.detach().transpose(1, 2).numpy()  # [B, C, N]: fastest along the last axis
    except RuntimeError:  # inside torch.func a tensor has no memory of its own
        return x.sort(dim=1, descending=True).values
    order = np.argsort(-columns, axis=2)
    return x.gather(1, torch.from_numpy(order).transpose(1, 2))


def mlp(inputs: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """`layers` linear layers with ReLU between them, over the last dimension."""
    widths = [inputs] + [hidden] * (layers - 1) + [outputs]
    stack = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*stack[:-1])


class SetEncoder(nn.Module):
    """Per-element MLP of three layers, features divided by N, FSPool (paper: section 2.2, B.1).

    Args:
        element_dim: D, size of an element.
        embed_dim: E, size of the embedding.
        hidden: Width of the MLP (paper: 512).
        pieces: Pieces of FSPool (paper: 20).
    """

    def __init__(self, element_dim: int, embed_dim: int, *, hidden: int = 512, pieces: int = 20):
        super().__init__()
        self.mlp = mlp(element_dim, hidden, embed_dim, layers=3)
        self.pool = FSPool(embed_dim, pieces)

    def forward(self, S: Tensor) -> Tensor:
        """Encodes `S` `[B, N, D]` to `[B, E]`."""
        _check_set(S, "SetEncoder", self.mlp[0].in_features)
        return self.pool(self.mlp(S) / S.shape[1])


class PairSetEncoder(nn.Module):
    """All ordered pairs of elements, an MLP of three layers, FSPool: a relation network as set encoder (CLEVR).

    As deep as the paper's MLP of Circles. The released code's has two layers, and a third of the same size, unused.

    Args: As `SetEncoder`.
    """

    def __init__(self, element_dim: int, embed_dim: int, *, hidden: int = 512, pieces: int = 20):
        super().__init__()
        self.left = nn.Linear(element_dim, hidden)
        self.right = nn.Linear(element_dim, hidden, bias=False)
        self.mlp = nn.Sequential(nn.ReLU(), *mlp(hidden, hidden, embed_dim, layers=2))
        self.pool = FSPool(embed_dim, pieces)

    def forward(self, S: Tensor) -> Tensor:
        """Encodes `S` `[B, N, D]` to `[B, E]`; features are divided by the N^2 pairs."""
        _check_set(S, "PairSetEncoder", self.left.in_features)
        pairs = (self.left(S).unsqueeze(2) + self.right(S).unsqueeze(1)).flatten(1, 2)  # first layer of MLP([s_i, s_j])
        return self.pool(self.mlp(pairs) / pairs.shape[1])


class GraphEncoder(nn.Module):
    """Scene-graph convolution over a complete graph, then FSPool over nodes and edges (Johnson et al. 2018; paper: F).

    Each triple (subject, edge, object) goes through an MLP that gives a message to both ends and a new edge; a node's
    messages are averaged and mapped on. Permutation-invariant in the nodes (edges permuted alike).

    Args:
        node_dim: D, size of a node.
        edge_dim: K, size of an edge.
        embed_dim: E, size of the embedding.
        hidden: Width of both MLPs.
        pieces: Pieces of FSPool.
    """

    def __init__(self, node_dim: int, edge_dim: int, embed_dim: int, *, hidden: int = 512, pieces: int = 20):
        super().__init__()
        self.node_dim, self.edge_dim, self.hidden = node_dim, edge_dim, hidden
        self.triple = mlp(2 * node_dim + edge_dim, hidden, 3 * hidden, layers=2)
        self.node = mlp(hidden, hidden, embed_dim, layers=2)
        self.edge = nn.Linear(hidden, embed_dim)
        self.node_pool, self.edge_pool = FSPool(embed_dim, pieces), FSPool(embed_dim, pieces)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Encodes nodes `[B, N, D]` and edges `[B, N, N, K]` (edge i, j runs from i to j) to `[B, E]`.

        Raises:
            TypeError: If one is no tensor.
            ValueError: If a shape, dtype or device does not fit.
        """
        _check_set(nodes, "GraphEncoder", self.node_dim)
        b, n, d = nodes.shape
        if not isinstance(edges, Tensor):
            raise TypeError(f"edges must be a tensor [B, N, N, K], got {type(edges).__name__}")
        if edges.shape != (b, n, n, self.edge_dim):
            raise ValueError(f"edges must be [B, N, N, K] = {[b, n, n, self.edge_dim]}, got {list(edges.shape)}")
        if (edges.dtype, edges.device) != (nodes.dtype, nodes.device):
            here = f"{nodes.dtype} on {nodes.device}, {edges.dtype} on {edges.device}"
            raise ValueError(f"nodes and edges differ: {here}: use edges.to(nodes)")
        ends = (nodes.unsqueeze(2).expand(b, n, n, d), edges, nodes.unsqueeze(1).expand(b, n, n, d))
        as_subject, as_edge, as_object = self.triple(torch.cat(ends, dim=3)).relu().split(self.hidden, dim=3)
        messages = (as_subject.mean(dim=2) + as_object.mean(dim=1)) / 2
        node_code = self.node_pool(self.node(messages) / n)
        return node_code + self.edge_pool(self.edge(as_edge).flatten(1, 2) / n**2)


def _check_set(x, taker: str, size: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{taker} takes a tensor [B, N, D], got {type(x).__name__}")
    if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != size or not x.is_floating_point():
        raise ValueError(f"{taker} takes floats [B, N >= 1, {size}], got {x.dtype} {list(x.shape)}")
