"""A story as a set of sentences, and the answer from their pairs: the CLUTRR models (paper: sections 2.1, 3.3, F).

Sentences are read by one LSTM; a relation network reasons over all pairs of them. Between the two the set may be padded
to a fixed size, and refined: as a set (SRN), or as a complete graph whose edges weigh the pairs (GRN).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from srnlib.models.story_encoder import StoryEncoder
from srnlib.refine import GraphRefiner, SetRefiner, Trace
from srnlib.set_encoders import FSPool, mlp


class Answer(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: Of the classes `[B, C]`.
        S0, S: The set before and after refinement `[B, N, D]`; the same without a refiner.
        here: Where an element is a sentence and no padding, bool `[B, N]`.
        edges: The refined weights of the pairs `[B, N, N]`; None but for a GRN, where they start from 1.
        trace: The inner loop's trace; None without a refiner.
    """

    logits: Tensor
    S0: Tensor
    S: Tensor
    here: Tensor
    edges: Tensor | None
    trace: Trace | None


class PairReasoner(nn.Module):
    """F: a relation network, `f(sum over i, j of e_ij g([s_i, s_j, query]))`, with batch normalisation as published.

    Args:
        element_dim: D.
        query_dim: Q.
        hidden: Width of g (published: 64).
        classes: C.
    """

    def __init__(self, element_dim: int, query_dim: int, hidden: int, classes: int):
        super().__init__()
        self.left = nn.Linear(element_dim, hidden)  # these three are g's first layer on [s_i, s_j, query]
        self.right = nn.Linear(element_dim, hidden, bias=False)
        self.ask = nn.Linear(query_dim, hidden, bias=False)
        self.g = nn.Sequential(*(m for _ in range(3) for m in _layer(hidden, hidden)))
        self.f = nn.Sequential(*_layer(hidden, 4 * hidden), *_layer(4 * hidden, hidden))
        self.answer = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, S: Tensor, query: Tensor, here: Tensor, edges: Tensor | None = None) -> Tensor:
        """Logits `[B, C]` of sets `[B, N, D]` and queries `[B, Q]`.

        Args:
            here: Which elements take part, bool `[B, N]`.
            edges: Weights of the pairs `[B, N, N]`; None for 1.
        """
        pairs = self.left(S).unsqueeze(2) + self.right(S).unsqueeze(1) + self.ask(query)[:, None, None]
        both = here.unsqueeze(2) & here.unsqueeze(1)
        features = self.g(pairs[both])
        if edges is not None:
            features = features * edges[both][:, None]
        total = features.new_zeros(len(S), features.shape[1]).index_add(0, both.nonzero()[:, 0], features)
        return self.answer(self.f(total))


