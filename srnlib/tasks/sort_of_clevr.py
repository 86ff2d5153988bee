"""Sort-of-CLEVR: answer questions about six shapes through a set, and keep answering when the scene turns (3.1, D)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from srnlib.data import sort_of_clevr as data
from srnlib.data.sort_of_clevr_robust import easy, synthetic
from srnlib.models.relation_network import CellEncoder, RelationNetwork, VisualReasoner
from srnlib.robustness import FURTHEST_FROM_RED, right_when_turned
from srnlib.set_encoders import SetEncoder
from srnlib.tasks import Task
from srnlib.tasks.refining import refinement
from srnlib.tasks.sort_of_clevr_settings import WIDE, SortOfClevrSettings

EVALUATION_SEED = {"val": 1_000_000, "test": 2_000_000}  # above every training seed
QUESTIONS = torch.from_numpy(data.questions()[0]).float()  # [36, 11]; the last 18 are relational
PLACES = 200  # of the synthetic scene at most, as in the paper
ABLATION = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20)  # inner steps at test time


class SortOfClevr(Task):
    """The task. `rn` and `srn` differ by the refiner alone, `srn_detached` stops the gradient into the proposal.

    `rn_wide` has no refiner but a wider g and f: as many parameters as `srn`, about as much arithmetic.
    """

    name = "sort_of_clevr"
    models = ("rn", "srn", "rn_wide", "srn_detached")
    select = "relational"
    rows = {
        "relational": "relational, %",
        "furthest": "furthest, %",
        "closest": "closest, %",
        "count": "count, %",
        "robust.synthetic": "robust (synthetic), %",
        "robust.dataset": "robust (dataset), %",
        "nonrelational": "non-relational, %",
    }
    headline = dict.fromkeys(("relational", "robust.dataset"), ("rn", "srn"))
    paper = {  # Table 2
        "rn": dict(zip(rows, (95.1, 91.4, 93.9, 100.0, 1.5, 61.3), strict=False)),
        "srn": dict(zip(rows, (96.9, 95.9, 94.8, 100.0, 96.7, 93.2), strict=False)),
    }

    def settings(self, profile: str, model: str) -> SortOfClevrSettings:
        self.check(model, profile)
        of = {"model": model} if profile == "laptop" else {}
        base = getattr(SortOfClevrSettings, profile)(**of)
        changes = {"rn_wide": WIDE[profile], "srn_detached": {"detach_init": True}}
        return dataclasses.replace(base, **changes.get(model, {}))

    def build(self, model: str, settings: SortOfClevrSettings) -> VisualReasoner:
        self.check(model)
        refined, dim = model.startswith("srn"), settings.channels + 2
        look = {name: getattr(settings, name) for name in ("reach", "inverted", "embed_scale")}
        encoder = CellEncoder(settings.channels, settings.embed_dim if refined else None, **look)
        shape = {name: getattr(settings, name) for name in ("width", "layers", "hidden", "dropout")}
        start = {"conditioned": settings.conditioned, "question_scale": settings.question_scale}
        relations = RelationNetwork(dim, QUESTIONS.shape[1], len(data.ANSWERS), **shape, **start)
        refiner = None
        if refined:
            H_agg = SetEncoder(dim, settings.embed_dim, hidden=settings.set_hidden)
            refiner = settings.refiner(H_agg)
        return VisualReasoner(encoder, relations, refiner)

    def dataset(self, settings: SortOfClevrSettings, seed: int) -> TensorDataset:
        """Centres `[train_images, 6, 2]`, shapes `[.., 6]`, answers `[.., 36]`; `loss` draws the images."""
        centers, shapes = data.scenes(settings.train_images, seed)
        return TensorDataset(*map(torch.from_numpy, (centers, shapes, data.answers(centers, shapes))))

    def loss(self, module, batch, settings, step) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of `settings.questions` questions an image, drawn without repetition; mean over all."""
        centers, shapes, true = batch
        ground = None
        if settings.clutter:  # drawn anew each time a scene is shown; the seed is the step's
            ground = data.backgrounds(len(centers), int(torch.randint(2**31, ())))
        X = pixels(data.render(centers.cpu().numpy(), shapes.cpu().numpy(), ground)).to(true.device)
        asked = torch.multinomial(question_chances(settings, step).expand(len(X), -1), settings.questions).to(X.device)
        out = module(X, QUESTIONS.to(X.device)[asked])
        loss = nn.functional.cross_entropy(out.logits.flatten(0, 1), true.gather(1, asked).flatten())
        return loss, {name: v.mean() for name, v in refinement(out).items()}

    def evaluate(self, module, settings, device, split) -> dict[str, float]:
        """In percent: right answers by kind of question, `relational` and `nonrelational` the mean of three of them.

        `robust.synthetic` and `robust.dataset`: scenes right in every rotation, `turns` the share of rotations, `easy`
        of scenes that are right unturned; on `val`, each 20th rotation. On `test`, with a refiner: kind`.inner`r, with
        r inner steps instead. Of a refiner also `inner.first`, `inner.last` and `moved`. Turned scenes have no clutter.
        """
        scores = accuracy(module, settings, device, split)
        if split == "test" and module.refiner is not None:
            for steps in ABLATION:
                found = accuracy(module, settings, device, split, steps)
                scores |= {f"{k}.inner{steps}": found[k] for k in (*data.KINDS, "relational", "nonrelational")}
        every = 1 if split == "test" else 20
        for name, (centers, shapes) in turned_scenes(settings, split).items():
            right = right_when_turned(answerer(module, device), centers, shapes, every=every).float()
            scores[f"robust.{name}"] = 100 * float(right.amin(dim=1).mean())
            scores[f"turns.{name}"], scores[f"easy.{name}"] = (100 * float(v.mean()) for v in (right, right[:, 0]))
        return scores

    def summarise(self, history: list[dict[str, float]]) -> dict[str, float]:
        """Where non-relational questions first reach 99 % on validation (absent if never), and the best row's step."""
        found = {"best.step": float(self.best_row(history)["step"])}
        for row in history:
            if row["nonrelational"] >= 99:
                return found | {"to99.step": float(row["step"]), "to99.core_minutes": row["core_seconds"] / 60}
        return found

    def describe(self, settings: SortOfClevrSettings, seed: int) -> dict[str, Any]:
        """How the images are made; nothing is cached, since drawing them anew takes microseconds."""
        sets = {"train": f"{settings.train_images} images, seed {seed}"}
        for split, first in EVALUATION_SEED.items():
            images, scenes = (getattr(settings, f"{split}_{what}") for what in ("images", "scenes"))
            sets[split] = f"{images} images, and {scenes} scenes of each kind turned, seed {first}"
        return {"generator": "srnlib.data.sort_of_clevr.generate", "clutter": settings.clutter, **sets}


