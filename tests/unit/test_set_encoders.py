"""Set encoders against brute force: numpy's sort and interpolation, plain concatenation, loops over triples."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from srnlib.set_encoders import FSPool, GraphEncoder, PairSetEncoder, SetEncoder, largest_first, mlp

SEEDS = st.integers(0, 2**31)
ENCODERS = (SetEncoder, PairSetEncoder)


def brute_force(pool, x):
    """FSPool of one set [N, C] with numpy: sort down, read the weights by np.interp, sum."""
    weight, x = pool.weight.detach().numpy(), x.detach().numpy()
    knots, ranks = np.linspace(0, 1, weight.shape[1]), np.linspace(0, 1, len(x))
    return [np.sort(column)[::-1] @ np.interp(ranks, knots, w) for column, w in zip(x.T, weight, strict=True)]


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 4), st.integers(1, 25))
def test_fspool_equals_sort_and_interpolation(seed, n, channels, pieces):
    torch.manual_seed(seed)
    pool, x = FSPool(channels, pieces).double(), torch.randn(2, n, channels, dtype=torch.float64)
    np.testing.assert_allclose(pool(x).detach(), [brute_force(pool, s) for s in x], atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 12), st.booleans())
def test_fspool_mask_equals_dropping_the_elements(seed, n, poison):
    torch.manual_seed(seed)
    pool, x, mask = FSPool(3, 4).double(), torch.randn(4, n, 3, dtype=torch.float64), torch.rand(4, n) < 0.5
    mask[:, 0] = True
    if poison:
        x[~mask] = float("nan")  # what is masked is never read
    np.testing.assert_allclose(pool(x, mask).detach(), [brute_force(pool, s[m]) for s, m in zip(x, mask, strict=True)])
    everything = torch.ones_like(mask)
    torch.testing.assert_close(pool(x.nan_to_num(), everything), pool(x.nan_to_num()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_largest_first_is_a_sort(dtype):
    torch.manual_seed(0)
    x = torch.randn(3, 37, 5).to(dtype)
    x[0, :20] = 0.5  # ties
    x[1, 7, 2], x[1, 9, 2] = float("inf"), float("-inf")
    torch.testing.assert_close(largest_first(x), x.sort(dim=1, descending=True).values, rtol=0, atol=0)
    x = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(largest_first, x) and torch.autograd.gradgradcheck(largest_first, x)


def test_fspool_by_hand():
    pool = FSPool(1, pieces=2)
    pool.weight.data = torch.tensor([[1.0, 10.0, 100.0]])
    assert pool(torch.tensor([[[5.0]]])).item() == 5  # one element has rank 0
    assert pool(torch.tensor([[[2.0], [3.0]]])).item() == 3 + 200
    assert pool(torch.tensor([[[1.0], [3.0], [2.0]]])).item() == 3 + 20 + 100
    between = pool(torch.tensor([[[4.0], [3.0], [2.0], [1.0]]])).item()  # ranks 0, 1/3, 2/3, 1
    assert between == pytest.approx(4 + 3 * 7 + 2 * 40 + 100)


def test_fspool_gradients_first_and_second():
    torch.manual_seed(0)
    pool, x = FSPool(3, 4).double(), torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True, True, False], [False, True, False, False, False]])
    for m in (None, mask):

        def pooled(x, weight, m=m):
            return torch.func.functional_call(pool, {"weight": weight}, (x, m))

        assert torch.autograd.gradcheck(pooled, (x, pool.weight))
        assert torch.autograd.gradgradcheck(lambda *given: pooled(*given).square(), (x, pool.weight))  # noqa: B023


def test_fspool_reads_ranks_in_the_precision_of_its_weights():
    pool, x = FSPool(2), torch.randn(1, 300, 2).bfloat16()  # as under mixed precision
    torch.testing.assert_close(pool(x), pool(x.float()))


# encoders of sets


@pytest.mark.parametrize("encoder", ENCODERS)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=SEEDS, n=st.integers(1, 7))
def test_set_encoders_ignore_the_order(encoder, data, seed, n):
    torch.manual_seed(seed)
    H_agg, S = encoder(4, 5, hidden=8, pieces=3).double(), torch.randn(2, n, 4, dtype=torch.float64)
    order = data.draw(st.permutations(range(n)))
    torch.testing.assert_close(H_agg(S[:, order]), H_agg(S), rtol=1e-12, atol=1e-12)
    assert H_agg(S).shape == (2, 5)


def test_set_encoder_divides_features_by_the_number_of_elements():
    H_agg, S = SetEncoder(4, 5, hidden=8, pieces=3).double(), torch.randn(3, 6, 4, dtype=torch.float64)
    expected = [brute_force(H_agg.pool, H_agg.mlp(s) / 6) for s in S]
    np.testing.assert_allclose(H_agg(S).detach(), expected, atol=1e-12)


def test_pair_set_encoder_equals_an_mlp_of_concatenated_pairs():
    H_agg, S = PairSetEncoder(4, 5, hidden=8, pieces=3).double(), torch.randn(3, 6, 4, dtype=torch.float64)
    first = nn.Linear(8, 8).double()
    first.weight.data = torch.cat([H_agg.left.weight, H_agg.right.weight], dim=1).data
    first.bias.data = H_agg.left.bias.data
    plain = nn.Sequential(first, *H_agg.mlp)
    pairs = torch.stack([torch.cat([S[:, i], S[:, j]], dim=1) for i in range(6) for j in range(6)], dim=1)
    expected = [brute_force(H_agg.pool, plain(p) / 36) for p in pairs]
    np.testing.assert_allclose(H_agg(S).detach(), expected, atol=1e-12)


def test_parameter_counts():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    def layers(*widths):
        return sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))

    assert count(FSPool(7)) == 7 * 21
    assert count(SetEncoder(10, 100)) == layers(10, 512, 512, 100) + 100 * 21  # the paper's Circles
    assert count(PairSetEncoder(10, 100)) == layers(20, 512, 512, 100) + 100 * 21
    assert count(mlp(3, 4, 5, layers=1)) == layers(3, 5)
    graph = layers(2 * 6 + 3, 16, 3 * 16) + layers(16, 16, 5) + layers(16, 5) + 2 * 5 * 4
    assert count(GraphEncoder(6, 3, 5, hidden=16, pieces=3)) == graph


# encoders of graphs


def graph(seed=0, n=4):
    torch.manual_seed(seed)
    nodes, edges = torch.randn(2, n, 3, dtype=torch.float64), torch.randn(2, n, n, 2, dtype=torch.float64)
    return GraphEncoder(3, 2, 5, hidden=8, pieces=3).double(), nodes, edges


@settings(max_examples=20, deadline=None)
@given(data=st.data(), seed=SEEDS, n=st.integers(1, 5))
def test_graph_encoder_ignores_the_order_of_nodes(data, seed, n):
    H_agg, nodes, edges = graph(seed, n)
    order = data.draw(st.permutations(range(n)))
    permuted = H_agg(nodes[:, order], edges[:, order][:, :, order])
    torch.testing.assert_close(permuted, H_agg(nodes, edges), rtol=1e-12, atol=1e-12)


def test_graph_encoder_reads_the_direction_of_edges():
    H_agg, nodes, edges = graph()
    assert not torch.allclose(H_agg(nodes, edges), H_agg(nodes, edges.transpose(1, 2)))


def test_graph_encoder_equals_a_loop_over_triples():
    H_agg, nodes, edges = graph(n=4)
    expected = []
    for V, R in zip(nodes, edges, strict=True):
        received, new_edges = [[] for _ in V], []
        for i in range(4):
            for j in range(4):
                to_subject, new_edge, to_object = H_agg.triple(torch.cat([V[i], R[i, j], V[j]])).relu().chunk(3)
                received[i].append(to_subject)
                received[j].append(to_object)
                new_edges.append(H_agg.edge(new_edge) / 16)
        new_nodes = torch.stack([H_agg.node(sum(messages) / 8) / 4 for messages in received])
        pooled = brute_force(H_agg.node_pool, new_nodes), brute_force(H_agg.edge_pool, torch.stack(new_edges))
        expected.append(np.add(*pooled))
    np.testing.assert_allclose(H_agg(nodes, edges).detach(), expected, atol=1e-12)


# bad input


@pytest.mark.parametrize("taker", (lambda: FSPool(4), *(lambda e=e: e(4, 5, hidden=8) for e in ENCODERS)))
@pytest.mark.parametrize(
    "x", (torch.ones(2, 3, 5), torch.ones(3, 4), torch.ones(2, 0, 4), torch.ones(2, 3, 4, dtype=torch.int64))
)
def test_sets_that_do_not_fit_are_refused(taker, x):
    with pytest.raises(ValueError, match=r"takes floats \[B, N >= 1, 4\], got torch\.\w+ \["):
        taker()(x)


@pytest.mark.parametrize("n", [5, 24, 30])
def test_tracing_and_functional_transforms_see_a_sort(n):
    """From 24 elements on numpy sorts; neither a trace nor torch.func may keep one input's order."""
    pool, x, y = FSPool(3), torch.randn(2, n, 3), torch.randn(2, n, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is going, says torch
        traced = torch.jit.trace(pool, (x,))
    torch.testing.assert_close(traced(y), pool(y))
    jacobian = torch.func.jacrev(lambda x: pool(x).sum(dim=0))(x)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(lambda x: pool(x).sum(dim=0), x))


