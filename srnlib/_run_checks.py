"""Whether what lies in the places of a run's files is of this run, and whether they take files at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from srnlib import checkpoints
from srnlib.runs import Run, RunError


def can_write(folder: Path) -> None:
    """Refuse a folder that takes no files, before the training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error}): name another data folder in SRNLIB_DATA") from error


def identity(run: Run) -> dict[str, Any]:
    return {"task": run.task.name, "model": run.model, "profile": run.profile, "seed": run.seed}


def of_this(run: Run, meta: dict[str, Any]) -> None:
    """Refuse the checkpoint of another run that lies in the place of this one's."""
    other = [f"{name} {meta.get(name)!r}" for name, value in identity(run).items() if meta.get(name) != value]
    if other or not isinstance(meta.get("config"), dict):
        found = ", ".join(other) or "no configuration"
        raise checkpoints.CheckpointError(
            f"{run.checkpoint} is of another run: its side file has {found}; restore both"
        )


def belongs(run: Run, known: dict[str, Any]) -> None:
    """Refuse a record without its checkpoint, or with that of another training."""
    if not run.checkpoint.exists():  # not all are shipped, see data/README.md
        raise RunError(f"{run.result} is there, but {run.checkpoint} is not: --force trains it again")
    _, meta = checkpoints.load(run.checkpoint)
    if meta["sha256"] != known["checkpoint_sha256"]:
        raise RunError(f"{run.result} and {run.checkpoint} are not of the same training: restore both, or use --force")


def same(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse what is there if it was made otherwise."""
    names = [name for name in sorted(there.keys() | here.keys()) if name != "config"]
    changed = [f"{n} {there.get(n)!r} there, {here.get(n)!r} now" for n in names if there.get(n) != here.get(n)]
    if changed:
        raise RunError(
            f"{path} is of a run with another configuration ({'; '.join(changed)}). "
            "Go back to that configuration, or start again with --force, which discards it"
        )
