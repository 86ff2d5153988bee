"""The Sort-of-CLEVR generator, its answers and its rotations against a plain reading of the paper's appendix D."""

import hashlib
from math import cos, dist, floor, pi, sin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srnlib.data import sort_of_clevr as module
from srnlib.data import sort_of_clevr_robust as robust
from srnlib.data.sort_of_clevr import ANSWERS, CIRCLE, COLOURS, PALETTE, RECTANGLE, answers, generate, questions, render

ROW = np.array([[[10, 10], [25, 10], [37, 37], [38, 38], [60, 10], [10, 60]]])  # a scene by hand
TURNING = np.array([[[37, 37], [47, 37], [37, 22], [20, 11], [59, 59], [37, 69]]])  # the last touches the frame
MIXED = np.array([[0, 1, 0, 1, 1, 1]])


def plain_answer(question: str, centers: list, shapes: list) -> set[str]:
    """The answers that the words of a question admit: several if objects are equally close or far."""
    (me,) = (i for i, colour in enumerate(COLOURS) if colour in question.split())
    others = [i for i in range(6) if i != me]
    name = {0: "rectangle", 1: "circle"}
    squared = {i: sum((a - b) ** 2 for a, b in zip(centers[i], centers[me], strict=True)) for i in others}
    if "left half" in question:
        return {"yes" if centers[me][0] < 37.5 else "no"}
    if "top half" in question:
        return {"yes" if centers[me][1] < 37.5 else "no"}
    if "closest" in question:
        return {name[shapes[i]] for i in others if squared[i] == min(squared.values())}
    if "furthest" in question:
        return {name[shapes[i]] for i in others if squared[i] == max(squared.values())}
    if "How many" in question:
        return {str(sum(shape == shapes[me] for shape in shapes))}
    return {name[shapes[me]]}


POINT = st.tuples(st.integers(5, 69), st.integers(5, 69))
SCENE = st.tuples(st.lists(POINT, min_size=6, max_size=6), st.lists(st.integers(0, 1), min_size=6, max_size=6))


@settings(max_examples=60, deadline=None)
@given(st.lists(SCENE, min_size=1, max_size=4))
def test_answers_are_those_of_a_plain_reading(drawn):
    centers, shapes = np.array([c for c, _ in drawn]), np.array([s for _, s in drawn])
    given_ = answers(centers, shapes)
    assert given_.shape == (len(drawn), 36) and given_.dtype == np.int64
    for row, scene in zip(given_, drawn, strict=True):
        for answer, question in zip(row, questions()[1], strict=True):
            assert ANSWERS[answer] in plain_answer(question, *scene)


def test_generated_questions_have_one_answer():
    _, centers, shapes = generate(40, 3)
    for row, *scene in zip(answers(centers, shapes), centers.tolist(), shapes.tolist(), strict=True):
        assert [{ANSWERS[a]} for a in row] == [plain_answer(question, *scene) for question in questions()[1]]


def test_answers_by_hand():
    said = dict(zip(questions()[1], (ANSWERS[a] for a in answers(ROW, MIXED)[0]), strict=True))
    assert said["What is the shape of the red object?"] == "rectangle"
    assert said["Is the blue object in the left half?"] == said["Is the blue object in the top half?"] == "yes"
    assert said["Is the orange object in the left half?"] == said["Is the orange object in the top half?"] == "no"
    assert said["What is the shape of the object closest to the orange object?"] == "rectangle"  # blue
    assert said["What is the shape of the object furthest from the yellow object?"] == "circle"  # grey
    assert said["How many objects have the shape of the blue object?"] == "2"
    tie = ROW.copy()
    tie[0, :3] = [[30, 30], [20, 30], [40, 30]]  # blue, a rectangle, is as close to red as green, a circle
    tie[0, 3:] = [[60, 60], [60, 10], [10, 60]]
    said = answers(tie, MIXED)[0, questions()[1].index("What is the shape of the object closest to the red object?")]
    assert ANSWERS[said] == "circle"


def test_questions_are_encoded_as_in_appendix_d():
    vectors, names = questions()
    assert vectors.shape == (36, 11) and vectors.dtype == np.uint8 and len(set(names)) == 36
    assert len(np.unique(vectors, axis=0)) == 36
    for bits in (vectors[:, :6], vectors[:, 6:8], vectors[:, 8:]):
        assert (bits.sum(axis=1) == 1).all()
    words = (("shape of the {} object",), ("left",), ("top",)), (("closest",), ("furthest",), ("How many",))
    for vector, name in zip(vectors, names, strict=True):
        colour, relational, subtype = vector[:6].argmax(), vector[6:8].argmax(), vector[8:].argmax()
        assert COLOURS[colour] in name.split()
        assert words[relational][subtype][0].format(COLOURS[colour]) in name


