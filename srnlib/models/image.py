"""Image to set to image: the encoder (G, H_embed) and the set decoder F of Circles and CLEVR (paper: B.1, C)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from srnlib.refine import SetRefiner, Trace


class Reconstruction(NamedTuple):
    """What a forward pass gives.

    Attributes:
        image: Prediction `[B, 3, H, W]` in 0..1, or its patches `[B, K, 48]` if only some cells were asked for.
        elements: Each element's share of it, `[B, N, ...]`; their sum over N is `image`.
        S: The set that was decoded `[B, N, D]`.
        S0: The set that G proposed `[B, N, D]`.
        trace: The inner loop's trace; None for a baseline.
    """

    image: Tensor
    elements: Tensor
    S: Tensor
    S0: Tensor
    trace: Trace | None


class ImageEncoder(nn.Module):
    """G and H_embed on shared convolutions: image `[B, 3, size, size]` to S0 `[B, N, D]` and z `[B, E]` (paper: B.1).

    Args:
        width: Filters of the first convolution (paper: 64); the others have 2, 4 and 8 times as many.
        set_size: N; must divide the final feature map's 8 * width * (size // 32)**2 values.
        element_dim: D.
        embed_dim: E; None builds no H_embed (the baseline).
        size: Image side in pixels, 64 or 128 (paper), or 32.
        embed_scale: z is multiplied by it (paper: 1). Where H_agg's encodings are small beside H_embed's, the inner
            loss is the length of z, little that a set does can lower it, and the refiner falls asleep.
    """

    def __init__(
        self,
        width: int,
        set_size: int,
        element_dim: int,
        embed_dim: int | None,
        size: int = 64,
        *,
        embed_scale: float = 1.0,
    ):
        super().__init__()
        self.embed_scale, self.size = embed_scale, size
        if size not in (32, 64, 128):
            raise ValueError(f"size must be 32, 64 or 128, got {size}")
        features = 8 * width * (size // 32) ** 2
        if set_size < 1 or features % set_size:
            raise ValueError(f"set_size {set_size} must divide the {features} = 8 * width * (size // 32)**2 features")
        stack, inputs = [], 3
        for i, (factor, stride) in enumerate(zip((1, 2, 4, 8), (2, 2, 2, 4), strict=True)):
            stack.append(nn.Conv2d(inputs, factor * width, 4, stride, 1, bias=False))
            stack += [nn.BatchNorm2d(factor * width)] if i else []
            stack.append(nn.ReLU())
            inputs = factor * width
        self.features = nn.Sequential(*stack)
        self.set_size = set_size
        self.propose = nn.Conv1d(features // set_size, element_dim, 1)
        self.embed = nn.Linear(features, embed_dim) if embed_dim else None

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the proposed set S0 `[B, N, D]` and the embedding z `[B, E]` (None in a baseline).

        Raises:
            ValueError: If the images `X` have another shape or dtype.
        """
        if X.dim() != 4 or X.shape[1:] != (3, self.size, self.size) or not X.is_floating_point():
            wanted = f"floats [B, 3, {self.size}, {self.size}] in 0..1"
            raise ValueError(f"images must be {wanted}, got {X.dtype} {list(X.shape)}; divide bytes by 255")
        flat = self.features(X.contiguous(memory_format=torch.channels_last)).flatten(1)
        groups = flat.unflatten(1, (self.set_size, -1)).transpose(1, 2)  # [B, features / N, N]
        z = None if self.embed is None else self.embed_scale * self.embed(flat)
        return self.propose(groups).transpose(1, 2), z


