"""CPU milliseconds of one C-SWM training step at the paper's settings: as the original program is built, and as ours.

Original: observations as float64 arrays, one transition at a time through a DataLoader, contiguous (NCHW) tensors, the
two observations of a transition encoded one after the other. Ours: frames once as uint8, stacked when asked for,
channels last, all observations in one pass. Spans: as ours, with the ten transitions of whole episodes, whose
observations overlap: 1.1 instead of 2 a transition. Same network, same loss; batch norm sees one batch instead of two.

Run: python benchmarks/world_model_training.py
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from srnlib.data import atari
from srnlib.models.world_model import energy
from srnlib.tasks.world_model import Transitions, pong

BATCH, STEPS = 128, 2  # of the paper's 1024, so that it takes a minute


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


def main() -> None:
    torch.set_num_threads(1)
    episodes = atari.generate("pong", 60, 1)
    settings = pong.settings("paper", "cswm_k3")
    times = {}

    module = pong.build("cswm_k3", settings).to(memory_format=torch.contiguous_format)
    batches = iter(DataLoader(Original(episodes), BATCH, shuffle=True))
    times["original"] = seconds(batches, lambda batch: original_loss(module, *batch))

    for name, span in (("ours", 1), ("spans", 10)):
        ours, data = pong.build("cswm_k3", settings), Transitions(episodes, span)
        chosen = dataclasses.replace(settings, span=span)
        draws = (data[torch.randperm(len(data))[: BATCH // span]] for _ in iter(int, 1))
        part = BATCH // span * span / BATCH  # of a batch of BATCH transitions
        times[name] = seconds(draws, lambda batch, m=ours, s=chosen: pong.loss(m, batch, s, 0)[0]) / part

    for name, spent in times.items():
        faster = times["original"] / spent
        print(f"{name:9s} {1000 * spent / BATCH:7.2f} ms a transition   {faster:.2f} times as fast as the original")


if __name__ == "__main__":
    main()
