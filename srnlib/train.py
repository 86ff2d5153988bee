"""Train a run from wherever it stands to its checkpoint and record; load and evaluate what was trained."""

from __future__ import annotations

import dataclasses
import shutil
import time
from typing import Any

import torch
from torch import nn

from srnlib import _run_checks, checkpoints, loop, results
from srnlib.files import write_json
from srnlib.runs import Run, RunError
from srnlib.tasks import Settings, Task


def train(
    run: Run,
    *,
    device: str = "auto",
    precision: str = "no",
    save_minutes: float = 3.0,
    force: bool = False,
    show: bool = True,
) -> dict[str, Any]:
    """Train a run to its end from wherever it stands, evaluate it, and write checkpoint and record.

    Killed at any moment, the same call goes on from the last state saved, and on a CPU ends with the same bits as if it
    had never been interrupted. A finished run is left alone.

    Args:
        run: What to train.
        device, precision: See `srnlib.loop.accelerator`.
        save_minutes: Time between two saved states.
        force: Start again, whatever there is. Record and checkpoint stay until the new ones are there.
        show: Print progress.

    Returns:
        The record, on the main process; elsewhere an empty dictionary.

    Raises:
        RunError: If the record is damaged, what is there was trained with other settings, precision or number of
            processes, so many settings are changed that files cannot be named after them, or the folder of results
            cannot be written.
        CheckpointError: If a checkpoint or a state is damaged.
    """
    if len(run.checkpoint.name.encode()) > 255:  # now, not after the training
        raise RunError(f"{run.checkpoint.name} is too long for a file's name: change fewer settings, or shorter ones")
    on = loop.accelerator(device, precision)
    ways = {"precision": precision, "processes": on.num_processes}
    if run.result.exists() and not run.state.exists() and not force:
        return _finished(run, ways, show and on.is_main_process)
    made = results.environment()  # now: the code may change while it trains
    loop.seed_everything(run.seed)
    module = run.task.build(run.model, run.settings)
    optimizer, progress = loop.new_optimizer(module, run.settings), loop.Progress()
    identity = _run_checks.identity(run) | {"config": run.config} | ways
    best: dict[str, torch.Tensor] = {}  # the weights of the best row, if the task selects
    if run.state.exists() and not force:
        progress = _restore(run, identity, module, optimizer, best)
        if show and on.is_main_process:
            print(f"{run.task.name} {run.stem}: going on from step {progress.step} of {run.settings.steps}")
    if on.is_main_process:
        _run_checks.can_write(run.state.parent)
        made["data"] = run.task.describe(run.settings, run.seed)  # now: it refuses what only the test would meet
    on.wait_for_everyone()  # all have looked at the files before the main process changes one
    if force and on.is_main_process:
        run.state.unlink(missing_ok=True)  # the record stays until another takes its place

    def save() -> None:
        tensors = {f"model.{name}": t for name, t in module.state_dict().items()}
        for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
            tensors |= {f"optimizer.{i}.{name}": t for name, t in optimizer.state.get(parameter, {}).items()}
        tensors |= {f"best.{name}": t for name, t in best.items()}
        checkpoints.save_state(run.state, tensors, {**identity, "progress": dataclasses.asdict(progress)})

    loop.fit(
        run.task, module, run.settings, run.seed,
        on=on, optimizer=optimizer, progress=progress, save=save, save_minutes=save_minutes, best=best, show=show,
    )  # fmt: skip
    if best:
        module.load_state_dict(best)
    return _finish(run, module, progress, on, identity, made) if on.is_main_process else {}


def load_module(run: Run, device: str | torch.device = "cpu") -> nn.Module:
    """The trained module of a run in eval mode, built with the settings it was trained with.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged or not of this model.
    """
    return _trained(run, device)[0]


