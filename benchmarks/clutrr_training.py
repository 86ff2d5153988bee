"""CPU milliseconds of one CLUTRR training step of each laptop model, forward and backward, 64 stories of k = 2, 3, 4.

GRN is timed with both graph encoders: `TripleEncoder`, which the laptop profile uses, and `GraphEncoder`, which also
pools the 400 edges (the paper profile's).

Run: python benchmarks/clutrr_training.py
"""

from __future__ import annotations

import dataclasses

import torch
from _clock import milliseconds

from srnlib import loop
from srnlib.tasks.clutrr import clutrr_generated

STEPS = 5


def timed(model: str, pool_edges: bool = False) -> float:
    """CPU milliseconds of a step."""
    settings = dataclasses.replace(clutrr_generated.settings("laptop", model), train_stories=100, pool_edges=pool_edges)
    loop.seed_everything(0)
    module, data = clutrr_generated.build(model, settings), clutrr_generated.dataset(settings, 0)
    batch = data[torch.arange(settings.batch_size)]
    return milliseconds(lambda: clutrr_generated.loss(module, batch, settings, 0)[0].backward(), STEPS)


def main() -> None:
    torch.set_num_threads(1)
    for model in ("rn", "rn_fixed", "srn"):
        print(f"{model:20s}{timed(model):8.1f} ms")
    cheap, full = timed("grn"), timed("grn", pool_edges=True)
    print(f"{'grn, TripleEncoder':20s}{cheap:8.1f} ms")
    print(f"{'grn, GraphEncoder':20s}{full:8.1f} ms, {full / cheap:.1f} times")


if __name__ == "__main__":
    main()
