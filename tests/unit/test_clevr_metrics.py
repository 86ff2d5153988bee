"""CLEVR's IoUs against OpenCV, loops over pixels, and cases worked out by hand."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from srnlib.data import clevr
from srnlib.data.clevr_boxes import SLOTS, estimated, fill, published
from srnlib.metrics_iou import SMOOTH, best_iou, fill_boxes, object_iou, object_iou_real, overall_iou


def by_opencv(mask):
    """What the released code does to one mask."""
    filled = mask.astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        filled[y : y + h, x : x + w] = 1
    return filled.astype(bool)


@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_filled_boxes_are_those_of_opencv(mask):
    assert (fill_boxes(torch.from_numpy(mask)).numpy() == by_opencv(mask)).all()


def test_filled_boxes_of_rings_corners_and_noise():
    ring = np.zeros((20, 20), bool)
    ring[2:18, 2:18] = True
    ring[4:16, 4:16] = False
    ring[8:12, 8:12] = True  # an island in the hole
    corner = np.zeros((20, 20), bool)
    corner[0, 0] = corner[1, 1] = corner[19, 19] = True  # neighbours across a corner are one part
    random = np.random.default_rng(0)
    masks = np.stack([ring, corner, *(random.random((20, 20, 20)) < np.linspace(0.02, 0.9, 20)[:, None, None])])
    found = fill_boxes(torch.from_numpy(masks)).numpy()
    assert (found == np.stack([by_opencv(mask) for mask in masks])).all()
    assert found[1].sum() == 5


def test_overall_iou_by_loops():
    random = np.random.default_rng(1)
    image = random.random((2, 3, 6, 6)).astype(np.float32) * (random.random((2, 3, 6, 6)) < 0.6)
    true = random.random((2, 3, 6, 6)).astype(np.float32) * (random.random((2, 3, 6, 6)) < 0.6)
    image[0, 0, 0] = [0.0099, 0.01, 0.0101, 0, 1, 0.5]
    true[0, 0, 0] = [1 / 255, 1 / 255, 0, 0, 0.001, 0]
    for b, found in enumerate(overall_iou(torch.from_numpy(image), torch.from_numpy(true)).tolist()):
        both, either, limit = 0, 0, np.float32(0.01)
        for p, t in zip(image[b].flat, true[b].flat, strict=True):
            both += p >= limit and t != 0
            either += p >= limit or t != 0
        assert found == pytest.approx(both / either, abs=1e-6)
    blank = torch.zeros(1, 3, 4, 4)
    assert overall_iou(blank, blank).item() == 1
    faint = torch.full((1, 3, 4, 4), 1 / 255)
    assert overall_iou(faint, faint).item() < 1e-6  # what the docstring warns of
    with pytest.raises(ValueError, match="both must be"):
        overall_iou(blank, blank[:, :2])


def released(elements, boxes):
    """The released code's score of one image, by plain loops."""
    found = [by_opencv((e >= 0.01).any(0)) for e in elements]
    best = []
    for true in boxes:
        ious = [((f & true).sum() + SMOOTH) / ((f | true).sum() + SMOOTH) for f in found]
        best.append(max(ious))
    return np.array(best)


def test_object_ious_by_loops():
    random = np.random.default_rng(2)
    elements = random.random((3, 5, 3, 12, 12)) * (random.random((3, 5, 1, 12, 12)) < 0.08)
    elements[0, 2] = 0
    corners = np.sort(random.integers(0, 13, (3, 4, 2, 2)), axis=2)
    boxes = fill(corners.reshape(3, 4, 4), 12)
    boxes[0, 1:] = False
    boxes[:, 0, 3:6, 3:6] = True
    found = torch.from_numpy(elements).float(), torch.from_numpy(boxes)
    as_published, real = object_iou(*found).tolist(), object_iou_real(*found).tolist()
    for b in range(3):
        best = released(elements[b].astype(np.float32), boxes[b])
        assert as_published[b] == pytest.approx(best.mean(), abs=1e-6)
        assert real[b] == pytest.approx(best[boxes[b].any((1, 2))].mean(), abs=1e-6)


def test_an_empty_prediction_is_paid_for_every_empty_slot():
    scene = [{"objects": list(range(n))} for n in (3, 10)]
    boxes = torch.zeros(2, SLOTS, 16, 16, dtype=torch.bool)
    for i, s in enumerate(scene):
        for k in s["objects"]:
            boxes[i, k, k : k + 3, 2:9] = True
    nothing = torch.zeros(2, 16, 3, 16, 16)
    assert object_iou(nothing, boxes).tolist() == pytest.approx([13 / 16, 6 / 16], abs=1e-6)
    assert object_iou_real(nothing, boxes).tolist() == pytest.approx([0, 0], abs=1e-6)
    exact = torch.zeros(2, 16, 3, 16, 16)
    exact[:, :, 1] = boxes.float()
    assert object_iou(exact, boxes).tolist() == object_iou_real(exact, boxes).tolist() == [1, 1]


