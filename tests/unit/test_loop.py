"""What one step of the loop does: its rate, its gradient, its precision, its examples, its draws, and the rows."""

import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from srnlib import loop, train
from srnlib.runs import Run
from srnlib.tasks.circles import Circles

SHORT = {"steps": 12, "eval_every": 5, "train_images": 40, "val_images": 2, "test_images": 2}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "data"))


def test_every_step_has_its_rate_and_a_clipped_gradient():
    run = Run.of("circles", "baseline", "smoke", **SHORT, warmup=0.5, cooldown=0.25, clip=1e-3, beta2=0.9)
    module = run.task.build(run.model, run.settings)
    optimizer, rates, norms = loop.new_optimizer(module, run.settings), [], []

    def watch(optimizer, *_):
        rates.append(optimizer.param_groups[0]["lr"])
        norms.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm().item())

    optimizer.register_step_pre_hook(watch)
    loop.fit(run.task, module, run.settings, 0, on=loop.accelerator("cpu"), optimizer=optimizer, show=False)
    assert rates == [loop.learning_rate(step, run.settings) for step in range(12)] and len(set(rates)) > 6
    assert norms == pytest.approx([1e-3] * 12, rel=1e-2)  # all were longer
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)


class Counting(Circles):
    """Logs its step, and whether a product is of half precision."""

    def loss(self, module, batch, settings, step):
        loss, logs = super().loss(module, batch, settings, step)
        half = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        return loss, logs | {"at": torch.tensor(float(step)), "half": torch.tensor(float(half))}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_rows_hold_means_since_the_row_before_and_the_forward_pass_has_its_precision(precision):
    run = Run.of(Counting(), "baseline", "smoke", **SHORT)
    history = train.train(run, device="cpu", precision=precision, show=False)["history"]
    assert [row["at"] for row in history] == [2.0, 7.0, 10.5]  # of steps 0..4, 5..9, 10 and 11
    assert {row["half"] for row in history} == {float(precision == "bf16")}


def test_the_last_part_batch_of_an_epoch_is_left_out():
    batches = [loop.batch_indices(11, 5, 3, step) for step in range(4)]
    assert [len(set(b.tolist())) for b in batches] == [5] * 4
    for at in (0, 2):
        assert len(set(torch.cat(batches[at : at + 2]).tolist())) == 10


def test_states_are_saved_every_so_many_minutes(monkeypatch):
    run = Run.of("circles", "baseline", "smoke", **SHORT)
    now, at, progress = iter(range(0, 10**6, 20)), [], loop.Progress()  # twenty seconds between two looks
    clock = SimpleNamespace(monotonic=lambda: next(now), perf_counter=time.perf_counter, process_time=time.process_time)
    on = loop.accelerator("cpu")
    monkeypatch.setattr(loop, "time", clock)
    ways = dict(on=on, progress=progress, save=lambda: at.append(progress.step), save_minutes=1, show=False)
    loop.fit(run.task, run.task.build(run.model, run.settings), run.settings, 0, **ways)
    assert at == [3, 6, 9, 12]


@pytest.mark.parametrize("draw", [torch.rand, np.random.rand, lambda n: [random.random() for _ in range(n)]])
def test_a_key_seeds_every_generator(draw):
    found = []
    for key in ((1, 2), (1, 2), (1, 3)):
        loop.seed_everything(*key)
        found.append(list(map(float, draw(3))))
    assert found[0] == found[1] != found[2]


def test_an_evaluation_draws_the_same_whenever_it_is():
    class Drawing(Circles):
        def evaluate(self, module, settings, device, split):
            return {"drawn": torch.rand(()).item()}

    one, other = (loop.evaluate_module(Drawing(), torch.nn.Identity(), None, "cpu", "val") for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    "name, bad",
    [
        ("steps", 0),
        ("batch_size", -1),
        ("lr", float("nan")),
        ("eval_every", 0),
        ("clip", 0.0),
        ("weight_decay", -0.1),
        ("beta2", 1.0),
        ("warmup", -0.1),
        ("cooldown", 1.1),
        ("freeze_norm", 1.1),
        ("restart", 0.0),
        ("restart", 1.5),
        ("val_images", 0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, bad):
    with pytest.raises(ValueError, match=f"{name}.* must be "):
        Run.of("circles", "srn", "smoke", **{name: bad})
