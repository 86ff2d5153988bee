"""Batch norm that counts copies, against torch's on a batch that holds them."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from srnlib.counted_norm import counted_batch_norm


def norms():
    norm = nn.BatchNorm2d(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, copy.deepcopy(norm)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.booleans())
def test_equals_batch_norm_of_all_copies(repeats, channels_last):
    torch.manual_seed(len(repeats))
    counts = torch.tensor(repeats)
    X = torch.randn(len(counts), 3, 4, 5).double() + 30 * torch.randn(3, 1, 1).double()
    if channels_last:
        X = X.contiguous(memory_format=torch.channels_last)
    X.requires_grad_()
    ours, theirs = norms()
    Y, expected = counted_batch_norm(X, ours, counts), theirs(X.repeat_interleave(counts, 0))
    torch.testing.assert_close(Y.repeat_interleave(counts, 0), expected)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other)

    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weight).sum(), [X, *theirs.parameters()])
    per_image = torch.stack([part.sum(0) for part in weight.split(repeats)])
    found = torch.autograd.grad((Y * per_image).sum(), [X, *ours.parameters()])
    for mine, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, other)


def test_gradient_against_finite_differences():
    X, counts = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True), torch.tensor([1, 4, 2])
    norm = nn.BatchNorm2d(2).double()
    assert torch.autograd.gradcheck(lambda X: counted_batch_norm(X, norm, counts), X)


def test_is_exact_where_torch_sums_many_numbers_in_single_precision():
    """torch's own, channels last on a CPU, is off by a percent there: `benchmarks/world_model_training.py`."""
    X = (torch.randn(400, 2, 50, 50) + 5).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(2, momentum=1.0)
    counted_batch_norm(X, norm, torch.ones(400, dtype=torch.long))
    torch.testing.assert_close(norm.running_mean.double(), X.double().mean(dim=(0, 2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_var.double(), X.double().var(dim=(0, 2, 3)), rtol=1e-5, atol=0)


def test_half_precision_is_summed_in_single():
    X = torch.randn(4, 3, 8, 8).bfloat16()
    Y = counted_batch_norm(X, nn.BatchNorm2d(3), torch.tensor([1, 2, 1, 1]))
    assert Y.dtype == torch.bfloat16
    expected = counted_batch_norm(X.float(), nn.BatchNorm2d(3), torch.tensor([1, 2, 1, 1]))
    torch.testing.assert_close(Y.float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("counts", [[1, 2], [1, 0, 1], [1, 1, -1]])
def test_refuses_counts_that_do_not_fit(counts):
    with pytest.raises(ValueError, match="3 positive integers"):
        counted_batch_norm(torch.randn(3, 2, 4, 4), nn.BatchNorm2d(2), torch.tensor(counts))
