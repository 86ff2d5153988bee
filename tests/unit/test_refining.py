"""The inner loop's settings shared by all tasks: what they build, and what is logged of it."""

from types import SimpleNamespace

import pytest
import torch

from srnlib import loop
from srnlib.refine import GraphRefiner, SetRefiner
from srnlib.restarts import RestartedRefiner
from srnlib.set_encoders import GraphEncoder, SetEncoder
from srnlib.tasks.refining import InnerLoop, refinement


@pytest.mark.parametrize("kind, H_agg", [(SetRefiner, SetEncoder(4, 8)), (GraphRefiner, GraphEncoder(4, 1, 8))])
def test_settings_reach_the_refiner(kind, H_agg):
    settings = InnerLoop(inner_steps=3, inner_lr=0.2, inner_momentum=0.1, grad="truncate:2", detach_init=True)
    made = settings.refiner(H_agg, kind)
    assert type(made) is kind and made.H_agg is H_agg
    assert made.settings() == dict(steps=3, inner_lr=0.2, momentum=0.1, grad="truncate:2", detach_init=True)


def test_kaiming_makes_h_agg_steeper_and_leaves_biases_alone():
    found = {}
    for kaiming in (False, True):
        torch.manual_seed(0)
        H_agg = InnerLoop(kaiming=kaiming).refiner(SetEncoder(4, 8, hidden=256)).H_agg
        found[kaiming] = H_agg.mlp[2].weight.std().item(), H_agg.mlp[2].bias.std().item()
    assert found[True][0] == pytest.approx((2 / 256) ** 0.5, rel=0.02)  # Kaiming, for ReLU
    assert found[False][0] == pytest.approx((1 / 3 / 256) ** 0.5, rel=0.02)  # torch: uniform within 1 / sqrt(fan in)
    assert found[True][1] == pytest.approx(found[False][1], rel=0.1)


def test_refinement_by_hand():
    norms = torch.tensor([[4.0, 0.0], [3.0, 0.0]])
    trace = SimpleNamespace(inner_loss=torch.tensor([[4.0, 9.0], [2.0, 3.0], [1.0, 0.0]]), step_norm=norms)
    S0 = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    out = SimpleNamespace(S0=S0, S=S0 + torch.tensor([[[0.0, 5.0]], [[0.0, 0.0]]]), trace=trace)
    log = refinement(out)
    assert log["inner_first"].tolist() == [4, 9] and log["inner_last"].tolist() == [1, 0]
    assert log["moved"].tolist() == [1, 0]
    assert refinement(SimpleNamespace(S0=S0, S=S0, trace=None)) == {}


def test_a_refiner_that_sleeps_is_seen_in_spite_of_noisy_starts():
    torch.manual_seed(0)
    S0, z = torch.randn(3, 4, 2), torch.randn(3, 6)
    refiner = RestartedRefiner(SetEncoder(2, 6), steps=3, inner_lr=1e-9, jitter=1.0, starts=3)
    for mode in (True, False):
        S, trace = refiner.train(mode)(S0, z)
        log = refinement(SimpleNamespace(S0=S0, S=S, trace=trace))
        assert loop.collapsed({name: v.mean().item() for name, v in log.items()})
