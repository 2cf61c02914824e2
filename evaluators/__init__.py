"""Evaluators: each compares original and compressed, from paired predictions or with both models at hand, and returns scores."""

from .cold_start import ColdStart
from .energy import Energy
from .footprint import Footprint
from .latency import Latency
from .layer_times import LayerTimes
from .quality import Quality
from .slices import Slices

__all__ = ["ColdStart", "Energy", "Footprint", "Latency", "LayerTimes", "Quality", "Slices"]
