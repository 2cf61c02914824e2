"""What a registry is: somewhere a finished run is mirrored to."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from compress_explain.plugins.conformance import is_frozen_dataclass


@runtime_checkable
class Registry(Protocol):
    """Mirrors the folder of a run; called again after a failure it completes what is missing."""

    def check(self) -> None:
        """Raise InputError when the registry cannot be reached."""
        ...

    def publish(self, folder: Path) -> str:
        """Mirror the run in ``folder`` and return where a person can look at it."""
        ...


@runtime_checkable
class Searching(Registry, Protocol):
    """A registry that shows a search as one, its trials inside it."""

    def publish_search(self, folder: Path) -> str:
        """Mirror the search in ``folder`` with its trials and return where a person can look at it."""
        ...


@runtime_checkable
class Fetching(Registry, Protocol):
    """A registry that gives back what lies in it."""

    def fetch_model(self, address: str, into: Path) -> Path:
        """Bring the files of a model into ``into`` and return their folder; InputError when there is none."""
        ...

    def fetch_predictions(self, address: str, into: Path) -> Path | None:
        """Bring what a released model decided on its test rows; None when nothing is released under that address yet."""
        ...


def check_registry(registry: object) -> None:
    """Raise TypeError if ``registry`` is not a frozen dataclass with ``check`` and ``publish``."""
    name = type(registry).__name__
    if not is_frozen_dataclass(registry):
        raise TypeError(f"registry {name} must be a frozen dataclass: it is its own configuration")
    if not isinstance(registry, Registry):
        raise TypeError(f"registry {name} must have check() and publish(folder)")
