"""The sum over all pairs at the heart of a relation network, a block of pairs at a time so that it stays in cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CACHE = 2**17  # floats of one layer worked on together: half a megabyte, so that a few layers stay in L2
KEPT = 2**26  # floats of activations that a backward pass may find again: a quarter of a gigabyte


def sum_over_pairs(left: Tensor, right: Tensor, layers: nn.ModuleList) -> Tensor:
    """Sum over all i, j of MLP(relu(left_i + right_j)), every layer followed by ReLU, a block of pairs at a time.

    A block stays in the cache through all layers. What it computes is kept for the backward pass if all blocks together
    have no more than `KEPT` floats, and else computed again there, which costs a third more arithmetic. Same bits.

    Args:
        left, right: `[K, N, width]`, one row a question.
        layers: Linear layers, width to width.

    Returns:
        `[K, width]`. It can be differentiated once.
    """
    questions = max(1, CACHE // (left.shape[1] ** 2 * left.shape[2])) if left.device.type == "cpu" else 64
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    left, right = (half.to(parameters[0].dtype if parameters else half.dtype) for half in (left, right))
    keep = torch.is_grad_enabled() and (len(layers) + 1) * left.numel() * left.shape[1] <= KEPT
    with torch.autocast(left.device.type, enabled=False):  # a sum of hundreds of terms is not for bf16
        return _SumOverPairs.apply(questions, keep, left, right, *parameters)


class _SumOverPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, size, keep, left, right, *parameters):
        sums, kept = [], []
        for l, r in zip(left.split(size), right.split(size), strict=True):
            for h in _activations(l, r, parameters):
                last = h
                kept += [h] if keep else []
            sums.append(last.unflatten(0, (len(l), -1)).sum(dim=1))
        ctx.size, ctx.count = size, len(parameters)
        ctx.save_for_backward(left, right, *parameters, *kept)
        return torch.cat(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx, above):
        left, right, *others = ctx.saved_tensors
        parameters, kept = others[: ctx.count], others[ctx.count :]
        weights, grads = parameters[::2], [torch.zeros_like(p) for p in parameters]
        lefts, rights, n, depth = [], [], left.shape[1], 1 + len(weights)
        blocks = zip(left.split(ctx.size), right.split(ctx.size), above.split(ctx.size), strict=True)
        for block, (l, r, g) in enumerate(blocks):
            h = kept[block * depth : (block + 1) * depth] or list(_activations(l, r, parameters))
            g = g.unsqueeze(1).expand(-1, n * n, -1).flatten(0, 1)
            for at in range(len(weights) - 1, -1, -1):
                g = torch.ops.aten.threshold_backward(g, h[at + 1], 0)
                grads[2 * at].addmm_(g.t(), h[at])
                grads[2 * at + 1] += g.sum(dim=0)
                g = g @ weights[at]
            g = torch.ops.aten.threshold_backward(g, h[0], 0).view(len(l), n, n, -1)
            lefts.append(g.sum(dim=2))
            rights.append(g.sum(dim=1))
        return None, None, torch.cat(lefts), torch.cat(rights), *grads


def _activations(left, right, parameters):
    """After each layer `[K N N, width]`, the first of them relu(left_i + right_j)."""
    h = (left.unsqueeze(2) + right.unsqueeze(1)).relu_().flatten(0, 2)
    yield h
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        h = torch.addmm(bias, h, weight.t()).relu_()
        yield h
