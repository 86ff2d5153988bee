"""One training loop for every task, on Accelerate: resumable to the bit, on one process or several.

Nothing random carries over from step to step: the order of the data derives from (seed, epoch), everything else from
(seed, step). So a run's result does not depend on where it was interrupted, nor on what evaluation drew in between.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
import warnings
from collections.abc import Callable

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm import tqdm

from srnlib.schedule import batch_indices, learning_rate, restart_step, seed_everything
from srnlib.tasks import Settings, Task

MOVED = 0.01  # a refiner that moves its set less than this, relative to its norm, has collapsed into a no-op
TAKEN = 0.1  # one that takes away less than this share of its inner loss moves it in vain


@dataclasses.dataclass
class Progress:
    """How far a training is. Times are of training alone, without evaluation; core time is CPU time of all processes.

    `sums` and `count` are of the logs since the last row of the history.
    """

    step: int = 0
    core_seconds: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    count: int = 0


def accelerator(device: str = "auto", precision: str = "no") -> Accelerator:
    """The processes, device (`cpu`, `cuda`, `mps`, or `auto`: the best there is) and precision (`no`, `bf16`).

    One program may ask again with another device or precision, unless it is one of several processes. Warns of one
    process where Accelerate's launcher was asked for several.
    """
    if device not in ("auto", "cpu", "cuda", "mps") or precision not in ("no", "bf16"):
        raise ValueError(f"device must be auto, cpu, cuda or mps, precision no or bf16; got {device!r}, {precision!r}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device, True):
        raise ValueError(f"device {device}: torch sees none here; use auto or cpu")
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # detach_init leaves some without gradient
    cpu = device == "cpu" or not any(there.values())
    if not torch.distributed.is_initialized():  # else Accelerate keeps to what a program asked for first
        AcceleratorState._reset_state(reset_partial_state=True)
    on = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[unused])
    if on.num_processes == 1 and {"ACCELERATE_DYNAMO_BACKEND", "MASTER_PORT"} <= os.environ.keys():  # its launcher's
        several = "on CPUs or a single GPU it starts no more; use torchrun --nproc_per_node 2 -m srnlib train ..."
        warnings.warn(f"`accelerate launch` was asked for several processes and started one: {several}", stacklevel=2)
    return on


def leave() -> None:
    """End a program of several processes: wait for the others, close what connects them, and exit; alone, do nothing.

    Without Python's finalisation: gloo's threads may still hold tensors then, and now and then that aborts the program.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def fit(
    task: Task,
    module: nn.Module,
    settings: Settings,
    seed: int,
    *,
    on: Accelerator | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    progress: Progress | None = None,
    save: Callable[[], None] = lambda: None,
    save_minutes: float = math.inf,
    best: dict[str, Tensor] | None = None,
    show: bool = True,
) -> list[dict[str, float]]:
    """Train a module in place.

    Args:
        task, settings, seed: What to train it for.
        module: From `task.build`.
        on: Where to train; `accelerator()` if not given.
        optimizer, progress: To go on from; fresh ones if not given. Both are updated in place.
        save: Called between two steps every `save_minutes`, and after the last one, on the main process.
        best: Where the weights of the task's `best_row` so far are kept, if it selects, on the main process; what it
            has is where a training that goes on stood.
        show: Print rows, and a progress bar in a terminal.

    Returns:
        The history: rows of step, core_seconds, the logs' means since the last row, and metrics on the validation set.

    Raises:
        FloatingPointError: If the loss, or what is logged, is not finite.
    """
    on = on or accelerator()
    if settings.batch_size % on.num_processes:
        raise ValueError(f"batch_size {settings.batch_size} must be a multiple of the {on.num_processes} processes")
    data, p, best = task.dataset(settings, seed), progress or Progress(), {} if best is None else best
    optimizer = on.prepare(optimizer or new_optimizer(module, settings))
    wrapped = on.prepare(module).train()
    bar = tqdm(total=settings.steps, initial=p.step, unit="step", disable=None if show and on.is_main_process else True)
    saved = time.monotonic()
    while p.step < settings.steps:
        wall, core = time.perf_counter(), time.process_time()
        if p.step == restart_step(settings):
            now = module.state_dict()
            module.load_state_dict(broadcast({name: best.get(name, t) for name, t in now.items()}))
            optimizer.state.clear()
        seed_everything(seed, p.step, on.process_index)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(p.step, settings)
        if p.step >= settings.freeze_norm * settings.steps:
            keep_statistics(wrapped)
        here = batch_indices(len(data), settings.batch_size, seed, p.step)[on.process_index :: on.num_processes]
        batch = tuple(t.to(on.device, non_blocking=True) for t in data[here])
        with on.autocast():
            loss, logs = task.loss(wrapped, batch, settings, p.step)
        on.backward(loss)
        if settings.clip is not None:
            on.clip_grad_norm_(wrapped.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        numbers = on.reduce(torch.stack([loss.detach().float(), *(v.detach().float() for v in logs.values())]), "mean")
        logged = dict(zip(["loss", *logs], numbers.tolist(), strict=True))
        for name, value in logged.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {p.step}: lower lr, inner_lr or clip")
        p.sums = {name: p.sums.get(name, 0.0) + value for name, value in logged.items()}
        p.step, p.count = p.step + 1, p.count + 1
        p.seconds += time.perf_counter() - wall
        p.core_seconds += (time.process_time() - core) * on.num_processes
        bar.set_postfix({name: f"{value:.3g}" for name, value in logged.items()}, refresh=False)
        bar.update()
        if not on.is_main_process:
            continue
        if p.step % settings.eval_every == 0 or p.step == settings.steps:
            means = {name: total / p.count for name, total in p.sums.items()}
            metrics = evaluate_module(task, module, settings, on.device, "val")
            p.history.append({"step": p.step, "core_seconds": round(p.core_seconds, 2), **means, **metrics})
            p.sums, p.count = {}, 0
            if task.select and task.best_row(p.history) is p.history[-1]:
                best.update({name: t.detach().clone() for name, t in module.state_dict().items()})
            if show:
                tqdm.write(describe_row(task, p.history[-1]))
        if p.step == settings.steps or time.monotonic() - saved >= 60 * save_minutes:
            save()
            saved = time.monotonic()
    bar.close()
    return p.history


def keep_statistics(module: nn.Module) -> None:
    """Let batch normalisation use, and no longer change, the running statistics it has; the rest of a module trains."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def new_optimizer(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam; its weight decay is an L2 penalty, whose gradient is not clipped."""
    betas = (0.9, settings.beta2)
    return torch.optim.Adam(module.parameters(), lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)


def evaluate_module(
    task: Task, module: nn.Module, settings: Settings, device: torch.device, split: str
) -> dict[str, float]:
    """A task's metrics of a module in eval mode; the module's own mode is put back."""
    was_training = module.training
    module.eval()
    seed_everything(0)
    with torch.no_grad():
        metrics = task.evaluate(module, settings, device, split)
    module.train(was_training)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def collapsed(row: dict[str, float]) -> bool:
    """Whether a row of logs or metrics shows a refiner that does nothing (`moved` about 0)."""
    return row.get("moved", 1.0) < MOVED


def in_vain(row: dict[str, float]) -> bool:
    """Whether a row of logs shows a refiner that moves its set, but hardly towards z (see notebook 06, section 8)."""
    return not collapsed(row) and row.get("inner_last", 0.0) > (1 - TAKEN) * row.get("inner_first", math.inf)


def describe_row(task: Task, row: dict[str, float]) -> str:
    """A row of the history as one line."""
    line = f"step {row['step']}  {row['core_seconds'] / 60:.1f} core-min  loss {row['loss']:.4g}"
    if "moved" in row:
        line += f"  inner {row['inner_first']:.3g} -> {row['inner_last']:.3g}  moved {row['moved']:.3g}"
    line += "".join(f"  {key} {row[key]:.1f}" for key in task.rows if key in row)
    if collapsed(row):
        return line + "  (COLLAPSED: the refiner does nothing; raise inner_lr)"
    return line + ("  (IN VAIN: the inner loss hardly falls; try another inner_lr)" if in_vain(row) else "")
