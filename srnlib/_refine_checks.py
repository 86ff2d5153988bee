"""What `refine` accepts, and what it says of anything else. Imports only torch."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor, nn


def shape(t):
    return list(t.shape) if isinstance(t, Tensor) else kind(t)


def kind(t):
    return t.dtype if isinstance(t, Tensor) else type(t).__name__


def check_settings(H_agg, steps, inner_lr, momentum, grad) -> tuple[str, int | None]:
    """Validates H_agg and the loop's settings; returns the gradient mode and its number (None: not given)."""
    if not callable(H_agg):
        raise TypeError(f"H_agg must be a module or a function that encodes a set, got {kind(H_agg)}")
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 0:
        raise ValueError(f"steps must be a whole number >= 0, got {steps!r}")
    if not _is_number(inner_lr) or not 0 < inner_lr < float("inf"):
        raise ValueError(f"inner_lr must be positive and finite, got {inner_lr!r}")
    if not _is_number(momentum) or not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum!r}")
    mode, _, number = str(grad).partition(":")
    k = int(number) if number.isdecimal() and int(number) > 0 else None
    known = {"unroll": grad == "unroll", "truncate": k is not None, "implicit": k is not None or grad == "implicit"}
    if not known.get(mode):
        raise ValueError(f"grad must be 'unroll', 'truncate:k', 'implicit' or 'implicit:k' with k >= 1, got {grad!r}")
    return mode, k


def _is_number(value) -> bool:
    """Whether it is a real number, or a tensor of no dimension (it may be learned), and no bool."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and value.is_floating_point()
    return isinstance(value, Real) and not isinstance(value, bool)


def check_set(S0, name="S0") -> None:
    if not isinstance(S0, Tensor) or not S0.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor [B, N, D], got {kind(S0)}")
    if S0.dim() != 3:
        raise ValueError(f"{name} must be [B, N, D], got {shape(S0)}")
    if 0 in S0.shape:
        raise ValueError(f"{name} has a zero size, {shape(S0)}: it needs at least one example, element and dimension")


def check_inputs(parts, z) -> None:
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"z must be a floating-point tensor [B, E], got {kind(z)}")
    if z.dim() != 2 or z.shape[0] != parts[0].shape[0] or z.shape[1] == 0:
        raise ValueError(f"z must be [B, E] with B = {parts[0].shape[0]} as in the set, got {shape(z)}")
    for t in (*parts, z):
        if (t.dtype, t.device) != (z.dtype, z.device):
            raise ValueError(f"set and z differ: {t.dtype} on {t.device}, {z.dtype} on {z.device}: use set.to(z)")
        if not t.is_meta and not bool(torch.isfinite(t).all()):  # there are no values on meta
            raise ValueError("the set or z holds NaN or infinity: the model diverged, or its input is not finite")


def explain(H_agg, S, error) -> None:
    """Raises a clearer error if the one of H_agg may be due to parameters that do not go with the set."""
    for name, p in H_agg.named_parameters() if isinstance(H_agg, nn.Module) else ():
        if torch.is_inference(p):
            raise ValueError("H_agg was made in torch.inference_mode(): make it outside, or in no_grad()") from error
        if (p.dtype, p.device) != (S.dtype, S.device):
            here = f"the set is {S.dtype} on {S.device}, H_agg's {name} {p.dtype} on {p.device}: use H_agg.to(S0)"
            raise ValueError(f"{here} ({error})") from error
