"""Batch norm of images that each stand for several equal ones, so that copies need not be computed.

A batch of game frames holds many twice. What convolves every frame alone may see each distinct one once; only batch
norm mixes a batch, and it must count the copies: mean and variance are weighted, and so is their part of the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def counted_batch_norm(X: Tensor, norm: nn.BatchNorm2d, counts: Tensor) -> Tensor:
    """What `norm`, in training, makes of a batch that holds `X[i]` `counts[i]` times: every copy once.

    Running statistics are updated as by the whole batch.

    Args:
        X: Distinct images `[U, C, H, W]`; fastest with channels last.
        norm: In training mode.
        counts: Positive integers `[U]`.

    Returns:
        `[U, C, H, W]`.

    Raises:
        ValueError: If there is not one count for each image, or a count is not positive.
    """
    if counts.shape != X.shape[:1] or not (counts > 0).all():
        raise ValueError(f"counts must be {len(X)} positive integers, one an image, got {counts.tolist()}")
    n = int(counts.sum()) * X[0, 0].numel()
    exact = X.to(torch.promote_types(X.dtype, torch.float32))
    Y, mean, var = _CountedNorm.apply(exact, norm.weight, norm.bias, counts.to(exact) / n, norm.eps)
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * n / (n - 1), norm.momentum)
    return Y.to(X)


class _CountedNorm(torch.autograd.Function):
    """By products of matrices, as they are much faster here than sums over a large product."""

    @staticmethod
    def forward(ctx, X, weight, bias, each, eps):
        rough = _columns(X).mean(dim=(0, 1)).view(-1, 1, 1)  # so that the variance is no difference of large numbers
        X = X - rough
        mean = each @ _columns(X).sum(dim=1)
        var = each @ _dots(X, X) - mean.square()
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(X, weight, each, mean, scale)
        Y = torch.addcmul((bias - mean * scale * weight).view(-1, 1, 1), X, (scale * weight).view(-1, 1, 1))
        mean = mean + rough.flatten()
        ctx.mark_non_differentiable(mean, var)
        return Y, mean, var

    @staticmethod
    def backward(ctx, dY, *_):
        X, weight, each, mean, scale = ctx.saved_tensors
        dbias = _columns(dY).sum(dim=(0, 1))
        dweight = scale * (_dots(dY, X).sum(dim=0) - mean * dbias)
        slope = -dweight * weight * scale.square()  # of the part that comes through the variance
        shift = -dbias * weight * scale - slope * mean
        dX = dY * (weight * scale).view(-1, 1, 1)
        dX.addcmul_(X, (each.unsqueeze(1) * slope)[:, :, None, None])
        dX.add_((each.unsqueeze(1) * shift)[:, :, None, None])
        return dX, dweight, dbias, None, None


def _columns(X: Tensor) -> Tensor:
    """`[U, C, H, W]` to `[U, H * W, C]`: a view where channels are last."""
    return X.permute(0, 2, 3, 1).flatten(1, 2)


def _dots(A: Tensor, B: Tensor) -> Tensor:
    """The dot product of each channel of each image with that of another `[U, C]`."""
    return (_columns(A).transpose(1, 2) @ _columns(B)).diagonal(dim1=1, dim2=2)
