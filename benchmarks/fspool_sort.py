"""Sorting features over a set, forward and backward: torch's sort, and numpy's order with a gather (`largest_first`).

Equal results, as tests assert. The shapes are those of the tasks' laptop profiles, `[B, N, C]` as FSPool sees them.

Run: python benchmarks/fspool_sort.py
"""

from __future__ import annotations

import torch
from _clock import milliseconds

from srnlib.set_encoders import largest_first

SHAPES = {
    "Circles": (16, 16, 100),
    "CLEVR (pairs)": (8, 256, 64),
    "Sort-of-CLEVR": (16, 25, 64),
    "C-SWM, K = 3": (1024, 3, 128),
    "CLUTRR": (16, 20, 64),
}


def torch_sort(x):
    """What `largest_first` replaces."""
    return x.sort(dim=1, descending=True).values


def main():
    torch.set_num_threads(1)
    print(f"{'':16s}{'[B, N, C]':>18s}{'torch ms':>10s}{'here ms':>10s}{'faster':>8s}")
    for name, shape in SHAPES.items():
        x = torch.randn(shape, requires_grad=True)
        plain, ours = (milliseconds(lambda x=x, f=f: f(x).sum().backward(), 100) for f in (torch_sort, largest_first))
        print(f"{name:16s}{str(list(shape)):>18s}{plain:10.2f}{ours:10.2f}{plain / ours:7.1f}x")


if __name__ == "__main__":
    main()
