"""CLEVR: from a picture of solids on a floor to the solids alone, through a set (appendix C)."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from srnlib import metrics, metrics_iou, results
from srnlib.data import clevr_release
from srnlib.data.clevr import Clevr, load
from srnlib.data.clevr_boxes import fill, published
from srnlib.set_encoders import PairSetEncoder
from srnlib.tasks import Task
from srnlib.tasks.painting import Painting, cross_entropy, painted
from srnlib.tasks.refining import refinement

SCENES = {"train": 0, "val": 1_000_000, "test": 2_000_000}  # seeds of the scenes; one training set for all runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClevrSettings(Painting):
    """Settings of CLEVR, beside `Painting`'s.

    Attributes:
        black_weight: What a wrong value counts where nothing should be painted; 1 (paper) as everywhere. While elements
            are few it rises there from 1: from the start it would pay to paint nothing.
        color_weight: What a wrong colour inside an object costs beside the cross-entropy, see `colored`; 0 (paper) for
            nothing. To cross-entropy all colours are worth less than a pixel of outline (notebook 04, section 3).
        val_images, test_images: Number of images.
        source: Folder of CLEVR_v1.0, to be shown instead of pictures of ours: of its `train` the first `train_images`,
            of its `val` the first `val_images` for validation and the next for the test, as many as there are.
    """

    size: int = 128
    inner_steps: int = 5
    inner_lr: float = 8.0
    black_weight: float = 1.0
    color_weight: float = 0.0
    train_images: int = 6_000
    val_images: int = 200
    test_images: int = 1_000
    source: str = ""

    def __post_init__(self):
        super().__post_init__()
        if self.black_weight <= 0:
            raise ValueError(f"black_weight must be positive, got {self.black_weight}")
        if not 0 <= self.color_weight < float("inf"):
            raise ValueError(f"color_weight must be finite and not negative, got {self.color_weight}")

    @classmethod
    def smoke(cls) -> ClevrSettings:
        """Seconds, for tests: nothing is learned."""
        model = {"width": 1, "encoder_width": 2, "hidden": 16, "set_size": 4, "embed_dim": 16, "inner_steps": 3}
        model |= {"inner_lr": 0.1}
        images = {"size": 32, "train_images": 48, "val_images": 6, "test_images": 12}
        return cls(steps=20, batch_size=8, lr=1e-3, clip=10.0, eval_every=10, cells=32, **model, **images)

    @classmethod
    def laptop(cls, model: str) -> ClevrSettings:
        """One CPU core: 6/64 of the paper's channels in the decoder, 1/2 in the encoder, 1/8 in H_agg.

        Both models have the same settings and about the same core time; a baseline does not read the inner rate.
        """
        own = {"srn": {"steps": 28_000, "inner_lr": 2.0}, "baseline": {"steps": 33_600, "inner_lr": 1.0}}
        sizes = {"width": 6, "encoder_width": 32, "hidden": 64, "embed_dim": 64, "embed_scale": 1 / 16}
        length = {"warmup": 0.01, "cooldown": 0.5, "few": 0.93, "freeze_norm": 0.025}
        loss = {"cells": 256, "black_weight": 20.0, "color_weight": 50.0}
        return cls(batch_size=16, lr=2e-3, clip=1.0, eval_every=1000, **sizes, **length, **loss, **own[model])

    @classmethod
    def paper(cls) -> ClevrSettings:
        """Appendix C, but loss, H_agg of pairs and inner loop are the released code's; 200 epochs, on a GPU."""
        inner = {"inner_steps": 10, "detach_init": True, "kaiming": False}
        model = {"width": 64, "encoder_width": 64, "hidden": 512, "embed_dim": 512}
        images = {"train_images": 70_000, "val_images": 1_000, "test_images": 15_000}
        return cls(steps=437_500, batch_size=32, lr=3e-4, beta2=0.999, eval_every=2_000, **model, **inner, **images)


