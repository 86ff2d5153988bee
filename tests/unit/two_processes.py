"""Called by test_train.py, and run by it under torchrun: ten steps of Circles without batch norm; prints the losses.

In float64, so that what remains between one process and two is the order of a few sums.
"""

import json

from torch import nn

from srnlib import loop
from srnlib.runs import Run
from srnlib.tasks.circles import Circles


class InDouble(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module.double()

    def forward(self, X):
        return self.module(X.double())


class NoNormCircles(Circles):
    def build(self, model, settings):
        module = super().build(model, settings)
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                    setattr(parent, name, nn.Identity())
        return InDouble(module)

    def evaluate(self, module, settings, device, split):
        return {}


class ThirdIsBest(NoNormCircles):
    """The main process alone evaluates, so it alone knows which weights a restart goes back to."""

    select, rows_seen = "score", 0

    def evaluate(self, module, settings, device, split):
        self.rows_seen += 1
        return {"score": -abs(self.rows_seen - 3)}


def losses(on, task, **overrides):
    run = Run.of(task, "srn", "smoke", steps=10, eval_every=1, **overrides)
    loop.seed_everything(run.seed)
    module = run.task.build(run.model, run.settings)
    return [row["loss"] for row in loop.fit(run.task, module, run.settings, run.seed, on=on, show=False)]


def main() -> dict:
    on = loop.accelerator("cpu")
    found = {"attached": losses(on, NoNormCircles()), "detached": losses(on, NoNormCircles(), detach_init=True)}
    found["restarted"] = losses(on, ThirdIsBest(), restart=0.6)
    return found | {"processes": on.num_processes} if on.is_main_process else {}


if __name__ == "__main__":
    found = main()
    if found:
        print(json.dumps(found))
    loop.leave()
