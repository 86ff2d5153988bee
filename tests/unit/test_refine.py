"""The refiner against `higher`, explicit Hessians and loops written out by hand. All in float64."""

import weakref

import higher
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.autograd.graph import saved_tensors_hooks

from srnlib.refine import GraphRefiner, SetRefiner, refine
from srnlib.set_encoders import GraphEncoder, PairSetEncoder, SetEncoder

B, N, D, E = 3, 4, 2, 5
ENCODERS = (SetEncoder, PairSetEncoder)
MODES = ("unroll", "truncate:2", "implicit", "implicit:1")


def problem(seed=0, encoder=SetEncoder):
    """A proposed set and an embedding that want gradients, and a set encoder."""
    torch.manual_seed(seed)
    H_agg = encoder(D, E, hidden=8, pieces=3).double()
    S0, z = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((B, N, D), (B, E)))
    return S0, z, H_agg


def outer(S):
    """Some loss that depends on every element in its own way."""
    return (S.sin() * torch.arange(1, S.numel() + 1, dtype=S.dtype).view_as(S)).sum()


def gradients(S, *inputs):
    return torch.autograd.grad(outer(S), inputs, allow_unused=True, retain_graph=True)


def inner_loss(S, z, H_agg):
    return (H_agg(S) - z).pow(2).sum(dim=1)


def assert_all_close(got, expected, tolerance=1e-10):
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=tolerance, atol=tolerance)


# values and exact gradients


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("momentum", (0.0, 0.5))
def test_unroll_equals_the_sgd_of_higher(encoder, momentum):
    S0, z, H_agg = problem(encoder=encoder)
    wanted = (S0, z, *H_agg.parameters())
    S, _ = refine(S0, z, H_agg, steps=6, inner_lr=1.0, momentum=momentum)

    optimiser = higher.get_diff_optim(torch.optim.SGD([S0], lr=1.0, momentum=momentum), [S0])
    oracle = S0
    for _ in range(6):
        (oracle,) = optimiser.step(inner_loss(oracle, z, H_agg).sum(), params=[oracle])

    assert bool((S - S0).norm() > 0.01 * S0.norm())  # it does move
    assert_all_close([S, *gradients(S, *wanted)], [oracle, *gradients(oracle, *wanted)], 1e-5)


def hand_loop(S0, z, H_agg, steps, last, lr, momentum):
    """Gradient descent with momentum; differentiable through its last `last` steps only."""
    S, v = S0, torch.zeros_like(S0)
    for i in range(steps):
        if i == steps - last:
            S, v = S.detach(), v.detach()
        if not S.requires_grad:
            S = S.clone().requires_grad_()
        (slope,) = torch.autograd.grad(inner_loss(S, z, H_agg).sum(), S, create_graph=True)
        v = momentum * v + slope
        S = S - lr * v
    return S


@pytest.mark.parametrize("k", (1, 2, 4))
def test_truncate_equals_a_hand_written_loop(k):
    S0, z, H_agg = problem()
    S, _ = refine(S0, z, H_agg, steps=5, inner_lr=0.3, momentum=0.5, grad=f"truncate:{k}")
    oracle = hand_loop(S0, z, H_agg, steps=5, last=k, lr=0.3, momentum=0.5)
    wanted = (z, *H_agg.parameters())
    assert_all_close([S, *gradients(S, *wanted)], [oracle, *gradients(oracle, *wanted)])
    assert gradients(S, S0) == (None,)


@pytest.mark.parametrize("k", (1, 2, 4))
def test_truncate_cuts_what_learned_rates_hang_on_too(k):
    S0, z, H_agg = problem()
    lr, momentum = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.5))
    wanted, sizes = (lr, momentum, z, *H_agg.parameters()), []
    oracle = hand_loop(S0, z, H_agg, steps=5, last=k, lr=lr, momentum=momentum)
    for steps in (5, 20):
        S, _ = refine(S0, z, H_agg, steps=steps, inner_lr=lr, momentum=momentum, grad=f"truncate:{k}")
        sizes.append(graph_size(S))
        if steps == 5:
            assert_all_close([S, *gradients(S, *wanted)], [oracle, *gradients(oracle, *wanted)])
    assert sizes[0] == sizes[1]


