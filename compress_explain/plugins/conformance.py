"""What every pluggable part has in common: it is a frozen dataclass, and so its own configuration."""

from __future__ import annotations

from dataclasses import is_dataclass


def is_frozen_dataclass(part: object) -> bool:
    """Whether ``part`` is an object of a frozen dataclass."""
    parameters = getattr(type(part), "__dataclass_params__", None)
    return is_dataclass(part) and parameters is not None and bool(parameters.frozen)
