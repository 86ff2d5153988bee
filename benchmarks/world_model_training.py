"""CPU milliseconds of one C-SWM training step at the paper's settings: as the original program is built, and as ours.

Original: observations as float64 arrays, one transition at a time through a DataLoader, contiguous (NCHW) tensors, the
two observations of a transition encoded one after the other. Copies: frames once as uint8, stacked when asked for,
channels last, all observations in one pass. Ours: as copies, but what a batch holds several times is seen once, and
batch norm counts it (`srnlib.counted_norm`). Spans: as copies, with the ten transitions of whole episodes, whose
observations overlap: 1.1 instead of 2 a transition. Same network, same loss, the same batch of 1024 transitions of 1000
episodes; batch norm sees one batch instead of two. The last lines: what single precision does to batch norm's mean.

Run: python benchmarks/world_model_training.py
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from srnlib.data import atari
from srnlib.models.world_model import energy
from srnlib.tasks.world_model import Transitions, pong

BATCH, STEPS = 1024, 2  # the paper's batch: the larger, the more copies


class Original(Dataset):
    """One transition an item, float64 in 0..1, as the original's h5 file holds it."""

    def __init__(self, episodes: atari.Episodes):
        every = np.arange(len(episodes))[:, None]
        self.X, self.actions = episodes.observe(every, np.arange(atari.STEPS + 1)) / 255, episodes.actions

    def __len__(self) -> int:
        return self.actions.size

    def __getitem__(self, index: int):
        e, t = divmod(index, atari.STEPS)
        return self.X[e, t].astype(np.float32), self.actions[e, t], self.X[e, t + 1].astype(np.float32)


def original_loss(module, X, action, following):
    """C-SWM's loss as its program computes it, on contiguous tensors."""

    def see(X):
        return module.encoder(module.extractor(X).flatten(2))

    S, after = see(X), see(following)
    negative = S[torch.randperm(len(S))]
    return (energy(module.step(S, action), after) + (1 - energy(S, negative)).clamp(min=0)).mean()


def seconds(batches, loss) -> float:
    """CPU seconds of a step: fetch, forward, backward; the first step does not count."""
    for i in range(STEPS + 1):
        if i == 1:
            start = time.process_time()
        loss(next(batches)).backward()
    return (time.process_time() - start) / STEPS


def batch_norm_error(X: torch.Tensor) -> float:
    """Greatest relative error of the mean that `torch.nn.BatchNorm2d` finds, against double precision."""
    norm, exact = nn.BatchNorm2d(X.shape[1], momentum=1.0), X.double().mean(dim=(0, 2, 3))
    norm(X)
    return float(((norm.running_mean - exact) / exact).abs().max())


def main() -> None:
    torch.set_num_threads(1)
    settings = pong.settings("paper", "cswm_k3")
    episodes = pong.episodes(settings, "train")
    times = {}

    module = pong.build("cswm_k3", settings).to(memory_format=torch.contiguous_format)
    batches = iter(DataLoader(Original(episodes), BATCH, shuffle=True))
    times["original"] = seconds(batches, lambda batch: original_loss(module, *batch))

    for name, span, once in (("copies", 1, False), ("ours", 1, True), ("spans", 10, False)):
        module, data = pong.build("cswm_k3", settings), Transitions(episodes, span, once)
        chosen = dataclasses.replace(settings, span=span, once=once)
        draws = (data[torch.randperm(len(data))[: BATCH // span]] for _ in iter(int, 1))
        part = BATCH // span * span / BATCH  # of a batch of BATCH transitions
        times[name] = seconds(draws, lambda batch, m=module, s=chosen: pong.loss(m, batch, s, 0)[0]) / part

    for name, spent in times.items():
        faster = times["original"] / spent
        print(f"{name:9s} {1000 * spent / BATCH:7.2f} ms a transition   {faster:.2f} times as fast as the original")
    X = module.extractor[1](next(draws)[0].flatten(0, 1) * (1 / 255)).detach()
    for name, layout in (("NCHW", torch.contiguous_format), ("channels last", torch.channels_last)):
        error = batch_norm_error(X.contiguous(memory_format=layout))
        print(f"batch norm, {name}: the mean of {X[:, 0].numel():,} numbers is off by {error:.1e} at most")


if __name__ == "__main__":
    main()
