"""The loop and a run's life: schedule, order, resuming to the bit, killing, several processes."""

import copy
import dataclasses
import json
import math
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from srnlib import loop, train
from srnlib.checkpoints import CheckpointError, load_state, save_state
from srnlib.runs import Run
from srnlib.tasks.circles import Circles, CirclesSettings
from srnlib.train import RunError

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"steps": 12, "eval_every": 5, "train_images": 40, "val_images": 2, "test_images": 2}


@pytest.fixture(autouse=True)
def one_thread_and_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "data"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"SRNLIB_DATA": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def what_counts(record: dict) -> dict:
    """A record without times."""
    history = [{k: v for k, v in row.items() if k != "core_seconds"} for row in record["history"]]
    return {k: record[k] for k in ("config", "metrics", "checkpoint_sha256")} | {"history": history}


class Interrupted(Exception):
    pass


class Fragile(Circles):
    """Circles that breaks off at a step, once; every step also draws, to prove that draws resume too."""

    def __init__(self, at: int | None = None):
        self.at = at

    def loss(self, module, batch, settings, step):
        if step == self.at:
            self.at = None
            raise Interrupted
        loss, logs = super().loss(module, batch, settings, step)
        return loss * (1 + 0.1 * torch.rand(())), logs | {"drawn": torch.tensor(random.random())}


def test_learning_rate_rises_stays_and_falls():
    settings = CirclesSettings(
        steps=100, batch_size=1, lr=2.0, warmup=0.1, cooldown=0.5, width=1, encoder_width=1, hidden=1
    )
    rates = [loop.learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9:50] == pytest.approx([2.0] * 41)
    assert rates[75] == pytest.approx(1.0) and 0 < rates[99] < 0.01 and rates[50:] == sorted(rates[50:], reverse=True)
    constant = dataclasses.replace(settings, warmup=0.0, cooldown=0.0)
    assert {loop.learning_rate(step, constant) for step in range(100)} == {2.0}
    twice = dataclasses.replace(settings, restart=0.6)
    first, second = (dataclasses.replace(settings, steps=steps) for steps in (60, 40))
    alone = [loop.learning_rate(step, part) for part in (first, second) for step in range(part.steps)]
    assert [loop.learning_rate(step, twice) for step in range(100)] == alone


