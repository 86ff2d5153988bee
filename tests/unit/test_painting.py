"""What Circles and CLEVR share: the loss on sampled cells, and a time of few elements."""

import dataclasses

import pytest
import torch
from torch import nn

from srnlib.models.image import patch
from srnlib.tasks import TASKS
from srnlib.tasks.circles import LOSSES
from srnlib.tasks.painting import cross_entropy, sample_cells


def test_sampled_cells_estimate_the_sum_over_all_cells():
    torch.manual_seed(0)
    picture = torch.zeros(1, 3, 32, 32)
    picture[0, 0, 4:20, 4:18] = 1  # whole cells inside, an edge within a column of cells, black cells
    target = patch(picture)
    at, weight = sample_cells(target.expand(4000, -1, -1), 16)
    chance = torch.zeros(64).scatter(0, at.flatten(), 1 / (16 * weight.flatten()))
    assert chance.sum() == pytest.approx(1, rel=1e-5)
    error = chance * (0.5 + torch.rand(64))  # greater where it is looked for
    estimates = (weight * error[at]).sum(dim=1)
    standard_error = estimates.std() / 4000**0.5
    assert abs(estimates.mean() - error.sum()) < 4 * standard_error
    lit, edge = (target[0].amax(dim=1) > 0), (target[0, :, :16].amax(dim=1) != target[0, :, :16].amin(dim=1))
    assert 0 < edge.sum() < lit.sum() < 64
    often = torch.bincount(at.flatten(), minlength=64).float()
    assert often[lit & ~edge].mean() / often[~lit].mean() == pytest.approx(0.6 / 0.3, rel=0.1)
    assert often[edge].mean() / often[~lit].mean() == pytest.approx(1.6 / 0.3, rel=0.1)
    alone = torch.multinomial(chance, 16 * 4000, replacement=True).view(4000, 16)
    independent = (error[alone] / (16 * chance[alone])).sum(dim=1)
    assert estimates.std() < 0.9 * independent.std()  # what the marks are for


def test_a_cell_with_more_than_its_share_is_always_drawn():
    picture = torch.zeros(50, 3, 16, 16)
    picture[:, 1, 5, 5] = 1  # one cell of sixteen has 1.6 of 6.1: more than two marks of eight
    at, weight = sample_cells(patch(picture), 8)
    assert ((at == 5).sum(dim=1) >= 2).all()
    assert (weight * (at == 5)).sum(dim=1).mean() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("task", ["circles", "clevr"])
def test_few_elements_until_few_is_over(task):
    settings = dataclasses.replace(TASKS[task].settings("smoke", "srn"), few=0.5, few_size=3, steps=20, set_size=4)
    assert [settings.elements(step)[0] for step in range(20)] == [3] * 10 + [4] * 10
    assert settings.elements(5)[1] == 0.5 and settings.elements(10)[1] == 1
    assert dataclasses.replace(settings, few=0.0).elements(0)[0] == 4
    assert dataclasses.replace(settings, few_size=9).elements(0)[0] == 4  # there are no more


@pytest.mark.parametrize("task", ["circles", "clevr"])
@pytest.mark.parametrize("few", [1.0, -0.1])
def test_few_must_leave_time_for_all_elements(task, few):
    with pytest.raises(ValueError, match=f"0 <= few < 1, got {few}"):
        dataclasses.replace(TASKS[task].settings("smoke", "srn"), few=few)


def test_some_element_must_paint():
    with pytest.raises(ValueError, match="few_size must be 1 or more, got 0"):
        dataclasses.replace(TASKS["circles"].settings("smoke", "srn"), few_size=0)


def test_cross_entropy_is_torchs():
    p, target = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = nn.functional.binary_cross_entropy(p, target, reduction="none")
    torch.testing.assert_close(cross_entropy(p, target), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_finite_for_certain_and_rounded_predictions(dtype):
    p = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.008], dtype=dtype)  # sums of shares may round to more than 1
    found = cross_entropy(p, torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0]))
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert found[[0, 3, 4]].abs().max() < 1e-5 and found[1:3].min() > 10


def test_what_is_missing_pulls_by_cross_entropy_and_hardly_by_squared_error():
    logit = torch.full((1,), -6.0, requires_grad=True)  # nothing drawn where a white pixel should be
    p, slope = logit.sigmoid(), {}
    for name, loss in LOSSES.items():
        (slope[name],) = torch.autograd.grad(loss(p, torch.ones(1)).sum(), logit, retain_graph=True)
    torch.testing.assert_close(slope["cross_entropy"], p.detach() - 1, rtol=1e-3, atol=0)
    torch.testing.assert_close(slope["squared_error"], (2 * (p - 1) * p * (1 - p)).detach())
    assert slope["cross_entropy"] / slope["squared_error"] > 100
