"""Intervals for paired comparisons. Every function names its source and returns plain floats."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.stats import beta, norm, t

from compress_explain.comparison.binned import debiased_squared, equal_mass_bins, signed_root

_AT_ONCE = 2_000_000  # rows drawn in memory at a time
_ROUNDING = 1e-9  # what differences of one size are off by, at most


def paired_accuracy_interval(
    only_original_right: int, only_compressed_right: int, n: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Score interval of the accuracy difference, compressed minus original, on the same n examples.

    Tango (1998), "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design". Where no example was decided differently that interval is too
    narrow, and the exact bound on a rate of which nothing was seen takes its place.

    >>> low, high = paired_accuracy_interval(12, 8, 872)
    >>> round(low, 4), round(high, 4)
    (-0.0158, 0.006)
    >>> paired_accuracy_interval(0, 0, 60, confidence=0.90)[1]  # doctest: +ELLIPSIS
    0.048...

    Raises:
        ValueError: counts that do not fit n, or a confidence outside (0, 1).
    """
    lost, won = only_original_right, only_compressed_right
    if min(lost, won) < 0 or n < max(1, lost + won):
        raise ValueError(f"{lost} + {won} differing examples do not fit n = {n}")
    _check_confidence(confidence)
    if lost + won == 0:
        bound = unseen_rate_bound(n, confidence)
        return -bound, bound
    z = norm.ppf((1 + confidence) / 2)
    estimate = (won - lost) / n

    def distance(difference: float) -> float:
        return abs(_tango_statistic(difference, lost, won, n)) - z

    edge = 1 - 1e-12
    low = -1.0 if distance(-edge) < 0 else brentq(distance, -edge, estimate)
    high = 1.0 if distance(edge) < 0 else brentq(distance, estimate, edge)
    return float(low), float(high)


def unseen_rate_bound(n: int, confidence: float = 0.95) -> float:
    """Upper bound of a rate of which 0 cases were seen in n, for a two-sided confidence.

    The exact binomial (Clopper-Pearson) bound 1 - (alpha/2)^(1/n), alpha = 1 - confidence.

    >>> round(unseen_rate_bound(60, 0.90), 4)
    0.0487
    """
    _check_confidence(confidence)
    return 1 - ((1 - confidence) / 2) ** (1 / n)


