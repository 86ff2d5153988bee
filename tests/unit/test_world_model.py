"""C-SWM's parts against their formulas, written with loops; the paper's sizes; what a refiner adds."""

import numpy as np
import pytest
import torch
from torch import nn

from srnlib.models.object_extractor import Background, ObjectExtractor
from srnlib.models.world_model import (
    Constant,
    Transition,
    WorldModel,
    contrastive_loss,
    energy,
    normed_mlp,
    original_start,
)
from srnlib.refine import SetRefiner
from srnlib.set_encoders import SetEncoder


@pytest.fixture
def transition():
    torch.manual_seed(0)
    return Transition(3, 2, 8).double().eval()


def test_transition_by_loops(transition):
    S, action = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 2).double()
    expected = torch.empty_like(S)
    for b in range(2):
        for i in range(4):
            messages = [transition.edge(torch.cat([S[b, i], S[b, j]])) for j in range(4) if j != i]
            expected[b, i] = transition.node(torch.cat([S[b, i], action[b, i], sum(messages)]))
    torch.testing.assert_close(transition(S, action), expected)


def test_transition_is_permutation_equivariant(transition):
    S, action, order = torch.randn(5, 4, 3).double(), torch.randn(5, 4, 2).double(), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(transition(S[:, order], action[:, order]), transition(S, action)[:, order])


def test_one_object_has_no_one_to_talk_to(transition):
    S, action = torch.randn(5, 1, 3).double(), torch.randn(5, 1, 2).double()
    alone = transition.node(torch.cat([S, action, torch.zeros(5, 1, 8).double()], dim=2))
    torch.testing.assert_close(transition(S, action), alone)


def test_energy_by_formula():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 3, 4))
    by_hand = [np.mean([np.sum((a[i, k] - b[i, k]) ** 2) for k in range(3)]) / (2 * 0.5**2) for i in range(6)]
    np.testing.assert_allclose(energy(torch.from_numpy(a), torch.from_numpy(b)).numpy(), by_hand)


def test_contrastive_loss_by_formula():
    torch.manual_seed(0)
    S, predicted = 0.2 * torch.randn(3, 5, 2, 4), 0.2 * torch.randn(3, 4, 2, 4)
    H = [float(energy(predicted[b, t], S[b, t + 1])) for b in range(3) for t in range(4)]

    torch.manual_seed(1)
    any_time = contrastive_loss(S, predicted)
    torch.manual_seed(1)
    flat, drawn = S[:, :-1].flatten(0, 1), torch.randperm(12)
    hinges = [max(0, 1 - float(energy(flat[i], flat[drawn[i]]))) for i in range(12)]
    assert float(any_time) == pytest.approx(np.mean(H) + np.mean(hinges))

    pairs = [(b, c, t) for b in range(3) for c in range(3) if c != b for t in range(4)]
    hinges = [max(0, 1 - float(energy(S[b, t], S[c, t]))) for b, c, t in pairs]
    assert 0 < np.mean(hinges) < 1
    assert float(contrastive_loss(S, predicted, same_time=True)) == pytest.approx(np.mean(H) + np.mean(hinges))


def test_a_state_that_tells_the_time_is_punished_at_the_same_time_only():
    """The shortcut: every episode looks alike but for its time, which alone is encoded, perfectly."""
    S = 10.0 * torch.arange(11).view(1, 11, 1, 1).expand(64, 11, 1, 1)
    torch.manual_seed(0)
    assert contrastive_loss(S, S[:, 1:]) < 0.2  # one negative in ten is of the same time
    assert contrastive_loss(S, S[:, 1:], same_time=True) == 1
    with pytest.raises(ValueError, match="at least two"):
        contrastive_loss(S[:1], S[:1, 1:], same_time=True)


