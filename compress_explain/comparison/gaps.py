"""How far apart the groups of a column lie: the accuracy of the best group minus that of the worst."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float

from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.data.examples import ALL
from compress_explain.model.tasks import TASKS
from compress_explain.stats import resampled_sums, unseen_rate_bound

ACCURACY_GAP = "accuracy_gap"
_EVERY_GROUP = "=*"


def columns_of(slices: Iterable[str]) -> dict[str, list[str]]:
    """The slices of each column that has at least two, by the name that stands for all of them.

    >>> columns_of(["all", "group=a", "group=b", "long", "age=q1"])
    {'group=*': ['group=a', 'group=b']}
    """
    found: dict[str, list[str]] = {}
    for name in slices:
        column, sign, _ = name.partition("=")
        if sign and name != ALL:
            found.setdefault(column + _EVERY_GROUP, []).append(name)
    return {column: names for column, names in found.items() if len(names) > 1}


def accuracy_gaps(pairs: Pairs, confidence: float, seed: int = 0) -> list[Score]:
    """The gap of each column, of both models, with a paired bootstrap over rows; ``confidence`` is two-sided.

    A column's slices that share rows are no groups, and have no gap; nor have fewer than two with rows in them, and nor
    has a task that is not told in accuracy. Of a resample, groups that no row was drawn of are left out.
    """
    if "accuracy" not in TASKS[pairs.task].metrics or not _finite(pairs):
        return []
    scores = []
    for column, names in columns_of(pairs.slices).items():
        members = np.stack(
            [pairs.slices[name] for name in names if pairs.slices[name].any()] or [np.zeros(len(pairs), dtype=bool)]
        )
        if len(members) > 1 and (members.sum(0) <= 1).all():
            scores.append(_gap(pairs, column, members, confidence, seed))
    return scores


def _finite(pairs: Pairs) -> bool:
    return bool(np.isfinite(pairs.original).all() and np.isfinite(pairs.compressed).all())


def _gap(pairs: Pairs, column: str, members: Bool[np.ndarray, "groups n"], confidence: float, seed: int) -> Score:
    original, compressed = (_between(right, members) for right in (pairs.original_right, pairs.compressed_right))
    before, after = _resampled(pairs, members, seed)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(after - before, tails)
    if (pairs.original_right == pairs.compressed_right).all():
        high = _unseen(members, confidence)
        low = -high
    own_low, own_high = np.quantile(after, tails)
    inside = members.any(0)
    return Score(
        metric=ACCURACY_GAP, slice=column, original=original, compressed=compressed, difference=compressed - original,
        low=float(low), high=float(high), compressed_low=float(own_low), compressed_high=float(own_high),
        n=int(inside.sum()) if pairs.owners is None else len(np.unique(pairs.owners[inside])),
        unit="share", direction="lower", confidence=confidence,
    )  # fmt: skip


def _between(right: Bool[np.ndarray, " n"], members: Bool[np.ndarray, "groups n"]) -> float:
    from fairlearn.metrics import MetricFrame  # costs time to import
    from sklearn.metrics import accuracy_score

    inside = members.any(0)
    frame = MetricFrame(
        metrics=accuracy_score, y_true=np.ones(int(inside.sum()), dtype=np.int64), y_pred=right[inside].astype(np.int64),
        sensitive_features=members[:, inside].argmax(0),
    )  # fmt: skip
    return float(frame.difference())


def _resampled(
    pairs: Pairs, members: Bool[np.ndarray, "groups n"], seed: int
) -> tuple[Float[np.ndarray, " resamples"], Float[np.ndarray, " resamples"]]:
    """The gap of both models on 2,000 resamples, of the same rows."""
    groups = len(members)
    each = np.concatenate([members & pairs.original_right, members & pairs.compressed_right, members]).astype(float)
    sums = resampled_sums(_by_owner(pairs, each).T, seed=seed)
    counts = np.where(sums[:, 2 * groups :] > 0, sums[:, 2 * groups :], math.nan)
    before, after = (sums[:, start : start + groups] / counts for start in (0, groups))
    return (np.nanmax(before, 1) - np.nanmin(before, 1), np.nanmax(after, 1) - np.nanmin(after, 1))


def _by_owner(pairs: Pairs, each: Float[np.ndarray, "sums n"]) -> Float[np.ndarray, "sums owners"]:
    """Sums over what is not independent, as the decisions of one row."""
    if pairs.owners is None:
        return each
    numbers = np.unique(pairs.owners, return_inverse=True)[1]
    return np.stack([np.bincount(numbers, weights=line) for line in each])


def _unseen(members: Bool[np.ndarray, "groups n"], confidence: float) -> float:
    """What the gap may change by when nothing was seen to: two groups, the smallest, moving apart as far as they may."""
    smallest = np.sort(members.sum(1))[:2]
    return float(min(1.0, sum(unseen_rate_bound(int(n), confidence) for n in smallest)))