def _trained(run: Run, device: str | torch.device) -> tuple[nn.Module, Settings]:
    """What `load_module` gives, and the settings it was trained with."""
    _, meta = checkpoints.load(run.checkpoint)
    _run_checks.of_this(run, meta)
    known = run.completed(meta["config"])
    if known.keys() != run.config.keys():
        raise checkpoints.CheckpointError(
            f"{run.checkpoint} was trained with another version's settings (they differ in "
            f"{', '.join(sorted(known.keys() ^ run.config.keys()))}): use that version, or train it again"
        )
    try:
        settings = dataclasses.replace(run.settings, **known)
        module = run.task.build(run.model, settings)
    except (TypeError, ValueError) as error:
        wrong = f"the side file of {run.checkpoint} has settings that make no sense ({error})"
        raise checkpoints.CheckpointError(f"{wrong}: restore both files, or train again with --force") from error
    checkpoints.load_into(module, run.checkpoint)
    return module.to(device).eval(), settings


def evaluate(run: Run, *, device: str = "auto", write: bool = False) -> dict[str, float]:
    """Evaluate a run's checkpoint on the test set.

    Args:
        run: A finished run.
        device: See `srnlib.loop.accelerator`.
        write: Put the metrics into the run's record.

    Raises:
        CheckpointError: As `load_module`.
        RunError: If `write` is asked for and the run has no record, or a damaged one.
    """
    known = run.record() if write else {}  # before the work: it may be refused
    if write:
        _run_checks.belongs(run, known)
    where = loop.accelerator(device).device
    (module, settings), started = _trained(run, where), time.perf_counter()
    metrics = loop.evaluate_module(run.task, module, settings, where, "test")
    if write:
        spent = round(time.perf_counter() - started, 2)
        told = _told_by_history(run.task, known["history"])
        write_json(run.result, known | {"metrics": metrics | told, "eval_seconds": spent})
    return metrics


def _finished(run: Run, ways: dict[str, Any], show: bool) -> dict[str, Any]:
    known = run.record()
    there = {"precision": "no", "processes": 1} | {name: known[name] for name in ways if name in known}
    _run_checks.same(run.result, run.completed(known["config"]) | there, run.config | ways)
    _run_checks.belongs(run, known)
    if show:
        print(f"{run.task.name} {run.stem} is trained already ({run.result}); --force trains it again")
    return known


def _restore(run: Run, identity: dict[str, Any], module: nn.Module, optimizer, best: dict) -> loop.Progress:
    """Put the saved state into module, optimizer and best weights, and return how far it is."""
    tensors, meta = checkpoints.load_state(run.state)
    there = run.completed(meta["config"]) | {name: meta[name] for name in identity}
    _run_checks.same(run.state, there, run.config | identity)
    module.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    best.update({n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")})
    for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
        for name in [n for n in tensors if n.startswith(f"optimizer.{i}.")]:
            value = tensors[name]
            like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            optimizer.state[parameter][name.split(".", 2)[2]] = like.copy_(value).detach()
    return loop.Progress(**meta["progress"])


def _told_by_history(task: Task, history: list[dict[str, float]]) -> dict[str, float]:
    """Metrics of a finished run that need no evaluation."""
    last = task.best_row(history)
    return ({"collapsed": float(loop.collapsed(last))} if "moved" in last else {}) | task.summarise(history)


def _finish(run: Run, module: nn.Module, progress: loop.Progress, on, identity: dict, made: dict) -> dict[str, Any]:
    """Checkpoint, test, record; the state goes last, so that a kill in between costs a test at most."""
    meta = _run_checks.identity(run) | {"config": run.config}
    step = run.task.best_row(progress.history)["step"]
    origin = {"step": step, "srnlib": made["versions"]["srnlib"], "commit": made["commit"]}
    digest = checkpoints.save(module, run.checkpoint, meta | origin)
    started = time.perf_counter()
    metrics = loop.evaluate_module(run.task, module, run.settings, on.device, "test")
    seconds = time.perf_counter() - started
    metrics |= _told_by_history(run.task, progress.history)
    record = meta | {
        "metrics": metrics,
        "history": progress.history,
        "train_seconds": round(progress.seconds, 2),
        "eval_seconds": round(seconds, 2),
        "device": on.device.type,
        **made,
        "precision": identity["precision"],
        "processes": identity["processes"],
        "command": run.command(identity["precision"], identity["processes"]),
        "checkpoint": run.checkpoint.relative_to(results.data_dir()).as_posix(),
        "checkpoint_sha256": digest,
    }
    write_json(run.result, record)
    shutil.rmtree(run.state.parent)
    return record
