"""C-SWM, a world model of objects (Kipf et al. 2020), with or without a refiner on its set (paper: 3.2, E.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from srnlib.models.object_extractor import ObjectExtractor
from srnlib.refine import SetRefiner, Trace

SIGMA, HINGE = 0.5, 1.0  # of energy and loss, in every experiment of C-SWM


class Seen(NamedTuple):
    """What the perceptual stage makes of observations.

    Attributes:
        S: State: K objects `[B, K, D]`.
        S0: The set that the object encoder proposed `[B, K, D]`.
        masks: One feature map an object `[B, K, H, W]`, 0..1.
        trace: The inner loop's trace; None without a refiner.
    """

    S: Tensor
    S0: Tensor
    masks: Tensor
    trace: Trace | None


def normed_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Three linear layers, layer norm after the second: C-SWM's MLP everywhere.

    Weights start from Xavier's rule, biases from zero; C-SWM's code does not, see `original_start`.
    """
    norm = nn.LayerNorm(hidden)
    linear = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)]
    for layer in linear:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear[0], nn.ReLU(), linear[1], norm, nn.ReLU(), linear[2])


class Transition(nn.Module):
    """What an action changes: a graph network over all ordered pairs of objects, permutation-equivariant.

    Args:
        state_dim: D, size of an object's state.
        actions: Size of an action's vector, one an object.
        hidden: Width of both MLPs.
    """

    def __init__(self, state_dim: int, actions: int, hidden: int):
        super().__init__()
        self.edge = normed_mlp(2 * state_dim, hidden, hidden)
        self.node = normed_mlp(state_dim + actions + hidden, hidden, state_dim)

    def forward(self, S: Tensor, action: Tensor) -> Tensor:
        """The change `[B, K, D]` of states `[B, K, D]` under action vectors `[B, K, A]`."""
        k = S.shape[1]
        pairs = torch.cat([S.unsqueeze(2).expand(-1, -1, k, -1), S.unsqueeze(1).expand(-1, k, -1, -1)], dim=3)
        others = ~torch.eye(k, dtype=torch.bool, device=S.device)
        messages = self.edge(pairs[:, others]).unflatten(1, (k, k - 1)).sum(dim=2)
        return self.node(torch.cat([S, action, messages], dim=2))


class Constant(nn.Module):
    """An object encoder that sees nothing: every state is zero. With no transition the control of the ranking rules."""

    def __init__(self, state_dim: int):
        super().__init__()
        self.state_dim = state_dim

    def forward(self, masks: Tensor) -> Tensor:
        """Zeros `[B, K, D]` for masks `[B, K, H * W]`."""
        return masks.new_zeros(*masks.shape[:2], self.state_dim)


