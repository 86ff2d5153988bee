"""2D Shapes against a step function written one object at a time, and its pictures against drawings by hand."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srnlib.data.shapes import ACTIONS, COLOURS, generate, render, step

START = np.array([(0, 0), (0, 1), (2, 2), (4, 4), (3, 4)])


def push(places, action):
    """One action on a list of (row, column): the rules in plain words."""
    pushed, direction = action // 4, "NESW"[action % 4]
    row, column = places[pushed]
    row += {"N": -1, "S": 1}.get(direction, 0)
    column += {"E": 1, "W": -1}.get(direction, 0)
    if 0 <= row <= 4 and 0 <= column <= 4 and (row, column) not in places:
        places = [*places[:pushed], (row, column), *places[pushed + 1 :]]
    return places


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 12), st.integers(0, 2**70), st.integers(1, 30))
def test_every_episode_keeps_the_rules(n, seed, steps):
    world = generate(n, seed, steps=steps)
    assert len(world) == n and world.actions.shape == (n, steps) and world.places.shape == (n, steps + 1, 5, 2)
    for places, actions in zip(world.places, world.actions.tolist(), strict=True):
        now = [tuple(place) for place in places[0].tolist()]
        assert len(set(now)) == 5
        for action, then in zip(actions, places[1:].tolist(), strict=True):
            now = push(now, action)
            assert now == [tuple(place) for place in then]


def test_all_actions_by_brute_force():
    rng = np.random.default_rng(0)
    many = np.stack([np.stack(np.divmod(rng.permutation(25)[:5], 5), -1) for _ in range(100)])
    actions = np.arange(ACTIONS)
    after = step(np.broadcast_to(many[:, None], (100, ACTIONS, 5, 2)), np.broadcast_to(actions, (100, ACTIONS)))
    for before, row in zip(many.tolist(), after.tolist(), strict=True):
        places = [tuple(place) for place in before]
        assert [push(places, action) for action in actions] == [[tuple(p) for p in places] for places in row]


@pytest.mark.parametrize(
    ("action", "moved", "to"),
    [
        (0, 0, (0, 0)),  # north: off the grid
        (1, 0, (0, 0)),  # east: object 1 is there
        (2, 0, (1, 0)),  # south: free
        (4 * 2 + 3, 2, (2, 1)),  # west: free
        (4 * 3 + 0, 3, (4, 4)),  # north: object 4 is there
        (4 * 4 + 0, 4, (2, 4)),  # north: free
    ],
)
def test_step_by_hand(action, moved, to):
    before, after = START.copy(), step(START, action)
    assert tuple(after[moved]) == to and np.array_equal(before, START)
    assert np.array_equal(np.delete(after, moved, 0), np.delete(START, moved, 0))


def test_starts_and_actions_are_uniform():
    world = generate(4000, 3, steps=1)
    cells = world.places[:, 0, :, 0] * 5 + world.places[:, 0, :, 1]
    for values, options in ((cells[:, 0], 25), (cells[:, 4], 25), (world.actions, ACTIONS)):
        share = np.bincount(values.ravel(), minlength=options) / values.size
        assert np.abs(share - 1 / options).max() < 5 * np.sqrt(1 / options / values.size)


def test_pictures_by_hand():
    image = render(START)
    assert image.shape == (3, 50, 50) and image.dtype == np.uint8
    disc, triangle, square = (
        image[:, 0:10, 0:10].any(0),
        image[:, 0:10, 10:20].any(0),
        image[:, 20:30, 20:30].any(0),
    )
    assert disc.sum(1).tolist() == disc.sum(0).tolist() == [4, 8, 8, 10, 10, 10, 10, 8, 8, 4]
    assert triangle.sum(1).tolist() == [2, 2, 4, 4, 6, 6, 8, 8, 10, 10] and square.all()
    for k, (row, column) in enumerate(START):
        cell = image[:, 10 * row : 10 * row + 10, 10 * column : 10 * column + 10]
        assert np.array_equal(
            cell[:, cell.any(0)], np.repeat(np.array(COLOURS, np.uint8)[k][:, None], cell.any(0).sum(), 1)
        )
        image[:, 10 * row : 10 * row + 10, 10 * column : 10 * column + 10] = 0
    assert not image.any()


def test_observe_draws_the_places():
    world = generate(3, 5, steps=4)
    seen = world.observe([[0], [2]], [0, 4])
    assert seen.shape == (2, 2, 3, 50, 50)
    assert np.array_equal(seen[1, 1], render(world.places[2, 4])) and np.array_equal(
        world.observe(1, 3), render(world.places[1, 3])
    )
    assert world.observe(np.zeros(0, int), 1).shape == (0, 3, 50, 50)


def test_same_bytes_everywhere():
    world = generate(8, 7, steps=12)
    seen = world.observe(np.arange(8)[:, None], np.arange(13))
    digest = hashlib.sha256(
        world.places.astype("<i8").tobytes() + world.actions.astype("<i8").tobytes() + seen.tobytes()
    )
    assert digest.hexdigest() == "d80cefd802680b18b2839ca871f5dbc54d27daedcbe52cb5e9dfc76e068bc6b6"
    assert not np.array_equal(world.places, generate(8, 8, steps=12).places)
    shorter = generate(5, 7, steps=12)
    assert np.array_equal(shorter.places, world.places[:5]) and np.array_equal(shorter.actions, world.actions[:5])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: generate(-1, 0), ValueError, "n must be at least 0"),
        (lambda: generate(1.0, 0), TypeError, "n must be an integer"),
        (lambda: generate(1, -1), ValueError, "seed must be at least 0"),
        (lambda: generate(1, 0, steps=0), ValueError, "steps must be at least 1"),
        (lambda: step(START, 20), ValueError, "actions must be 0 to 19"),
        (lambda: step(START, -1), ValueError, "actions must be 0 to 19"),
        (lambda: step(START, 1.0), TypeError, "actions must be integers"),
        (lambda: step(START, [1, 2]), ValueError, r"need actions \(\), got \(2,\)"),
        (lambda: step(START[:4], 1), ValueError, r"\[\.\.\., 5, 2\]"),
        (lambda: render(START.astype(float)), TypeError, "places must be integers"),
        (lambda: render(START + 1), ValueError, "on the grid, 0 to 4; got 1 to 5"),
        (lambda: render(START - 1), ValueError, "on the grid"),
        (lambda: render(START[[0, 0, 2, 3, 4]]), ValueError, "two objects share a cell"),
        (lambda: render(START[0]), ValueError, r"\[\.\.\., 5, 2\]"),
        (lambda: generate(2, 0, steps=3).observe(2, 0), IndexError, "episode must be from 0 to 1, got 2"),
        (lambda: generate(2, 0, steps=3).observe(0, -1), IndexError, "step must be from 0 to 3, got -1"),
        (lambda: generate(2, 0, steps=3).observe(0, 4), IndexError, "step must be from 0 to 3, got 4"),
        (lambda: generate(2, 0, steps=3).observe(0.0, 1), IndexError, "episode must be integers"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, says):
    with pytest.raises(error, match=says):
        call()