def test_weight_decay_is_added_to_the_gradient_after_clipping():
    settings = Run.of("circles", "baseline", "smoke", lr=0.5, weight_decay=0.25).settings
    module = torch.nn.Linear(3, 2)
    twin = copy.deepcopy(module)
    for net in (module, twin):
        net(torch.ones(4, 3)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    for p in twin.parameters():
        p.grad += 0.25 * p.detach()
    loop.new_optimizer(module, settings).step()
    loop.new_optimizer(twin, dataclasses.replace(settings, weight_decay=0.0)).step()
    for p, q in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_an_epoch_sees_each_example_once_and_epochs_differ():
    epochs = [torch.cat([loop.batch_indices(10, 5, 3, step) for step in (e, e + 1)]).tolist() for e in (0, 2)]
    assert all(sorted(e) == list(range(10)) for e in epochs) and epochs[0] != epochs[1]
    assert not torch.equal(loop.batch_indices(10, 5, 3, 0), loop.batch_indices(10, 5, 4, 0))
    with pytest.raises(ValueError, match="batch of 11 needs"):
        loop.batch_indices(10, 11, 0, 0)


@pytest.mark.parametrize("model", ["baseline", "srn"])
def test_loss_falls_and_the_record_is_complete(model):
    record = train.train(Run.of("circles", model, "smoke", steps=60, lr=0.02), show=False)
    assert record["history"][-1]["loss"] < 0.8 * record["history"][0]["loss"]
    design = "task model profile seed config metrics history train_seconds eval_seconds device cpu threads versions"
    assert set(record) >= {*design.split(), "commit", "command", "checkpoint", "checkpoint_sha256", "data"}
    assert ("moved" in record["metrics"]) == ("collapsed" in record["metrics"]) == (model == "srn")
    assert all(math.isfinite(v) for v in record["metrics"].values())
    assert {"decomposed.n1", "matched_iou.n3", "ari_fg.n2", "recon.mse"} <= set(record["metrics"])
    assert str(ROOT) not in json.dumps(record)


@pytest.mark.parametrize("at", [1, 5, 7])
def test_resumes_to_the_bit(at):
    whole = train.train(Run.of(Fragile(), "srn", "smoke", seed=1, **SHORT), show=False)
    run = Run.of(Fragile(at), "srn", "smoke", seed=1, **SHORT)
    run.result.unlink()
    with pytest.raises(Interrupted):
        train.train(run, save_minutes=0, show=False)
    assert load_state(run.state)[1]["progress"]["step"] == at
    assert what_counts(train.train(run, show=False)) == what_counts(whole)
    assert not run.state.parent.exists()


class Selecting(Fragile):
    """The second of three rows scores best, whatever the weights are."""

    select = "score"

    def evaluate(self, module, settings, device, split):
        self.asked = getattr(self, "asked", 0) + 1
        weight = {"weight": module.decoder.project.weight.sum().item()}
        return {"score": [1.0, 3.0, 2.0, 0.0][self.asked - 1], **weight}

    def summarise(self, history):
        return {"rows": float(len(history))}


@pytest.mark.parametrize("at", [None, 7, 11])
def test_the_best_row_of_the_validation_is_what_is_kept(at):
    task = Selecting(at)
    run = Run.of(task, "srn", "smoke", seed=1, **SHORT)
    if at is not None:
        with pytest.raises(Interrupted):
            train.train(run, save_minutes=0, show=False)
    record = train.train(run, show=False)
    assert task.asked == 4 and record["metrics"]["rows"] == 3
    assert [row["step"] for row in record["history"]] == [5, 10, 12]
    assert record["metrics"]["weight"] == record["history"][1]["weight"] != record["history"][2]["weight"]
    assert json.loads(run.checkpoint.with_suffix(".json").read_bytes())["step"] == 10


class Watched(Selecting):
    """Notes a weight before every step."""

    def __init__(self, at=None):
        super().__init__(at)
        self.before = {}

    def loss(self, module, batch, settings, step):
        self.before[step] = module.decoder.project.weight.sum().item()
        return super().loss(module, batch, settings, step)


@pytest.mark.parametrize("at", [None, 7, 11])  # the last: between the state and the restart
def test_a_restart_goes_on_from_the_best_weights_with_a_fresh_adam(at, monkeypatch):
    task, made = Watched(at), []
    new = loop.new_optimizer
    monkeypatch.setattr(loop, "new_optimizer", lambda *of: made.append(new(*of)) or made[-1])
    run = Run.of(task, "srn", "smoke", seed=1, **SHORT | {"restart": 0.9, "eval_every": 1})
    assert loop.restart_step(run.settings) == 11
    monkeypatch.setattr(task, "evaluate", lambda module, *_: {"score": float(-abs(len(task.before) - 4))})
    if at is not None:
        with pytest.raises(Interrupted):
            train.train(run, save_minutes=0, show=False)
    train.train(run, show=False)
    assert task.before[11] == task.before[4] != task.before[10]  # row 4 was the best: as step 4 found it
    assert {int(state["step"]) for state in made[-1].state.values()} == {1}


@pytest.mark.parametrize("at", [6, 8, 9, 10])  # a state before, at and after the restart
def test_a_restart_resumes_to_the_bit(at):
    ways = SHORT | {"restart": 0.75, "warmup": 0.2, "cooldown": 0.4}
    whole = train.train(Run.of(Fragile(), "srn", "smoke", seed=1, **ways), show=False)
    run = Run.of(Fragile(at), "srn", "smoke", seed=1, **ways)
    run.result.unlink()
    with pytest.raises(Interrupted):
        train.train(run, save_minutes=0, show=False)
    assert what_counts(train.train(run, show=False)) == what_counts(whole)


def test_evaluating_more_often_changes_nothing_else():
    sparse = train.train(Run.of(Fragile(), "srn", "smoke", **SHORT), show=False)
    often = train.train(Run.of(Fragile(), "srn", "smoke", **SHORT | {"eval_every": 1}), show=False)
    assert sparse["checkpoint_sha256"] == often["checkpoint_sha256"]


@pytest.mark.slow
def test_killed_at_random_moments_ends_with_the_same_bits(tmp_path, monkeypatch):
    run = Run.of("circles", "srn", "smoke", steps=100)
    whole = train.train(run, show=False)
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "killed"))
    command = [sys.executable, "-m", "srnlib", "train", "circles", "--profile", "smoke", "--set", "steps=100"]
    seen = []
    for _ in range(2):
        before = run.state.stat().st_mtime_ns if run.state.exists() else 0
        process = subprocess.Popen(
            [*command, "--threads", "1", "--save-minutes", "0"], env=environment(tmp_path / "killed"), cwd=tmp_path
        )
        while not run.state.exists() or run.state.stat().st_mtime_ns == before:
            assert process.poll() is None, "the run ended before it saved a state"
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(load_state(run.state)[1]["progress"]["step"])
    assert 0 < seen[0] < seen[1] < 100
    assert what_counts(train.train(run, show=False)) == what_counts(whole)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    script = ROOT / "tests" / "unit" / "two_processes.py"
    alone = runpy.run_path(str(script))["main"]()
    found = [alone, json.loads(_run([*_torchrun(), str(script)], tmp_path).splitlines()[-1])]
    assert [f["processes"] for f in found] == [1, 2]
    assert found[0]["restarted"][:6] == found[0]["attached"][:6] and found[0]["restarted"][6] != found[0]["attached"][6]
    for kind in ("attached", "detached", "restarted"):
        assert len(found[0][kind]) == 10 and len(set(found[0][kind])) == 10
        assert found[1][kind] == pytest.approx(found[0][kind], rel=1e-6)


