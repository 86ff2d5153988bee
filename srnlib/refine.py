"""Algorithm 1: refine a proposed set until it encodes to the input's embedding. Imports only torch.

`min over S of ||H_agg(S) - z||^2`, by a fixed number of gradient steps from `S0`, differentiable end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor, nn

SetFunction = Callable[[Tensor], Tensor]


class Trace(NamedTuple):
    """What the inner loop did; detached, one column an example.

    Attributes:
        inner_loss: `[steps + 1, B]`, `||H_agg(S_i) - z||^2` for i = 0 .. steps.
        step_norm: `[steps, B]`, `||S_i - S_{i-1}||` (Frobenius norm over all parts of the set).
    """

    inner_loss: Tensor
    step_norm: Tensor


def refine(
    S0: Tensor,
    z: Tensor,
    H_agg: SetFunction,
    *,
    steps: int,
    inner_lr: float,
    momentum: float = 0.0,
    grad: str = "unroll",
    detach_init: bool = False,
) -> tuple[Tensor, Trace]:
    """Refine a proposed set by gradient descent on `||H_agg(S) - z||^2` (paper: Eq. 2-3, Algorithm 1).

    The loss is a sum over the batch, never a mean: an example's steps do not depend on its batch mates. With momentum
    (0.5 in the paper's released code): `v <- momentum v + dL/dS`, `S <- S - inner_lr v`. Inner gradients are computed
    even under `torch.no_grad()` and `torch.inference_mode()`; the result is then detached.

    Args:
        S0: Proposed set `[B, N, D]`.
        z: Embedding `[B, E]` that the refined set should encode to.
        H_agg: Set encoder, `[B, N, D] -> [B, E]`, any module or function.
        steps: Number of gradient steps r >= 0; 0 returns the proposal itself.
        inner_lr: Step size alpha > 0; a tensor of no dimension may be learned, by exact gradients alone.
        momentum: Heavy-ball momentum in [0, 1).
        grad: How an outer loss is differentiated through the loop. `"unroll"`: exactly, memory grows with `steps`.
            `"truncate:k"`: exactly through the last k steps, nothing before. `"implicit"`: by the implicit function
            theorem at the refined set, memory independent of `steps`; the inverse Hessian is applied by `steps` terms
            of its Neumann series, `"implicit:k"` takes k terms (`"implicit:1"` replaces the Hessian by a multiple of
            the identity: approximate implicit differentiation, Zhang et al. 2022). Implicit gradients do not reach
            `S0`, nor do truncated ones unless k >= steps.
        detach_init: Stop the gradient into `S0`, as the paper's released code does.

    Returns:
        The refined set `[B, N, D]` and its `Trace`.

    Raises:
        TypeError: If `S0` or `z` is no floating-point tensor, or H_agg cannot be called.
        ValueError: If a shape, dtype, device or setting does not fit, a value is not finite, or H_agg ignores its set.
    """
    _check_set(S0)
    parts, trace = _descend(
        (S0,), z, H_agg, steps=steps, inner_lr=inner_lr, momentum=momentum, grad=grad, detach_init=detach_init
    )
    return parts[0], trace


class SetRefiner(nn.Module):
    """`refine` as a module: the Set Refiner Network's inner loop around a set encoder.

    Args:
        H_agg: Set encoder, `[B, N, D] -> [B, E]`; its parameters become this module's.
        steps, inner_lr, momentum, grad, detach_init: See `refine`.
    """

    def __init__(self, H_agg, *, steps, inner_lr, momentum=0.0, grad="unroll", detach_init=False):
        super().__init__()
        _check_settings(H_agg, steps, inner_lr, momentum, grad)
        self.H_agg, self.steps, self.inner_lr, self.momentum = H_agg, steps, inner_lr, momentum
        self.grad, self.detach_init = grad, detach_init

    def settings(self) -> dict:
        """The keyword arguments that `refine` is called with."""
        names = ("steps", "inner_lr", "momentum", "grad", "detach_init")
        return {name: getattr(self, name) for name in names}

    def forward(self, S0: Tensor, z: Tensor) -> tuple[Tensor, Trace]:
        """Refines `S0` `[B, N, D]` towards `z` `[B, E]`; returns the set and its `Trace`."""
        return refine(S0, z, self.H_agg, **self.settings())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())


class GraphRefiner(SetRefiner):
    """The same loop over nodes and edges jointly (paper: section 2.1, Graph Refiner Network).

    Args:
        H_agg: Graph encoder, `(nodes [B, N, D], edges [B, N, N, K]) -> [B, E]`.
        steps, inner_lr, momentum, grad, detach_init: See `refine`.
    """

    def forward(self, nodes0: Tensor, edges0: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Trace]:
        """Refines nodes `[B, N, D]` and edges `[B, N, N, K]`; returns both and the `Trace`."""
        _check_set(nodes0, "nodes0")
        b, n = nodes0.shape[:2]
        if not isinstance(edges0, Tensor) or edges0.dim() != 4 or edges0.shape[:3] != (b, n, n):
            raise ValueError(f"edges0 must be [B, N, N, K] = [{b}, {n}, {n}, K] to fit nodes0, got {_shape(edges0)}")
        (nodes, edges), trace = _descend((nodes0, edges0), z, self.H_agg, **self.settings())
        return nodes, edges, trace


def _descend(parts0, z, H_agg, *, steps, inner_lr, momentum, grad, detach_init):
    """The inner loop over one or more tensors (`parts`) that H_agg takes together."""
    mode, k = _check_settings(H_agg, steps, inner_lr, momentum, grad)
    _check_inputs(parts0, z)
    steps = int(steps)  # of numpy, for one
    outer = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    if detach_init:
        parts0 = tuple(p.detach() for p in parts0)
    if steps == 0:
        parts0 = parts0 if outer else tuple(p.detach() for p in parts0)
        with torch.inference_mode(False), torch.no_grad():
            first = _inner_loss(H_agg, [p.clone() for p in parts0], z.clone()).detach()
        return parts0, Trace(first[None], first.new_zeros(0, first.shape[0]))
    differentiated = {"unroll": steps, "truncate": min(k or 0, steps), "implicit": 0}[mode] if outer else 0

    losses, norms = [], []
    with torch.inference_mode(False), torch.enable_grad():
        if torch.is_inference(z) or any(torch.is_inference(p) for p in parts0):
            z, parts0 = z.clone(), tuple(p.clone() for p in parts0)
        parts, velocity = parts0, tuple(torch.zeros_like(p) for p in parts0)
        for i in range(steps):
            graph = i >= steps - differentiated
            parts = tuple(p if graph and p.requires_grad else p.detach().requires_grad_() for p in parts)
            loss = _inner_loss(H_agg, parts, z if graph else z.detach())
            slope = _slope(loss, parts, create_graph=graph)
            velocity = tuple(momentum * v + g for v, g in zip(velocity, slope, strict=True))
            parts = tuple(p - inner_lr * v for p, v in zip(parts, velocity, strict=True))
            losses.append(loss.detach())
            norms.append((inner_lr * _norm(velocity)).detach())
        if outer and mode == "implicit":
            parts, last = _implicit(parts, z, H_agg, k or steps, inner_lr, momentum)
        else:
            with torch.no_grad():
                last = _inner_loss(H_agg, parts, z)
    losses.append(last.detach())
    if not outer:
        parts = tuple(p.detach() for p in parts)
    return parts, Trace(torch.stack(losses), torch.stack(norms))


def _implicit(parts, z, H_agg, terms, inner_lr, momentum):
    """Attach dS*/d(z, H_agg) = -Hessian^-1 d2L/dS d(z, H_agg) to the refined parts; the inverse by descent steps."""
    at = tuple(p.detach().requires_grad_() for p in parts)
    loss = _inner_loss(H_agg, at, z)
    slope = _slope(loss, at, create_graph=True)
    flat = torch.cat([g.flatten() for g in slope])
    step = flat.detach() - flat  # zero in value; its derivative is -d2L/dS d(.)

    def solve(v: Tensor) -> Tensor:
        u, velocity = torch.zeros_like(v), torch.zeros_like(v)
        for i in range(terms):
            residual = -v
            if i:  # the Hessian times u, at the refined set
                Hu = torch.autograd.grad(flat, at, u, retain_graph=True, materialize_grads=True)
                residual = torch.cat([h.flatten() for h in Hu]) - v
            velocity = momentum * velocity + residual
            u = u - inner_lr * velocity
        return u

    if step.requires_grad:
        step.register_hook(solve)
    sizes = [p.numel() for p in at]
    moved = (p.detach() + s.view_as(p) for p, s in zip(at, step.split(sizes), strict=True))
    return tuple(moved), loss


def _inner_loss(H_agg, parts, z) -> Tensor:
    """`||H_agg(S) - z||^2` per example `[B]`."""
    try:
        encoded = H_agg(*parts)
    except RuntimeError as error:
        _explain(H_agg, parts[0], error)
        raise
    if not isinstance(encoded, Tensor) or encoded.shape != z.shape:
        raise ValueError(f"H_agg returned {_shape(encoded)} but z is {_shape(z)}: both must be [B, E]")
    return (encoded - z).square().sum(dim=1)


def _explain(H_agg, S, error) -> None:
    """Raises a clearer error if the one of H_agg may be due to parameters that do not go with the set."""
    for name, p in H_agg.named_parameters() if isinstance(H_agg, nn.Module) else ():
        if torch.is_inference(p):
            raise ValueError("H_agg was made in torch.inference_mode(): make it outside, or in no_grad()") from error
        if (p.dtype, p.device) != (S.dtype, S.device):
            here = f"the set is {S.dtype} on {S.device}, H_agg's {name} {p.dtype} on {p.device}: use H_agg.to(S0)"
            raise ValueError(f"{here} ({error})") from error


def _slope(loss, parts, create_graph) -> tuple[Tensor, ...]:
    slope = (None,)
    if loss.requires_grad:  # it may be so by H_agg's parameters or z alone
        slope = torch.autograd.grad(loss.sum(), parts, create_graph=create_graph, allow_unused=True)
    if all(g is None for g in slope):
        raise ValueError("H_agg's output does not depend differentiably on the set: it detaches or ignores its input")
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parts, slope, strict=True))


def _norm(parts) -> Tensor:
    return torch.stack([p.flatten(1).square().sum(dim=1) for p in parts]).sum(dim=0).sqrt()


def _shape(t):
    return list(t.shape) if isinstance(t, Tensor) else _kind(t)


def _kind(t):
    return t.dtype if isinstance(t, Tensor) else type(t).__name__


def _check_settings(H_agg, steps, inner_lr, momentum, grad) -> tuple[str, int | None]:
    """Validates H_agg and the loop's settings; returns the gradient mode and its number (None: not given)."""
    if not callable(H_agg):
        raise TypeError(f"H_agg must be a module or a function that encodes a set, got {_kind(H_agg)}")
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


def _check_set(S0, name="S0") -> None:
    if not isinstance(S0, Tensor) or not S0.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor [B, N, D], got {_kind(S0)}")
    if S0.dim() != 3:
        raise ValueError(f"{name} must be [B, N, D], got {_shape(S0)}")
    if 0 in S0.shape:
        raise ValueError(f"{name} has a zero size, {_shape(S0)}: a set needs at least one element, each one dimension")


def _check_inputs(parts, z) -> None:
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"z must be a floating-point tensor [B, E], got {_kind(z)}")
    if z.dim() != 2 or z.shape[0] != parts[0].shape[0] or z.shape[1] == 0:
        raise ValueError(f"z must be [B, E] with B = {parts[0].shape[0]} as in the set, got {_shape(z)}")
    for t in (*parts, z):
        if (t.dtype, t.device) != (z.dtype, z.device):
            raise ValueError(f"set and z differ: {t.dtype} on {t.device}, {z.dtype} on {z.device}: use set.to(z)")
        if not bool(torch.isfinite(t).all()):
            raise ValueError("the set or z holds NaN or infinity: the model diverged, or its input is not finite")
