"""How well a decoded set decomposes an image of circles. Torch in, torch out; a score an image.

`decomposed` is the paper's metric and only counts; `matched_iou` and `foreground_ari` ask which element holds what.
The other tasks' measures are given from here too, imported when first asked for: `overall_iou`, `object_iou` and
`object_iou_real` of CLEVR (`srnlib.metrics_iou`), `right_when_turned` of Sort-of-CLEVR (`srnlib.robustness`), `ranks`
and `scores` (H@1, MRR) of the world models (`srnlib.ranking`).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_ELSEWHERE = {
    **dict.fromkeys(("object_iou", "object_iou_real", "overall_iou"), "srnlib.metrics_iou"),
    **dict.fromkeys(("ranks", "scores"), "srnlib.ranking"),
    "right_when_turned": "srnlib.robustness",
}
__all__ = ["decomposed", "foreground_ari", "matched_iou", *_ELSEWHERE]


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def decomposed(elements: Tensor, counts: Tensor, threshold: float = 0.1) -> Tensor:
    """The paper's success (appendix B.2): as many non-empty elements as circles.

    An element is non-empty if any of its decoded values is greater than `threshold`. An image passes wrongly if one
    circle is split over two elements while two others share one; the metrics below see that.

    Args:
        elements: Decoded image of each element `[B, N, 3, H, W]`, in 0..1.
        counts: True number of circles `[B]`, integers.
        threshold: See above.

    Returns:
        bool `[B]`.

    Raises:
        TypeError: If a tensor has the wrong dtype.
        ValueError: If a shape or device does not fit, or a value is NaN or out of range.
    """
    check_painted(elements)
    _check_counts(counts, elements)
    return _bright(elements, threshold).flatten(2).any(dim=2).sum(dim=1) == counts


def matched_iou(elements: Tensor, masks: Tensor, counts: Tensor | None = None, *, threshold: float = 0.1) -> Tensor:
    """Mean over the true circles of the IoU with the element matched to each (not in the paper).

    An element covers the pixels where any channel is greater than `threshold`. Each circle gets at most one element
    and the reverse, so as to maximise the sum of IoUs (Hungarian algorithm); a circle left over counts 0. An element
    left over costs nothing, except that an image without circles scores 1 if every element is empty, else 0.

    Args:
        elements: As in `decomposed`.
        masks: All pixels of each true circle, hidden ones too, `[B, M, H, W]` bool; one that is all False is no circle.
        counts: True number of circles `[B]`; if given, the masks must agree with it.
        threshold: See above.

    Returns:
        float32 `[B]` in 0..1.

    Raises:
        TypeError, ValueError: As `decomposed`; also if `masks` and `counts` disagree.
    """
    check_painted(elements)
    check_masks(masks, elements)
    covered, true = _bright(elements, threshold).flatten(2), masks.flatten(2)
    circles = true.any(dim=2).sum(dim=1)
    if counts is not None:
        _check_counts(counts, elements)
        if not torch.equal(circles, counts.to(circles.dtype)):
            raise ValueError(f"counts {counts.tolist()} disagree with the non-empty masks {circles.tolist()}")
    intersection = torch.einsum("bnp,bmp->bnm", covered.float(), true.float())  # exact: below 2^24
    union = covered.sum(dim=2).unsqueeze(2) + true.sum(dim=2).unsqueeze(1) - intersection
    iou = intersection / union.clamp(min=1)
    total = iou.new_tensor([m[linear_sum_assignment(m, maximize=True)].sum() for m in iou.cpu().numpy()])
    blank = ~covered.flatten(1).any(dim=1)
    return torch.where(circles > 0, total / circles.clamp(min=1), blank.float())


def foreground_ari(elements: Tensor, masks: Tensor) -> Tensor:
    """Adjusted Rand index of pixels grouped by element against pixels grouped by circle (not in the paper).

    Only pixels that exactly one true circle covers take part: the overlap of a red and a green circle belongs to both.
    A pixel goes to the element that is brightest there, by its largest channel; the first one if several are equal.
    1 is the same grouping, 0 what chance gives. Where both groupings are trivial, the score is 1 as in scikit-learn:
    one circle held by one element (or by none: all pixels then tie), or no foreground. Average over images of two
    circles or more.

    Args:
        elements: As in `decomposed`.
        masks: As in `matched_iou`.

    Returns:
        float32 `[B]`, at most 1.

    Raises:
        TypeError, ValueError: As `decomposed`.
    """
    check_painted(elements)
    check_masks(masks, elements)
    b, n, m = *elements.shape[:2], masks.shape[1]
    one = (masks.sum(dim=1) == 1).flatten()  # [B H W]
    circle, element = masks.byte().argmax(dim=1).flatten(1), elements.amax(dim=2).argmax(dim=1).flatten(1)  # [B, H W]
    image = torch.arange(b, device=elements.device).unsqueeze(1)
    cell = ((image * m + circle) * n + element).flatten()[one]
    table = torch.bincount(cell, minlength=b * m * n).view(b, m, n).cpu().double()  # pixels of circle m in element n
    both, total = _pairs(table).sum(dim=(1, 2)), _pairs(table.sum(dim=(1, 2)))
    by_circle, by_element = _pairs(table.sum(dim=2)).sum(dim=1), _pairs(table.sum(dim=1)).sum(dim=1)
    chance = by_circle * by_element  # everything times `total`, so that nothing is divided by 0
    excess, most = both * total - chance, (by_circle + by_element) / 2 * total - chance
    ari = torch.where(most == 0, 1.0, excess / most.masked_fill(most == 0, 1.0))
    return ari.float().to(elements.device)


def _bright(elements: Tensor, threshold: float) -> Tensor:
    """Where any channel of an element is greater than `threshold`, `[B, N, H, W]`."""
    return (elements > threshold).any(dim=2)


def _pairs(count: Tensor) -> Tensor:
    """Number of unordered pairs among `count` things."""
    return count * (count - 1) / 2


def _kind(value) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def check_painted(values, name: str = "elements", axes: str = "[B, N, 3, H, W]") -> None:
    """Raises TypeError or ValueError unless `values` are floats in 0..1, rounding apart, with these axes."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor {axes} in 0..1, got {_kind(values)}")
    if values.dim() != axes.count(",") + 1 or values.shape[-3] != 3 or 0 in values.shape:
        raise ValueError(f"{name} must be {axes} with no zero size, got {list(values.shape)}")
    low, high = (float(v) for v in values.detach().aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN lands here too
        raise ValueError(f"{name} must lie in 0..1, got {low:.4g} to {high:.4g}: bytes undivided, or NaN?")


def _check_counts(counts, elements) -> None:
    integer = isinstance(counts, Tensor) and not (counts.is_floating_point() or counts.is_complex())
    if not integer or counts.dtype == torch.bool:
        raise TypeError(f"counts must be an integer tensor [B], got {_kind(counts)}")
    if counts.shape != elements.shape[:1] or counts.device != elements.device:
        expected = f"[{elements.shape[0]}] on {elements.device}"
        raise ValueError(f"counts must be {expected} as the elements, got {list(counts.shape)} on {counts.device}")
    if bool((counts < 0).any()):
        raise ValueError(f"counts must not be negative, got {counts.tolist()}")


def check_masks(masks, elements, name: str = "masks") -> None:
    """Raises TypeError or ValueError unless `masks` are bool `[B, M, H, W]`, M >= 1, and fit `elements`."""
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        raise TypeError(f"{name} must be a bool tensor [B, M, H, W], got {_kind(masks)}")
    b, _, _, height, width = elements.shape
    fits = masks.dim() == 4 and masks.shape[0] == b and masks.shape[2:] == (height, width) and masks.shape[1] > 0
    if not fits or masks.device != elements.device:
        expected = f"[{b}, M, {height}, {width}], M at least 1, on {elements.device}"
        raise ValueError(f"{name} must be {expected} as the elements, got {list(masks.shape)} on {masks.device}")
