"""What an evaluator is: a frozen configuration that turns paired predictions into scores."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.plugins.conformance import is_frozen_dataclass


@runtime_checkable
class Evaluator(Protocol):
    """``metrics`` names everything that ``evaluate`` may return, so that gates can be checked early."""

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def evaluate(self, pairs: Pairs) -> list[Score]: ...


def check_evaluator(evaluator: object) -> None:
    """Raise if ``evaluator`` is not a frozen dataclass with ``metrics`` and ``evaluate``.

    Raises:
        TypeError: what is missing.
    """
    name = type(evaluator).__name__
    if not is_frozen_dataclass(evaluator):
        raise TypeError(f"evaluator {name} must be a frozen dataclass: it is its own configuration")
    if not isinstance(evaluator, Evaluator):
        raise TypeError(f"evaluator {name} must have metrics and evaluate(pairs)")
    if not evaluator.metrics:
        raise TypeError(f"evaluator {name} must name at least one metric")
