"""CPU milliseconds of a training step of Circles and of CLEVR: as appendix B.1 writes the layers, and as we compute it.

Plain: contiguous tensors, the last layer as a transposed convolution, the loss over all pixels.
Cells: channels last, the last layer as one matrix product a cell, all cells. Equal maths (tests assert it).
Sampled: as cells, the loss on a quarter of the cells, weighted so that it is unbiased: what the laptop profile does.

Run: python benchmarks/image_training.py
"""

from __future__ import annotations

import dataclasses

import torch
from _clock import milliseconds
from torch.nn import functional as F

from srnlib.models.image import superimpose
from srnlib.tasks import TASKS

STEPS = 10


def plain_image(module, X):
    """The model's reconstruction without any of its shortcuts."""
    S0, z = module.encoder(X)
    S = S0 if module.refiner is None else module.refiner(S0, z)[0]
    decoder = module.decoder
    code = decoder.project_norm(decoder.project(S.flatten(0, 1))).relu()
    features = decoder.grow(code.unflatten(1, (-1, decoder.side, decoder.side)))
    I = decoder.paint(features).unflatten(0, S.shape[:2])
    return superimpose(I).sum(dim=1)


def timed(task, model: str, kind: str) -> float:
    """Milliseconds of a step of a laptop model, forward and backward, computed in one of the three ways."""
    settings = task.settings("laptop", model)
    batch = task.dataset(dataclasses.replace(settings, train_images=settings.batch_size), 0)[:]
    module, last = task.build(model, settings), settings.steps - 1
    if kind == "plain":
        module.to(memory_format=torch.contiguous_format)
        X = torch.rand(settings.batch_size, 3, settings.size, settings.size)
        error = {"circles": F.mse_loss, "clevr": F.binary_cross_entropy}[task.name]
        return milliseconds(lambda: error(plain_image(module, X).clamp(0, 1), X).backward(), STEPS)
    settings = dataclasses.replace(settings, cells=settings.cells if kind == "sampled" else None)
    return milliseconds(lambda: task.loss(module, batch, settings, last)[0].backward(), STEPS)


def main() -> None:
    torch.set_num_threads(1)
    kinds = ("plain", "cells", "sampled")
    print(f"{'':19s}{''.join(f'{kind:>10s}' for kind in kinds)}   ms a step; plain / sampled")
    for name in ("circles", "clevr"):
        for model in ("baseline", "srn"):
            times = [timed(TASKS[name], model, kind) for kind in kinds]
            print(f"{name:9s}{model:10s}{''.join(f'{ms:10.1f}' for ms in times)}   {times[0] / times[2]:.1f}")


if __name__ == "__main__":
    main()
