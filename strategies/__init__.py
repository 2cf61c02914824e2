"""Strategies: each proposes which components to remove next, as a plan."""

from .heads import Heads
from .neurons import Neurons

__all__ = ["Heads", "Neurons"]
