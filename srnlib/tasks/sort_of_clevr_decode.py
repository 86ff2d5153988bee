"""Figure 4: freeze what Sort-of-CLEVR's models perceive, decode it, and count the objects that are not there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy.ndimage import label
from torch import Tensor
from torch.utils.data import TensorDataset

from srnlib.data import sort_of_clevr as data
from srnlib.models.frozen_decoder import FrozenDecoder, ink
from srnlib.models.image import patch
from srnlib.runs import Run
from srnlib.tasks import Settings, Task
from srnlib.tasks.painting import sample_cells
from srnlib.tasks.sort_of_clevr import EVALUATION_SEED, pixels, sort_of_clevr
from srnlib.train import load_module

LEAST = 30  # pixels of a colour that touch make an object, a quarter of a true one


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings(Settings):
    """Settings of the decoder on a frozen perceptual stage.

    Attributes:
        width: Of the decoder, see `srnlib.models.frozen_decoder.FrozenDecoder`.
        source_profile, source_seed: The run of `sort_of_clevr` whose checkpoint is frozen; profile None takes a
            fresh, untrained model of the profile smoke.
        cells: How many 4x4 cells of an image the loss samples, with weights that keep it unbiased; None for all.
        train_images: Images that the decoder is fitted to, the first of those the source was trained on.
        val_images, test_images: Number of those, and of new ones, that are measured.
    """

    width: int
    source_profile: str | None = "laptop"
    source_seed: int = 0
    cells: int | None = None
    train_images: int = 10_000
    val_images: int = 20
    test_images: int = 500

    @classmethod
    def smoke(cls) -> DecodeSettings:
        """Seconds, for tests: nothing is learned."""
        counts = {"train_images": 16, "val_images": 4, "test_images": 4, "cells": 16}
        return cls(steps=4, batch_size=2, lr=1e-3, eval_every=2, width=1, source_profile=None, **counts)

    @classmethod
    def laptop(cls) -> DecodeSettings:
        """One CPU core, at most half an hour: a narrow decoder and fewer images to overfit."""
        length = {"steps": 9000, "warmup": 0.02, "cooldown": 0.4, "eval_every": 1500}
        return cls(batch_size=8, lr=3e-3, width=4, cells=80, train_images=500, **length)

    @classmethod
    def paper(cls) -> DecodeSettings:
        """Section 3.1, Visualization: 10,000 images, 50 epochs, the decoder of Circles; on a GPU."""
        return cls(steps=7_800, batch_size=64, lr=3e-4, beta2=0.999, width=64, source_profile="paper", eval_every=780)


class SortOfClevrDecode(Task):
    """The task; `rn` and `srn` are the models of `sort_of_clevr` whose perceptual stage is frozen."""

    name = "sort_of_clevr_decode"
    models = ("rn", "srn")
    rows = {
        "error.train": "squared error of an image",
        "error.new": "squared error of a new image",
        "error.blank": "squared error of a blank sheet",
        "objects.extra": "objects too many in an image",
        "objects.missing": "objects missing in an image",
        "objects.extra.new": "objects too many in a new image",
        "objects.missing.new": "objects missing in a new image",
    }
    paper = {"rn": {"error.train": 5000}, "srn": {"error.train": 773}}  # its unit is not said

    def settings(self, profile: str, model: str) -> DecodeSettings:
        self.check(model, profile)
        return getattr(DecodeSettings, profile)()

    def build(self, model: str, settings: DecodeSettings) -> FrozenDecoder:
        """Reads the source's checkpoint; CheckpointError if there is none."""
        self.check(model)
        if settings.source_profile is None:
            source = sort_of_clevr.settings("smoke", model)
            perception = sort_of_clevr.build(model, source)
        else:
            run = Run.of(sort_of_clevr, model, settings.source_profile, settings.source_seed)
            perception, source = load_module(run), run.settings
        return FrozenDecoder(perception, source.channels + 2, settings.width)

    def dataset(self, settings: DecodeSettings, seed: int) -> TensorDataset:
        """Images uint8 `[train_images, 3, 75, 75]`; the same ones whatever the seed."""
        return TensorDataset(torch.from_numpy(data.generate(settings.train_images, settings.source_seed)[0]))

    def loss(self, module, batch, settings, step) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of a padded image, summed over pixels and channels; mean over the batch."""
        target = patch(ink(pixels(batch[0])))  # [B, 400, 48]
        if settings.cells is None:
            at = torch.arange(target.shape[1], device=target.device).expand(len(target), -1)
            weight = torch.ones_like(target[:, :, 0])
        else:
            at, weight = sample_cells(target, settings.cells)
        out = module(pixels(batch[0]), at)
        error = (out.image - target.take_along_dim(at[:, :, None], dim=1)).square().sum(dim=2)
        return (weight * error).sum(dim=1).mean(), {}

    def evaluate(self, module, settings, device, split) -> dict[str, float]:
        """Squared error of an image on images fitted to (`error.train`) and new ones (`error.new`), and of a blank one.

        `objects.extra` and `objects.missing` are counted on the former, `objects.extra.new` and `objects.missing.new`
        on the latter, see `count_objects`.
        """
        n = getattr(settings, f"{split}_images")
        scores: dict[str, list] = {}
        fitted = ("train", "", min(n, settings.train_images), settings.source_seed)
        for name, end, count, seed in (fitted, ("new", ".new", n, EVALUATION_SEED[split])):
            images = data.generate(count, seed)[0]
            for at in range(0, len(images), 10):
                X = pixels(images[at : at + 10]).to(device)
                painted = module(X).image
                found = {f"error.{name}": (painted - (1 - X)).square().flatten(1).sum(dim=1).tolist()}
                extra, missing = count_objects((1 - painted).cpu().numpy()).T
                found |= {f"objects.extra{end}": extra, f"objects.missing{end}": missing}
                if name == "train":
                    found |= {"error.blank": (1 - X).square().flatten(1).sum(dim=1).tolist()}
                for key, values in found.items():
                    scores.setdefault(key, []).extend(values)
        return {key: float(np.mean(values)) for key, values in scores.items()}

    def describe(self, settings: DecodeSettings, seed: int) -> dict[str, Any]:
        """Where images and perceptual stage come from."""
        source = f"sort_of_clevr {settings.source_profile}, seed {settings.source_seed}"
        train = f"{settings.train_images} images, seed {settings.source_seed}"
        return {"generator": "srnlib.data.sort_of_clevr.generate", "perception": source, "train": train}


def count_objects(images: np.ndarray) -> np.ndarray:
    """Objects too many and objects missing in each image `[B, 3, 75, 75]` in 0..1: `[B, 2]`.

    A pixel has the nearest of the six colours and white; at least 30 touching pixels of one colour are an object. Each
    colour should have one.
    """
    palette = np.concatenate([data.PALETTE, [[255, 255, 255]]]) / 255
    nearest = ((images[:, None] - palette[:, :, None, None]) ** 2).sum(axis=2).argmin(axis=1)  # [B, 75, 75]
    found = np.zeros((len(images), 2), int)
    for row, picture in zip(found, nearest, strict=True):
        for colour in range(len(data.PALETTE)):
            parts, _ = label(picture == colour)
            objects = (np.bincount(parts.ravel())[1:] >= LEAST).sum()
            row += (max(objects - 1, 0), objects == 0)
    return found


sort_of_clevr_decode = SortOfClevrDecode()
