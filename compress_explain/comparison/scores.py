"""One figure of a comparison, with its interval; and the metrics that the toolkit brings along."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.metrics import f1_score

from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.row_scores import (
    COSINE,
    ENTITY_F1,
    EXACT_MATCH,
    FLIPS_TO_RIGHT,
    FLIPS_TO_WRONG,
    MEAN_RIGHT,
    OVERLAP,
    SAME_ANSWER,
    TOKEN_F1,
    OfRows,
    clustered,
    mean_of_decisions,
    rank_correlation,
)
from compress_explain.model.tasks import TASKS
from compress_explain.stats import (
    bootstrap_rows,
    mean_interval,
    paired_accuracy_interval,
    paired_bootstrap,
    rate_interval,
    unseen_rate_bound,
)

Direction = Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric of both models on one slice of one split.

    ``difference`` is compressed minus original; ``low`` and ``high`` bound it, ``compressed_low``
    and ``compressed_high`` bound the compressed model's own value, both at two-sided
    ``confidence``. ``direction`` says which way is better. ``doubt`` says why a figure cannot carry a verdict, as that
    it was modelled or that the machine was too noisy; empty where it can.
    """

    metric: str
    slice: str
    original: float
    compressed: float
    difference: float
    low: float
    high: float
    compressed_low: float
    compressed_high: float
    n: int
    unit: str
    direction: Direction
    confidence: float
    doubt: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How one metric is computed and bounded.

    ``measure`` maps pairs, a two-sided confidence and a seed to (original, compressed, low, high,
    compressed_low, compressed_high).
    """

    name: str
    unit: str
    direction: Direction
    measure: Callable[[Pairs, float, int], Figures]


Figures = tuple[float, float, float, float, float, float]


def _accuracy(pairs: Pairs, confidence: float, seed: int) -> Figures:
    n = len(pairs)
    lost = int((pairs.original_right & ~pairs.compressed_right).sum())
    won = int((~pairs.original_right & pairs.compressed_right).sum())
    low, high = paired_accuracy_interval(lost, won, n, confidence)
    right = int(pairs.compressed_right.sum())
    return (float(pairs.original_right.mean()), right / n, low, high, *rate_interval(right, n, confidence))


def _flips(
    to_wrong: bool,
) -> Callable[[Pairs, float, int], Figures]:
    def measure(pairs: Pairs, confidence: float, seed: int) -> Figures:
        before = pairs.original_right if to_wrong else ~pairs.original_right
        after = ~pairs.compressed_right if to_wrong else pairs.compressed_right
        count = int((before & after).sum())
        low, high = rate_interval(count, len(pairs), confidence)
        return 0.0, count / len(pairs), low, high, low, high

    return measure


def _mean_of(
    values: Callable[[Pairs, Float[np.ndarray, "n classes"]], Float[np.ndarray, " n"]],
) -> Callable[[Pairs, float, int], Figures]:
    def measure(pairs: Pairs, confidence: float, seed: int) -> Figures:
        original = values(pairs, pairs.original_probabilities)
        compressed = values(pairs, pairs.compressed_probabilities)
        low, high = paired_bootstrap(original, compressed, confidence, seed=seed)
        own = mean_interval(compressed, confidence, seed=seed)
        return (float(original.mean()), float(compressed.mean()), low, high, *own)

    return measure


def _nll(pairs: Pairs, probabilities: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, " n"]:
    return -np.log(np.maximum(probabilities[np.arange(len(pairs)), pairs.answers], 1e-300))


def _brier(pairs: Pairs, probabilities: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, " n"]:
    target = np.eye(probabilities.shape[1])[pairs.labels]
    return np.square(probabilities - target).sum(1)


def _macro_f1(pairs: Pairs, confidence: float, seed: int) -> Figures:
    predictions = pairs.original.argmax(1), pairs.compressed.argmax(1)
    original, compressed = (f1_score(pairs.labels, each, average="macro", zero_division=0.0) for each in predictions)
    draws = [_macro_f1_resampled(pairs.labels, each, pairs.original.shape[1], seed) for each in predictions]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(draws[1] - draws[0], tails)
    if (predictions[0] == predictions[1]).all():
        high = unseen_rate_bound(len(pairs), confidence)
        low = -high
    own_low, own_high = np.quantile(draws[1], tails)
    return float(original), float(compressed), float(low), float(high), float(own_low), float(own_high)


def _macro_f1_resampled(labels: np.ndarray, predicted: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Macro-F1 of 2,000 resamples, over the classes that occur in labels or predictions."""
    rows = bootstrap_rows(len(labels), 2000, seed)
    return np.concatenate([_macro_f1_of(labels[index], predicted[index], classes) for index in rows])


