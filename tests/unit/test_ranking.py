"""Ranks against counting by hand and by brute force, with ties between different targets and copies of one target."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend import DEVICE, pretend_device

from srnlib.ranking import Ranks, distinct, ranks, reach, scores


def brute(predicted, targets, true):
    """The four rules in plain words, over one candidate a query; the first reads its distances down the columns."""
    found = []
    for p, own in zip(predicted, true, strict=True):
        distance = [((p - targets[t]) ** 2).sum() for t in true]
        limit = ((p - targets[own]) ** 2).sum()
        among = [((p - targets[u]) ** 2).sum() for u in sorted(set(true))]
        rivals = sum(d <= limit for d in distance) - 1, sum(d <= limit for d in among) - 1
        guesses = [((other - targets[own]) ** 2).sum() for other in predicted]
        lenient, published = (1 + sum(d < limit for d in among) for among in (distance, guesses))
        found.append((published, lenient, 1 + rivals[0], 1 + rivals[1]))
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_against_brute_force(data):
    q, u, d = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    true = np.unique(rng.integers(0, u, q), return_inverse=True)[1]  # every target is somebody's
    predicted, targets = rng.integers(-2, 3, (q, d)), rng.integers(-2, 3, (true.max() + 1, d))  # exact; full of ties
    tensors = (torch.from_numpy(predicted).float(), torch.from_numpy(targets).float(), torch.from_numpy(true))
    found = ranks(*tensors, block=data.draw(st.integers(1, 13)))
    assert list(zip(*(r.tolist() for r in found), strict=True)) == brute(predicted, targets, true.tolist())
    assert all(map(torch.equal, ranks(*(t.numpy() for t in tensors)), found))
    assert (found.lenient <= found.strict).all() and (found.dedup <= found.strict).all()


def test_by_hand():
    """On a line: targets at 0 (true for two queries), 1 and 4."""
    targets, true = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0, 0, 1, 2])
    found = ranks(torch.tensor([[0.1], [0.5], [3.0], [4.0]]), targets, true)
    assert found.published.tolist() == [1, 2, 3, 1]  # 0.1 is nearer to 0 than 0.5; .5 and .1 to 1 than 3
    assert found.lenient.tolist() == [1, 1, 2, 1]
    assert found.strict.tolist() == [2, 3, 2, 1]  # own copy; own copy and a tie; 4 is nearer; alone
    assert found.dedup.tolist() == [1, 2, 2, 1]
    assert scores(found.dedup) == {"h1": 50.0, "mrr": 75.0}


def test_a_constant_encoder_wins_by_the_published_rule_only():
    true = torch.tensor([0, 1, 2, 2, 2])
    found = ranks(torch.ones(5, 4), torch.zeros(3, 4), true)
    assert found == Ranks(*map(pytest.approx, ([1] * 5, [1] * 5, [5] * 5, [3] * 5)))
    assert scores(found.published) == {"h1": 100.0, "mrr": 100.0} and scores(found.strict)["h1"] == 0


def test_a_perfect_model_is_first_among_the_distinct():
    targets, true = torch.randn(4, 6), torch.tensor([3, 0, 0, 1, 2])
    found = ranks(targets[true], targets, true)
    assert found.published.tolist() == found.lenient.tolist() == found.dedup.tolist() == [1] * 5
    assert found.strict.tolist() == [1, 2, 2, 1, 1]


def test_published_is_what_the_program_of_cswm_computes():
    """Its rows are the true next states, its columns the predictions, the diagonal put in front of a stable sort."""
    generator = torch.Generator().manual_seed(3)
    targets, true = torch.randn(6, 4, generator=generator), torch.randint(6, (20,), generator=generator)
    predicted = targets[true] + torch.randn(20, 4, generator=generator)
    distance = torch.cdist(targets[true].double(), predicted.double()).numpy()
    table = np.concatenate([np.diag(distance)[:, None], distance], axis=1)
    expected = [1 + int((np.argsort(row, kind="stable") == 0).argmax()) for row in table]
    found = ranks(predicted, targets, true)
    assert found.published.tolist() == expected and expected != found.lenient.tolist()


def test_reach_is_the_share_of_the_largest_groups():
    """Eight queries: target 0 by ways a, a, b; 1 by a, c; 2 by d, d, d: the largest groups are 2, 1 and 3."""
    true, way = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), torch.tensor([0, 0, 1, 0, 2, 3, 3, 3])
    assert reach(true, way) == 100 * 6 / 8
    targets = torch.tensor([[0.0], [10.0], [20.0]])
    predicted = targets[true] + 0.1 + 0.01 * way[:, None]  # the smaller the way the nearer
    assert scores(ranks(predicted, targets, true).published)["h1"] == reach(true, way)
    tied = targets[true] + 0.1  # it bounds none that predicts the same for other ways
    assert scores(ranks(tied, targets, true).published)["h1"] == 100 > reach(true, way)
    for none in (torch.zeros(0, dtype=torch.long), torch.tensor([-1])):
        with pytest.raises(ValueError, match="true and way must be integers"):
            reach(none, none)


def test_nothing_to_rank():
    empty = ranks(torch.zeros(0, 2), torch.zeros(3, 2), torch.zeros(0, dtype=torch.long))
    assert [r.tolist() for r in empty] == [[], [], [], []]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 20), st.integers(1, 4), st.integers(0, 2**32))
def test_distinct_rows(n, values, seed):
    items = torch.from_numpy(np.random.default_rng(seed).integers(0, values, (n, 2, 1), dtype=np.uint8))
    places, whose = distinct(items)
    assert torch.equal(items[places][whose], items)
    assert len(places) == len({tuple(row.flatten().tolist()) for row in items})
    assert places.tolist() == sorted(places.tolist()) and all(places[w] <= i for i, w in enumerate(whose.tolist()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"predicted": torch.zeros(2, 4)}, r"got \[2, 4\] and \[3, 3\]"),
        ({"targets": torch.zeros(3)}, r"targets \[U, D\]"),
        ({"true": torch.zeros(2)}, "true must be integers"),
        ({"true": torch.tensor([True, False])}, "true must be integers"),
        ({"true": torch.zeros(3, dtype=torch.long)}, r"integers \[2\]"),
        ({"true": torch.tensor([0, 3])}, "true must be 0 to 2, got 0 to 3"),
        ({"true": torch.tensor([-1, 0])}, "got -1 to 0"),
        ({"predicted": torch.full((2, 3), torch.nan)}, "diverged"),
        ({"targets": torch.full((3, 3), torch.inf)}, "diverged"),
        ({"targets": torch.full((3, 3), 1e20)}, "too large for their distances in torch.float32"),
    ],
)
def test_bad_input_says_what_is_wrong(change, says):
    good = {"predicted": torch.zeros(2, 3), "targets": torch.zeros(3, 3), "true": torch.tensor([0, 2])}
    with pytest.raises(ValueError, match=says):
        ranks(**good | change)


def test_a_mean_over_no_query_is_refused():
    none = ranks(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="no query"):
        scores(none.published)


def test_a_gpu_has_all_that_ranks_needs():
    torch.manual_seed(0)
    true = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 0])
    with pretend_device():  # CUDA has no products of integers, MPS no doubles
        rank = ranks(torch.randn(9, 4).to(DEVICE), torch.randn(5, 4).to(DEVICE), true.to(DEVICE), block=4)
    assert len(rank.strict) == 9
