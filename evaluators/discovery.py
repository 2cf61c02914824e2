"""Where right answers go wrong more often than elsewhere, though nobody declared a slice there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compress_explain.comparison.discovery import (
    DISCOVERED_FLIPS,
    DISCOVERED_SLICES,
    FEWEST_ROWS,
    FoundSlice,
    discover,
    features_of,
    regions,
)
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.data.examples import ALL
from compress_explain.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """How many slices were found on one half of the rows and confirmed on the other, and the share of right answers gone wrong in each.

    ``most`` candidates, of ``conditions`` at most, are asked; ``confidence`` is two-sided; ``seed`` halves the rows. Gates take
    ``discovered_slices``, of all rows.
    """

    confidence: float = 0.90
    most: int = 20
    conditions: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, high in (("most", 20), ("conditions", 3)):
            if not 1 <= getattr(self, name) <= high:
                raise InputError(
                    f"evaluators: discovery: {name}", getattr(self, name), f"must lie in 1..{high}", "leave it out"
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        return DISCOVERED_SLICES, DISCOVERED_FLIPS

    def found(self, pairs: Pairs) -> tuple[FoundSlice, ...]:
        """Every candidate, the confirmed ones first."""
        return discover(pairs, self.confidence, self.most, self.conditions, self.seed)

    def regions(self, pairs: Pairs) -> list[dict[str, Any]]:
        """The confirmed ones as plain values, for what watches a deployed model."""
        return regions(self.found(pairs))

    def evaluate(self, pairs: Pairs) -> list[Score]:
        finite = np.isfinite(pairs.original).all() and np.isfinite(pairs.compressed).all()
        if not finite or not features_of(pairs):
            return []
        confirmed = [each for each in self.found(pairs) if each.confirmed]
        count, n = float(len(confirmed)), len(pairs)
        few = f"{n} rows are too few to look for slices" if n < FEWEST_ROWS else ""
        whole = replace(self._score(DISCOVERED_SLICES, ALL, count, (count, count), n, "slices"), doubt=few)
        return [whole] + [
            self._score(DISCOVERED_FLIPS, str(each.predicate), each.inside, each.interval, each.n, "share")
            for each in confirmed
        ]

    def _score(self, metric: str, name: str, value: float, interval: tuple[float, float], n: int, unit: str) -> Score:
        low, high = interval
        return Score(
            metric=metric, slice=name, original=0.0, compressed=value, difference=value, low=low, high=high,
            compressed_low=low, compressed_high=high, n=n, unit=unit, direction="lower", confidence=self.confidence,
        )  # fmt: skip