def test_background_by_formula():
    X = torch.rand(50, 2, 3, 3)
    X[:, 1, 2, 2] = 0.7  # never changes
    background = Background(2, 3)
    for _ in range(200):
        standard = background(X)
    variance = X.var(dim=0, unbiased=False)
    torch.testing.assert_close(standard, (X - X.mean(0)) / (variance + 0.01).sqrt())
    assert standard[:, 1, 2, 2].abs().max() < 1e-5
    seen = background.eval()(X[:1])
    torch.testing.assert_close(seen, (X[:1] - X.mean(0)) / (X.var(dim=0) + 0.01).sqrt(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "first", "second", "side"),
    [(6, (9, 1, 4), (5, 5, 0), 10), (6, (9, 5, 2), (1, 1, 0), 10), (3, (10, 10, 0), (1, 1, 0), 5)],
)
def test_masks(channels, first, second, side):
    extractor = ObjectExtractor(channels, 50, 3, 4, first, second, background=True)
    masks = extractor(torch.rand(2, channels, 50, 50))
    assert masks.shape == (2, 3, side, side) and masks.min() > 0 and masks.max() < 1


def test_the_starts_of_the_weights():
    """Ours: Xavier's rule for linear layers. That of C-SWM's code: for convolutions; linear layers as torch's."""

    def reaches(weight, bound):
        return weight.abs().max() <= bound < 1.1 * weight.abs().max()

    first, *_, last = normed_mlp(100, 64, 4)
    assert first.weight.abs().max() <= (6 / 164) ** 0.5 < 1.02 * first.weight.abs().max() and not last.bias.any()
    refiner = SetRefiner(SetEncoder(2, 16, hidden=8), steps=3, inner_lr=0.1)
    world = model(refiner, nn.Linear(125, 16))
    before = {name: weight.clone() for name, weight in world.state_dict().items()}
    original_start(world)
    conv = world.extractor[1]
    assert reaches(conv.weight, (6 / (7 * 100)) ** 0.5) and not conv.bias.any()
    for layer in (world.encoder[0], world.transition.edge[2], world.transition.node[5]):
        assert reaches(layer.weight, layer.in_features**-0.5) and layer.bias.any()
    kept = {name for name, weight in world.state_dict().items() if torch.equal(weight, before[name])}
    assert {name for name in before if name.startswith(("refiner", "embed"))} <= kept
    assert not any(name.startswith(("encoder.0", "transition.edge.0", "extractor.1.w")) for name in kept)


def test_the_leak_of_the_extractor():
    extractor = ObjectExtractor(3, 50, 3, 4, (10, 10, 0), (1, 1, 0), leak=0.0)
    assert extractor[3](torch.tensor([-1.0, 2.0])).tolist() == [0, 2]


def test_states_that_do_not_fit_are_refused():
    S = torch.rand(3, 5, 2, 4)
    for bad in (S, S[:, :1], S[:, 1:, :1], torch.rand(4, 2, 4)):
        with pytest.raises(ValueError, match=r"predictions \[B, T, K, D\]"):
            contrastive_loss(S, bad)
    with pytest.raises(ValueError, match="predictions"):
        contrastive_loss(S[:, :1], S[:, 1:1])
    with pytest.raises(ValueError, match="two states"):
        energy(S, S[..., :1])


def model(refiner=None, embed=None, **kwargs):
    torch.manual_seed(0)
    extractor = ObjectExtractor(3, 50, 5, 4, (10, 10, 0), (1, 1, 0))
    parts = {"encoder": normed_mlp(25, 8, 2), "transition": Transition(2, 4, 8), "actions": 20, "copy_action": False}
    return WorldModel(extractor, **parts | kwargs, refiner=refiner, embed=embed)


def test_bad_input_says_what_is_wrong():
    world, S = model(), torch.rand(2, 5, 2)
    with pytest.raises(ValueError, match="a refiner needs embed"):
        model(SetRefiner(SetEncoder(2, 16, hidden=8), steps=3, inner_lr=0.1))
    with pytest.raises(TypeError, match="got torch.uint8: divide frames of bytes by 255"):
        world.see(torch.zeros(2, 3, 50, 50, dtype=torch.uint8))
    for action in (torch.tensor([1.5, 2.0]), torch.tensor([True, False])):
        with pytest.raises(TypeError, match=f"actions must be integers, got {action.dtype}"):
            world.step(S, action)
    for action in ([0, 20], [-1, 20]):
        with pytest.raises(ValueError, match=f"actions must be 0 to 19, got {action[0]} to 20"):
            world.step(S, torch.tensor(action))


