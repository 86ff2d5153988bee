"""No GPU here: every task on a pretended device that refuses what CUDA or MPS would."""

import dataclasses

import pytest
import torch
from pretend import DEVICE, pretend_device

import srnlib
from srnlib.tasks import TASKS

RUNS = [(name, model) for name in TASKS for model in TASKS[name].models if name != "clutrr"]  # as clutrr_generated


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path))


@pytest.mark.parametrize("way", ["smoke", "paper"])
@pytest.mark.parametrize("name, model", RUNS)
def test_every_model_trains_and_is_tested_on_a_device(name, model, way):
    task = TASKS[name]
    settings = task.settings("smoke", model)
    if way == "paper":  # as small, with the switches of `paper`
        paper = dataclasses.asdict(task.settings("paper", model))
        switches = {k: v for k, v in paper.items() if isinstance(v, bool | str) and not k.startswith("source")}
        settings = dataclasses.replace(settings, **switches)
    task.describe(settings, 0)
    data = task.dataset(settings, 0)
    torch.manual_seed(0)
    with pretend_device():
        module = task.build(model, settings).to(DEVICE)
        batch = (t.to(DEVICE) for t in data[torch.arange(settings.batch_size)])
        loss, logs = task.loss(module.train(), tuple(batch), settings, 0)
        assert {loss.device, *(v.device for v in logs.values())} == {DEVICE}
        loss.backward()
        with torch.no_grad():
            found = task.evaluate(module.eval(), settings, DEVICE, "val")
    assert found and any(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("grad", ["unroll", "truncate:1", "implicit", "implicit:2"])
def test_refiners_descend_on_a_device_in_every_gradient_mode(grad):
    with pretend_device():
        S0, z = torch.randn(2, 30, 4, device=DEVICE, requires_grad=True), torch.randn(2, 8, device=DEVICE)
        for H_agg in (srnlib.SetEncoder(4, 8, hidden=8), srnlib.PairSetEncoder(4, 8, hidden=8)):
            refiner = srnlib.RestartedRefiner(
                H_agg, steps=3, inner_lr=0.1, momentum=0.5, grad=grad, jitter=0.5, starts=3, eval_steps=4
            ).to(DEVICE)
            for mode in (True, False):
                S, trace = refiner.train(mode)(S0, z)
                assert S.device == trace.inner_loss.device == trace.step_norm.device == DEVICE
                S.sum().backward()
                with torch.inference_mode():
                    assert refiner(S0, z)[0].device == DEVICE
        nodes, edges = torch.randn(2, 4, 3, device=DEVICE), torch.randn(2, 4, 4, 2, device=DEVICE)
        H_agg = srnlib.GraphEncoder(3, 2, 8, hidden=8)
        graph = srnlib.GraphRefiner(H_agg, steps=2, inner_lr=0.1, grad=grad).to(DEVICE)
        assert {t.device for t in graph(nodes, edges, z)[:2]} == {DEVICE}
        mask = torch.arange(30, device=DEVICE) < torch.tensor([[3], [30]], device=DEVICE)
        assert srnlib.FSPool(4).to(DEVICE)(S0, mask).device == DEVICE


def test_the_pretended_device_refuses_what_a_real_one_does():
    with pretend_device():
        here, there = torch.randn(3, device=DEVICE), torch.ones(3)
        assert (here + 1).device == here[torch.tensor([0])].device == DEVICE != here.cpu().device
        assert torch.nn.Linear(3, 2).to(DEVICE)(here).device == DEVICE
        refused = {
            "mixes": lambda: here + there,
            "numpy": here.numpy,
            "doubles": here.double,
            "integers": lambda: here.long() @ here.long(),
            "generator": lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
        }
        for why, call in refused.items():
            with pytest.raises((RuntimeError, TypeError), match=why):
                call()
