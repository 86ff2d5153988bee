"""Every figure that a notebook shows more than once; one colour a method throughout."""

from __future__ import annotations

import numpy as np
import seaborn as sns

_PALETTE = sns.color_palette("colorblind")
COLOURS = {"baseline": _PALETTE[1], "srn": _PALETTE[0], "paper": (0.45, 0.45, 0.45)}


def use_style() -> None:
    """Set seaborn's style and sizes for the whole notebook."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc={"figure.dpi": 100, "axes.titlesize": 11})


def element_colours(n: int) -> np.ndarray:
    """One colour a set element, `[n, 3]` in 0..1: hues evenly spread, equally bright."""
    return np.array(sns.husl_palette(n, s=0.9, l=0.65))
