"""Figures that are means over rows, told with an interval that rows are drawn for."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from compress_explain.stats import mean_interval, mean_interval_of_few, resampled_sums

_RESAMPLES = 2000
_FEW = 30  # rows, of which percentiles are too narrow


def mean_of_rows(values: Float[np.ndarray, " rows"], confidence: float, seed: int) -> tuple[float, float, float, int]:
    """The mean of the rows that have a value, its interval, and how many have.

    Of few rows the interval is Student's; of fewer than two there is none.
    """
    told = values[~np.isnan(values)]
    if len(told) < 2:
        return (float(told.mean()) if len(told) else math.nan), math.nan, math.nan, len(told)
    if len(told) < _FEW:
        return float(told.mean()), *mean_interval_of_few(told, confidence), len(told)
    return float(told.mean()), *mean_interval(told, confidence, _RESAMPLES, seed), len(told)


def ratio_of_sums(
    above: Float[np.ndarray, " rows"], below: Float[np.ndarray, " rows"], confidence: float, seed: int
) -> tuple[float, float, float, int]:
    """The sum of one thing over that of another, with the interval of rows that are drawn, and how many rows have both.

    A mean over what rows hold where ``below`` counts that (Davison and Hinkley 1997, section 3.8).
    """
    both = ~np.isnan(above) & ~np.isnan(below)
    counted = np.stack([above[both], below[both]], 1).astype(float)
    if not counted[:, 1].sum() > 0:
        return math.nan, math.nan, math.nan, int(both.sum())
    sums = resampled_sums(counted, _RESAMPLES, seed)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile(sums[:, 0] / sums[:, 1], tails)
    value = counted[:, 0].sum() / counted[:, 1].sum()
    return float(value), float(low), float(high), int(both.sum())


def means_of_rows(
    values: Float[np.ndarray, "rows figures"], confidence: float, seed: int
) -> Float[np.ndarray, "figures 3"]:
    """The means of several figures, each with its low and its high end, on the same resamples of rows.

    Intervals are those of :func:`mean_of_rows`.
    """
    if len(values) < _FEW:
        told = [mean_of_rows(each, confidence, seed)[:3] for each in values.T]
        return np.array(told, dtype=float).reshape(-1, 3)
    sums = resampled_sums(values.astype(float), _RESAMPLES, seed) / len(values)
    low, high = np.quantile(sums, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.stack([values.mean(0), low, high], 1)
