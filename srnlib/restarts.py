"""Refine from several starts and keep the best: Eq. 2 asks for a minimum, and one descent finds a local one."""

from __future__ import annotations

import torch
from torch import Tensor

from srnlib.refine import SetRefiner, Trace, refine


class RestartedRefiner(SetRefiner):
    """A `SetRefiner` that, in eval mode, descends from several starts and keeps each example's lowest inner loss.

    G is a continuous list, so its proposal falls under the responsibility problem itself, and the descent from it may
    end where one element holds two objects. The inner loss can tell (not in the paper). In training, or with one start,
    this is `SetRefiner`.

    The first start is the proposal S0, the others are `S0 + spread * std(S0) * e` with the standard deviation of an
    example's own values and e standard normal: always the same numbers, for all examples, so that a result depends
    neither on batch mates nor on the state of any random generator.

    Args:
        H_agg, steps, inner_lr, momentum, grad, detach_init: See `SetRefiner`.
        starts: Number of starts, at least 1.
        spread: See above.
        eval_steps: Steps of each descent in eval mode; None: `steps`.

    Raises:
        ValueError: If a setting does not fit.
    """

    def __init__(self, H_agg, *, starts: int = 1, spread: float = 3.0, eval_steps: int | None = None, **loop):
        super().__init__(H_agg, **loop)
        for name, value, least in (("starts", starts, 1), ("eval_steps", 0 if eval_steps is None else eval_steps, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        if not 0 < spread < float("inf"):
            raise ValueError(f"spread must be positive and finite, got {spread!r}")
        self.starts, self.spread, self.eval_steps = starts, spread, eval_steps

    def forward(self, S0: Tensor, z: Tensor) -> tuple[Tensor, Trace]:
        """Refines `S0` `[B, N, D]` towards `z` `[B, E]`; returns the set and the `Trace` of its own descent."""
        if self.training:
            return super().forward(S0, z)
        settings = self.settings() | ({} if self.eval_steps is None else {"steps": self.eval_steps})
        S, trace = refine(S0, z, self.H_agg, **settings)
        if self.starts == 1:
            return S, trace
        scale = self.spread * S0.std(dim=(1, 2), correction=0, keepdim=True)
        noise = torch.randn(self.starts - 1, *S0.shape[1:], generator=torch.Generator().manual_seed(0)).to(S0)
        for e in noise:
            other, its = refine(S0 + scale * e, z, self.H_agg, **settings)
            better = its.inner_loss[-1] < trace.inner_loss[-1]
            S = torch.where(better[:, None, None], other, S)
            trace = Trace(*(torch.where(better, new, old) for new, old in zip(its, trace, strict=True)))
        return S, trace
