"""What a result depended on besides model and data: versions, platform, threads."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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


def processor_name() -> str:
    """The model of this machine's processor."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as stream:
            return next(line.partition(":")[2].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