def test_a_mask_is_exact_in_bfloat16():
    pool, x = FSPool(4).bfloat16(), torch.randn(1, 600, 4).bfloat16()
    mask = torch.arange(600)[None] < 301
    found, expected = pool(x, mask), pool(x[:, :301])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.05, atol=1.0)


@pytest.mark.parametrize("x", (None, [[1.0]], np.ones((2, 3, 4))))
def test_what_is_no_tensor_is_refused(x):
    for taker in (FSPool(4), SetEncoder(4, 5, hidden=8), PairSetEncoder(4, 5, hidden=8)):
        with pytest.raises(TypeError, match="takes a tensor"):
            taker(x)


def test_masks_that_do_not_fit_are_refused():
    pool, x = FSPool(4), torch.ones(2, 3, 4)
    for mask in (torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool), torch.ones(3, dtype=torch.bool), [[True]]):
        with pytest.raises(ValueError, match=r"mask must be a tensor of bool \[2, 3\]"):
            pool(x, mask)
    with pytest.raises(ValueError, match=r"mask is on meta, the set on cpu: use mask.to\(x.device\)"):
        pool(x, torch.ones(2, 3, dtype=torch.bool, device="meta"))
    with pytest.raises(ValueError, match="no element"):
        pool(x, torch.tensor([[True, False, False], [False, False, False]]))


@pytest.mark.parametrize("sizes", ((0, 20), (4, 0), (-1, 20)))
def test_fspool_refuses_zero_sizes(sizes):
    with pytest.raises(ValueError, match="channels and pieces must be at least 1"):
        FSPool(*sizes)


def test_graphs_that_do_not_fit_are_refused():
    H_agg, nodes, edges = graph(n=4)
    for wrong in (edges[:, :3], edges[..., :1], edges[0], edges[:1]):
        with pytest.raises(ValueError, match=r"edges must be \[B, N, N, K\] = \[2, 4, 4, 2\]"):
            H_agg(nodes, wrong)
    for wrong, name in ((None, "NoneType"), ([[1.0]], "list")):
        with pytest.raises(TypeError, match=rf"edges must be a tensor \[B, N, N, K\], got {name}"):
            H_agg(nodes, wrong)
    for wrong in (edges.long(), edges.float(), edges.to("meta")):
        with pytest.raises(ValueError, match=rf"nodes and edges differ: .*, {wrong.dtype} on {wrong.device}: use"):
            H_agg(nodes, wrong)
    with pytest.raises(ValueError, match="GraphEncoder takes floats"):
        H_agg(nodes[..., :2], edges)
