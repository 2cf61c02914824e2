"""What is told of the table: both accuracies under each condition, in pairs, and over all changes together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from compress_explain.comparison.scores import Score
from compress_explain.data.examples import ALL
from compress_explain.robustness.catalog import CHANGES
from compress_explain.robustness.measuring import ATTACKS, CLEAN
from compress_explain.stats import (
    mean_interval,
    paired_accuracy_interval,
    paired_bootstrap,
    rate_interval,
    unseen_rate_bound,
)

PREFIX = "robustness"
MEAN = f"{PREFIX}.mean"
_SIDES = ("original", "compressed")
_COUNTING = [name for name, change in CHANGES.items() if change.right]
_NOT_DEPLOYED = "the models in torch were attacked, since the file that will be deployed gives no gradient"


def metric_of(condition: str, strength: float) -> str:
    """
    >>> metric_of("typos", 0.05), metric_of("fgsm", 0.05)
    ('robustness.typos', 'robustness.fgsm.0.05')
    """
    return f"{PREFIX}.{condition}.{strength:g}" if condition in ATTACKS else f"{PREFIX}.{condition}"


def scores_told(measured: pd.DataFrame, confidence: float, seed: int) -> list[Score]:
    """One score a condition, and the mean over natural changes. ``confidence`` is two-sided."""
    return [*_by_condition(measured, confidence), *_mean(measured, confidence, seed)]


def conditions(measured: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Every condition that was made, with its lines, in the order of the table."""
    made = measured[measured["note"] == ""]
    for (name, strength), lines in made.groupby(["condition", "strength"], sort=False):
        yield str(name), float(strength), lines


def _by_condition(measured: pd.DataFrame, confidence: float) -> Iterator[Score]:
    for name, strength, lines in conditions(measured):
        if strength == 0 and (name == CLEAN or name in ATTACKS):
            continue
        original, compressed = (lines[f"{side}_right"].to_numpy() for side in _SIDES)
        figures = (*accuracies(original, compressed, confidence), *_rate(compressed, confidence))
        figures = figures if _finite(lines) else (math.nan,) * 6
        doubt = "" if lines["deployed"].all() else _NOT_DEPLOYED
        yield _score(metric_of(name, strength), figures, len(lines), confidence, doubt)


def accuracies(
    original: Bool[np.ndarray, " n"], compressed: Bool[np.ndarray, " n"], confidence: float
) -> tuple[float, float, float, float]:
    """Both accuracies, and the interval of their difference (Tango 1998)."""
    lost, won = int((original & ~compressed).sum()), int((~original & compressed).sum())
    return (
        float(original.mean()),
        float(compressed.mean()),
        *paired_accuracy_interval(lost, won, len(original), confidence),
    )


def _mean(measured: pd.DataFrame, confidence: float, seed: int) -> Iterator[Score]:
    natural = measured[(measured["note"] == "") & measured["condition"].isin(_COUNTING)]
    if natural.empty:
        return
    rows = natural.groupby("row")[[f"{side}_right" for side in _SIDES]].mean()
    original, compressed = (rows[f"{side}_right"].to_numpy() for side in _SIDES)
    low, high = differing(original, compressed, confidence, seed)
    own = mean_interval(compressed, confidence, seed=seed)
    if not np.ptp(compressed):  # no resample differs, which is not certainty
        own = _rate(compressed > 0.5, confidence)
    figures = (float(original.mean()), float(compressed.mean()), low, high, *own)
    yield _score(MEAN, figures if _finite(natural) else (math.nan,) * 6, len(rows), confidence, "")


def differing(
    first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], confidence: float, seed: int
) -> tuple[float, float]:
    """Of the mean of second minus first, shares both, by drawing rows; where no row differs from another, what may be unseen is added."""
    apart = second - first
    if not np.ptp(apart):
        unseen = unseen_rate_bound(len(apart), confidence)
        return float(apart[0]) - unseen, float(apart[0]) + unseen
    return paired_bootstrap(first, second, confidence, seed=seed)


def _finite(lines: pd.DataFrame) -> bool:
    probabilities: Float[np.ndarray, "n 2"] = lines[[f"{side}_probability" for side in _SIDES]].to_numpy()
    return bool(np.isfinite(probabilities).all())


def _rate(right: Bool[np.ndarray, " n"], confidence: float) -> tuple[float, float]:
    return rate_interval(int(right.sum()), len(right), confidence)


def _score(metric: str, figures: tuple[float, ...], n: int, confidence: float, doubt: str) -> Score:
    original, compressed, low, high, own_low, own_high = figures
    return Score(
        metric=metric, slice=ALL, original=original, compressed=compressed, difference=compressed - original, low=low,
        high=high, compressed_low=own_low, compressed_high=own_high, n=n, unit="share", direction="higher",
        confidence=confidence, doubt=doubt,
    )  # fmt: skip
