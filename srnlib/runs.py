"""What a run is: one task, model, profile and seed, with its settings, its name and the places of its files."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from numbers import Integral
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from srnlib import results
from srnlib.tasks import TASKS, Settings, Task, choose


class RunError(RuntimeError):
    """A run that cannot go on as asked; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: what is trained, how, and what its files are called.

    Attributes:
        task: The task.
        model: One of its models.
        profile: Name of the profile, with the overrides: `laptop`, `laptop+steps=100`.
        seed: Seed of weights, data and their order.
        settings: The settings, overrides applied.
        overrides: Settings that differ from the profile's.
    """

    task: Task
    model: str
    profile: str
    seed: int
    settings: Settings
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, task: str | Task, model: str, profile: str = "laptop", seed: int = 0, **overrides: Any) -> Run:
        """Look everything up by name.

        Args:
            task: A task or its name.
            model, profile, seed: See the attributes.
            **overrides: Settings to change; a string is read as a number, a boolean or none where the setting is one.

        Raises:
            UnknownName: If a name does not exist.
            ValueError: If a setting's value is of the wrong type, or the seed is no whole number in 0..999999.
        """
        task = TASKS[task] if isinstance(task, str) else task
        whole = isinstance(seed, Integral) and not isinstance(seed, bool)
        if not whole or not 0 <= seed < 1_000_000:  # seeds from there on belong to the evaluation sets
            raise ValueError(f"the seed must be a whole number in 0..999999, got {seed!r}")
        base = task.settings(profile, model)
        kinds = get_type_hints(type(base))
        changed = {name: _read(name, text, choose("setting", name, kinds)) for name, text in sorted(overrides.items())}
        changed = {name: value for name, value in changed.items() if value != getattr(base, name)}
        label = "+".join([profile, *(f"{name}={value}" for name, value in changed.items())])
        settings = dataclasses.replace(base, **changed)
        return cls(task, model, re.sub(r"[^\w.+=-]", "_", label), int(seed), settings, changed)

    @property
    def stem(self) -> str:
        """Name of the run's files."""
        return f"{self.model}-{self.profile}-seed{self.seed}"

    @property
    def checkpoint(self) -> Path:
        """Its weights, once finished."""
        return results.data_dir() / "checkpoints" / self.task.name / f"{self.stem}.safetensors"

    @property
    def result(self) -> Path:
        """Its record, once finished."""
        return results.data_dir() / "results" / self.task.name / f"{self.stem}.json"

    @property
    def state(self) -> Path:
        """Where it stands, until finished."""
        return results.data_dir() / "cache" / "runs" / self.task.name / self.stem / "state.safetensors"

    @property
    def config(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        return json.loads(json.dumps(dataclasses.asdict(self.settings)))

    def record(self) -> dict[str, Any]:
        """Its record.

        Raises:
            RunError: If there is none, or the file is damaged.
        """
        if not self.result.exists():
            raise RunError(f"{self.result} does not exist: train the run first ({self.command()})")
        known = results.read(self.result)
        if known and isinstance(known.get("config"), dict) and isinstance(known.get("checkpoint_sha256"), str):
            return known
        raise RunError(
            f"{self.result} is truncated or foreign, not the record of a run: restore it (git restore), "
            "or delete it and train again, as --force does"
        )

    def completed(self, config: dict[str, Any]) -> dict[str, Any]:
        """A stored configuration with the settings that came later, at their defaults: what was done before."""
        fields = (f for f in dataclasses.fields(self.settings) if f.default is not dataclasses.MISSING)
        return {f.name: f.default for f in fields if f.name not in config} | config

    def command(self, precision: str = "no", processes: int = 1) -> str:
        """The command that trains it."""
        words = ["torchrun", "--nproc_per_node", str(processes)] if processes > 1 else ["python"]
        words += ["-m", "srnlib", "train", self.task.name, "--model", self.model]
        words += ["--profile", self.profile.partition("+")[0], "--seed", str(self.seed)]
        words += ["--precision", precision] if precision != "no" else []
        return shlex.join(words + [w for name, value in self.overrides.items() for w in ("--set", f"{name}={value}")])


def _read(name: str, value: Any, kind: Any) -> Any:
    """`value`, or what the string spells, as `kind`; several numbers are spelled with commas."""
    constants = {"true": True, "false": False, "none": None}
    value = value.item() if isinstance(value, np.generic) else value
    if get_origin(kind) is tuple:
        parts = value.strip("()").split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise ValueError(f"setting {name} must be numbers such as 9,5,2, got {value!r}")
        return tuple(_read(name, part, get_args(kind)[0]) for part in parts)
    for read in (lambda text: constants[text.lower()], int, float, str) if isinstance(value, str) else (lambda v: v,):
        try:
            result = read(value)
        except (KeyError, ValueError):
            continue
        if isinstance(result, bool) and kind is not bool:
            continue
        if isinstance(result, kind):
            return result
        if isinstance(result, int) and isinstance(float(result), kind):
            return float(result)
    raise ValueError(f"setting {name} must be {getattr(kind, '__name__', kind)}, got {value!r}")
