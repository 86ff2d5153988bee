"""Set Refiner Networks, from "Better Set Representations For Relational Reasoning" (Huang et al. 2020)."""

from srnlib._lazy import submodules
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

__getattr__ = submodules(__name__)  # `srnlib.metrics` and so on, which need more than torch
