"""Calibration of one model: whether its answers are right as often as it is sure of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from compress_explain.comparison.binned import equal_mass_bins, equal_width_bins
from compress_explain.stats import rate_interval

Probabilities = Float[np.ndarray, "n classes"]
Labels = Int[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Answers that a model is about as sure of, with the exact interval of how many are right (Clopper and Pearson)."""

    n: int
    confidence: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class BrierParts:
    """The Brier score over all classes (in [0, 2]) and what it is made of.

    Murphy (1973) takes it apart for forecasts that are equal within a bin: brier = reliability - resolution +
    uncertainty. Where they differ within it, Stephenson, Coelho and Jolliffe (2008) add the variance of the forecasts within bins
    and subtract twice their covariance with the outcomes, so that it adds up exactly:
    brier = reliability - resolution + uncertainty + within_variance - within_covariance.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def whole_resolution(self) -> float:
        """Resolution with both terms from within bins: brier = reliability - whole_resolution + uncertainty."""
        return self.resolution - self.within_variance + self.within_covariance


def ece(probabilities: Probabilities, labels: Labels, bins: int = 15, *, equal_mass: bool = False) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over bins (Naeini et al. 2015), in [0, 1].

    Biased upwards: a model that is calibrated has gaps too, by chance. :func:`compress_explain.stats.debiased_ece` has none.
    """
    count, gap = _gaps(*_top(probabilities, labels), bins, equal_mass)
    return float(np.abs(gap).sum() / count.sum())


def mce(probabilities: Probabilities, labels: Labels, bins: int = 15) -> float:
    """Maximum calibration error: the largest gap of any bin of equal width (Naeini et al. 2015), in [0, 1]."""
    count, gap = _gaps(*_top(probabilities, labels), bins, equal_mass=False)
    return float((np.abs(gap) / np.maximum(count, 1)).max())


def classwise_ece(probabilities: Probabilities, labels: Labels, bins: int = 15, *, equal_mass: bool = True) -> float:
    """The mean over classes of the calibration error of each class's probability (Kull et al. 2019), in [0, 1]."""
    outcomes = np.eye(probabilities.shape[1])[labels]
    parts = [_gaps(p, y, bins, equal_mass) for p, y in zip(probabilities.T, outcomes.T, strict=True)]
    return float(np.mean([np.abs(gap).sum() / count.sum() for count, gap in parts]))


def brier_parts(probabilities: Probabilities, labels: Labels, bins: int = 15) -> BrierParts:
    """The parts of each class's Brier score, in bins of equal mass, added up over classes."""
    outcomes = np.eye(probabilities.shape[1])[labels]
    parts = np.sum([_parts(p, y, bins) for p, y in zip(probabilities.T, outcomes.T, strict=True)], axis=0)
    reliability, resolution, uncertainty, variance, covariance = (float(part) for part in parts)
    return BrierParts(
        brier=float(np.square(probabilities - outcomes).sum(1).mean()),
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within_variance=variance,
        within_covariance=covariance,
    )


def reliability_diagram(
    probabilities: Probabilities, labels: Labels, bins: int = 15, confidence: float = 0.90
) -> tuple[ReliabilityBin, ...]:
    """The bins of equal mass that hold any answer, the least sure first."""
    given, right = _top(probabilities, labels)
    number = equal_mass_bins(given, bins)
    found = []
    for index in np.unique(number):
        here = number == index
        n, hits = int(here.sum()), int(right[here].sum())
        low, high = rate_interval(hits, n, confidence)
        found.append(ReliabilityBin(n=n, confidence=float(given[here].mean()), accuracy=hits / n, low=low, high=high))
    return tuple(found)


def _top(probabilities: Probabilities, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    return probabilities.max(1), (probabilities.argmax(1) == labels).astype(float)


def _gaps(given: np.ndarray, outcome: np.ndarray, bins: int, equal_mass: bool) -> tuple[np.ndarray, np.ndarray]:
    """How many stand in each bin, and the sum there of probability minus outcome."""
    number = (equal_mass_bins if equal_mass else equal_width_bins)(given, bins)
    return np.bincount(number, minlength=bins), np.bincount(number, weights=given - outcome, minlength=bins)


def _parts(given: np.ndarray, outcome: np.ndarray, bins: int) -> np.ndarray:
    number = equal_mass_bins(given, bins)
    count = np.maximum(np.bincount(number), 1)
    forecast, rate = (np.bincount(number, weights=each) / count for each in (given, outcome))
    base = outcome.mean()
    off, away = given - forecast[number], outcome - rate[number]
    return np.array(
        [
            np.square(forecast - rate)[number].mean(),
            np.square(rate - base)[number].mean(),
            base * (1 - base),
            np.square(off).mean(),
            2 * (off * away).mean(),
        ]
    )
