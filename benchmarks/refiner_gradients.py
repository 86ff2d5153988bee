"""What each gradient mode of `srnlib.refine` costs: memory kept for backward, CPU time, and how exact it is.

The table behind notebook 02's figure. `python benchmarks/refiner_gradients.py --help` for other sizes.
"""

from __future__ import annotations

import argparse
import time
import weakref

import torch
from torch import Tensor

from srnlib import SetEncoder, refine

MODES = ["unroll", "truncate:5", "truncate:1", "implicit", "implicit:1"]
STEPS = [1, 5, 10, 20, 40]


class Held:
    """A tensor that autograd has saved; it dies with the graph that needs it."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class Problem:
    """Sets refined from a disturbed start, towards an embedding that no set reaches exactly; a linear outer loss."""

    def __init__(self, batch: int, elements: int, dim: int, embed: int, hidden: int, inner_lr: float):
        torch.manual_seed(0)
        self.H_agg, self.inner_lr = SetEncoder(dim, embed, hidden=hidden), inner_lr
        self.readout, S = torch.randn(2, batch, elements, dim)
        self.S0 = S + 0.3 * torch.randn_like(S)
        z = self.H_agg(S).detach()
        self.z = (z + 0.02 * z.std() * torch.randn_like(z)).requires_grad_()
        self.wanted = [self.z, *self.H_agg.parameters()]

    def measure(self, steps: int, mode: str) -> tuple[Tensor, int, float]:
        """Outer gradient (flat), bytes that autograd keeps after the forward pass, CPU seconds of both passes."""
        live: weakref.WeakSet[Held] = weakref.WeakSet()

        def pack(tensor: Tensor) -> Held:
            live.add(held := Held(tensor))
            return held

        started = time.process_time()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
            S, _ = refine(self.S0, self.z, self.H_agg, steps=steps, inner_lr=self.inner_lr, momentum=0.5, grad=mode)
        storages = [h.tensor.untyped_storage() for h in live]
        owned = {t.untyped_storage().data_ptr() for t in (self.S0, *self.wanted)}
        kept = sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in owned}.values())
        slopes = torch.autograd.grad((S * self.readout).sum(), self.wanted)
        return torch.cat([g.flatten() for g in slopes]), kept, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"batch": 8, "elements": 4, "dim": 3, "embed": 64, "hidden": 64}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--inner-lr", type=float, default=10.0, help="default 10")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest of so many runs counts; default 5")
    arguments = vars(parser.parse_args())
    repeats = arguments.pop("repeats")

    torch.set_default_dtype(torch.float64)
    problem = Problem(**arguments)
    at_minimum = problem.measure(400, "implicit")[0]
    cosine = torch.nn.CosineSimilarity(dim=0)
    print(", ".join(f"{k} {v}" for k, v in arguments.items()), f"; torch {torch.__version__}, float64, CPU")
    print(f"{'steps':>5s}  {'mode':11s} {'kept MB':>8s} {'CPU ms':>7s}  cos(unrolled)  cos(minimum)  length / unrolled")
    for steps in STEPS:
        exact = problem.measure(steps, "unroll")[0]
        for mode in MODES:
            runs = [problem.measure(steps, mode) for _ in range(repeats)]
            g, kept, milliseconds = runs[0][0], runs[0][1] / 1e6, 1e3 * min(run[2] for run in runs)
            print(
                f"{steps:5d}  {mode:11s} {kept:8.2f} {milliseconds:7.1f}  {cosine(g, exact):13.3f}"
                f"  {cosine(g, at_minimum):12.3f}  {g.norm() / exact.norm():17.2f}"
            )


if __name__ == "__main__":
    main()
