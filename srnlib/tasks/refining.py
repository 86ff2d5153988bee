"""What every task with a refiner shares: the inner loop's settings, its construction, and what to log of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from srnlib.refine import SetRefiner


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerLoop:
    """Settings of a refiner, beside a task's own; a baseline does not read them.

    Attributes:
        kaiming: Whether H_agg's linear layers start from Kaiming's initialisation instead of torch's, so that it is
            steep enough to descend on from the first step.
        inner_steps, inner_lr, inner_momentum, grad, detach_init: See `srnlib.refine`.
    """

    kaiming: bool = True
    inner_steps: int = 10
    inner_lr: float = 0.5
    inner_momentum: float = 0.5
    grad: str = "unroll"
    detach_init: bool = False

    def refiner(self, H_agg: nn.Module, kind: Callable[..., SetRefiner] = SetRefiner) -> SetRefiner:
        """A refiner around a fresh H_agg; `kind` may be another class of refiners."""
        if self.kaiming:
            for layer in H_agg.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight)
        loop = {"steps": self.inner_steps, "inner_lr": self.inner_lr, "momentum": self.inner_momentum}
        return kind(H_agg, **loop, grad=self.grad, detach_init=self.detach_init)


def refinement(out: Any) -> dict[str, Tensor]:
    """What a refiner did to each set `[B]`: inner loss before and after, ||S - S0|| / ||S0||.

    The last is bounded by the length of the descent's path: what noise on the start did is no merit of the refiner
    (`srnlib.restarts`), and one that does nothing has 0. Then the inner loss before is that of the noisy start, too.

    Args:
        out: A model's output with the refined set `S`, the proposal `S0` and the inner loop's `trace`; without a
            refiner `trace` is None, and the result empty.
    """
    if out.trace is None:
        return {}
    moved = (out.S - out.S0).detach().flatten(1).norm(dim=1).minimum(out.trace.step_norm.sum(dim=0))
    moved = moved / out.S0.detach().flatten(1).norm(dim=1)
    return {"inner_first": out.trace.inner_loss[0], "inner_last": out.trace.inner_loss[-1], "moved": moved}
