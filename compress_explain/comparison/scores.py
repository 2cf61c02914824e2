"""One figure of a comparison, with its interval; and the metrics that the toolkit brings along."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float

from compress_explain.comparison.confusion_scores import (
    BALANCED_ACCURACY,
    MACRO_F1,
    MACRO_PRECISION,
    MACRO_RECALL,
    MCC,
    Figure,
    of_counts,
    of_one_class,
)
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.ranking_scores import area_under_roc, average_precision, can_be_ranked
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
    bits_of_bytes,
    clustered,
    mean_of_decisions,
    rank_correlation,
)
from compress_explain.model.tasks import ONE_CLASS, TASKS
from compress_explain.stats import mean_interval, paired_accuracy_interval, paired_bootstrap, rate_interval

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


def _of_counts(name: str, figure: Figure, unit: str = "share") -> Metric:
    return Metric(name=name, unit=unit, direction="higher", measure=partial(of_counts, figure))


_METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="accuracy", unit="share", direction="higher", measure=_accuracy),
        _of_counts("macro_f1", MACRO_F1),
        Metric(name="nll", unit="nats", direction="lower", measure=_mean_of(_nll)),
        Metric(name="brier", unit="squared probability", direction="lower", measure=_mean_of(_brier)),
        Metric(name="negative_flips", unit="share", direction="lower", measure=_flips(to_wrong=True)),
        Metric(name="positive_flips", unit="share", direction="higher", measure=_flips(to_wrong=False)),
        _of_counts("balanced_accuracy", BALANCED_ACCURACY),
        _of_counts("macro_precision", MACRO_PRECISION),
        _of_counts("macro_recall", MACRO_RECALL),
        _of_counts("mcc", MCC, "correlation"),
        Metric(name="auroc", unit="share", direction="higher", measure=area_under_roc),
        Metric(name="average_precision", unit="share", direction="higher", measure=average_precision),
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
        _of_rows("bits_per_byte", "bits", "lower", bits_of_bytes(_nll)),
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
    """What can be told of these: a correlation with people only where they said something, a ranking of two classes, bits of counted bytes."""
    scored = pairs.embeddings is None or pairs.embeddings.scored
    left_out: tuple[str, ...] = () if scored else ("spearman",)
    left_out += () if pairs.text_bytes is not None else ("bits_per_byte",)
    left_out += () if can_be_ranked(pairs) else ("auroc", "average_precision")
    return tuple(metric for metric in metrics_of(pairs.task) if metric.name not in left_out)


def sliced_metrics(pairs: Pairs) -> tuple[Metric, ...]:
    """Those that are told on every slice."""
    return tuple(metric for metric in metrics_told(pairs) if metric.name in TASKS[pairs.task].sliced)


def told_of(task: str, metrics: Iterable[str]) -> set[str]:
    """Those of ``metrics`` that can be told of a task; of such as the toolkit does not know, all."""
    told = {*TASKS[task].metrics, *TASKS[task].also}
    known = {*METRIC_NAMES, *(name for each in TASKS.values() for name in each.also)}
    return {name for name in metrics if name not in known or name in told}


def class_scores(pairs: Pairs, slice_name: str, confidence: float, seed: int = 0) -> list[Score]:
    """Precision, recall and F1 of a class, where the slice holds the rows of one label and no others; else none.

    Precision and F1 look at all rows that are taken for the class, in the slice or not; ``n`` is that of the slice.
    """
    rows = pairs.slices[slice_name]
    labels = np.unique(pairs.labels[rows])
    if len(labels) != 1 or TASKS[pairs.task].decides != "row" or (pairs.labels[~rows] == labels[0]).any():
        return []
    whole = replace(pairs, slices={slice_name: np.ones_like(rows)})
    metrics = (_of_counts(name, of_one_class(int(labels[0]), name)) for name in ONE_CLASS)
    return [replace(score(whole, metric, slice_name, confidence, seed), n=int(rows.sum())) for metric in metrics]


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
