"""The world-model tasks: what is trained on, what is measured (by models that know the truth), equal treatment."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import torch

from srnlib import loop, train
from srnlib.data import shapes
from srnlib.runs import Run
from srnlib.tasks import TASKS, UnknownName
from srnlib.tasks.world_model import HORIZONS, Transitions, WorldModelSettings

plays = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "data"))


class Omniscient:
    """Reads the places off the pictures and knows the rules of 2D Shapes; `blur` adds that much to every prediction."""

    training = False

    def __init__(self, blur=0.0):
        self.blur = blur

    def see(self, X):
        cells = (255 * X).round().byte().unflatten(2, (5, 10)).unflatten(4, (5, 10))[:, :, :, 5, :, 5]  # middles
        colours = torch.tensor(shapes.COLOURS, dtype=torch.uint8)
        found = (cells[:, None] == colours[None, :, :, None, None]).all(dim=2)  # [B, 5, 5, 5]
        return type("Seen", (), {"S": found.nonzero()[:, 2:].view(-1, 5, 2).float(), "trace": None})

    def step(self, S, action):
        return torch.from_numpy(shapes.step((S - self.blur).round().long().numpy(), action.numpy())).float() + self.blur


@pytest.fixture
def smoke():
    return TASKS["shapes"].settings("smoke", "cswm_k5")


def test_a_model_that_knows_the_truth_scores_100(smoke):
    found = TASKS["shapes"].evaluate(Omniscient(), smoke, CPU, "test")
    measures = [f"{rule}{m}.step{h}" for rule in ("", "lenient.", "dedup.") for m in ("h1", "mrr") for h in HORIZONS]
    assert all(found[name] == 100 for name in measures)
    assert found["dedup.mrr.mean"] == 100 and set(TASKS["shapes"].rows) <= set(found)
    assert all(found[f"strict.h1.step{h}"] == found[f"ceiling.step{h}"] for h in HORIZONS)


def test_targets_that_recur_are_seen_once(smoke, monkeypatch):
    """Six episodes, two different ones: a perfect model ranks first among the two, but cannot beat its copies."""
    two = shapes.generate(2, 5, steps=10)
    six = shapes.Episodes(np.repeat(two.places, 3, axis=0), np.repeat(two.actions, 3, axis=0))
    monkeypatch.setattr(type(TASKS["shapes"]), "episodes", lambda *_: six)
    found = TASKS["shapes"].evaluate(Omniscient(), smoke, CPU, "test")
    assert found["h1.step1"] == found["dedup.h1.step1"] == 100
    assert found["strict.h1.step1"] == found["ceiling.step1"] == 0
    assert [found["strict.mrr.step1"], found["distinct.step1"]] == pytest.approx([100 / 3] * 2)


def test_reach_is_what_a_model_can_reach_that_never_agrees_with_itself(smoke, monkeypatch):
    found = TASKS["shapes"].evaluate(Omniscient(), smoke, CPU, "test")
    assert all(0 < found[f"reach.step{h}"] <= 100 for h in HORIZONS)


def test_a_constant_encoder_scores_100_as_published_and_nothing_else(smoke):
    task = TASKS["shapes"]
    module = task.build("constant", smoke)
    loop.fit(task, module, smoke, seed=0, on=loop.accelerator("cpu"), show=False)
    found = loop.evaluate_module(task, module, smoke, CPU, "test")
    assert found["h1.step1"] == found["mrr.step10"] == found["lenient.h1.step5"] == 100
    assert found["strict.h1.step1"] == found["dedup.h1.step10"] == 0
    distinct = len(task.episodes(smoke, "test")) * found["distinct.step5"] / 100
    assert found["dedup.mrr.step5"] == pytest.approx(100 / distinct)


def test_examples_are_stretches_of_episodes():
    episodes = shapes.generate(4, 0, steps=6)
    for span in (1, 2, 3, 6):
        data = Transitions(episodes, span)
        assert len(data) == 4 * 6 // span
        X, actions = data[torch.arange(len(data))]
        assert X.shape == (len(data), span + 1, 3, 50, 50) and X.dtype == torch.uint8
        at = 0
        for episode in range(4):
            for start in range(0, 6, span):
                expected = episodes.observe(episode, np.arange(start, start + span + 1))
                assert np.array_equal(X[at], expected)
                assert actions[at].tolist() == episodes.actions[episode, start : start + span].tolist()
                at += 1


def test_examples_without_copies_are_the_same_examples():
    episodes = shapes.generate(4, 0, steps=6)
    episodes.places[2] = episodes.places[0]
    index = torch.tensor([0, 1, 2, 3, 12, 13])
    (X, actions), (distinct, again, whose) = Transitions(episodes, 1)[index], Transitions(episodes, 1, once=True)[index]
    assert len(distinct) < X.shape[0] * X.shape[1] and whose.shape == X.shape[:2]
    assert torch.equal(distinct[whose], X) and torch.equal(again, actions)


def test_once_trains_as_copies_do():
    """The first losses of the paper's model on a batch with copies, but for rounding, so with one thread."""
    losses, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for once in (False, True):
        run = Run.of("shapes", "srn_k5", "smoke", 0, span=1, batch_size=8, once=once)
        losses.append([row["loss"] for row in train.train(run, show=False)["history"]])
    torch.set_num_threads(threads)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0]


