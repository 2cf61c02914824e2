"""Partial rank correlation: what a score says of a loss beyond what is known already, one sample or many resamples at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

_NOTHING = 1e-10  # of a variance: what is left when the covariates say all, but for rounding


def partial_spearman(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], covariates: Sequence[Float[np.ndarray, " n"]]
) -> float:
    """Spearman's correlation of ``x`` and ``y`` given ``covariates``, in [-1, 1].

    All are replaced by their average ranks; from those of ``x`` and ``y`` goes what a least-squares fit with intercept on those
    of the covariates gives, and what is left is correlated (Pearson). That is −P₁₂/√(P₁₁P₂₂) for P the inverse of the matrix
    of rank correlations. Without covariates it is Spearman's correlation. NaN where covariates leave nothing of one of the two.

    >>> import numpy as np
    >>> known = np.arange(8.0)
    >>> round(partial_spearman(known + [0, 3, 0, 3, 0, 3, 0, 3], -known, [known[::-1] ** 3]), 3)
    nan
    >>> partial_spearman(np.arange(5.0), np.exp(np.arange(5.0)), [])
    1.0

    Raises:
        ValueError: fewer than three values, arrays of different lengths, or values that are not finite.
    """
    columns = [np.asarray(each, dtype=float) for each in (x, y, *covariates)]
    if len({each.shape for each in columns}) != 1 or columns[0].ndim != 1 or len(columns[0]) < 3:
        raise ValueError(f"expected arrays of one length of at least 3, got {[each.shape for each in columns]}")
    if not all(np.isfinite(each).all() for each in columns):
        raise ValueError("ranks of values that are not finite numbers mean nothing")
    ranks = np.column_stack([rankdata(each) for each in columns])
    ranks = (ranks - ranks.mean(0)) / len(ranks)
    two, given = ranks[:, :2], ranks[:, 2:]
    left = two if not given.shape[1] else two - given @ np.linalg.lstsq(given, two, rcond=None)[0]
    power, before = np.square(left).sum(0), np.square(two).sum(0)
    if (power <= _NOTHING * np.maximum(before, 1e-30)).any():
        return math.nan
    return float(np.clip(left[:, 0] @ left[:, 1] / math.sqrt(power[0] * power[1]), -1.0, 1.0))


def resampled_partial_spearman(
    columns: Sequence[Float[np.ndarray, " n"]], counts: Int[np.ndarray, "resamples n"]
) -> Float[np.ndarray, " resamples"]:
    """:func:`partial_spearman` of samples in which each value stands so often: ``columns`` are x, y and the covariates.

    Ranks are those within each sample. NaN where covariates leave nothing.
    """
    weights = counts.astype(float)
    ranks = np.stack([_ranks_within(np.asarray(each, dtype=float), weights) for each in columns], -1)
    total = weights.sum(1)[:, None, None]
    centred = ranks - (weights[:, :, None] * ranks).sum(1, keepdims=True) / total
    products = np.einsum("bn,bni,bnj->bij", weights, centred, centred, optimize=True)
    spread = np.sqrt(np.maximum(np.einsum("bii->bi", products), 1e-30))
    related = products / (spread[:, :, None] * spread[:, None, :])
    return _given(related)


def _given(related: Float[np.ndarray, "resamples k k"]) -> Float[np.ndarray, " resamples"]:
    """The first two of correlated variables given the others."""
    two, given = related[:, :2, :2], related[:, 2:, 2:]
    across = related[:, :2, 2:]
    left = two - across @ np.linalg.pinv(given, hermitian=True) @ across.transpose(0, 2, 1) if given.shape[1] else two
    power = left[:, 0, 0] * left[:, 1, 1]
    fine = (left[:, 0, 0] > _NOTHING) & (left[:, 1, 1] > _NOTHING)
    return np.where(fine, left[:, 0, 1] / np.sqrt(np.where(fine, power, 1.0)), math.nan)


def _ranks_within(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, "resamples n"]
) -> Float[np.ndarray, "resamples n"]:
    """Average ranks of values that stand so often in each sample."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    below = np.cumsum(held, 1) - held
    ranks: np.ndarray = (below + (held + 1) / 2)[:, group]
    return ranks
