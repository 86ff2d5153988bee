"""Refine from more than one start: Eq. 2 asks for a minimum, and one descent from G's proposal finds a local one."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from srnlib._refine_checks import check_set
from srnlib.refine import SetRefiner, Trace, refine


class RestartedRefiner(SetRefiner):
    """A `SetRefiner` that trains from noisy starts, and in eval mode keeps the best of several descents.

    G is continuous, so by theorem 1 its proposal must be bad for some inputs, and a descent from there can end in a
    local minimum where one element holds two objects. Hence two additions, neither in the paper: noise on the start in
    training, so that H_agg learns to be descended on from other places; and in eval mode several starts, of which the
    set with the lowest inner loss is kept. With the default settings this is `SetRefiner`.

    A noisy start is `S0 + scale * std(S0) * e`, with the standard deviation of an example's own values (if they are all
    equal there is no noise) and e standard normal. In eval mode the first start is S0 itself, and e is always the same,
    for all examples: a result depends neither on batch mates nor on the state of any random generator.

    Args:
        H_agg, steps, inner_lr, momentum, grad, detach_init: See `SetRefiner`.
        jitter: Scale of the noise on the proposal in training; 0 for none.
        starts: Number of starts in eval mode, at least 1.
        spread: Scale of their noise.
        eval_steps: Steps of each descent in eval mode; None: `steps`.

    Raises:
        ValueError: If a setting does not fit.
    """

    def __init__(self, H_agg, *, jitter=0.0, starts=1, spread=3.0, eval_steps=None, **loop):
        super().__init__(H_agg, **loop)
        for name, value, least in (("starts", starts, 1), ("eval_steps", 0 if eval_steps is None else eval_steps, 0)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
        for name, value in (("jitter", jitter), ("spread", spread)):
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number, finite and not negative, got {value!r}")
        self.jitter, self.starts, self.spread, self.eval_steps = jitter, starts, spread, eval_steps

    def forward(self, S0: Tensor, z: Tensor) -> tuple[Tensor, Trace]:
        """Refines `S0` `[B, N, D]` towards `z` `[B, E]`.

        Returns:
            The set, and the `Trace` of its own descent, which begins at the start that was used, not at S0.

        Raises: As `refine`.
        """
        check_set(S0)
        if self.training:
            return super().forward(_noisy(S0, self.jitter, torch.randn_like(S0)) if self.jitter else S0, z)
        settings = self.settings() | ({} if self.eval_steps is None else {"steps": self.eval_steps})
        if self.starts == 1:
            return refine(S0, z, self.H_agg, **settings)
        fixed = {"generator": torch.Generator().manual_seed(0), "device": "cpu", "dtype": torch.float32}
        noise = torch.randn(self.starts - 1, *S0.shape[1:], **fixed).to(S0)
        with torch.no_grad():
            S, trace = refine(S0, z, self.H_agg, **settings)
            chosen = torch.zeros_like(S0)
            for e in noise:
                other, its = refine(_noisy(S0, self.spread, e), z, self.H_agg, **settings)
                better = its.inner_loss[-1] < trace.inner_loss[-1].nan_to_num(torch.inf)  # a descent may diverge
                S, chosen = (torch.where(better[:, None, None], new, old) for new, old in ((other, S), (e, chosen)))
                trace = Trace(*(torch.where(better, new, old) for new, old in zip(its, trace, strict=True)))
        if not torch.is_grad_enabled():
            return S, trace
        return refine(_noisy(S0, self.spread, chosen), z, self.H_agg, **settings)  # no other start has a gradient

    def extra_repr(self) -> str:
        own = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("jitter", "starts", "spread", "eval_steps"))
        return f"{super().extra_repr()}, {own}"


def _noisy(S0: Tensor, scale: float, e: Tensor) -> Tensor:
    return S0 + scale * S0.detach().std(dim=(1, 2), correction=0, keepdim=True) * e
