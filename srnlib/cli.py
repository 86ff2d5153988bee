"""The command line: `python -m srnlib train | evaluate | tables | data | list`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """The group of commands; of a wrong one it says which there are."""

    def resolve_command(self, ctx, args):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}; commands: {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

TaskName = Annotated[str, typer.Argument(help="Task; `list` shows them.", show_default=False)]
_MODEL = typer.Option(help="Model of the task; `list` shows them.", show_default="its first SRN")
Model = Annotated[str | None, _MODEL]
Profile = Annotated[str, typer.Option(help="smoke (seconds), laptop (hours on one core) or paper (GPU).")]
Seed = Annotated[int, typer.Option(help="Seed of weights, data and their order.")]
_SET = typer.Option("--set", help="Change a setting, e.g. steps=100; may be repeated.", metavar="NAME=VALUE")
Set = Annotated[list[str] | None, _SET]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Threads = Annotated[int, typer.Option(help="CPU threads. These models are small: more than one slows them.", min=1)]


@app.callback()
def main() -> None:
    """Train and evaluate Set Refiner Networks, and make the tables from the results."""


@app.command()
def train(
    task: TaskName,
    model: Model = None,
    profile: Profile = "laptop",
    seed: Seed = 0,
    overrides: Set = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="no (float32) or bf16.")] = "no",
    threads: Threads = 1,
    save_minutes: Annotated[float, typer.Option(help="Minutes between two saved states.", min=0)] = 3.0,
    force: Annotated[bool, typer.Option("--force", help="Start again, discarding what is there.")] = False,
) -> None:
    """Train a model, evaluate it, and write checkpoint and record.

    Interrupted in any way, the same command goes on where it was (with --force it starts again). On several processes,
    of CPU or GPU: `torchrun --nproc_per_node 2 -m srnlib train ...`.
    """
    run = _run(task, model, profile, seed, overrides, threads)
    from srnlib import loop
    from srnlib import train as training

    record = _refusing(training.train, run, device=device, precision=precision, save_minutes=save_minutes, force=force)
    if record:
        _show(record["metrics"])
    loop.leave()


@app.command()
def evaluate(
    task: TaskName,
    model: Model = None,
    profile: Profile = "laptop",
    seed: Seed = 0,
    overrides: Set = None,
    device: Device = "auto",
    threads: Threads = 1,
    write: Annotated[bool, typer.Option("--write", help="Put the metrics into the run's record.")] = False,
) -> None:
    """Evaluate a trained model on the fixed test set."""
    run = _run(task, model, profile, seed, overrides, threads)
    from srnlib import train as training

    _show(_refusing(training.evaluate, run, device=device, write=write))


@app.command()
def tables(
    task: Annotated[str | None, typer.Argument(help="Task; all if not given.", show_default=False)] = None,
    trials: Annotated[bool, typer.Option("--trials", help="Also runs with changed settings.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Put the overview into README.md instead.")] = False,
) -> None:
    """Print the tables of the results beside the paper's numbers."""
    from srnlib import results
    from srnlib.files import write_atomic

    if write:
        readme = results.data_dir().parent / "README.md"
        overview = _refusing(results.overview, map(_task, _tasks()))
        text = _refusing(results.refresh, _refusing(readme.read_text, "utf-8"), overview)
        write_atomic(readme, text.encode())
        print(f"{readme}: table refreshed")
        return
    for name in [task] if task else list(_tasks()):
        known = _task(name)
        for profile in _refusing(results.profiles, known, trials) or ["laptop"]:
            print(f"\n{name}, profile {profile}\n\n{results.table(known, profile)}")


@app.command()
def data(
    task: TaskName, model: Model = None, profile: Profile = "laptop", seed: Seed = 0, overrides: Set = None
) -> None:
    """Make a task's data, if they are not there yet, and say what they are."""
    run = _run(task, model, profile, seed, overrides)
    print(json.dumps(_refusing(run.task.describe, run.settings, run.seed), indent=1))


@app.command("list")
def list_() -> None:
    """List tasks, models and profiles, and the runs that are finished or under way."""
    from srnlib import checkpoints, results
    from srnlib.tasks import PROFILES

    for name in _tasks():
        task = _task(name)
        print(f"{name}\n  models    {', '.join(task.models)}\n  profiles  {', '.join(PROFILES)}")
        for path in results.files(name):
            if not (record := _refusing(results.read, path)):
                print(f"  damaged   {path} is not a record of a run: restore it (git restore) or delete it")
            elif record["metrics"]:
                print(f"  trained   {path.stem} ({record['history'][-1]['core_seconds'] / 60:.1f} core-min)")
        for path in sorted((results.data_dir() / "cache" / "runs" / name).glob("*/state.safetensors")):
            try:
                _, meta = checkpoints.load_state(path)
            except checkpoints.CheckpointError as error:
                print(f"  damaged   {error}")
                continue
            print(f"  under way {path.parent.name} (step {meta['progress']['step']} of {meta['config']['steps']})")


def _tasks():
    from srnlib.tasks import TASKS

    return TASKS


def _task(name: str):
    from srnlib.tasks import UnknownName

    try:
        return _tasks()[name]
    except UnknownName as error:
        raise typer.BadParameter(str(error)) from error


def _run(task: str, model: str | None, profile: str, seed: int, overrides: list[str] | None, threads: int = 1):
    """The run that the options name; a wrong name ends the program with the right ones and code 2."""
    import torch

    from srnlib.runs import Run
    from srnlib.tasks import UnknownName, choose

    torch.set_num_threads(threads)
    pairs = [text.partition("=") for text in overrides or []]
    for name, equals, _ in pairs:
        if not equals:
            raise typer.BadParameter(f"--set takes NAME=VALUE, got {name!r}")
    try:
        known = _task(task)
        model = model or next(name for name in known.models if name.startswith("srn"))
        settings = Run.of(known, model, profile, seed).config
        for name, _, _ in pairs:
            choose("setting", name, settings)  # before `seed` and the like are taken for arguments
        return Run.of(known, model, profile, seed, **{name: value for name, _, value in pairs})
    except (UnknownName, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _show(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        print(f"{name:16} {value:10.4g}")


def _refusing(call, *args, **kwargs):
    """`call(...)`; a refusal that says what to do is printed without a traceback and ends the program with code 1."""
    from srnlib import train as training

    try:
        return call(*args, **kwargs)
    except (training.RunError, ValueError, FloatingPointError, OSError, ImportError) as error:  # or a missing extra
        print(f"srnlib: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
