"""Image to set to answers: the Relation Network of Sort-of-CLEVR, with or without a refiner (paper: 3.1, D.1).

One image has many questions. It is perceived, and its set refined, once; only the relations are computed for each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from srnlib.models.pair_sum import sum_over_pairs
from srnlib.refine import SetRefiner, Trace, refine


class Answers(NamedTuple):
    """What a forward pass gives.

    Attributes:
        logits: `[B, Q, answers]`.
        S: The set that was reasoned about `[B, N, D]`.
        S0: The set that was perceived `[B, N, D]`.
        trace: The inner loop's trace; None without a refiner.
    """

    logits: Tensor
    S: Tensor
    S0: Tensor
    trace: Trace | None


class CellEncoder(nn.Module):
    """G and H_embed: an image `[B, 3, 75, 75]` to 25 cells with their places, and to an embedding (paper: D.1).

    Four convolutions 3x3 of stride 2, each with ReLU, then batch norm. A cell is its features and its place (x, y):
    once refined, its row in the list no longer says where it is.

    Args:
        channels: Filters of each convolution (paper: 24).
        embed_dim: E, size of the embedding; None builds no H_embed (a model without refiner).
        reach: Places x and y lie in -reach .. reach (paper: 1).
        inverted: Look at 1 - X, so that the white ground is 0, as the padding is (paper: no).
        embed_scale: z is multiplied by it (paper: 1). H_agg divides its features by the number of cells; unless z is
            as small, the inner loss is the length of z, and little that a set does can lower it.
    """

    cells = 25

    def __init__(
        self,
        channels: int,
        embed_dim: int | None,
        *,
        reach: float = 1.0,
        inverted: bool = False,
        embed_scale: float = 1.0,
    ):
        super().__init__()
        self.embed_scale = embed_scale
        stack = []
        for inputs in (3, channels, channels, channels):
            stack += [nn.Conv2d(inputs, channels, 3, 2, 1), nn.ReLU(), nn.BatchNorm2d(channels)]
        self.features = nn.Sequential(*stack)
        self.embed = nn.Linear(self.cells * channels, embed_dim) if embed_dim else None
        self.inverted = inverted
        side = torch.linspace(-reach, reach, 5)
        y, x = torch.meshgrid(side, side, indexing="ij")
        self.register_buffer("places", torch.stack([x, y], dim=2).view(1, self.cells, 2), persistent=False)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the proposed set S0 `[B, 25, channels + 2]` and the embedding z `[B, E]` (None without H_embed)."""
        if X.dim() != 4 or X.shape[1:] != (3, 75, 75) or not X.is_floating_point():
            raise ValueError(f"images must be floats [B, 3, 75, 75] in 0..1, got {X.dtype} {list(X.shape)}")
        X = (1 - X if self.inverted else X).contiguous(memory_format=torch.channels_last)
        maps = self.features(X).flatten(2)  # [B, channels, 25]
        S0 = torch.cat([maps.transpose(1, 2), self.places.expand(len(X), -1, -1)], dim=2)
        if self.embed is None:
            return S0, None
        return S0, (self.embed_scale * self.embed(maps.flatten(1))).to(S0.dtype)  # places make S0 wide under autocast


