"""Evaluators: each compares original and compressed, from paired predictions or with both models at hand, and returns scores."""

from .latency import Latency
from .quality import Quality
from .slices import Slices

__all__ = ["Latency", "Quality", "Slices"]
