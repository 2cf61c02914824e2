"""How well the probability of the second of two classes ranks rows: area under the ROC curve, and average precision."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, rankdata

from compress_explain.comparison.predictions import Pairs
from compress_explain.stats import resampled_counts, unseen_rate_bound

Figures = tuple[float, float, float, float, float, float]


def can_be_ranked(pairs: Pairs) -> bool:
    """Whether there are two classes, and rows of both."""
    return pairs.original.shape[1] == 2 and len(np.unique(pairs.labels)) == 2


def area_under_roc(pairs: Pairs, confidence: float, seed: int) -> Figures:
    """Both areas with DeLong's intervals.

    DeLong, DeLong and Clarke-Pearson (1988): an area is a mean over rows of either class of where they stand among those of the
    other, and the two models' places are paired. The compressed model's own interval is on the logit scale, and so inside [0, 1].
    """
    if not can_be_ranked(pairs):
        return (float("nan"),) * 6
    positive = pairs.labels == 1
    places = [_places(each, positive) for each in _scores(pairs)]
    areas = [float(above.mean()) for above, _ in places]
    z = float(norm.ppf((1 + confidence) / 2))
    half = z * _error(*(second - first for first, second in zip(*places, strict=True)))
    difference = areas[1] - areas[0]
    if half == 0:
        half = unseen_rate_bound(len(pairs), confidence)
    own = _own(areas[1], z * _error(*places[1]), len(pairs), confidence)
    return areas[0], areas[1], difference - half, difference + half, *own


def average_precision(pairs: Pairs, confidence: float, seed: int) -> Figures:
    """Both average precisions (the sum over ranks of precision times the rise of recall) with paired percentile intervals."""
    if not can_be_ranked(pairs):
        return (float("nan"),) * 6
    positive = pairs.labels == 1
    orders = [_order(each) for each in _scores(pairs)]
    whole = np.ones((1, len(pairs)))
    original, compressed = (float(_precision(whole, order, ends, positive)[0]) for order, ends in orders)
    drawn = [
        np.stack([_precision(times, order, ends, positive) for order, ends in orders])
        for times in resampled_counts(len(pairs), 2000, seed)
    ]
    draws = np.concatenate(drawn, axis=1)
    unseen = unseen_rate_bound(len(pairs), confidence)
    low, high = _quantiles(compressed - original, draws[1] - draws[0], confidence, unseen)
    own_low, own_high = _quantiles(compressed, draws[1], confidence, unseen)
    return original, compressed, low, high, max(0.0, own_low), min(1.0, own_high)


def _scores(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    return tuple(logits[:, 1].astype(float) - logits[:, 0] for logits in (pairs.original, pairs.compressed))  # type: ignore[return-value]


def _places(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """For each positive row the share of negatives below it; for each negative the share of positives above. Ties count half."""
    ranks = rankdata(scores)
    below = (ranks[positive] - rankdata(scores[positive])) / max(int((~positive).sum()), 1)
    above = 1 - (ranks[~positive] - rankdata(scores[~positive])) / max(int(positive.sum()), 1)
    return below, above


def _error(of_positive: np.ndarray, of_negative: np.ndarray) -> float:
    parts = [np.var(each, ddof=1) / len(each) if len(each) > 1 else 0.25 for each in (of_positive, of_negative)]
    return float(np.sqrt(sum(parts)))


def _own(area: float, half: float, n: int, confidence: float) -> tuple[float, float]:
    if half == 0 or not 0 < area < 1:
        unseen = unseen_rate_bound(n, confidence)
        return max(0.0, area - unseen), min(1.0, area + unseen)
    middle, wide = np.log(area / (1 - area)), half / (area * (1 - area))
    low, high = (1 / (1 + np.exp(-(middle + sign * wide))) for sign in (-1, 1))
    return float(low), float(high)


def _order(scores: Float[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " kinds"]]:
    """Rows from the highest score down, and where each run of equal scores ends."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    return order, np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)


def _precision(times: np.ndarray, order: np.ndarray, ends: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Average precision of rows that occur so many times, for each line."""
    ranked = times[:, order].astype(float)
    hits = np.cumsum(ranked * positive[order], axis=1)[:, ends]
    taken = np.cumsum(ranked, axis=1)[:, ends]
    rises = np.diff(hits, axis=1, prepend=0.0)
    return np.asarray((rises * hits / np.maximum(taken, 1)).sum(1) / np.maximum(hits[:, -1], 1))


def _quantiles(value: float, draws: np.ndarray, confidence: float, unseen: float) -> tuple[float, float]:
    if np.ptp(draws) == 0:
        return value - unseen, value + unseen
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return min(float(low), value), max(float(high), value)