def test_bad_input_of_the_ious():
    elements, boxes = torch.zeros(1, 2, 3, 8, 8), torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    for metric in (best_iou, object_iou, object_iou_real):
        for wrong in (boxes[:, :, :4], boxes[0], boxes.expand(2, -1, -1, -1), boxes[:, :0]):
            with pytest.raises(ValueError, match=r"boxes must be \[1, M, 8, 8\], M at least 1, on cpu"):
                metric(elements, wrong)
        with pytest.raises(TypeError, match="boxes must be a bool tensor"):
            metric(elements, boxes.float())
        for wrong in BAD:
            with pytest.raises((TypeError, ValueError), match="elements must"):
                metric(wrong(elements), boxes)
    with pytest.raises(ValueError, match="no object"):
        object_iou_real(elements, boxes)
    image = elements[:, 0]
    for wrong in BAD:
        for name, pair in (("image", (wrong(image), image)), ("foreground", (image, wrong(image)))):
            with pytest.raises((TypeError, ValueError), match=f"({name}|both) must"):
                overall_iou(*pair)
        with pytest.raises((TypeError, ValueError), match="image must"):
            overall_iou(wrong(image), wrong(image))
    with pytest.raises(ValueError, match=r"both must be \[B, 3, H, W\], got \[1, 3, 8, 8\] and \[1, 3, 8, 4\]"):
        overall_iou(image, image[..., :4])
    near = torch.ones(1, 3, 8, 8) + 1e-5  # rounding is accepted
    assert overall_iou(near, near).item() == 1


BAD = (
    lambda t: t + 255,
    lambda t: t - 1,
    lambda t: t * torch.nan,
    lambda t: t.byte(),
    lambda t: t.numpy(),
    lambda t: t[0],
    lambda t: t[..., :2, :, :],  # channels
    lambda t: t[:0],
)


def test_filling_boxes():
    boxes = np.array([[[1, 2, 4, 3], [0, 0, 0, 0]], [[6, 5, 300, 9], [3, 3, 1, 8]]])
    masks = fill(boxes, 8)
    by_hand = np.zeros((2, 2, 8, 8), bool)
    by_hand[0, 0, 2:3, 1:4] = by_hand[1, 0, 5:8, 6:8] = True
    assert (masks == by_hand).all()


def test_estimated_boxes_by_hand():
    # A view along y from the front: right is x, so that nothing turns.
    def thing(shape, x, y, z, column, row):
        return {"shape": shape, "3d_coords": [x, y, z], "pixel_coords": [column, row, 9.0]}

    scene = {"directions": {"right": [1.0, 0.0, 0.0]}, "width": 480, "height": 320}
    scene["objects"] = [
        thing("sphere", 1.0, 1.0, 0.7, 240, 160),
        thing("cube", 1.0, 2.0, 0.5, 120, 80),
        thing("sphere", 0.0, 0.0, 0.7, 10, 160),
        thing("cylinder", 0.0, 0.6, 0.35, 300, 200),
    ]
    sphere = 6.9 * 0.7 * 14 / 2  # 33.81 pixels of 480 x 320 to each side
    cube = 6.9 * 0.5 * 13 / 2 * 1.3 * 10 / 12
    tube = 6.9 * 0.35 * 14.4 / 2
    grown = 0.35 * (6.4 / 10 + 1)
    up = tube * grown / (grown - 0.35 * (6.4 - 0.35) / 10)
    down, side = up * (6.05 + 10) / (6.75 + 10), tube * 11 / 10.6
    want = [
        [(240 - sphere) / 480, (160 - sphere) / 320, (240 + sphere) / 480, (160 + sphere) / 320],
        [(120 - cube) / 480, (80 - cube) / 320, (120 + cube) / 480, (80 + cube) / 320],
        [0, (160 - 6.9 * 0.7 * 7.5) / 320, (10 + 6.9 * 0.7 * 7.5) / 480, (160 + 6.9 * 0.7 * 7.5) / 320],
        [(300 - side) / 480, (200 - down) / 320, (300 + side) / 480, (200 + up) / 320],
    ]
    found = estimated(scene)
    want = (128 * np.array(want)).astype(int)
    want[2, 0] = 256 + int(128 * (10 - 6.9 * 0.7 * 7.5) / 480)  # an end left of the picture wraps around in a byte
    assert found.tolist() == want.tolist()
    masks = published([scene], 128)
    assert masks.shape == (1, SLOTS, 128, 128) and not masks[0, 4:].any() and not masks[0, 2].any()
    assert masks[0, 0].sum() == (want[0, 2] - want[0, 0]) * (want[0, 3] - want[0, 1])
    small = {"directions": scene["directions"]}  # the same in a picture of 320 x 240
    small["objects"] = [
        t | {"pixel_coords": [t["pixel_coords"][0] / 1.5, t["pixel_coords"][1] * 0.75, 9.0]} for t in scene["objects"]
    ]
    assert estimated(small).tolist() == found.tolist()


def test_estimated_boxes_of_large_pictures_are_those_of_small_ones_enlarged():
    scene = clevr.generate(1, 3, size=8).scenes[0]
    small, large = estimated(scene, 128), estimated(scene, 384)
    inside = small < 128
    assert inside.any() and (np.abs(large - 3 * small)[inside] <= 3).all() and (large[~inside] >= 384).all()
    with pytest.raises(ValueError, match="a scene has 17 objects; there are 16 slots"):
        published([scene | {"objects": 17 * scene["objects"][:1]}])


def test_estimated_boxes_of_a_scene_without_coordinates_are_refused():
    with pytest.raises(ValueError, match="has no directions"):
        estimated({"image_index": 0, "objects": []})


def test_estimated_boxes_are_near_the_true_ones():
    data = clevr.generate(8, 3)
    formula, exact = published(data.scenes), fill(data.boxes, 128)
    ious = []
    for b in range(len(data)):
        for k in range(data.counts[b]):
            both, either = (formula[b, k] & exact[b, k]).sum(), (formula[b, k] | exact[b, k]).sum()
            ious.append(both / either)
    assert 0.6 < np.mean(ious) < 0.9  # a perfect predictor is told that it is wrong