def rate_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate (Clopper and Pearson 1934).

    >>> rate_interval(0, 60, 0.90)[0]
    0.0
    """
    _check_confidence(confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, n - count + 1))
    high = 1.0 if count == n else float(beta.ppf(1 - tail, count + 1, n - count))
    return low, high


def paired_bootstrap(
    original: Float[np.ndarray, " n"],
    compressed: Float[np.ndarray, " n"],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of mean(compressed - original) over examples (Efron 1979), made for changes that are rare.

    Percentiles of resampled means are too narrow when few examples carry the difference: one more such example, or one
    fewer, would move them. Three things stand against that. Where no example differs, the bound on the share of
    examples that could differ unseen, times the spread of the values, is returned. Where all that differ do so by one size, as
    right and wrong do, they are counts, and :func:`paired_accuracy_interval` of those counts, times the size, is returned.
    Otherwise the percentiles are stretched around the mean: by Student's t over the normal quantile, and to the
    variance that there would be with half of one more example as far off as the furthest that was seen.

    >>> import numpy as np
    >>> low, high = paired_bootstrap(np.zeros(100), np.arange(100) / 100, confidence=0.9)
    >>> low < 0.495 < high
    True

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    _check_confidence(confidence)
    difference = np.asarray(compressed, dtype=float) - np.asarray(original, dtype=float)
    if not difference.any():
        bound = unseen_rate_bound(len(difference), confidence) * max(float(np.ptp(original)), 1e-12)
        return -bound, bound
    sizes = np.abs(difference[difference != 0])
    if np.ptp(sizes) <= _ROUNDING * sizes.max():
        lost, won = int((difference < 0).sum()), int((difference > 0).sum())
        low, high = paired_accuracy_interval(lost, won, len(difference), confidence)
        return low * float(sizes.max()), high * float(sizes.max())
    mean = float(difference.mean())
    stretch = _stretch(difference, confidence)
    low, high = mean_interval(difference, confidence, resamples, seed)
    return mean + stretch * (low - mean), mean + stretch * (high - mean)


def _stretch(values: Float[np.ndarray, " n"], confidence: float) -> float:
    """How much wider than a percentile interval one is that allows for what was not seen; goes to 1 with n."""
    n, tail = len(values), (1 + confidence) / 2
    spread = float(np.square(values - values.mean()).sum())
    if n < 2 or not spread > 0:
        return 1.0
    student = t.ppf(tail, n - 1) / norm.ppf(tail) * math.sqrt(n / (n - 1))
    return float(student * math.sqrt(1 + float(np.abs(values).max()) ** 2 / 2 / spread))


def debiased_ece(
    probabilities: Float[np.ndarray, "n classes"] | Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    bins: int = 15,
) -> float:
    """How far confidence lies from accuracy, without the noise of counting: the debiased L2 calibration error, with its sign.

    Kumar, Liang and Ma (2019), "Verified uncertainty calibration", the debiased estimator. Examples are put in bins of equal
    mass by the probability of the class that is likeliest, or of the positive class where ``probabilities`` is ``(n,)``. From the squared gap
    of each bin goes what chance alone would make of it, a(1 - a)/(m - 1) for an accuracy a of m examples. What is left, weighted by
    m/n, estimates the squared error of the binned confidences without bias and falls below 0 about as often as above for a model that is calibrated;
    its root is returned, negative where it is negative. A bin of one example tells nothing and is left out.

    >>> import numpy as np
    >>> sure = np.full(200, 0.95)
    >>> round(debiased_ece(sure, np.arange(200) % 2), 2)
    0.45
    >>> debiased_ece(np.full(200, 0.5), np.arange(200) % 2) < 0
    True

    Raises:
        ValueError: labels that are not classes, shapes that do not fit, or no bins.
    """
    given, right = _confidence_and_outcome(np.asarray(probabilities, dtype=float), np.asarray(labels), bins)
    number = equal_mass_bins(given, bins)
    sums = [np.bincount(number, weights=each) for each in (np.ones(len(given)), given, right)]
    return float(signed_root(debiased_squared(*sums)))


def _confidence_and_outcome(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    classes = 2 if probabilities.ndim == 1 else probabilities.shape[1]
    if bins < 1 or len(labels) == 0 or len(labels) != len(probabilities):
        raise ValueError(f"{len(probabilities)} probabilities, {len(labels)} labels and {bins} bins do not fit")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    if probabilities.ndim == 1:
        return probabilities, labels.astype(float)
    return probabilities.max(1), (probabilities.argmax(1) == labels).astype(float)


def mean_interval(
    values: Float[np.ndarray, " n"], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean."""
    means = np.concatenate([values[rows].mean(1) for rows in bootstrap_rows(len(values), resamples, seed)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_rows(n: int, resamples: int, seed: int) -> Iterator[Int[np.ndarray, "some n"]]:
    """Row numbers drawn with replacement, one line a resample, a few resamples at a time."""
    generator = np.random.default_rng(seed)
    some = max(1, _AT_ONCE // n)
    for start in range(0, resamples, some):
        yield generator.integers(0, n, (min(some, resamples - start), n), dtype=np.int32)


def resampled_sums(
    counted: Float[np.ndarray, "rows sums"], resamples: int = 2000, seed: int = 0
) -> Float[np.ndarray, "resamples sums"]:
    """Sums over rows that are drawn with replacement, whole rows at a time: what stands in one row is not independent.

    A ratio of two of them is a mean over what the rows hold (the cluster bootstrap, Davison and Hinkley
    1997, section 3.8).
    """
    return np.concatenate([times @ counted for times in resampled_counts(len(counted), resamples, seed)])


def resampled_counts(n: int, resamples: int, seed: int) -> Iterator[Int[np.ndarray, "some n"]]:
    """How often each row is drawn, one line a resample, a few resamples at a time."""
    for rows in bootstrap_rows(n, resamples, seed):
        numbers = rows + n * np.arange(len(rows))[:, None]
        yield np.bincount(numbers.ravel(), minlength=numbers.size).reshape(numbers.shape)


def mean_interval_of_few(values: Float[np.ndarray, " n"], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of a few repeated measurements, too few to be drawn from (Student 1908).

    >>> low, high = mean_interval_of_few(np.array([1.0, 2.0, 3.0]), 0.90)
    >>> round(low, 2), round(high, 2)
    (0.31, 3.69)

    Raises:
        ValueError: fewer than two values.
    """
    _check_confidence(confidence)
    if len(values) < 2:
        raise ValueError("one measurement has no interval")
    half = float(t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def mean_interval_of_rows(
    values: Float[np.ndarray, " n"],
    rows: Int[np.ndarray, " n"],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean of values of which several stand in one row; rows are drawn."""
    numbers = np.unique(rows, return_inverse=True)[1]
    counted = np.stack([np.bincount(numbers, weights=values), np.bincount(numbers)], 1)
    sums = resampled_sums(counted, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [tail, 1 - tail])
    return float(low), float(high)


def _tango_statistic(difference: float, lost: int, won: int, n: int) -> float:
    """Score statistic for H0: p(won) - p(lost) = difference.

    p(lost) under H0 maximises the trinomial likelihood; the score equation is the quadratic below.
    """
    a = 2 * n
    b = -lost - won + (2 * n - won + lost) * difference
    c = -lost * difference * (1 - difference)
    p_lost = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * p_lost + difference * (1 - difference))
    gap = won - lost - n * difference
    return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
