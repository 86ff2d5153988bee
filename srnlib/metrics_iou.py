"""How well a decoded set covers a rendered scene: the paper's two IoUs of CLEVR, and one that cannot be fooled.

The first two do what the paper's released code does, quirks and all (Table 4; appendix C). Torch in, torch out; a score
an image.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import find_objects, label
from torch import Tensor

from srnlib.metrics import check_masks, check_painted

THRESHOLD = 0.01  # darker values count as nothing (appendix C)
SMOOTH = 1e-6  # of the released code: the IoU of two empty masks is 1


def overall_iou(image: Tensor, foreground: Tensor) -> Tensor:
    """IoU of what is painted and what is there, over all pixels and channels of an image (Table 4, overall).

    As published it is asymmetric: a predicted value counts from `THRESHOLD` on, a true one if it is not exactly 0. So a
    true value of 1/255, below the threshold, is missed even by a perfect prediction.

    Args:
        image: Reconstructions `[B, 3, H, W]` in 0..1.
        foreground: True images without background, of the same shape.

    Returns:
        float32 `[B]` in 0..1.

    Raises:
        TypeError: If a tensor has the wrong dtype.
        ValueError: If the shapes do not fit, or a value is NaN or out of range.
    """
    if image.shape != foreground.shape:
        raise ValueError(f"both must be [B, 3, H, W], got {list(image.shape)} and {list(foreground.shape)}")
    check_painted(image, "image", "[B, 3, H, W]")
    check_painted(foreground, "foreground", "[B, 3, H, W]")
    found, true = (image >= THRESHOLD).flatten(1), (foreground != 0).flatten(1)
    return _ratio((found & true).sum(dim=1), (found | true).sum(dim=1))


def object_iou(elements: Tensor, boxes: Tensor) -> Tensor:
    """The best IoU that any element's boxes reach, for each of the M true slots; their mean (Table 4, per object).

    As published it is the mean over *all* slots, also those without an object, and an empty element matches an empty
    slot perfectly. One empty element is enough for all of them, and nothing keeps several objects from the same one.

    Args:
        elements: Each element's share of the reconstruction `[B, N, 3, H, W]`, in 0..1.
        boxes: bool `[B, M, H, W]`, the pixels of each true box (`srnlib.data.clevr_boxes`); the paper pads to M = 16.

    Returns:
        float32 `[B]` in 0..1.

    Raises:
        TypeError: If a tensor has the wrong dtype.
        ValueError: If the shapes or devices do not fit, or a value is NaN or out of range.
    """
    return best_iou(elements, boxes).mean(dim=1)


def object_iou_real(elements: Tensor, boxes: Tensor) -> Tensor:
    """As `object_iou`, but the mean over real objects only: rows of `boxes` that are not empty (not in the paper).

    Args:
        elements: As in `object_iou`.
        boxes: bool `[B, M, H, W]`, exact boxes; each image needs one at least.

    Raises:
        TypeError, ValueError: As `object_iou`; also if an image has no box.
    """
    best = best_iou(elements, boxes)
    real = boxes.flatten(2).any(dim=2)
    if not bool(real.any(dim=1).all()):
        raise ValueError("an image has no object: every row of boxes is empty")
    return (best * real).sum(dim=1) / real.sum(dim=1)


def fill_boxes(masks: Tensor) -> Tensor:
    """The union of the bounding rectangles of a mask's connected parts (8 neighbours), bool as `masks` `[..., H, W]`.

    Equal to OpenCV's `findContours(RETR_EXTERNAL)` and `boundingRect` with all rectangles filled: what it leaves out,
    parts inside a hole of another, lies in the other's rectangle.
    """
    filled = np.zeros(masks.shape, bool)
    flat = masks.cpu().numpy().reshape(-1, *masks.shape[-2:])
    for mask, out in zip(flat, filled.reshape(flat.shape), strict=True):
        if mask.any():
            for box in find_objects(label(mask, np.ones((3, 3)))[0]):
                out[box] = True
    return torch.from_numpy(filled).to(masks.device)


def best_iou(elements: Tensor, boxes: Tensor) -> Tensor:
    """For each true box the largest IoU of an element's filled boxes, `[B, M]`; arguments, errors as `object_iou`."""
    check_painted(elements)
    check_masks(boxes, elements, "boxes")
    found = fill_boxes((elements >= THRESHOLD).any(dim=2)).flatten(2).float()
    true = boxes.flatten(2).float()
    both = torch.einsum("bmp,bnp->bmn", true, found)  # exact: below 2^24
    either = true.sum(dim=2).unsqueeze(2) + found.sum(dim=2).unsqueeze(1) - both
    return _ratio(both, either).amax(dim=2)


def _ratio(both: Tensor, either: Tensor) -> Tensor:
    return (both + SMOOTH) / (either + SMOOTH)
