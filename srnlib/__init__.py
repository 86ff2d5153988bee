"""Set Refiner Networks, from "Better Set Representations For Relational Reasoning" (Huang et al. 2020)."""

import importlib

from srnlib.refine import GraphRefiner, SetRefiner, refine
from srnlib.restarts import RestartedRefiner
from srnlib.set_encoders import FSPool, GraphEncoder, PairSetEncoder, SetEncoder

__version__ = "0.1.0"

__all__ = [
    "FSPool",
    "GraphEncoder",
    "GraphRefiner",
    "PairSetEncoder",
    "RestartedRefiner",
    "SetEncoder",
    "SetRefiner",
    "__version__",
    "refine",
]


def __getattr__(name: str):
    """`srnlib.metrics` and so on without a further import; they need more than torch."""
    try:
        if not name.startswith("_"):
            return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