class RelationNetwork(nn.Module):
    """F: answers = f(sum over all ordered pairs i, j of g(s_i, s_j, question)) (Santoro et al. 2017; paper: D.1).

    The first layer of g is linear in [s_i, s_j, q], so it splits into three terms: A s_i and B s_j are computed once an
    element instead of once a pair and question, and C q once a question. See `sum_over_pairs` for the rest.

    Args:
        element_dim: D.
        question_dim: Size of a question's vector.
        answers: Number of possible answers.
        width: Of the layers of g (paper: 256).
        layers: Of g, each followed by ReLU (paper: 4).
        hidden: Width of f, which has two hidden layers, the second with dropout (paper: 256).
        dropout: Chance that a value of it is dropped.
        conditioned: Start better than the paper: Kaiming's initialisation, and the mean over pairs batch-normalised
            in place of the sum, so that what differs from image to image is not small beside what does not.
        question_scale: Factor on the initial C, so that questions switch the units of g from the first step.
    """

    def __init__(
        self,
        element_dim: int,
        question_dim: int,
        answers: int,
        *,
        width: int = 256,
        layers: int = 4,
        hidden: int = 256,
        dropout: float = 0.5,
        conditioned: bool = False,
        question_scale: float = 1.0,
    ):
        if layers < 1:
            raise ValueError(f"layers must be 1 or more, got {layers}")
        super().__init__()
        self.split = [element_dim, element_dim, question_dim]
        self.first = nn.Linear(sum(self.split), width)
        self.rest = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.norm = nn.BatchNorm1d(width) if conditioned else None
        self.f = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)
        ).append(nn.Linear(hidden, answers))
        if conditioned:
            for layer in (self.first, *self.rest, self.f[0], self.f[2]):
                nn.init.kaiming_normal_(layer.weight)
        with torch.no_grad():
            self.first.weight[:, 2 * element_dim :] *= question_scale

    def forward(self, S: Tensor, questions: Tensor) -> Tensor:
        """Logits `[B, Q, answers]` of the questions `[B, Q, question_dim]` about the sets `S` `[B, N, D]`."""
        if S.dim() != 3 or 0 in S.shape or S.shape[2] != self.split[0] or not S.is_floating_point():
            raise ValueError(f"S must be floats [B >= 1, N >= 1, {self.split[0]}], got {S.dtype} {list(S.shape)}")
        fits = questions.dim() == 3 and questions.shape[::2] == (len(S), self.split[2]) and questions.shape[1] > 0
        if not fits or not questions.is_floating_point():
            wanted = f"floats [{len(S)}, Q >= 1, {self.split[2]}]"
            raise ValueError(f"questions must be {wanted}, got {questions.dtype} {list(questions.shape)}")
        b, q, n = *questions.shape[:2], S.shape[1]
        A, B, C = self.first.weight.split(self.split, dim=1)
        left = (S @ A.t()).unsqueeze(1).expand(-1, q, -1, -1)  # [B, Q, N, width]
        right = (S @ B.t()).unsqueeze(1) + (questions @ C.t() + self.first.bias).unsqueeze(2)
        total = sum_over_pairs(left.reshape(b * q, n, -1), right.flatten(0, 1), self.rest)
        if self.norm is not None:
            total = self.norm(total / n**2)
        return self.f(total).unflatten(0, (b, q))


class VisualReasoner(nn.Module):
    """Perception, refinement and relations: with a refiner RN + SRN, without one RN.

    Args:
        encoder: A `CellEncoder`.
        relations: A `RelationNetwork` on its cells.
        refiner: A `SetRefiner` whose H_agg encodes the cells `[B, 25, D]` to the encoder's embedding; None for RN.
    """

    def __init__(self, encoder: CellEncoder, relations: RelationNetwork, refiner: SetRefiner | None = None):
        super().__init__()
        self.encoder, self.refiner, self.relations = encoder, refiner, relations
        self.to(memory_format=torch.channels_last)

    def encode(self, X: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor, Trace | None]:
        """The perceptual stage: images `[B, 3, 75, 75]` in 0..1 to S `[B, 25, D]`, the proposal S0 and the trace.

        `steps`, if given, replaces the refiner's number of inner steps; the descent then is one, from the proposal.
        """
        S0, z = self.encoder(X)
        if self.refiner is None:
            return S0, S0, None
        if steps is None:
            S, trace = self.refiner(S0, z)
        else:
            S, trace = refine(S0, z, self.refiner.H_agg, **self.refiner.settings() | {"steps": steps})
        return S, S0, trace

    def forward(self, X: Tensor, questions: Tensor, steps: int | None = None) -> Answers:
        """Answers `questions` `[B, Q, 11]` about images `X` `[B, 3, 75, 75]` in 0..1; `steps` as in `encode`."""
        S, S0, trace = self.encode(X, steps)
        return Answers(self.relations(S, questions), S, S0, trace)
