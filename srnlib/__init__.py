"""Set Refiner Networks, from "Better Set Representations For Relational Reasoning" (Huang et al. 2020)."""

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