def graph_size(S):
    """How many nodes autograd's graph of a tensor has."""
    seen, todo = set(), [S.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("k", (5, 9))
def test_truncate_of_all_steps_is_unroll(k):
    S0, z, H_agg = problem()
    wanted = (S0, z, *H_agg.parameters())
    results = [refine(S0, z, H_agg, steps=5, inner_lr=0.3, grad=grad)[0] for grad in ("unroll", f"truncate:{k}")]
    assert_all_close(*([S, *gradients(S, *wanted)] for S in results), tolerance=0)


@pytest.mark.parametrize("grad", MODES)
def test_every_mode_takes_the_same_steps(grad):
    S0, z, H_agg = problem()
    S, trace = refine(S0, z, H_agg, steps=5, inner_lr=0.3, momentum=0.5, grad=grad)
    oracle = hand_loop(S0, z, H_agg, steps=5, last=0, lr=0.3, momentum=0.5)
    assert_all_close([S, trace.inner_loss[-1]], [oracle, inner_loss(oracle, z, H_agg)])


# implicit gradients


class Smooth(nn.Module):
    """An encoder to more numbers than the set has, so that the inner problem has one minimum with a residual."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.eye(12, 6, dtype=torch.float64) + 0.1 * torch.randn(12, 6, dtype=torch.float64))
        self.scale = nn.Parameter(torch.full((12,), 0.3, dtype=torch.float64))

    def forward(self, S):
        linear = S.flatten(1) @ self.A.t()
        return linear + self.scale * (linear + 1).tanh()


@pytest.fixture
def converged():
    """A smooth problem: S0 is 150 steps away from what is a minimum to machine precision."""
    torch.manual_seed(1)
    S0, z = torch.randn(2, 3, 2, dtype=torch.float64), torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    H_agg = Smooth()
    S, _ = refine(S0, z, H_agg, steps=150, inner_lr=0.1, momentum=0.5)
    (slope,) = torch.autograd.grad(inner_loss(S, z, H_agg).sum(), S, retain_graph=True)
    assert bool(slope.norm() < 1e-12) and bool((inner_loss(S, z, H_agg) > 0.1).all())
    return S0, z, H_agg, S


def by_inverse(inverse, S, z, H_agg):
    """-v inverse(Hessian) d2L/dS d(z, A, scale), with Hessian and mixed derivatives written out in full."""
    S, names = S.detach(), [name for name, _ in H_agg.named_parameters()]

    def slope(S, z, *parameters):
        encode = lambda S: torch.func.functional_call(H_agg, dict(zip(names, parameters, strict=True)), S)  # noqa: E731
        return torch.autograd.grad(inner_loss(S, z, encode).sum(), S, create_graph=True)[0].flatten()

    H = hessian(lambda S: inner_loss(S, z, H_agg).sum(), S).reshape(S.numel(), S.numel())
    assert bool((torch.linalg.eigvalsh(H) > 0).all())
    mixed = jacobian(lambda *given: slope(S.clone().requires_grad_(), *given), (z, *H_agg.parameters()))
    v = jacobian(outer, S).flatten()
    return [-torch.tensordot(v @ inverse(H), m, dims=1) for m in mixed]


@pytest.mark.parametrize("grad", ("implicit", "implicit:120"))
def test_implicit_is_exact_at_a_converged_point(converged, grad):
    S0, z, H_agg, S = converged
    got, _ = refine(S0, z, H_agg, steps=150, inner_lr=0.1, momentum=0.5, grad=grad)
    wanted = (z, *H_agg.parameters())
    assert_all_close([got], [S])
    assert_all_close(gradients(got, *wanted), by_inverse(torch.linalg.inv, S, z, H_agg), 1e-8)
    assert_all_close(gradients(got, *wanted), gradients(S, *wanted), 1e-8)  # the long unroll


@pytest.mark.parametrize("k", (1, 2, 5))
def test_implicit_takes_k_terms_of_the_neumann_series(converged, k):
    _, z, H_agg, S = converged

    def series(H):
        ones = torch.eye(len(H), dtype=H.dtype)
        return 0.1 * sum(torch.linalg.matrix_power(ones - 0.1 * H, i) for i in range(k))

    got, _ = refine(S.detach(), z, H_agg, steps=3, inner_lr=0.1, grad=f"implicit:{k}")
    assert_all_close(gradients(got, z, *H_agg.parameters()), by_inverse(series, S, z, H_agg), 1e-8)


def test_implicit_1_is_one_unrolled_step_from_the_refined_set():
    S0, z, H_agg = problem()
    S, _ = refine(S0, z, H_agg, steps=5, inner_lr=0.3, momentum=0.5, grad="implicit:1")
    once = hand_loop(S.detach(), z, H_agg, steps=1, last=1, lr=0.3, momentum=0)
    v = jacobian(outer, S.detach())  # both pulled back from the same place
    wanted = (z, *H_agg.parameters())
    assert_all_close(torch.autograd.grad(S, wanted, v), torch.autograd.grad(once, wanted, v))


def live_saved_tensors(grad, steps):
    """How many tensors autograd keeps for the backward pass once `refine` has returned."""
    S0, z, H_agg = problem()
    live = weakref.WeakSet()

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor
            live.add(self)

    with saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        S, _ = refine(S0, z, H_agg, steps=steps, inner_lr=0.1, grad=grad)
        kept = len(live)
    assert S.requires_grad
    return kept


@pytest.mark.parametrize("grad", ("implicit", "implicit:1", "truncate:1"))
def test_memory_is_independent_of_steps(grad):
    assert 0 < live_saved_tensors(grad, 2) == live_saved_tensors(grad, 20)


def test_memory_of_unroll_grows_with_steps():
    assert live_saved_tensors("unroll", 20) > 5 * live_saved_tensors("unroll", 2)


# symmetry and independence


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(N)), st.integers(0, 2**31), st.sampled_from(MODES), st.sampled_from(ENCODERS))
def test_permutation_equivariance(order, seed, grad, encoder):
    S0, z, H_agg = problem(seed, encoder)
    options = dict(steps=4, inner_lr=0.3, momentum=0.5, grad=grad)
    S, trace = refine(S0, z, H_agg, **options)
    permuted, permuted_trace = refine(S0[:, order], z, H_agg, **options)
    assert_all_close([permuted, *permuted_trace], [S[:, order], *trace])
    wanted = (z, *H_agg.parameters())
    pulled, expected = (torch.autograd.grad(T.sin().sum(), wanted) for T in (permuted, S))
    assert_all_close(pulled, expected, 1e-8)


@pytest.mark.parametrize("grad", MODES)
def test_batch_mates_do_not_matter(grad):
    S0, z, H_agg = problem()
    options = dict(steps=4, inner_lr=0.3, momentum=0.5, grad=grad)
    S, trace = refine(S0, z, H_agg, **options)
    (dz,) = torch.autograd.grad(S.sin().sum(), z)
    for i in range(B):
        alone, alone_trace = refine(S0[i : i + 1], z[i : i + 1], H_agg, **options)
        (alone_dz,) = torch.autograd.grad(alone.sin().sum(), z)
        assert_all_close([alone[0], alone_dz[i]], [S[i], dz[i]])
        assert_all_close([t[:, 0] for t in alone_trace], [t[:, i] for t in trace])


# modes of torch


@pytest.mark.parametrize("grad", MODES)
@pytest.mark.parametrize("context", (torch.no_grad, torch.inference_mode))
@pytest.mark.parametrize("steps", (0, 4))
def test_without_gradients_the_steps_still_happen(context, grad, steps):
    S0, z, H_agg = problem()
    expected, expected_trace = refine(S0, z, H_agg, steps=steps, inner_lr=0.3, grad=grad)
    with context():
        made_inside = S0.clone(), z * 1
        results = [refine(*given, H_agg, steps=steps, inner_lr=0.3, grad=grad) for given in ((S0, z), made_inside)]
    for S, trace in results:
        assert not any(t.requires_grad for t in (S, *trace))
        assert_all_close([S, *trace], [expected, *expected_trace], 0)
        assert steps == 0 or not torch.equal(S, S0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("grad", MODES)
def test_training_and_eval_agree_and_keep_the_dtype(grad, dtype):
    S0, z, H_agg = problem()
    S0, z = S0.detach().to(dtype), z.detach().to(dtype)
    srn = SetRefiner(H_agg.to(dtype), steps=4, inner_lr=0.3, grad=grad)
    trained, trace = srn.train()(S0, z)
    evaluated, _ = srn.eval()(S0, z)
    assert torch.equal(trained, evaluated)
    assert {t.dtype for t in (trained, *trace)} == {dtype}
    trained.sum().backward()  # S0 and z need no gradient for the encoder to learn
    assert all(p.grad is not None for p in H_agg.parameters() if p is not H_agg.mlp[-1].bias)


def test_frozen_encoder_still_refines():
    S0, z, H_agg = problem()
    S, _ = refine(S0.detach(), z.detach(), H_agg.requires_grad_(False), steps=4, inner_lr=0.3)
    assert not torch.equal(S, S0)


# settings


def test_detach_init_cuts_the_gradient_into_the_proposal_only():
    S0, z, H_agg = problem()
    through, _ = refine(S0, z, H_agg, steps=4, inner_lr=0.3)
    cut, _ = refine(S0, z, H_agg, steps=4, inner_lr=0.3, detach_init=True)
    assert torch.equal(through, cut)
    (dS0, *rest), (none, *rest_cut) = (gradients(S, S0, z, *H_agg.parameters()) for S in (through, cut))
    assert none is None and bool(dS0.any())
    assert_all_close(rest_cut, rest, 0)


@pytest.mark.parametrize("momentum", (0.0, 0.5))
def test_trace_tells_what_happened(momentum):
    S0, z, H_agg = problem()
    options = dict(inner_lr=0.3, momentum=momentum)
    S, trace = refine(S0, z, H_agg, steps=5, **options)
    path = [refine(S0, z, H_agg, steps=i, **options)[0] for i in range(6)]
    assert trace.inner_loss.shape == (6, B) and trace.step_norm.shape == (5, B)
    assert not trace.inner_loss.requires_grad and not trace.step_norm.requires_grad
    assert_all_close(trace.inner_loss, [inner_loss(S_i, z, H_agg) for S_i in path])
    moved = [(b - a).pow(2).sum(dim=(1, 2)).sqrt() for a, b in zip(path, path[1:], strict=False)]
    assert_all_close(trace.step_norm, moved)
    assert torch.equal(path[-1], S) and bool((trace.inner_loss[-1] < trace.inner_loss[0]).all())


@pytest.mark.parametrize("grad", MODES)
def test_no_steps_return_the_proposal(grad):
    S0, z, H_agg = problem()
    S, trace = refine(S0, z, H_agg, steps=0, inner_lr=0.3, grad=grad)
    assert torch.equal(S, S0) and trace.step_norm.shape == (0, B)
    assert_all_close(trace.inner_loss, [inner_loss(S0, z, H_agg)])
    assert_all_close(gradients(S, S0), gradients(S0, S0), 0)
    detached, _ = refine(S0, z, H_agg, steps=0, inner_lr=0.3, grad=grad, detach_init=True)
    assert not detached.requires_grad


# the modules


def test_set_refiner_is_refine_around_its_encoder():
    S0, z, H_agg = problem()
    options = dict(steps=3, inner_lr=0.3, momentum=0.5, grad="truncate:2", detach_init=True)
    srn = SetRefiner(H_agg, **options)
    assert [name for name, _ in srn.named_parameters()] == [f"H_agg.{name}" for name, _ in H_agg.named_parameters()]
    assert srn.settings() == options and "truncate:2" in repr(srn)
    got, expected = srn(S0, z), refine(S0, z, H_agg, **options)
    assert_all_close([got[0], *got[1]], [expected[0], *expected[1]], 0)
    srn.steps = 0  # as the paper's evaluation without steps
    assert torch.equal(srn(S0, z)[0], S0)
    assert not list(SetRefiner(lambda S: S.sum(1), steps=1, inner_lr=0.1).parameters())


def graph_problem(seed=0, K=3):
    torch.manual_seed(seed)
    H_agg = GraphEncoder(D, K, E, hidden=8, pieces=3).double()
    shapes = ((B, N, D), (B, N, N, K), (B, E))
    return *(torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes), H_agg


def test_graph_refiner_equals_a_loop_over_the_flattened_graph():
    nodes0, edges0, z, H_agg = graph_problem()
    nodes, edges, trace = GraphRefiner(H_agg, steps=4, inner_lr=0.3, momentum=0.5)(nodes0, edges0, z)

    def encode(flat):
        return H_agg(flat[:, : N * D].unflatten(1, (N, D)), flat[:, N * D :].unflatten(1, (N, N, -1)))

    def flatten(nodes, edges):
        return torch.cat([nodes.flatten(1), edges.flatten(1)], dim=1)

    flat = flatten(nodes0, edges0)
    v = torch.zeros_like(flat)
    for i in range(4):
        assert_all_close([trace.inner_loss[i]], [inner_loss(flat, z, encode)])
        v = 0.5 * v + torch.autograd.grad(inner_loss(flat, z, encode).sum(), flat, create_graph=True)[0]
        flat = flat - 0.3 * v
        assert_all_close([trace.step_norm[i]], [0.3 * v.norm(dim=1)])
    got = flatten(nodes, edges)
    wanted = (nodes0, edges0, z, *H_agg.parameters())
    assert_all_close([got, *gradients(got, *wanted)], [flat, *gradients(flat, *wanted)])


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(N)), st.integers(0, 2**31), st.sampled_from(MODES))
def test_graph_refiner_is_equivariant_to_the_order_of_nodes(order, seed, grad):
    nodes0, edges0, z, H_agg = graph_problem(seed)
    grn = GraphRefiner(H_agg, steps=3, inner_lr=0.3, momentum=0.5, grad=grad)
    nodes, edges, trace = grn(nodes0, edges0, z)
    got = grn(nodes0[:, order], edges0[:, order][:, :, order], z)
    assert_all_close([*got[:2], *got[2]], [nodes[:, order], edges[:, order][:, :, order], *trace])


def test_graph_refiner_without_gradients():
    nodes0, edges0, z, H_agg = graph_problem()
    grn = GraphRefiner(H_agg, steps=3, inner_lr=0.3, grad="implicit")
    nodes, edges, _ = grn(nodes0, edges0, z)
    with torch.inference_mode():
        still, still_edges, _ = grn(nodes0, edges0, z)
    assert nodes.requires_grad and edges.requires_grad and not still.requires_grad and not still_edges.requires_grad
    assert_all_close([still, still_edges], [nodes, edges], 0)


# bad input


def good(**changes):
    S0, z, H_agg = problem()
    given = dict(S0=S0.detach(), z=z.detach(), H_agg=H_agg, steps=2, inner_lr=0.1) | changes
    return given.pop("S0"), given.pop("z"), given.pop("H_agg"), given


S_OK, Z_OK = torch.zeros(B, N, D, dtype=torch.float64), torch.zeros(B, E, dtype=torch.float64)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"S0": S_OK[0]}, ValueError, r"S0 must be \[B, N, D\], got \[4, 2\]"),
        ({"S0": S_OK[:, :0]}, ValueError, "at least one example, element"),
        ({"S0": S_OK[:0], "z": Z_OK[:0]}, ValueError, "zero size"),
        ({"S0": S_OK.long()}, TypeError, "S0 must be a floating-point tensor .* got torch.int64"),
        ({"S0": S_OK.numpy()}, TypeError, "got ndarray"),
        ({"S0": S_OK / 0}, ValueError, "NaN or infinity"),
        ({"S0": S_OK + float("inf")}, ValueError, "NaN or infinity"),
        ({"S0": S_OK.float()}, ValueError, "torch.float32 on cpu, torch.float64 on cpu"),
        ({"S0": S_OK.to("meta")}, ValueError, "on meta, torch.float64 on cpu"),
        ({"z": Z_OK.to("meta")}, ValueError, "on cpu, torch.float64 on meta"),
        ({"z": Z_OK[:2]}, ValueError, r"z must be \[B, E\] with B = 3 .* got \[2, 5\]"),
        ({"z": Z_OK[0]}, ValueError, r"z must be \[B, E\]"),
        ({"z": Z_OK[:, :0]}, ValueError, r"z must be \[B, E\]"),
        ({"z": Z_OK.long()}, TypeError, "z must be a floating-point"),
        ({"z": [1.0]}, TypeError, "got list"),
        ({"z": Z_OK * float("nan")}, ValueError, "NaN or infinity"),
        ({"z": Z_OK[:, :4]}, ValueError, r"H_agg returned \[3, 5\] but z is \[3, 4\]"),
        ({"H_agg": None}, TypeError, "H_agg must be a module or a function .* got NoneType"),
        ({"H_agg": lambda S: S}, ValueError, r"H_agg returned \[3, 4, 2\]"),
        ({"H_agg": lambda S: (S, S)}, ValueError, "H_agg returned tuple"),
        ({"H_agg": lambda S: Z_OK}, ValueError, "does not depend"),
        ({"H_agg": lambda S: Z_OK + S.detach().sum()}, ValueError, "does not depend"),
        ({"H_agg": lambda S: Z_OK.clone().requires_grad_()}, ValueError, "does not depend"),
        ({"H_agg": lambda S: Z_OK, "z": Z_OK.clone().requires_grad_()}, ValueError, "does not depend"),
        ({"steps": -1}, ValueError, "steps must be a whole number >= 0, got -1"),
        ({"steps": 2.0}, ValueError, "steps must be"),
        ({"steps": True}, ValueError, "steps must be"),
        ({"steps": np.True_}, ValueError, "steps must be"),
        *(
            ({"inner_lr": rate}, ValueError, f"inner_lr must be positive and finite, got {rate!r}")
            for rate in (0, -0.1, float("nan"), float("inf"), "0.1", None, True)
        ),
        ({"inner_lr": torch.tensor([0.1])}, ValueError, "inner_lr must be"),
        ({"inner_lr": torch.tensor([0.1, 0.2])}, ValueError, "inner_lr must be"),
        ({"momentum": torch.tensor([0.1, 0.2])}, ValueError, "momentum must be"),
        ({"momentum": False}, ValueError, "momentum must be"),
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
        ({"momentum": None}, ValueError, r"momentum must be in \[0, 1\), got None"),
        ({"momentum": -0.1}, ValueError, "momentum must be"),
        *(
            ({"grad": grad}, ValueError, "grad must be 'unroll', 'truncate:k', 'implicit' or")
            for grad in ("exact", "", None, "unroll:", "unroll:2", "truncate", "truncate:0", "implicit:", "implicit:-1")
        ),
    ],
)
@pytest.mark.parametrize("mode", ("unroll", "implicit"))
def test_bad_input_is_refused(changes, error, message, mode):
    S0, z, H_agg, options = good(**{"grad": mode, **changes})
    with pytest.raises(error, match=message):
        refine(S0, z, H_agg, **options)


@pytest.mark.parametrize("steps", (0, 2))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("there", (torch.float32, torch.bfloat16, "meta"))
def test_an_encoder_elsewhere_than_its_set_is_named(there, mode, steps):
    S0, z, H_agg, options = good(grad=mode)
    own = r"mlp\.0\.weight torch\.\w+ on " + ("meta" if there == "meta" else "cpu")
    with pytest.raises(ValueError, match=rf"the set is torch.float64 on cpu, H_agg's {own}: use H_agg.to\(S0\)"):
        refine(S0, z, H_agg.to(there), **options | {"steps": steps})


def test_an_encoder_on_a_cpu_is_named_where_its_set_is_on_meta():
    S0, z, H_agg, options = good()
    with pytest.raises(ValueError, match=r"the set is torch.float64 on meta, H_agg's .* on cpu: use H_agg.to\(S0\)"):
        refine(S0.to("meta"), z.to("meta"), H_agg, **options)
    assert refine(S0.to("meta"), z.to("meta"), H_agg.to("meta"), **options)[0].shape == S0.shape


@pytest.mark.parametrize("mode", MODES)
def test_a_result_wants_a_gradient_only_where_something_learns(mode):
    S0, z, H_agg = problem()
    with torch.no_grad():
        expected, _ = refine(S0, z, H_agg, steps=3, inner_lr=0.1)
    fixed = S0.detach(), z.detach()
    for p in H_agg.parameters():
        p.requires_grad_(False)
    S, _ = refine(*fixed, H_agg, steps=3, inner_lr=0.1, grad=mode)
    assert not S.requires_grad and torch.equal(S, expected)
    assert not fixed[0].requires_grad and not fixed[1].requires_grad
    bias = torch.zeros(E, dtype=torch.float64, requires_grad=True)  # that no module knows of
    S, _ = refine(*fixed, lambda S: H_agg(S) + bias, steps=3, inner_lr=0.1, grad=mode)
    assert (gradients(S, bias)[0] != 0).all()
    assert refine(fixed[0], z, H_agg, steps=3, inner_lr=0.1, grad=mode)[0].requires_grad
    if mode == "unroll":
        rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        assert gradients(refine(*fixed, H_agg, steps=3, inner_lr=rate)[0], rate)[0] != 0


@pytest.mark.parametrize("context", (torch.enable_grad, torch.no_grad, torch.inference_mode))
def test_an_encoder_made_in_inference_mode_is_named(context):
    with torch.inference_mode():
        _, _, H_agg, options = good()
    S0, z, *_ = good()
    with context(), pytest.raises(ValueError, match=r"H_agg was made in torch.inference_mode\(\): make it outside"):
        refine(S0, z, H_agg, **options)


def test_other_errors_of_an_encoder_stay_as_they_are():
    S0, z, _, options = good()
    for H_agg in (nn.Linear(7, E).double(), lambda S: S @ S):
        with pytest.raises(RuntimeError, match="shape|size"):
            refine(S0, z, H_agg, **options)


def test_whole_numbers_of_numpy_are_steps():
    S0, z, H_agg, options = good()
    S, _ = refine(S0, z, H_agg, **options)
    again, trace = SetRefiner(H_agg, **options | {"steps": np.int64(2), "inner_lr": np.float64(0.1)})(S0, z)
    assert torch.equal(again, S) and trace.step_norm.shape == (2, B)


@pytest.mark.parametrize("wrong", ({"H_agg": None}, {"steps": -1}, {"inner_lr": 0}, {"momentum": 1}, {"grad": "exact"}))
def test_modules_refuse_bad_settings_when_built(wrong):
    with pytest.raises((TypeError, ValueError), match=f"{next(iter(wrong))} must be"):
        SetRefiner(**{"H_agg": nn.Identity(), "steps": 1, "inner_lr": 0.1, **wrong})


@pytest.mark.parametrize("edges", (None, torch.zeros(B, N, N), torch.zeros(B, N, 2, 3), torch.zeros(1, N, N, 3)))
def test_graph_refiner_refuses_edges_that_do_not_fit(edges):
    nodes0, _, z, H_agg = graph_problem()
    with pytest.raises(ValueError, match=r"edges0 must be \[B, N, N, K\] = \[3, 4, 4, K\] to fit nodes0"):
        GraphRefiner(H_agg, steps=1, inner_lr=0.1)(nodes0, edges, z)


def test_graph_refiner_names_its_nodes():
    _, edges0, z, H_agg = graph_problem()
    with pytest.raises(ValueError, match=r"nodes0 must be \[B, N, D\]"):
        GraphRefiner(H_agg, steps=1, inner_lr=0.1)(edges0, edges0, z)


def test_a_rate_can_be_learned_and_the_trace_keeps_no_graph():
    S0, z, H_agg, options = good(inner_lr=torch.nn.Parameter(torch.tensor(0.05, dtype=torch.float64)))
    S, trace = refine(S0, z, H_agg, **options)
    assert not trace.step_norm.requires_grad and not trace.inner_loss.requires_grad
    (slope,) = torch.autograd.grad(S.square().sum(), options["inner_lr"])
    near = [refine(S0, z, H_agg, **options | {"inner_lr": 0.05 + d})[0].square().sum() for d in (-1e-6, 1e-6)]
    torch.testing.assert_close(slope, (near[1] - near[0]) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grad", MODES)
def test_graph_refiner_has_the_gradients_of_the_flattened_graph(grad):
    nodes0, edges0, z, H_agg = graph_problem()
    (n, d), k = nodes0.shape[1:], edges0.shape[3]
    options = dict(steps=4, inner_lr=0.3, momentum=0.5, grad=grad)

    def flatten(nodes, edges):
        return torch.cat([nodes.flatten(1), edges.flatten(1)], dim=1).unsqueeze(1)  # a set of one element

    def encode(S):
        nodes, edges = S[:, 0].split([n * d, n * n * k], dim=1)
        return H_agg(nodes.unflatten(1, (n, d)), edges.unflatten(1, (n, n, k)))

    nodes, edges, _ = GraphRefiner(H_agg, **options)(nodes0, edges0, z)
    oracle, _ = refine(flatten(nodes0, edges0), z, encode, **options)
    got, wanted = flatten(nodes, edges), (z, *H_agg.parameters())
    assert_all_close([got, *gradients(got, *wanted)], [oracle, *gradients(oracle, *wanted)])


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda edges: edges / 0, "NaN or infinity"),
        (lambda edges: edges.float(), "set and z differ"),
        (lambda edges: edges.to("meta"), "set and z differ"),
    ],
)
def test_graph_refiner_checks_its_edges_as_its_nodes(change, says):
    nodes0, edges0, z, H_agg = graph_problem()
    with pytest.raises(ValueError, match=says):
        GraphRefiner(H_agg, steps=1, inner_lr=0.1)(nodes0, change(edges0.detach()), z)


def test_implicit_takes_as_many_terms_as_steps():
    S0, z, H_agg = problem()
    found = {}
    for grad in ("implicit", "implicit:3", "implicit:6"):
        S, _ = refine(S0, z, H_agg, steps=3, inner_lr=0.3, momentum=0.5, grad=grad)
        found[grad] = gradients(S, z, *H_agg.parameters())
    assert_all_close(found["implicit"], found["implicit:3"], 0)
    assert not torch.allclose(found["implicit"][0], found["implicit:6"][0])


def test_a_momentum_alone_can_be_learned():
    S0, z, H_agg = problem()
    H_agg.requires_grad_(False)
    momentum = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    S, _ = refine(S0.detach(), z.detach(), H_agg, steps=3, inner_lr=0.3, momentum=momentum)
    assert gradients(S, momentum)[0] != 0