class ClevrTask(Task):
    """The task; models `baseline` and `srn` differ by the refiner alone."""

    name = "clevr"
    models = ("baseline", "srn")
    rows = {
        "iou.overall": "overall IoU, %",
        "iou.object": "per-object IoU as published, %",
        "iou.object_real": "per-object IoU, real objects and exact boxes, %",
        "ari_fg": "foreground ARI, %",
    }
    headline = dict.fromkeys(("iou.overall", "iou.object", "ari_fg"), ("baseline", "srn"))
    paper = {  # Table 4
        "baseline": {"iou.overall": 91.93, "iou.object": 77.37},
        "srn": {"iou.overall": 93.45, "iou.object": 83.05},
    }

    def settings(self, profile: str, model: str) -> ClevrSettings:
        self.check(model, profile)
        if profile == "laptop":  # measured: 47 core-minutes each
            return ClevrSettings.laptop(model)
        return getattr(ClevrSettings, profile)()

    def build(self, model: str, settings: ClevrSettings) -> nn.Module:
        self.check(model)
        H_agg = None
        if model == "srn":
            H_agg = PairSetEncoder(settings.element_dim, settings.embed_dim, hidden=settings.hidden)
        return settings.autoencoder(H_agg)

    def dataset(self, settings: ClevrSettings, seed: int) -> TensorDataset:
        """Images uint8 `[B, 3, S, S]` and what each pixel sees `[B, S, S]`; the same scenes for every seed."""
        data = scenes(settings, "train")
        return TensorDataset(torch.from_numpy(data.images), torch.from_numpy(data.ids))

    def loss(self, module, batch, settings, step) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropy and colour error of the image without its background, mean over pixels and channels.

        While elements are few, only the half of the batch with the fewest objects is shown (of each process its own).
        """
        images, ids = batch
        active, part = settings.elements(step)
        getattr(module, "module", module).active = active
        if part < 1:
            emptiest = ids.flatten(1).amax(dim=1).argsort(stable=True)[: max(1, len(ids) // 2)]
            images, ids = images[emptiest], ids[emptiest]
        X, Y = tensors(images, ids)
        black = 1 + (settings.black_weight - 1) * min(1.0, part)

        def wrong(p: Tensor, target: Tensor) -> Tensor:
            return weighted(p, target, black) + settings.color_weight * colored(p, target)

        out, error = painted(module, X, Y, settings.cells, wrong)
        error = error.mean() / Y[0].numel()
        return error, {name: v.mean() for name, v in refinement(out).items()}

    def evaluate(self, module, settings, device, split) -> dict[str, float]:
        """The rows of the table in percent; `recon.mse`, a pixel's squared error; what the refiner did."""
        scores: dict[str, list[Tensor]] = {}
        for batch in evaluation_batches(settings, split):
            images, ids, formula, exact, visible = (t.to(device) for t in batch)
            X, Y = tensors(images, ids)
            out = module(X)
            shares = out.elements.float().clamp(0, 1)
            found = {
                "iou.overall": 100 * metrics_iou.overall_iou(out.image, Y),
                "iou.object": 100 * metrics_iou.object_iou(shares, formula),
                "iou.object_real": 100 * metrics_iou.object_iou_real(shares, exact),
                "ari_fg": 100 * metrics.foreground_ari(shares, visible),
                "recon.mse": (out.image - Y).square().flatten(1).mean(dim=1),
            }
            found |= {name.replace("_", "."): v for name, v in refinement(out).items()}
            for name, values in found.items():
                scores.setdefault(name, []).append(values.float().cpu())
        return {name: float(torch.cat(values).mean()) for name, values in scores.items()}

    def describe(self, settings: ClevrSettings, seed: int) -> dict[str, Any]:
        """How the scenes are made; those not in the cache yet are drawn."""
        if settings.source:
            sets = {split: f"{len(scenes(settings, split))} scenes" for split in SCENES}
            return {"release": "CLEVR_v1.0, test from its val", "size": settings.size, **sets}
        sets = {split: f"{len(scenes(settings, split))} scenes, seed {first}" for split, first in SCENES.items()}
        return {"generator": "srnlib.data.clevr.generate", "size": settings.size, **sets}


def weighted(p: Tensor, target: Tensor, black: float) -> Tensor:
    """Cross-entropy of each value, times `black` where the target is 0.

    Plain cross-entropy is least at the mean of what may be there: around an object whose edge is uncertain, a faint
    halo. Every value of it above 0.01 counts as painted in the IoUs. The weight darkens it.
    """
    return cross_entropy(p, target) * torch.where(target > 0, 1.0, black)


def colored(p: Tensor, target: Tensor) -> Tensor:
    """Squared error of each value's difference from grey (the mean of its pixel's channels), 0 where the target is 0.

    Args:
        p, target: Patches `[..., 48]`, see `srnlib.models.image.patch`.
    """
    p, target = (x.float().unflatten(-1, (3, -1)) for x in (p, target))
    off = (p - p.mean(dim=-2, keepdim=True)) - (target - target.mean(dim=-2, keepdim=True))
    return (off.square() * (target > 0)).flatten(-2)


def scenes(settings: ClevrSettings, split: str) -> Clevr:
    """The scenes of a split, drawn on all cores when first asked for, and kept in the cache.

    Raises: With a `source`, as `srnlib.data.clevr_release.load`.
    """
    n = getattr(settings, f"{split}_images")
    if settings.source:
        return _released(settings.source, split, settings.val_images if split == "test" else 0, n, settings.size)
    workers = max(1, min(os.cpu_count() or 1, n // 64))
    cache = results.data_dir() / "cache"
    return load(n, SCENES[split], cache, size=settings.size, workers=workers, progress=n >= 1_000)


@functools.lru_cache(maxsize=len(SCENES))
def _released(source: str, split: str, skip: int, n: int, size: int) -> Clevr:
    """Some scenes of the release, read once; it takes its time for their cameras and masks."""
    of = "train" if split == "train" else "val"
    found = clevr_release.load(source, of, skip + n, size=size, progress=True).part(slice(skip, None))
    if not len(found):
        raise ValueError(f"{source} has no more than {skip} scenes of {of!r}, all for validation: lower val_images")
    return found


def tensors(images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Input and target, floats `[B, 3, S, S]` in 0..1: the image, and the image with the floor painted black."""
    X = images.float() / 255
    return X, X * (ids > 0).unsqueeze(1)


def evaluation_batches(settings: ClevrSettings, split: str, size: int = 50) -> Iterator[tuple[Tensor, ...]]:
    """Batches of a split: images, ids, the boxes of the formula and the exact ones as masks, visible masks."""
    data = scenes(settings, split)
    for at in range(0, len(data), size):
        rows = slice(at, at + size)
        boxes = published(data.scenes[rows], settings.size), fill(data.boxes[rows], settings.size)
        yield tuple(map(torch.from_numpy, (data.images[rows], data.ids[rows], *boxes, data.visible(rows))))


clevr = ClevrTask()
