"""World models: C-SWM with and without a refiner on two Atari games and on 2D Shapes (paper: 3.2, E)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srnlib import ranking, results
from srnlib.data import atari, shapes
from srnlib.models.object_extractor import ObjectExtractor
from srnlib.models.world_model import (
    Constant,
    Transition,
    WorldModel,
    contrastive_loss,
    normed_mlp,
    original_start,
)
from srnlib.set_encoders import SetEncoder
from srnlib.tasks import Task
from srnlib.tasks.refining import refinement
from srnlib.tasks.world_model_settings import TUNED, WorldModelSettings

DATA_SEED = {"train": 1, "test": 2, "val": 3}  # of the original program: 1 and 2
HORIZONS = (1, 5, 10)
PIXELS = 50  # side of an observation


class Transitions:
    """Stretches of episodes to train on: an index tensor `[B]` gives observations and actions.

    Args:
        episodes: Of `srnlib.data.atari` or `srnlib.data.shapes`.
        span: T, transitions of an example.
        once: Whether to give copies of an observation once.
    """

    def __init__(self, episodes: atari.Episodes | shapes.Episodes, span: int, once: bool = False):
        self.episodes, self.span, self.once = episodes, span, once
        self.parts = episodes.actions.shape[1] // span  # of an episode

    def __len__(self) -> int:
        return len(self.episodes) * self.parts

    def __getitem__(self, index: Tensor) -> tuple[Tensor, ...]:
        """Observations uint8 `[B, T + 1, C, 50, 50]` and actions `[B, T]`.

        With `once` the distinct observations `[U, C, 50, 50]`, actions, and which of them is each `[B, T + 1]`.
        """
        episode, part = np.divmod(index.numpy()[:, None], self.parts)
        step = part * self.span + np.arange(self.span + 1)
        actions = self.episodes.actions[episode, step[:, :-1]]
        X, actions = torch.from_numpy(self.episodes.observe(episode, step)), torch.from_numpy(actions)
        if not self.once:
            return X, actions
        places, whose = ranking.distinct(X.flatten(0, 1))
        return X.flatten(0, 1)[places], actions, whose.view(step.shape)


class WorldModels(Task):
    """Learn to predict; find what follows among all that may follow, 1, 5 and 10 steps ahead.

    Args:
        name: `pong`, `space_invaders` or `shapes`.
        paper: Table 3.
    """

    select = "dedup.mrr.mean"

    def __init__(self, name: str, paper: dict[str, dict[str, float]]):
        self.name, self.paper = name, paper
        self.atari = name in atari.GAMES
        slots = (3, 5) if self.atari else (shapes.OBJECTS,)
        self.models = (*(f"{kind}_k{k}" for k in slots for kind in ("cswm", "srn")), "constant")
        pair = (f"cswm_k{slots[0]}", f"srn_k{slots[0]}")
        both = [f"{rule}h1.step{h}" for h in (1, 10) for rule in ("", "lenient.")]
        self.headline = dict.fromkeys(both, pair) if self.atari else {}
        rules = {"": "as published", "lenient.": "as written", "strict.": "ties lost", "dedup.": "distinct targets"}
        self.rows = {
            f"{rule}{metric}.step{h}": f"{h} step{'s' if h > 1 else ''}: {label}, %, {says}"
            for rule, says in rules.items()
            for h in HORIZONS
            for metric, label in (("h1", "H@1"), ("mrr", "MRR"))
        }

    def settings(self, profile: str, model: str) -> WorldModelSettings:
        self.check(model, profile)
        kind, _, slots = model.partition("_k")
        made = getattr(WorldModelSettings, profile)(self.name, int(slots or shapes.OBJECTS))
        if kind == "constant":
            return dataclasses.replace(made, steps=1, warmup=0.0, cooldown=0.0)
        return dataclasses.replace(made, **TUNED.get((self.name, kind), {})) if profile == "laptop" else made

    def build(self, model: str, settings: WorldModelSettings) -> nn.Module:
        self.check(model)
        k, d, hidden = settings.slots, settings.state_dim, settings.hidden
        if not self.atari and k != shapes.OBJECTS:
            raise ValueError(f"slots must be {shapes.OBJECTS} on 2D Shapes, where an action names an object, got {k}")
        channels, actions = (6, atari.ACTIONS) if self.atari else (3, shapes.ACTIONS)
        convolutions = (settings.width, settings.first, settings.second, settings.background, settings.leak)
        extractor = ObjectExtractor(channels, PIXELS, k, *convolutions)
        area = extractor.eval()(torch.zeros(1, channels, PIXELS, PIXELS))[0, 0].numel()
        extractor.train()
        encoder = Constant(d) if model == "constant" else normed_mlp(area, hidden, d)
        transition = Transition(d, actions if self.atari else actions // k, hidden)
        refiner = embed = None
        if model.startswith("srn"):
            H_agg = SetEncoder(d, settings.embed_dim, hidden=settings.embed_dim)
            refiner = settings.refiner(H_agg)
            embed = nn.Linear(k * area, settings.embed_dim)
        more = {"copy_action": self.atari, "refiner": refiner, "embed": embed}
        world = WorldModel(extractor, encoder, transition, actions, **more)
        if settings.original_start:
            original_start(world)
        if model == "constant":  # a state that never changes: where its loss would push the transition
            nn.init.zeros_(transition.node[-1].weight)
            nn.init.zeros_(transition.node[-1].bias)
        return world

    def episodes(self, settings: WorldModelSettings, split: str) -> atari.Episodes | shapes.Episodes:
        """The episodes of a split: `train`, `val` or `test`. Those of Atari are cached."""
        n, seed = getattr(settings, f"{split}_episodes"), DATA_SEED[split]
        if self.atari:
            if settings.train_length != atari.STEPS:
                given = settings.train_length
                raise ValueError(f"an episode of Atari has {atari.STEPS} steps, got train_length {given}")
            return atari.load(results.data_dir() / "cache" / "atari", self.name, n, seed)
        return shapes.generate(n, seed, steps=settings.train_length if split == "train" else max(HORIZONS))

    def dataset(self, settings: WorldModelSettings, seed: int) -> Transitions:
        """The same episodes whatever the seed, as in the original."""
        return Transitions(self.episodes(settings, "train"), settings.span, settings.once)

    def loss(self, module, batch, settings, step) -> tuple[Tensor, dict[str, Tensor]]:
        """C-SWM's contrastive loss of a transition."""
        X, action, *whose = batch  # whose: with `once`
        predicted, seen = module(X * (1 / 255), action, *whose)
        S = seen.S[whose[0]] if whose else seen.S.unflatten(0, X.shape[:2])
        found = contrastive_loss(S, predicted, same_time=settings.same_time)
        return found, {name: v.mean() for name, v in refinement(seen).items()}

    def evaluate(self, module, settings, device, split) -> dict[str, float]:
        """For 1, 5 and 10 steps ahead, from the start of each episode, in percent: hits at rank 1 and reciprocal rank.

        `h1.step`, `mrr.step` as published, `lenient.*` with the targets as candidates, `strict.*` also with ties as
        misses, `dedup.*` among the distinct targets (see `srnlib.ranking.Ranks`); of the data: `distinct.step`, how
        many targets differ, `ceiling.step`, how many have no copy, which is the greatest possible `strict.h1`, and
        `reach.step`, the greatest `h1` of a model that predicts the same only where start and actions are the same: by
        the published rule its predictions of one target compete. `dedup.mrr.mean` is the mean over the horizons. Of a
        refiner, on all that was seen: `inner.first`, `inner.last`, `moved`.
        """
        episodes, found, refined = self.episodes(settings, split), {}, {}
        every = np.arange(len(episodes))
        seen, whose = see_distinct(module, episodes.observe(every, 0), device, refined)
        state, actions = seen[whose], torch.from_numpy(episodes.actions).to(device)
        for h in range(1, max(HORIZONS) + 1):
            state = module.step(state, actions[:, h - 1])
            if h not in HORIZONS:
                continue
            first, copy = ranking.distinct(torch.cat([whose[:, None], actions[:, :h]], dim=1))
            state = state[first][copy]  # what began and went on alike is one prediction, to the bit
            targets, true = see_distinct(module, episodes.observe(every, h), device, refined)
            ranks = ranking.ranks(state.flatten(1), targets.flatten(1), true)
            for rule, rank in ranks._asdict().items():
                prefix = "" if rule == "published" else f"{rule}."
                found |= {f"{prefix}{name}.step{h}": v for name, v in ranking.scores(rank).items()}
            copies = torch.bincount(true)[true]
            found |= {f"distinct.step{h}": 100 * len(targets) / len(every)}
            found |= {f"ceiling.step{h}": 100 * float((copies == 1).cpu().double().mean())}
            found |= {f"reach.step{h}": ranking.reach(true.cpu(), copy)}
        found["dedup.mrr.mean"] = float(np.mean([found[f"dedup.mrr.step{h}"] for h in HORIZONS]))
        return found | {name: float(torch.cat(values).mean()) for name, values in refined.items()}

    def describe(self, settings: WorldModelSettings, seed: int) -> dict[str, Any]:
        """Where the episodes come from."""
        sets = {s: f"{getattr(settings, f'{s}_episodes')} episodes, seed {n}" for s, n in DATA_SEED.items()}
        for split in DATA_SEED if self.atari else ():
            self.episodes(settings, split)
        return {"generator": f"srnlib.data.{'atari' if self.atari else 'shapes'}.generate", **sets}


