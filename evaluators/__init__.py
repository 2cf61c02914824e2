"""Evaluators: each compares original and compressed from paired predictions and returns scores."""

from .discovery import Discovery
from .quality import Quality
from .slices import Slices

__all__ = ["Discovery", "Quality", "Slices"]
