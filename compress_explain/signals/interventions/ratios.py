"""Several ratios of sums over decisions, with intervals of rows that are drawn."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from compress_explain.stats import resampled_sums

_RESAMPLES = 2000


def ratios_of_sums(
    parts: Float[np.ndarray, "figures n"],
    whole: Float[np.ndarray, " n"],
    rows: Int[np.ndarray, " n"],
    confidence: float,
    seed: int,
) -> Float[np.ndarray, "figures 3"]:
    """The sum of each part over that of the whole, which is nowhere negative, with its low and its high end.

    Percentiles of the same ratio of whole rows that are drawn, the same ones for all figures (the cluster bootstrap, Davison and
    Hinkley 1997, section 3.8). All NaN where the whole is 0; no ends of one row, nor where a twentieth of the resamples have no whole.

    >>> import numpy as np
    >>> ratios_of_sums(np.array([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]]), np.ones(3), np.array([0, 0, 1]), 0.9, 0)[:, 0].round(2).tolist()
    [2.33, 1.0]
    """
    numbers = np.unique(rows, return_inverse=True)[1]
    counted = np.stack([np.bincount(numbers, weights=each) for each in (*parts, whole)], 1)
    told = np.full((len(parts), 3), np.nan)
    totals = counted.sum(0)
    if not totals[-1] > 0:
        return told
    told[:, 0] = totals[:-1] / totals[-1]
    if len(counted) < 2:
        return told
    sums = resampled_sums(counted, _RESAMPLES, seed)
    some = sums[:, -1] > 0
    if some.mean() >= 0.95:
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        told[:, 1:] = np.quantile(sums[some, :-1] / sums[some, -1:], tails, axis=0).T
    return told
