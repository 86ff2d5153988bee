"""What a task must offer to be trained, recorded and tabled, and the tasks by name."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

PROFILES = ("smoke", "laptop", "paper")


class UnknownName(KeyError):
    """A task, model, profile or setting that does not exist; the message lists those that do."""

    __str__ = Exception.__str__


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the training loop needs of every task; a task's own settings extend it.

    Attributes:
        steps: Length of the training, in optimiser steps.
        batch_size: Examples a step, over all processes.
        lr: Peak learning rate of Adam.
        warmup: Fraction of the schedule's steps in which the rate rises linearly from 0.
        cooldown: Fraction of them at the end in which it falls to 0 along a half cosine; 0 keeps it constant.
        weight_decay: Adam's: this times the weights is added to their gradient, after clipping.
        clip: Largest norm of the gradient; None for no limit.
        restart: Fraction of the steps after which the rate's schedule runs a second time, over those left, with a fresh
            Adam and from the best weights so far (see Task.select); 1 for never.
        eval_every: Steps between two rows of the history.
        freeze_norm: Fraction of the steps after which batch normalisation keeps the statistics it has; 1 for never. In
            small batches they are noisy; what that costs and what freezing gives is in notebook 03.
        beta2: Of Adam: how much of its second moment a step keeps. The usual .999 (every `paper` profile) forgets after
            1000 steps, .99 after 100, which suits short trainings.
    """

    steps: int
    batch_size: int
    lr: float
    warmup: float = 0.0
    cooldown: float = 0.0
    restart: float = 1.0
    weight_decay: float = 0.0
    clip: float | None = None
    eval_every: int = 500
    freeze_norm: float = 1.0
    beta2: float = 0.99

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name.endswith(("_images", "_episodes", "_stories")) and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be 1 or more, got {getattr(self, field.name)}")
        for name in ("steps", "batch_size", "lr", "eval_every", *(("clip",) if self.clip is not None else ())):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        if not 0 <= self.weight_decay < float("inf") or not 0 <= self.beta2 < 1:
            wrong = f"weight_decay {self.weight_decay} and beta2 {self.beta2}"
            raise ValueError(f"{wrong} must be finite and not negative, the second below 1")
        if not (self.warmup >= 0 and self.cooldown >= 0 and self.warmup + self.cooldown <= 1):
            raise ValueError(f"warmup {self.warmup} and cooldown {self.cooldown} must be fractions, together at most 1")
        if not 0 <= self.freeze_norm <= 1:
            raise ValueError(f"freeze_norm must be a fraction of the training, 0 to 1, got {self.freeze_norm}")
        if not 0 < self.restart <= 1:
            raise ValueError(f"restart must be a fraction of the training, above 0 and at most 1, got {self.restart}")


class Task:
    """Where data, model and metric meet. The loop, the records and the tables know a task by this only.

    Attributes:
        name: Folder name of its checkpoints and results.
        models: Names that `build` knows.
        rows: Rows of its table: metric key to label.
        paper: The paper's numbers: model to metric key to value.
        headline: Its rows in the README's one table: metric key to (baseline, SRN), the two models compared there.
        select: Validation metric, larger is better: the weights of its best row are kept and tested. None: the last.
    """

    name: str
    models: tuple[str, ...]
    rows: dict[str, str]
    paper: dict[str, dict[str, float]]
    headline: dict[str, tuple[str, str]] = {}
    select: str | None = None

    def settings(self, profile: str, model: str) -> Settings:
        """The settings of a profile (smoke, laptop, paper) for a model; UnknownName if there is no such one."""
        raise NotImplementedError

    def build(self, model: str, settings: Settings) -> nn.Module:
        """A fresh module; the caller has seeded torch. UnknownName if there is no such model."""
        raise NotImplementedError

    def check(self, model: str, profile: str = PROFILES[0]) -> None:
        """For the start of these two: raises UnknownName unless there are such a model and profile."""
        choose("profile", profile, PROFILES)
        choose("model", model, self.models)

    def dataset(self, settings: Settings, seed: int) -> Any:
        """Training data: has a length, and an index tensor gives a tuple of tensors `[B, ...]` (e.g. TensorDataset)."""
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...], settings: Settings, step: int):
        """The loss, a mean over the batch, and scalars to log: `inner_first`, `inner_last`, `moved` of a refiner."""
        raise NotImplementedError

    def evaluate(self, module: nn.Module, settings: Settings, device: torch.device, split: str) -> dict[str, float]:
        """Metrics of a module in eval mode on a fixed set, `"val"` (small) or `"test"`; neither is trained on."""
        raise NotImplementedError

    def best_row(self, history: list[dict[str, float]]) -> dict[str, float]:
        """The row whose weights are tested: the first with the greatest `select`; without one, the last."""
        return max(history, key=lambda row: row[self.select]) if self.select else history[-1]

    def summarise(self, history: list[dict[str, float]]) -> dict[str, float]:
        """Metrics that only the history tells, such as the steps until an accuracy is reached."""
        return {}

    def describe(self, settings: Settings, seed: int) -> dict[str, Any]:
        """Make the data if need be, and say what they are, for the record."""
        raise NotImplementedError


class _Tasks(Mapping):
    """Tasks by name, imported when first asked for."""

    def __init__(self, places: dict[str, str]):
        self._places = places

    def __getitem__(self, name: str) -> Task:
        module, attribute = choose("task", name, self._places).split(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def choose(kind: str, name: str, known: Iterable[str]) -> Any:
    """`known[name]` of a mapping, or `name` itself of a sequence.

    Raises:
        UnknownName: If it is not there.
    """
    if name not in known:
        raise UnknownName(f"there is no {kind} {name!r}; {kind}s: {', '.join(known)}")
    return known[name] if isinstance(known, Mapping) else name


TASKS: Mapping[str, Task] = _Tasks(  # in the order of the notebooks
    {
        "circles": "srnlib.tasks.circles:circles",
        "clevr": "srnlib.tasks.clevr:clevr",
        "sort_of_clevr": "srnlib.tasks.sort_of_clevr:sort_of_clevr",
        "sort_of_clevr_decode": "srnlib.tasks.sort_of_clevr_decode:sort_of_clevr_decode",
        "pong": "srnlib.tasks.world_model:pong",
        "space_invaders": "srnlib.tasks.world_model:space_invaders",
        "shapes": "srnlib.tasks.world_model:shapes_world",
        "clutrr": "srnlib.tasks.clutrr:clutrr",
        "clutrr_generated": "srnlib.tasks.clutrr:clutrr_generated",
    }
)