@pytest.mark.slow
def test_two_processes_train_circles_to_the_end(tmp_path):
    _run([*_torchrun(), "-m", "srnlib", "train", "circles", "--profile", "smoke", "--set", "steps=8"], tmp_path)
    [result] = (tmp_path / "data" / "results" / "circles").iterdir()
    record = json.loads(result.read_bytes())
    assert record["command"].startswith("torchrun --nproc_per_node 2 -m srnlib") and record["history"][-1]["step"] == 8


def test_one_process_where_the_launcher_was_asked_for_several_is_told(monkeypatch):
    assert Run.of("circles", "srn").command(processes=2).startswith("torchrun --nproc_per_node 2 -m srnlib train")
    loop.accelerator()  # alone, it says nothing
    for name, value in (("ACCELERATE_DYNAMO_BACKEND", "NO"), ("MASTER_PORT", "29500")):  # what Accelerate's sets
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="started one: .* use torchrun --nproc_per_node 2 -m srnlib"):
        loop.accelerator()


def _torchrun() -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def _run(arguments: list[str], folder: Path) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment(folder / "data"), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_finished_run_is_left_alone_and_force_starts_again(capsys):
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    first = train.train(run, show=False)
    written = run.result.stat().st_mtime_ns
    assert train.train(run) == first and "trained already" in capsys.readouterr().out
    assert run.result.stat().st_mtime_ns == written
    again = train.train(run, force=True, show=False)
    assert run.result.stat().st_mtime_ns > written and what_counts(again) == what_counts(first)


def test_force_keeps_what_is_there_until_the_new_is_and_goes_on_without_it():
    run = Run.of(Fragile(), "baseline", "smoke", **SHORT)
    first = train.train(run, show=False)
    again = Run.of(Fragile(5), "baseline", "smoke", **SHORT)
    with pytest.raises(Interrupted):
        train.train(again, force=True, save_minutes=0, show=False)
    assert run.record() == first and train.load_module(run)
    assert load_state(run.state)[1]["progress"]["step"] == 5
    written = run.result.stat().st_mtime_ns
    assert what_counts(train.train(again, show=False)) == what_counts(first)  # the rest of it, not the old record
    assert run.result.stat().st_mtime_ns > written and not run.state.exists()


