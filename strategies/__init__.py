"""Strategies: each proposes which components to remove next, as a plan."""

from .heads import Heads
from .neurons import Neurons
from .structured import Structured
from .vocabulary import Vocabulary

__all__ = ["Heads", "Neurons", "Structured", "Vocabulary"]
