"""How far two attributions of one row agree, and which pieces they name first."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata


def rank_correlation(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> float:
    """Spearman's, with mean ranks for ties; NaN where one of them tells nothing apart.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.5, 9.0]))
    1.0
    """
    ranks = np.stack([rankdata(one), rankdata(other)])
    ranks -= ranks.mean(1, keepdims=True)
    sizes = np.square(ranks).sum(1)
    return float(ranks[0] @ ranks[1] / np.sqrt(sizes[0] * sizes[1])) if sizes.all() else np.nan


def largest(
    scores: Float[np.ndarray, "batch pieces"], free: Bool[np.ndarray, "batch pieces"], count: Int[np.ndarray, " batch"]
) -> Bool[np.ndarray, "batch pieces"]:
    """Of each row the ``count`` free pieces with the largest scores; of equal ones the first.

    >>> largest(np.array([[3.0, 1.0, 2.0]]), np.array([[False, True, True]]), np.array([1])).tolist()
    [[False, False, True]]
    """
    order = np.argsort(-np.where(free, scores, -np.inf), axis=1, kind="stable")
    places = np.argsort(order, axis=1, kind="stable")
    return (places < count[:, None]) & free