def test_a_record_whose_weights_are_not_shipped_says_how_to_train_them():
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    train.train(run, show=False)
    run.checkpoint.unlink()
    with pytest.raises(RunError, match=r"seed0\.json is there, but .*\.safetensors is not: --force trains it again"):
        train.train(run, show=False)
    assert train.train(run, force=True, show=False) == run.record()


def test_another_configuration_is_refused_by_name():
    run = Run.of(Fragile(6), "srn", "smoke", **SHORT)
    with pytest.raises(Interrupted):
        train.train(run, save_minutes=0, show=False)
    other = dataclasses.replace(run, settings=dataclasses.replace(run.settings, lr=0.5))
    with pytest.raises(RunError, match=r"state\.safetensors .*lr 0\.001 there, 0\.5 now.*--force"):
        train.train(other, show=False)
    tensors, meta = load_state(run.state)
    save_state(run.state, tensors, meta | {"processes": 2})
    with pytest.raises(RunError, match="processes 2 there, 1 now"):
        train.train(run, show=False)
    save_state(run.state, tensors, meta)
    train.train(run, show=False)
    with pytest.raises(RunError, match=r"seed0\.json .*lr"):
        train.train(other, show=False)


def test_what_belongs_to_another_run_is_refused():
    """The state and the checkpoint of another seed or model in the place of ours."""
    runs = [
        Run.of(Fragile(6), model, "smoke", seed, **SHORT) for model, seed in (("srn", 0), ("srn", 1), ("baseline", 0))
    ]
    for run in runs:
        with pytest.raises(Interrupted):
            train.train(run, save_minutes=0, show=False)
    ours = runs[0].state.read_bytes()
    for other, says in zip(runs[1:], ("seed 1 there, 0 now", "model 'baseline' there, 'srn' now"), strict=True):
        runs[0].state.write_bytes(other.state.read_bytes())
        with pytest.raises(RunError, match=rf"state\.safetensors .*{says}"):
            train.train(runs[0], show=False)
    runs[0].state.write_bytes(ours)
    for run in runs:
        train.train(run, show=False)
    files = [[file.read_bytes() for file in (r.checkpoint, r.checkpoint.with_suffix(".json"))] for r in runs]
    for other, says in ((1, "seed 1"), (2, "model 'baseline'")):
        for content, file in zip(
            files[other], (runs[0].checkpoint, runs[0].checkpoint.with_suffix(".json")), strict=True
        ):
            file.write_bytes(content)
        for call in (train.load_module, train.evaluate):
            with pytest.raises(CheckpointError, match=f"srn-smoke.*is of another run: .*{says}"):
                call(runs[0])
        with pytest.raises(RunError, match="are not of the same training"):
            train.evaluate(runs[0], write=True)


def test_a_finished_run_of_another_precision_is_refused():
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    record = train.train(run, show=False)
    assert record["precision"] == "no" and record["processes"] == 1
    for name, value in (("precision", "bf16"), ("processes", 2)):
        run.result.write_text(json.dumps(record | {name: value}))
        with pytest.raises(RunError, match=rf"seed0\.json .*{name} {value!r} there"):
            train.train(run, show=False)
    older = {name: value for name, value in record.items() if name not in ("precision", "processes")}
    run.result.write_text(json.dumps(older))
    assert train.train(run, show=False) == older


def test_a_damaged_state_is_refused_by_name():
    run = Run.of(Fragile(6), "srn", "smoke", **SHORT)
    with pytest.raises(Interrupted):
        train.train(run, save_minutes=0, show=False)
    run.state.write_bytes(run.state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors .*--force"):
        train.train(run, show=False)
    assert train.train(run, force=True, show=False)["history"][-1]["step"] == 12


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b"[]", lambda b: b'{"config": 1}'])
def test_a_damaged_record_is_refused_by_name(damage):
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    with pytest.raises(RunError, match=r"seed0\.json does not exist: train the run first \(python -m srnlib train"):
        train.evaluate(run, write=True)
    train.train(run, show=False)
    run.result.write_bytes(damage(run.result.read_bytes()))
    for call in (train.train, lambda run: train.evaluate(run, write=True)):
        with pytest.raises(RunError, match=r"baseline-smoke.*seed0\.json is truncated or foreign.*delete it.*--force"):
            call(run)
    assert train.train(run, force=True, show=False) == run.record()


