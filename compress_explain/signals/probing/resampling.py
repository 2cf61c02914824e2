"""Figures of several parts of the rows as one figure, with what resampling those rows makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from compress_explain.signals.probing.parts import Part
from compress_explain.stats import resampled_counts


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure, and the same of each resample of rows."""

    value: float
    draws: Float[np.ndarray, " resamples"] = field(repr=False)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Percentiles (Efron 1979); NaN where a twentieth of the resamples gave no figure."""
        if np.isnan(self.draws).mean() > 0.05 or np.isnan(self.value):
            return np.nan, np.nan
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.nanquantile(self.draws, tails)
        return float(low), float(high)

    def minus(self, other: Estimate) -> Estimate:
        """The difference on the same resamples."""
        return Estimate(value=self.value - other.value, draws=self.draws - other.draws)

    def or_more(self, other: Estimate) -> Estimate:
        """The larger of two figures; by value, not one resample at a time, which would favour noise."""
        return self if self.value >= other.value else other

    def share_of(self, other: Estimate) -> Estimate:
        """The ratio on the same resamples."""
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.where(other.draws > 0, self.draws / other.draws, np.nan)
        return Estimate(value=self.value / other.value if other.value > 0 else np.nan, draws=draws)


@dataclass(frozen=True, kw_only=True)
class Readings:
    """One figure at every depth, part by part: on the rows that are reported (``values``, ``draws``) and on those that choose."""

    values: Float[np.ndarray, "parts depths"] = field(repr=False)
    draws: Float[np.ndarray, "parts depths resamples"] = field(repr=False)
    choosing: Float[np.ndarray, "parts depths"] = field(repr=False)
    weights: Float[np.ndarray, " parts"] = field(repr=False)

    def at(self, depths: int | Int[np.ndarray, " parts"]) -> Estimate:
        """The mean over parts, weighted by their rows, at one depth or at one for each part."""
        parts = np.arange(len(self.weights))
        index = np.broadcast_to(depths, parts.shape)
        return Estimate(
            value=float(self.weights @ self.values[parts, index]), draws=self.weights @ self.draws[parts, index]
        )

    @property
    def best(self) -> Int[np.ndarray, " parts"]:
        """The depth that the rows to choose by choose for each part: where the figure is largest."""
        told: np.ndarray = np.where(np.isnan(self.choosing), -np.inf, self.choosing).argmax(1)
        return told


def averaged(readings: Sequence[Readings]) -> Readings:
    """The means of some readings of the same parts and depths."""
    return Readings(
        values=np.mean([each.values for each in readings], 0),
        draws=np.mean([each.draws for each in readings], 0),
        choosing=np.mean([each.choosing for each in readings], 0),
        weights=readings[0].weights,
    )


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How often each reported decision of each part stands in each resample: rows are drawn, with all that stands in them."""

    parts: tuple[Part, ...] = field(repr=False)
    counts: tuple[Int[np.ndarray, "resamples n"], ...] = field(repr=False)

    @classmethod
    def of(cls, parts: Sequence[Part], rows: Int[np.ndarray, " n"], resamples: int, seed: int) -> Draws:
        """Of the ``rows`` that all decisions stand in."""
        counts = []
        for number, part in enumerate(parts):
            _, place = np.unique(rows[part.report], return_inverse=True)
            drawn = np.concatenate(list(resampled_counts(int(place.max()) + 1, resamples, seed + number)))
            counts.append(drawn[:, place])
        return cls(parts=tuple(parts), counts=tuple(counts))

    @property
    def resamples(self) -> int:
        return len(self.counts[0])

    @property
    def weights(self) -> Float[np.ndarray, " parts"]:
        """The share of all reported decisions that each part has."""
        sizes = np.array([len(part.report) for part in self.parts], dtype=float)
        return sizes / sizes.sum()

    @property
    def reported(self) -> int:
        """Decisions that are reported."""
        return sum(len(part.report) for part in self.parts)
