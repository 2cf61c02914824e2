"""What a strategy is: a frozen configuration that, shown the prices, proposes the next edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from compress_explain.anatomy import Anatomy
from compress_explain.conformance import is_frozen_dataclass
from compress_explain.edits import Edit
from compress_explain.pricing.prices import Prices
from compress_explain.vocabulary.lexicon import Lexicon


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a strategy decides on: the model as it is now, and what each further edit would do.

    ``removed`` flags the components of each group that are gone; ``round`` counts this strategy's
    calls from 0. ``lexicon`` answers about tokens; None where nobody asked.
    """

    anatomy: Anatomy
    prices: Prices = field(repr=False)
    removed: Mapping[str, Tensor] = field(repr=False)
    round: int
    lexicon: Lexicon | None = field(default=None, repr=False)


@runtime_checkable
class Strategy(Protocol):
    """Proposes edits in ``rounds`` rounds; components of ``kinds`` are priced before each."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def rounds(self) -> int: ...

    def plan(self, situation: Situation) -> tuple[Edit, ...]: ...


def check_strategy(strategy: object) -> None:
    """Raise if ``strategy`` is not a frozen dataclass with ``kinds``, ``rounds`` and ``plan``.

    Raises:
        TypeError: what is missing.
    """
    name = type(strategy).__name__
    if not is_frozen_dataclass(strategy):
        raise TypeError(f"strategy {name} must be a frozen dataclass: it is its own configuration")
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy {name} must have kinds, rounds and plan(situation)")
    if not strategy.kinds or strategy.rounds < 1:
        raise TypeError(f"strategy {name} must name at least one kind and one round")
