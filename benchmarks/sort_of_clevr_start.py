"""Which start leaves the Relation Network's plateau soonest? The laptop recipe, and the recipe with one thing undone.

600 steps (half a core-minute) on non-relational questions, which a network that binds no colour to a shape answers no
better than chance (left, top) or the majority (shape). Constant rate after the warm-up, one seed, 200 validation images
(so give or take three points). Writes data/results/sort_of_clevr/start.json, which notebook 05 shows.

Run: python benchmarks/sort_of_clevr_start.py
"""

from __future__ import annotations

import torch

from srnlib import loop, results
from srnlib.files import write_json
from srnlib.runs import Run

LENGTH = {"steps": 600, "restart": 1.0, "cooldown": 0.0, "warmup": 0.05}
BASE = LENGTH | {"eval_every": 100, "relational": 0.0, "val_scenes": 1}
VARIANTS = {
    "the laptop recipe, RN": {},
    "the laptop recipe, RN + SRN": {},
    "image not inverted": {"inverted": False},
    "places in -1..1": {"reach": 1.0},
    "questions not scaled": {"question_scale": 1.0},
    "torch's initialisation, sum not normalised": {"conditioned": False},
    "rate 1e-3": {"lr": 1e-3},
    "relational questions from the start": {"relational": 0.7},
}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, changes in VARIANTS.items():
        model = "srn" if "SRN" in name else "rn"
        run = Run.of("sort_of_clevr", model, "laptop", 0, **BASE | {"curriculum": 0.0} | changes)
        loop.seed_everything(0)
        module = run.task.build(model, run.settings)
        history = loop.fit(run.task, module, run.settings, 0, on=loop.accelerator("cpu"), show=False)
        rows.append({"name": name, "changes": changes, "history": history})
        last = history[-1]
        print(f"{name:45s}" + "".join(f"  {k} {last[k]:5.1f}" for k in ("shape", "left", "top")), flush=True)
    made = results.environment() | {"command": "python benchmarks/sort_of_clevr_start.py"}
    write_json(results.data_dir() / "results" / "sort_of_clevr" / "start.json", {"config": BASE, "rows": rows, **made})


if __name__ == "__main__":
    main()
