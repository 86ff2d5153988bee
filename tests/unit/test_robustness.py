"""The robustness metric, on classifiers made by hand."""

import numpy as np
import pytest
import torch

from srnlib.data.sort_of_clevr import PALETTE, answers, render
from srnlib.data.sort_of_clevr_robust import easy, rotations, synthetic
from srnlib.robustness import FURTHEST_FROM_RED, right_when_turned

SCENES = synthetic(3, 0)
ANGLES = rotations(SCENES[0])


def oracle(images):
    """Reads the scene off the image: finds each colour's pixels, and counts them to tell circle from rectangle."""
    found = []
    for image in images.numpy():
        masks = [(image == rgb[:, None, None]).all(axis=0) for rgb in PALETTE]
        places = np.array([np.argwhere(mask).mean(axis=0)[::-1] for mask in masks])
        far = ((places - places[0]) ** 2).sum(axis=1).argmax()
        found.append(2 if masks[far].sum() == 121 else 3)
    return torch.tensor(found)


def test_a_perfect_reader_is_robust():
    right = right_when_turned(oracle, *SCENES, every=24)
    assert right.shape == (3, 30) and right.dtype == torch.bool and right.all()


def test_one_wrong_angle_is_seen_where_it_is():
    wrong_at, scene = 432, 1
    bad = render(ANGLES[scene, [wrong_at]], SCENES[1][[scene]])[0]

    def fails_once(images):
        truth = oracle(images)
        hit = torch.tensor([(image == bad).all() for image in images.numpy()])
        return torch.where(hit, 5 - truth, truth)  # the other shape

    right = right_when_turned(fails_once, *SCENES, every=8)
    same = (ANGLES[scene, ::8] == ANGLES[scene, wrong_at]).all(axis=(1, 2))  # rotations that round to the same image
    assert right[scene].tolist() == (~same).tolist() and same[wrong_at // 8]
    assert right.all(dim=1).tolist() == [True, False, True]


@pytest.mark.parametrize("answer", [2, 3])
def test_a_constant_is_robust_where_it_is_right(answer):
    scenes = easy(4, 1)
    right = right_when_turned(lambda images: torch.full((len(images),), answer), *scenes, every=90)
    expected = answers(*scenes)[:, FURTHEST_FROM_RED] == answer
    assert right.all(dim=1).tolist() == expected.tolist() and right.any(dim=1).tolist() == expected.tolist()


def test_scores_are_read_as_answers_and_blocks_do_not_matter():
    def scores(images):
        return torch.nn.functional.one_hot(oracle(images), 10).float()

    one, other = (right_when_turned(scores, *SCENES, every=120, block=block) for block in (5, 1000))
    assert one.all() and torch.equal(one, other)
    for plain in (torch.Tensor.numpy, torch.Tensor.tolist):
        assert torch.equal(right_when_turned(lambda images, as_=plain: as_(scores(images)), *SCENES, every=120), one)
    assert right_when_turned(scores, *(a[:0] for a in SCENES)).shape == (0, 720)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="every must divide 720"):
        right_when_turned(oracle, *SCENES, every=7)
    for wrong in ({"every": 0}, {"block": 0}, {"block": -5}):
        with pytest.raises(ValueError, match="must be at least 1"):
            right_when_turned(oracle, *SCENES, **wrong)
    with pytest.raises(TypeError, match="every must be an integer"):
        right_when_turned(oracle, *SCENES, every=2.0)
    with pytest.raises(ValueError, match=r"shapes must be \[1, 6\] for 1 scenes"):
        right_when_turned(oracle, SCENES[0][:1], SCENES[1])
    with pytest.raises(ValueError, match="answer gave"):
        right_when_turned(lambda images: torch.zeros(len(images), 2), *SCENES, every=360)
    corner = SCENES[0].copy()
    corner[0, 5] = (5, 5)
    with pytest.raises(ValueError, match="would leave the frame"):
        right_when_turned(oracle, corner, SCENES[1])


def test_images_come_in_blocks():
    seen = []

    def watched(images):
        seen.append(len(images))
        return oracle(images)

    right_when_turned(watched, *SCENES, every=120, block=5)
    assert seen == [5, 5, 5, 3]