@pytest.mark.parametrize("margin", [5, 15, 20])
def test_scenes_keep_the_rules(margin):
    images, centers, shapes = generate(150, 5, margin=margin)
    assert images.shape == (150, 3, 75, 75) and images.dtype == np.uint8
    assert centers.shape == (150, 6, 2) and shapes.shape == (150, 6) and set(shapes.flat) == {RECTANGLE, CIRCLE}
    assert centers.min() == margin and centers.max() == 74 - margin
    for scene in centers.tolist():
        for i, a in enumerate(scene):
            far = sorted(dist(a, b) for j, b in enumerate(scene) if j != i)
            assert far[0] >= 10 and far[0] < far[1] and far[3] < far[4]


def test_places_and_shapes_are_evens():
    centers, shapes = module.scenes(5000, 6)
    assert np.abs(shapes.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(5000)
    assert np.abs(centers.mean(axis=0) - 37).max() < 5 * 19.5 / np.sqrt(5000)


def test_pictures_by_hand():
    image = render(ROW, MIXED)[0].transpose(1, 2, 0)
    assert (image[5:16, 5:16] == PALETTE[0]).all() and (image[5:16, 16:20] == 255).all()  # red: 11 x 11, then white
    green = (image[5:16, 20:31] == PALETTE[1]).all(axis=2)
    assert green.sum(axis=1).tolist() == [5, 7, 9, 11, 11, 11, 11, 11, 9, 7, 5] and np.array_equal(green, green.T)
    assert (image[38, 38] == PALETTE[3]).all() and (image[32, 32] == PALETTE[2]).all()  # orange is before blue
    assert (image != 255).any(axis=2).sum() == 121 + 3 * 97 + len(
        {(x, y) for x in range(32, 43) for y in range(32, 43)}
        | {(x, y) for x in range(33, 44) for y in range(33, 44) if (x - 38) ** 2 + (y - 38) ** 2 <= 30.25}
    )


def test_clutter_lies_behind_the_same_shapes():
    plain, centers, shapes = generate(60, 9)
    images, *same = generate(60, 9, clutter=True)
    assert np.array_equal(centers, same[0]) and np.array_equal(shapes, same[1])
    assert np.array_equal(render(centers, shapes, list(module.backgrounds(60, 9))), images)
    on_black = render(centers, shapes, np.zeros_like(plain))
    drawn = np.broadcast_to((plain == on_black).all(axis=1, keepdims=True), plain.shape)  # pixels of shapes
    assert np.array_equal(images[drawn], plain[drawn])
    assert np.array_equal(np.where(drawn, 0, images), np.where(drawn, 0, module.backgrounds(60, 9)))
    assert np.array_equal(generate(True, 9, clutter=True)[0], images[:1])  # True is the integer 1
    colours = module.backgrounds(60, 9).transpose(0, 2, 3, 1) @ np.array([1, 256, 256**2])
    assert {len(np.unique(image)) for image in colours} <= {2, 3, 4, 5, 6}  # white, and rectangles not wholly hidden


def test_same_bytes_everywhere():
    parts = [
        *generate(64, 7, clutter=True),
        robust.easy(4, 7)[0],
        *robust.synthetic(20, 7),
        robust.rotations(TURNING),
    ]
    digest = hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()
    assert digest == "c256459a40fe810563d3fe526efa30f49717ef4e0a8fb956bdf9af955d70668d"
    assert not np.array_equal(parts[1], generate(64, 8)[1])


@pytest.mark.parametrize("shorter", [0, 1, 31, 150])
def test_a_longer_data_set_begins_with_the_shorter(shorter, monkeypatch):
    longer = *generate(200, 11, clutter=True), *robust.synthetic(200, 11)
    monkeypatch.setattr(module, "BLOCK", 50)
    for long, short in zip(longer, (*generate(shorter, 11, clutter=True), *robust.synthetic(shorter, 11)), strict=True):
        assert np.array_equal(long[:shorter], short)


def test_easy_scenes_are_easy_at_every_angle():
    centers, shapes = robust.easy(12, 1)
    assert np.array_equal(centers[:3], robust.easy(3, 1)[0])
    assert centers.min() >= 15 and centers.max() <= 59 and module.legal(centers).all()
    for red, *others in centers.tolist():
        far = sorted(dist(red, other) for other in others)
        assert far[4] >= 2 * far[3]
    _check_turns(centers, shapes)


def test_synthetic_scene_is_one_scene_at_different_places():
    centers, shapes = robust.synthetic(200, 2)
    assert (
        len(np.unique(centers[:, 0], axis=0)) == 200 and robust.is_easy(centers).all() and module.legal(centers).all()
    )
    assert (centers - centers[:, :1] == robust.CONFIGURATION).all()
    assert (shapes[:, :5] == shapes[0, :5]).all() and 60 < shapes[:, 5].sum() < 140
    turned = _check_turns(centers[:20], shapes[:20])
    assert module.distances(turned)[:, ~np.eye(6, dtype=bool)].min() >= 100


def _check_turns(centers, shapes):
    """Shape, count and furthest-from-red questions keep their answers at all 720 angles; gives all scenes."""
    turned = robust.rotations(centers)
    assert turned.shape == (len(centers), 720, 6, 2) and turned.min() >= 5 and turned.max() < 70
    every = turned.reshape(-1, 6, 2)
    found = answers(every, shapes.repeat(720, axis=0)).reshape(len(centers), 720, 36)
    names = questions()[1]
    keep = [
        i
        for i, name in enumerate(names)
        if "How many" in name
        or name.startswith("What is the shape of the ")
        and not ("closest" in name or "furthest" in name)
    ]
    keep.append(names.index("What is the shape of the object furthest from the red object?"))
    assert len(keep) == 13 and (found[..., keep] == answers(centers, shapes)[:, None, keep]).all()
    assert (
        module.distances(every)[:, 0].argmax(axis=1) == module.distances(centers)[:, 0].argmax(axis=1).repeat(720)
    ).all()
    return every


def test_rotation_rounds_to_the_nearest_pixel():
    (scene,), (turned,) = TURNING, robust.rotations(TURNING)
    assert np.array_equal(turned[0], scene) and turned.min() == 5 and turned.max() == 69
    assert np.array_equal(turned[180], np.stack([74 - scene[:, 1], scene[:, 0]], axis=1))  # clockwise on the screen
    for k in range(0, 720, 7):
        for (x, y), new in zip(scene.tolist(), turned[k].tolist(), strict=True):
            angle = k * pi / 360
            exact = (x - 37) * cos(angle) - (y - 37) * sin(angle), (x - 37) * sin(angle) + (y - 37) * cos(angle)
            assert all(
                floor(37 + e + 0.5 - 1e-4) <= c <= floor(37 + e + 0.5 + 1e-4) for e, c in zip(exact, new, strict=True)
            )


def test_no_sine_is_near_a_half():
    """So sines that are off by 1e-9 round to the same table on every machine."""
    angle = np.arange(720) * np.pi / 360
    for exact in (robust.ONE * np.cos(angle), robust.ONE * np.sin(angle)):
        assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-3


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: generate(-1, 0), ValueError, "n must be at least 0"),
        (lambda: generate(2.0, 0), TypeError, "n must be an integer"),
        (lambda: generate(1, -1), ValueError, "seed must be at least 0"),
        (lambda: generate(1, None), TypeError, "seed must be an integer"),
        (lambda: generate(1, 0, margin=4), ValueError, "margin must be at least 5"),
        (lambda: generate(1, 0, margin=21), ValueError, r"take 5 \.\. 20"),
        (lambda: module.backgrounds(-1, 0), ValueError, "n must be at least 0"),
        (lambda: robust.easy(-1, 0), ValueError, "n must be at least 0"),
        (lambda: robust.synthetic(10**4, 0), ValueError, "fits at 620 places"),
        (lambda: robust.rotations(ROW[0]), ValueError, r"\[n, 6, 2\]"),
        (lambda: robust.rotations(ROW * 1.0), TypeError, "must be integers"),
        (lambda: robust.rotations(np.full((1, 6, 2), 5)), ValueError, "red object of scene 0.*within 32 pixels"),
        (lambda: render(ROW, MIXED, np.zeros((1, 75, 75), np.uint8)), ValueError, "background must be uint8"),
        (lambda: render(ROW, MIXED, [[[0]]]), ValueError, r"background must be uint8 .*, got int64 \[1, 1, 1\]"),
    ],
)
def test_bad_requests_say_what_is_wrong(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_centres_of_few_bits_are_measured_alike(dtype):
    few, wide = generate(20, 3)[1], robust.easy(3, 1)[0]
    assert np.array_equal(module.distances(few.astype(dtype)), module.distances(few))
    assert module.legal(few.astype(dtype)).all() and robust.is_easy(wide.astype(dtype)).all()


@pytest.mark.parametrize("function", [render, answers])
@pytest.mark.parametrize(
    ("centers", "shapes", "error", "says"),
    [
        (ROW * 1.0, MIXED, TypeError, "centers must be integers"),
        (ROW, MIXED == 1, TypeError, "shapes must be integers"),
        (ROW[0], MIXED[0], ValueError, r"centers must be \[n, 6, 2\]"),
        (ROW, MIXED[:, :5], ValueError, r"shapes \[n, 6\]"),
        (ROW - 6, MIXED, ValueError, r"red object of scene 0, \(x, y\) = \[4, 4\]"),
        (ROW + 10, MIXED, ValueError, r"grey object .* 5 \.\. 69"),
        (ROW, MIXED + 1, ValueError, r"a shape must be 0 .*, got \[1, 2\]"),
    ],
)
def test_bad_scenes_say_what_is_wrong(function, centers, shapes, error, says):
    with pytest.raises(error, match=says):
        function(centers, shapes)
