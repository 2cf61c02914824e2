"""Evaluators: each compares original and compressed, from paired predictions or with both models at hand, and returns scores."""

from .cold_start import ColdStart
from .discovery import Discovery
from .energy import Energy
from .footprint import Footprint
from .latency import Latency
from .quality import Quality
from .slices import Slices

__all__ = ["ColdStart", "Discovery", "Energy", "Footprint", "Latency", "Quality", "Slices"]
