"""Decomposition metrics against hand-made images, scikit-learn and a search over all matchings."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from srnlib import metrics, metrics_iou, ranking, robustness
from srnlib.metrics import decomposed, foreground_ari, matched_iou

SIZE = 16
ALL = (decomposed, matched_iou, foreground_ari)


def disc(x, y, radius=3):
    ys, xs = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


A, B, C, EMPTY = disc(3, 3), disc(12, 3), disc(7, 12), torch.zeros(SIZE, SIZE, dtype=torch.bool)
TOP = torch.arange(SIZE).unsqueeze(1).expand(SIZE, SIZE) < 12  # halves circle C
MASKS = torch.stack([A, B, C, EMPTY])[None]
COUNTS = torch.tensor([3])


def paint(*shapes, value=1.0, channel=0):
    """Elements [1, N, 3, H, W] that show the given pixels in one channel."""
    elements = torch.zeros(1, len(shapes), 3, SIZE, SIZE)
    elements[0, :, channel] = torch.stack(shapes).float() * value
    return elements


def scores(elements, masks=MASKS, counts=COUNTS):
    others = matched_iou(elements, masks), foreground_ari(elements, masks)
    return bool(decomposed(elements, counts)), *map(float, others)


def test_perfect_decomposition_in_any_order_and_colour():
    assert scores(paint(EMPTY, C, A, EMPTY, B, value=0.5, channel=1)) == (True, 1.0, 1.0)


def test_one_circle_split_over_two_elements():
    success, iou, ari = scores(paint(A, B, C & TOP, C & ~TOP))
    half = max((C & TOP).sum(), (C & ~TOP).sum()) / C.sum()
    assert not success
    assert iou == pytest.approx(float(2 + half) / 3)
    assert 0 < ari < 1


def test_two_circles_in_one_element_and_one_split_fools_only_the_count():
    success, iou, ari = scores(paint(A | B, C & TOP, C & ~TOP))
    half = max((C & TOP).sum(), (C & ~TOP).sum()) / C.sum()
    assert success  # three circles, three non-empty elements: the false positive that B.2 names
    assert iou == pytest.approx(float(0.5 + half) / 3)  # A or B gets the union, the other nothing
    assert ari < 0.7


def test_empty_is_all_values_at_most_the_threshold():
    at, above = paint(A, value=0.1), paint(A, value=0.1001)
    assert bool(decomposed(at, torch.tensor([0]))) and bool(decomposed(above, torch.tensor([1])))
    assert not decomposed(above, torch.tensor([0]))
    assert bool(decomposed(above, torch.tensor([0]), threshold=0.2))
    assert float(matched_iou(at, A[None, None])) == 0 and float(matched_iou(above, A[None, None])) == 1
    one_pixel = torch.zeros(1, 2, 3, SIZE, SIZE)
    one_pixel[0, 1, 2, 5, 5] = 0.2  # one value in one channel is enough
    assert bool(decomposed(one_pixel, torch.tensor([1])))


def test_images_without_circles():
    masks = MASKS.new_zeros(2, 4, SIZE, SIZE)
    elements = torch.cat([paint(EMPTY, EMPTY), paint(EMPTY, A)])
    assert matched_iou(elements, masks, torch.tensor([0, 0])).tolist() == [1, 0]
    assert foreground_ari(elements, masks).tolist() == [1, 1]
    assert decomposed(elements, torch.tensor([0, 0])).tolist() == [True, False]


def test_iou_scores_missing_circles_zero_and_ignores_spare_elements():
    assert float(matched_iou(paint(A), MASKS)) == pytest.approx(1 / 3)  # fewer elements than circles
    assert float(matched_iou(paint(EMPTY, EMPTY), MASKS)) == 0
    assert float(matched_iou(paint(A, B, C, disc(8, 7, 1)), MASKS)) == 1


def test_ari_leaves_out_pixels_of_two_circles():
    red, green = disc(6, 8, 4), disc(10, 8, 4)
    elements = torch.stack([paint(red)[0, 0], paint(green, channel=1)[0, 0], paint(red & green, value=0.9)[0, 0]])[None]
    masks = torch.stack([red, green])[None]
    assert bool((red & green).any())
    elements[0, 2, 0][red & green] = 1.0
    elements[0, :2, :, red & green] = 0.5  # the overlap goes to a third element: not counted
    assert float(foreground_ari(elements, masks)) == 1


def test_ari_takes_the_largest_channel_for_brightness():
    elements = paint(A, B, value=0.6)
    elements[0, 1, :2, A] = 0.4  # 0.8 in all, but no channel beats 0.6
    assert float(foreground_ari(elements, MASKS[:, :2])) == 1


def test_ari_of_single_circle_is_trivial_or_zero():
    mask = A[None, None]
    assert float(foreground_ari(paint(A, EMPTY), mask)) == 1
    assert float(foreground_ari(paint(EMPTY, EMPTY), mask)) == 1  # every pixel ties: one group, as documented
    left = torch.arange(SIZE).expand(SIZE, SIZE) < 3
    assert float(foreground_ari(paint(A & left, A & ~left), mask)) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_ari_equals_scikit_learn(seed, n, m, side, batch):
    draw = np.random.default_rng(seed)
    predicted = draw.integers(0, n, (batch, side, side))
    truth = draw.integers(-1, m, (batch, side, side))  # -1: background
    elements = torch.tensor(predicted[:, None] == np.arange(n)[:, None, None])[:, :, None].float() * torch.rand(3, 1, 1)
    masks = torch.tensor(truth[:, None] == np.arange(m)[:, None, None])
    overlap = torch.tensor(draw.random((batch, 1, side, side)) < 0.2) & torch.ones(batch, m, 1, 1, dtype=torch.bool)
    masks = masks | (overlap if m > 1 else torch.zeros_like(overlap))
    kept = (truth >= 0) & ~(overlap[:, 0].numpy() & (m > 1))
    expected = [adjusted_rand_score(t[k], p[k]) for t, p, k in zip(truth, predicted, kept, strict=True)]
    np.testing.assert_allclose(foreground_ari(elements, masks), expected, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_matching_equals_search_over_all(seed, n, m):
    draw = np.random.default_rng(seed)
    elements = draw.random((2, n, 3, 4, 4)) * draw.choice([0.1, 0.2, 1], (2, n, 1, 1, 1))
    masks = draw.random((2, m, 4, 4)) < draw.choice([0, 0.3, 0.7], (2, m, 1, 1))
    got = matched_iou(torch.tensor(elements), torch.tensor(masks), torch.tensor(masks.any((2, 3)).sum(1)))
    for image, circles, score in zip(elements, masks, got, strict=True):
        true = [c for c in circles if c.any()]
        seen = [(e > 0.1).any(axis=0) for e in image] + [np.zeros((4, 4), bool)] * len(true)  # or left over
        best = max(
            sum((s & t).sum() / (s | t).sum() for s, t in zip(choice, true, strict=True))
            for choice in permutations(seen, len(true))
        )
        expected = best / len(true) if true else float(not np.any(seen))
        assert float(score) == pytest.approx(expected, abs=1e-6)


def test_scores_of_a_batch_are_those_of_its_images():
    elements, masks = torch.rand(5, 4, 3, SIZE, SIZE), torch.rand(5, 3, SIZE, SIZE) < 0.3
    for metric, other in ((matched_iou, masks), (foreground_ari, masks), (decomposed, torch.arange(5))):
        alone = torch.cat([metric(elements[i : i + 1], other[i : i + 1]) for i in range(5)])
        assert torch.equal(metric(elements, other), alone)
    assert matched_iou(elements, masks).dtype == foreground_ari(elements, masks).dtype == torch.float32


def call(metric, elements, other):
    return metric(elements, other if other is not None else COUNTS if metric is decomposed else MASKS)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    "elements, error, message",
    [
        (paint(A, B)[0], ValueError, r"elements must be \[B, N, 3, H, W\]"),
        (paint(A, B)[:, :, :1], ValueError, "elements must be"),
        (paint(A, B)[:, :0], ValueError, "zero size"),
        (paint(A, value=255), ValueError, r"0\.\.1, got 0 to 255"),
        (-paint(A), ValueError, "got -1 to"),
        (paint(A, value=float("nan")), ValueError, "NaN"),
        (paint(A).byte(), TypeError, "torch.uint8"),
        (paint(A).numpy(), TypeError, "ndarray"),
    ],
)
def test_bad_elements_are_refused(metric, elements, error, message):
    with pytest.raises(error, match=message):
        call(metric, elements, None)


def test_rounding_just_outside_the_range_is_accepted():
    assert scores(paint(A, B, C) * 1.00001 - 0.00001) == (True, 1.0, 1.0)


@pytest.mark.parametrize("metric", (matched_iou, foreground_ari))
@pytest.mark.parametrize(
    "masks, error, message",
    [
        (MASKS.byte(), TypeError, "masks must be a bool"),
        (MASKS[0], ValueError, r"masks must be \[1, M, 16, 16\]"),
        (MASKS[..., :8], ValueError, "masks must be"),
        (MASKS[:, :0], ValueError, "masks must be"),
        (MASKS.expand(2, -1, -1, -1), ValueError, "masks must be"),
        (MASKS.to("meta"), ValueError, "on meta"),
    ],
)
def test_bad_masks_are_refused(metric, masks, error, message):
    with pytest.raises(error, match=message):
        call(metric, paint(A, B), masks)


@pytest.mark.parametrize(
    "counts, error, message",
    [
        (COUNTS.float(), TypeError, "integer"),
        (COUNTS > 0, TypeError, "torch.bool"),
        ([3], TypeError, "list"),
        (torch.tensor([3, 3]), ValueError, r"\[1\] on cpu"),
        (torch.tensor(3), ValueError, r"\[1\] on cpu"),
        (COUNTS.to("meta"), ValueError, "on meta"),
        (-COUNTS, ValueError, "negative"),
    ],
)
def test_bad_counts_are_refused(counts, error, message):
    with pytest.raises(error, match=message):
        decomposed(paint(A, B), counts)
    with pytest.raises(error, match=message):
        matched_iou(paint(A, B), MASKS, counts)


def test_counts_that_contradict_the_masks_are_refused():
    assert float(matched_iou(paint(A, B, C), MASKS, COUNTS)) == 1
    with pytest.raises(ValueError, match=r"counts \[2\] disagree with the non-empty masks \[3\]"):
        matched_iou(paint(A, B, C), MASKS, COUNTS - 1)


def test_the_other_measures_are_given_from_here():
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__)
    assert metrics.object_iou is metrics_iou.object_iou and metrics.ranks is ranking.ranks
    assert metrics.right_when_turned is robustness.right_when_turned
    with pytest.raises(AttributeError, match="module 'srnlib.metrics' has no attribute 'nothing'"):
        metrics.nothing  # noqa: B018


def test_covered_is_what_is_above_the_threshold():
    faint, mask = paint(A, value=0.15), A[None, None]
    assert float(matched_iou(faint, mask)) == 1 and float(matched_iou(faint, mask, threshold=0.2)) == 0