class WorldModel(nn.Module):
    """Perceives a state as a set of objects and predicts how an action changes it.

    Args:
        extractor: Observation `[B, C, 50, 50]` to masks `[B, K, H, W]`.
        encoder: Flattened masks `[B, K, H * W]` to the proposed set `[B, K, D]`, each mask alone.
        transition: States and action vectors to the change of the states.
        actions: Number of actions.
        copy_action: Every object gets the action (Atari); else action `A k + a` is action a of object k alone (2D
            Shapes, where `actions` is A times K).
        refiner: A `SetRefiner`; None for plain C-SWM.
        embed: Flattened masks `[B, K * H * W]` to z `[B, E]`, read only with a refiner.

    Raises:
        ValueError: If there is a refiner and no `embed`.
    """

    def __init__(
        self,
        extractor: ObjectExtractor,
        encoder: nn.Module,
        transition: nn.Module,
        actions: int,
        *,
        copy_action: bool = True,
        refiner: SetRefiner | None = None,
        embed: nn.Module | None = None,
    ):
        super().__init__()
        if refiner is not None and embed is None:
            raise ValueError("a refiner needs embed, a module that makes z of the masks, such as a linear layer")
        self.extractor, self.encoder, self.transition = extractor, encoder, transition
        self.actions, self.copy_action = actions, copy_action
        self.refiner, self.embed = refiner, embed
        self.to(memory_format=torch.channels_last)

    def see(self, X: Tensor, counts: Tensor | None = None) -> Seen:
        """The perceptual stage: observations `[B, C, 50, 50]` in 0..1 to their states; `counts` as of the extractor.

        Raises:
            TypeError: If the observations are no floats.
        """
        if not X.is_floating_point():
            raise TypeError(f"observations must be floats in 0..1, got {X.dtype}: divide frames of bytes by 255")
        masks = self.extractor(X.contiguous(memory_format=torch.channels_last), counts)
        flat = masks.flatten(2)
        S0 = self.encoder(flat)
        if self.refiner is None:
            return Seen(S0, S0, masks, None)
        S, trace = self.refiner(S0, self.embed(flat.flatten(1)))
        return Seen(S, S0, masks, trace)

    def step(self, S: Tensor, action: Tensor) -> Tensor:
        """The predicted states `[B, K, D]` after actions `[B]`, from states `[B, K, D]`.

        Raises:
            TypeError: If the actions are no integers.
            ValueError: If there is no such action.
        """
        if action.is_floating_point() or action.dtype == torch.bool:
            raise TypeError(f"actions must be integers, got {action.dtype}")
        if ((action < 0) | (action >= self.actions)).any():
            raise ValueError(f"actions must be 0 to {self.actions - 1}, got {int(action.min())} to {int(action.max())}")
        vector = functional.one_hot(action.long(), self.actions).to(S)
        each = vector.unsqueeze(1).expand(-1, S.shape[1], -1)
        vector = each if self.copy_action else vector.unflatten(1, (S.shape[1], -1))
        return S + self.transition(S, vector)

    def forward(self, X: Tensor, action: Tensor, whose: Tensor | None = None) -> tuple[Tensor, Seen]:
        """For training, T steps of B episodes: predicted next states, and what was seen.

        Args:
            X: Observations `[B, T + 1, C, 50, 50]` in 0..1; with `whose` the distinct ones `[U, C, 50, 50]`.
            action: Integers `[B, T]`.
            whose: Which of the distinct observations is each, integers `[B, T + 1]`.

        Returns:
            Predictions `[B, T, K, D]`, one step ahead of each of the first T observations, and `Seen` with shapes
            `[B * (T + 1), ...]`, episode by episode; with `whose` `[U, ...]`.

        Raises:
            TypeError, ValueError: As `see` and `step`.
        """
        if whose is None:
            seen = self.see(X.flatten(0, 1))
            now = seen.S.unflatten(0, X.shape[:2])[:, :-1]
        else:
            seen = self.see(X, torch.bincount(whose.flatten()))
            now = seen.S[whose[:, :-1]]
        return self.step(now.flatten(0, 1), action.flatten()).view_as(now), seen


def original_start(world: WorldModel) -> None:
    """Weights as the code of C-SWM starts them: convolutions by Xavier's rule without bias, linear layers by torch's.

    The refiner's H_agg and its z stay as they are.
    """
    for layer in nn.ModuleList([world.extractor, world.encoder, world.transition]).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            layer.reset_parameters()


def energy(S: Tensor, other: Tensor) -> Tensor:
    """Squared distance of two states `[..., K, D]`, mean over objects, times 1 / (2 sigma^2): `[...]`.

    Leading dimensions broadcast.

    Raises:
        ValueError: If K or D differ.
    """
    if S.shape[-2:] != other.shape[-2:] or S.dim() < 2:
        raise ValueError(f"energy compares two states [..., K, D], got {list(S.shape)} and {list(other.shape)}")
    return (S - other).square().sum(dim=-1).mean(dim=-1) / (2 * SIGMA**2)


def contrastive_loss(S: Tensor, predicted: Tensor, *, same_time: bool = False) -> Tensor:
    """C-SWM's loss: a prediction near what follows, a negative at least the hinge away from the present.

    `H + max(0, 1 - H~)`, with H the energy of prediction and next state, H~ that of present and negative state; mean
    over all transitions.

    Args:
        S: States `[B, T + 1, K, D]` of B episodes (or parts of episodes).
        predicted: Predictions `[B, T, K, D]` of all but the first.
        same_time: Negatives are the states of all other episodes at the same place in T, instead of one state drawn
            from all (as C-SWM does, by a permutation).

    Raises:
        ValueError: If the shapes do not fit, or there is no other episode to compare with at the same time.
    """
    if S.dim() != 4 or predicted.shape != S[:, 1:].shape or not predicted.numel():
        expected = "states [B, T + 1, K, D] and predictions [B, T, K, D]"
        raise ValueError(f"contrastive_loss takes {expected}, got {list(S.shape)} and {list(predicted.shape)}")
    now, positive = S[:, :-1], energy(predicted, S[:, 1:]).mean()
    if not same_time:
        flat = now.flatten(0, 1)
        negative = flat[torch.randperm(len(flat), device=flat.device)]
        return positive + (HINGE - energy(flat, negative)).clamp(min=0).mean()
    if len(S) < 2:
        raise ValueError("same_time compares episodes: a batch needs at least two")
    near = (HINGE - energy(now.unsqueeze(0), now.unsqueeze(1))).clamp(min=0).mean(dim=2)  # [B, B]
    return positive + (near.sum() - near.trace()) / (len(S) * (len(S) - 1))
