"""Strategies: each proposes which components to remove, to quantize or to factor next, as a plan."""

from .distill import Distill
from .half import Half
from .heads import Heads
from .int8_dynamic import Int8Dynamic
from .int8_static import Int8Static
from .layers import Layers
from .low_rank import LowRank
from .mixed_precision import MixedPrecision
from .neurons import Neurons
from .structured import Structured
from .sublayers import Sublayers
from .vocabulary import Vocabulary
from .weight_only import WeightOnly
from .width import Width

__all__ = [
    "Distill",
    "Half",
    "Heads",
    "Int8Dynamic",
    "Int8Static",
    "Layers",
    "LowRank",
    "MixedPrecision",
    "Neurons",
    "Structured",
    "Sublayers",
    "Vocabulary",
    "WeightOnly",
    "Width",
]
