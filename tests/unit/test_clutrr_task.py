"""The CLUTRR tasks: what is trained, validated and tested on, the two accuracies, the release and its absence."""

import dataclasses
import json
import zipfile

import pytest
import torch

from srnlib import loop, train
from srnlib.data import clutrr_release
from srnlib.data.clutrr import LENGTHS, generate
from srnlib.data.clutrr_kinship import TARGETS
from srnlib.data.clutrr_release import ROWS, write
from srnlib.data.clutrr_text import TEMPLATES, tokens
from srnlib.data.clutrr_tokens import FIRST_WORD, for_validation
from srnlib.refine import Trace
from srnlib.runs import Run
from srnlib.tasks import PROFILES, TASKS
from srnlib.tasks import clutrr as clutrr_task
from srnlib.tasks.clutrr import (
    TEST_SEED,
    TRAINED,
    VAL_SEED,
    clutrr,
    clutrr_generated,
    evaluation_set,
    permute_people,
    refined,
    release,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every file these tests write goes to a folder of its own, and the release is not there."""
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path))
    monkeypatch.delenv("SRNLIB_CLUTRR", raising=False)


@pytest.fixture
def small_release(tmp_path, monkeypatch):
    """A zip with the release's files, 20 stories each, where the task looks for it."""
    monkeypatch.setattr(clutrr_release, "ROWS", dict.fromkeys(ROWS, 20))
    path = tmp_path / "cache" / "clutrr" / "data_db9b8f04.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ROWS:
            k = int(name[2:].split("_")[0].split(",")[0])
            stories = generate(20, 0, k=k, split="train" if "train" in name else "test")
            if "train" in name:
                stories = [s for each in TRAINED for s in generate(10, 0, k=each)][:20]
            write(stories, tmp_path / name)
            archive.write(tmp_path / name, name)
    clutrr_task._load.cache_clear()
    yield path
    clutrr_task._load.cache_clear()


def test_nothing_is_trained_on_that_is_validated_or_tested_on():
    settings = clutrr_generated.settings("smoke", "rn")
    for seed in (0, 1):
        trained = [s for s in clutrr_generated.stories(settings, seed) if not for_validation(s)]
        assert len(clutrr_generated.dataset(settings, seed)) == len(trained)
        patterns = {story.pattern for story in trained}
        for k in TRAINED[1:]:
            held = filter(for_validation, clutrr_generated.stories(settings, VAL_SEED, "train", k))
            held = {story.pattern for story in held}
            assert held and not patterns & held
        for k in LENGTHS:
            assert not patterns & {s.pattern for s in clutrr_generated.stories(settings, TEST_SEED, "test", k)}
    assert len(evaluation_set(clutrr_generated, settings, "test", 4)) == settings.test_stories


def test_permuted_people_are_the_same_story():
    tokens, query, _ = clutrr_generated.dataset(clutrr_generated.settings("smoke", "rn"), 0)[:50]
    torch.manual_seed(0)
    new, asked = permute_people(tokens, query)
    words = tokens >= FIRST_WORD
    assert torch.equal(new >= FIRST_WORD, words) and torch.equal(new[words], tokens[words].long())
    assert torch.equal(new == 0, tokens == 0)
    for old, drawn, q, a in zip(tokens, new, query, asked, strict=True):
        pairs = {(int(x), int(y)) for x, y in zip(old.flatten(), drawn.flatten(), strict=True)}
        assert len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})  # one to one
        assert {(int(x), int(y)) for x, y in zip(q, a, strict=True)} <= pairs
    assert (asked != query).float().mean() > 0.8


class Oracle(torch.nn.Module):
    """Answers right on the stories of some k, and always 'son' elsewhere."""

    def __init__(self, settings, ks, split):
        super().__init__()
        sets = [evaluation_set(clutrr_generated, settings, split, k).tensors for k in ks]
        self.known = {self.key(t, q): int(y) for part in sets for t, q, y in zip(*part, strict=True)}

    @staticmethod
    def key(tokens, query):
        return tuple(tokens[tokens > 0].tolist()), tuple(query.tolist())

    def forward(self, tokens, query):
        found = torch.tensor([self.known.get(self.key(t, q), 0) for t, q in zip(tokens, query, strict=True)])
        S = torch.zeros(len(tokens), 1, 1)
        return clutrr_task.Answer(torch.nn.functional.one_hot(found, len(TARGETS)).float(), S, S, S > 0, None, None)


def test_accuracies_are_counted_for_each_k():
    settings = clutrr_generated.settings("smoke", "rn")
    scores = loop.evaluate_module(clutrr_generated, Oracle(settings, (3, 5), "test"), settings, "cpu", "test")
    assert scores["acc.k3"] == scores["acc.k5"] == 100
    for k in (2, 4, 10):
        sons = (evaluation_set(clutrr_generated, settings, "test", k).tensors[2] == 0).double().mean()
        assert scores[f"acc.k{k}"] == 100 * float(sons)
    assert scores["acc.mean_val"] == pytest.approx((scores["acc.k2"] + 100 + scores["acc.k4"]) / 3)
    row = loop.evaluate_module(clutrr_generated, Oracle(settings, TRAINED, "val"), settings, "cpu", "val")
    assert row["acc.mean_val"] == 100 and row["test.mean"] < 60 and "acc.k5" not in row


def test_validation_chooses_the_weights_and_the_best_epoch_is_told_beside_it():
    history = [{"acc.mean_val": a, "test.mean": t} for a, t in ((30.0, 50.0), (60.0, 40.0), (50.0, 45.0))]
    assert clutrr_generated.best_row(history) is history[1]
    assert clutrr_generated.summarise(history) == {"acc.mean": 50.0}