@pytest.mark.parametrize("name", ["pong", "space_invaders", "shapes"])
def test_models_are_trained_alike(name):
    """But for the constant encoder, and each with its own rates; the number of objects changes nothing else."""
    task = TASKS[name]
    for profile in ("smoke", "laptop", "paper"):
        settings = [task.settings(profile, m) for m in task.models if m != "constant"]
        assert len({dataclasses.replace(s, slots=1, lr=1.0, inner_lr=1.0) for s in settings}) == 1
        assert task.settings(profile, "constant").steps == 1


def test_paper_models_have_the_sizes_of_the_original():
    task = TASKS["pong"]
    settings = task.settings("paper", "srn_k3")
    count = {m: sum(p.numel() for p in task.build(m, settings).parameters()) for m in ("cswm_k3", "srn_k3")}

    def mlp(inputs, outputs):
        return inputs * 512 + 512 + 512 * 512 + 512 + 2 * 512 + 512 * outputs + outputs

    extractor = 6 * 32 * 81 + 32 + 2 * 32 + 32 * 3 * 25 + 3
    assert count["cswm_k3"] == extractor + mlp(100, 4) + mlp(8, 512) + mlp(4 + 6 + 512, 4)
    H_agg = (4 * 512 + 512) + 2 * (512 * 512 + 512) + 512 * 21
    assert count["srn_k3"] - count["cswm_k3"] == H_agg + 300 * 512 + 512
    assert not settings.background and not settings.same_time and settings.span == 1
    assert (settings.batch_size, settings.lr, settings.inner_lr, settings.inner_steps) == (1024, 1e-4, 0.045, 10)
    assert settings.steps == 500 * -(-1000 * 10 // 1024)
    assert TASKS["shapes"].settings("paper", "srn_k5").steps == 100 * -(-1000 * 100 // 1024)
    assert settings.original_start and not settings.kaiming and settings.leak == 0.01
    torch.manual_seed(0)
    assert not task.build("srn_k3", settings).extractor[1].bias.any()
    assert TASKS["shapes"].settings("paper", "cswm_k5").leak == 0


@pytest.mark.parametrize("model", ["cswm_k5", "srn_k5", "constant"])
def test_smoke_run_of_shapes(model):
    record = train.train(Run.of("shapes", model, "smoke"), show=False)
    metrics = record["metrics"]
    assert set(TASKS["shapes"].rows) <= set(metrics) and record["data"]["test"] == "6 episodes, seed 2"
    assert ("moved" in metrics) == (model == "srn_k5")
    if model == "srn_k5":
        assert metrics["moved"] > 0.01 and metrics["inner.last"] < metrics["inner.first"] and not metrics["collapsed"]


@plays
def test_smoke_run_of_pong_plays_it_and_keeps_the_best_row():
    run = Run.of("pong", "srn_k3", "smoke")
    record = train.train(run, show=False)
    best = run.task.best_row(record["history"])
    assert json.loads(run.checkpoint.with_suffix(".json").read_bytes())["step"] == best["step"]
    assert {row["step"] for row in record["history"]} == {3, 6}
    assert train.evaluate(run) == {k: v for k, v in record["metrics"].items() if k != "collapsed"}


def test_splits_are_different_episodes(smoke):
    train_, val, test = (TASKS["shapes"].episodes(smoke, split).places[:, 0] for split in ("train", "val", "test"))
    assert not np.array_equal(val[:4], test[:4]) and not np.array_equal(train_[:4], test[:4])


def test_bad_settings_say_what_is_wrong():
    good = WorldModelSettings.laptop("pong", 3)
    with pytest.raises(ValueError, match="slots must be 5 on 2D Shapes"):
        TASKS["shapes"].build("cswm_k5", dataclasses.replace(TASKS["shapes"].settings("smoke", "cswm_k5"), slots=4))
    with pytest.raises(ValueError, match="span must divide an episode's 10 steps, got 3"):
        dataclasses.replace(good, span=3)
    with pytest.raises(ValueError, match="needs span = train_length"):
        dataclasses.replace(good, span=5)
    with pytest.raises(ValueError, match="an episode of Atari has 10 steps, got train_length 20"):
        TASKS["pong"].dataset(dataclasses.replace(good, train_length=20, span=20), 0)
    with pytest.raises(UnknownName, match="there is no model 'srn_k3'"):
        Run.of("shapes", "srn_k3")
