"""Registries: where a finished run is mirrored to."""

from .mlflow import MlflowRegistry

__all__ = ["MlflowRegistry"]