def _macro_f1_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 of each line of ``(resamples, n)`` labels and predictions."""
    f1 = np.zeros((len(labels), classes))
    seen = np.zeros((len(labels), classes), dtype=bool)
    for k in range(classes):
        truth, guess = (labels == k), (predicted == k)
        total = truth.sum(1) + guess.sum(1)
        seen[:, k] = total > 0
        f1[:, k] = 2 * (truth & guess).sum(1) / np.maximum(total, 1)
    return f1.sum(1) / np.maximum(seen.sum(1), 1)


_METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", unit="share", direction="higher", measure=_accuracy),
        Metric(name="macro_f1", unit="share", direction="higher", measure=_macro_f1),
        Metric(name="nll", unit="nats", direction="lower", measure=_mean_of(_nll)),
        Metric(name="brier", unit="squared probability", direction="lower", measure=_mean_of(_brier)),
        Metric(name="negative_flips", unit="share", direction="lower", measure=_flips(to_wrong=True)),
        Metric(name="positive_flips", unit="share", direction="higher", measure=_flips(to_wrong=False)),
    )
}
METRICS = MappingProxyType(_METRICS)


def _of_rows(name: str, unit: str, direction: Direction, figure: OfRows) -> Metric:
    """Told of rows that hold several decisions each."""
    return Metric(name=name, unit=unit, direction=direction, measure=partial(clustered, figure, unit == "share"))


_OF_SEVERAL = {
    metric.name: metric
    for metric in (
        _of_rows("accuracy", "share", "higher", MEAN_RIGHT),
        _of_rows("entity_f1", "share", "higher", ENTITY_F1),
        _of_rows("exact_match", "share", "higher", EXACT_MATCH),
        _of_rows("token_f1", "share", "higher", TOKEN_F1),
        _of_rows("agreement", "share", "higher", SAME_ANSWER),
        Metric(name="cosine", unit="cosine", direction="higher", measure=partial(clustered, COSINE, True)),
        _of_rows("overlap", "share", "higher", OVERLAP),
        Metric(name="spearman", unit="correlation", direction="higher", measure=rank_correlation),
        _of_rows("nll", "nats", "lower", mean_of_decisions(_nll)),
        _of_rows("perplexity", "perplexity", "lower", mean_of_decisions(_nll, then=np.exp)),
        _of_rows("brier", "squared probability", "lower", mean_of_decisions(_brier)),
        _of_rows("negative_flips", "share", "lower", FLIPS_TO_WRONG),
        _of_rows("positive_flips", "share", "higher", FLIPS_TO_RIGHT),
    )
}
METRIC_NAMES = tuple(dict.fromkeys((*_METRICS, *_OF_SEVERAL)))


def metrics_of(task: str) -> tuple[Metric, ...]:
    """What can be told of a task."""
    table = _METRICS if TASKS[task].decides == "row" else _OF_SEVERAL
    return tuple(table[name] for name in TASKS[task].metrics)


def metrics_told(pairs: Pairs) -> tuple[Metric, ...]:
    """What can be told of these: a correlation with what people said only where they said something."""
    scored = pairs.embeddings is None or pairs.embeddings.scored
    return tuple(metric for metric in metrics_of(pairs.task) if scored or metric.name != "spearman")


def told_of(task: str, metrics: Iterable[str]) -> set[str]:
    """Those of ``metrics`` that can be told of a task; of such as the toolkit does not know, all."""
    return {name for name in metrics if name not in METRIC_NAMES or name in TASKS[task].metrics}


def score(pairs: Pairs, metric: Metric, slice_name: str, confidence: float, seed: int = 0) -> Score:
    """Compute one metric on one slice. ``confidence`` is two-sided.

    Where a prediction is not a finite number there is no figure: every value is NaN.
    """
    rows = pairs.only(slice_name)
    own_seed = zlib.crc32(f"{seed}/{metric.name}/{slice_name}".encode())
    finite = np.isfinite(rows.original).all() and np.isfinite(rows.compressed).all()
    figures = metric.measure(rows, confidence, own_seed) if finite else (math.nan,) * 6
    original, compressed, low, high, own_low, own_high = figures
    return Score(
        metric=metric.name,
        slice=slice_name,
        original=original,
        compressed=compressed,
        difference=compressed - original,
        low=low,
        high=high,
        compressed_low=own_low,
        compressed_high=own_high,
        n=rows.independent,
        unit=metric.unit,
        direction=metric.direction,
        confidence=confidence,
    )
