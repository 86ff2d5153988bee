"""Algorithm 1: refine a proposed set until it encodes to the input's embedding.

`min over S of ||H_agg(S) - z||^2`, by a fixed number of gradient steps from `S0`, differentiable end to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from srnlib._refine_checks import check_inputs, check_set, check_settings, explain, shape

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
    even under `torch.no_grad()` and `torch.inference_mode()`; the result is then detached, as it is where neither S0
    nor z, H_agg or a rate asks for a gradient.

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
    check_set(S0)
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
        check_settings(H_agg, steps, inner_lr, momentum, grad)
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
        check_set(nodes0, "nodes0")
        b, n = nodes0.shape[:2]
        if not isinstance(edges0, Tensor) or edges0.dim() != 4 or edges0.shape[:3] != (b, n, n):
            raise ValueError(f"edges0 must be [B, N, N, K] = [{b}, {n}, {n}, K] to fit nodes0, got {shape(edges0)}")
        (nodes, edges), trace = _descend((nodes0, edges0), z, self.H_agg, **self.settings())
        return nodes, edges, trace


def _descend(parts0, z, H_agg, *, steps, inner_lr, momentum, grad, detach_init):
    """The inner loop over one or more tensors (`parts`) that H_agg takes together."""
    mode, k = check_settings(H_agg, steps, inner_lr, momentum, grad)
    check_inputs(parts0, z)
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
            if i and i <= steps - differentiated:  # a learned rate ties them to what comes before
                parts, velocity = tuple(p.detach() for p in parts), tuple(v.detach() for v in velocity)
            parts = tuple(p if graph and p.requires_grad else p.detach().requires_grad_() for p in parts)
            loss = _inner_loss(H_agg, parts, z if graph else z.detach())
            slope = _slope(loss, parts, create_graph=graph)
            velocity = tuple(momentum * v + g for v, g in zip(velocity, slope, strict=True))
            parts = tuple(p - inner_lr * v for p, v in zip(parts, velocity, strict=True))
            losses.append(loss.detach())
            norms.append((inner_lr * _norm(velocity)).detach())
        with torch.set_grad_enabled(outer):  # of a set at rest: it tells whether z or anything in H_agg learns
            last = _inner_loss(H_agg, tuple(p.detach() for p in parts), z)
        learned = (last, *parts0, *(t for t in (inner_lr, momentum) if isinstance(t, Tensor)))
        outer = outer and any(t.requires_grad for t in learned)
        if outer and mode == "implicit":
            parts = _implicit(parts, z, H_agg, k or steps, inner_lr, momentum)
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
    return tuple(moved)


def _inner_loss(H_agg, parts, z) -> Tensor:
    """`||H_agg(S) - z||^2` per example `[B]`."""
    try:
        encoded = H_agg(*parts)
    except RuntimeError as error:
        explain(H_agg, parts[0], error)
        raise
    if not isinstance(encoded, Tensor) or encoded.shape != z.shape:
        raise ValueError(f"H_agg returned {shape(encoded)} but z is {shape(z)}: both must be [B, E]")
    return (encoded - z).square().sum(dim=1)


def _slope(loss, parts, create_graph) -> tuple[Tensor, ...]:
    slope = (None,)
    if loss.requires_grad:  # it may be so by H_agg's parameters or z alone
        slope = torch.autograd.grad(loss.sum(), parts, create_graph=create_graph, allow_unused=True)
    if all(g is None for g in slope):
        raise ValueError("H_agg's output does not depend differentiably on the set: it detaches or ignores its input")
    return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(parts, slope, strict=True))


def _norm(parts) -> Tensor:
    return torch.stack([p.flatten(1).square().sum(dim=1) for p in parts]).sum(dim=0).sqrt()
