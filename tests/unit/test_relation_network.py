"""The relation network: the fast formulation against the plain one, the layers of D.1, invariances, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from srnlib import RestartedRefiner, SetEncoder, SetRefiner
from srnlib.models import pair_sum
from srnlib.models.pair_sum import sum_over_pairs
from srnlib.models.relation_network import CellEncoder, RelationNetwork, VisualReasoner
from srnlib.tasks import TASKS


def plain(relations, S, questions):
    """D.1 word for word: every pair with its question concatenated, through g, summed, through f."""
    b, n, _ = S.shape
    q = questions.shape[1]
    pairs = (
        S[:, None, :, None].expand(b, q, n, n, -1),
        S[:, None, None, :].expand(b, q, n, n, -1),
        questions[:, :, None, None].expand(b, q, n, n, -1),
    )
    h = relations.first(torch.cat(pairs, dim=4)).relu()
    for layer in relations.rest:
        h = layer(h).relu()
    total = h.sum(dim=(2, 3)).flatten(0, 1)
    if relations.norm is not None:
        total = relations.norm(total / n**2)
    return relations.f(total).unflatten(0, (b, q))


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("cache", [1, 700, 2**17])  # blocks of one question, of a few with a rest, of all
def test_fast_formulation_equals_the_plain_one_with_all_gradients(monkeypatch, cache, conditioned):
    monkeypatch.setattr(pair_sum, "CACHE", cache)
    torch.manual_seed(0)
    relations = RelationNetwork(
        5, 3, 4, width=6, layers=4, hidden=7, dropout=0.0, conditioned=conditioned, question_scale=2.0
    ).double()
    S = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    questions = torch.randn(3, 5, 3, dtype=torch.float64, requires_grad=True)
    above = torch.randn(3, 5, 4, dtype=torch.float64)
    wanted = [S, questions, *relations.parameters()]
    slow, fast = plain(relations, S, questions), relations(S, questions)
    torch.testing.assert_close(fast, slow)
    for a, b in zip(torch.autograd.grad(fast, wanted, above), torch.autograd.grad(slow, wanted, above), strict=True):
        torch.testing.assert_close(a, b)


def test_paper_sized_network_agrees_with_the_plain_one_in_single_precision():
    torch.manual_seed(0)
    task = TASKS["sort_of_clevr"]
    relations = task.build("rn", task.settings("paper", "rn")).relations.eval()
    S, questions = torch.randn(2, 25, 26), torch.randn(2, 2, 11)
    with torch.no_grad():
        torch.testing.assert_close(relations(S, questions), plain(relations, S, questions), rtol=1e-4, atol=1e-4)


@given(n=st.integers(1, 4), k=st.integers(1, 5), width=st.integers(1, 4), depth=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_gradient_of_the_sum_over_pairs_is_that_of_finite_differences(n, k, width, depth):
    torch.manual_seed(n + 10 * k + 100 * width + 1000 * depth)
    layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth)).double()
    left, right = (torch.randn(k, n, width, dtype=torch.float64, requires_grad=True) for _ in range(2))
    parameters = list(layers.parameters())
    assert torch.autograd.gradcheck(lambda a, b, *_: sum_over_pairs(a, b, layers), (left, right, *parameters))


@pytest.mark.parametrize("cache", [1, 700, 2**17])
def test_activations_kept_or_computed_again_give_the_same_bits(monkeypatch, cache):
    monkeypatch.setattr(pair_sum, "CACHE", cache)
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
    left, right = (torch.randn(5, 4, 6, requires_grad=True) for _ in range(2))
    of, found = (left, right, *layers.parameters()), []
    size = 3 * left.numel() * 4  # of two layers and the sum before them
    for kept in (size, size - 1):
        monkeypatch.setattr(pair_sum, "KEPT", kept)
        total = sum_over_pairs(left, right, layers)
        blocks = len(total.grad_fn.saved_tensors) - 6
        found.append((blocks, total, *torch.autograd.grad(total.square().sum(), of)))
    assert found[0][0] > found[1][0] == 0
    assert all(torch.equal(a, b) for a, b in zip(found[0][1:], found[1][1:], strict=True))


def test_answers_do_not_depend_on_the_order_of_the_set_nor_on_other_questions():
    torch.manual_seed(0)
    relations = RelationNetwork(5, 3, 4, width=8, hidden=8, conditioned=True).double().eval()
    S, questions = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    logits = relations(S, questions)
    torch.testing.assert_close(relations(S[:, torch.randperm(6)], questions), logits)
    order = torch.randperm(7)
    torch.testing.assert_close(relations(S, questions[:, order]), logits[:, order])
    torch.testing.assert_close(relations(S, questions[:, :1]), logits[:, :1])
    torch.testing.assert_close(relations(S[1:], questions[1:]), logits[1:])


def test_pairs_are_summed_in_full_precision_under_autocast():
    torch.manual_seed(0)
    relations = RelationNetwork(5, 3, 4, width=8, hidden=8).eval()
    S, questions = torch.randn(2, 4, 5), torch.randn(2, 3, 3)
    exact = relations(S, questions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = relations(S, questions)
    logits.float().sum().backward()
    torch.testing.assert_close(logits.float(), exact, rtol=0.05, atol=0.05)
    assert all(torch.isfinite(p.grad).all() for p in relations.parameters())


def described(module):
    """Linear and convolution layers with their sizes, and how they are joined."""
    kinds = {nn.Linear: ("in_features", "out_features"), nn.Dropout: ("p",), nn.BatchNorm2d: ("num_features",)}
    kinds[nn.Conv2d] = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return [
        (type(m).__name__, *(getattr(m, a) for a in kinds.get(type(m), ())))
        for m in module.modules()
        if not list(m.children())
    ]


def test_paper_profile_is_d1():
    task = TASKS["sort_of_clevr"]
    rn, srn = (task.build(model, task.settings("paper", model)) for model in ("rn", "srn"))
    conv = [("Conv2d", c, 24, (3, 3), (2, 2), (1, 1)) for c in (3, 24, 24, 24)]
    assert described(rn.encoder) == [layer for c in conv for layer in (c, ("ReLU",), ("BatchNorm2d", 24))]
    g = [("Linear", 2 * 26 + 11, 256)] + 3 * [("Linear", 256, 256)]
    f = 2 * [("Linear", 256, 256), ("ReLU",)] + [("Dropout", 0.5), ("Linear", 256, 10)]
    assert described(rn.relations) == g + f and rn.relations.norm is None
    assert described(srn.encoder)[-1] == ("Linear", 600, 100)
    assert described(srn.refiner.H_agg.mlp)[::2] == [("Linear", 26, 512), ("Linear", 512, 512), ("Linear", 512, 100)]
    added = srn.state_dict().keys() - rn.state_dict().keys()
    assert all(name.startswith(("refiner.", "encoder.embed.")) for name in added)


def reasoner(refined=True):
    torch.manual_seed(0)
    refiner = SetRefiner(SetEncoder(6, 8, hidden=16), steps=3, inner_lr=1.0) if refined else None
    relations = RelationNetwork(6, 11, 10, width=8, hidden=8)
    return VisualReasoner(CellEncoder(4, 8 if refined else None), relations, refiner).eval()


def test_places_are_those_of_the_cells():
    encoder = reasoner().encoder
    S0, z = encoder(torch.rand(2, 3, 75, 75))
    assert S0.shape == (2, 25, 6) and z.shape == (2, 8)
    maps = encoder.features(torch.ones(1, 3, 75, 75))
    assert maps.shape[2:] == (5, 5)
    x, y = S0[0, :, -2:].view(5, 5, 2).unbind(2)
    torch.testing.assert_close(x, torch.linspace(-1, 1, 5).expand(5, 5))
    torch.testing.assert_close(y, torch.linspace(-1, 1, 5)[:, None].expand(5, 5))


def test_embed_scale_scales_z_alone():
    X = torch.rand(2, 3, 75, 75)
    encoder, small = CellEncoder(4, 8).eval(), CellEncoder(4, 8, embed_scale=1 / 25).eval()
    small.load_state_dict(encoder.state_dict())
    (S0, z), (other, scaled) = encoder(X), small(X)
    assert torch.equal(S0, other)
    torch.testing.assert_close(25 * scaled, z)


def test_set_and_embedding_have_one_dtype_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        S0, z = CellEncoder(4, 8)(torch.rand(2, 3, 75, 75))
    assert S0.dtype == z.dtype == torch.float32


def test_inverted_encoder_looks_at_the_negative_and_reach_scales_the_places():
    torch.manual_seed(0)
    straight = CellEncoder(4, 8).eval()
    other = CellEncoder(4, 8, reach=3.0, inverted=True).eval()
    other.load_state_dict(straight.state_dict())
    X = torch.rand(2, 3, 75, 75)
    (S, z), (S_other, z_other) = straight(1 - X), other(X)
    torch.testing.assert_close(z, z_other)
    torch.testing.assert_close(S * torch.tensor([1.0] * 4 + [3.0] * 2), S_other)


def test_questions_share_one_refinement_and_steps_can_be_replaced():
    module, X = reasoner(), torch.rand(2, 3, 75, 75)
    questions = torch.eye(11).expand(2, -1, -1)
    with torch.no_grad():
        out, none, more = (module(X, questions, steps) for steps in (None, 0, 7))
        S, S0, trace = module.encode(X)
    assert out.logits.shape == (2, 11, 10)
    torch.testing.assert_close(out.S, S)
    torch.testing.assert_close(none.S, S0)
    assert len(trace.inner_loss) == 4 and len(more.trace.inner_loss) == 8
    assert not torch.allclose(S, S0)
    plain_rn = reasoner(refined=False)
    assert plain_rn(X, questions).trace is None


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 1, 75, 75), (3, 75, 75)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images must be floats"):
        reasoner().encode(torch.rand(shape))
    with pytest.raises(ValueError, match="uint8"):
        reasoner().encode(torch.zeros(2, 3, 75, 75, dtype=torch.uint8))


def test_questions_of_another_shape_are_refused():
    relations, S = RelationNetwork(6, 11, 10, width=8), torch.rand(2, 25, 6)
    for questions in (torch.rand(2, 5, 18), torch.rand(3, 5, 11), torch.rand(5, 11), torch.ones(2, 5, 11).byte()):
        with pytest.raises(ValueError, match="questions must be floats"):
            relations(S, questions)
    for wrong in (
        torch.rand(2, 25, 7),
        torch.rand(2, 0, 6),
        torch.rand(0, 25, 6),
        torch.rand(25, 6),
        torch.ones(2, 25, 6).byte(),
    ):
        with pytest.raises(ValueError, match="S must be floats"):
            relations(wrong, torch.rand(2, 5, 11))
    with pytest.raises(ValueError, match="questions must be floats"):
        relations(S, torch.rand(2, 0, 11))
    with pytest.raises(ValueError, match="layers must be 1 or more, got 0"):
        RelationNetwork(6, 11, 10, layers=0)


def test_a_refiner_with_several_starts_is_used_as_it_is():
    module, X = reasoner(), torch.rand(2, 3, 75, 75)
    module.refiner = RestartedRefiner(module.refiner.H_agg, steps=3, inner_lr=1.0, starts=4, spread=1.0, eval_steps=6)
    with torch.no_grad():
        S, S0, trace = module.eval().encode(X)
        expected, _ = module.refiner(S0, module.encoder(X)[1])
    assert torch.equal(S, expected) and len(trace.inner_loss) == 7