@pytest.mark.parametrize("model", clutrr_generated.models)
def test_a_whole_run(model):
    record = train.train(Run.of("clutrr_generated", model, "smoke"), show=False)
    assert {f"acc.k{k}" for k in LENGTHS} | {"acc.mean", "acc.mean_val"} <= record["metrics"].keys()
    assert record["metrics"]["acc.mean"] >= record["metrics"]["acc.mean_val"]
    assert ("moved" in record["metrics"]) == (model in ("srn", "grn"))
    assert ("moved.edges" in record["metrics"]) == (model == "grn")
    assert json.loads(json.dumps(record["data"]))["generator"] == "srnlib.data.clutrr"


def test_it_learns():
    run = Run.of("clutrr_generated", "rn", "smoke", steps=150, batch_size=32, eval_every=150, train_stories=300)
    loop.seed_everything(0)
    module = run.task.build("rn", run.settings)
    (row,) = loop.fit(run.task, module, run.settings, 0, on=loop.accelerator("cpu"), show=False)
    assert row["acc.mean_val"] > 2 * 100 / len(TARGETS)


def test_moved_is_measured_on_the_set_and_on_the_edges():
    S0, S = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    S0[0, 0, 0], S[0, 0, 0], S[0, 1, 1] = 2.0, 2.0, 1.0
    trace = Trace(torch.tensor([[3.0], [1.0]]), torch.ones(1, 1))
    edges = torch.tensor([[[1.0, 1.0], [1.0, 3.0]]])
    found = refined(clutrr_task.Answer(None, S0, S, None, edges, trace))
    assert {k: v.item() for k, v in found.items()} == {
        "inner_first": 3.0, "inner_last": 1.0, "moved": 0.5, "moved_edges": 1.0,
    }  # fmt: skip


def test_all_models_are_trained_alike():
    for profile in PROFILES:
        rn, *others = (dataclasses.asdict(clutrr.settings(profile, model)) for model in clutrr.models)
        free = {"inner_steps", "inner_lr", "inner_momentum", "detach_init", "agg", "kaiming", "pool_edges"}
        free |= {"weight_decay", "dropout"} if profile == "paper" else set()  # it regularises its own models only
        for other in others:
            assert {name for name in rn if rn[name] != other[name]} <= free
        fixed, srn = others[:2]
        assert all(fixed[name] == srn[name] for name in ("weight_decay", "dropout"))  # the control of it


@pytest.mark.parametrize("profile", PROFILES)
def test_no_word_of_the_templates_is_unknown(profile):
    settings = clutrr_generated.settings(profile, "rn")
    known = clutrr_generated.words(settings)
    said = {word for frames in TEMPLATES.values() for frame in frames for word in tokens(frame.format(a="@0", b="@1"))}
    assert said - {"@0", "@1"} == set(known) and max(known.values()) == settings.vocabulary - 1


def test_paper_profile_is_the_papers():
    srn, grn = (clutrr.settings("paper", model) for model in ("srn", "grn"))
    assert (srn.set_size, srn.inner_steps, srn.inner_lr, srn.dropout, srn.weight_decay) == (20, 5, 0.001, 0.5, 1e-4)
    assert (grn.set_size, grn.inner_steps, grn.inner_lr, grn.dropout, grn.weight_decay) == (20, 10, 0.0005, 0.5, 5e-6)
    assert clutrr.paper["grn"] == {"acc.mean": 56.1} and clutrr_generated.paper == {}


def test_the_release_is_found_in_both_places(small_release, monkeypatch):
    assert release() == small_release
    settings = clutrr.settings("smoke", "rn")
    stories = clutrr.stories(settings)
    assert len(stories) == 20 and len(clutrr.dataset(settings, 0)) == sum(not for_validation(s) for s in stories)
    assert clutrr.describe(settings, 0)["release"] == "data_db9b8f04"
    with zipfile.ZipFile(small_release) as archive:
        archive.extractall(small_release.with_suffix(""))
    small_release.rename(small_release.with_name("other.zip"))
    assert release() == small_release.parent and clutrr.stories(settings) == stories  # what the zip unpacks to
    small_release.with_name("other.zip").rename(small_release)
    monkeypatch.setenv("SRNLIB_CLUTRR", str(small_release.parents[2]))  # the unpacked folder
    assert release().is_dir() and clutrr.stories(settings) == stories


def test_without_the_release_the_task_says_what_to_do(tmp_path, monkeypatch):
    says = "does not exist, and the task clutrr needs CLUTRR's release.*CC BY-NC.*SRNLIB_CLUTRR.*clutrr_generated"
    with pytest.raises(FileNotFoundError, match=says):
        train.train(Run.of("clutrr", "rn", "smoke"), show=False)
    monkeypatch.setenv("SRNLIB_CLUTRR", str(tmp_path / "nowhere.zip"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.zip does not exist"):
        clutrr.dataset(clutrr.settings("smoke", "rn"), 0)
    assert TASKS["clutrr"].build("rn", clutrr.settings("smoke", "rn"))  # a checkpoint loads without it


def test_sets_too_small_for_the_test_and_batches_of_one_are_refused():
    settings = dataclasses.replace(clutrr_generated.settings("smoke", "srn"), set_size=5)
    with pytest.raises(ValueError, match="set_size must be at least [67891]"):
        clutrr_generated.describe(settings, 0)
    with pytest.raises(ValueError, match="batch_size must be 2 or more"):
        dataclasses.replace(settings, batch_size=1)
