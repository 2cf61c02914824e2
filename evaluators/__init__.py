"""Evaluators: each compares original and compressed from paired predictions and returns scores."""

from .calibration import Calibration
from .fidelity import Fidelity
from .quality import Quality
from .slices import Slices

__all__ = ["Calibration", "Fidelity", "Quality", "Slices"]
