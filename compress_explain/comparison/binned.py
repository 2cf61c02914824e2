"""Examples in bins of what a model is sure of: where the bins end, and what their sums say."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def equal_width_bins(values: Float[np.ndarray, " n"], bins: int) -> Int[np.ndarray, " n"]:
    """The bin of each value of [0, 1], all bins as wide; a value between two stands in the upper one.

    >>> equal_width_bins(np.array([0.0, 0.49, 0.5, 1.0]), 2)
    array([0, 0, 1, 1])
    """
    return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], values, side="right")


def equal_mass_bins(values: Float[np.ndarray, " n"], bins: int) -> Int[np.ndarray, " n"]:
    """The bin of each value, between quantiles of them all; equal values share a bin, so that some may stay empty.

    >>> equal_mass_bins(np.array([0.7, 0.8, 0.9, 0.99]), 2)
    array([0, 0, 1, 1])
    """
    return np.searchsorted(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]), values, side="right")


def debiased_squared(
    count: Float[np.ndarray, "*many bins"],
    confidence: Float[np.ndarray, "*many bins"],
    right: Float[np.ndarray, "*many bins"],
) -> Float[np.ndarray, "*many"]:
    """The debiased squared calibration error (Kumar, Liang and Ma 2019) of sums over bins.

    ``count`` is of examples, ``confidence`` and ``right`` are sums over them. A bin of one example is left out.
    """
    known = count > 1
    m = np.where(known, count, 2.0)
    accuracy = right / m
    squared = np.square(confidence / m - accuracy) - accuracy * (1 - accuracy) / (m - 1)
    return np.asarray(np.where(known, count * squared, 0.0).sum(-1) / count.sum(-1))


def squared_gap(
    count: Float[np.ndarray, "*many bins"], gap: Float[np.ndarray, "*many bins"]
) -> Float[np.ndarray, "*many"]:
    """The mean squared gap of the bins, weighted by their examples; ``gap`` sums confidence minus outcome."""
    return np.asarray((np.square(gap) / np.maximum(count, 1.0)).sum(-1))


def signed_root(squared: Any) -> Any:
    """The root, negative where what it is of is negative.

    >>> float(signed_root(0.25)), float(signed_root(-0.04))
    (0.5, -0.2)
    """
    return np.sign(squared) * np.sqrt(np.abs(squared))
