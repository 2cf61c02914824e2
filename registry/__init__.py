"""Registries: where a finished run is mirrored to."""

from .addresses import resolve_tracking_uri
from .tracking import MlflowRegistry

__all__ = ["MlflowRegistry", "resolve_tracking_uri"]
