"""CLUTRR: who is b to a? On the authors' release (`clutrr`) and on stories of our own (`clutrr_generated`)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from srnlib.data.clutrr import LENGTHS, generate
from srnlib.data.clutrr_columns import Story
from srnlib.data.clutrr_kinship import TARGETS
from srnlib.data.clutrr_release import HELP, load, packed
from srnlib.data.clutrr_text import TEMPLATES
from srnlib.data.clutrr_tokens import FIRST_PERSON, FIRST_WORD, PEOPLE, encode, for_validation, vocabulary
from srnlib.models.language import Answer, PairReasoner, StoryModel, TripleEncoder
from srnlib.models.story_encoder import StoryEncoder
from srnlib.refine import GraphRefiner
from srnlib.results import data_dir
from srnlib.set_encoders import GraphEncoder, SetEncoder
from srnlib.tasks import Task
from srnlib.tasks.clutrr_settings import ClutrrSettings
from srnlib.tasks.refining import refinement

TRAINED = (2, 3, 4)  # k of the training stories, and of the paper's mean
VAL_SEED, TEST_SEED = 1_000_000, 2_000_000  # of generated stories; above every training seed


class Clutrr(Task):
    """The task on one source of stories. `rn_fixed` is `srn` without its refiner: what padding alone does."""

    models = ("rn", "rn_fixed", "srn", "grn")
    rows = {
        "acc.mean": "k = 2, 3, 4, best epoch on test (as published), %",
        "acc.mean_val": "k = 2, 3, 4, chosen on validation, %",
        **{f"acc.k{k}": f"k = {k}, chosen on validation, %" for k in LENGTHS},
    }
    select = "acc.mean_val"

    def __init__(self, name: str, paper: dict[str, dict[str, float]]):
        self.name, self.paper = name, paper

    def settings(self, profile: str, model: str) -> ClutrrSettings:
        self.check(model, profile)
        settings = getattr(ClutrrSettings, profile)(model)
        if self.name == "clutrr":
            return settings
        length = {"steps": 1512} if profile == "laptop" else {}  # generated stories are learned after 8 epochs
        return dataclasses.replace(settings, vocabulary=144, **length)  # as many as they have

    def build(self, model: str, settings: ClutrrSettings) -> StoryModel:
        self.check(model)
        s = settings
        encoder = StoryEncoder(s.vocabulary, s.embed_dim, s.hidden, s.layers, s.dropout, s.read_story, s.original)
        dim, refiner = 2 * s.hidden, None
        if model == "srn":
            refiner = s.refiner(SetEncoder(dim, dim, hidden=s.agg))
        elif model == "grn":
            H_agg = GraphEncoder(dim, 1, dim, hidden=s.agg) if s.pool_edges else TripleEncoder(dim, dim, s.agg)
            refiner = s.refiner(H_agg, GraphRefiner)
        reasoner = PairReasoner(dim, 2 * dim, s.reason, len(TARGETS))
        size = None if model == "rn" else s.set_size
        return StoryModel(encoder, reasoner, size, refiner, masked=not s.original)

    def dataset(self, settings: ClutrrSettings, seed: int) -> TensorDataset:
        """Tokens `[n, S, W]`, queries `[n, 2]`, targets `[n]`, see `srnlib.data.clutrr_tokens.Encoded`."""
        stories = [story for story in self.stories(settings, seed) if not for_validation(story)]
        return self.encoded(stories, settings)

    def loss(self, module, batch, settings, step) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, with the people's numbers drawn anew."""
        tokens, query, target = batch
        out = module(*permute_people(tokens, query))
        return nn.functional.cross_entropy(out.logits, target), {name: v.mean() for name, v in refined(out).items()}

    def evaluate(self, module, settings, device, split) -> dict[str, float]:
        """In percent: `acc.k` for each k there is, and `acc.mean_val`, their mean over k = 2, 3, 4.

        On `"val"` also `test.k` and `test.mean`, the same of the test stories of k = 2, 3, 4: of them the best epoch is
        reported, as published, and nothing else. Of a refiner `inner.first`, `inner.last`, `moved`, `moved.edges`.
        """
        scores = measure(self, module, settings, device, split, LENGTHS if split == "test" else TRAINED)
        if split == "val":
            other = measure(self, module, settings, device, "test", TRAINED)
            scores |= {key.replace("acc.", "test."): v for key, v in other.items() if key.startswith("acc.k")}
            scores["test.mean"] = other["acc.mean_val"]
        return scores

    def summarise(self, history: list[dict[str, float]]) -> dict[str, float]:
        """`acc.mean`: the best epoch on the test stories, as published."""
        return {"acc.mean": max(row["test.mean"] for row in history)}

    def describe(self, settings: ClutrrSettings, seed: int) -> dict[str, Any]:
        """Where the stories come from, and how many there are of each k.

        Raises:
            ValueError: If a test story has more sentences than the set has elements.
        """
        longest = max(evaluation_set(self, settings, "test", k).tensors[0].shape[1] for k in LENGTHS)
        if settings.set_size < longest:
            raise ValueError(f"set_size must be at least {longest}, the sentences of the longest test story")
        stories = self.stories(settings, seed)
        groups = {"train": [s for s in stories if not for_validation(s)], "validation": filter(for_validation, stories)}
        counts = {name: dict(sorted(Counter(s.k for s in group).items())) for name, group in groups.items()}
        validation = f"about {settings.val_stories} of each k"
        if self.name == "clutrr":
            digest = hashlib.sha256(release().read_bytes()).hexdigest() if release().is_file() else "a folder"
            return {"release": "data_db9b8f04", "sha256": digest, **counts, "validation used": validation}
        test = f"{settings.test_stories} of each k = 2 .. 10, seed {TEST_SEED}"
        return {"generator": "srnlib.data.clutrr", "seed": seed, **counts, "validation used": validation, "test": test}

    def stories(
        self, settings: ClutrrSettings, seed: int = 0, split: str = "train", k: int | None = None
    ) -> list[Story]:
        """Stories of a split, of one k or (of training) of all; the release's do not depend on settings and seed."""
        if self.name == "clutrr":
            return [story for story in _load(release())[split] if k in (None, story.k)]
        n, ks = getattr(settings, f"{split}_stories"), TRAINED if k is None else (k,)
        return [story for each in ks for story in generate(n, seed, k=each, split=split)]

    @functools.lru_cache(maxsize=8)  # noqa: B019 (tasks live as long as the program)
    def words(self, settings: ClutrrSettings) -> dict[str, int]:
        """The vocabulary: of the release's training stories, or of all templates."""
        if self.name == "clutrr":
            return vocabulary((s for story in _load(release())["train"] for s in story.sentences), settings.vocabulary)
        return vocabulary((t.format(a="@0", b="@1") for ts in TEMPLATES.values() for t in ts), settings.vocabulary)

    def encoded(self, stories: list[Story], settings: ClutrrSettings) -> TensorDataset:
        """Stories as tensors."""
        return TensorDataset(*map(torch.from_numpy, encode(stories, self.words(settings))))


