"""The Circles generator against what the paper says of its data, by hand, and by SciPy's connected components."""

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from srnlib.data import circles as module
from srnlib.data.circles import GREEN, RED, generate, masks, render

REQUESTS = st.fixed_dictionaries(
    {
        "n": st.integers(0, 40),
        "seed": st.integers(0, 2**70),
        "size": st.integers(24, 72),
        "max_circles": st.integers(1, 6),
        "max_radius": st.integers(1, 6),
    }
)


@settings(max_examples=40, deadline=None)
@given(REQUESTS)
def test_every_data_set_keeps_the_rules(request):
    size, rows = request["size"], request["max_circles"]
    images, circles, counts = generate(**request)
    assert images.shape == (request["n"], 3, size, size) and images.dtype == np.uint8
    assert circles.shape == (request["n"], rows, 4) and counts.shape == (request["n"],)
    x, y, r, colour = np.moveaxis(circles, 2, 0)
    there = np.arange(rows) < counts[:, None]
    assert (circles[~there] == 0).all() and np.isin(colour[there], (RED, GREEN)).all()
    assert ((r >= 1) & (r <= request["max_radius"]))[there].all()
    assert (np.minimum(x, y) - r >= 0)[there].all() and (np.maximum(x, y) + r < size)[there].all()
    for i in range(rows):
        for j in range(i):
            same = there[:, i] & (colour[:, i] == colour[:, j])
            apart = np.hypot(x[:, i] - x[:, j], y[:, i] - y[:, j]) > r[:, i] + r[:, j] + 1
            assert apart[same].all()

    each = masks(circles, size)
    assert (each.any(axis=(2, 3)) == there).all()
    assert np.array_equal(each.any(axis=1), (images > 0).any(axis=1))
    for plane, name in enumerate((RED, GREEN)):
        of_colour = each & (colour == name)[:, :, None, None]
        assert (of_colour.sum(axis=1) <= 1).all()
        assert np.array_equal(of_colour.any(axis=1) * np.uint8(255), images[:, plane])
    assert (images[:, 2] == 0).all() and np.array_equal(render(circles, size), images)


def test_same_colour_never_touches_in_the_picture():
    images, circles, _ = generate(100, 1)
    for image, rows in zip(images, circles, strict=True):
        for plane in (0, 1):  # SciPy's label joins pixels that share an edge
            assert ndimage.label(image[plane])[1] == (rows[:, 3] == plane + 1).sum()


def test_counts_radii_and_colours_spread_as_documented():
    _, circles, counts = generate(10_000, 2, max_radius=3)
    chosen = circles[circles[..., 3] > 0]
    for values, options in ((counts, 11), (chosen[:, 2] - 1, 3), (chosen[:, 3] - 1, 2)):
        share = np.bincount(values, minlength=options) / len(values)
        assert np.abs(share - 1 / options).max() < 5 * np.sqrt(0.25 / len(values))
    _, circles, _ = generate(10_000, 2, count=1)
    x = circles[circles[:, 0, 2] == 11, 0, 0]  # 42 places for the largest circle, ends included
    assert x.min() == 11 and x.max() == 52 and abs(x.mean() - 31.5) < 5 * 12.2 / np.sqrt(len(x))


@pytest.mark.parametrize("count", [0, 1, 5, 10])
def test_count_is_exact(count):
    _, circles, counts = generate(50, 3, count=count)
    assert (counts == count).all() and ((circles[..., 3] > 0).sum(axis=1) == count).all()


def test_overlap_adds_channels_by_hand():
    image = render(np.array([[[2, 2, 1, RED], [3, 2, 1, GREEN], [0, 0, 0, 0]]]), size=6)[0]
    plus = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8) * 255
    assert (image[0, 1:4, 1:4] == plus).all() and image[0].sum() == 5 * 255
    assert (image[1, 1:4, 2:5] == plus).all() and image[1].sum() == 5 * 255
    assert image[:, 2, 2].tolist() == [255, 255, 0]