def see_distinct(
    module: WorldModel, X: np.ndarray, device: torch.device, refined: dict[str, list[Tensor]], size: int = 250
) -> tuple[Tensor, Tensor]:
    """The states `[U, K, D]` of the distinct observations in `X` uint8 `[Q, C, 50, 50]`, and whose each is `[Q]`.

    Every distinct observation is seen once, so copies have the same state to the bit. What a refiner did is added to
    the lists in `refined`.
    """
    X = torch.from_numpy(X)
    places, whose = ranking.distinct(X)
    states = []
    for part in X[places].split(size):
        seen = module.see(part.to(device) * (1 / 255))
        states.append(seen.S)
        for name, values in refinement(seen).items():
            refined.setdefault(name.replace("_", "."), []).append(values.float().cpu())
    return torch.cat(states), whose.to(device)


_TABLE_3 = {  # H@1 and MRR at 1, 5 and 10 steps
    "pong": {
        "cswm_k5": (63.6, 75.8, 27.4, 44.5, 17.2, 32.2),
        "srn_k5": (64.0, 76.0, 27.5, 43.8, 18.9, 33.4),
        "cswm_k3": (58.4, 72.6, 24.6, 40.8, 14.4, 29.1),
        "srn_k3": (63.2, 75.4, 28.4, 45.1, 16.1, 30.9),
    },
    "space_invaders": {
        "cswm_k5": (54.8, 71.7, 46.7, 65.4, 27.1, 45.2),
        "srn_k5": (64.7, 79.0, 58.0, 74.0, 36.6, 56.6),
        "cswm_k3": (69.4, 81.9, 60.0, 75.5, 37.5, 56.7),
        "srn_k3": (69.0, 81.6, 63.9, 78.1, 46.5, 65.2),
    },
    "shapes": {},
}


def _task(name: str) -> WorldModels:
    keys = [f"{metric}.step{h}" for h in HORIZONS for metric in ("h1", "mrr")]
    return WorldModels(name, {m: dict(zip(keys, row, strict=True)) for m, row in _TABLE_3[name].items()})


pong, space_invaders, shapes_world = _task("pong"), _task("space_invaders"), _task("shapes")
