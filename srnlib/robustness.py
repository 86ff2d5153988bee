"""Does an answer survive turning the scene, though it should? (Paper: section 3.1, Robustness.)"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from srnlib.data._hash import integer
from srnlib.data.sort_of_clevr import ANSWERS, COLOURS, KINDS, answers, render
from srnlib.data.sort_of_clevr_robust import TURNS, rotations

FURTHEST_FROM_RED = 6 * list(KINDS).index("furthest") + COLOURS.index("red")  # the one question asked


def right_when_turned(
    answer: Callable[[Tensor], ArrayLike | Tensor], centers, shapes, *, every: int = 1, block: int = 360
) -> Tensor:
    """Whether a model names the shape furthest from red, for each rotation of each scene.

    The paper calls a model robust on a scene if all 720 are right: `right.all(dim=1)`. Coordinates are turned, then
    drawn anew, so that shapes stay upright. The right answer is computed for each rotation by itself.

    Args:
        answer: Takes images uint8 `[M, 3, 75, 75]`, gives indices into `ANSWERS` `[M]` or scores `[M, 10]`, as
            tensor, array or list.
        centers, shapes: Scenes `[n, 6, 2]` and `[n, 6]` that may be turned, such as those of
            `srnlib.data.sort_of_clevr_robust.easy` and `synthetic`.
        every: Take each so-manieth of the 720 rotations, of half a degree each; the first is the scene itself.
        block: Images given to `answer` at once, at most.

    Returns:
        bool `[n, 720 / every]`.

    Raises:
        TypeError, ValueError: As `rotations` and `answers`; also if `every` does not divide 720, `block` is below 1,
            or `answer` gives another shape.
    """
    every, block = integer("every", every, 1), integer("block", block, 1)
    if TURNS % every:
        raise ValueError(f"every must divide {TURNS}, got {every}")
    turned, shapes = rotations(centers)[:, ::every], np.asarray(shapes)
    n, angles = turned.shape[:2]
    if shapes.shape != (n, 6):
        raise ValueError(f"shapes must be [{n}, 6] for {n} scenes, got {list(shapes.shape)}")
    turned, shapes = turned.reshape(-1, 6, 2), shapes.repeat(angles, axis=0)
    right = []
    for at in range(0, len(turned), block):
        part = slice(at, at + block)
        given = torch.as_tensor(answer(torch.from_numpy(render(turned[part], shapes[part]))))
        true = torch.from_numpy(answers(turned[part], shapes[part])[:, FURTHEST_FROM_RED])
        if given.dim() == 2 and given.shape[1] == len(ANSWERS):
            given = given.argmax(dim=1)
        if given.shape != true.shape:
            raise ValueError(f"answer gave {list(given.shape)} for {len(true)} images")
        right.append(given.cpu() == true)
    return torch.cat(right).view(n, angles) if right else torch.zeros(0, angles, dtype=torch.bool)