def test_load_module_and_evaluate_give_the_recorded_metrics():
    run = Run.of("circles", "srn", "smoke", **SHORT)
    record = train.train(run, show=False)
    assert not train.load_module(run).training
    metrics = train.evaluate(run, write=True)
    assert metrics == {k: v for k, v in record["metrics"].items() if k != "collapsed"}
    assert json.loads(run.result.read_bytes())["metrics"] == record["metrics"]
    later = dataclasses.replace(run, settings=dataclasses.replace(run.settings, test_images=3))
    assert train.evaluate(later) == metrics  # with the settings it was trained with


def test_a_checkpoint_with_other_settings_than_ours_is_refused():
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    train.train(run, show=False)
    side = run.checkpoint.with_suffix(".json")
    meta = json.loads(side.read_bytes())
    for config in ({k: v for k, v in meta["config"].items() if k != "hidden"}, meta["config"] | {"hiden": 3}):
        side.write_text(json.dumps(meta | {"config": config}))
        with pytest.raises(CheckpointError, match=r"baseline-smoke.*differ in hid"):
            train.load_module(run)
    for config in ({"hidden": "abc"}, {"width": 0}):
        side.write_text(json.dumps(meta | {"config": meta["config"] | config}))
        with pytest.raises(CheckpointError, match=r"side file of .*baseline-smoke.*make no sense"):
            train.load_module(run)


def test_a_setting_that_came_later_has_its_default_in_older_checkpoints():
    run = Run.of("circles", "srn", "smoke", **SHORT, detach_init=True)
    train.train(run, show=False)
    side = run.checkpoint.with_suffix(".json")
    meta = json.loads(side.read_bytes())
    del meta["config"]["detach_init"]
    side.write_text(json.dumps(meta))
    assert train.load_module(run).refiner.detach_init is False


def test_a_finished_run_of_before_a_setting_is_left_alone(capsys):
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    record = train.train(run, show=False)
    del record["config"]["freeze_norm"]
    run.result.write_text(json.dumps(record))
    assert train.train(run) == record and "trained already" in capsys.readouterr().out


