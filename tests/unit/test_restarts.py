"""Refining from several starts, against the same descents one by one."""

import numpy as np
import pytest
import torch

from srnlib import SetEncoder, SetRefiner, refine
from srnlib.restarts import RestartedRefiner

LOOP = dict(steps=4, inner_lr=0.5, momentum=0.5)


def problem(b=5, n=3, d=2):
    torch.manual_seed(0)
    return torch.randn(b, n, d), torch.randn(b, 6), SetEncoder(d, 6, hidden=16)


def test_keeps_the_lowest_of_the_same_descents_one_by_one():
    S0, z, H_agg = problem(b=16)
    refiner = RestartedRefiner(H_agg, starts=6, spread=2.0, eval_steps=7, **LOOP).eval()
    S, trace = refiner(S0, z)
    noise = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(refiner(S0, z), (S, trace))
    chosen, kept = [], []
    for b in range(16):
        scale = 2.0 * S0[b].flatten().std(correction=0)
        starts = [S0[b], *(S0[b] + scale * e for e in noise)]
        ends = [refine(s[None], z[b : b + 1], H_agg, **LOOP | {"steps": 7}) for s in starts]
        losses = [t.inner_loss[-1].item() for _, t in ends]
        best = min(range(6), key=losses.__getitem__)
        chosen.append(best)
        kept.append(ends[best][0])
        torch.testing.assert_close(S[b : b + 1], ends[best][0])
        torch.testing.assert_close(trace.inner_loss[:, b : b + 1], ends[best][1].inner_loss)
        torch.testing.assert_close(trace.step_norm[:, b : b + 1], ends[best][1].step_norm)
    slopes = (torch.autograd.grad(sets.square().sum(), H_agg.pool.weight) for sets in (S, torch.cat(kept)))
    torch.testing.assert_close(*slopes)
    assert len(set(chosen)) > 2  # else the starts would all end alike, and nothing be shown
    assert trace.inner_loss.shape == (8, 16) and trace.step_norm.shape == (7, 16)


def test_a_local_minimum_is_left():
    def H_agg(S):  # of one number: two wells, the deeper one at -1
        x = S.flatten(1)
        return torch.cat([x.square() - 1, 0.5 * (x + 1)], dim=1)

    S0, z = torch.tensor([[[1.0], [1.0]]]), torch.zeros(1, 4)
    S0[0, 1] = 1.2  # so that the standard deviation is not zero
    loop = dict(steps=200, inner_lr=0.05)
    one, several = (RestartedRefiner(H_agg, starts=k, spread=20.0, **loop).eval()(S0, z) for k in (1, 20))
    assert one[0].min() > 0.5 and one[1].inner_loss[-1] > 0.5
    torch.testing.assert_close(several[0], -torch.ones(1, 2, 1), atol=1e-3, rtol=0)


def test_a_start_that_diverges_is_not_kept():
    def H_agg(S):  # beyond 1 the descent runs away
        return S.flatten(1).pow(3) * 1e3

    S0, z = torch.tensor([[[3.0], [3.1]]]), torch.zeros(1, 2)
    S, trace = RestartedRefiner(H_agg, starts=200, spread=60.0, steps=30, inner_lr=1e-6).eval()(S0.requires_grad_(), z)
    assert not torch.isfinite(refine(S0, z, H_agg, steps=30, inner_lr=1e-6)[1].inner_loss[-1]).any()
    assert torch.isfinite(S).all() and torch.isfinite(trace.inner_loss[-1]).all()
    (slope,) = torch.autograd.grad(S.sum(), S0)
    assert torch.isfinite(slope).all() and slope.any()  # it is that of the kept descent alone


@pytest.mark.parametrize("mode", ("training", "one start"))
def test_is_the_plain_refiner_in_training_and_with_one_start(mode):
    S0, z, H_agg = problem()
    plain = SetRefiner(H_agg, **LOOP)
    if mode == "training":
        refiner = RestartedRefiner(H_agg, starts=4, eval_steps=9, **LOOP).train()
    else:
        refiner = RestartedRefiner(H_agg, jitter=1.0, **LOOP).eval()
    got, expected = refiner(S0, z), plain(S0, z)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1].inner_loss, expected[1].inner_loss)
    assert refiner.state_dict().keys() == plain.state_dict().keys()


def test_training_starts_from_a_noisy_proposal():
    S0, z, H_agg = problem()
    S0[1] = 0.5  # all values equal: no deviation, no noise
    S0.requires_grad_()
    refiner = RestartedRefiner(H_agg, jitter=0.5, starts=3, **LOOP).train()
    torch.manual_seed(3)
    S, trace = refiner(S0, z)
    torch.manual_seed(3)
    noisy = S0.detach() + 0.5 * S0.detach().std(dim=(1, 2), correction=0, keepdim=True) * torch.randn(5, 3, 2)
    expected, its = refine(noisy, z, H_agg, **LOOP)
    torch.testing.assert_close(S, expected)
    torch.testing.assert_close(trace.inner_loss, its.inner_loss)
    torch.testing.assert_close(S[1], refine(S0[1:2], z[1:2], H_agg, **LOOP)[0][0])
    assert torch.autograd.grad(S.sum(), S0)[0].abs().sum() > 0  # G still learns
    other, _ = refiner(S0, z)
    assert not torch.allclose(other, S)


def test_depends_on_neither_batch_mates_nor_the_generator_and_leaves_the_generator_alone():
    S0, z, H_agg = problem()
    refiner = RestartedRefiner(H_agg, starts=5, **LOOP).eval()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.no_grad():
        S, _ = refiner(S0, z)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.inference_mode():
        alone, _ = refiner(S0[3:4], z[3:4])
    torch.testing.assert_close(alone[0], S[3])


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"starts": 0}, "starts must be"),
        ({"starts": 2.5}, "starts must be"),
        ({"starts": True}, "starts must be"),
        ({"jitter": "a"}, "jitter must be a number"),
        ({"spread": -1.0}, "spread must be"),
        ({"jitter": -0.1}, "jitter must be"),
        ({"jitter": float("inf")}, "jitter must be"),
        ({"spread": float("nan")}, "spread must be"),
        ({"steps": -1}, "steps must be"),
        ({"eval_steps": -1}, "eval_steps must be"),
    ],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        RestartedRefiner(SetEncoder(2, 6), **LOOP | wrong)


def test_whole_numbers_of_numpy_are_settings_and_a_wrong_set_is_named_before_noise_is_drawn():
    S0, z, H_agg = problem()
    refiner = RestartedRefiner(H_agg, jitter=1.0, starts=np.int64(2), eval_steps=np.int64(3), **LOOP)
    assert refiner.eval()(S0, z)[1].step_norm.shape == (3, 5)
    with pytest.raises(TypeError, match="S0 must be a floating-point tensor .* got torch.int64"):
        refiner.train()(S0.long(), z)


@pytest.mark.parametrize("starts", (1, 3))
@pytest.mark.parametrize("eval_steps", (0, 7))
def test_eval_steps_count_with_any_number_of_starts(starts, eval_steps):
    S0, z, H_agg = problem()
    refiner = RestartedRefiner(H_agg, starts=starts, eval_steps=eval_steps, **LOOP)
    assert refiner.eval()(S0, z)[1].step_norm.shape == (eval_steps, 5)
    assert refiner.train()(S0, z)[1].step_norm.shape == (4, 5)
