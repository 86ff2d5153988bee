"""Circles: reconstruct images of circles through a set, and see whether its elements are the circles (section 2.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from srnlib import metrics
from srnlib.data.circles import generate, masks, render
from srnlib.set_encoders import SetEncoder
from srnlib.tasks import Task
from srnlib.tasks.painting import Painting, cross_entropy, painted
from srnlib.tasks.refining import refinement

LOSSES = {"squared_error": lambda p, target: (p - target).square(), "cross_entropy": cross_entropy}
EVALUATION_SEED = {"val": 1_000_000, "test": 2_000_000}  # plus the count; above every training seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class CirclesSettings(Painting):
    """Settings of Circles, beside `Painting`'s.

    Attributes:
        loss: `squared_error` (the paper's) or `cross_entropy`, which sees small circles sooner (see `painting`).
        max_circles, max_radius: Of the images, see `srnlib.data.circles.generate`.
        val_images, test_images: Number of images for each count of circles.
    """

    loss: str = "squared_error"
    embed_dim: int = 100
    size: int = 64
    max_circles: int = 10
    max_radius: int = 11
    train_images: int = 64_000
    val_images: int = 32
    test_images: int = 2_000

    def __post_init__(self):
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")

    @classmethod
    def smoke(cls) -> CirclesSettings:
        """Seconds, for tests: nothing is learned."""
        model = {"width": 1, "encoder_width": 1, "hidden": 16, "set_size": 4, "embed_dim": 16, "inner_steps": 3}
        images = {"size": 32, "max_circles": 3, "max_radius": 6}
        counts = {"train_images": 256, "val_images": 8, "test_images": 16}
        return cls(steps=40, batch_size=8, lr=1e-3, clip=10.0, eval_every=20, **model, **images, **counts)

    @classmethod
    def laptop(cls, model: str) -> CirclesSettings:
        """One CPU core, at most three hours: 1/16 of the paper's channels in the decoder, 1/4 in the encoder.

        Both models have the same settings, and about the same core time; the rest is the refiner's own.
        """
        own = {"srn": {"steps": 76_000, "jitter": 1.0, "starts": 8, "eval_steps": 16}, "baseline": {"steps": 150_000}}
        widths = {"width": 4, "encoder_width": 16, "hidden": 128, "inner_steps": 8, "loss": "cross_entropy"}
        length = {"warmup": 0.005, "cooldown": 0.5, "few": 0.6, "freeze_norm": 0.01, "eval_every": 2000}
        return cls(batch_size=16, lr=3e-3, clip=2000.0, cells=64, **widths, **length, **own[model])

    @classmethod
    def paper(cls) -> CirclesSettings:
        """Appendix B.1, and what only the released code says (inner loop, batch); 200 epochs, on a GPU.

        The released code takes 20 inner steps from its 20th epoch on; here it is 10 throughout.
        """
        inner = {"inner_lr": 0.1, "inner_steps": 10, "detach_init": True, "kaiming": False}
        model = {"width": 64, "encoder_width": 64, "hidden": 512}
        return cls(steps=200_000, batch_size=64, lr=3e-4, beta2=0.999, eval_every=1000, **model, **inner)


class Circles(Task):
    """The task; models `baseline` and `srn` differ by the refiner alone."""

    name = "circles"
    models = ("baseline", "srn")
    rows = {f"decomposed.n{n}": f"{n} circle{'s' if n > 1 else ''}: decomposed, %" for n in range(1, 6)}
    rows |= {f"ari_fg.n{n}": f"{n} circles: foreground ARI, %" for n in (2, 3, 5)}
    rows |= {"matched_iou.n3": "3 circles: matched IoU, %"}
    headline = dict.fromkeys(("decomposed.n1", "decomposed.n5", "ari_fg.n3"), ("baseline", "srn"))
    paper = {  # Table 1
        "baseline": {f"decomposed.n{n}": v for n, v in enumerate((45.1, 16.5, 7.8, 3.2, 1.9), 1)},
        "srn": {f"decomposed.n{n}": v for n, v in enumerate((95.8, 88.7, 79.9, 72.7, 65.2), 1)},
    }

    def settings(self, profile: str, model: str) -> CirclesSettings:
        self.check(model, profile)
        if profile == "laptop":
            return CirclesSettings.laptop(model)
        return getattr(CirclesSettings, profile)()

    def build(self, model: str, settings: CirclesSettings) -> nn.Module:
        self.check(model)
        H_agg = None
        if model == "srn":
            H_agg = SetEncoder(settings.element_dim, settings.embed_dim, hidden=settings.hidden)
        return settings.autoencoder(H_agg)

    def dataset(self, settings: CirclesSettings, seed: int) -> TensorDataset:
        """Circles `[train_images, max_circles, 4]`; drawing an image takes microseconds, so `loss` does it."""
        return TensorDataset(torch.from_numpy(generate(settings.train_images, seed, **_kind(settings))[1]))

    def loss(self, module, batch, settings, step) -> tuple[Tensor, dict[str, Tensor]]:
        """`settings.loss` of an image, summed over pixels and channels; mean over the batch."""
        elements, circles = shown(settings, step)
        getattr(module, "module", module).active = elements
        X = torch.from_numpy(render(batch[0][:, :circles].cpu().numpy(), settings.size))
        X = X.to(batch[0].device).float() / 255
        out, error = painted(module, X, X, settings.cells, LOSSES[settings.loss])
        return error.mean(), {name: v.mean() for name, v in refinement(out).items()}

    def evaluate(self, module, settings, device, split) -> dict[str, float]:
        """For each count of circles n, in percent: `decomposed.n`, `matched_iou.n`, `ari_fg.n` (from two circles on).

        Over all images: `recon.mse`, a pixel's squared error; of a refiner `inner.first`, `inner.last`, `moved`.

        On the test set, if a refiner has more than one start: all of it again as `single.`..., of the proposal's
        descent alone, with as many steps as in training.
        """
        found = self._scores(module, settings, device, split)
        if module.refiner is not None and settings.starts > 1 and split == "test":
            refiner = module.refiner
            refiner.starts, refiner.eval_steps = 1, None
            found |= {f"single.{name}": v for name, v in self._scores(module, settings, device, split).items()}
            refiner.starts, refiner.eval_steps = settings.starts, settings.eval_steps
        return found

    def _scores(self, module, settings, device, split) -> dict[str, float]:
        scores: dict[str, list[Tensor]] = {}
        for n in range(1, settings.max_circles + 1):
            for images, true, counts in evaluation_batches(settings, n, split):
                X, true, counts = (images.to(device).float() / 255, true.to(device), counts.to(device))
                out = module(X)
                shares = out.elements.float().clamp(0, 1)
                found = {
                    f"decomposed.n{n}": 100 * metrics.decomposed(shares, counts).float(),
                    f"matched_iou.n{n}": 100 * metrics.matched_iou(shares, true, counts),
                    "recon.mse": (out.image - X).square().flatten(1).mean(dim=1),
                }
                found |= {f"ari_fg.n{n}": 100 * metrics.foreground_ari(shares, true)} if n > 1 else {}
                found |= {name.replace("_", "."): v for name, v in refinement(out).items()}
                for name, values in found.items():
                    scores.setdefault(name, []).append(values.float().cpu())
        return {name: float(torch.cat(values).mean()) for name, values in scores.items()}

    def describe(self, settings: CirclesSettings, seed: int) -> dict[str, Any]:
        """How the images are made; nothing is cached, since drawing them anew takes seconds.

        Raises:
            ValueError: If an image with the largest count of circles cannot be made.
        """
        most = settings.max_circles
        generate(1, EVALUATION_SEED["test"] + most, count=most, **_kind(settings))
        sets = {"train": f"{settings.train_images} images, seed {seed}"}
        for split, first in EVALUATION_SEED.items():
            sets[split] = f"{getattr(settings, f'{split}_images')} images of each count n, seed {first} + n"
        return {"generator": "srnlib.data.circles.generate", **_kind(settings), **sets}


def shown(settings: CirclesSettings, step: int) -> tuple[int, int]:
    """How many elements a step uses, and how many circles it shows at most.

    While there are few: half of both, three circles at first; thereafter all.
    """
    elements, part = settings.elements(step)
    if part >= 1:
        return elements, settings.max_circles
    half = max(1, settings.max_circles // 2)
    return elements, min(half, 3 + int(4 * part * half))


def evaluation_batches(settings: CirclesSettings, n: int, split: str, size: int = 100) -> Iterator[tuple[Tensor, ...]]:
    """Batches of the fixed images of `n` circles: images uint8, masks bool `[B, max_circles, size, size]`, counts."""
    total = getattr(settings, f"{split}_images")
    images, circles, counts = generate(total, EVALUATION_SEED[split] + n, count=n, **_kind(settings))
    for at in range(0, total, size):
        part = slice(at, at + size)
        yield tuple(map(torch.as_tensor, (images[part], masks(circles[part], settings.size), counts[part])))


def _kind(settings: CirclesSettings) -> dict[str, int]:
    return {name: getattr(settings, name) for name in ("size", "max_circles", "max_radius")}


circles = Circles()