def statistics(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All that batch normalisation remembers."""
    return {name: t.clone() for name, t in module.state_dict().items() if "running_" in name or "num_batches" in name}


def test_batch_normalisation_keeps_its_statistics_from_the_asked_step_on():
    run = Run.of("circles", "baseline", "smoke", **SHORT, freeze_norm=0.5)
    seen = []

    class Watched(Circles):
        def loss(self, module, batch, settings, step):
            seen.append((step, statistics(module), module.decoder.project_norm.training, module.training))
            return super().loss(module, batch, settings, step)

    module = run.task.build(run.model, run.settings)
    loop.fit(Watched(), module, run.settings, 0, show=False)
    last = statistics(module)
    assert last and [training for _, _, training, _ in seen] == [True] * 6 + [False] * 6
    assert all(whole for *_, whole in seen)  # the rest of the module trains on, also after an evaluation
    for step, before, *_ in seen:
        assert all(torch.equal(before[name], last[name]) for name in last) == (step >= 6)
    with pytest.raises(ValueError, match="0 to 1, got 1.5"):
        dataclasses.replace(run.settings, freeze_norm=1.5)


def test_frozen_normalisation_resumes_to_the_bit(tmp_path, monkeypatch):
    changes = SHORT | {"freeze_norm": 0.5}
    whole = train.train(Run.of(Fragile(), "srn", "smoke", **changes), show=False)
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "other"))
    broken = Run.of(Fragile(9), "srn", "smoke", **changes)
    with pytest.raises(Interrupted):
        train.train(broken, save_minutes=0, show=False)
    assert what_counts(train.train(broken, show=False)) == what_counts(whole)


def test_a_collapsed_refiner_is_flagged(capsys):
    record = train.train(Run.of("circles", "srn", "smoke", **SHORT, inner_lr=1e-6))
    assert record["metrics"]["collapsed"] == 1.0 and "COLLAPSED" in capsys.readouterr().out


def test_a_refiner_that_moves_in_vain_is_told():
    row = {"step": 1, "core_seconds": 0.0, "loss": 1.0, "inner_first": 30.0, "inner_last": 29.0, "moved": 0.3}
    for changes, says in (({}, "IN VAIN"), ({"inner_last": 26.0}, ""), ({"moved": 0.001}, "COLLAPSED")):
        line = loop.describe_row(Circles(), row | changes)
        assert [word for word in ("IN VAIN", "COLLAPSED") if word in line] == ([says] if says else [])
    plain = {name: row[name] for name in ("step", "core_seconds", "loss")}
    assert not loop.in_vain(plain) and not loop.collapsed(plain)


class Diverging(Circles):
    def __init__(self, what: str):
        self.what = what

    def loss(self, module, batch, settings, step):
        loss, logs = super().loss(module, batch, settings, step)
        bad = math.inf if step == 2 else 1
        return (loss * bad, logs) if self.what == "loss" else (loss, logs | {self.what: logs[self.what] * bad})


@pytest.mark.parametrize("what", ["loss", "inner_last"])
def test_a_loss_or_log_that_is_not_finite_ends_the_run(what):
    with pytest.raises(FloatingPointError, match=f"{what} is inf at step 2"):
        train.train(Run.of(Diverging(what), "srn", "smoke", **SHORT), show=False)


def test_a_run_whose_files_cannot_be_named_is_refused_before_it_trains(tmp_path):
    room = 255 - len("srn-smoke+source=-seed0.safetensors")
    with pytest.raises(RunError, match=r"srn-smoke\+source=a+-seed0.safetensors is too long for a file's name: change"):
        train.train(Run.of("clevr", "srn", "smoke", source="a" * (room + 1)), show=False)
    with pytest.raises(FileNotFoundError):  # this one has a name; there is no such folder
        train.train(Run.of("clevr", "srn", "smoke", source="a" * room), show=False)
    assert not any(tmp_path.rglob("*.safetensors"))


def test_bad_devices_and_batches_are_refused():
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or mps"):
        loop.accelerator("tpu")
    for device, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if not there:
            with pytest.raises(ValueError, match=f"device {device}: torch sees none here"):
                loop.accelerator(device)
    with pytest.raises(ValueError, match="batch of 100 needs"):
        train.train(Run.of("circles", "baseline", "smoke", **SHORT, batch_size=100), show=False)


def test_one_program_trains_with_one_precision_after_the_other():
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    for precision in ("no", "bf16", "no"):
        assert train.train(run, precision=precision, force=True, show=False)["precision"] == precision


def test_fit_trains_in_place_without_files(tmp_path):
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    module = run.task.build(run.model, run.settings)
    before = module.decoder.project.weight.clone()
    assert [row["step"] for row in loop.fit(run.task, module, run.settings, 0, show=False)] == [5, 10, 12]
    assert not torch.equal(before, module.decoder.project.weight)
    assert not (tmp_path / "data").exists()


def test_a_folder_that_takes_no_files_is_refused_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "file"))
    run = Run.of(Fragile(at=0), "baseline", "smoke", **SHORT)  # would break off at its first step
    with pytest.raises(RunError, match="cannot be written.*SRNLIB_DATA"):
        train.train(run, show=False)


class Describing(Fragile):
    def describe(self, settings, seed):
        raise ValueError("there are not enough scenes to test on")


def test_what_the_test_would_refuse_is_refused_before_the_training():
    with pytest.raises(ValueError, match="not enough scenes"):
        train.train(Run.of(Describing(at=0), "baseline", "smoke", **SHORT), show=False)