class TripleEncoder(nn.Module):
    """H_agg of a GRN: one scene-graph convolution over the complete graph (Johnson et al. 2018), FSPool over its nodes.

    A node's code is made of its mean messages as subject and as object. `srnlib.set_encoders.GraphEncoder` also pools
    new edges, which means sorting N^2 values a feature; without that a training step takes an eighth of the time
    (benchmarks/clutrr_training.py), and edges are still refined, through the messages.

    Args:
        node_dim: D.
        embed_dim: E.
        hidden: Width of the messages.
    """

    def __init__(self, node_dim: int, embed_dim: int, hidden: int):
        super().__init__()
        self.subject = nn.Linear(node_dim, hidden)  # these three are one layer on [subject, edge, object]
        self.edge = nn.Linear(1, hidden, bias=False)
        self.object = nn.Linear(node_dim, hidden, bias=False)
        self.node = mlp(2 * hidden, hidden, embed_dim, layers=2)
        self.pool = FSPool(embed_dim)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Encodes nodes `[B, N, D]` and edges `[B, N, N, 1]` to `[B, E]`."""
        messages = (self.subject(nodes).unsqueeze(2) + self.object(nodes).unsqueeze(1) + self.edge(edges)).relu()
        code = self.node(torch.cat([messages.mean(dim=2), messages.mean(dim=1)], dim=2))
        return self.pool(code / nodes.shape[1])


class StoryModel(nn.Module):
    """Story -> set (-> refined set or graph) -> answer.

    Answers do not depend on the order of the sentences, unless the encoder reads the query from the whole story
    (`read_story`, as published).

    Args:
        encoder, reasoner: The parts.
        set_size: N, to which sets are padded with zeros; the padding then takes part in everything. None for no
            padding: the sentences there are.
        masked: Whether those without `set_size` take only them. False, as published: the padding of the batch's longest
            story takes part, so an answer depends on the other stories of the batch.
        refiner: Of the padded set, a `SetRefiner` (SRN) or a `GraphRefiner` (GRN); None for none.

    Raises:
        TypeError: If the refiner is of another class, also one derived from these.
        ValueError: If there is a refiner and no `set_size`.
    """

    def __init__(
        self,
        encoder: StoryEncoder,
        reasoner: PairReasoner,
        set_size: int | None = None,
        refiner: SetRefiner | GraphRefiner | None = None,
        masked: bool = True,
    ):
        super().__init__()
        if type(refiner) not in (SetRefiner, GraphRefiner, type(None)):
            raise TypeError(f"refiner must be a SetRefiner, a GraphRefiner or None, got {type(refiner).__name__}")
        if refiner is not None and set_size is None:
            raise ValueError("a refiner needs a set_size: the refined set has a fixed size")
        self.encoder, self.reasoner, self.set_size, self.refiner = encoder, reasoner, set_size, refiner
        self.masked = masked

    def forward(self, tokens: Tensor, query: Tensor) -> Answer:
        """Answers stories `[B, S, W]`, see `StoryEncoder`.

        Raises:
            TypeError: As `StoryEncoder.forward`.
            ValueError: As there; also if a story has more sentences than the set has elements.
        """
        S0, here, z, query = self.encoder(tokens, query)
        if self.set_size is None:
            takes_part = here if self.masked else torch.ones_like(here)
            return Answer(self.reasoner(S0, query, takes_part), S0, S0, here, None, None)
        if S0.shape[1] > self.set_size:
            raise ValueError(f"a story has up to {S0.shape[1]} sentences, but the set has {self.set_size} elements")
        padding = self.set_size - S0.shape[1]
        S0, here = nn.functional.pad(S0, (0, 0, 0, padding)), nn.functional.pad(here, (0, padding))
        S, edges, trace = S0, None, None
        if self.refiner is not None:
            S, edges, trace = self.refine(S0, z, one_padding(here, S0.dtype))
        return Answer(self.reasoner(S, query, torch.ones_like(here), edges), S0, S, here, edges, trace)

    def refine(self, S0: Tensor, z: Tensor, P: Tensor) -> tuple[Tensor, Tensor | None, Trace]:
        """Refines sets `[B, N, D]`, of a GRN with edges from 1 on; `P` from `one_padding`."""
        H_agg, kind, settings = self.refiner.H_agg, type(self.refiner), self.refiner.settings()
        if kind is SetRefiner:
            S, trace = kind(lambda S: H_agg(P @ S), **settings)(S0, z)
            return S, None, trace
        refiner = kind(lambda nodes, edges: H_agg(P @ nodes, (P @ edges[..., 0] @ P.mT)[..., None]), **settings)
        S, edges, trace = refiner(S0, S0.new_ones(*P.shape, 1), z)
        return S, edges[..., 0], trace


def one_padding(here: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix P `[B, N, N]` that puts their mean in place of all elements of padding, and leaves the others alone.

    Padding is a tie of many zeros, and FSPool sorts: which zero gets which slope would depend on the sorting algorithm
    and on rounding. H_agg(P S) gives all of them their mean slope, so they stay alike; and what a set is refined to
    depends neither on the order of the sentences nor on the other stories of the batch. The answer also depends on the
    query, which with `read_story` is read in that order.
    """
    with torch.inference_mode(False):  # the inner loop differentiates through P, whatever the mode
        here = here.clone()
        padding = (~here).to(dtype)
        both = padding.unsqueeze(2) * padding.unsqueeze(1)
        return torch.diag_embed(here.to(dtype)) + both / padding.sum(dim=1).clamp(min=1)[:, None, None]


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs)