def test_forward_is_see_then_step():
    world, X, action = model().eval(), torch.rand(3, 5, 3, 50, 50), torch.randint(20, (3, 4))
    predicted, seen = world(X, action)
    assert predicted.shape == (3, 4, 5, 2) and seen.S.shape == (15, 5, 2) and seen.masks.shape == (15, 5, 5, 5)
    assert seen.trace is None and seen.S is seen.S0
    for t in range(4):
        expected = world.step(world.see(X[:, t]).S, action[:, t])
        torch.testing.assert_close(predicted[:, t], expected)


@pytest.mark.parametrize("refined", [False, True])
def test_copies_seen_once_teach_the_same(refined):
    """Loss, every gradient and the running statistics of a batch with copies, in double precision."""
    refiner = SetRefiner(SetEncoder(2, 16, hidden=8), steps=3, inner_lr=0.1) if refined else None
    X, action = torch.rand(4, 3, 50, 50, dtype=torch.float64), torch.randint(20, (3, 2))
    whose = torch.tensor([[0, 1, 1], [1, 2, 3], [0, 0, 0]])
    worlds = [model(refiner, nn.Linear(125, 16) if refined else None).double().train() for _ in range(2)]
    worlds[1].load_state_dict(worlds[0].state_dict())
    plain, once = worlds[0](X[whose], action), worlds[1](X, action, whose)
    assert len(once[1].S) == 4
    torch.testing.assert_close(once[0], plain[0])
    torch.testing.assert_close(once[1].S[whose], plain[1].S.view(3, 3, 5, 2))
    gradients = [
        torch.autograd.grad(contrastive_loss(S, predicted, same_time=True), list(world.parameters()))
        for world, predicted, S in (
            (worlds[0], plain[0], plain[1].S.view(3, 3, 5, 2)),
            (worlds[1], once[0], once[1].S[whose]),
        )
    ]
    assert any(g.abs().max() > 1e-3 for g in gradients[0])
    for found, expected in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(worlds[1].buffers(), worlds[0].buffers(), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(worlds[1].eval().see(X, torch.ones(4)).S, worlds[1].see(X).S)  # nothing to count


def test_the_background_does_not_count_copies():
    extractor = ObjectExtractor(3, 50, 5, 4, (10, 10, 0), (1, 1, 0), background=True)
    with pytest.raises(ValueError, match="leave out counts"):
        extractor(torch.rand(2, 3, 50, 50), torch.tensor([1, 2]))


def test_actions_reach_the_pushed_object_or_all():
    for copy, actions in ((False, 20), (True, 4)):
        world = model(actions=actions, copy_action=copy).eval()
        S = torch.randn(1, 5, 2)
        still = world.transition(S, torch.zeros(1, 5, 4))
        change = (world.step(S, torch.tensor([3 if copy else 4 * 2 + 3])) - S - still).abs().sum(dim=2) > 1e-6
        assert change[0].tolist() == ([True] * 5 if copy else [False, False, True, False, False])


def test_a_refiner_moves_the_set_and_learns():
    refiner = SetRefiner(SetEncoder(2, 16, hidden=8), steps=4, inner_lr=0.5, momentum=0.5)
    world = model(refiner, nn.Linear(125, 16))
    X, action = torch.rand(3, 3, 3, 50, 50), torch.randint(20, (3, 2))
    predicted, seen = world(X, action)
    assert seen.trace.inner_loss.shape == (5, 9) and not torch.equal(seen.S, seen.S0)
    assert (seen.trace.inner_loss[-1] < seen.trace.inner_loss[0]).all()
    contrastive_loss(seen.S.unflatten(0, (3, 3)), predicted).backward()
    assert all(p.grad is not None and p.grad.any() for p in (refiner.H_agg.mlp[0].weight, world.embed.weight))
    with torch.no_grad():
        assert not torch.equal(world.see(X[:, 0]).S, world.see(X[:, 0]).S0)


def test_constant_encoder_sees_nothing():
    world = model(encoder=Constant(2)).eval()
    assert not world.see(torch.rand(2, 3, 50, 50)).S.any()


def test_a_state_does_not_depend_on_the_batch():
    world, X = model().eval(), torch.rand(4, 3, 50, 50)
    torch.testing.assert_close(world.see(X).S[2:3], world.see(X[2:3]).S)
