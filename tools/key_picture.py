"""Draw the README's picture, `data/figures/circles.png`, from the shipped Circles checkpoints of seed 0."""

from __future__ import annotations

import numpy as np
import torch

from srnlib import plots, results
from srnlib.data import circles
from srnlib.runs import Run
from srnlib.train import load_module


def main() -> None:
    """The image of the paper's figure 1 above one circle that moves to the right, as in its figure 5."""
    plots.use_style()
    pair = circles.render(np.array([[[15, 49, 10, 2], [49, 15, 10, 2]]])) / 255
    shift = circles.render(np.array([[[x, 32, 9, 1]] for x in range(12, 52, 4)])) / 255
    X = torch.from_numpy(np.concatenate([pair, shift])).float()
    with torch.no_grad():
        found = {m: load_module(Run.of("circles", m))(X).elements for m in ("baseline", "srn")}
    fig = plots.key_picture(pair[0], {m: e[0] for m, e in found.items()}, shift, {m: e[1:] for m, e in found.items()})
    path = results.data_dir() / "figures" / "circles.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110, metadata={"Software": None})
    print(path)


if __name__ == "__main__":
    main()
