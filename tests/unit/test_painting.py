"""What Circles and CLEVR share: the loss on sampled cells, and a time of few elements."""

import dataclasses

import pytest
import torch

from srnlib.models.image import patch
from srnlib.tasks import TASKS
from srnlib.tasks.painting import sample_cells


def test_sampled_cells_estimate_the_sum_over_all_cells():
    torch.manual_seed(0)
    target = patch((torch.rand(1, 3, 32, 32) > 0.999).float())  # a few lit pixels, so a few cells with something
    error = torch.rand(64, dtype=torch.float64)
    at, weight = sample_cells(target.expand(4000, -1, -1), 16)
    estimates = (weight * error[at]).sum(dim=1)
    standard_error = estimates.std() / 4000**0.5
    assert abs(estimates.mean() - error.sum()) < 4 * standard_error
    lit = target[0].amax(dim=1) > 0
    assert 0 < lit.sum() < 64
    often = torch.bincount(at.flatten(), minlength=64).float()
    assert often[lit].mean() / often[~lit].mean() == pytest.approx(1.15 / 0.15, rel=0.1)


@pytest.mark.parametrize("task", ["circles", "clevr"])
def test_half_of_the_elements_until_few_is_over(task):
    settings = dataclasses.replace(TASKS[task].settings("smoke", "srn"), few=0.5, steps=20, set_size=4)
    assert [settings.elements(step)[0] for step in range(20)] == [2] * 10 + [4] * 10
    assert settings.elements(5)[1] == 0.5 and settings.elements(10)[1] == 1
    assert dataclasses.replace(settings, few=0.0).elements(0)[0] == 4


@pytest.mark.parametrize("task", ["circles", "clevr"])
@pytest.mark.parametrize("few", [1.0, -0.1])
def test_few_must_leave_time_for_all_elements(task, few):
    with pytest.raises(ValueError, match=f"0 <= few < 1, got {few}"):
        dataclasses.replace(TASKS[task].settings("smoke", "srn"), few=few)
