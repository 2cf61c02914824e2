"""Evaluators: each compares original and compressed, from paired predictions or with both models at hand, and returns scores."""

from .calibration import Calibration
from .cold_start import ColdStart
from .discovery import Discovery
from .energy import Energy
from .fidelity import Fidelity
from .footprint import Footprint
from .latency import Latency
from .layer_times import LayerTimes
from .quality import Quality
from .robustness import Robustness
from .signals import Signals
from .slices import Slices

__all__ = [
    "Calibration",
    "ColdStart",
    "Discovery",
    "Energy",
    "Fidelity",
    "Footprint",
    "Latency",
    "LayerTimes",
    "Quality",
    "Robustness",
    "Signals",
    "Slices",
]