clutrr = Clutrr("clutrr", {m: {"acc.mean": v} for m, v in (("rn", 49.7), ("srn", 55.0), ("grn", 56.1))})
clutrr.headline = {"acc.mean": ("rn", "srn"), "acc.mean_val": ("rn_fixed", "srn")}
clutrr_generated = Clutrr("clutrr_generated", {})


def release() -> Path:
    """Where the release is: `$SRNLIB_CLUTRR`, else `data/cache/clutrr`, the zip in it if there is one.

    Raises:
        FileNotFoundError: If it is not there; the message says where to get it.
    """
    path = packed(Path(os.environ.get("SRNLIB_CLUTRR") or data_dir() / "cache" / "clutrr"))
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist, and the task clutrr needs CLUTRR's release. {HELP} in the environment variable "
            "SRNLIB_CLUTRR. The task clutrr_generated needs nothing"
        )
    return path


_load = functools.lru_cache(maxsize=1)(load)


def permute_people(tokens: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Draws new numbers for the people of each story, in tokens `[B, S, W]` and queries `[B, 2]`; int64."""
    draw = torch.rand(len(tokens), PEOPLE, device=tokens.device).argsort(dim=1) + FIRST_PERSON
    new = torch.cat([draw.new_tensor([[0, 1]]).expand(len(tokens), 2), draw], dim=1)
    flat = tokens.flatten(1).long()
    drawn = new.gather(1, flat.clamp(max=FIRST_WORD - 1))
    return torch.where(flat < FIRST_WORD, drawn, flat).view_as(tokens), new.gather(1, query.long())


@functools.lru_cache(maxsize=32)
def evaluation_set(task: Clutrr, settings: ClutrrSettings, split: str, k: int) -> TensorDataset:
    """The fixed stories of one k, `"val"` or `"test"`, as `Clutrr.dataset` has them."""
    if split == "test":
        return task.encoded(task.stories(settings, TEST_SEED, "test", k), settings)
    stories = [story for story in task.stories(settings, VAL_SEED, "train", k) if for_validation(story)]
    return task.encoded(stories[:: max(1, len(stories) // settings.val_stories)], settings)


def measure(task: Clutrr, module: nn.Module, settings: ClutrrSettings, device, split: str, ks) -> dict[str, float]:
    """`acc.k` and `acc.mean_val` in percent, and what a refiner does, on the stories of each of `ks`."""
    scores, moved = {}, {}
    for k in ks:
        right = []
        for tokens, query, target in DataLoader(evaluation_set(task, settings, split, k), batch_size=256):
            out = module(tokens.to(device), query.to(device))
            right.append(out.logits.argmax(dim=1).cpu() == target)
            for name, values in refined(out).items():
                moved.setdefault(name, []).append(values.cpu())
        scores[f"acc.k{k}"] = 100 * float(torch.cat(right).double().mean())
    scores["acc.mean_val"] = statistics.fmean(scores[f"acc.k{k}"] for k in TRAINED)
    return scores | {name.replace("_", "."): float(torch.cat(values).mean()) for name, values in moved.items()}


def refined(out: Answer) -> dict[str, Tensor]:
    """`srnlib.tasks.refining.refinement`, and how far the edges moved from 1, relative to their norm too."""
    if out.edges is None:
        return refinement(out)
    moved = (out.edges.detach() - 1).flatten(1).norm(dim=1) / out.edges.shape[1]
    return refinement(out) | {"moved_edges": moved}
