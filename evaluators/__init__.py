"""Evaluators: each compares original and compressed, from paired predictions or with both at hand, and returns scores."""

from .quality import Quality
from .robustness import Robustness
from .slices import Slices

__all__ = ["Quality", "Robustness", "Slices"]
