"""What the Circles task adds to the models: the sampled loss, the growing number of circles, equal treatment."""

import dataclasses

import pytest
import torch

from srnlib.models.image import patch
from srnlib.tasks.circles import circles, circles_shown, sample_cells


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


def test_sampled_loss_agrees_with_the_whole_loss_on_average():
    settings = dataclasses.replace(circles.settings("smoke", "srn"), cells=32)
    torch.manual_seed(0)
    module, data = circles.build("srn", settings).eval(), circles.dataset(settings, 0)
    batch = data[torch.arange(16)]
    with torch.no_grad():
        whole = circles.loss(module, batch, dataclasses.replace(settings, cells=None), 0)[0]
        sampled = torch.stack([circles.loss(module, batch, settings, 0)[0] for _ in range(200)])
    assert abs(sampled.mean() - whole) < 4 * sampled.std() / 200**0.5


def test_cells_asked_for_are_those_of_the_whole_reconstruction():
    settings = circles.settings("smoke", "srn")
    torch.manual_seed(0)
    module, X = circles.build("srn", settings).eval(), torch.rand(2, 3, 32, 32)
    at = torch.tensor([[5, 0, 63], [7, 7, 1]])
    with torch.no_grad():
        whole, part = module(X), module(X, at)
    torch.testing.assert_close(part.image, patch(whole.image).take_along_dim(at[:, :, None], dim=1))
    torch.testing.assert_close(part.elements.sum(dim=1), part.image)


def test_number_of_circles_grows_from_three_to_all():
    settings = circles.settings("laptop", "srn")
    shown = [circles_shown(settings, step) for step in range(settings.steps)]
    assert shown[0] == 3 and shown == sorted(shown) and set(shown) == set(range(3, 11))
    assert shown.index(10) < settings.curriculum * settings.steps
    assert circles_shown(circles.settings("paper", "srn"), 0) == 10


def test_both_models_are_trained_alike():
    srn, baseline = (dataclasses.asdict(circles.settings("laptop", model)) for model in ("srn", "baseline"))
    assert {name for name in srn if srn[name] != baseline[name]} <= {"steps"}  # the same core time, not the same steps


def test_kaiming_makes_the_set_encoder_steeper():
    settings = circles.settings("smoke", "srn")
    slopes = []
    for kaiming in (True, False):
        torch.manual_seed(0)
        H_agg = circles.build("srn", dataclasses.replace(settings, kaiming=kaiming)).refiner.H_agg
        S = torch.randn(4, 4, 10, requires_grad=True)
        H_agg(S).square().sum().backward()
        slopes.append(float(S.grad.norm()))
    assert slopes[0] > 10 * slopes[1]