def question_chances(settings: SortOfClevrSettings, step: int) -> Tensor:
    """How likely each of the 36 questions is drawn, up to a factor; relational ones more and more (`curriculum`)."""
    part = step / (settings.curriculum * settings.steps) if settings.curriculum else 1.0
    share = min(max(settings.relational * min(1.0, part), 1e-6), 1 - 1e-6)  # all stay possible
    return torch.tensor([1 - share] * 18 + [share] * 18)


def pixels(images: np.ndarray | Tensor) -> Tensor:
    """Images uint8 as floats in 0..1."""
    return torch.as_tensor(images).float() / 255


def accuracy(
    module: VisualReasoner, settings: SortOfClevrSettings, device, split: str, steps: int | None = None, size: int = 50
) -> dict[str, float]:
    """Right answers to all questions about the fixed images of a split, in percent, and what the refiner did.

    Args:
        module, settings, device, split: As `Task.evaluate`.
        steps: Inner steps; None for the module's own.
        size: Images in a batch.
    """
    total = getattr(settings, f"{split}_images")
    images, centers, shapes = data.generate(total, EVALUATION_SEED[split], clutter=settings.clutter)
    true, found = torch.from_numpy(data.answers(centers, shapes)), {}
    for at in range(0, total, size):
        X = pixels(images[at : at + size]).to(device)
        out = module(X, QUESTIONS.to(device).expand(len(X), -1, -1), steps)
        right = 100 * (out.logits.argmax(dim=2).cpu() == true[at : at + size]).float().view(len(X), 6, 6).mean(dim=2)
        scores = dict(zip(data.KINDS, right.unbind(1), strict=True))
        scores |= {"nonrelational": right[:, :3].mean(dim=1), "relational": right[:, 3:].mean(dim=1)}
        scores |= {name.replace("_", "."): v.cpu() for name, v in refinement(out).items()}
        for name, values in scores.items():
            found.setdefault(name, []).append(values)
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def answerer(module: VisualReasoner, device, steps: int | None = None) -> Callable[[Tensor], Tensor]:
    """Scores `[M, 10]` of the one question of the robustness tests about images uint8 `[M, 3, 75, 75]`."""
    question = QUESTIONS[None, FURTHEST_FROM_RED, None].to(device)  # [1, 1, 11]

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            X = pixels(images).to(device)
            return module(X, question.expand(len(X), -1, -1), steps).logits[:, 0]

    return answer


def turned_scenes(settings: SortOfClevrSettings, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Centres and shapes of the scenes that are turned: `synthetic`, at 200 places at most, and `dataset`."""
    n, seed = getattr(settings, f"{split}_scenes"), EVALUATION_SEED[split]
    return {"synthetic": synthetic(min(n, PLACES), seed), "dataset": easy(n, seed)}


sort_of_clevr = SortOfClevr()
