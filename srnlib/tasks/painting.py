"""What the tasks that paint images through a set share: which cells the loss looks at, and how many elements paint."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from srnlib.models.image import Reconstruction, SetAutoencoder, patch
from srnlib.restarts import RestartedRefiner
from srnlib.tasks import Settings
from srnlib.tasks.refining import InnerLoop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Painting(InnerLoop, Settings):
    """Settings of Circles and CLEVR.

    Attributes:
        width, encoder_width: Of decoder and encoder, see `srnlib.models.image.SetAutoencoder`.
        hidden: Width of H_agg's MLP.
        set_size, element_dim, embed_dim: N, D and E.
        embed_scale: What z is multiplied by, see `srnlib.models.image.ImageEncoder`.
        size: Of the images.
        cells: How many 4x4 cells of an image the loss samples, with weights that keep it unbiased; None for all.
        few: Of the whole training, the fraction in which only `few_size` elements are used, and images with few
            objects are shown. With few elements to spare, an object is sooner drawn by one of them alone.
        few_size: See above.
        jitter, starts, spread, eval_steps: Of the refiner, see `srnlib.restarts.RestartedRefiner`.
        train_images: Number of training images.
    """

    width: int
    encoder_width: int
    hidden: int
    embed_dim: int
    set_size: int = 16
    element_dim: int = 10
    embed_scale: float = 1.0
    size: int
    cells: int | None = None
    few: float = 0.0
    few_size: int = 8
    jitter: float = 0.0
    starts: int = 1
    spread: float = 3.0
    eval_steps: int | None = None
    train_images: int

    def __post_init__(self):
        super().__post_init__()
        sizes = ("width", "encoder_width", "hidden", "embed_dim", "set_size", "element_dim", "few_size")
        for name in (*sizes, *(("cells",) if self.cells is not None else ())):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.few < 1:
            raise ValueError(f"few must be a fraction of the training, 0 <= few < 1, got {self.few}")

    def refiner(self, H_agg: nn.Module) -> RestartedRefiner:
        """A refiner around a fresh H_agg."""
        own = {name: getattr(self, name) for name in ("jitter", "starts", "spread", "eval_steps")}
        return super().refiner(H_agg, functools.partial(RestartedRefiner, **own))

    def autoencoder(self, H_agg: nn.Module | None) -> SetAutoencoder:
        """The model: SRN around a fresh H_agg, the baseline without."""
        shape = (self.width, self.set_size, self.element_dim, self.size)
        embed = {"embed_dim": self.embed_dim, "embed_scale": self.embed_scale}
        refiner = None if H_agg is None else self.refiner(H_agg)
        return SetAutoencoder(*shape, encoder_width=self.encoder_width, refiner=refiner, **embed)

    def elements(self, step: int) -> tuple[int, float]:
        """How many elements a step uses, and how far the time of few elements has gone, 1 or more once it is over."""
        part = step / (self.few * self.steps) if self.few else 1.0
        return self.set_size if part >= 1 else min(self.few_size, self.set_size), part


def cross_entropy(p: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Binary cross-entropy of each value; finite, and with a gradient that does not vanish where p is wrong.

    Where nothing is painted p is about 0, and so is the gradient of a squared error on its logit,
    2 (p - target) p (1 - p): what is small and missing stays missing. Here the gradient is p - target.

    Args:
        p: Predictions in 0..1, rounding apart, of any shape.
        target: Targets in 0..1, of the same shape.
        eps: Added to both probabilities.
    """
    p = p.float().clamp(0, 1)
    return -(target * (p + eps).log() + (1 - target) * (1 - p + eps).log())


def painted(
    module: nn.Module, X: Tensor, target: Tensor, cells: int | None, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Reconstruction, Tensor]:
    """What a `SetAutoencoder` paints of images, and the loss of each image, from all cells or a sample.

    Args:
        module: The model.
        X, target: What it sees and what it should paint, `[B, 3, H, W]` in 0..1.
        cells: As in `Painting`.
        loss: Of predictions and targets as patches `[B, K, 48]`, value by value.

    Returns:
        The output, and the loss summed over pixels and channels `[B]`; of a sample its unbiased estimate.
    """
    patches = patch(target)
    if cells is None:
        out = module(X)
        return out, loss(patch(out.image), patches).flatten(1).sum(dim=1)
    at, weight = sample_cells(patches, cells)
    out = module(X, at)
    return out, (weight * loss(out.image, patches.take_along_dim(at[:, :, None], dim=1)).sum(dim=2)).sum(dim=1)


def sample_cells(target: Tensor, k: int, background: float = 0.3, inside: float = 0.3) -> tuple[Tensor, Tensor]:
    """Draw k cells of each image, those with an edge most often; sums so weighted are unbiased.

    The draw is systematic: k evenly spaced marks with one random offset, on the line of all chances end to end. A cell
    whose chance exceeds 1 / k is drawn every time, so the estimate varies less than with independent draws.

    Args:
        target: Patches `[B, cells, 48]` (three channels of 4 x 4 pixels) in 0..1.
        k: Number of draws.
        background, inside: How often a black cell is drawn, and how much more often one that is not, relative to the
            greatest difference within a channel of a cell.

    Returns:
        Indices `[B, k]` and weights `[B, k]`, 1 / (k * probability).
    """
    channels = target.unflatten(2, (3, -1))
    edge = (channels.amax(dim=3) - channels.amin(dim=3)).amax(dim=2)
    chance = edge + inside * (target.amax(dim=2) > 0) + background
    chance = chance / chance.sum(dim=1, keepdim=True)
    marks = (torch.arange(k, device=target.device) + torch.rand(len(target), 1, device=target.device)) / k
    at = torch.searchsorted(chance.cumsum(dim=1), marks).clamp(max=target.shape[1] - 1)  # rounding may end below 1
    return at, 1 / (k * chance.gather(1, at))
