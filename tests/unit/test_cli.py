"""The command line: what it prints, refuses and returns."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from srnlib.cli import _run, app
from srnlib.runs import Run
from srnlib.tasks import TASKS, UnknownName

NO_SETTINGS = ("cls", "task", "model", "profile", "seed")
TINY = ["--profile", "smoke", "--set", "steps=2", "--set", "test_images=2", "--set", "val_images=2"]


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_help_names_every_command(cli):
    text = cli("--help").output
    assert all(command in text for command in ("train", "evaluate", "tables", "data", "list"))
    text = cli("train", "--help").output
    assert all(option in text for option in ("--model", "--profile", "--seed", "--set", "--force"))


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["circels"], "circles"),
        (["circles", "--model", "sn"], "baseline, srn"),
        (["circles", "--profile", "tiny"], "smoke, laptop, paper"),
        (["circles", "--set", "step=3"], "batch_size"),
        *((["circles", "--set", f"{name}=3"], f"no setting '{name}'; settings: steps") for name in NO_SETTINGS),
        (["circles", "--set", "steps=many"], "steps must be int"),
        (["circles", "--set", "steps"], "NAME=VALUE"),
        (["circles", "--set", "lr=-1"], "lr must be positive"),
        (["circles", "--set", "clip=-1"], "clip must be positive"),
        (["circles", "--set", "clip=nan"], "clip must be positive"),
        (["circles", "--set", "warmup=nan"], "warmup nan"),
        (["circles", "--set", "weight_decay=-1"], "weight_decay -1"),
        (["circles", "--set", "cells=0"], "cells must be 1 or more"),
        (["circles", "--set", "width=0"], "width must be 1 or more"),
        (["circles", "--set", "element_dim=0"], "element_dim must be 1 or more"),
        (["circles", "--set", "test_images=0"], "test_images must be 1 or more, got 0"),
        (["pong", "--set", "val_episodes=-1"], "val_episodes must be 1 or more, got -1"),
        (["circles", "--seed", "-1"], "seed must be a whole number in 0..999999, got -1"),
    ],
)
def test_wrong_names_list_the_right_ones_and_exit_2(cli, arguments, named):
    done = cli("train", *arguments)
    assert done.exit_code == 2 and named in done.output


@pytest.mark.parametrize("task, model", [("circles", "srn"), ("pong", "srn_k3"), ("shapes", "srn_k5")])
def test_without_a_model_a_task_trains_its_first_srn(cli, task, model):
    assert all(any(name.startswith("srn") for name in known.models) for known in TASKS.values())
    assert _run(task, None, "smoke", 0, None).model == model


def test_tables_show_trials_only_when_asked_or_alone(cli, tmp_path):
    folder = tmp_path / "data" / "results" / "circles"
    folder.mkdir(parents=True)
    record = {"model": "srn", "metrics": {"decomposed.n1": 1.0}, "history": [{"core_seconds": 1}]}
    (folder / "a-seed0.json").write_text(json.dumps(record | {"profile": "smoke+steps=2"}))
    assert "profile smoke+steps=2" in cli("tables").output
    (folder / "b-seed0.json").write_text(json.dumps(record | {"profile": "smoke"}))
    assert "steps=2" not in cli("tables").output and "profile smoke+steps=2" in cli("tables", "--trials").output


def test_train_evaluate_list_tables_write(cli, tmp_path):
    assert "under way" not in cli("list").output
    first = cli("train", "circles", *TINY)
    assert first.exit_code == 0 and "decomposed.n1" in first.output
    assert "trained already" in cli("train", "circles", *TINY).output
    assert "recon.mse" in cli("evaluate", "circles", *TINY).output
    stem = "srn-smoke+steps=2+test_images=2+val_images=2-seed0"
    assert f"trained   {stem}" in cli("list").output
    record = json.loads((tmp_path / "data" / "results" / "circles" / f"{stem}.json").read_bytes())
    assert record["config"]["steps"] == 2 and "--set steps=2" in record["command"]
    assert "95.8" in cli("tables").output and "srn, ours (n=1)" in cli("tables").output


def test_tables_refreshes_the_readme(cli, tmp_path):
    readme = tmp_path / "README.md"
    assert cli("tables", "--write").exit_code == 1
    readme.write_text("no markers")
    done = cli("tables", "--write")
    assert done.exit_code == 1 and "<!-- results -->" in done.output
    readme.write_text("<!-- results -->\n<!-- /results -->\n")
    assert cli("tables", "--write").exit_code == 0 and "| SRN, ours |" in readme.read_text()


def test_a_wrong_command_lists_the_right_ones(cli):
    done = cli("trian")
    assert done.exit_code == 2 and "commands: train, evaluate, tables, data, list" in done.output


def test_a_damaged_state_or_record_does_not_hide_the_rest_of_the_list(cli, tmp_path):
    for folder, content in (("a-smoke-seed0", b"x"), ("b-smoke-seed0", b"")):
        path = tmp_path / "data" / "cache" / "runs" / "circles" / folder / "state.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    record = tmp_path / "data" / "results" / "circles" / "srn-smoke-seed0.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    done = cli("list")
    assert done.exit_code == 0 and done.output.count("  damaged   ") == 3 and "clutrr_generated" in done.output
    assert f"  damaged   {record} is not a record of a run: restore it" in done.output


def test_refusals_exit_1_with_a_message(cli):
    done = cli("evaluate", "circles", "--seed", "5")
    assert done.exit_code == 1 and "srn-laptop-seed5.safetensors is missing" in done.output


def test_a_missing_package_is_named_without_a_traceback(cli, monkeypatch):
    def describe(self, settings, seed):
        raise ImportError("pictures need Pillow: pip install pillow")

    monkeypatch.setattr(type(TASKS["circles"]), "describe", describe)
    done = cli("data", "circles")
    assert done.exit_code == 1 and "srnlib: pictures need Pillow" in done.output


def test_data_describes(cli):
    assert json.loads(cli("data", "circles", "--profile", "smoke").output)["train"] == "256 images, seed 0"
    for wrong, says in {"max_circles=1000": "do not fit", "size=0": "size must", "max_radius=-4": "max_radius"}.items():
        done = cli("data", "circles", "--profile", "smoke", "--set", wrong)
        assert done.exit_code == 1 and says in done.output


def test_overrides_are_read_by_type_and_name_the_run():
    run = Run.of("circles", "srn", "smoke", 3, lr="1", detach_init="true", clip="none", grad="truncate:2", steps="40")
    assert run.overrides == {"lr": 1.0, "detach_init": True, "clip": None, "grad": "truncate:2"}
    assert run.stem == "srn-smoke+clip=None+detach_init=True+grad=truncate_2+lr=1.0-seed3"
    assert Run.of("circles", "srn", "smoke", lr=0.001).profile == "smoke"
    for bad in ({"steps": "1.5"}, {"steps": "true"}, {"lr": "fast"}, {"detach_init": "1"}, {"steps": "none"}):
        with pytest.raises(ValueError, match=f"setting {[*bad][0]} must be"):
            Run.of("circles", "srn", "smoke", **bad)
    assert Run.of("circles", "srn", "smoke", steps=np.int64(7), lr=np.float32(0.5)).overrides == {"lr": 0.5, "steps": 7}
    pong = Run.of("pong", "srn_k3", "smoke", first="9,5,2", second=(3, 1, 1))
    assert pong.overrides == {"first": (9, 5, 2), "second": (3, 1, 1)}
    assert Run.of("pong", "srn_k3", "smoke", first=str((9, 5, 2))).settings.first == (9, 5, 2)  # as its command says it
    for wrong in ("9,five,2", 3):
        with pytest.raises(ValueError, match="setting first must be"):
            Run.of("pong", "srn_k3", "smoke", first=wrong)
    with pytest.raises(UnknownName, match="there is no setting 'stepz'"):
        Run.of("circles", "srn", "smoke", stepz=1)


def test_seeds_are_whole_numbers():
    assert json.dumps(Run.of("circles", "srn", seed=np.int64(3)).seed) == "3"
    for bad in (1.5, True, "1", None, 1_000_000):
        with pytest.raises(ValueError, match=rf"seed must be a whole number in 0\.\.999999, got {bad!r}"):
            Run.of("circles", "srn", seed=bad)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_refuses_names_that_it_does_not_know(name):
    task = TASKS[name]
    settings = task.settings("smoke", task.models[0])
    for call in (lambda: task.settings("smoke", "SRN"), lambda: task.build("SRN", settings)):
        with pytest.raises(UnknownName, match=f"there is no model 'SRN'; models: {task.models[0]}, "):
            call()
    with pytest.raises(UnknownName, match="there is no profile 'papr'; profiles: smoke, laptop, paper"):
        task.settings("papr", task.models[0])
