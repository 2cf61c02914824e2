"""Strategies: each proposes which components to remove next, as a plan."""

from .distill import Distill
from .heads import Heads
from .int8_dynamic import Int8Dynamic
from .layers import Layers
from .neurons import Neurons
from .structured import Structured
from .sublayers import Sublayers
from .vocabulary import Vocabulary

__all__ = ["Distill", "Heads", "Int8Dynamic", "Layers", "Neurons", "Structured", "Sublayers", "Vocabulary"]
