"""Evaluators: each compares original and compressed from paired predictions and returns scores."""

from .quality import Quality
from .slices import Slices

__all__ = ["Quality", "Slices"]
