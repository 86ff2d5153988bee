"""Where data live, what a record says of its making, and the tables made of records."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from srnlib import __version__
from srnlib.tasks import PROFILES, Task


def data_dir() -> Path:
    """The data folder: `$SRNLIB_DATA`, else `data` in the checkout (of this package, or around the current folder).

    Outside of a checkout it is `./data`.
    """
    if os.environ.get("SRNLIB_DATA"):
        return Path(os.environ["SRNLIB_DATA"])
    for folder in (*Path(__file__).resolve().parents, *(Path.cwd() / "x").parents):
        project = folder / "pyproject.toml"
        if project.is_file() and re.search(r'^name\s*=\s*"srnlib"', project.read_text("utf-8"), re.MULTILINE):
            return folder / "data"
    return Path("data")


def environment() -> dict[str, Any]:
    """CPU, threads, versions and commit, as every record holds them."""
    versions = {"srnlib": __version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("torch", "numpy", "accelerate", "safetensors")}
    return {"cpu": _cpu(), "threads": torch.get_num_threads(), "versions": versions, "commit": commit()}


def commit() -> str:
    """The checkout's commit, `+dirty` if the package's code has changed since; `unknown` outside of git."""
    package = Path(__file__).resolve().parent
    try:
        call = {"cwd": package, "capture_output": True, "text": True, "check": True, "timeout": 30}
        revision = subprocess.run(["git", "rev-parse", "HEAD"], **call).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--", "."], **call).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return revision + ("+dirty" if changed else "")


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def files(task: str) -> list[Path]:
    """The files of a task's records, ordered by name."""
    return sorted((data_dir() / "results" / task).glob("*-seed*.json"))


def load(task: str, model: str | None = None, profile: str | None = None) -> list[dict[str, Any]]:
    """All records of a task, narrowed to a model and a profile if given, ordered by file name.

    Raises:
        ValueError: If a file is not a record.
    """
    records = []
    for path in files(task):
        found = read(path)
        if found is None:
            raise ValueError(f"{path} is not a record of a run: restore it (git restore) or delete it")
        if model in (None, found["model"]) and profile in (None, found["profile"]) and found["metrics"]:
            records.append(found)
    return records


def read(path: Path) -> dict[str, Any] | None:
    """The record of a run that a file holds; None if it holds something else."""
    kinds = {"model": str, "profile": str, "metrics": dict, "history": list}
    try:
        found = json.loads(path.read_bytes())
        sound = all(isinstance(found[name], kind) for name, kind in kinds.items()) and found["history"]
        sound = sound and all(type(value) in (int, float) for value in found["metrics"].values())
        return found if sound and all(row["core_seconds"] >= 0 for row in found["history"]) else None
    except (ValueError, KeyError, TypeError):
        return None


def table(task: Task, profile: str = "laptop", names: dict[str, str] | None = None) -> str:
    """A task's table in Markdown: a row a metric; for each model the paper's number and ours, and the cost.

    Args:
        task, profile: Whose records.
        names: What to call models in it, where it is not their name on the command line.
    """
    names = names or {}
    found = {model: load(task.name, model, profile) for model in task.models}
    columns = [(model, source) for model in task.models for source in ("paper", "ours")]
    columns = [(model, source) for model, source in columns if (task.paper if source == "paper" else found).get(model)]
    counts = {"paper": lambda model: "", "ours": lambda model: f" (n={len(found[model])})"}
    heads = [f"{names.get(model, model)}, {source}{counts[source](model)}" for model, source in columns]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(columns)]
    for key, label in task.rows.items():
        cells = []
        for model, source in columns:
            numbers = [r["metrics"][key] for r in found[model] if key in r["metrics"]]
            cells.append(mean_sd(numbers) if source == "ours" else f"{task.paper[model].get(key, '–')}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    spent = {m: [r["history"][-1]["core_seconds"] / 60 for r in records] for m, records in found.items() if records}
    minutes = ", ".join(f"{names.get(model, model)} {statistics.fmean(times):.0f}" for model, times in spent.items())
    note = f"\nOurs: profile `{profile}`, n seeds, mean ± sd; CPU core-minutes a training: {minutes}."
    return "\n".join(lines) + ("\n" + note if spent else "")


def mean_sd(numbers: list[float]) -> str:
    """`81.3 ± 1.2`: mean and sample standard deviation; no deviation of a single number, a dash for none."""
    if not numbers:
        return "–"
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.1f}{spread}"


def profiles(task: Task, trials: bool = True) -> list[str]:
    """Profiles of which a task has records, the plain ones first; then those with changed settings.

    Args:
        trials: Whether the latter are listed; without any plain one they always are.
    """
    names = {r["profile"] for r in load(task.name)}
    plain = [p for p in PROFILES if p in names]
    return plain + (sorted(names - set(PROFILES)) if trials or not plain else [])


def overview(tasks: Iterable[Task], profile: str = "laptop") -> str:
    """The README's table in Markdown: the headline metrics of all tasks, paper and ours, baseline and SRN side by side.

    A task without any record of the profile is left out.
    """
    lines = ["| | | baseline, paper | baseline, ours | SRN, paper | SRN, ours |", "|---|---|---:|---:|---:|---:|"]
    for task in tasks:
        found = {model: load(task.name, model, profile) for pair in task.headline.values() for model in pair}
        for key, pair in task.headline.items() if any(found.values()) else ():
            cells = []
            for model in pair:
                numbers = [r["metrics"][key] for r in found[model] if key in r["metrics"]]
                count = f" (n={len(numbers)})" if numbers else ""
                cells += [f"{task.paper.get(model, {}).get(key, '–')}", mean_sd(numbers) + count]
            lines.append(f"| {task.name}: {pair[0]}, {pair[1]} | {task.rows[key]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def refresh(text: str, content: str) -> str:
    """`text` with the block between `<!-- results -->` and `<!-- /results -->` replaced.

    Raises:
        ValueError: If the markers are not there, once each and in order.
    """
    start, end = "<!-- results -->", "<!-- /results -->"
    before, opened, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not opened or not closed or start in rest or end in after:
        raise ValueError(f"the text needs one line {start} and, below it, one line {end}")
    return f"{before}{start}\n{content}\n{end}{after}"
