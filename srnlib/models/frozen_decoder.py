"""What can be read off a set: a trained perceptual stage, frozen, under a decoder of its elements (paper: figure 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srnlib.models.image import Reconstruction, SetDecoder, superimpose, unpatch
from srnlib.models.relation_network import VisualReasoner

SIZE, PADDED = 75, 80  # the decoder paints multiples of 16; what lies outside is cut off


class FrozenDecoder(nn.Module):
    """Reconstructs images from the set of a `VisualReasoner` that no longer learns; only the decoder is trained.

    It paints ink: 1 - image, so that the white ground is black, as in Circles, and an empty element paints nothing.

    Args:
        perception: The trained model; its relations are not used.
        element_dim: D, size of its elements.
        width: A quarter of the filters of the decoder's last layer but one (paper: 64).
    """

    def __init__(self, perception: VisualReasoner, element_dim: int, width: int):
        super().__init__()
        self.perception = perception.requires_grad_(False)
        self.decoder = SetDecoder(width, element_dim, PADDED)
        self.to(memory_format=torch.channels_last).train()

    def train(self, mode: bool = True) -> FrozenDecoder:
        """Training mode for the decoder; the perceptual stage stays in evaluation mode."""
        super().train(mode)
        self.perception.eval()
        return self

    def forward(self, X: Tensor, at: Tensor | None = None) -> Reconstruction:
        """Ink of images `X` `[B, 3, 75, 75]` in 0..1, or of only the 4x4 cells `at` `[B, K]` of the padded image."""
        with torch.no_grad():
            S, S0, trace = self.perception.encode(X)
        cells = self.decoder.cells(S)
        if at is not None:
            cells = cells.take_along_dim(at[:, None, :, None], dim=2)
        elements = superimpose(self.decoder.paint_cells(cells))
        elements = unpatch(elements)[..., :SIZE, :SIZE] if at is None else elements
        return Reconstruction(elements.sum(dim=1), elements, S, S0, trace)


def ink(X: Tensor) -> Tensor:
    """1 - X with the border of the padded image, which holds no ink: `[B, 3, 75, 75]` to `[B, 3, 80, 80]`."""
    return F.pad(1 - X, (0, PADDED - SIZE, 0, PADDED - SIZE))
