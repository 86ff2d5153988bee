"""What the Circles task adds to the models: the growing number of circles, equal treatment."""

import dataclasses

import pytest
import torch

from srnlib.models.image import patch
from srnlib.tasks.circles import circles, shown


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


def test_training_begins_with_few_elements_and_few_circles():
    settings = circles.settings("laptop", "srn")
    plan = [shown(settings, step) for step in range(settings.steps)]
    assert plan[0] == (8, 3) and plan == sorted(plan) and set(plan) == {(8, 3), (8, 4), (8, 5), (16, 10)}
    assert plan.index((16, 10)) == round(settings.few * settings.steps)
    assert shown(circles.settings("paper", "srn"), 0) == (16, 10)


def test_few_elements_are_the_first_ones_and_last_until_the_loss_says_otherwise():
    settings = dataclasses.replace(circles.settings("smoke", "baseline"), few=0.5, few_size=2)
    module, batch = circles.build("baseline", settings).eval(), circles.dataset(settings, 0)[torch.arange(4)]
    X = torch.rand(2, 3, 32, 32)
    all_elements = module(X).S
    assert torch.isfinite(circles.loss(module, batch, settings, 0)[0])
    torch.testing.assert_close(module(X).S, all_elements[:, :2])
    circles.loss(module, batch, settings, settings.steps - 1)
    torch.testing.assert_close(module(X).S, all_elements)


def test_both_models_are_trained_alike():
    srn, baseline = (dataclasses.asdict(circles.settings("laptop", model)) for model in ("srn", "baseline"))
    own = {"steps", "jitter", "starts", "eval_steps"}  # about the same core time; what a baseline does not read
    assert {name for name in srn if srn[name] != baseline[name]} == own


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


def test_an_unknown_loss_is_refused_by_name():
    with pytest.raises(ValueError, match="loss must be one of squared_error, cross_entropy, got 'l1'"):
        dataclasses.replace(circles.settings("smoke", "srn"), loss="l1")
    assert {p: circles.settings(p, "srn").loss for p in ("laptop", "paper")} == {
        "laptop": "cross_entropy",
        "paper": "squared_error",
    }


def test_several_starts_are_reported_beside_one():
    several = {"starts": 4, "eval_steps": 6, "test_images": 8, "val_images": 8}
    settings = dataclasses.replace(circles.settings("smoke", "srn"), **several)
    torch.manual_seed(0)
    module = circles.build("srn", settings).eval()
    with torch.no_grad():
        found, val = (circles.evaluate(module, settings, torch.device("cpu"), split) for split in ("test", "val"))
        plain = dataclasses.replace(settings, starts=1, eval_steps=None)
        one = circles.build("srn", plain).eval()
        one.load_state_dict(module.state_dict())
        alone = circles.evaluate(one, plain, torch.device("cpu"), "test")
    assert not any(name.startswith("single.") for name in alone | val)
    assert {name: found[f"single.{name}"] for name in alone} == alone
    assert found["inner.last"] < alone["inner.last"]
    assert (module.refiner.starts, module.refiner.eval_steps) == (4, 6)  # as before


def test_one_circle_at_most_is_shown_from_the_start():
    settings = dataclasses.replace(circles.settings("laptop", "srn"), max_circles=1)
    assert {shown(settings, step)[1] for step in range(0, settings.steps, 1000)} == {1}
