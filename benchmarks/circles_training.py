"""CPU milliseconds of one Circles training step: as the layers are written in appendix B.1, and as we compute it.

Plain: contiguous tensors, the last layer as a transposed convolution, the loss over all pixels.
Cells: channels last, the last layer as one matrix product a cell, all cells. Equal maths (tests assert it).
Sampled: as cells, the loss on 64 of 256 cells, weighted so that it is unbiased: what the laptop profile trains with.

Run: python benchmarks/circles_training.py
"""

from __future__ import annotations

import dataclasses
import time

import torch

from srnlib.models.image import superimpose
from srnlib.tasks.circles import circles

STEPS = 10


def plain_loss(module, X):
    """The model's squared error without any of its shortcuts."""
    S0, z = module.encoder(X)
    S = S0 if module.refiner is None else module.refiner(S0, z)[0]
    decoder = module.decoder
    code = decoder.project_norm(decoder.project(S.flatten(0, 1))).relu()
    features = decoder.grow(code.unflatten(1, (-1, decoder.side, decoder.side)))
    I = decoder.paint(features).unflatten(0, S.shape[:2])
    return (superimpose(I).sum(dim=1) - X).square().flatten(1).sum(dim=1).mean()


def milliseconds(step) -> float:
    """CPU time of a call, after two to warm up; the best of three rounds."""
    rounds = []
    for _ in range(3):
        for i in range(STEPS + 2):
            if i == 2:
                start = time.process_time()
            step()
        rounds.append((time.process_time() - start) / STEPS)
    return 1000 * min(rounds)


def timed(model: str, kind: str) -> float:
    """Milliseconds of a step of a laptop model, forward and backward, computed in one of the three ways."""
    settings = circles.settings("laptop", model)
    batch = circles.dataset(dataclasses.replace(settings, train_images=settings.batch_size), 0)[:]
    module, last = circles.build(model, settings), settings.steps - 1
    if kind == "plain":
        module.to(memory_format=torch.contiguous_format)
        X = torch.rand(settings.batch_size, 3, settings.size, settings.size)
        return milliseconds(lambda: plain_loss(module, X).backward())
    settings = dataclasses.replace(settings, cells=settings.cells if kind == "sampled" else None)
    return milliseconds(lambda: circles.loss(module, batch, settings, last)[0].backward())


def main() -> None:
    torch.set_num_threads(1)
    kinds = ("plain", "cells", "sampled")
    print(f"{'model':10s}{''.join(f'{kind:>10s}' for kind in kinds)}   ms a step; plain / sampled")
    for model in ("baseline", "srn"):
        times = [timed(model, kind) for kind in kinds]
        print(f"{model:10s}{''.join(f'{ms:10.1f}' for ms in times)}   {times[0] / times[2]:.1f}")


if __name__ == "__main__":
    main()
