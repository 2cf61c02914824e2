"""Strategies: each proposes which components to remove next, as a plan."""

from .distill import Distill
from .heads import Heads
from .int8_dynamic import Int8Dynamic
from .neurons import Neurons
from .structured import Structured
from .vocabulary import Vocabulary

__all__ = ["Distill", "Heads", "Int8Dynamic", "Neurons", "Structured", "Vocabulary"]