class SetDecoder(nn.Module):
    """Decodes each element to an image by shared transposed convolutions (the paper's TransposeConvs, B.1).

    Args:
        width: A quarter of the filters before the last layer (paper: 64, so 1024, 512, 256 filters).
        element_dim: D.
        size: Image side in pixels, a multiple of 16.
    """

    def __init__(self, width: int, element_dim: int, size: int = 64):
        super().__init__()
        self.side = size // 16
        self.project = nn.Linear(element_dim, 16 * width * self.side**2)
        self.project_norm = nn.BatchNorm1d(16 * width * self.side**2)
        self.grow = nn.Sequential(
            nn.ConvTranspose2d(16 * width, 8 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(8 * width, 4 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
        )
        self.paint = nn.ConvTranspose2d(4 * width, 3, 4, 4, 0, bias=False)

    def forward(self, S: Tensor) -> Tensor:
        """Decodes `S` `[B, N, D]` to logits in 4x4 patches, `[B, N, cells, 48]`; `unpatch` makes images of them."""
        return self.paint_cells(self.cells(S))

    def cells(self, S: Tensor) -> Tensor:
        """All layers but the last: features of the 4x4-pixel cells, `[B, N, cells, 4 width]`, row by row."""
        code = self.project_norm(self.project(S.flatten(0, 1))).relu().unflatten(1, (-1, self.side, self.side))
        features = self.grow(code.contiguous(memory_format=torch.channels_last))
        return features.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, S.shape[:2])

    def paint_cells(self, cells: Tensor) -> Tensor:
        """The last layer. Its stride equals its kernel, so each cell is painted alone, by one matrix product."""
        return cells @ self.paint.weight.flatten(1)


def patch(images: Tensor) -> Tensor:
    """Images `[..., 3, H, W]` as 4x4 patches `[..., H/4 * W/4, 48]`, row by row."""
    cut = images.unflatten(-1, (-1, 4)).unflatten(-3, (-1, 4))  # [..., 3, H/4, 4, W/4, 4]
    return cut.movedim((-4, -2), (-5, -4)).flatten(-5, -4).flatten(-3)


def unpatch(patches: Tensor) -> Tensor:
    """The inverse of `patch`, for square images."""
    g = round(patches.shape[-2] ** 0.5)
    cut = patches.unflatten(-1, (3, 4, 4)).unflatten(-4, (g, g))  # [..., H/4, W/4, 3, 4, 4]
    return cut.movedim((-5, -4), (-4, -2)).flatten(-4, -3).flatten(-2)


def superimpose(I: Tensor) -> Tensor:
    """Each element's share of the prediction, `softmax_i(I) * sigmoid(I_i)` over dimension 1 (paper: Eq. 4)."""
    return I.softmax(dim=1) * I.sigmoid()


class SetAutoencoder(nn.Module):
    """Image -> set -> image: the Circles and CLEVR models. With a refiner it is the SRN model, without the baseline.

    Args:
        width: A quarter of the filters of the decoder's last layer but one (paper: 64).
        set_size: N.
        element_dim: D.
        size: Image side in pixels, 32, 64 or 128.
        encoder_width: Filters of the encoder's first layer (paper: 64, as `width`).
        refiner: A `SetRefiner` whose H_agg encodes `[B, N, D]` to `[B, embed_dim]`; None for the baseline.
        embed_dim, embed_scale: E, and what z is multiplied by; read only with a refiner.

    Attributes:
        active: How many of the proposed elements are used, all if None. A training may begin with fewer; like the mode
            (train, eval) this is no part of the weights.
    """

    active: int | None = None

    def __init__(
        self,
        width: int,
        set_size: int = 16,
        element_dim: int = 10,
        size: int = 64,
        *,
        encoder_width: int | None = None,
        refiner: SetRefiner | None = None,
        embed_dim: int = 100,
        embed_scale: float = 1.0,
    ):
        super().__init__()
        embed = None if refiner is None else embed_dim
        shape = (encoder_width or width, set_size, element_dim, embed, size)
        self.encoder = ImageEncoder(*shape, embed_scale=embed_scale)
        self.refiner = refiner
        self.decoder = SetDecoder(width, element_dim, size)
        self.to(memory_format=torch.channels_last)

    def encode(self, X: Tensor) -> tuple[Tensor, Tensor, Trace | None]:
        """The perceptual stage: images `[B, 3, H, W]` in 0..1 to S `[B, N, D]`, the proposal S0 and the trace."""
        S0, z = self.encoder(X)
        S0 = S0[:, : self.active]
        if self.refiner is None:
            return S0, S0, None
        S, trace = self.refiner(S0, z)
        return S, S0, trace

    def forward(self, X: Tensor, at: Tensor | None = None) -> Reconstruction:
        """Reconstructs images `X` `[B, 3, H, W]` in 0..1, or only the cells `at` `[B, K]` of each (see `patch`)."""
        S, S0, trace = self.encode(X)
        cells = self.decoder.cells(S)
        if at is not None:
            cells = cells.take_along_dim(at[:, None, :, None], dim=2)
        elements = superimpose(self.decoder.paint_cells(cells))
        elements = unpatch(elements) if at is None else elements
        return Reconstruction(elements.sum(dim=1), elements, S, S0, trace)
