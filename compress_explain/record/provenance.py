"""What a result depended on besides model and data: versions, platform, threads."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from compress_explain.hardware.machine import processor_name

__all__ = ["environment", "processor_name", "version_of"]

_PACKAGES = ("compress-explain", "torch", "transformers", "numpy", "scipy", "scikit-learn", "mlflow", "safetensors")


def environment() -> dict[str, Any]:
    """Versions of the packages that shape a result, and the machine."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "packages": {name: version_of(name) for name in _PACKAGES},
    }


def version_of(name: str) -> str:
    """The version of an installed package, in words where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