def test_same_bytes_everywhere():
    images, circles, counts = generate(64, 7)
    parts = (images, circles.astype("<i8"), counts.astype("<i8"))
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    assert digest == "67b1c61a019805a837c87bd87194c2229565d6309b34f2bed56fd65ff4d774f8"
    assert not np.array_equal(images, generate(64, 8)[0])


@pytest.mark.parametrize("shorter", [0, 1, 31, 33, 150])
def test_a_longer_data_set_begins_with_the_shorter(shorter, monkeypatch):
    longer = generate(200, 11)
    monkeypatch.setattr(module, "BLOCK", 50)
    for long, short in zip(longer, generate(shorter, 11), strict=True):
        assert np.array_equal(long[:shorter], short)


@pytest.mark.parametrize(("count", "options"), [(40, {}), (200, {}), (1000, dict(size=128, max_radius=3))])
def test_more_circles_than_fit_are_refused_in_bounded_time(count, options):
    start = time.process_time()
    with pytest.raises(ValueError, match=f"{count} circles .* do not fit"):
        generate(10_000, 0, count=count, max_circles=count, **options)
    assert time.process_time() - start < 10


def test_an_image_is_given_up_early_only_if_it_stays_far_from_its_count(monkeypatch):
    crowded = [dict(n=2, seed=3, count=520, max_circles=520, size=128, max_radius=3), dict(n=4, seed=4, count=20)]
    crowded = [dict(max_circles=20) | request for request in crowded]  # both fit after many fresh starts
    early = [generate(**request) for request in crowded]
    monkeypatch.setattr(module, "HOPELESS", module.RESTARTS)
    for request, found in zip(crowded, early, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(found, generate(**request), strict=True))


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (dict(n=-1), ValueError, "n must be at least 0"),
        (dict(n=2.0), TypeError, "n must be an integer"),
        (dict(seed=-1), ValueError, "seed must be at least 0"),
        (dict(seed=0.5), TypeError, "seed must be an integer"),
        (dict(seed=None), TypeError, "seed must be an integer"),
        (dict(count=-1), ValueError, "count must be at least 0"),
        (dict(count=11), ValueError, "more than max_circles = 10"),
        (dict(count="3"), TypeError, "count must be an integer"),
        (dict(size=0), ValueError, "size must be at least 1"),
        (dict(size=22), ValueError, "take max_radius <= 10"),
        (dict(max_radius=0), ValueError, "max_radius must be at least 1"),
        (dict(max_radius=32), ValueError, "take max_radius <= 31"),
        (dict(max_circles=0), ValueError, "max_circles must be at least 1"),
    ],
)
def test_bad_requests_say_what_is_wrong(request_, error, says):
    with pytest.raises(error, match=says):
        generate(**(dict(n=1, seed=0) | request_))


@pytest.mark.parametrize("draw", [render, masks])
@pytest.mark.parametrize(
    ("circles", "error", "says"),
    [
        (np.zeros((1, 2, 4)), TypeError, "must be integers"),
        (np.zeros((2, 4), int), ValueError, r"\[n, M, 4\]"),
        (np.array([[[5, 5, 2, 3]]]), ValueError, "colour must be"),
        (np.array([[[1, 5, 2, 1]]]), ValueError, "circle 0 of image 0"),
        (np.array([[[5, 62, 2, 2]]]), ValueError, "not inside"),
        (np.array([[[5, 5, -1, 1]]]), ValueError, "not inside"),
    ],
)
def test_bad_circles_say_what_is_wrong(draw, circles, error, says):
    with pytest.raises(error, match=says):
        draw(circles)


def test_drawing_does_not_depend_on_blocks(monkeypatch):
    images, circles, _ = generate(120, 11)
    each = masks(circles)
    monkeypatch.setattr(module, "BLOCK", 50)
    assert np.array_equal(render(circles), images) and np.array_equal(masks(circles), each)
