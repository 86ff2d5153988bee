"""Observation to one mask an object, as in C-SWM (Kipf et al. 2020), with the static background taken away if asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srnlib.counted_norm import counted_batch_norm


class Background(nn.BatchNorm1d):
    """Takes the mean image away and divides by each pixel's standard deviation, both learned by a running mean.

    What never changes becomes zero, so what moves is not a small difference between large numbers. Pixels that hardly
    change are not blown up: `floor` is added to the variance.

    Args:
        channels, side: Of the images `[B, channels, side, side]`.
    """

    def __init__(self, channels: int, side: int, floor: float = 1e-2):
        super().__init__(channels * side * side, eps=floor, affine=False)

    def forward(self, X: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to images of the same shape."""
        return super().forward(X.flatten(1)).view(X.shape).contiguous(memory_format=torch.channels_last)


class ObjectExtractor(nn.Sequential):
    """Observation to one mask an object: convolution, batch norm, leaky ReLU, convolution, sigmoid.

    Args:
        channels, side: Of the observation.
        slots: K, number of masks.
        width: Filters of the first convolution.
        first, second: (kernel, stride, padding) of the convolutions.
        background: Whether `Background` comes first; C-SWM has none.
        leak: Slope of the leaky ReLU below 0. C-SWM's is torch's on Atari; on 2D Shapes it has a plain ReLU.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        slots: int,
        width: int,
        first: tuple[int, ...],
        second: tuple[int, ...],
        background: bool = False,
        leak: float = 0.01,
    ):
        super().__init__(
            Background(channels, side) if background else nn.Identity(),
            nn.Conv2d(channels, width, *first),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(leak),
            nn.Conv2d(width, slots, *second),
            nn.Sigmoid(),
        )

    def forward(self, X: Tensor, counts: Tensor | None = None) -> Tensor:
        """Observations `[U, C, side, side]` to masks `[U, K, H, W]`, 0..1.

        Args:
            counts: How often a batch to train on holds each of them, integers `[U]`; once if None.

        Raises:
            ValueError: If there are counts and the background is to be taken away, which does not count.
        """
        background, first, norm, *rest = self
        if counts is None or not norm.training:
            return super().forward(X)
        if isinstance(background, Background):
            raise ValueError("an extractor that takes the background away needs every copy: leave out counts")
        return nn.Sequential(*rest)(counted_batch_norm(first(X), norm, counts))
