"""Every figure that a notebook shows more than once; one colour a method throughout.

Images come in as numpy arrays or CPU tensors, channels first, in 0..1; `imshow` gets channels last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike

_PALETTE = sns.color_palette("colorblind")
COLOURS = {"baseline": _PALETTE[1], "srn": _PALETTE[0], "paper": (0.45, 0.45, 0.45)}
COLOURS |= {"rn": _PALETTE[1], "rn_fixed": _PALETTE[4], "grn": _PALETTE[2]}
NAMES = {"baseline": "baseline", "srn": "SRN", "rn": "RN", "rn_fixed": "RN, fixed size", "grn": "GRN"}


def use_style() -> None:
    """Set seaborn's style and sizes for the whole notebook."""
    sizes = {"figure.dpi": 100, "axes.titlesize": 11}
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=sizes)


def element_colours(n: int) -> np.ndarray:
    """One colour a set element, `[n, 3]` in 0..1: hues evenly spread, equally bright, neighbours unlike."""
    stride = next(k for k in range(max(1, round(0.4 * n)), n + 2) if math.gcd(k, n) == 1)
    return np.array(sns.husl_palette(n, s=0.9, l=0.65))[stride * np.arange(n) % n]


def tint(elements: ArrayLike, threshold: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Decoded elements in their colours, alone and composed (paper: figures 1 and 5).

    In the composed image a pixel has the colour of the element responsible for it, the one that is brightest there (as
    in `srnlib.metrics.foreground_ari`), and the brightness of the reconstruction.

    Args:
        elements: `[N, 3, H, W]` in 0..1, their sum the reconstruction.
        threshold: Darker pixels are left black; by default what counts as empty in `srnlib.metrics.decomposed`.

    Returns:
        Panels `[N, 3, H, W]` and the composed image `[3, H, W]`.
    """
    elements = np.asarray(elements)
    bright, colours = elements.max(axis=1), element_colours(len(elements))
    total = elements.sum(axis=0).max(axis=0).clip(0, 1)
    bright, total = (np.where(b > threshold, b, 0) for b in (bright, total))
    whole = colours[elements.max(axis=1).argmax(axis=0)] * total[..., None]
    return bright[:, None] * colours[:, :, None, None], np.moveaxis(whole, 2, 0)


def brighter(images: ArrayLike) -> np.ndarray:
    """Dim images `[..., 3, H, W]` made visible: each by its own greatest value, and by the square root; black stays."""
    images = np.asarray(images)
    return np.sqrt(images / np.maximum(images.max(axis=(-3, -2, -1), keepdims=True), 0.05))


def sheet(images: ArrayLike, columns: int, *, gap: int = 2, frame: ArrayLike = 1.0) -> np.ndarray:
    """Images `[K, 3, H, W]` row by row on one sheet `[3, rows, columns]`, with lines of `gap` pixels around each.

    Args:
        images: Their number K fills the rows.
        columns: Images in a row.
        gap: Width of the lines.
        frame: Colour of the lines: a grey, or one colour an image `[K, 3]`.

    Raises:
        ValueError: If the images do not fill the rows.
    """
    images = np.asarray(images, dtype=float)
    if len(images) % columns:
        raise ValueError(f"{len(images)} images do not fill rows of {columns}")
    frame = np.broadcast_to(np.asarray(frame, dtype=float), (len(images), 3))[:, :, None, None]
    framed = np.pad(images, ((0, 0), (0, 0), (gap, gap), (gap, gap)))
    inside = np.pad(np.ones(images.shape[2:], bool), gap)
    framed = np.where(inside, framed, frame)
    rows = framed.reshape(-1, columns, *framed.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)


def show(ax: Axes, image: ArrayLike, title: str = "", colour="black") -> None:
    """An image `[3, H, W]`, floats in 0..1 or integers in 0..255, without ticks; its title in a method's colour."""
    image = np.asarray(image)
    image = image / 255 if image.dtype.kind in "iu" else image.astype(float)
    ax.imshow(np.moveaxis(image, 0, 2).clip(0, 1), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.set_title(title, color=colour)


def responsibility(fig: Figure | SubFigure, image: ArrayLike, elements: Mapping[str, ArrayLike]) -> None:
    """The panels of figure 1: the input, then for each method its elements in their colours and their composition.

    Args:
        fig: Where to draw; about five times as wide as high for two methods.
        image: The input `[3, H, W]`.
        elements: Method to decoded elements `[N, 3, H, W]`, N a square number.
    """
    axes = fig.subplots(1, 1 + 2 * len(elements))
    show(axes[0], image, "input")
    for at, (method, found) in enumerate(elements.items()):
        panels, whole = tint(found)
        side, (left, right) = round(len(panels) ** 0.5), axes[1 + 2 * at : 3 + 2 * at]
        name, colour = _label(method)
        show(left, sheet(panels, side, gap=5, frame=element_colours(len(panels))), f"{name}: elements", colour)
        show(right, whole, f"{name}: composed", colour)
        left.annotate("=", (1.02, 0.5), xycoords="axes fraction", va="center", fontsize=14, annotation_clip=False)


def moving(fig: Figure | SubFigure, images: ArrayLike, elements: Mapping[str, ArrayLike]) -> None:
    """Figure 5: a row of inputs, and a row of composed responsibilities for each method.

    Args:
        fig: Where to draw.
        images: Inputs `[T, 3, H, W]`.
        elements: Method to decoded elements `[T, N, 3, H, W]`.
    """
    rows = {"input": images, **{m: [tint(e)[1] for e in found] for m, found in elements.items()}}
    axes = fig.subplots(len(rows), len(images), squeeze=False)
    for row, (method, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            show(ax, picture)
        name, colour = _label(method)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", color=colour)


def key_picture(image: ArrayLike, still: Mapping, images: ArrayLike, shifted: Mapping) -> Figure:
    """The replication in one picture: `responsibility` of one image above `moving` of a moving circle.

    Args:
        image, still: The first's arguments.
        images, shifted: The second's.
    """
    fig = plt.figure(figsize=(10, 5.3), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=(2.2, 3.2))
    responsibility(above, image, still)
    moving(below, images, shifted)
    return fig


def samples(images: ArrayLike, found: Mapping[str, tuple[ArrayLike, ArrayLike]], columns: int = 4) -> Figure:
    """Figure 7 (figures 8 and 9 of CLEVR): a row an image: input, and each method's reconstruction and elements.

    Args:
        images: Inputs `[B, 3, H, W]`.
        found: Method to its reconstructions `[B, 3, H, W]` and elements `[B, N, 3, H, W]`.
        columns: Of the sheet of elements.
    """
    found = {m: (np.asarray(images), np.asarray(elements)) for m, (images, elements) in found.items()}
    wide = [1.0]  # widths of the pictures, in heights
    for _, elements in found.values():
        wide += [1.0, columns**2 / elements.shape[1]]
    unit = min(1.5, 11 / sum(wide))
    size = (unit * sum(wide), unit * len(images))
    shape = {"figsize": size, "width_ratios": wide, "squeeze": False}
    fig, axes = plt.subplots(len(images), len(wide), layout="constrained", **shape)
    for b, row in enumerate(axes):
        show(row[0], images[b], "" if b else "input")
        for at, (method, (image, elements)) in enumerate(found.items()):
            name, colour = _label(method)
            show(row[1 + 2 * at], image[b], "" if b else name, colour)
            show(row[2 + 2 * at], sheet(elements[b], columns), "" if b else f"{name}: elements", colour)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return fig


def band(ax: Axes, curves: Sequence[tuple[ArrayLike, ArrayLike]], *, colour, label="", points: int = 100) -> None:
    """Mean of several curves and the band from least to greatest, over the range of x that all of them cover.

    Args:
        ax: Where to draw.
        curves: One (x, y) a seed, x rising; between its points a curve is straight.
        colour, label: Of the mean; the band is paler.
        points: Places of x at which the curves are compared.
    """
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(low, high, points)
    heights = np.stack([np.interp(grid, x, y) for x, y in curves])
    ax.plot(grid, heights.mean(axis=0), color=colour, label=label)
    ax.fill_between(grid, heights.min(axis=0), heights.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def _label(method: str) -> tuple:
    """A method's name and colour; of a method without one its key, in black."""
    return NAMES.get(method, method), COLOURS.get(method, "black")
